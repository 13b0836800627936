"""The application, and serving it on a socket that was bound at the beginning of the start."""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import HttpVersion11, web

from app.domain.errors import ConfigInvalid
from app.services import Services
from app.web.api import (
    audit,
    auth,
    backups,
    caches,
    credentials,
    discord,
    documentation,
    factors,
    health,
    keys,
    passkeys,
    privacy,
    probes,
    tokens,
    users,
)
from app.web.bodies import LARGEST_BODY
from app.web.connection import SPOKEN_MAJOR, Connection
from app.web.event_stream import STREAMS, EventStreams
from app.web.headers import default_headers
from app.web.metrics import METRICS, Metrics
from app.web.middleware import ERROR_PAGE, add_default_headers, request_middleware
from app.web.options import SERVICES, WebOptions
from app.web.origin import ORIGIN, Origin
from app.web.pages import code, dashboard, guilds, login, static
from app.web.pages import discord as discord_pages
from app.web.pages import passkeys as passkey_pages
from app.web.pages import privacy as privacy_pages
from app.web.pages.account import confirm as account_confirm
from app.web.pages.account import discord as account_discord
from app.web.pages.account import factors as account_factors
from app.web.pages.account import page as account_page
from app.web.pages.account import passkeys as account_passkeys
from app.web.pages.account import password as account_password
from app.web.pages.account import preferences as account_preferences
from app.web.pages.account import sessions as account_sessions
from app.web.pages.account import tokens as account_tokens
from app.web.pages.admin import audit as admin_audit
from app.web.pages.admin import backups as admin_backups
from app.web.pages.admin import credentials as admin_credentials
from app.web.pages.admin import health as admin_health
from app.web.pages.admin import invitations as admin_invitations
from app.web.pages.admin import key_changes as admin_key_changes
from app.web.pages.admin import keys as admin_keys
from app.web.pages.admin import rotation as admin_rotation
from app.web.pages.admin import users as admin_users
from app.web.pages.credentials import adding as credential_adding
from app.web.pages.credentials import listing as credential_list
from app.web.pages.credentials import one as credential_page
from app.web.pages.credentials import reveal as credential_reveal
from app.web.pages.rendering import TEMPLATES, Templates, error_page
from app.web.pages.static import ASSETS, Assets

log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 75.0
"""How long a connection may idle: longer than proxies keep theirs, so that none is closed under a request."""
DRAIN_SECONDS: Final = 8.0
"""How long requests in progress may take once the process is asked to end, which it must within ten."""
_BACKLOG: Final = 1024

_FAMILIES: Final = (
    auth.routes,
    passkeys.routes,
    factors.routes,
    discord.routes,
    users.routes,
    tokens.routes,
    credentials.routes,
    keys.routes,
    backups.routes,
    health.routes,
    audit.routes,
    caches.routes,
    privacy.routes,
    probes.routes,
    dashboard.routes,
    login.routes,
    passkey_pages.routes,
    discord_pages.routes,
    code.routes,
    admin_credentials.routes,
    credential_list.routes,
    credential_adding.routes,
    credential_page.routes,
    credential_reveal.routes,
    account_page.routes,
    account_confirm.routes,
    account_password.routes,
    account_passkeys.routes,
    account_discord.routes,
    account_factors.routes,
    account_preferences.routes,
    account_sessions.routes,
    account_tokens.routes,
    guilds.routes,
    admin_users.routes,
    admin_invitations.routes,
    admin_audit.routes,
    admin_backups.routes,
    admin_health.routes,
    privacy_pages.routes,
    admin_keys.routes,
    admin_key_changes.routes,
    admin_rotation.routes,
    static.routes,
    documentation.routes,
)


def build_app(services: Services, options: WebOptions) -> web.Application:
    """The application with every route. Raises ConfigInvalid for an extension that cannot be set up."""
    app = web.Application(middlewares=[request_middleware], client_max_size=LARGEST_BODY)
    app[SERVICES] = services
    app[ORIGIN] = Origin(options)
    app[METRICS] = Metrics()
    app[STREAMS] = EventStreams()
    app.on_shutdown.append(app[STREAMS].end)
    app[ASSETS] = Assets()
    app[TEMPLATES] = Templates(options.invite_url, lambda: services.discord_sign_in.available)
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
    """Listen on a bound socket; at the end stop listening, finish the requests in progress, and close.

    No acknowledged request is cut off, and nothing waits for longer than ten seconds.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_SECONDS)
    await runner.setup()
    server = runner.server
    assert server is not None  # noqa: S101 - setup() made it
    headers = default_headers(https=app[ORIGIN].https)
    loop = asyncio.get_running_loop()

    def connection() -> Connection:
        return Connection(
            server,
            headers,
            loop=loop,
            access_log=None,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=2.0,
            auto_decompress=False,
            logger=log,
        )

    def begin(message: Any, payload: Any, protocol: Connection, writer: Any, task: Any) -> web.BaseRequest:
        protocol.head_arrived()
        spoken = message.version.major
        if spoken == 1:
            return make_request(message, payload, protocol, writer, task)
        # Refused by the middleware; the refusal itself is HTTP/1.1, as nothing else is spoken here.
        request = make_request(
            message._replace(version=HttpVersion11, should_close=True), payload, protocol, writer, task
        )
        request[SPOKEN_MAJOR] = spoken
        return request

    make_request = server.request_factory
    server.request_factory = begin  # type: ignore[assignment]
    listener = await loop.create_server(connection, sock=sock, backlog=_BACKLOG)
    try:
        yield
    finally:
        listener.close()
        await runner.cleanup()
