"""How fast a column gets under another key version, and what readers feel of it.

The floor is the least that could be done: the sqlite3 module, one AES-GCM key for all rows, one transaction. Beside it
stands what is usually written, one transaction of ORM objects. All three change the same schema with the same pragmas.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import uvloop
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import create_engine, event, insert, select
from sqlalchemy.orm import Session, registry

from app.domain.credentials import Owner, OwnerKind
from app.domain.keys import KeyName
from app.domain.sealed import CREDENTIAL_SECRETS, SEALED_COLUMNS
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.database.schema import api_credentials
from app.infrastructure.database.unit_of_work import SqlStorage
from tests.benchmarks.measures import Figure
from tests.support.database import NOW, migrated
from tests.support.house import House, open_house
from tests.support.postgres import running_postgres

ROWS = 20_000
SECRET_BYTES = 60
BATCH = 500
"""Rows per unit of work, as in a rotation."""
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
    lite_reads = Figure(name="re-encryption, SQLite: p99 of a read", unit="ms", aim=50)
    server_reads = Figure(name="re-encryption, PostgreSQL: p99 of a read", unit="ms", aim=50)
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(running_postgres())
        floor = await Floor.filled(directory / "floor.db")
        on_sqlite = await _filled(stack, f"sqlite+aiosqlite:///{directory / 'rotated.db'}")
        on_postgres = await _filled(stack, stack.enter_context(postgres.database()))
        for number in range(rounds + 1):
            by_raw, by_orm = ROWS / floor.raw(), ROWS / floor.orm()
            by_lite, by_server = ROWS / await _timed(on_sqlite), ROWS / await _timed(on_postgres)
            lite_p99, server_p99 = await _read_meanwhile(on_sqlite), await _read_meanwhile(on_postgres)
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
                (lite_reads, lite_p99),
                (server_reads, server_p99),
            ):
                figure.values.append(value)
    return [raw, orm, lite, server, of_raw, of_orm, of_lite, lite_reads, server_reads]


# ---------------------------------------------------------------------------------------------------------------------
# Keyhall
# ---------------------------------------------------------------------------------------------------------------------


async def reencrypt(house: House) -> None:
    """Put every row under the primary, as a rotation does once its version is promoted."""
    for column in SEALED_COLUMNS:
        after = None
        while True:
            async with house.storage.read() as uow:
                primary = house.keys.ring.primary(column.key_name)
                rows = await uow.sealed.batch(column, primary=primary.version, after=after, limit=BATCH)
            if not rows:
                break
            after = rows[-1].id
            house.keys.confirm(house.clock.monotonic())  # which another task of a process does
            resealed = await asyncio.to_thread(house.sealing.reseal, column, rows, primary)
            async with house.storage.write() as uow:
                await house.keys.primary_under_lock(uow, column.key_name)
                await uow.sealed.swap(column, [each for each in resealed if each is not None])


async def _timed(house: House) -> float:
    """Seconds for all rows."""
    house.keys.confirm(house.clock.monotonic())
    await house.rotate(KeyName.AES_KEY)
    await house.keys.reload()
    began = time.perf_counter()
    await reencrypt(house)
    seconds = time.perf_counter() - began
    async with house.storage.read() as uow:
        counts = await uow.sealed.counts(CREDENTIAL_SECRETS)
    if counts != {house.keys.ring.primary(KeyName.AES_KEY).version: ROWS}:
        raise RuntimeError("not every row was re-encrypted: these figures would mean nothing")
    return seconds


async def _read_meanwhile(house: House) -> float:
    """The p99 of a read by id in a unit of work of its own, in milliseconds."""
    async with house.storage.read() as uow:
        ids = [row.id for row in await uow.sealed.all(CREDENTIAL_SECRETS, after=None, limit=ROWS)]
    latencies: list[float] = []

    async def read() -> None:
        while True:
            began = time.perf_counter()
            async with house.storage.read() as uow:
                await uow.credentials.get(random.choice(ids))
            latencies.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(READERS_PAUSE)

    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read()) for _ in range(READERS)]
        await _timed(house)
        for reader in readers:
            reader.cancel()
    return sorted(latencies)[len(latencies) * 99 // 100]


async def _filled(stack: AsyncExitStack, url: str) -> House:
    """A house on that database, with its credentials."""
    database = await stack.enter_async_context(migrated(url))
    house = await open_house(SqlStorage(database), SystemClock(), SystemRandomness())
    primary = house.keys.ring.primary(KeyName.AES_KEY)
    rows = [_row(house.randomness.new_id()) for _ in range(ROWS)]
    for row in rows:
        secret = os.urandom(SECRET_BYTES // 2).hex()
        owner = Owner(OwnerKind.USER, row["owner_id"])
        row["encrypted_value"] = house.sealing.seal(secret, row["id"], owner, primary)
    async with database.write() as connection:
        for start in range(0, ROWS, BATCH):
            await connection.change(insert(api_credentials).values(rows[start : start + BATCH]))
    return house


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
        async with migrated(f"sqlite+aiosqlite:///{path}") as database, database.write() as connection:
            for _ in range(0, ROWS, BATCH):
                rows = [
                    _row(new_id()) | {"encrypted_value": floor._sealed(os.urandom(SECRET_BYTES))} for _ in range(BATCH)
                ]
                await connection.change(insert(api_credentials).values(rows))
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
