"""Answers that are larger than what memory should hold: sent in parts, as they are made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from aiohttp import web


async def stream(request: web.Request, parts: AsyncIterator[bytes], headers: Mapping[str, str]) -> web.StreamResponse:
    """Send the parts. Raises the error of the first one, before anything is sent.

    A later one cuts the connection (middleware.py), so that nobody takes the begin of a file for all of it.
    """
    first = await anext(parts, b"")
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    await response.write(first)
    async for part in parts:
        await response.write(part)
    await response.write_eof()
    return response
