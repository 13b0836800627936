"""The measurements. Rounds of what is compared alternate, so that a busy moment of the machine strikes both sides."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

from app.domain.identity import Client, Role, Source
from tests.benchmarks.load import Load, Outcome, Playing, request, run_load
from tests.benchmarks.machine import children_seconds, pin, processor_seconds, resident_megabytes, two_cores, unpin
from tests.support.installs import Place, Running
from tests.support.processes import PROJECT

IMPORTS = "import aiohttp, sqlalchemy, aiosqlite, discord, jwt, cryptography"
TOKEN = "wire-bot-token"
PASSWORD = "seven brass keys in a row"
ACCOUNTS_PER_STORM = 60
ATTEMPTS_PER_ACCOUNT = 10
"""As many as an account may fail before it is locked, so that every one of them costs a hash."""
LOAD_CONNECTIONS = 16
LOAD_SECONDS = 2.0
STORM_CONNECTIONS = 32
STORM_SECONDS = 6.0


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured, one value per round; ``aim`` is the most, or for ``more`` the least, that was hoped for."""

    name: str
    unit: str = ""
    aim: float | None = None
    more: bool = False
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """What the figure is judged by."""
        return median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the aim is; None where there is none."""
        if self.aim is None:
            return None
        return self.median >= self.aim if self.more else self.median <= self.aim


# ---------------------------------------------------------------------------------------------------------------------
# Starts
# ---------------------------------------------------------------------------------------------------------------------


def starts(directory: Path, rounds: int) -> list[Figure]:
    """From the start of the process to the first 200 of /readyz, against bare imports in a fresh interpreter."""
    floor = Figure(name="bare imports", unit="s")
    again = Figure(name="start, schema at head", unit="s")
    first = Figure(name="first start", unit="s")
    with_bot = Figure(name="start, schema at head, with a bot", unit="s")
    of_again = Figure(name="start / imports", aim=1.5)
    cost = Figure(name="start / imports, processor time each")
    of_first = Figure(name="first start / imports", aim=2.5)
    memory = Figure(name="memory after the start, web alone", unit="MB", aim=130)
    bare = [sys.executable, "-c", IMPORTS]
    with _discord() as discord:
        subprocess.run(bare, check=True)
        for number in range(rounds + 1):
            place = _place(directory / f"start-{number}")
            used, began = children_seconds(), time.perf_counter()
            subprocess.run(bare, check=True)
            imports, imports_cost = time.perf_counter() - began, children_seconds() - used
            with _ready(place) as (first_seconds, _):
                pass
            with _ready(place) as (seconds, running):
                start_cost = processor_seconds(running.process.pid)
                megabytes = resident_megabytes(running.process.pid)
            with _ready(place.having(**discord)) as (bot_seconds, _):
                pass
            if number == 0:  # it filled the page cache and wrote the bytecode
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


def _place(directory: Path) -> Place:
    directory.mkdir()
    # Not `test`, whose passwords are hashed cheaply. The proxy is whoever sends the load, from many addresses.
    settings = {"APP_ENV": "development", "TRUSTED_PROXIES": "127.0.0.1", "LOG_LEVEL": "info"}
    return Place(f"sqlite+aiosqlite:///{directory}/keyhall.db", directory / "data").having(**settings)


@contextmanager
def _ready(place: Place) -> Iterator[tuple[float, Running]]:
    """`keyhall run`, and how many seconds it took until it was ready."""
    began = time.perf_counter()
    with place.running("run", fresh=True) as running:
        connection = HTTPConnection(running.address().removeprefix("http://"), timeout=30)
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
        seconds = time.perf_counter() - began
        connection.close()
        if status != 200:
            raise RuntimeError(f"/readyz answered {status} on a fresh start")
        yield seconds, running


@contextmanager
def _discord() -> Iterator[dict[str, str]]:
    """A Discord on loopback, and the settings that lead a bot to it."""
    command = [sys.executable, "-m", "tests.support.discord_wire", "--token", TOKEN]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = [process.stdout.readline().strip().partition("=") for _ in range(2)]
            yield {name: value for name, _, value in said} | {"DISCORD_BOT_TOKEN": TOKEN}
        finally:
            process.terminate()


# ---------------------------------------------------------------------------------------------------------------------
# Requests, a storm, and memory
# ---------------------------------------------------------------------------------------------------------------------


def serving(directory: Path, rounds: int) -> list[Figure]:
    """One `keyhall run` with its bot connected: a hot read against the floor, a login storm, and what it holds."""
    place = _place(directory / "serving")
    storms = max(1, rounds * 3 // 5)
    credential = asyncio.run(_populate(place, storms * ACCOUNTS_PER_STORM))
    started = Figure(name="memory with a bot connected", unit="MB", aim=130)
    loaded = Figure(name="memory after all this load", unit="MB", aim=130)
    with _discord() as discord, _hello() as (floor, floor_port), _ready(place.having(**discord)) as (_, running):
        running.wait_for("connected to Discord")
        keyhall = running.process.pid
        started.values.append(resident_megabytes(keyhall))
        port = int(_address(running).rpartition(":")[2])
        bearer = _sign_in(port)
        read = request("GET", f"/api/v1/credentials/{credential}", Authorization=bearer)
        figures = _reads((floor, floor_port), (keyhall, port), read, rounds)
        figures += _storms(port, read, storms)
        loaded.values.append(resident_megabytes(keyhall))
    return [*figures, started, loaded]


def _address(running: Running) -> str:
    said = next(line for line in running.lines if "listening on " in line)
    return said.rpartition("listening on ")[2].rstrip(")")


async def _populate(place: Place, accounts: int) -> str:
    """An install with an owner, their credential, whose id is returned, and members."""
    client = Client(source=Source.WEB)
    async with place.services() as services:
        await services.identity.create_owner("owner", PASSWORD, client)
        pair = await services.authentication.login("owner", PASSWORD, client)
        owner = await services.requests.authenticate(pair.access_token.reveal(), client)
        for number in range(accounts):
            await services.identity.create(owner, f"member{number}", PASSWORD, Role.MEMBER)
        secret = "sk-proj-" + "0123456789abcdef" * 4
        added = await services.credentials.add(owner, provider="openai", label="bench", secret=secret)
        return added.view.id


@contextmanager
def _hello() -> Iterator[tuple[int, int]]:
    """The floor's process id and port."""
    command = [sys.executable, "-m", "tests.benchmarks.hello"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.terminate()


def _sign_in(port: int) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    body = json.dumps({"username": "owner", "password": PASSWORD})
    connection.request("POST", "/api/v1/auth/login", body, {"Content-Type": "application/json"})
    with connection.getresponse() as answer:
        content: dict[str, Any] = json.load(answer)
    connection.close()
    return f"Bearer {content['access_token']}"


def _reads(floor: tuple[int, int], keyhall: tuple[int, int], read: str, rounds: int) -> list[Figure]:
    """``floor`` and ``keyhall`` are process id and port."""
    server_core, load_core = two_cores()
    hello = Figure(name="aiohttp hello", unit="/s")
    reads = Figure(name="authenticated GET of a credential", unit="/s")
    ratio = Figure(name="GET / hello", aim=0.4, more=True)
    cost = Figure(name="hello / GET, processor time each")

    def play(server: tuple[int, int], text: str, seconds: float = LOAD_SECONDS) -> tuple[float, float]:
        """Answers per second, and processor time of the server per answer."""
        pid, port = server
        before = processor_seconds(pid)
        outcome = run_load(
            Load(port=port, requests=[text], connections=LOAD_CONNECTIONS, seconds=seconds, core=load_core)
        )
        _expect(outcome, {"200"})
        return outcome.per_second, (processor_seconds(pid) - before) / outcome.answers

    pin(floor[0], server_core)
    pin(keyhall[0], server_core)
    plain = request("GET", "/hello")
    play(floor, plain, 0.5)
    play(keyhall, read, 0.5)
    for _ in range(rounds):
        hello_rate, hello_cost = play(floor, plain)
        read_rate, read_cost = play(keyhall, read)
        hello.values.append(hello_rate)
        reads.values.append(read_rate)
        ratio.values.append(read_rate / hello_rate)
        cost.values.append(hello_cost / read_cost)
    unpin(keyhall[0])
    return [hello, reads, ratio, cost]


def _storms(port: int, read: str, rounds: int) -> list[Figure]:
    hashes = Figure(name="storm: wrong passwords answered", unit="/s")
    alive = Figure(name="storm: p99 of /healthz", unit="ms", aim=50)
    hot = Figure(name="storm: p99 of the GET", unit="ms", aim=50)
    worst = Figure(name="storm: slowest of both", unit="ms")
    for number in range(rounds):
        storm = Playing(
            Load(port=port, requests=_wrong_passwords(number), connections=STORM_CONNECTIONS, seconds=STORM_SECONDS)
        )
        cheap = [
            Playing(Load(port=port, requests=[text], connections=2, pause=0.01, seconds=STORM_SECONDS - 1))
            for text in (request("GET", "/healthz"), read)
        ]
        healthz, reads = (playing.outcome() for playing in cheap)
        stormed = storm.outcome()
        _expect(stormed, {"401"})
        _expect(healthz, {"200"})
        _expect(reads, {"200"})
        hashes.values.append(stormed.per_second)
        alive.values.append(healthz.p99)
        hot.values.append(reads.p99)
        worst.values.append(max(healthz.slowest, reads.slowest))
    return [hashes, alive, hot, worst]


def _wrong_passwords(storm: int) -> list[str]:
    """Every account of this storm as often as it may fail, every attempt from another address: no limit is met."""
    attempts = range(ACCOUNTS_PER_STORM * ATTEMPTS_PER_ACCOUNT)
    return [
        request(
            "POST",
            "/api/v1/auth/login",
            body={
                "username": f"member{storm * ACCOUNTS_PER_STORM + attempt % ACCOUNTS_PER_STORM}",
                "password": "not it, by far",
            },
            X_Forwarded_For=f"10.{storm}.{attempt // 250}.{attempt % 250}",
        )
        for attempt in attempts
    ]


def _expect(outcome: Outcome, statuses: set[str]) -> None:
    if not set(outcome.statuses) <= statuses:
        raise RuntimeError(f"expected {sorted(statuses)}, got {outcome.statuses}: these figures would mean nothing")
