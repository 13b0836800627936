"""Secrets that are looked for wherever they must not be, while a whole process runs at its most talkative."""

from __future__ import annotations

import asyncio
import base64
import secrets
from typing import Any

import aiohttp

from tests.support.collector import collecting
from tests.support.discord_wire import WireSimulator
from tests.support.installs import Place, client_of


def _canary(kind: str) -> str:
    return f"{kind}-{secrets.token_urlsafe(24)}"


class Watch:
    """Every canary, by what it is, and every text in which none may be."""

    def __init__(self) -> None:
        self.canaries: dict[str, str] = {}
        self.places: dict[str, bytes] = {}

    def canary(self, kind: str, value: str | None = None) -> str:
        """Note a secret; returns it."""
        return self.canaries.setdefault(kind, value or _canary(kind.replace(" ", "-")))

    def look_at(self, name: str, content: str | bytes) -> None:
        """Note where none may be found."""
        where = f"{len(self.places)}: {name}"
        self.places[where] = content if isinstance(content, bytes) else content.encode()

    def sightings(self) -> list[str]:
        """Each canary that is somewhere, in one of the shapes in which it could be."""
        found = []
        for kind, value in self.canaries.items():
            raw = value.encode()
            shapes = {raw, base64.b64encode(raw), raw.hex().encode()}
            if kind == "master key":
                raw = base64.b64decode(value)
                shapes |= {raw, raw.hex().encode(), base64.urlsafe_b64encode(raw)}
            found += [f"{kind} in {where}" for where, text in self.places.items() if any(s in text for s in shapes)]
        return found


class Browser:
    """A client all of whose answers are looked at."""

    def __init__(self, client: aiohttp.ClientSession, watch: Watch) -> None:
        self._client = client
        self._watch = watch

    async def ask(self, method: str, path: str, *, secretive: bool = True, **request: Any) -> tuple[int, str]:
        """Send a request; where the answer is there to carry a secret, only its headers are looked at."""
        async with self._client.request(method, path, **request) as answer:
            text = await answer.text()
            self._watch.look_at(f"the headers of {method} {path}", repr(answer.raw_headers))
            if secretive:
                self._watch.look_at(f"{method} {path} ({answer.status})", text)
            return answer.status, text

    async def tokens(self, path: str, body: dict[str, str], name: str) -> dict[str, str]:
        """Sign in or refresh; the tokens are canaries from then on."""
        async with self._client.post(path, json=body) as answer:
            assert answer.status == 200
            found: dict[str, str] = await answer.json()
        for kind in ("access_token", "refresh_token"):
            self._watch.canary(f"{kind} of {name}", found[kind])
        self._client.headers["Authorization"] = f"Bearer {found['access_token']}"
        return found


async def _drive_the_web(browser: Browser, watch: Watch) -> None:
    password, secret = watch.canary("password"), watch.canary("secret")
    setup = {"setup_token": watch.canaries["setup token"], "username": "alice", "password": password}
    wrong = {"username": "alice", "password": watch.canary("wrong password")}
    assert (await browser.ask("POST", "/api/v1/setup", json=setup | {"username": ""}))[0] == 422
    assert (await browser.ask("POST", "/api/v1/setup", json=setup))[0] == 201
    assert (await browser.ask("POST", "/api/v1/setup", json=setup))[0] in {401, 403, 409, 410}
    assert (await browser.ask("POST", "/api/v1/auth/login", json=wrong))[0] == 401
    first = await browser.tokens("/api/v1/auth/login", {"username": "alice", "password": password}, "the login")
    await browser.tokens("/api/v1/auth/refresh", {"refresh_token": first["refresh_token"]}, "the refresh")

    body = {"provider": "openai", "label": "work", "secret": secret}
    everything = "/api/v1/credentials"
    status, text = await browser.ask("POST", everything, json=body)
    assert status == 201
    identity = text.split('"id":')[1].split('"')[1]
    one = f"{everything}/{identity}"
    for refused in (
        {"json": body},
        {"json": body | {"label": secret}},
        {"json": body | {"unknown": secret}},
        {"json": body | {"secret": [secret]}},
        {"json": [secret]},
        {"data": f'{{"secret": "{secret}", ', "headers": {"Content-Type": "application/json"}},
        {"data": {"secret": secret}},
    ):
        assert 400 <= (await browser.ask("POST", everything, **refused))[0] < 500
    assert (await browser.ask("POST", f"{everything}/nowhere", json=body))[0] in {404, 405}
    replaced = {"secret": watch.canary("second secret")}
    assert (await browser.ask("PUT", f"{one}/secret", json=replaced))[0] == 200
    status, text = await browser.ask("POST", f"{one}/reveal", secretive=False)
    assert status == 200
    assert watch.canaries["second secret"] in text
    forged = {"Authorization": f"Bearer {watch.canary('forged token')}"}
    assert (await browser.ask("GET", everything, headers=forged))[0] == 401
    assert (await browser.ask("GET", everything, headers={"Authorization": watch.canary("odd header")}))[0] == 401
    for path in (
        everything,
        one,
        f"{one}/versions",
        f"{everything}/health",
        "/api/v1/auth/me",
        "/api/v1/auth/sessions",
    ):
        assert (await browser.ask("GET", path))[0] == 200
    for path in ("/", "/login", "/setup", "/credentials", "/api/openapi.json", "/readyz", "/metrics"):
        assert (await browser.ask("GET", path))[0] < 500


async def _drive_the_bot(wire: WireSimulator, watch: Watch) -> None:
    alice = wire.user(1001, "alice")
    guild = wire.add_guild(id=2001, name="Hall", owner=alice)
    for secret in ("bot secret", "refused bot secret"):  # the second time the label is taken
        form = await wire.slash(alice, "key add", guild=guild)
        values = {"provider": "github", "label": "home", "secret": watch.canary(secret)}
        watch.look_at("the answer to a form", (await wire.submit_modal(form, values)).text)
    watch.look_at("/key list", (await wire.slash(alice, "key list", guild=guild)).text)
    message = watch.canary("message")
    sealed = await wire.submit_modal(await wire.slash(alice, "encrypt", guild=guild), {"text": message})
    watch.look_at("/encrypt", sealed.text)


def _watch_the_files(place: Place, watch: Watch) -> None:
    for path in (*place.data_dir.parent.glob("keyhall.db*"), *place.data_dir.iterdir()):
        watch.look_at(path.name, path.read_bytes())


async def test_no_secret_is_anywhere_that_it_does_not_belong(sqlite_place: Place, wire: WireSimulator) -> None:
    watch = Watch()
    key = watch.canary("master key", base64.b64encode(secrets.token_bytes(32)).decode())
    watch.canary("Discord token", wire.token)
    talkative = {"LOG_LEVEL": "debug", "LOG_FORMAT": "json", "MASTER_KEY": key, **wire.environment}
    async with collecting() as collector:
        place = sqlite_place.having(**talkative, TRACES_ENDPOINT=collector.address)
        await _drive_a_process(place, wire, watch)
    for body in collector.bodies:
        watch.look_at("a batch of traces", body)
    assert {"POST /api/v1/auth/login", "GET /credentials", "database write"} <= collector.names()
    assert {"application_command /key add", "modal_submit"} <= collector.names()
    assert watch.sightings() == []


async def _drive_a_process(place: Place, wire: WireSimulator, watch: Watch) -> None:
    with place.running("run") as running:
        address = await asyncio.to_thread(running.address)
        watch.canary("setup token", await asyncio.to_thread(running.setup_token))
        await wire.wait_ready(within=90)
        async with client_of(address) as client:
            browser = Browser(client, watch)
            await _drive_the_web(browser, watch)
            await _drive_the_bot(wire, watch)
            _watch_the_files(place, watch)
            # A failure that nobody foresaw, while a secret is in hand.
            await place.execute("ALTER TABLE api_credentials RENAME TO somewhere_else")
            body = {"provider": "openai", "label": "lost", "secret": watch.canary("lost secret")}
            assert (await browser.ask("POST", "/api/v1/credentials", json=body))[0] >= 500
            again = {"username": "alice", "password": watch.canaries["password"]}
            await place.execute("ALTER TABLE sessions RENAME TO sessions_elsewhere")
            assert (await browser.ask("POST", "/api/v1/auth/login", json=again))[0] >= 500
        assert await asyncio.to_thread(running.end) == 0
    _watch_the_files(place, watch)
    # The two lines that are for the owner: the token, and the address that brings it along.
    announced = ("keyhall: setup token=", f"keyhall: open {address}/setup#")
    said = [line for line in running.lines if not line.startswith(announced)]
    assert any('"level":"debug"' in line.replace(" ", "").lower() for line in said), "it was not talkative"
    watch.look_at("standard error", "\n".join(said))


def test_the_watch_sees_a_canary() -> None:
    watch = Watch()
    value = watch.canary("password")
    watch.look_at("a file", base64.b64encode(value.encode()))
    watch.look_at("another", "nothing")
    assert watch.sightings() == ["password in 0: a file"]
