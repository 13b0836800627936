"""What a start that cannot go on prints and how it exits; where the remedy is a command, the command works."""

from __future__ import annotations

import base64
import os
import re
import secrets
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.support.environment import process_environment
from tests.support.installs import Place
from tests.support.postgres import PostgresServer
from tests.support.processes import PROJECT

REMEDY_WITHIN = 60
OTHER_ID = "00000000-0000-4000-8000-000000000000"


def _random_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def _file(place: Place) -> Path:
    return Path(place.url.removeprefix("sqlite+aiosqlite:///"))


def _change(place: Place, statement: str, *values: str) -> None:
    connection = sqlite3.connect(_file(place))
    with connection:
        connection.execute(statement, values)
    connection.close()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place on the embedded database where an install was made, for copying."""
    root = tmp_path_factory.mktemp("install")
    place = Place(f"sqlite+aiosqlite:///{root / 'keyhall.db'}", root / "data")
    with place.running("web") as running:
        running.address()
        assert running.end() == 0
    return root


@pytest.fixture
def installed(template: Path, tmp_path: Path) -> Place:
    """A copy of an install."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return Place(f"sqlite+aiosqlite:///{tmp_path / 'keyhall.db'}", tmp_path / "data")


@dataclass(frozen=True)
class Halt:
    """The last line of a start that ended by itself."""

    slug: str
    happened: str
    remedy: str
    code: int

    @property
    def command(self) -> str:
        """The command in the remedy."""
        found = re.search(r"`([^`]+)`", self.remedy)
        assert found is not None, self.remedy
        return found[1]


def _halt(place: Place, *arguments: str) -> Halt:
    done = place.command(*(arguments or ("web",)))
    assert done.stdout == ""
    assert "serving" not in done.stderr
    assert "Traceback" not in done.stderr
    line = re.fullmatch(r"keyhall: halted \[([a-z_]+)\] (.+) — (.+)", done.stderr.splitlines()[-1])
    assert line is not None, done.stderr
    return Halt(line[1], line[2], line[3], done.returncode)


def _starts(place: Place) -> None:
    with place.running("web") as running:
        running.address()
        assert running.end() == 0


def _run(command: str, place: Place) -> None:
    """Run a remedy as the operator would; `keyhall` is the one of this checkout."""
    words = shlex.split(command)
    if words[0] == "keyhall":
        place.command(*words[1:], within=REMEDY_WITHIN).check_returncode()
        return
    subprocess.run(words, cwd=PROJECT, env=process_environment(**place.environment), check=True, timeout=REMEDY_WITHIN)


# ---------------------------------------------------------------------------------------------------------------------
# Every halt that can occur with an install on the embedded database
# ---------------------------------------------------------------------------------------------------------------------


def _no_master_key(place: Place) -> Place:
    (place.data_dir / "master.key").unlink()
    return place


def _without_database(place: Place) -> Place:
    _file(place).unlink()
    return place


def _after(statement: str, *values: str) -> Callable[[Place], Place]:
    def prepare(place: Place) -> Place:
        _change(place, statement, *values)
        return place

    return prepare


def _having(**settings: str) -> Callable[[Place], Place]:
    return lambda place: place.having(**settings)


HALTS: dict[str, tuple[Callable[[Place], Place], str, int]] = {
    "a malformed setting": (_having(WEB_PORT="eighty"), "config_invalid", 78),
    "a setting given twice": (
        _having(JWT_SECRET_KEY="a" * 40, JWT_SECRET_KEY_FILE="/nowhere"),
        "config_invalid",
        78,
    ),
    "the master key gone": (_no_master_key, "master_key_missing", 78),
    "another master key": (_having(MASTER_KEY=_random_key()), "master_key_mismatch", 78),
    "an empty master key": (_having(MASTER_KEY=""), "insecure_key", 78),
    "another environment": (_having(APP_ENV="development"), "environment_mismatch", 78),
    "another install pinned": (_having(INSTALL_ID=OTHER_ID), "install_mismatch", 65),
    "the database gone": (_without_database, "install_mismatch", 65),
    "a keyset gone": (_after("DELETE FROM app_config WHERE key = 'keyset/AES_KEY'"), "key_missing", 65),
    "a keyset edited": (
        _after(
            "UPDATE app_config SET value = replace(value, '\"active\"', '\"deactivated\"') WHERE key LIKE ?", "%AES_KEY"
        ),
        "key_damaged",
        65,
    ),
    "another key from outside": (_having(JWT_SECRET_KEY=secrets.token_hex(32)), "key_conflict", 65),
    "a newer schema": (_after("UPDATE alembic_version SET version_num = '9999'"), "schema_newer", 70),
    "a demand for a newer version": (_after("UPDATE schema_info SET min_app = '999.0.0'"), "schema_newer", 70),
}


@pytest.mark.parametrize("cause", HALTS)
def test_a_start_that_cannot_go_on_says_so_in_one_line(installed: Place, cause: str) -> None:
    prepare, slug, code = HALTS[cause]
    broken = prepare(installed)
    before = {path: path.read_bytes() for path in installed.data_dir.iterdir()}
    halt = _halt(broken)
    assert (halt.slug, halt.code) == (slug, code)
    assert {path: path.read_bytes() for path in installed.data_dir.iterdir()} == before
    if cause == "the database gone":
        assert not _file(installed).exists()


def test_no_value_of_a_refused_setting_is_repeated(installed: Place) -> None:
    secret = secrets.token_hex(32)
    done = installed.having(JWT_SECRET_KEY=secret).command("web")
    assert "[key_conflict]" in done.stderr
    assert secret not in done.stderr


def test_a_failed_migration_leaves_the_schema_as_it_was(sqlite_place: Place) -> None:
    connection = sqlite3.connect(_file(sqlite_place))
    with connection:
        connection.execute("CREATE TABLE users (something TEXT)")  # in the way of the first migration
    connection.close()
    halt = _halt(sqlite_place)
    assert (halt.slug, halt.code) == ("migration_failed", 70)
    connection = sqlite3.connect(_file(sqlite_place))
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    connection.close()
    assert tables == [("users",)]


def test_a_taken_port_halts_before_anything_is_made(sqlite_place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        halt = _halt(sqlite_place.having(WEB_PORT=str(taken.getsockname()[1])))
    assert (halt.slug, halt.code) == ("address_in_use", 71)
    assert not _file(sqlite_place).exists()
    assert not sqlite_place.data_dir.exists()


@pytest.mark.postgres
def test_a_database_that_takes_no_writes_halts(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    database = make_url(postgres_url).database
    place = Place(postgres_url, tmp_path / "data")
    _starts(place)
    postgres_server.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
    halt = _halt(place)
    assert (halt.slug, halt.code) == ("database_unavailable", 69)
    assert "read-only" in halt.happened
    postgres_server.execute(f'ALTER DATABASE "{database}" RESET default_transaction_read_only')
    _starts(place)


# ---------------------------------------------------------------------------------------------------------------------
# Executable remedies
# ---------------------------------------------------------------------------------------------------------------------


def test_the_remedy_for_an_open_master_key_works(installed: Place) -> None:
    (installed.data_dir / "master.key").chmod(0o644)
    halt = _halt(installed)
    assert (halt.slug, halt.code) == ("insecure_key", 78)
    _run(halt.command, installed)
    _starts(installed)


def test_the_remedy_for_a_secret_that_others_may_write_works(sqlite_place: Place, tmp_path: Path) -> None:
    mounted = tmp_path / "a secret's file"
    mounted.write_text(_random_key())
    mounted.chmod(0o666)
    place = sqlite_place.having(MASTER_KEY_FILE=str(mounted))
    halt = _halt(place)
    assert (halt.slug, halt.code) == ("insecure_key", 78)
    _run(halt.command, place)
    _starts(place)


def test_the_remedy_for_production_without_a_master_key_works(sqlite_place: Place) -> None:
    place = sqlite_place.having(APP_ENV="production", PUBLIC_URL="https://keys.example.org")
    halt = _halt(place)
    assert (halt.slug, halt.code) == ("master_key_missing", 78)
    _run(halt.command, place)
    _starts(place)


def test_the_remedy_for_a_damaged_install_file_works(installed: Place) -> None:
    (installed.data_dir / "install.json").write_text("{")
    halt = _halt(installed)
    assert (halt.slug, halt.code) == ("install_mismatch", 65)
    _run(halt.command, installed)
    _starts(installed)


# ---------------------------------------------------------------------------------------------------------------------
# Patience
# ---------------------------------------------------------------------------------------------------------------------

_HOLD_A_LOCK = """
import signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA locking_mode=EXCLUSIVE")
connection.execute("BEGIN EXCLUSIVE")
connection.execute("UPDATE schema_info SET min_app = min_app")
print("locked", flush=True)
signal.pause()
"""


@contextmanager
def _locked(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A database that another process has locked until it ends."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD_A_LOCK, os.fspath(path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "locked\n"
            yield holder
        finally:
            holder.kill()


@pytest.mark.slow
def test_a_database_that_is_locked_for_a_while_is_waited_for(installed: Place) -> None:
    with _locked(_file(installed)) as holder, installed.running("web") as running:
        running.wait_for("waiting for the database")
        assert not any("listening" in line for line in running.lines)
        holder.kill()
        running.address()
        assert running.end() == 0


def test_several_keys_that_conflict_are_imported_from_the_settings_one_after_the_other(installed: Place) -> None:
    """As after `make keys-generate FORCE=1`; each halt prints the command that resolves it."""
    names = ("JWT_SECRET_KEY", "AES_KEY", "ENCRYPTION_KEY", "API_SECRET_KEY")
    given = installed.having(**{name: secrets.token_hex(32) for name in names})
    for name in names:
        halt = given.command("keys", "list")
        assert "[key_conflict]" in halt.stderr
        assert f"keys import {name} --from-settings`" in halt.stderr
        done = given.command("keys", "import", name, "--from-settings")
        assert done.returncode == 0, done.stderr
    assert given.command("keys", "list").returncode == 0
    refused = installed.command("keys", "import", "AES_KEY", "--from-settings")
    assert refused.returncode == 1
    assert "the settings give no AES_KEY" in refused.stderr
