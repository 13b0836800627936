"""Behind a real nginx, as docs/install.md sets it up, with a password of its own and with compression."""

from __future__ import annotations

import base64
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
from tests.support.samples import OWNER, PASSWORD
from tests.support.tools import require_tool, wait_until_listening
from tests.support.web import Site, free_port, open_site, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

INSTALL = Path(__file__).parents[3] / "docs" / "install.md"
BASIC = {"Authorization": "Basic " + base64.b64encode(b"proxy:door").decode()}
_CONFIGURATION = """
{user} daemon off; pid {home}/pid; error_log stderr warn; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/f;
    uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
    gzip on; gzip_types application/json application/problem+json; gzip_min_length 0; gzip_proxied any;
    server {{
        listen 127.0.0.1:{port};
        auth_basic $door; auth_basic_user_file {home}/users;
        {locations}
    }}
    # Only pages ask for the proxy's password: a program has one Authorization header, and that is for its token.
    map $uri $door {{ default "the door"; ~^/api/ off; }}
}}
"""


def _documented_locations(upstream: str) -> str:
    """The locations of the documented server, for this upstream; the port is not the standard one here."""
    (block,) = re.findall(r"```nginx\n(.*?)```", INSTALL.read_text(encoding="utf-8"), re.DOTALL)
    locations: str = block[block.index("    location") : block.rindex("}")]
    return locations.replace("http://127.0.0.1:8080", upstream).replace("Host $host;", "Host $host:$server_port;")


@contextmanager
def _nginx(home: Path, port: int, upstream: str) -> Iterator[None]:
    home.chmod(0o755)
    (home / "users").write_text("proxy:{PLAIN}door\n")
    (home / "users").chmod(0o644)
    configuration = home / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # its workers read the password file
    configuration.write_text(
        _CONFIGURATION.format(user=user, home=home, port=port, locations=_documented_locations(upstream)),
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [require_tool("nginx"), "-p", str(home), "-c", str(configuration)], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until_listening(process, port)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxied(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Keyhall as a client of nginx sees it."""
    require_tool("nginx")
    home, port = tmp_path_factory.mktemp("nginx"), free_port()
    options = WebOptions(
        public_url=f"http://localhost:{port}", trusted_proxies=(ipaddress.ip_network("::ffff:127.0.0.1/128"),)
    )
    async with (
        open_site(Place(f"sqlite+aiosqlite:///{home}/keyhall.db", home / "data")) as direct,
        served(direct.services, options) as behind,
        aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, headers={"Accept-Encoding": "identity"}
        ) as client,
    ):
        with _nginx(home, port, behind.url):
            yield replace(behind, url=f"http://localhost:{port}", token=direct.token, client=client)


async def test_a_password_of_the_proxy_and_a_session_of_ours_go_together(proxied: Site) -> None:
    """A browser sends the proxy's password with every request, and the proxy passes it on."""
    asked = await proxied.page("/login")
    assert (asked.status, "the door" in asked.headers["WWW-Authenticate"]) == (401, True)
    sent = {**BASIC, "Sec-Fetch-Site": "same-origin", "Accept": "text/html"}
    entered = await proxied.submit("/login", "", headers=sent, username=OWNER, password=PASSWORD)
    assert entered.status == 303, entered.text
    page = await proxied.request("GET", "/credentials", cookie=entered.cookie(), token="", headers=sent)
    assert page.status == 200
    out = await proxied.submit("/logout", entered.cookie(), headers=sent, form_token=page.form_token())
    assert out.status == 303


async def test_the_version_of_a_compressed_answer_is_a_version(proxied: Site) -> None:
    made = await proxied.add("compressed")
    path = f"/api/v1/credentials/{made['id']}"
    compressed = await proxied.request("GET", path, headers={"Accept-Encoding": "gzip"})
    assert compressed.headers["Content-Encoding"] == "gzip"
    tag = compressed.headers["ETag"]
    assert tag == 'W/"1"'
    changed = await proxied.request("PATCH", path, json={"label": "changed"}, headers={"If-Match": tag})
    assert (changed.status, changed.json["version"]) == (200, 2)
    stale = await proxied.request("PATCH", path, json={"label": "lost"}, headers={"If-Match": tag})
    assert (stale.status, stale.code) == (412, "version_conflict")


async def test_the_address_is_the_clients_and_metrics_stay_inside(proxied: Site) -> None:
    """Here the client is a balancer on the proxy's own machine, which names its client with a port."""
    forwarded = {"X-Forwarded-For": "203.0.113.9:41234"}
    signed_in = await proxied.request(
        "POST", "/api/v1/auth/login", json={"username": OWNER, "password": PASSWORD}, token="", headers=forwarded
    )
    assert signed_in.status == 200
    sessions = (await proxied.request("GET", "/api/v1/auth/sessions", token=signed_in.json["access_token"])).json
    (here,) = [each for each in sessions["items"] if each["current"]]
    assert here["address"] == "203.0.113.9"
    assert (await proxied.request("GET", "/metrics", headers=BASIC, token="")).status == 404
