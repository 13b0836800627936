"""A change of the master key, killed anywhere: the install opens, nothing is lost, and running it again ends it."""

from __future__ import annotations

import asyncio
import base64
import re
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from app.bootstrap.commands import open_master_key_change
from app.domain.errors import MasterKeyMismatch, StorageError
from app.domain.identity import Client, Role, Source
from app.domain.secrets import SecretBytes
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from app.infrastructure.database.repositories.keys import LOCK
from app.services import Services
from tests.support.environment import process_environment
from tests.support.installs import KEYHALL, Place, client_of, sign_in, sign_up
from tests.support.processes import run
from tests.support.strace import Point, killed, points, spread

SAMPLE = 9
SECRETS = [f"sk-proj-{number:02}-4f9aTq7ZbX2mLw8vKd3Yc6Rn" for number in range(6)]
PASSWORD = "a brass key on a hook"
WEB = Client(source=Source.WEB)
ROTATE = [*KEYHALL, "keys", "rotate-master", "--yes"]
OLD, NEW = "1f" * 16 + "a7" * 16, "3c" * 16 + "5e" * 16


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


@pytest.fixture
def sqlite_place(sqlite_url: str, tmp_path: Path) -> Place:
    return Place(sqlite_url, tmp_path / "data")


@pytest.fixture
def postgres_place(postgres_url: str, tmp_path: Path) -> Place:
    return Place(postgres_url, tmp_path / "data")


# ---------------------------------------------------------------------------------------------------------------------
# What has to hold
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What an install holds that no change of the master key may touch."""

    credentials: dict[str, str]
    fingerprints: dict[str, str | None]
    keys: list[tuple[str, int, str]]
    access_token: str


async def _fill(place: Place) -> Held:
    await place.install()
    async with place.services() as services:
        operator = await services.identity.operator()
        await services.identity.create(operator, "mia", PASSWORD, Role.MEMBER)
        actor = await services.identity.operator_for(username="mia")
        for number, secret in enumerate(SECRETS):
            await services.credentials.add(actor, provider="openai", label=f"number {number}", secret=secret)
        token = (await services.authentication.login("mia", PASSWORD, WEB)).access_token.reveal()
        return await _held(services, token)


async def _held(services: Services, access_token: str) -> Held:
    actor = await services.requests.authenticate(access_token, WEB)
    credentials, fingerprints = {}, {}
    for view in (await services.credentials.page(actor)).items:
        credentials[view.id] = (await services.credentials.reveal(actor, view.id)).reveal()
        fingerprints[view.id] = view.fingerprint
    keys = [(each.name.value, each.version, each.fingerprint) for each in services.keys.listing()]
    return Held(credentials, fingerprints, keys, access_token)


async def _opens(place: Place, held: Held) -> str:
    """Open as every start does and read everything; returns the id of the master key that the install is under."""
    async with place.services() as services:
        assert await _held(services, held.access_token) == held
        assert sorted(held.credentials.values()) == SECRETS
        return services.keys.ring.manifest.master_key_id


def _id(material: bytes) -> str:
    return MasterKeyWrapping(SecretBytes(material)).master_key_id


def _id_in(path: Path) -> str:
    return _id(base64.b64decode(path.read_text()))


async def _completes(place: Place, held: Held, before: str) -> str:
    """Run it again: one master key is left, which is not the one before, and everything opens. Returns its id."""
    async with open_master_key_change(place.load()) as change:
        await change.carry_out()
    assert sorted(path.name for path in place.data_dir.iterdir()) == ["install.json", "master.key"]
    assert (place.data_dir / "master.key").stat().st_mode & 0o777 == 0o600
    after = await _opens(place, held)
    assert after == _id_in(place.data_dir / "master.key")
    assert after != before
    return after


async def _changes(place: Place) -> int:
    return sum(row[2] == "master_key.changed" for row in (await place.contents())["audit_events"])


# ---------------------------------------------------------------------------------------------------------------------
# Killed at every write
# ---------------------------------------------------------------------------------------------------------------------


async def _killed_at(place: Place, held: Held, point: Point) -> None:
    before, changes = _id_in(place.data_dir / "master.key"), await _changes(place)
    assert killed(place, ROTATE, point), point
    under = await _opens(place, held)
    files = {_id_in(path) for path in place.data_dir.glob("master.key*")}
    assert under in files, point
    assert before in files or under != before, point
    await _completes(place, held, before)
    assert changes < await _changes(place) <= changes + 2, point


async def test_a_change_that_is_killed_at_a_write_opens_and_is_completed(sqlite_place: Place) -> None:
    held = await _fill(sqlite_place)
    found = points(sqlite_place, ROTATE)
    assert {"unlinkat", "pwrite64", "fsync"} <= {point.call for point in found}
    assert len(found) >= 20
    for point in spread(found, SAMPLE):
        await _killed_at(sqlite_place, held, point)


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_a_change_that_is_killed_at_any_write_opens_and_is_completed(sqlite_place: Place) -> None:
    held = await _fill(sqlite_place)
    for point in points(sqlite_place, ROTATE):
        await _killed_at(sqlite_place, held, point)


# ---------------------------------------------------------------------------------------------------------------------
# Killed at every statement
# ---------------------------------------------------------------------------------------------------------------------


def _change(place: Place, at: str = "") -> subprocess.CompletedProcess[str]:
    command = ["-m", "tests.support.change_master_key", "rotate", *([at] if at else [])]
    return run(*command, env=process_environment(**place.environment))


def _statements(place: Place) -> int:
    done = _change(place)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


async def _killed_at_statement(place: Place, held: Held, number: int) -> None:
    before = _id_in(place.data_dir / "master.key")
    _died_at(_change(place, str(number)), number)
    await _opens(place, held)
    await _completes(place, held, before)


def _died_at(done: subprocess.CompletedProcess[str], number: int) -> None:
    """Killed, or over before it came to that statement: looking at the other processes may take one look or two."""
    if done.returncode == 0:
        assert int(done.stdout) < number
    else:
        assert done.returncode == -signal.SIGKILL, (number, done.stderr)


@pytest.mark.postgres
async def test_a_change_that_is_killed_at_a_statement_opens_and_is_completed(postgres_place: Place) -> None:
    held = await _fill(postgres_place)
    statements = _statements(postgres_place)
    assert statements >= 15
    for number in (1, statements // 3, statements // 2, statements - 3):
        await _killed_at_statement(postgres_place, held, number)


@pytest.mark.faults
@pytest.mark.postgres
@pytest.mark.timeout(900)
async def test_a_change_that_is_killed_at_any_statement_opens_and_is_completed(postgres_place: Place) -> None:
    held = await _fill(postgres_place)
    for number in range(1, _statements(postgres_place) + 1):
        await _killed_at_statement(postgres_place, held, number)


@pytest.mark.postgres
async def test_a_change_whose_connection_dies_in_the_middle_is_an_error_and_completes_later(
    postgres_place: Place,
) -> None:
    held = await _fill(postgres_place)
    before = _id_in(postgres_place.data_dir / "master.key")
    async with _connected(postgres_place) as connection, open_master_key_change(postgres_place.load()) as change:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            changing = asyncio.create_task(change.carry_out())
            waiting = None
            while waiting is None:
                assert not changing.done()
                waiting = await connection.fetchval(
                    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
                    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
            await connection.execute("SELECT pg_terminate_backend($1)", waiting)
        with pytest.raises(StorageError):
            await changing
    assert await _opens(postgres_place, held) == before
    await _completes(postgres_place, held, before)


@asynccontextmanager
async def _connected(place: Place) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(dsn=make_url(place.url).set(drivername="postgresql").render_as_string(False))
    try:
        yield connection
    finally:
        await connection.close()


# ---------------------------------------------------------------------------------------------------------------------
# The settings change before or after the database
# ---------------------------------------------------------------------------------------------------------------------


async def _mismatch(place: Place, *ids: str) -> None:
    with pytest.raises(MasterKeyMismatch) as halted:
        async with place.keys(may_create=False):
            pass
    assert all(each in halted.value.line() for each in ids)


@pytest.mark.parametrize("killed", ["before", "after"])
async def test_all_four_orders_of_settings_and_database_open_or_name_what_is_needed(place: Place, killed: str) -> None:
    only_old, only_new = place.having(MASTER_KEY=OLD), place.having(MASTER_KEY=NEW)
    both = place.having(MASTER_KEY=NEW, MASTER_KEY_PREVIOUS=OLD)
    rolled_back = place.having(MASTER_KEY=OLD, MASTER_KEY_PREVIOUS=NEW)
    old, new = _id(bytes.fromhex(OLD)), _id(bytes.fromhex(NEW))
    held = await _fill(only_old)
    assert _change(both, killed).returncode == -signal.SIGKILL

    under, opening, other = (old, only_old, only_new) if killed == "before" else (new, only_new, only_old)
    for settings in (both, rolled_back, opening):
        assert await _opens(settings, held) == under
    await _mismatch(other, old, new)

    for settings, after in ((both, new), (rolled_back, old), (both, new)):
        async with open_master_key_change(settings.load()) as change:
            changed = await change.carry_out()
            assert (changed.after, changed.previous_given, changed.file) == (after, True, None)
        assert await _opens(settings, held) == after
    assert await _opens(only_new, held) == new
    await _mismatch(only_old, old, new)
    assert not list(place.data_dir.glob("master.key*"))


# ---------------------------------------------------------------------------------------------------------------------
# With others
# ---------------------------------------------------------------------------------------------------------------------


async def test_two_changes_at_once_end_with_one_master_key(place: Place) -> None:
    held = await _fill(place)
    before = _id_in(place.data_dir / "master.key")

    for _ in range(2):
        done = await asyncio.gather(
            *[asyncio.to_thread(place.command, "keys", "rotate-master", "--yes") for _ in range(2)]
        )
        assert [each.returncode for each in done] == [0, 0], done
        assert sorted(path.name for path in place.data_dir.iterdir()) == ["install.json", "master.key"]
        after = await _opens(place, held)
        assert after == _id_in(place.data_dir / "master.key") != before
        before = after


async def test_a_process_goes_on_serving_while_the_master_key_changes(place: Place) -> None:
    with place.running("web") as web:
        address, token = web.address(), web.setup_token()
        async with client_of(address) as client:
            await sign_up(client, token, "mia", PASSWORD)
            await sign_in(client, "mia", PASSWORD)
            body = {"provider": "openai", "label": "main", "secret": SECRETS[0]}
            async with client.post("/api/v1/credentials", json=body) as answer:
                path = f"/api/v1/credentials/{(await answer.json())['id']}"
            answers: Counter[tuple[str, int]] = Counter()
            changing = True

            async def ask() -> None:
                while changing:
                    for method, asked in (("GET", path), ("POST", f"{path}/reveal"), ("GET", "/api/v1/auth/me")):
                        async with client.request(method, asked) as answer:
                            said = await answer.json()
                            answers[asked, answer.status] += 1
                            assert asked != f"{path}/reveal" or said["secret"] == SECRETS[0]
                    await asyncio.sleep(0.02)

            asking = asyncio.create_task(ask())
            ids = []
            for _ in range(2):
                done = await asyncio.to_thread(place.command, "keys", "rotate-master", "--yes", "--json")
                assert done.returncode == 0, done.stderr
                ids.append(_id_in(place.data_dir / "master.key"))
            changing = False
            await asking
        assert len(set(ids)) == 2
        assert {status for _, status in answers} == {200}
        assert min(answers.values()) >= 20
        assert web.end() == 0
    assert not [line for line in web.lines if re.search(r"warning|error|critical|WARN|ERROR", line)]
