"""SIGKILL during imports, at any point: what is there is whole, and running the import again completes it."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import process_environment
from tests.support.installs import KEYHALL, Place
from tests.support.processes import PROJECT

ACCOUNTS = 400
KILLS = 25


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_killed_imports_leave_whole_accounts_and_are_completed(engine_url: str, tmp_path: Path) -> None:
    place = asyncio.run(Place(engine_url, tmp_path / "data").install())
    file = tmp_path / "users.json"
    keys = {"openai": "sk-proj-" + "aB3dE6gH9jK2mN5p" * 3, "groq": "gsk_" + "a1B2c3D4" * 6}
    file.write_text(json.dumps({f"user{number}": {"api_keys": keys} for number in range(ACCOUNTS)}))
    delays = random.Random(4)
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, *KEYHALL, "credentials", "import-json", str(file)],
            cwd=PROJECT,
            env=process_environment(**place.environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout=delays.uniform(0.5, 2.5))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        stored = asyncio.run(place.contents())
        accounts = len(stored["users"])
        assert len(stored["api_credentials"]) == len(stored["imported_entries"]) == 2 * accounts
        assert len(stored["one_time_links"]) == accounts
    done = place.command("credentials", "import-json", str(file), "--json")
    assert done.returncode == 0, done.stderr
    stored = asyncio.run(place.contents())
    assert (len(stored["users"]), len(stored["api_credentials"])) == (ACCOUNTS, 2 * ACCOUNTS)
    assert place.command("credentials", "verify").returncode == 0
