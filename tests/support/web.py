"""The web over real services on a real socket, and a client that repeats nothing and follows nothing by itself."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDictProxy

from app.services import Services
from app.web import WebOptions
from app.web.api.documentation import DOCUMENT
from app.web.server import build_app, serving
from tests.support.declared_errors import check_declared
from tests.support.installs import Place
from tests.support.samples import ABSENT, OWNER, PASSWORD, SECRET

_PARTS = {"name": "AES_KEY", "version": "1", "guild_id": "900000000000000022"}
"""Values for parts of a path that are no ids."""


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def problem(self) -> str | None:
        """The code of a problem; None where it is something else."""
        return str(self.json["code"]) if self.headers.get("Content-Type") == "application/problem+json" else None

    @property
    def code(self) -> str:
        """The code of a problem, which it must be."""
        assert self.headers["Content-Type"] == "application/problem+json", self.text
        assert set(self.json) == {"type", "title", "status", "detail", "code", "request_id"}
        assert self.json["status"] == self.status
        return str(self.json["code"])

    def form_token(self) -> str:
        """The token in the forms of a page."""
        found = re.search(r'name="form_token" value="([0-9a-f]{128})"', self.text)
        assert found
        return found[1]

    def cookie(self) -> str:
        """The session cookie that was set, as `name=value`."""
        return self.headers["Set-Cookie"].partition(";")[0]


@dataclass
class Site:
    """A served application; requests go out as the owner unless they say otherwise."""

    url: str
    app: web.Application
    services: Services
    client: aiohttp.ClientSession
    token: str = ""
    declared: bool = True
    """Whether an error that its endpoint does not declare fails the test."""
    _anonymous: dict[str, str] = field(default_factory=dict)

    async def request(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        cookie: str | None = None,
        json: Any = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """``token`` "" sends none; a ``cookie`` takes the token's place."""
        sent = dict(headers or {})
        bearer = self.token if token is None and cookie is None else token
        if bearer:
            sent.setdefault("Authorization", f"Bearer {bearer}")
        if cookie:
            sent["Cookie"] = cookie
        async with self.client.request(
            method, self.url + path, json=json, data=data, headers=sent, allow_redirects=False
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        if self.declared:
            check_declared(self.app[DOCUMENT], method, path, answer)
        return answer

    async def submit(
        self,
        path: str,
        cookie: str,
        fields: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        **more: str,
    ) -> Answer:
        """Send a form as a browser does from one of our own pages."""
        sent = {"Sec-Fetch-Site": "same-origin", "Accept": "text/html"} if headers is None else dict(headers)
        return await self.request("POST", path, cookie=cookie, token="", data={**(fields or {}), **more}, headers=sent)

    async def page(self, path: str, cookie: str = "") -> Answer:
        """Open a page as a browser does."""
        return await self.request("GET", path, cookie=cookie, token="", headers={"Accept": "text/html"})

    async def log_in(self, username: str = OWNER, password: str = PASSWORD) -> str:
        """A new access token."""
        credentials = {"username": username, "password": password}
        answer = await self.request("POST", "/api/v1/auth/login", json=credentials, token="")
        assert answer.status == 200, answer.text
        return str(answer.json["access_token"])

    async def log_in_browser(self) -> tuple[str, str]:
        """A new session cookie and the form token that belongs to it."""
        answer = await self.submit("/login", "", username=OWNER, password=PASSWORD, next="/")
        assert answer.status == 303, answer.text
        page = await self.page("/credentials", answer.cookie())
        return answer.cookie(), page.form_token()

    async def add(self, label: str, *, secret: str = SECRET, provider: str = "openai", **more: Any) -> Any:
        """A stored credential."""
        body = {"provider": provider, "label": label, "secret": secret, **more}
        answer = await self.request("POST", "/api/v1/credentials", json=body)
        assert answer.status == 201, answer.text
        return answer.json


@asynccontextmanager
async def open_site(
    place: Place, options: WebOptions | None = None, *, owner: bool = True, port: int = 0
) -> AsyncIterator[Site]:
    """Services on that place, served on a free port of loopback, or on that one, with an owner by default."""
    if not place.data_dir.exists():
        await place.install()
    async with place.services() as services, served(services, options, port=port) as site:
        if owner:
            token = services.keys.setup_token().reveal()
            body = {"setup_token": token, "username": OWNER, "password": PASSWORD}
            assert (await site.request("POST", "/api/v1/setup", json=body)).status == 201
            site.token = await site.log_in()
        yield site


@asynccontextmanager
async def served(services: Services, options: WebOptions | None = None, *, port: int = 0) -> AsyncIterator[Site]:
    """An application over those services, on a free port of loopback, or on that one."""
    app = build_app(services, options or WebOptions())
    address = ("127.0.0.1", port or free_port())
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        async with (
            serving(app, sock),
            aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, headers={"Accept-Encoding": "identity"}
            ) as client,
        ):
            yield Site(f"http://127.0.0.1:{address[1]}", app, services, client)


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def filled(path: str, **parts: str) -> str:
    """A documented path with something well-formed in every part: what is given, else an id of nothing."""
    return re.sub(r"{(\w+)}", lambda part: {**_PARTS, **parts}.get(part[1], ABSENT), path)


class Away:
    """Stands for a service whose every method raises."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        async def fail(*_: object, **__: object) -> None:
            raise self._error

        return fail


def without(services: Services, error: Exception, *names: str) -> Services:
    """The services, some of which fail."""
    away: dict[str, Any] = {name: Away(error) for name in names}
    return replace(services, **away)


async def raw(site: Site, data: bytes, *, within: float = 60) -> bytes:
    """Send bytes over a connection of their own and return everything that comes back until it closes."""
    host, _, port = site.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), within)
    finally:
        writer.close()


def sqlite_place(directory: Path) -> Place:
    """A place for the embedded database."""
    return Place(f"sqlite+aiosqlite:///{directory / 'keyhall.db'}", directory / "data")
