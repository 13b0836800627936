"""Load from a process of its own: keep-alive connections, each with one request in flight.

`run_load` starts the process; it reads a `Load` and writes an `Outcome` as JSON. Bytes go to the socket as they are
and of an answer only status and length are read, so that the server is busy long before the client is.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import cast

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to send: whole requests, dealt out to the connections in turn.

    ``pause`` seconds lie between an answer and the next request; ``core`` is the one to run on, where that is wanted.
    """

    port: int
    requests: list[str]
    connections: int
    seconds: float
    pause: float = 0.0
    core: int | None = None
    samples: bool = False
    """Whether the outcome has every answer, not only how long they took."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it; latencies in milliseconds."""

    seconds: float
    statuses: dict[str, int]
    p50: float
    p99: float
    slowest: float
    samples: list[tuple[float, float]] = field(default_factory=list)
    """When each request was sent, by ``time.perf_counter``, and how long its answer took."""

    @property
    def answers(self) -> int:
        """How many there were."""
        return sum(self.statuses.values())

    @property
    def per_second(self) -> float:
        """Answers of any status."""
        return self.answers / self.seconds


def request(method: str, path: str, *, body: Mapping[str, str] | None = None, **headers: str) -> str:
    """One request as it goes over the wire; header names are written with underscores."""
    content = json.dumps(body) if body is not None else ""
    given = {"Host": "localhost"} | {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        given |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
    return "".join([f"{method} {path} HTTP/1.1\r\n", *(f"{k}: {v}\r\n" for k, v in given.items()), "\r\n", content])


class Asking(asyncio.Protocol, ABC):
    """A keep-alive connection with one request in flight. Of an answer only status and length are read."""

    def __init__(self) -> None:
        self._sent = 0.0
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it

    def ask(self, request: bytes) -> None:
        """Send it; the answer before has arrived."""
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Wait until an answer is whole."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end)
        if len(self._buffer) < end + 4 + (int(length[1]) if length else 0):
            return
        status, self._buffer = self._buffer[9:12].decode(), b""
        self.answered(status, self._sent, time.perf_counter())

    @abstractmethod
    def answered(self, status: str, sent: float, received: float) -> None:
        """What to do with an answer; moments are by ``time.perf_counter``."""


class _Connection(Asking):
    def __init__(self, load: Load, requests: list[bytes], until: float) -> None:
        super().__init__()
        self.statuses: Counter[str] = Counter()
        self.samples: list[tuple[float, float]] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._load = load
        self._requests = itertools.cycle(requests)
        self._until = until

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._ask_next()

    def _ask_next(self) -> None:
        self.ask(next(self._requests))

    def answered(self, status: str, sent: float, received: float) -> None:
        self.statuses[status] += 1
        self.samples.append((sent, (received - sent) * 1000))
        if received >= self._until:
            self._transport.close()
        elif self._load.pause:
            asyncio.get_running_loop().call_later(self._load.pause, self._ask_next)
        else:
            self._ask_next()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and time.perf_counter() >= self._until:
            self.done.set_result(None)
        else:
            self.done.set_exception(exc or ConnectionError("the server closed a connection under load"))


async def _play(load: Load) -> Outcome:
    began = time.perf_counter()
    loop = asyncio.get_running_loop()
    raw = [text.encode() for text in load.requests]
    connections = []
    for number in range(load.connections):
        dealt = raw[number % len(raw) :: load.connections]
        connection = _Connection(load, dealt, began + load.seconds)
        await loop.create_connection(lambda it=connection: it, "127.0.0.1", load.port)  # type: ignore[misc]
        connections.append(connection)
    print("began", flush=True)  # noqa: T201 - whoever started us reads it
    async with asyncio.timeout(load.seconds + 30):
        await asyncio.gather(*(connection.done for connection in connections))
    seconds = time.perf_counter() - began
    samples = [sample for connection in connections for sample in connection.samples]
    latencies = sorted(latency for _, latency in samples)
    return Outcome(
        seconds=seconds,
        statuses=dict(sum((connection.statuses for connection in connections), Counter())),
        p50=latencies[len(latencies) // 2],
        p99=latencies[len(latencies) * 99 // 100],
        slowest=latencies[-1],
        samples=samples if load.samples else [],
    )


class Playing:
    """A load that is being played by its process."""

    def __init__(self, load: Load) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(load)))
        self._process.stdin.close()

    def begun(self) -> None:
        """Wait until every connection is there, and return while the load goes on."""
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def outcome(self) -> Outcome:
        """Wait for the end of it."""
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            written = stdout.read().splitlines()[-1:]
        if self._process.wait():
            raise RuntimeError("the load failed; its traceback stands above")
        return Outcome(**json.loads(written[0]))


def run_load(load: Load) -> Outcome:
    """Play a load to its end."""
    return Playing(load).outcome()


def expect(outcome: Outcome, statuses: set[str]) -> None:
    """Raise if there were other answers."""
    if not set(outcome.statuses) <= statuses:
        raise RuntimeError(f"expected {sorted(statuses)}, got {outcome.statuses}: these figures would mean nothing")


def main() -> None:
    """Play the load on standard input, print its outcome."""
    import uvloop

    from tests.benchmarks.machine import pin

    load = Load(**json.load(sys.stdin))
    pin(0, load.core)
    print(json.dumps(asdict(uvloop.run(_play(load)))))  # noqa: T201 - whoever started us reads it


if __name__ == "__main__":
    main()
