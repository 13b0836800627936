"""Every statement that reaches a database, as it is sent: on PostgreSQL off the wire, on SQLite off its own trace.

What a process sends by itself, for its lease and its keys, is left out: it comes at times of its own.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from app.infrastructure.database.dialects.sqlite import Sqlite
from tests.support.database_proxy import proxied

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import pytest

_ENDS: Final = {"COMMIT", "ROLLBACK"}
_TABLE: Final = re.compile(r'(?:FROM|INTO|UPDATE)\s+"?(\w+)')
_LOCK: Final = re.compile(r"pg_\w*advisory\w*lock\w*")


class Sent:
    """Messages that were sent, in their order, by connection. On PostgreSQL each waits for its answer."""

    def __init__(self) -> None:
        self._messages: list[tuple[int, str]] = []
        self._own: set[int] = set()

    def add(self, connection: int, message: str) -> None:
        """Take note of one."""
        self._messages.append((connection, message))

    def ignore(self, connection: int) -> None:
        """Leave out what that connection has sent and will send: it serves no request."""
        self._own.add(connection)

    def clear(self) -> None:
        """Begin again."""
        self._messages.clear()

    @property
    def everything(self) -> list[str]:
        """Every message, also those that the process sends by itself."""
        return [message for _, message in self._messages]

    @property
    def for_requests(self) -> list[str]:
        """Every message of requests, in short: nothing of what was stored or looked for."""
        found: list[str] = []
        for unit in self._units():
            if not any("instances" in each or "app_config" in each for each in unit) or _for_request(unit):
                found += [short(each) for each in unit]
        return found

    def _units(self) -> Iterator[list[str]]:
        """Messages from BEGIN to COMMIT together, the others one by one."""
        open_units: dict[int, list[str]] = {}
        for connection, message in self._messages:
            if connection in self._own:
                continue
            if message.startswith("BEGIN"):
                open_units[connection] = [message]
            elif connection not in open_units:
                yield [message]
            else:
                open_units[connection].append(message)
                if message.rstrip(";") in _ENDS:
                    yield open_units.pop(connection)
        yield from open_units.values()


def _for_request(unit: list[str]) -> bool:
    """Whether a unit of work that reads the keys or the leases does so for a request: it changes more than a lease."""
    changed = {table for each in unit if not each.startswith("SELECT") for table in _TABLE.findall(each)}
    return bool(changed - {"instances"})


def short(message: str) -> str:
    """The kind of a message, and the first table or lock in it."""
    where = _TABLE.search(message)
    lock = _LOCK.search(message)
    what = lock[0] if lock else where[1] if where else ""
    return f"{message.split(maxsplit=1)[0].rstrip(';')} {what}".rstrip()


class _Client:
    """One connection's half of the wire: PostgreSQL's messages, of which some end with a wait for the answer."""

    def __init__(self, number: int, sent: Sent) -> None:
        self._number = number
        self._sent = sent
        self._started = False
        self._unread = b""
        self._prepared: dict[bytes, str] = {}
        self._asking = ""

    def feed(self, data: bytes) -> None:
        self._unread += data
        while (message := self._next()) is not None:
            self._hear(*message)

    def _next(self) -> tuple[bytes, bytes] | None:
        head = 1 if self._started else 0  # the first message has no type
        if len(self._unread) < head + 4:
            return None
        end = head + int.from_bytes(self._unread[head : head + 4], "big")
        if len(self._unread) < end:
            return None
        kind, body = self._unread[:head], self._unread[head + 4 : end]
        self._unread = self._unread[end:]
        return kind, body

    def _hear(self, kind: bytes, body: bytes) -> None:
        parts = body.split(b"\0")
        match kind:
            case b"":
                self._started = True
                if b"keyhall changes" in body:  # the connection that listens
                    self._sent.ignore(self._number)
            case b"Q":
                self._say(parts[0].decode())
            case b"P":
                self._prepared[parts[0]] = parts[1].decode()
                self._asking = f"PREPARE {parts[1].decode()}"
            case b"B":
                self._asking = self._prepared[parts[1]]
            case b"S" | b"H":  # an answer is waited for, also after Flush, which follows the preparation of a statement
                self._say(self._asking or "SYNC")
                self._asking = ""
            case _:
                pass

    def _say(self, message: str) -> None:
        self._sent.add(self._number, message)
        if "instances" in message:  # a connection for the process's own lease serves nothing else
            self._sent.ignore(self._number)


@asynccontextmanager
async def on_the_wire(url: str, directory: Path) -> AsyncIterator[tuple[str, Sent]]:
    """The URL of a PostgreSQL database behind a wire that is listened to, and what is sent through it."""
    sent, numbers = Sent(), count()
    clients: dict[object, _Client] = {}

    def hear(wire: object, data: bytes) -> None:
        if wire not in clients:
            clients[wire] = _Client(next(numbers), sent)
        clients[wire].feed(data)

    async with proxied(url, directory, hear) as (through, _):
        yield through, sent


@contextmanager
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sent]:
    """What is sent to SQLite databases that are opened inside."""
    sent, numbers = Sent(), count()
    loop = asyncio.get_running_loop()
    open_existing = Sqlite._open_existing

    def opened(self: Sqlite, **how: Any) -> sqlite3.Connection:
        connection = open_existing(self, **how)
        number = next(numbers)

        def hear(message: str) -> None:
            if not message.startswith("PRAGMA"):
                loop.call_soon_threadsafe(sent.add, number, message)

        connection.set_trace_callback(hear)
        return connection

    with monkeypatch.context() as patched:
        patched.setattr(Sqlite, "_open_existing", opened)
        yield sent
