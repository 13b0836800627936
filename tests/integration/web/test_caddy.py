"""Behind a real Caddy, as docs/install.md and the compose files set it up."""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from app.web import WebOptions
from tests.support.installs import Place
from tests.support.processes import PROJECT
from tests.support.samples import OWNER, PASSWORD
from tests.support.tools import require_tool, wait_until_listening
from tests.support.web import Site, free_port, open_site, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

_DOCUMENTED = re.compile(r"```caddyfile\n(.*?)```", re.DOTALL)


def _site_blocks() -> dict[str, str]:
    """The configurations that the project gives, by where they stand."""
    (documented,) = _DOCUMENTED.findall((PROJECT / "docs" / "install.md").read_text(encoding="utf-8"))
    return {
        "docs/install.md": documented,
        "deploy/compose/Caddyfile": (PROJECT / "deploy" / "compose" / "Caddyfile").read_text(encoding="utf-8"),
    }


def _here(block: str, port: int, upstream: str) -> str:
    """The configuration for this machine: over http, since nobody certifies it, and for this upstream."""
    local = re.sub(r"^\S+ \{", f"http://localhost:{port} {{", block, count=1)
    local = re.sub(r"reverse_proxy \S+", f"reverse_proxy {upstream.removeprefix('http://')}", local)
    return "{\n\tadmin off\n\tauto_https off\n}\n" + local


@contextmanager
def _caddy(home: Path, port: int, configuration: str) -> Iterator[None]:
    (home / "Caddyfile").write_text(configuration, encoding="utf-8")
    process = subprocess.Popen(
        [require_tool("caddy"), "run", "--config", str(home / "Caddyfile")],
        env={**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until_listening(process, port)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["docs/install.md", "deploy/compose/Caddyfile"])
async def proxied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Keyhall as a client of Caddy sees it."""
    require_tool("caddy")
    home, port = tmp_path_factory.mktemp("caddy"), free_port()
    options = WebOptions(public_url=f"http://localhost:{port}", trusted_proxies=(ipaddress.ip_network("127.0.0.1/32"),))
    async with (
        open_site(Place(f"sqlite+aiosqlite:///{home}/keyhall.db", home / "keyhall")) as direct,
        served(direct.services, options) as behind,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
    ):
        with _caddy(home, port, _here(_site_blocks()[request.param], port, behind.url)):
            yield replace(behind, url=f"http://localhost:{port}", token=direct.token, client=client)


async def test_a_browser_signs_in_and_out_and_the_metrics_stay_inside(proxied: Site) -> None:
    cookie, token = await proxied.log_in_browser()
    assert (await proxied.page("/credentials", cookie)).status == 200
    assert (await proxied.submit("/logout", cookie, form_token=token)).status == 303
    assert (await proxied.request("GET", "/metrics", token="")).status == 404


async def test_nobody_outside_says_where_a_request_came_from(proxied: Site) -> None:
    """Caddy puts the address of its own client in the place of what that client claims."""
    body, forged = {"username": OWNER, "password": PASSWORD}, {"X-Forwarded-For": "203.0.113.9"}
    signed_in = await proxied.request("POST", "/api/v1/auth/login", json=body, token="", headers=forged)
    assert signed_in.status == 200
    sessions = (await proxied.request("GET", "/api/v1/auth/sessions", token=signed_in.json["access_token"])).json
    (here,) = [each for each in sessions["items"] if each["current"]]
    assert ipaddress.ip_address(here["address"]).is_loopback
