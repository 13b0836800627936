"""`keyhall backup` as an operator uses it, and what comes out is opened by the program `age`."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.backups import IDENTITY, RECIPIENT
from tests.support.environment import process_environment
from tests.support.installs import KEYHALL, Place
from tests.support.processes import PROJECT, run
from tests.support.terminal import typed
from tests.support.tools import require_tool

PASSPHRASE = "correct horse battery staple"
REPORT = {"ok", "credentials", "unreadable", "users", "install_id", "master_key_id", "created_at", "app_version"}


@pytest.fixture
def installed(sqlite_place: Place) -> Place:
    return asyncio.run(sqlite_place.install())


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    path = tmp_path / "identity.txt"
    path.write_text(f"# public key: {RECIPIENT}\n{IDENTITY}\n")
    return path


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text(f"{PASSPHRASE}\n")
    return path


def test_a_backup_for_a_recipient_is_made_inspected_verified_and_opened_by_age(
    installed: Place, tmp_path: Path, identity: Path
) -> None:
    file = tmp_path / "one.age"
    made = installed.command("backup", "create", str(file), "--recipient", RECIPIENT, "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["file"] == str(file)

    seen = json.loads(installed.command("backup", "inspect", str(file), "--json").stdout)
    assert (seen["encrypted_to"], seen["install_id"]) == (["X25519"], None)
    option = ("--identity-file", str(identity))
    seen = json.loads(installed.command("backup", "inspect", str(file), *option, "--json").stdout)

    done = installed.command("backup", "verify", str(file), *option, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report.keys(), report["ok"]) == (0, REPORT, True)
    assert report["install_id"] == seen["install_id"]
    assert datetime.fromisoformat(report["created_at"]).tzinfo is UTC or report["created_at"].endswith("Z")
    assert "✅" in installed.command("backup", "verify", str(file), *option).stdout

    opened = subprocess.run([require_tool("age"), "-d", "-i", identity, file], capture_output=True, check=True)
    assert json.loads(opened.stdout.splitlines()[0])["install_id"] == seen["install_id"]


def test_a_backup_under_a_passphrase(installed: Place, tmp_path: Path, passphrase: Path, identity: Path) -> None:
    file, option = tmp_path / "one.age", ("--passphrase-file", str(passphrase))
    assert installed.command("backup", "create", str(file), *option).returncode == 0
    assert installed.command("backup", "verify", str(file), *option).returncode == 0
    for refused, said in (
        (installed.command("backup", "verify", str(file)), "--passphrase-file"),
        (installed.command("backup", "verify", str(file), "--identity-file", str(identity)), "--passphrase-file"),
        (installed.command("backup", "create", str(file), *option), "--replace"),
    ):
        assert (refused.returncode, refused.stdout) == (1, "")
        assert said in refused.stderr
        assert PASSPHRASE not in refused.stderr
    assert installed.command("backup", "create", str(file), *option, "--replace").returncode == 0


def test_the_recipient_and_the_identity_of_the_settings_are_taken(
    installed: Place, tmp_path: Path, identity: Path
) -> None:
    place = installed.having(BACKUP_RECIPIENT=RECIPIENT, BACKUP_IDENTITY_FILE=str(identity))
    file = str(tmp_path / "one.age")
    assert place.command("backup", "create", file).returncode == 0
    assert place.command("backup", "verify", file).returncode == 0
    assert json.loads(place.command("backup", "inspect", file, "--json").stdout)["environment"] == "test"


def test_without_a_key_and_a_terminal_nothing_is_written(installed: Place, tmp_path: Path) -> None:
    refused = installed.command("backup", "create", str(tmp_path / "one.age"), stdin="a passphrase\n")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "BACKUP_RECIPIENT" in refused.stderr
    assert not (tmp_path / "one.age").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("create", "-", "--recipient", RECIPIENT), 2, "name a file"),
        (("create", "/dev/stdout", "--recipient", RECIPIENT), 1, "no regular file"),
        (("create", "{tmp}", "--recipient", RECIPIENT), 1, "is a directory"),
        (("create", "{tmp}/absent/one.age", "--recipient", RECIPIENT), 1, "no directory"),
        (("create", "{tmp}/one.age", "--recipient", "age1mistyped"), 1, "age-keygen"),
        (("create", "{tmp}/one.age", "--recipient", IDENTITY), 1, "is secret"),
        (("verify", "{tmp}/absent.age"), 1, "no file"),
        (("verify", "{tmp}"), 1, "is a directory"),
        (("inspect", "{tmp}/keyhall.db"), 1, "no backup of Keyhall"),
    ],
)
def test_a_mistake_is_answered_by_a_line_that_says_what_to_do(
    installed: Place, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = installed.command("backup", *(each.format(tmp=tmp_path) for each in arguments))
    assert (done.returncode, done.stdout) == (code, "")
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert IDENTITY not in done.stderr


def test_a_damaged_backup_is_not_ok(installed: Place, tmp_path: Path, identity: Path) -> None:
    file = tmp_path / "one.age"
    assert installed.command("backup", "create", str(file), "--recipient", RECIPIENT).returncode == 0
    file.write_bytes(file.read_bytes()[:-1])
    done = installed.command("backup", "verify", str(file), "--identity-file", str(identity), "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)
    assert json.loads(done.stdout).keys() == REPORT
    assert "damaged or was cut" in done.stderr


def test_a_passphrase_is_asked_for_twice_on_a_terminal(installed: Place, tmp_path: Path) -> None:
    file, environment = tmp_path / "one.age", process_environment(**installed.environment)

    def keyhall(*arguments: str | Path) -> list[str | Path]:
        return [sys.executable, *KEYHALL, "backup", *arguments]

    typed(keyhall("create", file), PASSPHRASE, PASSPHRASE, env=environment, cwd=PROJECT)
    report = json.loads(typed(keyhall("verify", file, "--json"), PASSPHRASE, env=environment, cwd=PROJECT))
    assert report["ok"]
    with pytest.raises(AssertionError):
        typed(keyhall("create", tmp_path / "two.age"), PASSPHRASE, "another", env=environment, cwd=PROJECT)
    assert not (tmp_path / "two.age").exists()


def test_an_identity_file_that_is_away_stops_nothing_that_does_not_need_it(
    installed: Place, tmp_path: Path, passphrase: Path
) -> None:
    """On the worst day it is the stick with the identity that is missing."""
    place, file = installed.having(BACKUP_IDENTITY_FILE=str(tmp_path / "absent")), str(tmp_path / "one.age")
    option = ("--passphrase-file", str(passphrase))
    assert place.command("backup", "create", file, *option).returncode == 0
    assert place.command("backup", "verify", file, *option).returncode == 0
    assert place.command("backup", "inspect", file).returncode == 0
    assert "config_invalid" in place.command("backup", "verify", file).stderr


def test_a_malformed_identity_is_answered_in_json_too(installed: Place, tmp_path: Path, passphrase: Path) -> None:
    file = str(tmp_path / "one.age")
    assert installed.command("backup", "create", file, "--recipient", RECIPIENT).returncode == 0
    done = installed.command("backup", "verify", file, "--identity-file", str(passphrase), "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)


def test_the_newest_backup_is_rehearsed_on_demand(installed: Place, tmp_path: Path, identity: Path) -> None:
    place = installed.having(BACKUP_RECIPIENT=RECIPIENT, BACKUP_IDENTITY_FILE=str(identity))
    none = place.command("backup", "rehearse")
    assert (none.returncode, none.stdout) == (1, "")
    assert "there is no backup yet" in none.stderr
    file = tmp_path / "one.age"
    assert place.command("backup", "create", str(file)).returncode == 0
    done = place.command("backup", "rehearse", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["file"], found["rehearsal"]) == (0, str(file), "ok")
    assert found["note"].startswith("ok: ")
    assert found["rehearsed_at"] > found["created_at"]
    file.write_bytes(file.read_bytes()[:-1])
    broken = place.command("backup", "rehearse")
    assert (broken.returncode, broken.stdout[:1]) == (1, "❌")
    assert "failed: " in broken.stdout
    file.unlink()
    assert "there is no file" in place.command("backup", "rehearse").stdout


ENDED_IN_THE_MIDDLE = """
import os, runpy, signal, sys
from app.infrastructure.backup import files
write = files._Counter.one_more
def one_more(self):
    os.kill(os.getpid(), getattr(signal, os.environ.pop("SIGNAL"))) if "SIGNAL" in os.environ else None
    write(self)
files._Counter.one_more = one_more
sys.argv = ["keyhall", *sys.argv[1:]]
signal.signal(getattr(signal, os.environ["SIGNAL"]), signal.SIG_DFL)  # a test run under nohup ignores SIGHUP
runpy.run_module("entrypoints.cli_entrypoint", run_name="__main__")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_in_the_middle_leaves_no_part_of_a_backup(installed: Place, tmp_path: Path, name: str) -> None:
    directory = tmp_path / "backups"
    directory.mkdir()
    environment = process_environment(**installed.environment, SIGNAL=name)
    arguments = ("backup", "create", str(directory / "one.age"), "--recipient", RECIPIENT)
    done = run("-c", ENDED_IN_THE_MIDDLE, *arguments, env=environment)
    assert done.returncode == 128 + signal.Signals[name], done.stderr
    assert not list(directory.glob(".*"))
    assert "Traceback" not in done.stderr
    assert installed.command(*arguments, "--replace").returncode == 0
