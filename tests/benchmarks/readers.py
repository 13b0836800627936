"""What requests that read feel of a checkpoint, of a writer that holds the lock, and of a cold page cache, on SQLite.

Reads by key run on the event loop's thread there, so whatever delays one of them delays all: the longest block of the
loop stands beside the p99 of the requests. Every request reads another credential, which no cache knows.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import uvloop

from app.domain.identity import Client, Source
from app.infrastructure.clock import SystemClock
from tests.benchmarks.disturb import droppable
from tests.benchmarks.figures import Figure, Size, quantile
from tests.benchmarks.filled import Install, LoopWatch
from tests.benchmarks.load import Load, Playing, expect, request
from tests.benchmarks.servers import PASSWORD
from tests.support.installs import Place
from tests.support.processes import PROJECT
from tests.support.web import served

CONNECTIONS = 4
PAUSE = 0.002
MARGIN = 0.5
"""Seconds for which requests go on, while another process starts and ends."""
LEAST = 0.2
"""Seconds that are watched, however soon it is over, so that there are requests to judge by."""
MOST_REQUESTS = 10_000


def readers(directory: Path, size: Size) -> list[Figure]:
    """The p99 of a request, and the longest block of the loop, for each disturbance."""
    return uvloop.run(_measured(directory, size))


async def _measured(directory: Path, size: Size) -> list[Figure]:
    path = directory / "read.db"
    figures: dict[str, tuple[Figure, Figure]] = {}
    async with AsyncExitStack() as stack:
        watched = await _Watched.opened(stack, path, directory, size)
        scenes = {
            "with nothing beside": watched.nothing,
            f"during a checkpoint of {size.log_megabytes} MB": watched.checkpoint,
            "under a writer that holds the lock": watched.writer,
            "with a cold page cache": watched.cold,
        }
        if not droppable(directory):
            del scenes["with a cold page cache"]
        for name, scene in scenes.items():
            aim = None if scene == watched.nothing else 50
            latency = Figure(name=f"readers {name}: p99 of a GET", unit="ms", aim=aim)
            blocked = Figure(name=f"readers {name}: longest block of the event loop", unit="ms", aim=aim)
            figures[name] = (latency, blocked)
        for number in range(-size.cold_rounds, size.rounds):
            for name, scene in scenes.items():
                felt = await scene()
                if number < 0:
                    continue
                for figure, value in zip(figures[name], felt, strict=True):
                    figure.values.append(value)
    return [figure for pair in figures.values() for figure in pair]


class _Felt(NamedTuple):
    """In milliseconds."""

    p99: float
    blocked: float


@dataclass(frozen=True)
class _Other:
    """A process that goes on when it is told to."""

    process: asyncio.subprocess.Process

    def go(self) -> None:
        """Tell it."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def start(self) -> None:
        """Tell it, and do not wait."""
        self.go()

    async def ended(self) -> None:
        """Wait for its end."""
        await self.process.wait()


@dataclass(frozen=True)
class _Watched:
    """Keyhall serving inside this process, with an owner whose every credential is."""

    install: Install
    path: Path
    port: int
    ids: list[str]
    bearer: str
    size: Size

    @classmethod
    async def opened(cls, stack: AsyncExitStack, path: Path, directory: Path, size: Size) -> _Watched:
        """For as long as the stack lasts."""
        place = Place(f"sqlite+aiosqlite:///{path}", directory / "read")
        install = await Install.opened(stack, place)
        services, client = install.services, Client(source=Source.WEB)
        await services.identity.create_owner("owner", PASSWORD, client)
        token = (await services.authentication.login("owner", PASSWORD, client)).access_token.reveal()
        owner = await services.requests.authenticate(token, client)
        ids = await install.fill(size.rows, owner.user_id)
        site = await stack.enter_async_context(served(services))
        gc.collect()
        gc.freeze()  # as Keyhall does after its start
        stack.callback(gc.unfreeze)
        return cls(install, path, int(site.url.rpartition(":")[2]), ids, f"Bearer {token}", size)

    async def nothing(self) -> _Felt:
        """What the same requests feel otherwise."""
        return await self._felt(self._pause)

    async def checkpoint(self) -> _Felt:
        """A log that grew under a long read of another process is moved into the file by the next commit of Keyhall."""
        async with self._other("fill", self.size.log_megabytes) as other:

            async def end_of_the_read() -> None:
                other.go()
                await other.ended()

            before = self.path.stat().st_mtime_ns
            felt = await self._felt(self._commit, end_of_the_read)
            if self.path.stat().st_mtime_ns == before:
                raise RuntimeError("the commit moved nothing into the file: these figures would mean nothing")
            return felt

    async def writer(self) -> _Felt:
        """Another process holds the lock, and a write of this one waits for it."""
        async with self._other("hold", self.size.watch_seconds) as other:
            return await self._felt(self._commit, other.start)

    async def cold(self) -> _Felt:
        """Nothing of the file stays in the page cache."""
        async with self._other("drop", self.size.watch_seconds) as other:
            return await self._felt(self._pause, other.start)

    async def _pause(self) -> None:
        await asyncio.sleep(self.size.watch_seconds)

    async def _commit(self) -> None:
        async with self.install.storage.write() as uow:
            await uow.credentials.mark_used(self.ids[0], SystemClock().now())

    async def _felt(
        self, meanwhile: Callable[[], Awaitable[None]], begin: Callable[[], Awaitable[None]] | None = None
    ) -> _Felt:
        """Requests, from the end of ``begin`` until ``meanwhile`` has ended."""
        ids = random.sample(self.ids, min(len(self.ids), MOST_REQUESTS))
        texts = [request("GET", f"/api/v1/credentials/{each}", Authorization=self.bearer) for each in ids]
        seconds = self.size.watch_seconds + MARGIN
        playing = Playing(
            Load(port=self.port, requests=texts, connections=CONNECTIONS, pause=PAUSE, seconds=seconds, samples=True)
        )
        await asyncio.to_thread(playing.begun)
        if begin is not None:
            await begin()
        with LoopWatch() as watch:
            began = time.perf_counter()
            await asyncio.gather(meanwhile(), asyncio.sleep(LEAST))
            ended = time.perf_counter()
        outcome = await asyncio.to_thread(playing.outcome)
        expect(outcome, {"200"})
        latencies = [latency for sent, latency in outcome.samples if began <= sent + latency / 1000 and sent <= ended]
        return _Felt(quantile(latencies, 0.99), watch.longest)

    @asynccontextmanager
    async def _other(self, what: str, amount: float) -> AsyncIterator[_Other]:
        """Another process that is ready to do this to the file, or has begun to."""
        command = (sys.executable, "-m", "tests.benchmarks.disturb", what, str(self.path), str(amount))
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, cwd=PROJECT, stdin=pipe, stdout=pipe)
        assert process.stdout is not None
        if not await process.stdout.readline():
            raise RuntimeError("the other process failed; why stands above")
        other = _Other(process)
        try:
            yield other
        finally:
            other.go()
            await other.ended()
