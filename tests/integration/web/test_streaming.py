"""Answers that are sent in parts: what fails on the way is never taken for the whole."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from types import ModuleType

import pytest
from aiohttp import web

from app.domain.errors import StorageError
from app.web import WebOptions
from app.web.streaming import stream
from tests.support.web import Site, raw, served

pytestmark = pytest.mark.asyncio(loop_scope="module")


class _Broken(ModuleType):
    """An extension with two streams that fail after their first part."""

    @staticmethod
    def setup(app: web.Application) -> None:
        for path, error in (("/breaks", ValueError("a bug")), ("/loses-its-database", StorageError())):
            app.router.add_get(path, _failing(error))


def _failing(error: Exception) -> type[web.View]:
    async def parts() -> AsyncIterator[bytes]:
        yield b"the first part"
        raise error

    class Failing(web.View):
        async def get(self) -> web.StreamResponse:
            return await stream(self.request, parts(), {"Content-Type": "text/plain"})

    return Failing


@pytest.mark.parametrize("path", ["/breaks", "/loses-its-database"])
async def test_an_error_after_the_head_cuts_the_connection_instead_of_answering_twice(
    site: Site, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "broken_streams", _Broken("broken_streams"))
    async with served(site.services, WebOptions(extensions=("broken_streams",))) as broken:
        host = broken.url.removeprefix("http://")
        received = b""
        try:
            received = await raw(broken, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        except ConnectionResetError:
            return
    assert received.count(b"HTTP/1.1") == 1
    assert not received.endswith(b"0\r\n\r\n")
