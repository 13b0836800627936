"""The processes that are measured: Keyhall, the Discord that its bot meets, the floor of a request, and the peer."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from tests.support.installs import Place, Running
from tests.support.processes import PROJECT

TOKEN = "wire-bot-token"
PASSWORD = "seven brass keys in a row"
PEER = PROJECT / ".venv" / "peer" / "bin" / "python"
"""An interpreter with the packages of requirements/peer.txt; `make bench` makes it."""


def benchmark_place(directory: Path) -> Place:
    """A new directory for an install on the embedded database."""
    directory.mkdir()
    # Not `test`, whose passwords are hashed cheaply. The proxy is whoever sends the load, from many addresses.
    settings = {"APP_ENV": "development", "TRUSTED_PROXIES": "127.0.0.1", "LOG_LEVEL": "info"}
    return Place(f"sqlite+aiosqlite:///{directory}/keyhall.db", directory / "data").having(**settings)


@contextmanager
def ready(place: Place) -> Iterator[tuple[float, Running]]:
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
def discord() -> Iterator[dict[str, str]]:
    """A Discord on loopback, and the settings that lead a bot to it."""
    with _printing([sys.executable, "-m", "tests.support.discord_wire", "--token", TOKEN], lines=2) as (_, said):
        settings = [line.partition("=") for line in said]
        yield {name: value for name, _, value in settings} | {"DISCORD_BOT_TOKEN": TOKEN}


@contextmanager
def hello() -> Iterator[tuple[int, int]]:
    """The floor's process id and port."""
    with _printing([sys.executable, "-m", "tests.benchmarks.hello"], lines=1) as (pid, [port]):
        yield pid, int(port)


@contextmanager
def peer(directory: Path) -> Iterator[tuple[int, int, str]]:
    """The peer's process id, its port, and an access token that it accepts."""
    if not PEER.exists():
        raise RuntimeError("the peer is not installed: run make bench, or make .venv/peer/.ready")
    command = [str(PEER), str(PROJECT / "tests" / "benchmarks" / "peer.py"), str(directory / "peer.db")]
    with _printing(command, lines=2) as (pid, [port, token]):
        yield pid, int(port), token


@contextmanager
def _printing(command: list[str], *, lines: int) -> Iterator[tuple[int, list[str]]]:
    """A process, and the first lines that it prints; it is ended afterwards."""
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = [process.stdout.readline().strip() for _ in range(lines)]
            if not all(said):
                raise RuntimeError(f"{command[1]} did not start; why stands above")
            yield process.pid, said
        finally:
            process.terminate()
