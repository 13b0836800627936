"""Every command of the runbooks runs as it is written there, in the order in which it stands there.

A document gets an install of its own, as an operator has it: a directory with `.venv/bin/keyhall`, `data` below it, and
people with credentials. Only what a reader fills in is filled in here too.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.domain.identity import Role
from tests.support.backups import IDENTITY, RECIPIENT
from tests.support.environment import process_environment
from tests.support.installs import Place, client_of, sign_in
from tests.support.processes import PROJECT, run
from tests.support.restores import SECRET

RUNBOOKS = sorted((PROJECT / "docs" / "runbooks").glob("*.md"))
KEYHALL = ".venv/bin/keyhall"
BEFORE = {"rollback.md": ["keys", "rotate", "AES_KEY"]}
"""A mistake that is undone by a runbook has to be made first."""
PASSWORD = "a long passphrase of tests"

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_AS_A_USER = """
import os, runpy, sys
os.chdir(sys.argv[1])
sys.argv = ["keyhall", *sys.argv[2:]]
runpy.run_module("entrypoints.cli_entrypoint", run_name="__main__")
"""


@dataclass(frozen=True)
class Scratch:
    """An install in a directory, and what a reader fills in."""

    directory: Path
    place: Place
    placeholders: dict[str, str]

    def filled_in(self, written: str) -> str:
        for placeholder, value in self.placeholders.items():
            written = re.sub(rf"(?<!\w){re.escape(placeholder)}(?!\w)", value, written)
        return written

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """As a shell in the directory does; a plain `keyhall` in a copy of this process, which saves its start."""
        environment = process_environment(**self.place.environment)
        words = shlex.split(line, comments=True)
        if words[0] == KEYHALL and not re.search(r"[|;&<>$*]", line):
            return run("-c", _AS_A_USER, str(self.directory), *words[1:], env=environment)
        return subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=self.directory,
            env=environment | {"PATH": os.defpath},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


def blocks(document: Path) -> Iterator[tuple[str, list[str]]]:
    """The language and the lines of every fenced block."""
    for language, block in _FENCE.findall(document.read_text(encoding="utf-8")):
        yield language, [line.strip() for line in block.splitlines() if line.strip()]


async def people(place: Place) -> dict[str, str]:
    """Alice with a credential that was replaced and one that was removed, Bob the admin, and Carol who never came."""
    await place.install()
    async with place.services() as services:
        operator = await services.identity.operator()
        for name, role in (("alice", Role.MEMBER), ("bob", Role.ADMIN)):
            await services.identity.create(operator, name, PASSWORD, role)
        await services.identity.create_claimable(operator, "carol", Role.MEMBER)
        await services.identity.link(operator, "bob", "123456789012345678")
        alice = await services.identity.operator_for(username="alice")
        kept = await services.credentials.add(alice, provider="openai", label="one", secret=f"{SECRET}1")
        await services.credentials.replace(alice, kept.view.id, f"{SECRET}2")
        removed = await services.credentials.add(alice, provider="openai", label="two", secret=f"{SECRET}3")
        await services.credentials.remove(alice, removed.view.id)
    return {"credentials restore ID": f"credentials restore {removed.view.id}", "ID": kept.view.id, "age1…": RECIPIENT}


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    directory = tmp_path / "keyhall"
    directory.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy2(PROJECT / name, directory)
    for name in ("app", "env", "requirements", "scripts"):
        shutil.copytree(PROJECT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__", ".env.dev*[!e]"))
    (directory / ".venv").symlink_to(Path(sys.executable).parents[1])
    # With a setting it really starts: the copies that other tests get have their database outside DATA_DIR.
    place = Place(f"sqlite+aiosqlite:///{directory}/data/keyhall.db", directory / "data", {"LOG_LEVEL": "info"})
    placeholders = asyncio.run(people(place))
    (directory / "identity.txt").write_text(f"{IDENTITY}\n")
    (directory / "words.txt").write_text((directory / "data" / "master.key").read_text())
    (directory / "new-secret.txt").write_text(f"{SECRET}4")
    (directory / "users.json").write_text(json.dumps({"dora": {"api_keys": {"openai": f"{SECRET}5"}}}))
    (directory / ".encryption_key").write_text("h3ZpQ8k2h3ZpQ8k2h3ZpQ8k2h3ZpQ8k2h3ZpQ8k2h3Y=")
    return Scratch(directory, place, placeholders)


@pytest.mark.parametrize("document", RUNBOOKS, ids=lambda path: path.name)
def test_every_command_of_a_runbook_runs_as_it_is_written(document: Path, scratch: Scratch) -> None:
    if document.name in BEFORE:
        assert scratch.place.command(*BEFORE[document.name]).returncode == 0
    ran = 0
    for language, lines in blocks(document):
        assert language == "sh", f"nothing else can be executed here: {language}"
        for line in lines:
            done = scratch.run(scratch.filled_in(line))
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            ran += 1
    assert ran


def test_the_runbook_for_a_departure_ends_sessions_and_refuses_the_password(scratch: Scratch) -> None:
    """While the web serves."""
    with scratch.place.running("web") as web:
        asyncio.run(_leaves(web.address(), scratch))


async def _leaves(address: str, scratch: Scratch) -> None:
    async with client_of(address) as client:
        await sign_in(client, "bob", PASSWORD)
        assert (await client.get("/api/v1/auth/me")).status == 200
        done = await asyncio.to_thread(scratch.run, ".venv/bin/keyhall users disable bob")
        assert done.returncode == 0, done.stderr
        assert (await client.get("/api/v1/auth/me")).status == 401
        body = {"username": "bob", "password": PASSWORD}
        assert (await client.post("/api/v1/auth/login", json=body)).status == 401
