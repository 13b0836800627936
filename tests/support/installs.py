"""Installs to try things on: one place (database and DATA_DIR), opened in process or run as a command."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from app.bootstrap.keys import OpenKeys, open_keys
from app.bootstrap.services import open_services
from app.domain.keys import MATERIAL_BYTES, KeysetEntry, KeyState, KeyVersion, Origin
from app.domain.secrets import SecretBytes
from app.infrastructure.clock import SystemClock
from app.infrastructure.crypto.derive import Derivation
from app.services.keys import rows as key_rows
from app.settings import Settings
from tests.support.environment import process_environment
from tests.support.processes import PROJECT, Process, run
from tests.support.snapshots import InstallSnapshot, kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from app.domain.keys import KeyName
    from app.services import Services

KEYHALL = ["-m", "entrypoints.cli_entrypoint"]
"""Arguments of `python` that make it the command `keyhall`."""
TABLES = [
    "app_config",
    "users",
    "owner_claim",
    "sessions",
    "refresh_tokens",
    "one_time_links",
    "passkeys",
    "spent_tickets",
    "totp_factors",
    "recovery_codes",
    "api_tokens",
    "imported_entries",
    "api_credentials",
    "credential_history",
    "subjects",
    "audit_events",
    "instances",
    "attempts",
    "idempotency_keys",
    "jobs",
    "key_schedules",
    "backups",
    "erasures",
    "bot_state",
    "schema_info",
    "alembic_version",
]


@dataclass(frozen=True)
class Place:
    """Where an install is or may come to be."""

    url: str
    data_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def having(self, **settings: str) -> Place:
        """The same place, with settings on top."""
        return replace(self, settings={**self.settings, **settings})

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are told."""
        given = {"APP_ENV": "test", "DATABASE_URL": self.url, "DATA_DIR": str(self.data_dir), "WEB_PORT": "0"}
        return given | dict(self.settings)

    def load(self) -> Settings:
        """Its settings, in this process."""
        return Settings.load(self.environment)

    @asynccontextmanager
    async def keys(self, *, may_create: bool = True) -> AsyncIterator[OpenKeys]:
        """Open as far as the keys."""
        async with open_keys(self.load(), may_create=may_create) as opened:
            yield opened

    async def install(self) -> Place:
        """Have an install here, where nothing is yet: the first of its kind really starts, the others are its copies.

        Every copy has the same install id and the same keys. A place with settings, which may give keys, really starts.
        Returns the place.
        """
        if not self.settings and kind(self.url) in _INSTALLS:
            await _INSTALLS[kind(self.url)].copy(self.url, self.data_dir)
            return self
        async with self.keys():
            pass
        if not self.settings:
            _INSTALLS[kind(self.url)] = InstallSnapshot.of(self.url, self.data_dir)
        return self

    @asynccontextmanager
    async def services(self) -> AsyncIterator[Services]:
        """Open everything."""
        settings = self.load()
        async with (
            open_keys(settings, may_create=True) as opened,
            open_services(settings, opened, kind="test") as services,
        ):
            yield services

    async def execute(self, statement: str, **values: Any) -> None:
        """Change the database behind Keyhall's back."""
        engine = create_async_engine(self.url)
        try:
            async with engine.begin() as connection:
                await connection.execute(text(statement), values)
        finally:
            await engine.dispose()

    async def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every table's rows, for comparing."""
        engine = create_async_engine(self.url)
        found: dict[str, list[tuple[Any, ...]]] = {}
        try:
            for table in TABLES:
                async with engine.connect() as connection:
                    rows = (await connection.execute(text(f"SELECT * FROM {table}"))).all()  # noqa: S608 - our own names
                found[table] = sorted((tuple(row) for row in rows), key=repr)
        finally:
            await engine.dispose()
        return found

    async def app_config(self) -> dict[str, str]:
        """The rows of the key store."""
        engine = create_async_engine(self.url)
        try:
            async with engine.connect() as connection:
                return {row[0]: row[1] for row in await connection.execute(text("SELECT key, value FROM app_config"))}
        finally:
            await engine.dispose()

    async def revoke(self, name: KeyName) -> None:
        """Put a new version in the primary's place and mark the old one compromised, with the domain's own means."""
        async with self.keys(may_create=False) as opened:
            ring = opened.keys.ring
            now, keyset = SystemClock().now(), ring.keysets[name]
            old, new = keyset.primary.version, max(each.version for each in keyset) + 1
            material = SecretBytes(secrets.token_bytes(MATERIAL_BYTES))
            version = KeyVersion(
                version=new,
                state=KeyState.PRE_ACTIVATION,
                fingerprint=Derivation().fingerprint(name, material),
                wrapped=ring.wrapping.wrap(material, install_id=keyset.install_id, name=name, version=new),
                origin=Origin.GENERATED,
                created_at=now,
            )
            revoked = keyset.add(version).promote(new, now).mark(old, KeyState.COMPROMISED, now)
            value = key_rows.encode_keyset(revoked, ring.wrapping)
            entry = KeysetEntry(epoch=revoked.epoch, digest=key_rows.digest(value))
            manifest = key_rows.encode_manifest(ring.manifest.with_keyset(name, entry), ring.wrapping)
            async with opened.storage.write() as uow:
                await uow.keys.put(key_rows.keyset_row(name), value, now)
                await uow.keys.put(key_rows.MANIFEST_ROW, manifest, now)
            assert await opened.keys.reload()

    # -- as a command --------------------------------------------------------------------------------------------------

    def command(self, *arguments: str, stdin: str = "", within: float = 100) -> subprocess.CompletedProcess[str]:
        """Run `keyhall …` to its end."""
        return run(*KEYHALL, *arguments, env=process_environment(**self.environment), stdin=stdin, within=within)

    @contextmanager
    def running(self, *arguments: str, fresh: bool = False) -> Iterator[Running]:
        """`keyhall …` as a process that serves; ended by SIGTERM, or killed.

        ``fresh``: in an interpreter of its own, for tests and measures of its start or its memory.
        """
        environment = process_environment(**self.environment)
        process: Process | subprocess.Popen[str]
        if fresh:
            process = subprocess.Popen(
                [sys.executable, *KEYHALL, *arguments],
                cwd=PROJECT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        else:
            process = Process(*KEYHALL, *arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        running = Running(process)
        try:
            yield running
        finally:
            running.end()


_INSTALLS: Final[dict[str, InstallSnapshot]] = {}


class Running:
    """A process, and what it said on standard error so far."""

    def __init__(self, process: Process | subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._queue: Queue[str | None] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def wait_for(self, pattern: str, within: float = 60) -> re.Match[str]:
        """The first line from now on that the pattern is found in."""
        while True:
            try:
                line = self._queue.get(timeout=within)
            except Empty:
                raise AssertionError(f"no line like {pattern!r} within {within} s; so far: {self.lines}") from None
            if line is None:
                raise AssertionError(f"the process ended ({self.process.wait()}) before {pattern!r}: {self.lines}")
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found

    def address(self) -> str:
        """Where it serves, once it does."""
        return self.wait_for(r"listening on ([^)]+)\)")[1].join(("http://", ""))

    def setup_token(self) -> str:
        """The token for the first owner."""
        return self.wait_for(r"setup token=(\S+)")[1]

    def end(self, number: int = signal.SIGTERM, within: float = 60) -> int:
        """Send a signal and wait; returns the exit code."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        code = self.process.wait(timeout=within)
        self._reader.join(timeout=within)
        while not self._queue.empty():
            line = self._queue.get()
            if line is not None:
                self.lines.append(line)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return code


# ---------------------------------------------------------------------------------------------------------------------
# The keys, as other processes see them
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeysFound:
    """What a process printed that opened the keys."""

    install_id: str
    fingerprints: tuple[str, ...]
    created: bool

    @classmethod
    def read(cls, line: str) -> KeysFound:
        """Understand what tests/support/open_keys.py prints."""
        members = json.loads(line)
        return cls(members["install_id"], tuple(members["fingerprints"]), members["created"])


OPEN_KEYS = ["-m", "tests.support.open_keys"]


def keys_of_many(place: Place, processes: int) -> list[KeysFound]:
    """Open the keys in many processes that begin at one moment; every one of them must succeed."""
    with ExitStack() as stack:
        racing = [
            stack.enter_context(
                Process(
                    *OPEN_KEYS,
                    "wait",
                    env=process_environment(**place.environment),
                    stdin=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
            for _ in range(processes)
        ]
        for each in racing:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in racing:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        found = []
        for each in racing:
            out, err = each.communicate(timeout=300)
            assert each.returncode == 0, err
            found.append(KeysFound.read(out))
        return found


# ---------------------------------------------------------------------------------------------------------------------
# Over HTTP
# ---------------------------------------------------------------------------------------------------------------------


def client_of(address: str) -> aiohttp.ClientSession:
    """A client whose paths begin at an address; no request takes longer than a test may."""
    return aiohttp.ClientSession(address, timeout=aiohttp.ClientTimeout(total=90))


async def sign_up(client: aiohttp.ClientSession, setup_token: str, username: str, password: str) -> None:
    """Claim the first owner."""
    body = {"setup_token": setup_token, "username": username, "password": password}
    async with client.post("/api/v1/setup", json=body) as answer:
        assert answer.status == 201, await answer.text()


async def sign_in(client: aiohttp.ClientSession, username: str, password: str) -> dict[str, Any]:
    """Sign in; the client sends the access token from then on. Returns the answer."""
    async with client.post("/api/v1/auth/login", json={"username": username, "password": password}) as answer:
        assert answer.status == 200, await answer.text()
        tokens: dict[str, Any] = await answer.json()
    client.headers["Authorization"] = f"Bearer {tokens['access_token']}"
    return tokens
