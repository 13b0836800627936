"""The application, and serving it on a socket that was bound before anything else was tried."""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

from app.domain.errors import AppError, ConfigInvalid
from app.services import Services
from app.web.api import auth, credentials, documentation, keys, probes
from app.web.bodies import LARGEST_BODY
from app.web.headers import standing_headers
from app.web.metrics import METRICS, Metrics
from app.web.middleware import ERROR_PAGE, add_default_headers, gate
from app.web.options import SERVICES, WebOptions
from app.web.origin import ORIGIN, Origin
from app.web.pages import credentials as credential_pages
from app.web.pages import dashboard, login, static
from app.web.pages.rendering import TEMPLATES, error_page, templates
from app.web.pages.static import ASSETS, Assets
from app.web.problems import MalformedRequest, Unexpected, as_app_error, problem_body, status_of

log = logging.getLogger(__name__)

HEAD_SECONDS: Final = 10.0
"""How long the head of a request may take to arrive."""
IDLE_SECONDS: Final = 75.0
"""How long a connection may idle: longer than proxies keep theirs, so that none is closed under a request."""
DRAIN_SECONDS: Final = 8.0
"""How long requests in progress may take once the process is asked to end, which it must within ten."""
_BACKLOG: Final = 1024

_FAMILIES: Final = (
    auth.routes,
    credentials.routes,
    keys.routes,
    probes.routes,
    dashboard.routes,
    login.routes,
    credential_pages.routes,
    static.routes,
    documentation.routes,
)


def build_app(services: Services, options: WebOptions) -> web.Application:
    """Everything that is served. Raises ConfigInvalid for an extension that cannot be set up."""
    app = web.Application(middlewares=[gate], client_max_size=LARGEST_BODY)
    app[SERVICES] = services
    app[ORIGIN] = Origin(options)
    app[METRICS] = Metrics()
    app[ASSETS] = Assets()
    app[TEMPLATES] = templates(options.invite_url)
    app[ERROR_PAGE] = error_page
    for routes in _FAMILIES:
        routes.add_to(app)
    endpoints = [endpoint for routes in _FAMILIES for endpoint in routes.endpoints]
    app[documentation.DOCUMENT] = documentation.Document(endpoints, options.public_url, app[ORIGIN].cookie_name)
    for name in options.extensions:
        _extend(app, name)
    add_default_headers(app)
    return app


def _extend(app: web.Application, name: str) -> None:
    try:
        setup = importlib.import_module(name).setup
    except (ImportError, AttributeError) as error:
        raise ConfigInvalid(
            f"WEB_EXTENSIONS: {name} cannot be used: {error}",
            remedy="name an importable module that has a function setup(app), or leave it out",
        ) from error
    setup(app)


@asynccontextmanager
async def serving(app: web.Application, sock: socket.socket) -> AsyncIterator[None]:
    """Listen on a socket that is bound already; at the end stop listening, finish what is in progress, and close.

    No acknowledged request is cut off, and nothing waits for longer than ten seconds.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_SECONDS)
    await runner.setup()
    server = runner.server
    assert server is not None  # noqa: S101 - setup() made it
    standing = standing_headers(https=app[ORIGIN].https)
    loop = asyncio.get_running_loop()

    def connection() -> _Connection:
        return _Connection(
            server,
            standing,
            loop=loop,
            access_log=None,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=2.0,
            auto_decompress=False,
            logger=log,
        )

    def begin(message: Any, payload: Any, protocol: _Connection, writer: Any, task: Any) -> web.BaseRequest:
        protocol.head_arrived()
        return make_request(message, payload, protocol, writer, task)

    make_request = server.request_factory
    server.request_factory = begin  # type: ignore[assignment]
    listener = await loop.create_server(connection, sock=sock, backlog=_BACKLOG)
    try:
        yield
    finally:
        listener.close()
        await runner.cleanup()


class _Connection(web.RequestHandler):
    """One connection: a deadline for every head, and our own answers to what is no HTTP."""

    __slots__ = ("_deadline", "_handling", "_standing")

    def __init__(self, server: web.Server, standing: tuple[tuple[str, str], ...], **options: Any) -> None:
        super().__init__(server, **options)
        self._standing = standing
        self._deadline: asyncio.TimerHandle | None = None
        self._handling = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and not self._handling:
            self._await_head()
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def head_arrived(self) -> None:
        """A whole head is there, and its request is about to be handled."""
        self._forget_deadline()
        self._handling = True

    def _await_head(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.force_close)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - nothing of it is repeated
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes what was sent
    ) -> web.StreamResponse:
        """An answer of ours to what never reached the application; aiohttp's own repeats part of what was sent."""
        if status < 500:
            return _Unparsed()
        log.error("a request failed outside the application", exc_info=exc)
        return self._refusal(Unexpected())

    def _refusal(self, error: AppError) -> web.Response:
        headers = {"Content-Type": "application/problem+json", **dict(self._standing)}
        response = web.Response(status=status_of(type(error)), body=problem_body(error, ""), headers=headers)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write the answer. What aiohttp refuses before the middleware (an unknown Expect) gets our form as well."""
        try:
            if isinstance(resp, _Unparsed):
                self._write_unparsed()
                return resp, True
            if isinstance(resp, web.HTTPException):
                resp = self._refusal(as_app_error(resp))
            return await super().finish_response(request, resp, start_time)
        finally:
            self._handling = False

    def _write_unparsed(self) -> None:
        """What is no HTTP has no request that a response could belong to: its answer goes to the socket as it is."""
        if self.transport is None:
            return
        body = problem_body(MalformedRequest(), "")
        headers = {**dict(self._standing), "Content-Type": "application/problem+json", "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(
            f"HTTP/1.1 400 Bad Request\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body
        )


class _Unparsed(web.Response):
    """Stands for the answer to what could not be parsed."""
