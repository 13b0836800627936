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
from typing import TYPE_CHECKING, NamedTuple

import uvloop
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import create_engine, event, select
from sqlalchemy.orm import Session, registry

from app.domain.encrypted_columns import CREDENTIAL_SECRETS
from app.domain.keys import KeyName
from app.domain.rotation import Step
from app.infrastructure.database.schema import api_credentials
from tests.benchmarks.figures import Figure, Moment, Size, Spent, quantile
from tests.benchmarks.filled import SECRET_BYTES, Install, LoopWatch, credential_row, insert_rows
from tests.support.database import migrated
from tests.support.installs import Place
from tests.support.postgres import running_postgres

if TYPE_CHECKING:
    from pathlib import Path

    from app.domain.jobs import Progress
    from app.services import Services
    from app.services.jobs import JobRun
    from app.services.ports import Storage, UnitOfWork

READERS = 2
READERS_PAUSE = 0.002
NONCE_BYTES = 12
PRAGMAS = ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL", "secure_delete=ON")


def reencryption(directory: Path, size: Size) -> list[Figure]:
    """Rows per second, and the p99 of a read meanwhile; every round measures every side in turn."""
    return uvloop.run(_measured(directory, size))


async def _measured(directory: Path, size: Size) -> list[Figure]:
    raw = Figure(name="re-encryption, floor: sqlite3 and AES-GCM", unit="/s")
    orm = Figure(name="re-encryption, one ORM transaction", unit="/s")
    lite = Figure(name="re-encryption, SQLite", unit="/s")
    server = Figure(name="re-encryption, PostgreSQL", unit="/s")
    of_raw = Figure(name="re-encryption, SQLite / floor", aim=0.3, more=True)
    cost_of_raw = Figure(name="re-encryption, floor / SQLite, processor time each")
    of_orm = Figure(name="re-encryption, SQLite / ORM", aim=1.6, more=True)
    cost_of_orm = Figure(name="re-encryption, ORM / SQLite, processor time each")
    of_lite = Figure(name="re-encryption, PostgreSQL / SQLite")
    lite_scanned = Figure(name="with the verifying scan, SQLite", unit="/s")
    server_scanned = Figure(name="with the verifying scan, PostgreSQL", unit="/s")
    lite_reads = Figure(name="rotation, SQLite: p99 of a read", unit="ms", aim=50)
    lite_blocked = Figure(name="rotation, SQLite: longest block of the event loop", unit="ms", aim=50)
    server_reads = Figure(name="rotation, PostgreSQL: p99 of a read", unit="ms", aim=50)
    server_blocked = Figure(name="rotation, PostgreSQL: longest block of the event loop", unit="ms", aim=50)
    async with AsyncExitStack() as stack:
        floor = await Floor.filled(directory / "floor.db", size.rows)
        on_sqlite = Place(f"sqlite+aiosqlite:///{directory / 'rotated.db'}", directory / "rotated")
        postgres = stack.enter_context(running_postgres())
        on_postgres = Place(stack.enter_context(postgres.database()), directory / "rotated-postgres")
        sqlite = await Rotating.filled(stack, on_sqlite, size.rows)
        postgresql = await Rotating.filled(stack, on_postgres, size.rows)
        gc.collect()
        gc.freeze()  # as Keyhall does after its start; all sides gain
        for number in range(-size.cold_rounds, size.rounds):
            # In a thread, so that the processes of Keyhall in this one keep their leases.
            by_raw, by_orm = await asyncio.to_thread(floor.raw), await asyncio.to_thread(floor.orm)
            by_lite, by_server = await sqlite.rotate(), await postgresql.rotate()
            lite_felt, server_felt = await sqlite.read_meanwhile(), await postgresql.read_meanwhile()
            if number < 0:
                continue
            for figure, value in (
                (raw, size.rows / by_raw.elapsed),
                (orm, size.rows / by_orm.elapsed),
                (lite, size.rows / by_lite.reencrypted.elapsed),
                (server, size.rows / by_server.reencrypted.elapsed),
                (of_raw, by_raw.elapsed / by_lite.reencrypted.elapsed),
                (cost_of_raw, by_raw.cost / by_lite.reencrypted.cost),
                (of_orm, by_orm.elapsed / by_lite.reencrypted.elapsed),
                (cost_of_orm, by_orm.cost / by_lite.reencrypted.cost),
                (of_lite, by_lite.reencrypted.elapsed / by_server.reencrypted.elapsed),
                (lite_scanned, size.rows / by_lite.scanned.elapsed),
                (server_scanned, size.rows / by_server.scanned.elapsed),
                (lite_reads, lite_felt.p99),
                (lite_blocked, lite_felt.blocked),
                (server_reads, server_felt.p99),
                (server_blocked, server_felt.blocked),
            ):
                figure.values.append(value)
        gc.unfreeze()
    of_rows = [raw, orm, lite, server, of_raw, cost_of_raw, of_orm, cost_of_orm, of_lite, lite_scanned, server_scanned]
    return [*of_rows, lite_reads, lite_blocked, server_reads, server_blocked]


# ---------------------------------------------------------------------------------------------------------------------
# Keyhall
# ---------------------------------------------------------------------------------------------------------------------


class Rotated(NamedTuple):
    """What a rotation took: the re-encryption, and that with the scan between it and the retirement."""

    reencrypted: Spent
    scanned: Spent


class Felt(NamedTuple):
    """What a rotation does to others of its process, in milliseconds."""

    p99: float
    blocked: float


@dataclass(frozen=True, kw_only=True)
class Rotating:
    """A process of Keyhall that rotates AES_KEY."""

    services: Services
    storage: Storage
    ids: list[str]

    @classmethod
    async def filled(cls, stack: AsyncExitStack, place: Place, rows: int) -> Rotating:
        """On an install with so many credentials, for as long as the stack lasts."""
        install = await Install.opened(stack, place)
        return cls(services=install.services, storage=install.storage, ids=await install.fill(rows))

    async def rotate(self) -> Rotated:
        """Rotate AES_KEY, as a worker does."""
        rotation, jobs = self.services.rotation, self.services.jobs
        await self.services.instances.catch_up()  # as before every request and job
        job = await rotation.rotate(await self.services.identity.operator(), KeyName.AES_KEY)
        run = await jobs.claim(job.id)
        if run is None:
            raise RuntimeError("somebody else took the job")
        steps = _noting(run)
        await jobs.work(run, rotation.job.carry_on)
        rows = len(self.ids)
        async with self.storage.read() as uow:
            counts = await uow.encrypted_rows.counts(CREDENTIAL_SECRETS)
        if run.progress.done != rows or counts != {self.services.keys.primary(KeyName.AES_KEY).version: rows}:
            raise RuntimeError("not every row was re-encrypted and verified: these figures would mean nothing")
        began = steps[Step.REENCRYPT]
        return Rotated(began.until(steps[Step.VERIFY]), began.until(steps[Step.DONE]))

    async def read_meanwhile(self) -> Felt:
        """What reads by id, each in a unit of work of its own, feel of a rotation."""
        latencies: list[float] = []

        async def read() -> None:
            while True:
                began = time.perf_counter()
                async with self.storage.lookup() as uow:
                    await uow.credentials.get(random.choice(self.ids))
                latencies.append((time.perf_counter() - began) * 1000)
                await asyncio.sleep(READERS_PAUSE)

        async with asyncio.TaskGroup() as group:
            with LoopWatch() as watch:
                readers = [group.create_task(read()) for _ in range(READERS)]
                await self.rotate()
            for reader in readers:
                reader.cancel()
        return Felt(quantile(latencies, 0.99), watch.longest)


def _noting(run: JobRun) -> dict[str, Moment]:
    """When each step of a rotation began, filled while it runs: the moment at which the job's row first said so."""
    hold, began = run.hold, dict[str, Moment]()

    async def noting(uow: UnitOfWork, progress: Progress | None = None) -> None:
        await hold(uow, progress)
        if progress is not None:
            began.setdefault(progress.step, Moment.now())

    run.hold = noting  # type: ignore[method-assign]
    return began


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
    async def filled(cls, path: Path, rows: int) -> Floor:
        """Make it."""
        floor = cls(path)
        stored = [
            credential_row(number) | {"encrypted_value": floor._sealed(os.urandom(SECRET_BYTES))}
            for number in range(rows)
        ]
        async with migrated(f"sqlite+aiosqlite:///{path}") as database:
            await insert_rows(database, stored)
        return floor

    def raw(self) -> Spent:
        """With the sqlite3 module: select all, decrypt, encrypt, executemany."""
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            began = Moment.now()
            connection.execute("BEGIN IMMEDIATE")
            rows = connection.execute("SELECT id, encrypted_value FROM api_credentials").fetchall()
            anew = [(self._sealed(self._opened(value)), key) for key, value in rows]
            connection.executemany("UPDATE api_credentials SET encrypted_value = ? WHERE id = ?", anew)
            connection.execute("COMMIT")
            return began.spent()

    def orm(self) -> Spent:
        """With objects of SQLAlchemy's ORM, all in one transaction."""
        engine = create_engine(f"sqlite:///{self._path}")

        @event.listens_for(engine, "connect")
        def _connect(connection: sqlite3.Connection, _: object) -> None:
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")

        with engine.connect(), Session(engine) as session:
            began = Moment.now()
            for each in session.scalars(select(_Credential)).all():
                each.encrypted_value = self._sealed(self._opened(each.encrypted_value))
            session.commit()
            spent = began.spent()
        engine.dispose()
        return spent

    def _sealed(self, plaintext: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plaintext, None)

    def _opened(self, value: bytes) -> bytes:
        return self._cipher.decrypt(value[:NONCE_BYTES], value[NONCE_BYTES:], None)
