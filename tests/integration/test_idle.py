"""A process that nobody asks anything sends nearly nothing: a message counts on a server that many processes share.

Time passes only where the process waits for a change, so that counts are those of renewals, whatever the machine does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from app.domain.instances import CONFIRM_EVERY_SECONDS, LEASE_SECONDS, RENEW_EVERY_SECONDS
from app.domain.keys import KeyName
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.database.engine import open_database
from app.infrastructure.database.unit_of_work import SqlStorage
from app.services.instances import InstanceService
from app.settings import DatabaseUrl
from app.worker import loop as worker
from tests.support.database import migrated
from tests.support.fakes import FakeClock
from tests.support.keyhall import open_keyhall
from tests.support.traffic import Sent, on_the_wire, short, traced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path

    from tests.support.keyhall import Keyhall

RENEWALS: Final = 15
SECONDS: Final = RENEWALS * RENEW_EVERY_SECONDS


@dataclass
class Quiet:
    """A feed and its subscription: nothing changes, and time passes while somebody waits for that."""

    clock: FakeClock
    prompt: bool
    until: float = 0.0
    over: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    def subscribe(self) -> Quiet:
        return self

    async def changed(self, within: float) -> bool:
        if self.clock.monotonic() >= self.until:
            self.goes_on.clear()
            self.over.set()
            await self.goes_on.wait()
        self.clock.advance(timedelta(seconds=within))
        return False

    async def passes(self, seconds: float) -> None:
        """Let that much time pass, and return when the process waits again."""
        self.until = self.clock.monotonic() + seconds
        self.over.clear()
        self.goes_on.set()
        await self.over.wait()


@dataclass
class Process:
    """A process whose keys and lease are on the connections that are kept for them."""

    keyhall: Keyhall
    feed: Quiet
    sent: Sent

    async def sends(self, seconds: float) -> dict[str, int]:
        """What it sends while so much time passes."""
        await asyncio.sleep(0)  # what was traced in another thread arrives
        self.sent.clear()
        await self.feed.passes(seconds)
        await asyncio.sleep(0)
        return Counter(short(each) for each in self.sent.everything)


@asynccontextmanager
async def _process(url: str, sent: Sent, *, prompt: bool) -> AsyncIterator[Process]:
    async with open_database(DatabaseUrl.parse(url), may_create=False) as database:
        clock = FakeClock()
        keyhall = await open_keyhall(SqlStorage(database, reserved=True), clock, SystemRandomness())
        yield Process(keyhall, Quiet(clock, prompt), sent)


@asynccontextmanager
async def _heard(url: str, directory: Path) -> AsyncIterator[tuple[str, Sent]]:
    async with migrated(url):
        pass
    async with on_the_wire(url, directory) as heard:
        yield heard


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def recorded(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[str, Sent]]:
    """The URL of a database of either engine, and what is sent to it."""
    if request.param == "postgresql":
        async with _heard(request.getfixturevalue("postgres_url"), tmp_path) as heard:
            yield heard
        return
    url = request.getfixturevalue("sqlite_url")
    with traced(monkeypatch) as sent:
        async with migrated(url):
            yield url, sent


@asynccontextmanager
async def _running(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _instances(process: Process) -> InstanceService:
    keyhall = process.keyhall
    return InstanceService(
        storage=keyhall.storage,
        keys=keyhall.keys,
        feed=process.feed,
        clock=keyhall.clock,
        randomness=keyhall.randomness,
        kind="test",
    )


async def test_an_idle_process_renews_its_lease_and_sends_nothing_else(recorded: tuple[str, Sent]) -> None:
    """On PostgreSQL the renewal confirms the keys as well; on SQLite no statement is needed for that."""
    url, sent = recorded
    async with _process(url, sent, prompt=True) as process:
        instances = _instances(process)
        async with instances.present():
            await process.feed.passes(LEASE_SECONDS)  # every statement has been prepared
            found = await process.sends(SECONDS)
            assert process.keyhall.keys.confirmed
            assert process.keyhall.keys.leased
    expected = dict.fromkeys(("BEGIN", "UPDATE instances", "COMMIT"), RENEWALS)
    if url.startswith("postgresql"):
        expected["SELECT app_config"] = RENEWALS
    assert found == expected


async def test_keys_that_changed_unnoticed_are_taken_up_with_the_next_renewal(recorded: tuple[str, Sent]) -> None:
    """A notification can be lost."""
    url, sent = recorded
    async with _process(url, sent, prompt=True) as process:
        keyhall = process.keyhall
        instances = _instances(process)
        async with instances.present():
            await process.feed.passes(LEASE_SECONDS)
            (before, *_) = await instances.live()
            await keyhall.rotate(KeyName.AES_KEY)
            await process.feed.passes(RENEW_EVERY_SECONDS)
            (after, *_) = await instances.live()
            assert after.epochs == keyhall.keys.epochs != before.epochs


@pytest.mark.postgres
async def test_where_nobody_can_listen_the_keys_are_confirmed_every_second(postgres_url: str, tmp_path: Path) -> None:
    async with (
        _heard(postgres_url, tmp_path) as (url, sent),
        _process(url, sent, prompt=False) as process,
        _instances(process).present(),
    ):
        await process.feed.passes(LEASE_SECONDS)
        found = await process.sends(SECONDS)
    assert found["SELECT app_config"] == SECONDS / CONFIRM_EVERY_SECONDS
    assert found["COMMIT"] == RENEWALS


async def test_an_idle_worker_looks_for_jobs_now_and_then_and_commits_nothing(recorded: tuple[str, Sent]) -> None:
    url, sent = recorded
    async with _process(url, sent, prompt=True) as process:
        services = replace(process.keyhall.services, feed=process.feed)
        async with _running(worker._work(services)):
            await process.feed.passes(worker.LOOK_WHEN_NOTIFIED_SECONDS)
            found = await process.sends(10 * worker.LOOK_WHEN_NOTIFIED_SECONDS)
    assert found["SELECT jobs"] == 10
    assert "COMMIT" not in found
