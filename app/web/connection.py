"""One connection: a deadline for the head of every request, and an answer of Keyhall's own to unparseable input."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo

from app.domain.errors import AppError
from app.web.problems import MalformedRequest, Unexpected, as_app_error, problem_body, status_of

log = logging.getLogger(__name__)

_CLIENT_LEFT: Final = (ConnectionError, RequestPayloadError, HttpProcessingError)
"""Errors of a connection or a body that the client ended early, and of a malformed body that nobody needs."""
SPOKEN_MAJOR: web.RequestKey[int] = web.RequestKey("keyhall.spoken_major", int)
"""The major version of HTTP that a request named, where it is not 1."""
HEAD_SECONDS: Final = 10.0
"""How long the head of a request may take to arrive."""


class Connection(web.RequestHandler):
    """The protocol of one connection; ``headers`` stand on the answers that no application makes."""

    __slots__ = ("_deadline", "_handling", "_headers", "_unparsed")

    def __init__(self, server: web.Server, headers: tuple[tuple[str, str], ...], **options: Any) -> None:
        super().__init__(server, **options)
        self._headers = headers
        self._deadline: asyncio.TimerHandle | None = None
        self._handling = False
        self._unparsed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the first head its deadline."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Give the next head its deadline when its first bytes arrive, unless all of it did."""
        if self._unparsed:
            return
        super().data_received(data)
        if self._messages:
            self._stop_at_unparsed()
        elif self._deadline is None and not self._handling:
            self._await_head()

    def _stop_at_unparsed(self) -> None:
        """Read nothing more after input that is no HTTP: aiohttp would queue an error for each read, with its input.

        One error is kept, without the input, and answered when its turn comes.
        """
        message, payload = self._messages[-1]
        if isinstance(message, _ErrInfo):
            self._unparsed = True
            self._messages[-1] = (_ErrInfo(status=message.status, exc=MalformedRequest(), message=""), payload)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel the deadline."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def head_arrived(self) -> None:
        """Note that a whole head arrived: its request is about to be handled."""
        self._cancel_deadline()
        self._handling = True

    def _await_head(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.force_close)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - nothing of it is repeated
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the input
    ) -> web.StreamResponse:
        """Answer input that never reached the application; aiohttp's own answer repeats part of the input."""
        if status < 500:
            return _Unparsed()
        level = logging.DEBUG if isinstance(exc, _CLIENT_LEFT) else logging.ERROR
        log.log(level, "a request failed outside the application", exc_info=exc)
        return self._refusal(Unexpected())

    def log_exception(self, *said: Any, **details: Any) -> None:
        """Log what failed outside the application; that a client left early is no failure."""
        if isinstance(details.get("exc_info"), _CLIENT_LEFT):
            self.log_debug(*said, **details)
        else:
            super().log_exception(*said, **details)

    def _refusal(self, error: AppError) -> web.Response:
        headers = {"Content-Type": "application/problem+json", **dict(self._headers)}
        response = web.Response(status=status_of(type(error)), body=problem_body(error, ""), headers=headers)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write the response. A refusal that aiohttp makes itself (an unknown Expect) becomes a problem as well."""
        try:
            if type(resp) is not web.Response:
                if isinstance(resp, _Unparsed):
                    self._write_unparsed()
                    return resp, True
                if isinstance(resp, web.HTTPException):
                    resp = self._refusal(as_app_error(resp))
            return await super().finish_response(request, resp, start_time)
        finally:
            self._handling = False

    def _write_unparsed(self) -> None:
        """Unparseable input has no request object, so write the response to the socket directly."""
        if self.transport is None:
            return
        body = problem_body(MalformedRequest(), "")
        headers = {**dict(self._headers), "Content-Type": "application/problem+json", "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(
            f"HTTP/1.1 400 Bad Request\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body
        )


class _Unparsed(web.Response):
    """Stands for the answer to input that could not be parsed."""
