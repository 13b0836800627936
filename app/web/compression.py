"""Compressed answers, where the client takes gzip and compressing gives nothing away.

Only answers to GET and HEAD are compressed: revealed secrets, tokens, recovery codes and links are answers to POST. The
one page of a secret that is opened by GET, that of a new second factor, says ``no-transform``. The token of the forms,
which stands in pages beside text that an address may have brought, has another mask in every page (``form_token``). So
the length of an answer shows nothing of a secret (BREACH).
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web

_LEAST: Final = 1024
"""Bytes below which compressing saves no packet."""
_BLOCKING: Final = 64 * 1024
"""Bytes above which compressing is left to a thread: some milliseconds."""
_LEVEL: Final = 6
_TYPES: Final = frozenset(
    {"text/html", "text/css", "text/javascript", "image/svg+xml", "application/json", "application/problem+json"}
)


def compressed(content: bytes) -> bytes:
    """The content as gzip, the same for the same content."""
    return gzip.compress(content, compresslevel=_LEVEL, mtime=0)


def takes_gzip(accept_encoding: str) -> bool:
    """Whether that header accepts gzip (RFC 9110, 12.5.3)."""
    accepted: dict[str, bool] = {}
    for part in accept_encoding[:1000].lower().split(","):
        coding, _, parameters = part.partition(";")
        weight = parameters.replace(" ", "").removeprefix("q=")
        accepted[coding.strip()] = weight.strip("0.") != "" if parameters else True
    return accepted.get("gzip", accepted.get("*", False))


async def compress(request: web.Request, response: web.StreamResponse) -> None:
    """Compress an answer before it is sent, if it gets smaller by that.

    An answer with an ETag stays as it is: the tag names these very bytes, and such answers are small.
    """
    if not isinstance(response, web.Response) or request.method not in {hdrs.METH_GET, hdrs.METH_HEAD}:
        return
    content = response.body
    if not isinstance(content, bytes) or len(content) < _LEAST or not _compressible(response.headers):
        return
    vary(response, hdrs.ACCEPT_ENCODING)
    if not takes_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, "")):
        return
    smaller = compressed(content) if len(content) < _BLOCKING else await asyncio.to_thread(compressed, content)
    response.body = smaller
    response.headers[hdrs.CONTENT_ENCODING] = "gzip"


def _compressible(headers: Mapping[str, str]) -> bool:
    return (
        headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0] in _TYPES
        and "no-transform" not in headers.get(hdrs.CACHE_CONTROL, "")
        and hdrs.ACCEPT_ENCODING not in headers.get(hdrs.VARY, "")  # the handler has chosen already
        and hdrs.CONTENT_ENCODING not in headers
        and hdrs.ETAG not in headers
    )


def vary(response: web.StreamResponse, header: str) -> None:
    """Name a request header on which the answer depends."""
    named = response.headers.get(hdrs.VARY)
    response.headers[hdrs.VARY] = header if named is None else f"{named}, {header}"
