"""How long a backup and its verification take, and how much memory, against writing and reading the same bytes raw."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

from app.bootstrap.backup import open_backup_creation
from app.domain.backup import EncryptTo
from app.services.audit import OPERATOR
from tests.benchmarks.figures import Figure, Size
from tests.benchmarks.filled import Install, LoopWatch
from tests.support.backups import RECIPIENT, verified
from tests.support.environment import process_environment
from tests.support.installs import KEYHALL, Place
from tests.support.postgres import running_postgres
from tests.support.processes import PROJECT

_AT_ONCE = 1 << 16
_FILLED_AT_ONCE = 10_000
_PER = 100_000
"""Figures are for so many credentials."""


def backups(directory: Path, size: Size) -> list[Figure]:
    """Seconds per 100,000 credentials on either engine, and the memory of a process that does it."""
    return asyncio.run(_measured(directory, size))


async def _measured(directory: Path, size: Size) -> list[Figure]:
    figures: list[Figure] = []
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(running_postgres())
        places = {
            "SQLite": f"sqlite+aiosqlite:///{directory / 'backed-up.db'}",
            "PostgreSQL": stack.enter_context(postgres.database()),
        }
        for engine, url in places.items():
            place = await Place(url, directory / engine).install()
            await fill(place, size.backup_rows)
            figures += await _of(engine, place, directory, size)
    return figures


async def fill(place: Place, rows: int) -> None:
    """Store so many credentials: some at a time, because nothing renews a lease meanwhile."""
    for start in range(0, rows, _FILLED_AT_ONCE):
        async with AsyncExitStack() as stack:
            install = await Install.opened(stack, place)
            await install.fill(min(rows - start, _FILLED_AT_ONCE))


async def _of(engine: str, place: Place, directory: Path, size: Size) -> list[Figure]:
    raw = Figure(name=f"raw, {engine}'s bytes: written, read back, digested", unit="s")
    made = Figure(name=f"backup of 100,000 credentials, read back and opened, {engine}", unit="s")
    judged = Figure(name=f"verification of 100,000 credentials, {engine}", unit="s")
    ratio = Figure(name=f"backup / raw, {engine}", aim=40)
    blocked = Figure(name=f"longest block of the event loop, {engine}", unit="ms", aim=50)
    memory = Figure(name=f"memory of `keyhall backup create`, {engine}", unit="MB", aim=150)
    path = directory / f"{engine}.age"
    scale = _PER / size.backup_rows
    for number in range(-size.cold_rounds, size.rounds):
        async with open_backup_creation(place.load()) as creation:
            with LoopWatch() as watch:
                began = time.perf_counter()
                await creation.create(OPERATOR, path, EncryptTo(recipient=RECIPIENT), replace=True)
                backing_up = time.perf_counter() - began
        began = time.perf_counter()
        report = await verified(place, path)
        verifying = time.perf_counter() - began
        assert report.ok
        content = path.read_bytes()
        floor = await asyncio.to_thread(_raw, directory / "raw", content)
        if number < 0:
            continue
        raw.values.append(floor * scale)
        made.values.append(backing_up * scale)
        judged.values.append(verifying * scale)
        ratio.values.append(backing_up / floor)
        blocked.values.append(watch.longest)
    memory.values.append(
        await asyncio.to_thread(peak, place, "backup", "create", str(path), "--recipient", RECIPIENT, "--replace")
    )
    return [raw, made, judged, ratio, blocked, memory]


def _raw(path: Path, content: bytes) -> float:
    began = time.perf_counter()
    with path.open("w+b") as file:
        for start in range(0, len(content), _AT_ONCE):
            file.write(content[start : start + _AT_ONCE])
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        digest = hashlib.sha256()
        while chunk := file.read(_AT_ONCE):
            digest.update(chunk)
    return time.perf_counter() - began


def peak(place: Place, *arguments: str) -> float:
    """The most memory, in MB, that a command has at a time; it must succeed."""
    command = [sys.executable, *KEYHALL, *arguments]
    environment = process_environment(**place.environment)
    most = 0
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            most = max(most, _high_water(running.pid))
            time.sleep(0.01)
        assert running.returncode == 0
    return most / 1024


def _high_water(pid: int) -> int:
    """KiB. Not ru_maxrss, which a child begins with that of the process that forked it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
