"""Twenty writers while AES_KEY is rotated: whatever was acknowledged is what is stored, and no version is skipped."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from app.domain.credentials import CredentialView
from app.domain.encrypted_columns import CREDENTIAL_SECRETS, FORMER_SECRETS
from app.domain.errors import NotReady, VersionConflict
from app.domain.identity import Actor, Client, Role, Source
from app.domain.jobs import JobState
from app.domain.keys import KeyName
from app.services import Services
from app.services.credentials import CredentialService
from tests.support.installs import Place

AES = KeyName.AES_KEY
PROCESSES = 3
T = TypeVar("T")
WRITERS = 20
CONTENDED = 2
"""Credentials that all writers are after; each also has one that nobody else touches."""


def _actor(name: str) -> Actor:
    return Actor(
        user_id=f"user-{name}",
        subject_id=None,
        username=name,
        role=Role.MEMBER,
        client=Client(source=Source.WEB),
        authenticated_at=datetime.now(UTC) + timedelta(days=1),
    )


EVERYBODY = _actor("everybody")


@dataclass
class Kept:
    """What a credential must be, from what was acknowledged: a secret per version, and which of them are former."""

    view: CredentialView
    secret: str
    former: dict[int, str] = field(default_factory=dict)

    def replaced(self, view: CredentialView, secret: str) -> None:
        self.former[self.view.version] = self.secret
        self.took_effect(view)
        self.secret = secret

    def took_effect(self, view: CredentialView) -> None:
        """Exactly one version further: a re-encryption in between has counted nothing."""
        assert view.version == self.view.version + 1
        self.view = view


class Writer:
    """One credential of its own, changed in every way through one process after the other."""

    def __init__(self, number: int, processes: Sequence[Services]) -> None:
        self.actor = _actor(f"writer-{number}")
        self._random = random.Random(number)
        self._processes = processes
        self._numbers = itertools.count()
        self._name = number
        self.changes = 0

    def _secret(self) -> str:
        return f"sk-proj-writer-{self._name}-{next(self._numbers)}-4f9aTq7ZbX2mLw8vKd3Yc6Rn"

    async def _served(self, act: Callable[[CredentialService], Awaitable[T]]) -> T:
        """Ask a process as the edges do: once it may serve; and again where it could not, on a busy machine."""
        while True:
            process = self._random.choice(self._processes)
            try:
                await process.instances.catch_up()
                return await act(process.credentials)
            except NotReady:
                await asyncio.sleep(0)

    async def begin(self) -> None:
        secret = self._secret()
        added = await self._served(lambda it: it.add(self.actor, provider="openai", label="own", secret=secret))
        self.kept = Kept(added.view, secret)

    async def write_until(self, enough: asyncio.Event, contested: Sequence[Contested]) -> None:
        while not enough.is_set():
            await self._change_own()
            await self._contend(self._random.choice(contested))
            self.changes += 1

    async def _change_own(self) -> None:
        kept, own = self.kept, self.kept.view.id
        match self._random.randrange(6):
            case 0 | 1:
                secret = self._secret()
                replaced = await self._served(lambda it: it.replace(self.actor, own, secret))
                kept.replaced(replaced.view, secret)
            case 2:
                label = f"own {kept.view.version}"
                kept.took_effect(await self._served(lambda it: it.change(self.actor, own, label=label)))
            case 3:
                await self._served(lambda it: it.remove(self.actor, own))
                restored = await self._served(lambda it: it.restore(self.actor, own))
                assert restored.version == kept.view.version + 2
                kept.view = restored
            case 4 if kept.former:
                former = kept.former[max(kept.former)]
                back = await self._served(lambda it: it.rollback(self.actor, own))
                kept.replaced(back.view, former)
            case _:
                assert (await self._served(lambda it: it.reveal(self.actor, own))).reveal() == kept.secret

    async def _contend(self, contested: Contested) -> None:
        """As a client does: read, and replace what was read or hear that somebody was faster."""
        secret = self._secret()
        seen = await self._served(lambda it: it.get(EVERYBODY, contested.id))
        try:
            await self._served(lambda it: it.replace(EVERYBODY, contested.id, secret, expected_version=seen.version))
        except VersionConflict:
            return
        contested.acknowledge(seen.version + 1, secret)


@dataclass
class Contested:
    """A credential that everybody is after: of every version exactly one writer may have heard that it is theirs."""

    id: str
    secrets: dict[int, str]

    def acknowledge(self, version: int, secret: str) -> None:
        assert version not in self.secrets, "two writers were told that the same version is theirs"
        self.secrets[version] = secret


@asynccontextmanager
async def _processes(place: Place) -> AsyncIterator[list[Services]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(place.services()) for _ in range(PROCESSES)]


async def _rotate(services: Services) -> None:
    operator = await services.identity.operator()
    job = await services.rotation.rotate(operator, AES)
    async for each in services.rotation.follow(job.id):
        job = each
    assert (job.state, job.error) == (JobState.DONE, None)


async def _require_stored(services: Services, credential_id: str, secrets: dict[int, str]) -> CredentialView:
    """The credential and its history are what was acknowledged, version by version; the view of it."""
    cipher = services.credentials._cipher
    async with services.credentials._storage.read() as uow:
        record = await uow.credentials.get(credential_id)
        history = await uow.credentials.history(credential_id)
    assert record is not None
    assert cipher.decrypt(record) == secrets[record.version]
    assert history
    assert {each.version for each in history} <= secrets.keys() - {record.version}
    for each in history:
        assert cipher.decrypt_former(each, record.owner) == secrets[each.version]
    return await services.credentials.get(
        EVERYBODY if record.owner.id == EVERYBODY.user_id else _actor(record.owner.id.removeprefix("user-")),
        credential_id,
    )


async def _nothing_is_lost(place: Place, rotations: int) -> None:
    async with _processes(place) as processes:
        contested = []
        for number in range(CONTENDED):
            secret = f"sk-proj-contested-{number}-Hn5sPw1JxU8eQg2Bt7Vf4Mz9"
            added = await processes[0].credentials.add(
                EVERYBODY, provider="openai", label=f"contested {number}", secret=secret
            )
            contested.append(Contested(added.view.id, {1: secret}))
        writers = [Writer(number, processes) for number in range(WRITERS)]
        for writer in writers:
            await writer.begin()

        enough = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for writer in writers:
                tasks.create_task(writer.write_until(enough, contested))
            for number in range(rotations):
                before = [writer.changes for writer in writers]
                await _rotate(processes[number % PROCESSES])
                assert sum(writer.changes for writer in writers) > sum(before), "nobody wrote during the rotation"
            enough.set()
        assert all(writer.changes for writer in writers)

        for services in processes:
            for writer in writers:
                kept = writer.kept
                secrets = {**kept.former, kept.view.version: kept.secret}
                assert await _require_stored(services, kept.view.id, secrets) == kept.view
            for each in contested:
                assert sorted(each.secrets) == list(range(1, len(each.secrets) + 1)), "a version is nobody's"
                view = await _require_stored(services, each.id, each.secrets)
                assert view.version == len(each.secrets)
        await _everything_is_under_the_primary(processes[0], 1 + rotations)


async def _everything_is_under_the_primary(services: Services, version: int) -> None:
    keyset = services.keys.ring.keysets[AES]
    assert keyset.primary.version == version
    assert [each.version for each in keyset if each.retired_at is not None] == list(range(1, version))
    async with services.credentials._storage.read() as uow:
        for column in (CREDENTIAL_SECRETS, FORMER_SECRETS):
            rows = await uow.encrypted_rows.all(column, after=None, limit=10_000)
            assert len(rows) >= WRITERS
            assert set(services.credentials._cipher.opened_by(column, rows)) == {version}
            assert {row.key_version for row in rows} == {version}


@pytest.mark.slow
async def test_no_update_of_twenty_writers_is_lost_during_rotations(engine_url: str, tmp_path: Path) -> None:
    await _nothing_is_lost(Place(engine_url, tmp_path / "data"), rotations=3)


@pytest.mark.faults
@pytest.mark.timeout(1200)
async def test_no_update_of_twenty_writers_is_lost_during_many_rotations(engine_url: str, tmp_path: Path) -> None:
    await _nothing_is_lost(Place(engine_url, tmp_path / "data"), rotations=60)
