"""A database that refuses: what does not heal by waiting halts a start at once, and its remedy works."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import sqlite3
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import make_url

from app.bootstrap import database as database_stage
from app.bootstrap.database import StartupRetry, reachable_database
from app.domain.errors import (
    DatabaseDamaged,
    DatabaseFault,
    DatabaseUnavailable,
    InstallMismatch,
    MigrationFailed,
    SchemaNewer,
    StartupError,
    StorageError,
)
from app.infrastructure.clock import SystemClock
from app.infrastructure.database import faults
from app.infrastructure.database.dialects.integrity import check_file
from app.infrastructure.database.engine import open_database
from app.settings import DatabaseUrl
from tests.support.installs import Place
from tests.support.postgres import PostgresServer

ROLE = 'role with "quotes"'


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start waits long enough to try twice."""
    monkeypatch.setattr(database_stage, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(database_stage, "RETRY_BUDGET_SECONDS", 0.03)


async def _halt(place: Place) -> StartupError:
    with pytest.raises(StartupError) as caught:
        async with place.keys():
            pass
    return caught.value


def _command(halt: StartupError) -> str:
    found = re.search(r"`([^`]+)`", halt.remedy)
    assert found is not None, halt.remedy
    return found[1]


# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------

TABLE = [
    *faults.POSTGRESQL.values(),
    *faults.SQLITE.values(),
    *faults.SYSTEM.values(),
    *(row for _, _, row in faults._BY_MESSAGE),
]
POSTGRESQL_URL = DatabaseUrl.parse("postgresql+asyncpg://alice:canary@db/shop")


class _SteppingClock(SystemClock):
    """The budget of a start is spent after its second attempt, however slow the machine is."""

    def __init__(self) -> None:
        self._moments = iter([0.0, 0.0, 1000.0])

    def monotonic(self) -> float:
        return next(self._moments)


@pytest.mark.parametrize("fault", TABLE, ids=lambda each: f"{each.code} {each.happened[:30]}")
async def test_each_cause_waits_or_halts_at_once_and_says_what_to_do(fault: DatabaseFault, impatient: None) -> None:
    attempts = 0

    async def refused() -> None:
        nonlocal attempts
        attempts += 1
        error = StorageError()
        error.fault = fault
        raise error

    of_files = faults.of_a_server(fault) is not fault  # of a server they are refused connections, which may heal
    url = DatabaseUrl.parse("sqlite+aiosqlite:////nowhere/canary.db") if of_files else POSTGRESQL_URL
    with pytest.raises((DatabaseUnavailable, DatabaseDamaged)) as caught:
        await StartupRetry(url, _SteppingClock()).run(refused)
    assert attempts == (2 if fault.heals else 1)
    assert isinstance(caught.value, DatabaseDamaged) is fault.damaged
    line = caught.value.line()
    assert f"({fault.code})" in line
    assert "{" not in line
    assert of_files or "canary" not in line
    assert caught.value.remedy


def _error_response(code: str, message: str) -> bytes:
    fields = b"".join(kind + text.encode() + b"\0" for kind, text in ((b"S", "FATAL"), (b"C", code), (b"M", message)))
    return b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0"


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def _serving(handler: Handler, path: Path | None = None) -> AsyncIterator[int]:
    """Answer each connection with that handler, on a Unix socket or a port; every connection has ended afterwards."""
    answering: set[asyncio.Task[Any]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        answering.add(task)
        try:
            with suppress(OSError):  # the client may refuse a certificate, or hang up
                await handler(reader, writer)
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    starting = asyncio.start_server(answer, "127.0.0.1", 0) if path is None else asyncio.start_unix_server(answer, path)
    async with await starting as server:
        yield server.sockets[0].getsockname()[1] if path is None else 0
    await asyncio.gather(*answering)


@asynccontextmanager
async def _refusing(directory: Path, code: str, message: str) -> AsyncIterator[Place]:
    """A server that answers every start-up message with one error, as PostgreSQL or a pooler does."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(_error_response(code, message))
        await writer.drain()
        await reader.read()

    async with _serving(answer, directory / ".s.PGSQL.5432"):
        yield Place(f"postgresql+asyncpg://alice@/shop?host={directory}", directory / "data")


STATES = [code for code in faults.POSTGRESQL if len(code) == 5]


@pytest.mark.parametrize("code", STATES)
async def test_every_sqlstate_of_the_table_arrives_from_a_server(code: str, tmp_path: Path, impatient: None) -> None:
    async with _refusing(tmp_path, code, "in any language") as place:
        halt = await _halt(place)
    assert f"({code})" in halt.line()
    assert ("did not answer" in halt.happened) is faults.POSTGRESQL[code].heals


@pytest.mark.parametrize("code", ["0A000", "25001", "42P08", "57P05", "58030", "53200", "ZZ999"])
async def test_a_sqlstate_that_the_table_has_by_its_class_or_not_at_all_is_no_traceback(
    code: str, tmp_path: Path, impatient: None
) -> None:
    async with _refusing(tmp_path, code, "no") as place:
        assert f"({code})" in (await _halt(place)).line()


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        (
            "unsupported startup parameter: idle_in_transaction_session_timeout",
            "prepared_statement_cache_size=0",
        ),
        ("no such database: shop", "the pooler's configuration"),
        ("no such user: alice", "the pooler's configuration"),
        ("server login has been failing, try again later (server_login_retry)", "start the database"),
    ],
)
async def test_a_pooler_says_several_things_with_one_code(
    message: str, remedy: str, tmp_path: Path, impatient: None
) -> None:
    async with _refusing(tmp_path, "08P01", message) as place:
        halt = await _halt(place)
    assert ("did not answer" in halt.happened) is ("login has been failing" in message)
    assert remedy in halt.remedy


async def test_a_server_without_tls_is_not_waited_for(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"N")
        await writer.drain()
        await reader.read(1)

    async with _serving(refuse) as port:
        place = Place(f"postgresql+asyncpg://alice@127.0.0.1:{port}/shop?sslmode=require", tmp_path / "data")
        halt = await _halt(place)
    assert "does not speak TLS" in halt.happened


def _certificate(directory: Path, host: str) -> Path:
    """A self-signed certificate with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = SystemClock().now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = directory / f"{host}.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
    return path


@pytest.mark.parametrize(
    ("host", "parameters", "answer"),
    [
        ("localhost", "sslrootcert={own}", "(57P03)"),
        ("localhost", "sslmode=verify-full&sslrootcert={own}", "(57P03)"),
        ("another.example", "sslmode=verify-ca&sslrootcert={own}", "(57P03)"),
        ("another.example", "sslmode=require&sslrootcert={own}", "(57P03)"),
        ("another.example", "sslrootcert={own}", "(SSLCertVerificationError)"),
        ("localhost", "sslmode=require&sslrootcert={other}", "(SSLCertVerificationError)"),
        ("localhost", "sslrootcert=system", "(SSLCertVerificationError)"),
    ],
)
async def test_a_certificate_authority_in_the_url_is_asked(
    tmp_path: Path, impatient: None, host: str, parameters: str, answer: str
) -> None:
    own, other = _certificate(tmp_path, host), _certificate(tmp_path, "other.example")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"S")
        await writer.start_tls(context)
        await reader.read(4096)
        writer.write(_error_response("57P03", "starting up"))
        await writer.drain()
        await reader.read()

    async with _serving(serve) as port:
        url = f"postgresql+asyncpg://alice@localhost:{port}/shop?{parameters.format(own=own, other=other)}"
        assert answer in (await _halt(Place(url, tmp_path / "data"))).line()


async def test_the_log_says_why_a_start_waits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    answers = iter(["57P03", "57P03", "53300", None])

    async def step() -> str:
        code = next(answers)
        if code is None:
            return "answered"
        error = StorageError()
        error.fault = faults.named(code)
        raise error

    assert await StartupRetry(POSTGRESQL_URL, SystemClock()).run(step) == "answered"
    assert [record.getMessage() for record in caplog.records] == [
        "waiting for the database db/shop: it is starting up or shutting down (57P03)",
        "waiting for the database db/shop: it has no connection left (53300)",
    ]


# ---------------------------------------------------------------------------------------------------------------------
# PostgreSQL's own refusals, and their remedies
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def role(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a role that may sign in, for SQL."""
    quoted = '"' + ROLE.replace('"', '""') + '"'
    postgres_server.execute(f"CREATE ROLE {quoted} LOGIN")
    yield quoted
    for name in postgres_server.execute("SELECT datname FROM pg_database WHERE NOT datistemplate").split():
        postgres_server.execute(f"DROP OWNED BY {quoted}", database=name)
    postgres_server.execute(f"DROP ROLE {quoted}")


def _as(url: str, role: str | None = None, database: str | None = None) -> str:
    changed = make_url(url)
    if role is not None:
        changed = changed.set(username=role)
    if database is not None:
        changed = changed.set(database=database)
    return changed.render_as_string(hide_password=False)


def _name(url: str) -> str:
    name = make_url(url).database
    assert name is not None
    return name


async def _heals(server: PostgresServer, place: Place, *, code: str) -> StartupError:
    """The start halts at once with that code; its remedy, run by the superuser, makes it go."""
    halt = await _halt(place)
    assert type(halt) is DatabaseUnavailable
    assert f"({code})" in halt.happened
    await asyncio.to_thread(server.execute, _command(halt), database=_name(place.url))
    async with place.keys() as opened:
        assert opened.created
    return halt


@pytest.mark.postgres
async def test_a_role_that_the_server_does_not_have(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    place = Place(_as(postgres_url, "nobody_of_that_name"), tmp_path / "data")
    halt = await _halt(place)
    assert "(28000)" in halt.happened
    await asyncio.to_thread(postgres_server.execute, _command(halt))
    try:
        assert "(28000)" not in (await _halt(place)).happened  # the next thing that is missing
    finally:
        await asyncio.to_thread(postgres_server.execute, 'DROP ROLE "nobody_of_that_name"')


@pytest.mark.postgres
async def test_a_database_that_the_server_does_not_have(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    place = Place(_as(postgres_url, database="not here yet"), tmp_path / "data")
    halt = await _halt(place)
    assert "(3D000)" in halt.happened
    await asyncio.to_thread(postgres_server.execute, _command(halt))
    try:
        async with place.keys() as opened:
            assert opened.created
    finally:
        await asyncio.to_thread(postgres_server.drop_database, "not here yet")


@pytest.mark.postgres
async def test_a_role_that_may_not_create_tables_is_told_the_right_and_the_grant(
    postgres_server: PostgresServer, postgres_url: str, role: str, tmp_path: Path
) -> None:
    halt = await _heals(postgres_server, Place(_as(postgres_url, ROLE), tmp_path / "data"), code="42501")
    assert "CREATE" in halt.happened
    assert "schema public" in halt.happened
    assert halt.remedy.startswith("run `GRANT USAGE, CREATE ON schema public TO ")


@pytest.mark.postgres
async def test_a_role_that_may_not_use_the_schema(
    postgres_server: PostgresServer, postgres_url: str, role: str, tmp_path: Path
) -> None:
    postgres_server.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC", database=_name(postgres_url))
    await _heals(postgres_server, Place(_as(postgres_url, ROLE), tmp_path / "data"), code="3F000")


@pytest.mark.postgres
async def test_a_role_that_may_not_connect(
    postgres_server: PostgresServer, postgres_url: str, role: str, tmp_path: Path
) -> None:
    name = _name(postgres_url)
    postgres_server.execute(
        f'GRANT ALL ON SCHEMA public TO {role}; REVOKE CONNECT ON DATABASE "{name}" FROM PUBLIC', database=name
    )
    await _heals(postgres_server, Place(_as(postgres_url, ROLE), tmp_path / "data"), code="42501")


@pytest.mark.postgres
async def test_tables_that_another_role_owns(
    postgres_server: PostgresServer, postgres_url: str, role: str, tmp_path: Path
) -> None:
    place = Place(postgres_url, tmp_path / "data")
    async with place.keys():
        pass
    halt = await _halt(Place(_as(postgres_url, ROLE), tmp_path / "data"))
    assert "(42501)" in halt.happened
    assert "the table " in halt.happened
    await asyncio.to_thread(postgres_server.execute, _command(halt), database=_name(postgres_url))
    async with Place(_as(postgres_url, ROLE), tmp_path / "data").keys() as opened:
        assert not opened.created


@pytest.mark.postgres
async def test_a_database_that_accepts_no_connections(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    name = _name(postgres_url)
    postgres_server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    halt = await _halt(Place(postgres_url, tmp_path / "data"))
    assert "(55000)" in halt.happened
    await asyncio.to_thread(postgres_server.execute, _command(halt))
    async with Place(postgres_url, tmp_path / "data").keys():
        pass


@pytest.mark.postgres
async def test_a_database_that_is_read_only(postgres_server: PostgresServer, postgres_url: str, tmp_path: Path) -> None:
    postgres_server.execute(f'ALTER DATABASE "{_name(postgres_url)}" SET default_transaction_read_only = on')
    halt = await _halt(Place(postgres_url, tmp_path / "data"))
    assert "is read-only (25006)" in halt.happened
    await asyncio.to_thread(postgres_server.execute, _command(halt))
    async with Place(postgres_url, tmp_path / "data").keys():
        pass


@pytest.mark.postgres
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
async def test_a_database_whose_text_is_not_utf_8(
    postgres_server: PostgresServer, tmp_path: Path, encoding: str
) -> None:
    name = f"in_{encoding.lower()}"
    postgres_server.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0")
    try:
        halt = await _halt(Place(postgres_server.url(name), tmp_path / "data"))
        assert "UTF-8" in halt.happened
        await asyncio.to_thread(postgres_server.execute, _command(halt))
        async with Place(postgres_server.url("keyhall_utf8"), tmp_path / "data").keys():
            pass
    finally:
        postgres_server.drop_database(name)
        postgres_server.drop_database("keyhall_utf8")


@pytest.mark.postgres
async def test_a_database_without_a_free_connection_is_waited_for(
    postgres_server: PostgresServer, postgres_url: str, role: str, tmp_path: Path
) -> None:
    name = _name(postgres_url)
    postgres_server.execute(f"GRANT ALL ON SCHEMA public TO {role}", database=name)
    postgres_server.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
    starting = asyncio.create_task(_opened(Place(_as(postgres_url, ROLE), tmp_path / "data")))
    done, _ = await asyncio.wait({starting}, timeout=0.5)
    assert not done
    await asyncio.to_thread(postgres_server.execute, f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')
    assert await starting


async def _opened(place: Place) -> bool:
    async with place.keys() as opened:
        return opened.created


@pytest.mark.postgres
@pytest.mark.parametrize(
    "table", ["CREATE TABLE users (name text)", "CREATE TABLE jobs (id int); CREATE TABLE posts ()"]
)
async def test_a_database_of_another_program_is_named_as_such(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path, table: str
) -> None:
    postgres_server.execute(table, database=_name(postgres_url))
    halt = await _halt(Place(postgres_url, tmp_path / "data"))
    assert isinstance(halt, MigrationFailed)
    assert "another program's" in halt.happened


# ---------------------------------------------------------------------------------------------------------------------
# SQLite's own refusals, and their remedies
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(sqlite_url: str, tmp_path: Path) -> Place:
    return Place(sqlite_url, tmp_path / "data")


def _file(place: Place) -> Path:
    return Path(place.url.removeprefix("sqlite+aiosqlite:///"))


def _change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("rows", ["INSERT INTO users VALUES ('alice')", "SELECT 1"])
async def test_a_file_of_another_program_is_named_as_such(place: Place, rows: str) -> None:
    _change(_file(place), "CREATE TABLE users (name)", rows)
    halt = await _halt(place)
    assert isinstance(halt, MigrationFailed)
    assert "another program's" in halt.happened
    assert "backup" not in halt.remedy


async def test_a_file_of_another_program_under_a_remembered_install(place: Place, tmp_path: Path) -> None:
    await place.install()
    other = Place(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}", place.data_dir)
    _change(tmp_path / "other.db", "CREATE TABLE users (name)")
    halt = await _halt(other)
    assert isinstance(halt, InstallMismatch)
    assert "another program's" in halt.happened


async def test_another_programs_alembic_is_named_as_such(place: Place) -> None:
    _change(
        _file(place), "CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES ('ae1027a6acf')"
    )
    halt = await _halt(place)
    assert isinstance(halt, SchemaNewer)
    assert "another program's" in halt.happened


async def test_a_table_that_is_in_nobodys_way_is_left_alone(place: Place) -> None:
    _change(_file(place), "CREATE TABLE posts (title)")
    assert await _opened(place)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "not a database": lambda path: path.write_bytes(b"x" * 8192),
    "not a database, one byte": lambda path: path.write_bytes(b"x"),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:8192]),
    "a page of zeros": lambda path: path.write_bytes(_without_page(path.read_bytes(), 5)),
}


def _without_page(content: bytes, number: int) -> bytes:
    size = struct.unpack("!H", content[16:18])[0]
    return content[: number * size] + bytes(size) + content[(number + 1) * size :]


@pytest.mark.parametrize("how", DAMAGE)
async def test_a_damaged_file_halts_at_once_and_is_left_as_it_is(place: Place, how: str) -> None:
    await place.install()
    DAMAGE[how](_file(place))
    before = _file(place).read_bytes()
    halt = await _halt(place)
    assert (type(halt), halt.exit_code) == (DatabaseDamaged, 65)
    assert "SQLITE_" in halt.happened
    assert halt.remedy == ("stop every process and restore the newest backup with `keyhall backup restore FILE`")
    assert _file(place).read_bytes() == before


async def test_an_index_that_lost_a_row_halts(place: Place) -> None:
    await place.install()
    _change(
        _file(place),
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'users') "
        "WHERE type = 'index' AND tbl_name = 'users' AND rootpage = (SELECT min(rootpage) FROM sqlite_schema "
        "WHERE type = 'index' AND tbl_name = 'users')",
    )
    assert isinstance(await _halt(place), DatabaseDamaged)


_WRITE_ON = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA wal_autocheckpoint=0")
def write(first, last):
    connection.execute("BEGIN IMMEDIATE")
    for number in range(first, last):
        connection.execute("INSERT INTO bot_state VALUES (?, ?, ?)", (f"{number * 7919 % 100003}", "x" * 40, "now"))
    connection.execute("COMMIT")
write(0, 2000)
connection.execute("PRAGMA wal_checkpoint(RESTART)")
write(2000, 2300)
os._exit(0)
"""


async def _run(*command: str) -> None:
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=60)


async def test_a_copy_put_back_beside_the_wal_of_a_later_state_halts_and_the_remedy_saves_it(place: Place) -> None:
    await place.install()
    path = _file(place)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = path.read_bytes()
    await _run(sys.executable, "-c", _WRITE_ON, os.fspath(path))
    assert path.with_name(f"{path.name}-wal").stat().st_size
    path.write_bytes(copy)
    path.with_name(f"{path.name}-wal.aside").write_text("of an earlier accident")
    halt = await _halt(place)
    assert isinstance(halt, DatabaseDamaged)
    assert path.read_bytes() == copy
    await _run(*shlex.split(_command(halt)))
    assert path.with_name(f"{path.name}-wal.aside").read_text() == "of an earlier accident"
    assert not await _opened(place)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM bot_state").fetchone()[0] == 0
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


async def test_what_a_killed_process_left_in_the_wal_is_no_damage(place: Place) -> None:
    await place.install()
    path = _file(place)
    await _run(sys.executable, "-c", _WRITE_ON, os.fspath(path))
    assert not await _opened(place)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM bot_state").fetchone()[0] == 2300


async def test_a_journal_that_a_killed_process_left_is_rolled_back(place: Place, tmp_path: Path) -> None:
    await place.install()
    path, kept = _file(place), tmp_path / "kept"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA cache_size=1")
        connection.execute("BEGIN IMMEDIATE")
        for number in range(2000):
            connection.execute("INSERT INTO bot_state VALUES (?, 'x', 'now')", (str(number),))
        kept.mkdir()
        for each in (path, path.with_name(f"{path.name}-journal")):
            shutil.copy(each, kept / each.name)
        connection.execute("ROLLBACK")
    for each in kept.iterdir():
        shutil.copy(each, path.parent / each.name)
    assert not await _opened(place)


def test_a_look_ends_in_time(tmp_path: Path) -> None:
    """A file that would take longer is looked at in part, its first tables first."""
    path = tmp_path / "large.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE large (a PRIMARY KEY, b)")
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) "
            "INSERT INTO large SELECT hex(randomblob(8)), i FROM n"
        )
    assert check_file(path, busy=1, within=None)
    assert not check_file(path, busy=1, within=0.001)


@pytest.mark.parametrize("what", ["a directory", "under a file", "under a file twice"])
async def test_a_path_that_can_hold_no_file_halts_at_once(place: Place, tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()
    path = {"a directory": "directory", "under a file": "file/keyhall.db", "under a file twice": "file/a/keyhall.db"}
    halt = await _halt(Place(f"sqlite+aiosqlite:///{tmp_path / path[what]}", place.data_dir))
    assert type(halt) is DatabaseUnavailable
    assert "did not answer" not in halt.happened


_AS_NOBODY = """
import asyncio, os, sys
from app.bootstrap.database import reachable_database
from app.domain.errors import StartupError
from app.settings import Settings
settings = Settings.load({"APP_ENV": "test", "DATA_DIR": sys.argv[2], "DATABASE_URL": sys.argv[1]})
async def main():
    async with reachable_database(settings, may_create=False):
        pass
asyncio.run(main())  # as root, who may everything; what is imported now need not be readable later
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    asyncio.run(main())
except StartupError as error:
    print(error.line())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("what", ["the file", "the directory", "its writing"])
def test_a_file_that_this_user_may_not_open_halts_at_once(place: Place, tmp_path: Path, what: str) -> None:
    asyncio.run(place.install())
    for each in tmp_path.parents:
        if not each.stat().st_mode & 0o001:
            each.chmod(each.stat().st_mode | 0o001)
    tmp_path.chmod(0o700 if what == "the directory" else 0o755)
    _file(place).chmod(0o644 if what == "its writing" else 0o600)
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, place.url, "/nonexistent"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "halted [database_unavailable]" in done.stdout, done.stderr
    assert "the user who runs Keyhall" in done.stdout


async def test_the_whole_check_finds_what_it_is_for(place: Place) -> None:
    await place.install()
    async with open_database(place.load().database_url, may_create=False) as database:
        assert await database.check()
    DAMAGE["a page of zeros"](_file(place))
    async with open_database(place.load().database_url, may_create=False) as database:
        with pytest.raises(StorageError) as caught:
            await database.check()
    assert caught.value.fault is not None
    assert caught.value.fault.damaged


async def test_a_look_is_part_of_every_start(place: Place) -> None:
    await place.install()
    async with reachable_database(place.load(), may_create=False):
        pass
    DAMAGE["a page of zeros"](_file(place))
    with pytest.raises(DatabaseDamaged):
        async with reachable_database(place.load(), may_create=False):
            pass
