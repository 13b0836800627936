"""A change of a key that is killed anywhere: nothing acknowledged is lost, and the same command again completes it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import make_url

from app.domain.credentials import HISTORY_KEPT
from app.domain.errors import StorageError
from app.domain.keys import KeyName
from app.domain.rotation import Step
from app.services import Services
from app.services.rotation import passes
from tests.support.installs import Place
from tests.support.postgres import PostgresServer
from tests.support.rotations import (
    CHANGE_KEY,
    WRITE_SECRETS,
    Change,
    Ledger,
    fill,
    lapse,
    require_completed,
    require_one_primary,
    rotations,
    start,
    stored,
)
from tests.support.strace import Point, killed, points, spread

ROTATE_AES = Change("rotate", KeyName.AES_KEY)
REVOKE_AES = Change("revoke", KeyName.AES_KEY)
ROTATE_JWT = Change("rotate", KeyName.JWT_SECRET_KEY)
ROTATE_API = Change("rotate", KeyName.API_SECRET_KEY)
SAMPLE = {ROTATE_AES: 4, REVOKE_AES: 2, ROTATE_JWT: 2, ROTATE_API: 2}
CHANGES = [pytest.param(each, id=f"{each.action}-{each.name}") for each in SAMPLE]


# ---------------------------------------------------------------------------------------------------------------------
# Installs full of secrets, as many as wanted
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filled:
    """An install that is copied for every death; on PostgreSQL its database is a template."""

    root: Path
    url: str
    ledger: Ledger
    server: PostgresServer | None = None

    def copy(self, into: Path) -> Place:
        shutil.copytree(self.root, into)
        if self.server is None:
            return Place(f"sqlite+aiosqlite:///{into / 'keyhall.db'}", into / "data")
        template = make_url(self.url).database
        assert template is not None
        return Place(self.server.url(self.server.create_database(template=template)), into / "data")


def _filled(url: str, root: Path, server: PostgresServer | None = None) -> Filled:
    async def build() -> Ledger:
        async with Place(url, root / "data").services() as services:
            return await fill(services)

    return Filled(root, url, asyncio.run(build()), server)


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    root = tmp_path_factory.mktemp("filled")
    return _filled(f"sqlite+aiosqlite:///{root / 'keyhall.db'}", root)


@pytest.fixture(scope="module")
def on_postgres(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    url = postgres_server.url(postgres_server.create_database())
    return _filled(url, tmp_path_factory.mktemp("filled"), postgres_server)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def filled(request: pytest.FixtureRequest) -> Filled:
    found: Filled = request.getfixturevalue({"sqlite": "on_sqlite", "postgresql": "on_postgres"}[request.param])
    return found


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Path]:
    """Names for copies."""
    return (tmp_path / str(number) for number in count())


async def _require_nothing_lost_and_completed_again(place: Place, change: Change, ledger: Ledger) -> None:
    """What has to hold after a death, whenever it came; the leases of the dead have lapsed."""
    async with place.services() as services:
        require_one_primary(services, change.name)
        assert await stored(services) == ledger.secrets
        before = [job for job in await rotations(services) if job.state.over or job.progress.step == Step.OVERLAP]
        await change.make(services)
        await require_completed(place, services, change, ledger)
        # Once more only where the first one was over: then it was another rotation that was asked for.
        again = len(before) if change.action == "rotate" else 0
        assert [each.version for each in services.keys.ring.keysets[change.name]] == list(range(1, 3 + again))


# ---------------------------------------------------------------------------------------------------------------------
# SQLite: at every call that changes a file
# ---------------------------------------------------------------------------------------------------------------------


async def _killed_at(filled: Filled, change: Change, point: Point, at: Path) -> bool:
    place = filled.copy(at)
    died = killed(place, [*CHANGE_KEY, *change.arguments], point)
    await lapse(place)
    await _require_nothing_lost_and_completed_again(place, change, filled.ledger)
    assert not list(place.data_dir.glob(".*.new")), point
    shutil.rmtree(at)
    return died


async def _killed_at_each(filled: Filled, change: Change, places: Iterator[Path], sample: int | None) -> None:
    found = points(filled.copy(next(places)), [*CHANGE_KEY, *change.arguments])
    assert len(found) >= 60
    calls = {point.call for point in found}
    assert {"pwrite64", "fdatasync", "fsync"} < calls
    assert any(call.startswith("rename") for call in calls)
    chosen = found if sample is None else spread(found, sample)
    died = [await _killed_at(filled, change, point, next(places)) for point in chosen]
    # How often a process renews its lease is a matter of time: the very last points may not come up again.
    assert sum(died) >= 0.9 * len(chosen)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_that_is_killed_at_a_write_loses_nothing_and_is_completed(
    on_sqlite: Filled, places: Iterator[Path], change: Change
) -> None:
    await _killed_at_each(on_sqlite, change, places, SAMPLE[change])


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_that_is_killed_anywhere_loses_nothing_and_is_completed(
    on_sqlite: Filled, places: Iterator[Path], change: Change
) -> None:
    await _killed_at_each(on_sqlite, change, places, None)


# ---------------------------------------------------------------------------------------------------------------------
# PostgreSQL: at any statement, the process or its connection
# ---------------------------------------------------------------------------------------------------------------------


def _statements(place: Place, change: Change) -> int:
    """How many statements and commits a change takes when nobody dies."""
    process = start(place, *CHANGE_KEY, *change.arguments)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return int(said.split()[-1])


async def _dead_at_statements(
    filled: Filled, change: Change, places: Iterator[Path], *, seed: int, rounds: int
) -> None:
    moments = random.Random(seed).sample(range(1, _statements(filled.copy(next(places)), change)), rounds)
    for moment in moments:
        place = filled.copy(next(places))
        process = start(place, *CHANGE_KEY, *change.arguments, str(moment))
        process.communicate(timeout=60)
        assert process.returncode in {0, -signal.SIGKILL}, moment
        await lapse(place)
        await _require_nothing_lost_and_completed_again(place, change, filled.ledger)


@pytest.mark.postgres
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_that_is_killed_at_a_statement_loses_nothing_and_is_completed(
    on_postgres: Filled, places: Iterator[Path], change: Change
) -> None:
    await _dead_at_statements(on_postgres, change, places, seed=1, rounds=SAMPLE[change])


@pytest.mark.faults
@pytest.mark.postgres
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_that_is_killed_at_many_statements_loses_nothing_and_is_completed(
    on_postgres: Filled, places: Iterator[Path], change: Change, seed: int
) -> None:
    await _dead_at_statements(on_postgres, change, places, seed=100 + seed, rounds=20)


class Severing:
    """Ends the connection that is about to run a statement or to commit, every now and then, as a seed has it."""

    def __init__(self, services: Services, server: PostgresServer, *, seed: int, times: int, every: int) -> None:
        self._server = server
        self._random = random.Random(seed)
        self._every = every
        self._left = times
        self._wait = self._random.randint(1, every)
        self.severed = 0
        engine = services.jobs._storage._database.dialect.writer.sync_engine  # type: ignore[attr-defined]
        event.listen(engine, "before_cursor_execute", self._meet)
        event.listen(engine, "commit", self._meet)

    def _meet(self, connection: Any, *_: object) -> None:
        if self._left == 0:
            return
        self._wait -= 1
        if self._wait == 0:
            self._left -= 1
            self._wait = self._random.randint(1, self._every)
            pid = connection.connection.driver_connection.get_server_pid()
            assert self._server.execute(f"SELECT pg_terminate_backend({pid}, 5000)") == "t"
            self.severed += 1


async def _severed(filled: Filled, change: Change, at: Path, *, seed: int, times: int) -> None:
    assert filled.server is not None
    place = filled.copy(at)
    async with place.services() as services:
        severing = Severing(services, filled.server, seed=seed, times=times, every=25)
        async with asyncio.timeout(100):
            while not await _made(services, change):
                # Nobody is left who holds a claim, and the pauses between attempts are not what this is about.
                await place.execute("UPDATE jobs SET run_at = created_at, lease_until = created_at")
    assert severing.severed >= 3
    async with place.services() as services:
        require_one_primary(services, change.name)
        await require_completed(place, services, change, filled.ledger)


async def _made(services: Services, change: Change) -> bool:
    """Whether a change came to its end; what ends it instead is typed, for it is raised otherwise."""
    try:
        await services.instances.refresh()
        job = await change.make(services)
    except StorageError:
        return False
    return job is None or job.error is None


@pytest.mark.postgres
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_whose_connections_are_ended_at_random_loses_nothing_and_is_completed(
    on_postgres: Filled, places: Iterator[Path], change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "BATCH", 20)
    await _severed(on_postgres, change, next(places), seed=1, times=5)


@pytest.mark.faults
@pytest.mark.postgres
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_whose_connections_are_ended_often_loses_nothing_and_is_completed(
    on_postgres: Filled, places: Iterator[Path], change: Change, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "BATCH", 20)
    await _severed(on_postgres, change, next(places), seed=100 + seed, times=12)


# ---------------------------------------------------------------------------------------------------------------------
# While a member writes, who is killed as well
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Written:
    """What a writer was told is stored, and what it began and never heard of again."""

    stored: dict[str, list[str]]
    pending: tuple[str, str] | None
    labels: dict[str, str]

    @classmethod
    def read(cls, lines: IO[str]) -> Written:
        written = cls({}, None, {})
        for line in lines:
            if not line.endswith("\n"):  # cut off by the kill
                break
            said, label, secret, *ids = json.loads(line)
            written.pending = (label, secret) if said == "began" else None
            if said == "stored":
                written.labels[ids[0]] = label
                written.stored.setdefault(ids[0], []).append(secret)
        return written


async def _killed_beside_a_writer(filled: Filled, at: Path, tmp_path: Path, *, seed: int, rounds: int) -> None:
    place = filled.copy(at)
    chance = random.Random(seed)
    said = tmp_path / "written"
    with said.open("w") as out:
        writer = start(place, *WRITE_SECRETS, out=out)
    try:
        async with asyncio.timeout(60):
            while "stored" not in said.read_text():
                assert writer.poll() is None
                await asyncio.sleep(0.01)
        died = 0
        for _ in range(rounds):
            rotating = start(place, *CHANGE_KEY, *ROTATE_AES.arguments, str(chance.randint(1, 120)))
            await asyncio.to_thread(rotating.communicate, timeout=60)
            assert rotating.returncode in {0, -signal.SIGKILL}
            died += rotating.returncode != 0
            await lapse(place, pid=rotating.pid)
        rotating = start(place, *CHANGE_KEY, *ROTATE_AES.arguments)
        assert rotating.stdout is not None
        assert rotating.stdout.readline() == "begun\n"
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    os.kill(rotating.pid, signal.SIGKILL)
    rotating.communicate()
    await lapse(place)
    with said.open() as lines:
        written = Written.read(lines)
    assert sum(len(each) for each in written.stored.values()) >= 10
    assert died >= rounds / 2
    async with place.services() as services:
        await ROTATE_AES.make(services)
        found = await stored(services)
        _require_written(written, found, filled.ledger)
        await require_completed(place, services, ROTATE_AES, Ledger(found))


def _require_written(written: Written, found: dict[str, list[str]], before: Ledger) -> None:
    """Everything acknowledged is there, in its order and with its history; at most one more was on its way."""
    assert {name: secrets for name, secrets in found.items() if name in before.secrets} == before.secrets
    new = {name: secrets for name, secrets in found.items() if name not in before.secrets}
    for name, secrets in written.stored.items():
        told = list(secrets)
        if new[name][-1] != secrets[-1]:
            assert written.pending == (written.labels[name], new[name][-1])
            told.append(new[name][-1])
        kept = min(len(told), HISTORY_KEPT + 1)
        assert new[name] == told[-kept:]
    unheard = new.keys() - written.stored.keys()
    assert len(unheard) <= 1
    assert all(written.pending is not None and new[name] == [written.pending[1]] for name in unheard)


async def test_what_a_member_stores_while_a_rotation_is_killed_again_and_again_is_there(
    filled: Filled, places: Iterator[Path], tmp_path: Path
) -> None:
    await _killed_beside_a_writer(filled, next(places), tmp_path, seed=1, rounds=2)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
async def test_what_a_member_stores_while_rotations_are_killed_many_times_is_there(
    filled: Filled, places: Iterator[Path], tmp_path: Path, seed: int
) -> None:
    await _killed_beside_a_writer(filled, next(places), tmp_path, seed=100 + seed, rounds=8)
