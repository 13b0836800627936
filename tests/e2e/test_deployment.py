"""The command lines of the deployment files run as they stand, on a system of which only DATA_DIR can be written."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.infrastructure.database.engine import open_database
from app.infrastructure.database.schema import instances
from app.settings import DatabaseUrl
from tests.support.deployment import (
    COMPOSE,
    COMPOSE_POSTGRES,
    Deployed,
    compose_service,
    health_check,
    pods,
    unit_process,
)
from tests.support.environment import process_environment
from tests.support.processes import PROJECT
from tests.support.tools import require_tool

BIN = Path(sys.executable).parent
HOST = "keyhall.example.org"

pytestmark = pytest.mark.slow


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _Host:
    """A machine on which the paths of the deployment files lie in a directory of the test."""

    def __init__(self, directory: Path, database_url: str) -> None:
        self.directory = directory
        self._secrets = {
            "master_key": secrets.token_hex(32),
            "discord_bot_token": "a-token-that-no-discord-ever-sees",
            "database_url": database_url,
        }
        (directory / "secrets").mkdir()
        for name, value in self._secrets.items():
            file = directory / "secrets" / name
            file.write_text(value)
            file.chmod(0o440)

    def environment(self, deployed: Deployed, port: int) -> dict[str, str]:
        places = {deployed.secrets_directory: self.directory / "secrets", "/var/lib/keyhall": self.directory / "data"}
        mapped = dict(deployed.environment)
        for there, here in places.items():
            mapped = {name: value.replace(there, str(here)) for name, value in mapped.items()}
        # Another port for each test, and no Discord: the bot tries again for as long as nobody answers.
        mapped |= {"WEB_PORT": str(port), "DISCORD_API_BASE": "http://127.0.0.1:9", "HOME": str(self.directory)}
        return process_environment(**mapped)

    def command(self, deployed: Deployed) -> list[str]:
        program, *arguments = deployed.command
        assert program in {"keyhall", "/opt/keyhall/.venv/bin/keyhall"}
        return [str(BIN / "keyhall"), *arguments]


def _serving() -> list[Any]:
    every = [
        compose_service(COMPOSE, public_host=HOST),
        compose_service(COMPOSE, COMPOSE_POSTGRES, public_host=HOST),
        *(each for each in pods() if each.command[-1] in {"run", "web"}),
        unit_process("run"),
    ]
    return [pytest.param(each, id=each.name) for each in every]


@pytest.mark.parametrize("deployed", _serving())
def test_it_starts_healthy_and_writes_nothing_outside_its_data_directory(
    deployed: Deployed, tmp_path: Path, postgres_url: str
) -> None:
    host = _Host(tmp_path, postgres_url)
    port = _free_port()
    environment = host.environment(deployed, port)
    written = tmp_path / "written"
    changing = "openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat"
    strace = [require_tool("strace"), "-D", "-f", "--seccomp-bpf", "-y", "-o", str(written), "-e", f"trace={changing}"]
    with subprocess.Popen(
        [*strace, *host.command(deployed)], cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert _becomes_healthy(environment, process), process.stderr and process.stderr.read()
        finally:
            process.terminate()
            code = process.wait(60)
    assert code == 0
    _wait_for_the_tracer(written, process.pid)
    allowed = (str(tmp_path / "data"), "/dev/", "/tmp/", "/proc/self/")  # noqa: S108 - a tmpfs in each deployment
    assert not [path for path in _changed(written.read_text()) if not path.startswith(allowed)]


def _becomes_healthy(environment: dict[str, str], process: subprocess.Popen[str]) -> bool:
    """Whether the command of HEALTHCHECK succeeds, within the time that the image gives a start."""
    until = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < until:
        checked = subprocess.run(
            [sys.executable, *health_check()[1:]], env=environment, capture_output=True, timeout=60, check=False
        )
        if checked.returncode == 0:
            return True
    return False


def _wait_for_the_tracer(log: Path, pid: int) -> None:
    """Wait until strace, which is no child of this process, has written of the end of the process."""
    until = time.monotonic() + 60
    while not re.search(rf"^{pid} +\+\+\+ exited", log.read_text(), re.MULTILINE):
        assert time.monotonic() < until
        time.sleep(0.02)


def _changed(log: str) -> list[str]:
    """The files that were made, changed or removed: calls that failed change nothing."""
    found = []
    for line in log.splitlines():
        call = re.match(r'\d+ +(\w+)\((?:AT_FDCWD<[^>]*>, |\d+<([^>]*)>, )?"([^"]*)"(.*)', line)
        if call is None or re.search(r"= -1 E\w+", line):
            continue
        name, directory, path, rest = call.groups()
        if name in {"open", "openat"} and not re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", rest):
            continue
        found.append(str(Path(directory or PROJECT) / path))
    return found


def _not_serving() -> list[Any]:
    every = [*pods(), unit_process("bot"), unit_process("worker")]
    return [pytest.param(each, id=each.name) for each in every if each.command[-1] in {"bot", "worker"}]


@pytest.mark.parametrize("deployed", _not_serving())
async def test_bot_and_worker_take_their_place_on_the_same_database(
    deployed: Deployed, tmp_path: Path, postgres_url: str
) -> None:
    host = _Host(tmp_path, postgres_url)
    # Under systemd the operator of several processes names the database in `.env`.
    shared = {"DATABASE_URL_FILE": str(tmp_path / "secrets" / "database_url")}
    with ExitStack() as ending:
        for each in (unit_process("web"), deployed):
            environment = host.environment(each, _free_port()) | shared
            process = _started(host.command(each), environment)
            ending.callback(_stop, process)
            kind = each.command[-1]
            while kind not in await _kinds(postgres_url):
                assert process.poll() is None
                await asyncio.sleep(0.1)


def _started(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=PROJECT, env=environment, stderr=None)


async def _kinds(url: str) -> set[str]:
    """The processes that have a place in the install; none before its tables are there."""
    async with open_database(DatabaseUrl.parse(url), may_create=False) as database, database.read() as connection:
        if not await connection.has_table("instances"):
            return set()
        return {kind for (kind,) in await connection.rows(select(instances.c.kind))}


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    assert process.wait(60) == 0
