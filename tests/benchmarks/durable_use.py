"""Credentials in use by many at once, each use durable: the intent committed before it, the outcome after it.

The floor sends the SQL that Keyhall sends, statement by statement, by the sqlite3 module: a connection and a thread for
each writer, the same pragmas, each transaction in its turn. The SQL is taken from Keyhall while it runs.
"""

from __future__ import annotations

import asyncio
import gc
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import uvloop

import app.infrastructure.database.dialects.sqlite as dialect
from app.domain.identity import Actor, Client, Role, Source
from app.infrastructure.database.engine import DEFAULT_TIMEOUTS
from app.services import Services
from tests.benchmarks.figures import Figure, Moment, Size, Spent
from tests.benchmarks.servers import PASSWORD
from tests.support.installs import Place

WRITERS = 20
ATTEMPTS = 20
"""At noting the statements of a use without those of what else the process does now and then."""

Sent: TypeAlias = tuple[str, tuple[object, ...]]

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def durable_use(directory: Path, size: Size) -> list[Figure]:
    """Uses per second of twenty writers at once, against twenty that send the same SQL."""
    return uvloop.run(_measured(directory, size))


async def _measured(directory: Path, size: Size) -> list[Figure]:
    raw = Figure(name=f"durable use, floor: the same SQL raw, {WRITERS} writers", unit="/s")
    uses = Figure(name=f"durable use, {WRITERS} at once", unit="/s")
    ratio = Figure(name="durable use / the same SQL raw", aim=0.35, more=True)
    cost = Figure(name="the same SQL raw / durable use, processor time each")
    path = directory / "used.db"
    place = Place(f"sqlite+aiosqlite:///{path}", directory / "used")
    with _noted() as statements:  # every connection that is opened from now on notes what it is sent
        async with place.services() as services:
            actors = await _actors(services)
            replays = [await _replay(services, actor, statements) for actor in actors]
    async with place.services() as services:
        gc.collect()
        gc.freeze()  # as Keyhall does after its start; both sides gain
        for number in range(-size.cold_rounds, size.rounds):
            floor = await asyncio.to_thread(_raw, path, replays, size.uses)
            keyhall = await _used(services, actors, size.uses)
            if number < 0:
                continue
            raw.values.append(WRITERS * size.uses / floor.elapsed)
            uses.values.append(WRITERS * size.uses / keyhall.elapsed)
            ratio.values.append(floor.elapsed / keyhall.elapsed)
            cost.values.append(floor.cost / keyhall.cost)
        gc.unfreeze()
    return [raw, uses, ratio, cost]


async def _actors(services: Services) -> list[Actor]:
    """Twenty members with a credential each."""
    client = Client(source=Source.WEB)
    await services.identity.create_owner("owner", PASSWORD, client)
    owner, secret = await _signed_in(services, "owner", client), "sk-proj-" + "0123456789abcdef" * 4
    actors = []
    for number in range(WRITERS):
        await services.identity.create(owner, f"member{number}", PASSWORD, Role.MEMBER)
        actor = await _signed_in(services, f"member{number}", client)
        await services.credentials.add(actor, provider="openai", label="bench", secret=secret)
        actors.append(actor)
    return actors


async def _signed_in(services: Services, name: str, client: Client) -> Actor:
    pair = await services.authentication.login(name, PASSWORD, client)
    return await services.requests.authenticate(pair.access_token.reveal(), client)


async def _use(services: Services, actor: Actor) -> None:
    async with services.credentials.use(actor, "openai") as usable:
        if not usable.secret.reveal().startswith("sk-"):
            raise RuntimeError("not the secret that was stored")


async def _used(services: Services, actors: Sequence[Actor], times: int) -> Spent:
    async def again(actor: Actor) -> None:
        for _ in range(times):
            await _use(services, actor)

    began = Moment.now()
    async with asyncio.TaskGroup() as group:
        for actor in actors:
            group.create_task(again(actor))
    return began.spent()


# ---------------------------------------------------------------------------------------------------------------------
# The floor
# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def _noted() -> Iterator[list[Sent]]:
    """What is sent on every SQLite connection that Keyhall opens meanwhile, in order."""
    sent: list[Sent] = []
    before = dialect._Releasing

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
            sent.append((sql, tuple(parameters)))
            super().execute(sql, parameters)
            return self

    class Connection(before):  # type: ignore[valid-type, misc]
        def cursor(self, factory: type[sqlite3.Cursor] = Cursor) -> sqlite3.Cursor:
            made: sqlite3.Cursor = super().cursor(factory)
            return made

        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            return self.cursor().execute(sql, parameters)

        def commit(self) -> None:
            if self.in_transaction:
                sent.append(("COMMIT", ()))
            super().commit()

        def rollback(self) -> None:
            if self.in_transaction:
                sent.append(("ROLLBACK", ()))
            super().rollback()

    dialect._Releasing = Connection  # type: ignore[misc]
    try:
        yield sent
    finally:
        dialect._Releasing = before  # type: ignore[misc]


async def _replay(services: Services, actor: Actor, sent: list[Sent]) -> _Replay:
    """What one use sends, which is what two uses in turn have sent alike."""
    await _use(services, actor)  # the first one stores what the others find
    earlier: list[Sent] | None = None
    for _ in range(ATTEMPTS):
        sent.clear()
        await _use(services, actor)
        mine = [each for each in sent if each[0] != "PRAGMA data_version"]
        if earlier is not None and [sql for sql, _ in mine] == [sql for sql, _ in earlier]:
            return _Replay.of(mine)
        earlier = mine
    raise RuntimeError("no two uses of a credential sent the same SQL")


@dataclass(frozen=True)
class _Replay:
    """Statements, in which every moment is to be the present one: what is older changes nothing."""

    statements: list[tuple[str, tuple[object, ...], tuple[int, ...]]]

    @classmethod
    def of(cls, sent: list[Sent]) -> _Replay:
        """Find the moments, which are text in SQLite."""
        return cls(
            [
                (sql, values, tuple(at for at, value in enumerate(values) if _MOMENT.fullmatch(str(value))))
                for sql, values in sent
            ]
        )

    def send(self, connection: sqlite3.Connection, turn: threading.Lock) -> None:
        """Send them all, and read what they answer; each transaction in its turn among the writers of this process."""
        with ExitStack() as stack:
            for sql, values, moments in self.statements:
                if sql.startswith("BEGIN"):
                    stack.enter_context(turn)
                given = list(values)
                for at in moments:
                    given[at] = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
                connection.execute(sql, given).fetchall()
                if sql in {"COMMIT", "ROLLBACK"}:
                    stack.close()


def _raw(path: Path, replays: Sequence[_Replay], times: int) -> Spent:
    """Send each use so many times, all writers at once."""
    ready = threading.Barrier(len(replays) + 1)
    failures: list[Exception] = []
    turn = threading.Lock()  # without it the writers sleep most of the time, since SQLite only polls for its lock

    def write(replay: _Replay, connection: sqlite3.Connection) -> None:
        ready.wait()
        try:
            for _ in range(times):
                replay.send(connection, turn)
        except sqlite3.Error as failure:
            failures.append(failure)

    with ExitStack() as stack:
        threads = [
            threading.Thread(target=write, args=(replay, stack.enter_context(closing(_connection(path)))))
            for replay in replays
        ]
        for thread in threads:
            thread.start()
        ready.wait()
        began = Moment.now()
        for thread in threads:
            thread.join()
        spent = began.spent()
    if failures:
        raise RuntimeError(f"the floor failed: {failures[0]}")
    return spent


def _connection(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=DEFAULT_TIMEOUTS.busy, isolation_level=None, cached_statements=256, check_same_thread=False
    )
    for pragma in dialect._PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    return connection
