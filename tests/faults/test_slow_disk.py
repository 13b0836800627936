"""A disk that takes seconds for every write, and the users who wait for it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.discord_wire import WireSimulator
from tests.support.environment import process_environment
from tests.support.installs import KEYHALL, Place, Running
from tests.support.pace import within
from tests.support.processes import Process
from tests.support.samples import SECRET
from tests.support.tools import require_tool

ONE_SYNC = 5
"""Seconds that the disk takes."""
LEAVES_WITHIN = 10.0


@pytest.fixture
async def wire() -> AsyncIterator[WireSimulator]:
    async with await WireSimulator.start() as simulator:
        yield simulator


@contextmanager
def slow_disk(process: Process) -> Iterator[None]:
    """Let every call that waits for the disk take its time, until the process ends."""
    slow = f"inject=fsync,fdatasync:delay_enter={ONE_SYNC * 1_000_000}"
    tracing = [require_tool("strace"), "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", slow]
    with subprocess.Popen([*tracing, "-p", str(process.pid)], stderr=subprocess.DEVNULL) as strace:
        try:
            yield
        finally:
            strace.terminate()


def traced(process: Process) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return "TracerPid:\t0\n" not in status


async def test_the_user_of_a_bot_that_waits_for_the_disk_is_notified_and_it_leaves_in_time(
    wire: WireSimulator, sqlite_url: str, tmp_path: Path
) -> None:
    place = Place(sqlite_url, tmp_path / "data")
    await place.install()
    alice = wire.user(1001, "alice")
    guild = wire.add_guild(id=2001, name="Hall", owner=alice)
    process = Process(
        *KEYHALL,
        "bot",
        env=process_environment(**place.having(**wire.environment).environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        traceable=True,
    )
    assert process.stdin is not None
    with process.stdin as stdin:
        stdin.write("go\n")
    running = Running(process)
    await wire.wait_ready(within=90)
    form = await wire.slash(alice, "key add", {"provider": "openai"}, guild=guild)
    with slow_disk(process):
        await asyncio.to_thread(until_traced, process)
        reply = await wire.submit_modal(form, {"secret": SECRET}, settle=False)
        began = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        await wire.until(lambda: reply.settled, within=60, what="the answer")
        assert await asyncio.to_thread(process.wait, 60) == 0
        assert within(time.monotonic() - began, LEAVES_WITHIN)
        running.end()
    assert reply.text.startswith(("**Stored.**", "**It is not certain yet whether this was stored.**"))


def until_traced(process: Process) -> None:
    deadline = time.monotonic() + 60
    while not traced(process):
        assert time.monotonic() < deadline, "strace did not attach"
        time.sleep(0.01)
