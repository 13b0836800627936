"""``keyhall keys reset`` as an operator runs it: on a terminal, from a script, and when it must not."""

from __future__ import annotations

import json
import os
import pty
import secrets
import subprocess
import sys

import pytest

from tests.support.environment import process_environment
from tests.support.installs import Place
from tests.support.processes import PROJECT

SECRET = "sk-proj-4f9aTq7ZbX2mLw8vKd3Yc6Rn"


@pytest.fixture
def lost(sqlite_place: Place) -> Place:
    """An install with a credential, whose master key is lost."""
    _fill(sqlite_place)
    (sqlite_place.data_dir / "master.key").write_text(secrets.token_hex(32))
    return sqlite_place


def _fill(place: Place) -> None:
    with place.running("web") as web:
        web.address()
        for arguments, stdin in (
            (("users", "create", "mia", "--password-stdin"), "a brass key on a hook"),
            (("credentials", "add", "openai", "main", "--user", "mia"), SECRET),
        ):
            done = place.command(*arguments, stdin=stdin)
            assert done.returncode == 0, done.stderr


def _install_id(place: Place) -> str:
    found: str = json.loads((place.data_dir / "install.json").read_text())["install_id"]
    return found


def test_a_script_gets_the_list_of_what_has_to_be_entered_again(lost: Place) -> None:
    done = lost.command("keys", "reset", "--confirm", _install_id(lost), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (entry,) = report["enter_again"]
    assert (entry["owner_kind"], entry["owner"], entry["provider"], entry["label"]) == ("user", "mia", "openai", "main")
    assert report["install_id"] == _install_id(lost)
    assert report["file"] == str(lost.data_dir / "master.key")
    assert lost.command("keys", "validate").returncode == 0
    healed = lost.command("credentials", "replace", entry["id"], "--user", "mia", stdin=SECRET)
    assert healed.returncode == 0, healed.stderr
    listed = json.loads(lost.command("credentials", "list", "--user", "mia", "--json").stdout)
    assert [each["status"] for each in listed] == ["unchecked"]
    with lost.running("web") as web:
        web.address()
        assert not any("halted" in line for line in web.lines)


def test_on_a_terminal_the_installs_id_is_typed_back(lost: Place) -> None:
    for typed, code in (("yes", 1), (_install_id(lost), 0)):
        shown, returned = _on_a_terminal(lost, typed)
        assert returned == code, shown
        assert _install_id(lost) in shown
        assert "no stored secret will open any more" in shown
        assert ("to be entered again, 1 in all" in shown) is (code == 0)
        assert (lost.data_dir / "master.key").read_text().strip() not in shown


def _on_a_terminal(place: Place, typed: str) -> tuple[str, int]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "entrypoints.cli_entrypoint", "keys", "reset"],
        cwd=PROJECT,
        env=process_environment(**place.environment),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,  # away from the terminal of whoever runs the tests
    )
    os.close(theirs)
    shown = ""
    while "to make new keys" not in shown:
        shown += os.read(ours, 4096).decode()
    os.write(ours, f"{typed}\n".encode())
    try:
        while part := os.read(ours, 4096):
            shown += part.decode()
    except OSError:  # the other side was closed, which Linux tells as EIO
        pass
    finally:
        os.close(ours)
    return shown, process.wait(timeout=60)


def test_it_is_refused_while_a_process_is_live_or_where_nothing_is_lost(sqlite_place: Place) -> None:
    _fill(sqlite_place)
    confirm = ("--confirm", _install_id(sqlite_place))
    refused = sqlite_place.command("keys", "reset", *confirm)
    assert (refused.returncode, "nothing is lost" in refused.stderr) == (1, True)
    file = sqlite_place.data_dir / "master.key"
    key = file.read_text()
    with sqlite_place.running("worker") as worker:
        while not _live(sqlite_place):
            assert worker.process.poll() is None
        file.write_text(secrets.token_hex(32))
        halted = sqlite_place.command("keys", "reset", *confirm)
        assert halted.returncode == 75
        assert halted.stderr.splitlines()[-1].startswith("keyhall: halted [in_use] worker ")
        file.write_text(key)
    assert sqlite_place.command("credentials", "verify").returncode == 0
    assert not list(sqlite_place.data_dir.glob("*lost*"))


def _live(place: Place) -> bool:
    planned = place.command("keys", "rotate-master", "--dry-run", "--json")
    return bool(json.loads(planned.stdout)["processes"])
