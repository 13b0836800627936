"""How fast a column gets under another key version, and what readers feel of it.

The floor is the least that could be done: the sqlite3 module, one AES-GCM key for all rows, one transaction. Beside it
stands what is usually written, one transaction of ORM objects. All three change the same schema with the same pragmas.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sqlite3
import time
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvloop
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import create_engine, event, insert, select
from sqlalchemy.orm import Session, registry

from app.bootstrap.keys import open_keys
from app.bootstrap.services import open_services
from app.domain.credentials import Owner, OwnerKind
from app.domain.encrypted_columns import CREDENTIAL_SECRETS
from app.domain.keys import KeyName
from app.domain.rotation import Step
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.crypto.derive import Derivation
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.infrastructure.database.schema import api_credentials
from app.services.credentials import CredentialCipher
from tests.benchmarks.measures import Figure
from tests.support.database import NOW, migrated
from tests.support.installs import Place
from tests.support.postgres import running_postgres

if TYPE_CHECKING:
    from pathlib import Path

    from app.domain.jobs import Progress
    from app.infrastructure.database.engine import Database
    from app.services import Services
    from app.services.jobs import JobRun
    from app.services.ports import Storage, UnitOfWork

ROWS = 20_000
SECRET_BYTES = 60
ROWS_PER_INSERT = 500
READERS = 2
READERS_PAUSE = 0.002
NONCE_BYTES = 12
PRAGMAS = ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL", "secure_delete=ON")


def reencryption(directory: Path, rounds: int) -> list[Figure]:
    """Rows per second, and the p99 of a read meanwhile; every round measures every side in turn."""
    return uvloop.run(_measured(directory, rounds))


async def _measured(directory: Path, rounds: int) -> list[Figure]:
    raw = Figure(name="re-encryption, floor: sqlite3 and AES-GCM", unit="/s")
    orm = Figure(name="re-encryption, one ORM transaction", unit="/s")
    lite = Figure(name="re-encryption, SQLite", unit="/s")
    server = Figure(name="re-encryption, PostgreSQL", unit="/s")
    of_raw = Figure(name="re-encryption, SQLite / floor", aim=0.35, more=True)
    of_orm = Figure(name="re-encryption, SQLite / ORM", aim=4, more=True)
    of_lite = Figure(name="re-encryption, PostgreSQL / SQLite", aim=0.5, more=True)
    lite_scanned = Figure(name="with the verifying scan, SQLite", unit="/s")
    server_scanned = Figure(name="with the verifying scan, PostgreSQL", unit="/s")
    lite_reads = Figure(name="rotation, SQLite: p99 of a read", unit="ms", aim=50)
    server_reads = Figure(name="rotation, PostgreSQL: p99 of a read", unit="ms", aim=50)
    async with AsyncExitStack() as stack:
        floor = await Floor.filled(directory / "floor.db")
        on_sqlite = Place(f"sqlite+aiosqlite:///{directory / 'rotated.db'}", directory / "rotated")
        postgres = stack.enter_context(running_postgres())
        on_postgres = Place(stack.enter_context(postgres.database()), directory / "rotated-postgres")
        sqlite = await Install.filled(stack, on_sqlite)
        postgresql = await Install.filled(stack, on_postgres)
        gc.collect()
        gc.freeze()  # as Keyhall does after its start; all sides gain
        for number in range(rounds + 1):
            by_raw, by_orm = ROWS / floor.raw(), ROWS / floor.orm()
            by_lite, by_lite_scanned = await sqlite.rotate()
            by_server, by_server_scanned = await postgresql.rotate()
            lite_p99, server_p99 = await sqlite.read_meanwhile(), await postgresql.read_meanwhile()
            if number == 0:  # cold
                continue
            for figure, value in (
                (raw, by_raw),
                (orm, by_orm),
                (lite, by_lite),
                (server, by_server),
                (of_raw, by_lite / by_raw),
                (of_orm, by_lite / by_orm),
                (of_lite, by_server / by_lite),
                (lite_scanned, by_lite_scanned),
                (server_scanned, by_server_scanned),
                (lite_reads, lite_p99),
                (server_reads, server_p99),
            ):
                figure.values.append(value)
        gc.unfreeze()
    return [raw, orm, lite, server, of_raw, of_orm, of_lite, lite_scanned, server_scanned, lite_reads, server_reads]


# ---------------------------------------------------------------------------------------------------------------------
# Keyhall
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Install:
    """A process of Keyhall on an install full of credentials; nobody else is on it."""

    services: Services
    storage: Storage

    @classmethod
    async def filled(cls, stack: AsyncExitStack, place: Place) -> Install:
        """Make it, for as long as the stack lasts."""
        settings = place.load()
        opened = await stack.enter_async_context(open_keys(settings, may_create=True))
        services = await stack.enter_async_context(open_services(settings, opened, kind="benchmark"))
        cipher = CredentialCipher(
            keys=opened.keys, envelope=AesGcmEnvelope(SystemRandomness()), derivation=Derivation()
        )
        primary = opened.keys.primary(KeyName.AES_KEY)
        rows = [_row(SystemRandomness().new_id()) for _ in range(ROWS)]
        for row in rows:
            secret = os.urandom(SECRET_BYTES // 2).hex()
            row["encrypted_value"] = cipher.encrypt(secret, row["id"], Owner(OwnerKind.USER, row["owner_id"]), primary)
        await _insert(opened.database, rows)
        return cls(services=services, storage=opened.storage)

    async def rotate(self) -> tuple[float, float]:
        """Rotate AES_KEY, as a worker does.

        Rows per second of the re-encryption, and of that with the scan that stands between it and the retirement.
        """
        rotation, jobs = self.services.rotation, self.services.jobs
        job = await rotation.rotate(await self.services.identity.operator(), KeyName.AES_KEY)
        run = await jobs.claim(job.id)
        if run is None:
            raise RuntimeError("somebody else took the job")
        steps = _noting(run)
        await jobs.work(run, rotation.job.carry_on)
        async with self.storage.read() as uow:
            counts = await uow.encrypted_rows.counts(CREDENTIAL_SECRETS)
        if run.progress.done != ROWS or counts != {self.services.keys.primary(KeyName.AES_KEY).version: ROWS}:
            raise RuntimeError("not every row was re-encrypted and verified: these figures would mean nothing")
        began = steps[Step.REENCRYPT]
        return ROWS / (steps[Step.VERIFY] - began), ROWS / (steps[Step.DONE] - began)

    async def read_meanwhile(self) -> float:
        """The p99 of a read by id in a unit of work of its own during a rotation, in milliseconds."""
        async with self.storage.read() as uow:
            ids = [row.id for row in await uow.encrypted_rows.all(CREDENTIAL_SECRETS, after=None, limit=ROWS)]
        latencies: list[float] = []

        async def read() -> None:
            while True:
                began = time.perf_counter()
                async with self.storage.read() as uow:
                    await uow.credentials.get(random.choice(ids))
                latencies.append((time.perf_counter() - began) * 1000)
                await asyncio.sleep(READERS_PAUSE)

        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(read()) for _ in range(READERS)]
            await self.rotate()
            for reader in readers:
                reader.cancel()
        return sorted(latencies)[len(latencies) * 99 // 100]


def _noting(run: JobRun) -> dict[str, float]:
    """When each step of a rotation began, filled while it runs: the moment at which the job's row first said so."""
    hold, began = run.hold, dict[str, float]()

    async def noting(uow: UnitOfWork, progress: Progress | None = None) -> None:
        await hold(uow, progress)
        if progress is not None:
            began.setdefault(progress.step, time.perf_counter())

    run.hold = noting  # type: ignore[method-assign]
    return began


async def _insert(database: Database, rows: list[dict[str, Any]]) -> None:
    async with database.write() as connection:
        for start in range(0, ROWS, ROWS_PER_INSERT):
            await connection.change(insert(api_credentials).values(rows[start : start + ROWS_PER_INSERT]))


def _row(id_: str) -> dict[str, Any]:
    """A credential without its secret, of an owner of its own."""
    return {
        "id": id_,
        "owner_kind": "user",
        "owner_id": SystemRandomness().new_id(),
        "provider": "openai",
        "label": "Main",
        "label_key": "main",
        "key_version": 1,
        "version": 1,
        "fingerprint": os.urandom(8).hex(),
        "status": "unchecked",
        "created_by": "somebody",
        "created_at": NOW,
        "updated_at": NOW,
    }


# ---------------------------------------------------------------------------------------------------------------------
# What it is compared with
# ---------------------------------------------------------------------------------------------------------------------


class _Credential:
    """A row, for the ORM."""

    encrypted_value: bytes


registry().map_imperatively(_Credential, api_credentials)


class Floor:
    """A database of the same rows, sealed by AES-GCM with one key and nothing else."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cipher = AESGCM(AESGCM.generate_key(256))

    @classmethod
    async def filled(cls, path: Path) -> Floor:
        """Make it."""
        floor = cls(path)
        new_id = SystemRandomness().new_id
        rows = [_row(new_id()) | {"encrypted_value": floor._sealed(os.urandom(SECRET_BYTES))} for _ in range(ROWS)]
        async with migrated(f"sqlite+aiosqlite:///{path}") as database:
            await _insert(database, rows)
        return floor

    def raw(self) -> float:
        """Seconds with the sqlite3 module: select all, decrypt, encrypt, executemany."""
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            began = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            rows = connection.execute("SELECT id, encrypted_value FROM api_credentials").fetchall()
            anew = [(self._sealed(self._opened(value)), key) for key, value in rows]
            connection.executemany("UPDATE api_credentials SET encrypted_value = ? WHERE id = ?", anew)
            connection.execute("COMMIT")
            return time.perf_counter() - began

    def orm(self) -> float:
        """Seconds with objects of SQLAlchemy's ORM, all in one transaction."""
        engine = create_engine(f"sqlite:///{self._path}")

        @event.listens_for(engine, "connect")
        def _connect(connection: sqlite3.Connection, _: object) -> None:
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")

        with engine.connect(), Session(engine) as session:
            began = time.perf_counter()
            for each in session.scalars(select(_Credential)).all():
                each.encrypted_value = self._sealed(self._opened(each.encrypted_value))
            session.commit()
            seconds = time.perf_counter() - began
        engine.dispose()
        return seconds

    def _sealed(self, plaintext: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plaintext, None)

    def _opened(self, value: bytes) -> bytes:
        return self._cipher.decrypt(value[:NONCE_BYTES], value[NONCE_BYTES:], None)
