"""Browsers of people who sign in with Discord: a real cookie jar each, and a Discord on loopback that they visit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

import aiohttp
from yarl import URL

from tests.support.discord_wire import User, WireSimulator
from tests.support.installs import Place
from tests.support.samples import OWNER, PASSWORD
from tests.support.web import Answer, Site, free_port, open_site

FROM_DISCORD = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
"""What a browser says of itself when Discord leads it back."""


@dataclass
class DiscordPlace:
    """A site, and the Discord that it knows."""

    site: Site
    wire: WireSimulator

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[Browser]:
        """A browser that was never here."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
            yield Browser(self, client)


@dataclass
class Browser:
    """It keeps cookies as browsers do, and follows nothing by itself."""

    place: DiscordPlace
    client: aiohttp.ClientSession

    async def open(self, path: str, *, site: str = "same-origin") -> Answer:
        """Open an address of Keyhall; ``site`` is where the browser says that it comes from."""
        url = path if path.startswith("http") else self.place.site.url + path
        headers = {"Accept": "text/html", "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
        async with self.client.get(URL(url, encoded=True), headers=headers, allow_redirects=False) as response:
            return Answer(response.status, response.headers, await response.read())

    async def submit(self, path: str, **fields: str) -> Answer:
        """Send a form from one of Keyhall's own pages."""
        headers = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
        url = self.place.site.url + path
        async with self.client.post(url, data=fields, headers=headers, allow_redirects=False) as response:
            return Answer(response.status, response.headers, await response.read())

    async def depart(self, path: str = "/auth/discord") -> str:
        """Begin, and return the address at Discord to which that leads."""
        answer = await self.open(path)
        assert answer.status == 303, answer.text
        return answer.headers["Location"]

    async def agree(self, address: str, user: User | None) -> str:
        """Agree at Discord as that user, or decline as nobody; return the address to which Discord leads back."""
        self.place.wire.consenting = user
        async with self.client.get(URL(address, encoded=True), allow_redirects=False) as response:
            assert response.status == 302, await response.text()
            return response.headers["Location"]

    async def come_back(self, address: str) -> Answer:
        """Follow Discord back to Keyhall."""
        return await self.open(address, site="cross-site")

    async def sign_in(self, user: User, *, next_page: str = "/") -> Answer:
        """All of it."""
        address = await self.agree(await self.depart(f"/auth/discord?next={next_page}"), user)
        return await self.come_back(address)

    async def sign_in_by_password(self, username: str = OWNER, password: str = PASSWORD) -> Self:
        answer = await self.submit("/login", username=username, password=password, next="/")
        assert answer.status == 303, answer.text
        return self

    async def who(self) -> str | None:
        """The id of the user who is signed in here, None where nobody is."""
        async with self.client.get(f"{self.place.site.url}/api/v1/auth/me") as response:
            return str((await response.json())["id"]) if response.status == 200 else None

    def cookie(self, name: str) -> str | None:
        """The value of a cookie that this browser keeps."""
        found = self.client.cookie_jar.filter_cookies(URL(self.place.site.url)).get(name)
        return found.value if found else None


def parameters(address: str) -> dict[str, str]:
    """The query of an address."""
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


@asynccontextmanager
async def open_discord_place(url: str, directory: Path, **settings: str) -> AsyncIterator[DiscordPlace]:
    """A site on that database, with its own Discord; ``settings`` come on top."""
    async with await WireSimulator.start() as wire:
        port = free_port()
        given = {**wire.environment, "PUBLIC_URL": f"http://127.0.0.1:{port}", **settings}
        async with open_site(Place(url, directory / "data", given), port=port) as site:
            yield DiscordPlace(site, wire)
