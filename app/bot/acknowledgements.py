"""Acknowledgements to which Discord gave no clear answer: it may have taken one and answered 502, or nothing at all.

The library repeats the call after a 5xx and receives the error that the interaction is acknowledged already: the same
as for an interaction that another process serves. Only the unclear answer to the first attempt distinguishes them.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from types import SimpleNamespace
from typing import Final

import aiohttp

_CALLBACK = re.compile(r".*/interactions/([0-9]+)/[^/]+/callback", re.ASCII)
_REMEMBERED: Final = 1024


class Acknowledgements:
    """Watches the calls of one connected bot through ``trace``."""

    def __init__(self) -> None:
        self._unclear: OrderedDict[int, None] = OrderedDict()
        self.trace: Final = aiohttp.TraceConfig()
        self.trace.on_request_end.append(self._ended)
        self.trace.on_request_exception.append(self._failed)

    def unclear(self, interaction_id: int) -> bool:
        """Whether an attempt to acknowledge this interaction got no clear answer."""
        return interaction_id in self._unclear

    async def _ended(self, _: aiohttp.ClientSession, __: SimpleNamespace, ended: aiohttp.TraceRequestEndParams) -> None:
        if ended.response.status >= 500:
            self._note(ended.url.path)

    async def _failed(
        self, _: aiohttp.ClientSession, __: SimpleNamespace, failed: aiohttp.TraceRequestExceptionParams
    ) -> None:
        self._note(failed.url.path)

    def _note(self, path: str) -> None:
        if match := _CALLBACK.fullmatch(path):
            self._unclear[int(match[1])] = None
            if len(self._unclear) > _REMEMBERED:
                self._unclear.popitem(last=False)
