"""Compressed answers, where the client takes gzip and compressing gives nothing away.

Only answers to GET and HEAD are compressed. No such answer holds a secret as plaintext: revealed secrets, tokens,
recovery codes and links are answers to POST. The token of the forms, which stands in pages beside text that an address
may have brought, has another mask in every page (``form_token``). So the length of an answer shows nothing of it
(BREACH).
"""

from __future__ import annotations

import asyncio
import gzip
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
    headers, content = response.headers, response.body
    media_type = headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0]
    if media_type not in _TYPES or not isinstance(content, bytes) or hdrs.ETAG in headers:
        return
    negotiated = hdrs.ACCEPT_ENCODING in headers.get(hdrs.VARY, "")  # by the handler itself
    if negotiated or hdrs.CONTENT_ENCODING in headers or len(content) < _LEAST:
        return
    vary(response, hdrs.ACCEPT_ENCODING)
    if not takes_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, "")):
        return
    smaller = compressed(content) if len(content) < _BLOCKING else await asyncio.to_thread(compressed, content)
    response.body = smaller
    headers[hdrs.CONTENT_ENCODING] = "gzip"


def vary(response: web.StreamResponse, header: str) -> None:
    """Name a request header on which the answer depends."""
    named = response.headers.get(hdrs.VARY)
    response.headers[hdrs.VARY] = header if named is None else f"{named}, {header}"
