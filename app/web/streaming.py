"""Answers that are larger than what memory should hold: sent in parts, as they are made."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping

from aiohttp import web

from app.domain.errors import AppError

log = logging.getLogger(__name__)


async def stream(request: web.Request, parts: AsyncIterator[bytes], headers: Mapping[str, str]) -> web.StreamResponse:
    """Send the parts. Raises the error of the first one, before anything is sent.

    A later error cuts the connection, so that nobody takes the begin of a file for all of it.
    """
    first = await anext(parts, b"")
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    try:
        await response.write(first)
        async for part in parts:
            await response.write(part)
        await response.write_eof()
    except AppError as failed:
        log.warning("an answer was cut off: %s", failed.detail)
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError from failed
    return response
