"""A process that is stopped past its leases while keys change writes nothing under the old ones when it wakes up."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from sqlalchemy.engine import make_url

from app.domain.instances import LEASE_SECONDS
from app.domain.jobs import JobState
from app.domain.keys import KeyName
from tests.support import pace
from tests.support.installs import Place, Running, sign_in, sign_up
from tests.support.processes import Process
from tests.support.rotations import (
    CHANGE_KEY,
    Change,
    Ledger,
    fill,
    follow,
    lapse,
    require_completed,
    rotations,
    start,
    stored,
    under,
)

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

PASSWORD = "correct horse battery staple"
WRITERS = 8
MORE = 3
"""How often each writer has to succeed again, once the process is awake."""


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


@pytest.fixture
def server(place: Place, request: pytest.FixtureRequest) -> PostgresServer | None:
    """The server of that place, where it has one."""
    return request.getfixturevalue("postgres_server") if place.url.startswith("postgresql") else None


# ---------------------------------------------------------------------------------------------------------------------
# A web process in the middle of requests
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Member:
    """Replaces the secret of one credential over and over, and keeps account of what was acknowledged."""

    client: aiohttp.ClientSession
    number: int
    id: str = ""
    secrets: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    enough: int = 1_000_000
    stored: asyncio.Event = field(default_factory=asyncio.Event)
    """That there are some replaced ones among them."""

    async def add(self) -> None:
        body = {"provider": "openai", "label": f"number {self.number}", "secret": self._next()}
        async with self.client.post("/api/v1/credentials", json=body) as answer:
            assert answer.status == 201, await answer.text()
            self.id = (await answer.json())["id"]
        self.secrets.append(body["secret"])

    async def replace(self) -> None:
        secret = self._next()
        async with self.client.put(f"/api/v1/credentials/{self.id}/secret", json={"secret": secret}) as answer:
            if answer.status == 200:
                self.secrets.append(secret)
                if len(self.secrets) > MORE:
                    self.stored.set()
            else:
                self.refused.append(answer.status)

    async def replace_until_enough(self) -> None:
        while len(self.secrets) < self.enough:
            await self.replace()

    def _next(self) -> str:
        return f"sk-proj-{self.number}-{len(self.secrets)}-4f9aTq7ZbX2mLw8vKd3Yc6Rn"


_RUNNING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'
    AND wait_event_type IS DISTINCT FROM 'Lock' AND wait_event_type IS DISTINCT FROM 'Client'
"""
"""Statements that will be over in a moment, whatever becomes of the process that sent them."""
_HELD = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON oid = database
    WHERE datname = current_database() AND locktype = 'advisory' AND mode = 'ShareLock' AND granted
"""
"""Transactions in which somebody relies on it that the keys do not change."""


def _inside_a_transaction(place: Place, server: PostgresServer | None) -> bool:
    """Whether a transaction is open that does not let anybody change the keys."""
    if server is not None:
        database = str(make_url(place.url).database)
        while server.execute(_RUNNING, database=database) != "0":
            pass
        return server.execute(_HELD, database=database) != "0"
    path = place.url.removeprefix("sqlite+aiosqlite:///")
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            # The second: it is about to begin or to end one, and holds what is held for a moment only.
            if error.sqlite_errorcode not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL}:
                raise
            return True
        connection.execute("ROLLBACK")
        return False


def _every_thread_stopped(pid: int) -> bool:
    """A signal takes a moment to reach a thread that runs on another core, which may take a lock until then."""
    try:
        stats = [each.read_text(encoding="utf-8") for each in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):  # one has just ended
        return False
    return {each.rpartition(")")[2].split()[0] for each in stats} == {"T"}


def _stop(running: Running, place: Place, server: PostgresServer | None) -> None:
    """Stop it inside a transaction: PostgreSQL takes its locks away in the end. On SQLite nobody can, so outside."""
    for _ in range(10_000):
        os.kill(running.process.pid, signal.SIGSTOP)
        while not _every_thread_stopped(running.process.pid):
            time.sleep(0.001)
        if _inside_a_transaction(place, server) == (server is not None):
            return
        os.kill(running.process.pid, signal.SIGCONT)
    raise AssertionError("it was never stopped at such a moment")


async def _stopped_while_keys_change(place: Place, server: PostgresServer | None) -> None:
    timeout = aiohttp.ClientTimeout(total=90)
    with place.running("web") as running:
        address, token = await asyncio.to_thread(running.address), await asyncio.to_thread(running.setup_token)
        async with aiohttp.ClientSession(address, timeout=timeout) as client:
            await sign_up(client, token, "alice", PASSWORD)
            await sign_in(client, "alice", PASSWORD)
            members = [Member(client, number) for number in range(WRITERS)]
            for each in members:
                await each.add()
            writing = [asyncio.create_task(each.replace_until_enough()) for each in members]
            async with asyncio.timeout(90):
                await asyncio.gather(*(each.stored.wait() for each in members))
            await asyncio.to_thread(_stop, running, place, server)
            stopped = time.monotonic()
            async with place.services() as services:
                actor = await services.identity.operator()
                job = await follow(services, await services.rotation.rotate(actor, KeyName.AES_KEY))
                assert (job.state, job.error) == (JobState.DONE, None)
                took = time.monotonic() - stopped
                assert took > LEASE_SECONDS - 5
                assert pace.within(took, 25)
                assert services.keys.ring.keysets[KeyName.AES_KEY].primary.version == 2
                assert await under(services) == {2}
            for each in members:
                each.refused.clear()
                each.enough = len(each.secrets) + 1 + MORE  # the answer to one may be on its way already
            os.kill(running.process.pid, signal.SIGCONT)
            async with asyncio.timeout(90):
                await asyncio.gather(*writing)
        assert running.end() == 0
    assert Counter(status for each in members for status in each.refused).keys() <= {503, 504}
    async with place.services() as services:
        assert await under(services) == {2}
        found = await stored(services)
    for each in members:
        # A request whose commit was not answered (504) may have committed; what was acknowledged is there, in order.
        assert [secret for secret in found[each.id] if secret in each.secrets][-MORE:] == each.secrets[-MORE:]
        assert found[each.id][-1] == each.secrets[-1]


@pytest.mark.slow
async def test_a_process_that_is_stopped_while_aes_key_is_rotated_writes_nothing_under_the_old_version(
    place: Place, server: PostgresServer | None
) -> None:
    """It does not hold the rotation up for longer than its lease lasts, either."""
    await _stopped_while_keys_change(place, server)


# ---------------------------------------------------------------------------------------------------------------------
# A process in the middle of a job
# ---------------------------------------------------------------------------------------------------------------------


async def _contents(place: Place) -> dict[str, list[tuple[Any, ...]]]:
    """Everything but who lives."""
    return {table: rows for table, rows in (await place.contents()).items() if table != "instances"}


async def _started_and_stopped(place: Place, change: Change, moment: int) -> Process | None:
    """A process that stopped at that moment; None where it came to its end before."""
    process = start(place, *CHANGE_KEY, *change.arguments, str(moment), "stop")
    async with asyncio.timeout(60):
        while not process.stopped():
            if process.poll() is not None:
                process.communicate()
                return None
            await asyncio.sleep(0.01)
    return process


async def _stopped_worker(place: Place, server: PostgresServer | None, change: Change, moment: int) -> None:
    async with place.services() as services:
        ledger = await fill(services)
    for _ in range(10):
        process = await _started_and_stopped(place, change, moment)
        if process is None:
            continue
        try:
            if await _working(place) and not _half_said(place, server):
                await _taken_over(place, process, change, ledger)
                return
        finally:
            process.kill()
            process.communicate()
        await lapse(place)
        moment += 1
    pytest.fail("no process was ever stopped in the middle of its job")


async def _taken_over(place: Place, process: Process, change: Change, ledger: Ledger) -> None:
    await lapse(place)
    async with place.services() as services:
        for job in await rotations(services):
            await follow(services, job)
        before = await _contents(place)
        os.kill(process.pid, signal.SIGCONT)
        await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == 0
        assert await _contents(place) == before, "it changed something when it woke up"
        await require_completed(place, services, change, ledger)


async def _working(place: Place) -> bool:
    """Whether somebody has claimed a job and not given it back."""
    return any("running" in row for row in (await place.contents())["jobs"])


def _half_said(place: Place, server: PostgresServer | None) -> bool:
    """Whether PostgreSQL waits for the rest of a message inside a transaction, which it does without end.

    That may be where a connection sends a statement for the first time. It counts as running then, not as idle, so
    that no timeout of the server ends it and gives its locks back.
    """
    if server is None:
        return False
    half_said = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'active' AND wait_event = 'ClientRead'
    """
    return server.execute(half_said, database=str(make_url(place.url).database)) != "0"


@pytest.mark.parametrize("moment", [6, 12])
async def test_a_worker_that_was_stopped_until_another_took_its_job_over_commits_nothing(
    place: Place, server: PostgresServer | None, moment: int
) -> None:
    """Its claim lapses in the table; by its own clock its lease as a process still lasts, so the claim alone holds."""
    await _stopped_worker(place, server, Change("rotate", KeyName.AES_KEY), moment)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", range(4, 20))
@pytest.mark.parametrize("name", [KeyName.AES_KEY, KeyName.API_SECRET_KEY])
async def test_a_worker_that_was_stopped_anywhere_until_another_took_its_job_over_commits_nothing(
    place: Place, server: PostgresServer | None, name: KeyName, moment: int
) -> None:
    await _stopped_worker(place, server, Change("rotate", name), moment)
