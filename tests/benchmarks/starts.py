"""How long a process takes until it serves, and what a command costs, against bare imports in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.figures import Figure, Size
from tests.benchmarks.machine import children_seconds, processor_seconds, resident_megabytes
from tests.benchmarks.servers import benchmark_place, discord, ready
from tests.support.environment import process_environment
from tests.support.installs import KEYHALL
from tests.support.processes import PROJECT

IMPORTS = "import aiohttp, sqlalchemy, aiosqlite, discord, jwt, cryptography"
BARE = [sys.executable, "-c", IMPORTS]

HELP_BEFORE = 0.737
LIST_BEFORE = 1.58
"""What the commands took at commit e70186b, before their imports were put off: the same ratio of processor times, by
the smallest of the rounds (757, 1,622 and for the imports 1,027 ms)."""


def starts(directory: Path, size: Size) -> list[Figure]:
    """From the start of the process to the first 200 of /readyz."""
    floor = Figure(name="bare imports", unit="s")
    again = Figure(name="start, schema at head", unit="s")
    first = Figure(name="first start", unit="s")
    with_bot = Figure(name="start, schema at head, with a bot", unit="s")
    of_again = Figure(name="start / imports", aim=1.6)
    cost = Figure(name="start / imports, processor time each")
    of_first = Figure(name="first start / imports", aim=2.5)
    memory = Figure(name="memory after the start, web alone", unit="MB")
    with discord() as bot:
        for number in range(-size.cold_rounds, size.rounds):
            place = benchmark_place(directory / f"start{number}")
            imports, imports_cost = _imports()
            with ready(place) as (first_seconds, _):
                pass
            with ready(place) as (seconds, running):
                start_cost = processor_seconds(running.process.pid)
                megabytes = resident_megabytes(running.process.pid)
            with ready(place.having(**bot)) as (bot_seconds, _):
                pass
            if number < 0:
                continue
            floor.values.append(imports)
            again.values.append(seconds)
            first.values.append(first_seconds)
            with_bot.values.append(bot_seconds)
            of_again.values.append(seconds / imports)
            cost.values.append(start_cost / imports_cost)
            of_first.values.append(first_seconds / imports)
            memory.values.append(megabytes)
    return [floor, again, of_again, cost, first, of_first, with_bot, memory]


def commands(directory: Path, size: Size) -> list[Figure]:
    """Processor time of commands that people type, which is most of what they wait for."""
    place = benchmark_place(directory / "commands")
    environment = process_environment(**place.environment)
    with ready(place):
        pass
    figures = []
    compared = []
    for said, before, aim in (("--help", HELP_BEFORE, 0.45), ("keys list", LIST_BEFORE, None)):
        ratio = Figure(name=f"keyhall {said} / imports, processor time each")
        of_before = Figure(name=f"keyhall {said}, of what it took before", aim=aim)
        compared.append((said.split(), before, ratio, of_before))
        figures += [ratio, of_before]
    for number in range(-size.cold_rounds, size.rounds):
        _, floor = _imports()
        for arguments, before, ratio, of_before in compared:
            used = children_seconds()
            command = [sys.executable, *KEYHALL, *arguments]
            subprocess.run(command, cwd=PROJECT, env=environment, check=True, stdout=subprocess.DEVNULL)
            if number >= 0:
                ratio.values.append((children_seconds() - used) / floor)
                of_before.values.append(ratio.values[-1] / before)
    return figures


def _imports() -> tuple[float, float]:
    """Seconds, and seconds of processor time."""
    used, began = children_seconds(), time.perf_counter()
    subprocess.run(BARE, check=True)
    return time.perf_counter() - began, children_seconds() - used
