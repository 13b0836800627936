"""``keyhall keys rotate-master`` as an operator runs it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support.environment import process_environment
from tests.support.installs import KEYHALL, Place
from tests.support.processes import PROJECT

OLD, NEW = "1f" * 16 + "a7" * 16, "3c" * 16 + "5e" * 16


@pytest.fixture
def installed(place: Place) -> Place:
    """An install whose master key is in the default file."""
    return _installed(place)


def _installed(place: Place) -> Place:
    return asyncio.run(place.install())


def _rotate(place: Place, *arguments: str) -> Any:
    done = place.command("keys", "rotate-master", "--yes", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_key_in_the_file_is_changed_and_the_operator_is_told_what_to_keep(installed: Place) -> None:
    file = installed.data_dir / "master.key"
    before = file.read_text()
    planned = installed.command("keys", "rotate-master", "--dry-run")
    assert planned.returncode == 0
    assert planned.stdout.endswith("nothing was changed\n")
    assert [path.read_text() for path in installed.data_dir.glob("master.key*")] == [before]

    done = installed.command("keys", "rotate-master", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert "keyhall keys print-master FILE" in done.stdout
    assert "backups made until now still need" in done.stdout
    assert before.strip() not in done.stdout
    assert file.read_text().strip() not in done.stdout
    assert [path.read_text() for path in installed.data_dir.glob("master.key*")] != [before]
    assert installed.command("keys", "validate").returncode == 0
    again = _rotate(installed)
    assert again["changed"]
    assert again["previous_master_key_id"] in done.stdout


def test_what_a_kill_left_behind_is_warned_of_and_completed(installed: Place) -> None:
    """Killed after both files were written: the old key is in `master.key.previous`, and the database is under it."""
    file, previous = installed.data_dir / "master.key", installed.data_dir / "master.key.previous"
    previous.write_text(file.read_text())
    previous.chmod(0o600)
    file.write_text(NEW)
    listed = installed.command("keys", "list")
    assert listed.returncode == 0
    assert "keyhall keys rotate-master" in listed.stderr
    changed = _rotate(installed)
    assert changed["changed"]
    assert file.read_text() == NEW
    assert not previous.exists()
    assert installed.command("keys", "list").stderr == ""


def test_a_key_from_the_settings_is_changed_in_five_steps(place: Place) -> None:
    old, new = place.having(MASTER_KEY=OLD), place.having(MASTER_KEY=NEW)
    both = place.having(MASTER_KEY=NEW, MASTER_KEY_PREVIOUS=OLD)
    _installed(old)
    refused = old.command("keys", "rotate-master")
    assert refused.returncode == 1
    for step in ("keyhall keys generate-master", "MASTER_KEY_PREVIOUS", "restart every process", "rotate-master"):
        assert step in refused.stderr
    planned = both.command("keys", "rotate-master", "--dry-run", "--json")
    assert planned.returncode == 0
    changed = _rotate(both)
    assert json.loads(planned.stdout)["to"] == changed["master_key_id"]
    assert (changed["changed"], changed["file"], changed["remove"]) == (True, None, ["MASTER_KEY_PREVIOUS"])
    already = both.command("keys", "rotate-master")
    assert already.returncode == 0
    assert "remove MASTER_KEY_PREVIOUS" in already.stdout
    assert new.command("keys", "validate").returncode == 0
    halted = old.command("keys", "list")
    assert halted.returncode == 78
    assert changed["master_key_id"] in halted.stderr
    assert changed["previous_master_key_id"] in halted.stderr
    assert not list(place.data_dir.glob("master.key*"))


def test_choices_that_contradict_each_other_are_wrong_usage(sqlite_place: Place) -> None:
    assert sqlite_place.command("keys", "rotate-master", "--dry-run", "--force").returncode == 2


# ---------------------------------------------------------------------------------------------------------------------
# Nothing that cannot be undone happens without a question
# ---------------------------------------------------------------------------------------------------------------------

IRREVERSIBLE = [("keys", "rotate-master"), ("keys", "revoke", "AES_KEY", "1"), ("keys", "destroy", "AES_KEY", "1")]
irreversible = pytest.mark.parametrize("command", IRREVERSIBLE, ids=" ".join)


@pytest.fixture
def on_sqlite(sqlite_place: Place) -> Place:
    return _installed(sqlite_place)


def _state(place: Place) -> object:
    files = {path.name: path.read_bytes() for path in place.data_dir.glob("master.key*")}
    return files, asyncio.run(place.app_config())


@irreversible
@pytest.mark.parametrize("given", ["", "y\n", "yes\n"])
def test_without_a_terminal_it_is_refused(on_sqlite: Place, command: tuple[str, ...], given: str) -> None:
    before = _state(on_sqlite)
    done = on_sqlite.command(*command, stdin=given)
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr or "confirm" in done.stderr
    assert _state(on_sqlite) == before


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
@pytest.mark.parametrize("command", IRREVERSIBLE[:2], ids=" ".join)
def test_on_a_terminal_it_asks(on_sqlite: Place, command: tuple[str, ...], answer: str, code: int) -> None:
    before = _state(on_sqlite)
    ours, theirs = os.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            [sys.executable, *KEYHALL, *command],
            cwd=PROJECT,
            env=process_environment(**on_sqlite.environment),
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code, done.stderr
    assert "[y/N]" in done.stderr
    assert (_state(on_sqlite) == before) is (answer == "n")


def test_revoking_with_yes_asks_nobody(on_sqlite: Place) -> None:
    assert on_sqlite.command("keys", "revoke", "AES_KEY", "1", "--yes").returncode == 0
