"""Three processes that serve while keys change: nobody is turned away, nothing is lost, and what is revoked is over."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from app.domain.identity import Role
from app.domain.jobs import JobState
from app.domain.keys import KeyName
from app.services import Services
from tests.support import pace
from tests.support.installs import Place, client_of, sign_up

AES, JWT = KeyName.AES_KEY, KeyName.JWT_SECRET_KEY
PASSWORD = "correct horse battery staple"
OWNER = "olga"
MEMBERS = ("mia", "tom")
PROCESSES = (("web",), ("web",), ("run",))
CLIENTS_PER_MEMBER = 2
KEPT = 8
"""Credentials of each client, at most; from then on it replaces them."""
ROTATIONS = 3
PROPAGATION_SECONDS = 2.0
REVOCATION_SECONDS = 5.0


@dataclass
class Fleet:
    """The processes, as clients see them."""

    sessions: list[aiohttp.ClientSession]
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How often each process answered with each status, by action."""
    wrong: list[str] = field(default_factory=list)
    """Answers that nobody should have got."""

    async def ask(
        self, process: int, method: str, path: str, *, token: str = "", body: Any = None, expect: int = 200
    ) -> Any:
        """One request; whatever is not the answer that was expected is noted."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.sessions[process].request(method, path, json=body, headers=headers) as answer:
            text = await answer.text()
            self.answers[method, process] += 1
            if answer.status != expect:
                self.wrong.append(f"{method} {path} on {process}: {answer.status} {text}")
                raise Refused(answer.status)
            return await answer.json() if text else None

    async def log_in(self, process: int, username: str) -> dict[str, Any]:
        body = {"username": username, "password": PASSWORD}
        tokens: dict[str, Any] = await self.ask(process, "POST", "/api/v1/auth/login", body=body)
        return tokens

    async def status(self, process: int, token: str) -> int:
        """What a process makes of a token."""
        headers = {"Authorization": f"Bearer {token}"}
        async with self.sessions[process].get("/api/v1/auth/me", headers=headers) as answer:
            return answer.status


class Refused(Exception):
    """A process answered something else than it should have."""


@asynccontextmanager
async def _fleet(place: Place) -> AsyncIterator[Fleet]:
    """Three processes on one install with an owner and members, each at an address of its own."""
    async with AsyncExitStack() as stack:
        running = [stack.enter_context(place.running(*arguments)) for arguments in PROCESSES]
        addresses = [await asyncio.to_thread(each.address) for each in running]
        token = await asyncio.to_thread(running[0].setup_token)
        clients = [await stack.enter_async_context(client_of(address)) for address in addresses]
        await sign_up(clients[0], token, OWNER, PASSWORD)
        yield Fleet(clients)
        for each in running:
            assert await asyncio.to_thread(each.end) == 0


async def _add_members(services: Services) -> None:
    operator = await services.identity.operator()
    for name in MEMBERS:
        await services.identity.create(operator, name, PASSWORD, Role.MEMBER)


# ---------------------------------------------------------------------------------------------------------------------
# Constant requests
# ---------------------------------------------------------------------------------------------------------------------


class Client:
    """One program of a member's: asks whichever process comes, and remembers every secret that was acknowledged."""

    def __init__(self, fleet: Fleet, member: str, number: int) -> None:
        self._fleet = fleet
        self._random = random.Random(f"{member} {number}")
        self._member = member
        self._name = f"{member}-{number}"
        self._refreshes = number == 0
        """Some do; the others keep the token that the first version of the key signed."""
        self._numbers = itertools.count()
        self._ids: list[str] = []
        self._api_token = ""
        self.secrets: dict[str, str] = {}
        self.done: Counter[str] = Counter()

    async def log_in(self) -> None:
        self._take(await self._fleet.log_in(self._process(), self._member))
        if not self._api_token:
            body = {"name": self._name, "scopes": ["credentials:read"]}
            self._api_token = (await self._ask("POST", "/api/v1/auth/tokens", body=body, expect=201))["token"]
        self.done["log in"] += 1

    async def ask_until(self, enough: asyncio.Event) -> None:
        actions = [
            self._me,
            self._list,
            self._by_api_token,
            self._look,
            self._reveal,
            self._reveal,
            self._add,
            self._replace,
            self._replace,
        ]
        while not enough.is_set():
            action = self._refresh if self._refreshes and self._random.random() < 0.02 else self._random.choice(actions)
            try:
                await action()
            except Refused:
                return  # noted; the test fails with what was said
            self.done[action.__name__.strip("_")] += 1

    def _process(self) -> int:
        return self._random.randrange(len(PROCESSES))

    def _take(self, tokens: dict[str, Any]) -> None:
        self._token, self._refresh_token = tokens["access_token"], tokens["refresh_token"]

    def _secret(self) -> str:
        return f"sk-proj-{self._name}-{next(self._numbers)}-4f9aTq7ZbX2mLw8vKd3Yc6Rn"

    async def _ask(self, method: str, path: str, *, body: Any = None, expect: int = 200) -> Any:
        return await self._fleet.ask(self._process(), method, path, token=self._token, body=body, expect=expect)

    async def _me(self) -> None:
        assert (await self._ask("GET", "/api/v1/auth/me"))["username"] == self._member

    async def _list(self) -> None:
        found = {each["id"] for each in (await self._ask("GET", "/api/v1/credentials?limit=100"))["items"]}
        assert self.secrets.keys() <= found

    async def _by_api_token(self) -> None:
        found = await self._fleet.ask(self._process(), "GET", "/api/v1/credentials?limit=100", token=self._api_token)
        assert self.secrets.keys() <= {each["id"] for each in found["items"]}

    async def _refresh(self) -> None:
        body = {"refresh_token": self._refresh_token}
        self._take(await self._fleet.ask(self._process(), "POST", "/api/v1/auth/refresh", body=body))

    async def _add(self) -> None:
        if len(self._ids) == KEPT:
            return
        secret = self._secret()
        body = {"provider": "openai", "label": f"{self._name} {len(self._ids)}", "secret": secret}
        stored = await self._ask("POST", "/api/v1/credentials", body=body, expect=201)
        self._ids.append(stored["id"])
        self.secrets[stored["id"]] = secret

    async def _look(self) -> None:
        if self._ids:
            chosen = self._random.choice(self._ids)
            assert (await self._ask("GET", f"/api/v1/credentials/{chosen}"))["masked"].endswith(
                self.secrets[chosen][-4:]
            )

    async def _reveal(self) -> None:
        if self._ids:
            chosen = self._random.choice(self._ids)
            shown = await self._ask("POST", f"/api/v1/credentials/{chosen}/reveal")
            assert shown["secret"] == self.secrets[chosen]

    async def _replace(self) -> None:
        if self._ids:
            chosen, secret = self._random.choice(self._ids), self._secret()
            await self._ask("PUT", f"/api/v1/credentials/{chosen}/secret", body={"secret": secret})
            self.secrets[chosen] = secret

    async def require_everything(self, process: int) -> None:
        """Every secret that was acknowledged is what that process shows."""
        for credential_id, secret in self.secrets.items():
            path = f"/api/v1/credentials/{credential_id}/reveal"
            assert (await self._fleet.ask(process, "POST", path, token=self._token))["secret"] == secret


async def _rotate(services: Services, name: KeyName) -> None:
    """To the end, or as far as a rotation of JWT_SECRET_KEY goes before tokens have expired."""
    operator = await services.identity.operator()
    job = await services.rotation.rotate(operator, name)
    async for _ in services.rotation.follow(job.id):
        pass
    job = await services.jobs.get(operator, job.id)
    expected = (JobState.WAITING, "overlap") if name is JWT else (JobState.DONE, "done")
    assert (job.state, job.progress.step, job.error) == (*expected, None)


async def _served_throughout(place: Place, rotations: int) -> None:
    async with _fleet(place) as fleet, place.services() as services:
        await _add_members(services)
        clients = [Client(fleet, member, number) for member in MEMBERS for number in range(CLIENTS_PER_MEMBER)]
        for client in clients:
            await client.log_in()
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(client.ask_until(enough))
            for number in range(rotations):
                before = sum(fleet.answers.values())
                await _rotate(services, (JWT, AES)[number % 2])
                assert not fleet.wrong, fleet.wrong
                assert sum(fleet.answers.values()) > before + len(clients), "nobody asked during the rotation"
                if number % 20 == 19:  # the proof of a password lasts for ten minutes
                    for client in clients:
                        await client.log_in()
            served = sum(client.done["by_api_token"] for client in clients)
            await _rotate(services, KeyName.API_SECRET_KEY)  # of which API tokens have their MACs
            while sum(client.done["by_api_token"] for client in clients) < served + len(clients):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            enough.set()
        assert not fleet.wrong, fleet.wrong
        assert services.keys.ring.keysets[AES].primary.version == 1 + rotations // 2
        assert services.keys.ring.keysets[JWT].primary.version == 1 + (rotations + 1) // 2
        for method, process in itertools.product(("GET", "POST", "PUT"), range(len(PROCESSES))):
            assert fleet.answers[method, process], f"no {method} was asked of process {process}"
        for client in clients:
            assert client.done.keys() >= {"me", "list", "look", "reveal", "add", "replace"}
            for process in range(len(PROCESSES)):
                await client.require_everything(process)
    done = await asyncio.to_thread(place.command, "credentials", "verify")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
async def test_nobody_is_turned_away_and_nothing_is_lost_during_rotations(place: Place) -> None:
    await _served_throughout(place, ROTATIONS)


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_nobody_is_turned_away_and_nothing_is_lost_during_a_hundred_rotations(place: Place) -> None:
    await _served_throughout(place, 100)


# ---------------------------------------------------------------------------------------------------------------------
# Revocation and propagation
# ---------------------------------------------------------------------------------------------------------------------


async def _refused_by_all(fleet: Fleet, token: str, began: float) -> None:
    for process in range(len(PROCESSES)):
        while await fleet.status(process, token) != 401:
            still = f"process {process} still takes a revoked token"
            assert pace.within(time.monotonic() - began, REVOCATION_SECONDS), still


async def _known_to_all(fleet: Fleet, token: str, name: KeyName, version: int) -> datetime:
    """When the last process says that this version is primary."""
    for process in range(len(PROCESSES)):
        async with asyncio.timeout(90):
            while True:
                if await _primary(fleet, process, token, name) == version:
                    break
                await asyncio.sleep(0.05)
    return datetime.now(UTC)


async def _primary(fleet: Fleet, process: int, token: str, name: KeyName) -> int:
    keys = (await fleet.ask(process, "GET", "/api/v1/admin/keys", token=token))["items"]
    found = next(each for each in keys if each["name"] == name.value)
    return next(int(each["version"]) for each in found["versions"] if each["primary"])


@pytest.mark.slow
async def test_tokens_of_a_revoked_version_die_everywhere_at_once_and_new_ones_work(place: Place) -> None:
    async with _fleet(place) as fleet, place.services() as services:
        operator = await services.identity.operator()
        everywhere = range(len(PROCESSES))
        for version in range(1, 5):
            old = await fleet.log_in(version % len(PROCESSES), OWNER)
            token = old["access_token"]
            assert [await fleet.status(process, token) for process in everywhere] == [200] * len(PROCESSES)
            await services.rotation.revoke(operator, JWT, version)
            revoked = time.monotonic()
            # At once, of processes that may have heard nothing yet, several times at the same moment.
            new = (await fleet.log_in((version + 1) % len(PROCESSES), OWNER))["access_token"]
            asked = [fleet.status(process, new) for process in everywhere for _ in range(5)]
            assert set(await asyncio.gather(*asked)) == {200}
            await _refused_by_all(fleet, token, revoked)
            assert pace.within(time.monotonic() - revoked, REVOCATION_SECONDS)
            # The session was not revoked: its refresh token gets a token that the new version signed.
            body = {"refresh_token": old["refresh_token"]}
            refreshed = await fleet.ask(version % len(PROCESSES), "POST", "/api/v1/auth/refresh", body=body)
            assert [await fleet.status(process, refreshed["access_token"]) for process in everywhere] == [200] * 3
            assert [await fleet.status(process, token) for process in everywhere] == [401] * 3
        assert not fleet.wrong


@pytest.mark.slow
async def test_a_rotation_is_known_to_every_process_within_two_seconds(place: Place) -> None:
    async with _fleet(place) as fleet, place.services() as services:
        operator = await services.identity.operator()
        token = (await fleet.log_in(0, OWNER))["access_token"]
        for version, name in itertools.product((2, 3), (KeyName.ENCRYPTION_KEY, AES)):
            known = asyncio.create_task(_known_to_all(fleet, token, name, version))
            job = await services.rotation.rotate(operator, name)
            async for each in services.rotation.follow(job.id):
                job = each
            assert job.state is JobState.DONE
            primary = services.keys.ring.keysets[name].primary
            assert primary.activated_at is not None
            assert pace.within((await known - primary.activated_at).total_seconds(), PROPAGATION_SECONDS)


async def test_of_two_who_revoke_at_once_one_hears_that_it_is_done(place: Place) -> None:
    async with place.services() as one, place.services() as other:
        operator = await one.identity.operator()
        outcomes = await asyncio.gather(
            *(each.rotation.revoke(operator, AES, 1) for each in (one, other, one, other)), return_exceptions=True
        )
        assert [each for each in outcomes if isinstance(each, BaseException)] == []
        await one.keys.reload()
        assert one.keys.ring.keysets[AES].primary.version == 2
