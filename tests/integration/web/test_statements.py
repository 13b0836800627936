"""What a request sends to the database, counted exactly: on PostgreSQL every message waits for a network.

A number that grows is a slower request; where it has to, say so here. Decision 0022 has the reasons.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from argon2 import PasswordHasher

from app.domain.credentials import HISTORY_KEPT
from app.domain.identity import Client, Source
from tests.support.installs import Place
from tests.support.samples import OTHER_SECRET, OWNER, PASSWORD, SECRET
from tests.support.traffic import Sent, on_the_wire, traced
from tests.support.web import Answer, Site, open_site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.support.postgres import PostgresServer

_CREDENTIALS: Final = "/api/v1/credentials"
_AUTH: Final = "/api/v1/auth"


@dataclass
class Watched:
    """A served application, and what it sends to its database."""

    site: Site
    place: Place
    sent: Sent
    made: int = 0

    async def during(self, request: Awaitable[Answer], *, status: int = 200) -> list[str]:
        """What a request sends. Its process remembers no rows, since others have changed the database."""
        await self.place.execute("INSERT INTO bot_state (key, value, updated_at) VALUES ('k', 'v', CURRENT_TIMESTAMP)")
        await self.place.execute("DELETE FROM bot_state")
        self.sent.clear()
        answer = await request
        assert answer.status == status, answer.text
        return self.sent.for_requests

    def label(self) -> str:
        """A new one."""
        self.made += 1
        return f"label-{self.made}"

    async def credential(self) -> str:
        """The path of a new credential."""
        return f"{_CREDENTIALS}/{(await self.site.add(self.label()))['id']}"

    async def refresh_token(self) -> str:
        """The refresh token of a new session."""
        login = await self.site.request("POST", f"{_AUTH}/login", json=_LOGIN, token="")
        return str(login.json["refresh_token"])


_LOGGED: Final = re.compile(r"LOG:  (?:statement|execute \w+): (.*)")
_LOGIN: Final = {"username": OWNER, "password": PASSWORD}


async def _me(watched: Watched) -> list[str]:
    return await watched.during(watched.site.request("GET", f"{_AUTH}/me"))


async def _read_one(watched: Watched) -> list[str]:
    return await watched.during(watched.site.request("GET", await watched.credential()))


async def _list(watched: Watched) -> list[str]:
    return await watched.during(watched.site.request("GET", _CREDENTIALS))


async def _versions(watched: Watched) -> list[str]:
    return await watched.during(watched.site.request("GET", f"{await watched.credential()}/versions"))


async def _reveal(watched: Watched) -> list[str]:
    return await watched.during(watched.site.request("POST", f"{await watched.credential()}/reveal"))


def _new(watched: Watched) -> dict[str, str]:
    return {"provider": "openai", "label": watched.label(), "secret": SECRET}


async def _add(watched: Watched) -> list[str]:
    return await watched.during(watched.site.request("POST", _CREDENTIALS, json=_new(watched)), status=201)


async def _add_repeatably(watched: Watched) -> list[str]:
    body = _new(watched)
    adding = watched.site.request("POST", _CREDENTIALS, json=body, headers={"Idempotency-Key": body["label"]})
    return await watched.during(adding, status=201)


async def _replace(watched: Watched) -> list[str]:
    path = f"{await watched.credential()}/secret"
    return await watched.during(watched.site.request("PUT", path, json={"secret": OTHER_SECRET}))


async def _replace_evicting(watched: Watched) -> list[str]:
    path = f"{await watched.credential()}/secret"
    for number in range(HISTORY_KEPT):
        await watched.site.request("PUT", path, json={"secret": f"{OTHER_SECRET}{number}"})
    return await watched.during(watched.site.request("PUT", path, json={"secret": OTHER_SECRET}))


async def _relabel(watched: Watched) -> list[str]:
    path = await watched.credential()
    return await watched.during(watched.site.request("PATCH", path, json={"label": watched.label()}))


async def _remove(watched: Watched) -> list[str]:
    return await watched.during(watched.site.request("DELETE", await watched.credential()), status=204)


async def _use(watched: Watched) -> list[str]:
    """Through the services, as a developer does: the sender was identified before."""
    watched.made += 1
    view = await watched.site.add(label := f"used-{watched.made}")
    services = watched.site.services
    actor = await services.requests.authenticate(watched.site.token, Client(source=Source.WEB, address="127.0.0.1"))

    async def use() -> Answer:
        async with services.credentials.use(actor, "openai", label) as credential:
            assert credential.id == view["id"]
        return await watched.site.request("GET", "/healthz")

    return await watched.during(use())


async def _login(watched: Watched) -> list[str]:
    return await watched.during(watched.site.request("POST", f"{_AUTH}/login", json=_LOGIN, token=""))


async def _login_with_outdated_hash(watched: Watched) -> list[str]:
    outdated = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
    await watched.place.execute("UPDATE users SET password_hash = :hash", hash=outdated)
    sent = await _login(watched)
    assert outdated not in repr(await watched.place.contents())
    return sent


async def _failed_login(watched: Watched) -> list[str]:
    body = _LOGIN | {"username": watched.label(), "password": "wrong"}
    return await watched.during(watched.site.request("POST", f"{_AUTH}/login", json=body, token=""), status=401)


async def _reauthenticate(watched: Watched) -> list[str]:
    body = {"password": PASSWORD}
    return await watched.during(watched.site.request("POST", f"{_AUTH}/reauthenticate", json=body), status=204)


async def _refresh(watched: Watched) -> list[str]:
    body = {"refresh_token": await watched.refresh_token()}
    return await watched.during(watched.site.request("POST", f"{_AUTH}/refresh", json=body, token=""))


async def _logout(watched: Watched) -> list[str]:
    body = {"refresh_token": await watched.refresh_token()}
    return await watched.during(watched.site.request("POST", f"{_AUTH}/logout", json=body, token=""), status=204)


async def _revoke(watched: Watched) -> list[str]:
    token = await watched.site.log_in()
    session = (await watched.site.request("GET", f"{_AUTH}/me", token=token)).json["session_id"]
    return await watched.during(watched.site.request("DELETE", f"{_AUTH}/sessions/{session}"), status=204)


_REQUESTS: Final[dict[str, tuple[Callable[[Watched], Awaitable[list[str]]], int, int]]] = {
    # on PostgreSQL, on SQLite; BEGIN, COMMIT and ROLLBACK count
    "me": (_me, 1, 1),
    "read one": (_read_one, 2, 2),
    "list": (_list, 2, 2),
    "former secrets": (_versions, 3, 3),
    "reveal": (_reveal, 7, 7),
    "add": (_add, 10, 8),
    "add with an Idempotency-Key": (_add_repeatably, 12, 10),
    "replace": (_replace, 10, 9),
    "replace, and drop the oldest": (_replace_evicting, 12, 11),
    "relabel": (_relabel, 7, 7),
    "remove": (_remove, 6, 6),
    "use, intent and outcome": (_use, 8, 8),
    # Each proof of a password asks whether the account has a second factor.
    "log in": (_login, 11, 10),
    "log in with an outdated hash": (_login_with_outdated_hash, 12, 11),
    "fail to log in": (_failed_login, 6, 6),
    "prove the password": (_reauthenticate, 10, 10),
    "refresh": (_refresh, 9, 8),
    "log out": (_logout, 8, 8),
    "revoke a session": (_revoke, 9, 9),
}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def watched(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Watched]:
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            url = through = request.getfixturevalue("sqlite_url")
            sent = stack.enter_context(traced(monkeypatch))
        else:
            url = request.getfixturevalue("postgres_url")
            (wire := tmp_path / "wire").mkdir()
            through, sent = await stack.enter_async_context(on_the_wire(url, wire))
        # One connection to read and one to write, so that each has prepared its statements once.
        place = Place(through, tmp_path / "data", {"DATABASE_CONNECTIONS": "2"})
        site = await stack.enter_async_context(open_site(place))
        yield Watched(site, Place(url, tmp_path / "data"), sent)


@pytest.mark.postgres
async def test_nothing_reaches_postgresql_that_is_not_counted(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    name = postgres_url.partition("@/")[2].partition("?")[0]
    postgres_server.execute(f"""ALTER DATABASE "{name}" SET log_statement = 'all'""")
    log = postgres_server.socket_directory / "log"
    (wire := tmp_path / "wire").mkdir()
    async with on_the_wire(postgres_url, wire) as (through, sent):
        before = len(log.read_bytes())
        sent.clear()
        async with open_site(Place(through, tmp_path / "data", {"DATABASE_CONNECTIONS": "2"})) as site:
            added = await site.add("main")
            assert (await site.request("GET", f"{_CREDENTIALS}/{added['id']}")).status == 200
    executed = _LOGGED.findall(log.read_bytes()[before:].decode())
    # PostgreSQL's log has no line for a statement that is prepared and not executed yet.
    counted = [each.partition("\n")[0] for each in sent.everything if not each.startswith("PREPARE")]
    assert Counter(executed) == Counter(counted)
    assert len(counted) > 100


async def test_a_request_sends_no_more_than_it_has_to(watched: Watched) -> None:
    postgresql = watched.place.url.startswith("postgresql")
    wrong = []
    for name, (request, on_postgresql, on_sqlite) in _REQUESTS.items():
        await request(watched)  # the first one prepares statements and stores the address
        messages = await request(watched)
        expected = on_postgresql if postgresql else on_sqlite
        if len(messages) != expected:
            wrong.append(f"{name}: {len(messages)} and not {expected}: {', '.join(messages)}")
    assert not wrong, "\n".join(wrong)
