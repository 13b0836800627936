"""A database that is locked, gone, full or damaged raises the storage error: it never answers "nothing there"."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import time
import traceback
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from app.domain.audit import AuditFilter, UsageHour
from app.domain.audit_chain import Seal, Segment, Stream
from app.domain.backup import BackupRecord, Rehearsal
from app.domain.credential_lists import ListFilter, ListPlace, Need, Tab
from app.domain.credentials import Status
from app.domain.encrypted_columns import CREDENTIAL_SECRETS, EncryptedRow, Reencrypted
from app.domain.errors import StorageBusy, StorageError, StorageFull, UniqueViolation
from app.domain.identity import Role
from app.domain.instances import Instance
from app.domain.jobs import Job, JobKind, JobState
from app.domain.keys import KeyName, KeySchedule
from app.domain.links import Invitation, LinkPurpose, OneTimeLink
from app.domain.passkeys import Passkey
from app.domain.preferences import Language, Preferences
from app.domain.privacy import Person, Section
from app.domain.second_factor import TotpFactor
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.database import schema
from app.infrastructure.database.dialects import Timeouts
from app.infrastructure.database.engine import open_database
from app.infrastructure.database.unit_of_work import SqlStorage, SqlUnitOfWork
from app.services import ports
from app.services.ports import IdempotentRequest
from app.settings import DatabaseUrl
from tests.support import pace
from tests.support.database import ALICE, NOW, api_token, credential, event, former, migrated, session, user
from tests.support.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from app.infrastructure.database.engine import Connection, Database

IMPATIENT: Final = Timeouts(connect=5, busy=0.1, command=0.1)

# ---------------------------------------------------------------------------------------------------------------------
# Every method of every repository, as the ports declare them
# ---------------------------------------------------------------------------------------------------------------------

ARGUMENTS: Final[dict[str, Any]] = {
    "Preferences": Preferences(language=Language.GERMAN),
    "ApiToken": api_token(),
    "Collection[str]": ["text", "another"],
    "AuditEvent": event(address="192.0.2.7"),
    "AuditFilter": AuditFilter(),
    "CredentialRecord": credential(),
    "HistoryRecord": former(1),
    "IdempotentRequest": IdempotentRequest(user_id="u", key="k", mac=b"m", resource_id="r", created_at=NOW),
    "Instance": Instance(id="i", kind="web", host="h", pid=1, started_at=NOW, lease_until=NOW, epochs={}),
    "Job": Job(id="j", kind=JobKind.KEY_AGES, payload={}, run_at=NOW, created_at=NOW),
    "JobKind": JobKind.KEY_AGES,
    "JobState": JobState.DONE,
    "KeyName": KeyName.AES_KEY,
    "KeySchedule": KeySchedule(name=KeyName.AES_KEY, rotation_days=90),
    "Mapping[str, int]": {"AES_KEY": 1},
    "Owner": ALICE,
    "BackupRecord": BackupRecord(
        id="b", path="/b.age", managed=True, created_at=NOW, size=1, sha256="", credentials=1, unreadable=0, users=1
    ),
    "Collection[bytes]": [b"mark"],
    "LinkPurpose": LinkPurpose.CLAIM,
    "ListFilter": ListFilter(user_id="u", now=NOW, restorable_since=NOW, words=["w"]),
    "ListPlace | None": ListPlace(Need.NOTHING, "l", "i"),
    "OneTimeLink": OneTimeLink(
        id="l", purpose=LinkPurpose.CLAIM, user_id="user-alice", created_at=NOW, expires_at=NOW + timedelta(days=7)
    ),
    "Invitation": Invitation(
        id="i", role=Role.MEMBER, issued_by=None, created_at=NOW, expires_at=NOW + timedelta(days=7)
    ),
    "Role": Role.MEMBER,
    "Passkey": Passkey(
        id="p", user_id="user-alice", name="laptop", credential_id=b"id", public_key=b"key", created_at=NOW
    ),
    "Person": Person("text", "text"),
    "Rehearsal": Rehearsal.OK,
    "Section": Section.SESSIONS,
    "Mapping[str, datetime]": {"text": NOW},
    "EncryptedColumn": CREDENTIAL_SECRETS,
    "Segment": Segment.beginning(1, Stream.USES, NOW, 1),
    "Sequence[Seal]": [Seal(1, 1, 1, b"seal")],
    "Sequence[UsageHour]": [
        UsageHour(hour=NOW, object_kind="k", object_id="o", subject_id="s", source="web", result="ok", uses=1)
    ],
    "Sequence[int]": [1, 2],
    "Sequence[str]": ["text", "another"],
    "Sequence[Reencrypted]": [Reencrypted(EncryptedRow("i", "user", "o", 1, 1, b"former"), 2, b"latter")],
    "Session": session(),
    "Status": Status.VALID,
    "Stream": Stream.USES,
    "Tab": Tab.ALL,
    "TotpFactor": TotpFactor(id="f", user_id="user-alice", encrypted_secret=b"envelope", key_version=1, created_at=NOW),
    "User": user(),
    "bool": True,
    "bytes": b"bytes",
    "bytes | None": b"bytes",
    "datetime": NOW,
    "datetime | None": NOW,
    "int": 1,
    "int | None": 1,
    "str": "text",
    "str | None": "text",
    "timedelta": timedelta(seconds=15),
}
"""The arguments of the calls, by their annotation in the ports."""


def _declared() -> Iterator[tuple[str, str]]:
    for family, declared in vars(ports.UnitOfWork).items():
        if isinstance(declared, property):
            protocol = getattr(ports, inspect.signature(declared.fget or len).return_annotation)
            yield from ((family, name) for name, each in vars(protocol).items() if inspect.iscoroutinefunction(each))


METHODS: Final = sorted(_declared())


def call(unit: SqlUnitOfWork, family: str, name: str) -> Any:
    """Call a method with something for every parameter that the port demands."""
    repository = getattr(unit, family)
    protocol = getattr(ports, inspect.signature(vars(ports.UnitOfWork)[family].fget).return_annotation)
    parameters = list(inspect.signature(getattr(protocol, name)).parameters.values())[1:]
    demanded = [each for each in parameters if each.default is each.empty]
    positional = [ARGUMENTS[each.annotation] for each in demanded if each.kind is not each.KEYWORD_ONLY]
    by_name = {each.name: ARGUMENTS[each.annotation] for each in demanded if each.kind is each.KEYWORD_ONLY}
    return getattr(repository, name)(*positional, **by_name)


def test_the_ports_were_understood() -> None:
    families = {family for family, _ in METHODS}
    assert families == {name for name in vars(ports.UnitOfWork) if not name.startswith("_")}
    assert {("keys", "exists"), ("sessions", "use_refresh"), ("credentials", "move"), ("audit", "append")} < set(
        METHODS
    )
    assert len(METHODS) > 50


# ---------------------------------------------------------------------------------------------------------------------
# Locked
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def shared_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One database for the many cases of this module."""

    async def prepare(url: str) -> None:
        async with migrated(url):
            pass

    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('shared') / 'keyhall.db'}"
        asyncio.run(prepare(url))
        yield url
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        with server.database() as url:
            asyncio.run(prepare(url))
            yield url


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite+aiosqlite:///"))


@contextmanager
def sqlite_lock(url: str) -> Iterator[None]:
    """Held by somebody who keeps readers out as well, as a restore does."""
    with closing(sqlite3.connect(path_of(url), isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("UPDATE schema_info SET min_app = min_app")
        yield
        connection.execute("ROLLBACK")


@asynccontextmanager
async def postgresql_lock(url: str) -> AsyncIterator[None]:
    """Held on every table, on the catalogue, and on what repositories lock themselves."""
    async with open_database(DatabaseUrl.parse(url), may_create=False) as other, other.write() as connection:
        for family, name in (("keys", "lock"), ("credentials", "lock_owner"), ("users", "hold_roles")):
            await call(SqlUnitOfWork(connection, SystemRandomness()), family, name)
        for table in (*schema.metadata.tables, "pg_catalog.pg_class"):
            await connection.change(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        yield


@pytest.mark.parametrize(("family", "name"), METHODS)
async def test_on_a_locked_database_every_method_raises_the_storage_error(
    shared_url: str, family: str, name: str
) -> None:
    """SQLite does not let a unit begin; PostgreSQL lets its statements wait."""

    async def try_it() -> None:
        if shared_url.startswith("sqlite"):
            with sqlite_lock(shared_url):
                async with database.read() as connection:
                    await call(SqlUnitOfWork(connection, SystemRandomness()), family, name)
        else:
            async with database.write() as connection:
                await connection.value(text("SELECT 1"))
                async with postgresql_lock(shared_url):
                    await call(SqlUnitOfWork(connection, SystemRandomness()), family, name)

    async with open_database(DatabaseUrl.parse(shared_url), may_create=False, timeouts=IMPATIENT) as database:
        with pytest.raises(StorageError) as caught:
            await try_it()
    assert type(caught.value) in {StorageError, StorageBusy}


@pytest.mark.parametrize(("family", "name"), METHODS)
async def test_on_a_dead_database_every_method_raises_the_storage_error(
    shared_url: str, family: str, name: str, kill: Callable[[Connection], Awaitable[None]]
) -> None:
    """The unit has begun when it happens; afterwards the same `Database` serves again."""

    async def try_it() -> None:
        async with database.write() as connection:
            await connection.value(text("SELECT 1"))
            await kill(connection)
            await call(SqlUnitOfWork(connection, SystemRandomness()), family, name)

    async with open_database(DatabaseUrl.parse(shared_url), may_create=False) as database:
        with pytest.raises(StorageError) as caught:
            await try_it()
        assert type(caught.value) is StorageError
        async with SqlStorage(database).read() as unit:
            assert await unit.keys.exists()


@pytest.fixture
def kill(shared_url: str, request: pytest.FixtureRequest) -> Callable[[Connection], Awaitable[None]]:
    """End what a connection stands on: the server's process, or every further step of SQLite's."""

    async def on_postgresql(connection: Connection) -> None:
        pid = await connection.value(text("SELECT pg_backend_pid()"))
        server: PostgresServer = request.getfixturevalue("postgres_server")
        await asyncio.to_thread(server.execute, f"SELECT pg_terminate_backend({pid}, 5000)")

    async def on_sqlite(connection: Connection) -> None:
        raw: Any = (await connection._connection.get_raw_connection()).driver_connection
        await raw.set_progress_handler(lambda: 1, 1)

    return on_sqlite if shared_url.startswith("sqlite") else on_postgresql


# ---------------------------------------------------------------------------------------------------------------------
# Other accidents of a database
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_commit_that_fails_is_an_error_and_nothing_is_stored(
    shared_url: str, kill: Callable[[Connection], Awaitable[None]]
) -> None:

    async def try_it() -> None:
        async with database.write() as connection:
            await SqlUnitOfWork(connection, SystemRandomness()).bot_state.put("committed", "never", NOW)
            await kill(connection)

    async with open_database(DatabaseUrl.parse(shared_url), may_create=False) as database:
        with pytest.raises(StorageError):
            await try_it()
        async with SqlStorage(database).read() as unit:
            assert await unit.bot_state.get("committed") is None


@pytest.mark.parametrize("damage", ["garbage", "truncated"])
async def test_a_damaged_file_is_an_error(sqlite_url: str, damage: str) -> None:
    async with migrated(sqlite_url):
        pass
    content = path_of(sqlite_url).read_bytes()
    path_of(sqlite_url).write_bytes(b"not a database " * 1000 if damage == "garbage" else content[:8192])
    async with open_database(DatabaseUrl.parse(sqlite_url), may_create=False) as database:
        with pytest.raises(StorageError):
            await SqlStorage(database).cached("user", "alice", lambda unit: unit.users.by_name("alice"))


async def test_a_full_disk_refuses_writes_and_goes_on_reading(sqlite_url: str) -> None:
    async with migrated(sqlite_url) as database:
        storage = SqlStorage(database)
        async with database.write() as connection:
            await SqlUnitOfWork(connection, SystemRandomness()).bot_state.put("k", "before", NOW)
            await connection.value(text("PRAGMA max_page_count=1"))  # SQLite stops at the size that it has

        async def write_too_much() -> None:
            async with storage.write() as unit:
                await unit.bot_state.put("k", "after", NOW)
                await unit.bot_state.put("large", "x" * 1_000_000, NOW)

        with pytest.raises(StorageFull):
            await write_too_much()
        async with storage.read() as unit:
            assert await unit.bot_state.get("k") == "before"


async def test_a_table_that_is_missing_is_a_bug_and_not_an_empty_answer(engine_url: str) -> None:
    async with open_database(DatabaseUrl.parse(engine_url), may_create=True) as database:
        with pytest.raises(DBAPIError):
            async with SqlStorage(database).read() as unit:
                await unit.users.by_name("alice")


async def test_what_was_refused_is_not_repeated_in_any_traceback(engine_url: str) -> None:
    canary = "canary-7f3a"
    async with migrated(engine_url) as database:
        async with SqlStorage(database).write() as unit:
            await unit.credentials.add(credential("1", label=canary))
        with pytest.raises(UniqueViolation) as caught:
            async with SqlStorage(database).write() as unit:
                await unit.credentials.add(credential("2", label=canary))
        assert "live_label" in str(caught.value) or "label_key" in str(caught.value)
        assert canary not in "".join(traceback.format_exception(caught.value))
        with pytest.raises(DBAPIError) as bug:
            async with database.write() as connection:
                await connection.change(text("UPDATE nowhere SET secret = :secret").bindparams(secret=canary))
        assert canary not in "".join(traceback.format_exception(bug.value))


async def test_an_error_notes_the_drivers_code_for_the_operator_only(sqlite_url: str) -> None:
    async with open_database(DatabaseUrl.parse(sqlite_url), may_create=False) as database:
        with pytest.raises(StorageError) as caught:
            await database.probe()
    assert "SQLITE_CANTOPEN" in "".join(traceback.format_exception(caught.value))
    assert "SQLITE" not in caught.value.detail


# ---------------------------------------------------------------------------------------------------------------------
# A server that comes and goes
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def pooled(postgres_url: str) -> AsyncIterator[Database]:
    """An open database whose pool is filled with connections."""
    async with migrated(postgres_url) as database:
        together = asyncio.Barrier(5)

        async def connect() -> None:
            async with database.read() as connection:
                await connection.value(text("SELECT 1"))
                await together.wait()

        await asyncio.gather(*(connect() for _ in range(5)))
        yield database


async def read(database: Database) -> str | None:
    async with SqlStorage(database).read() as unit:
        return await unit.bot_state.get("k")


@pytest.mark.postgres
async def test_a_server_that_restarted_serves_again_within_five_seconds(
    pooled: Database, postgres_server: PostgresServer
) -> None:
    async with SqlStorage(pooled).write() as unit:
        await unit.bot_state.put("k", "kept", NOW)
    await asyncio.to_thread(postgres_server.crash)
    try:
        for _ in range(5):
            with pytest.raises(StorageError):
                await read(pooled)
        with pytest.raises(StorageError):
            await pooled.probe()
    finally:
        await asyncio.to_thread(postgres_server.start)
    started = time.monotonic()
    assert await asyncio.gather(*(read(pooled) for _ in range(5))) == ["kept"] * 5
    await pooled.probe()
    assert pace.within(time.monotonic() - started, 5)


@pytest.mark.postgres
async def test_connections_that_the_server_closed_meanwhile_are_replaced(
    pooled: Database, postgres_server: PostgresServer
) -> None:
    end = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = 'keyhall'"
    assert int(await asyncio.to_thread(postgres_server.execute, end)) >= 5
    async with asyncio.timeout(60):
        while not all(await asyncio.gather(*(answers(pooled) for _ in range(5)))):
            pass


async def answers(database: Database) -> bool:
    try:
        await read(database)
    except StorageError:
        return False
    return True


@pytest.mark.postgres
async def test_a_statement_that_hangs_is_given_up_and_its_connection_replaced(postgres_url: str) -> None:
    async with open_database(
        DatabaseUrl.parse(postgres_url), may_create=False, timeouts=Timeouts(command=0.3)
    ) as database:
        for _ in range(8):
            started = time.monotonic()
            with pytest.raises(StorageError):
                async with database.read() as connection:
                    await connection.value(text("SELECT 1 FROM pg_sleep(30)"))
            assert pace.within(time.monotonic() - started, 5)
        async with database.read() as connection:
            assert await connection.value(text("SELECT 1")) == 1


async def test_a_server_that_accepts_and_never_answers_is_given_up(tmp_path: Path) -> None:
    accepted: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_unix_server(lambda _, writer: accepted.append(writer), tmp_path / ".s.PGSQL.5432")
    url = f"postgresql+asyncpg://postgres@/postgres?host={tmp_path}"
    async with (
        silent,
        open_database(DatabaseUrl.parse(url), may_create=False, timeouts=Timeouts(connect=0.3)) as database,
    ):
        started = time.monotonic()
        with pytest.raises(StorageError):
            await database.probe()
        assert pace.within(time.monotonic() - started, 5)
    assert accepted
    for writer in accepted:
        writer.close()
        await writer.wait_closed()


@pytest.mark.postgres
async def test_a_server_that_does_not_let_us_in_is_an_error(postgres_url: str) -> None:
    url = make_url(postgres_url)
    for refused in (url.set(database="nowhere"), url.set(username="nobody_of_that_name")):
        async with open_database(DatabaseUrl.parse(refused.render_as_string()), may_create=False) as database:
            with pytest.raises(StorageError):
                await database.probe()


async def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    for host in (f"/postgres?host={tmp_path}", "127.0.0.1:1/postgres"):
        async with open_database(
            DatabaseUrl.parse(f"postgresql+asyncpg://postgres@{host}"), may_create=False
        ) as database:
            with pytest.raises(StorageError):
                await database.probe()
