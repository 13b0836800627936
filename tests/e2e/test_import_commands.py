"""Imports by the command line: real files, real processes, and no key in anything that is printed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests.support.environment import process_environment
from tests.support.installs import KEYHALL, Place
from tests.support.processes import PROJECT

OPENAI = "sk-proj-" + "aB3dE6gH9jK2mN5p" * 3
ANTHROPIC = "sk-ant-api03-" + "zY8xW5vU2tS9rQ6p" * 3
CANARIES = ("aB3dE6gH9jK2mN5p", "zY8xW5vU2tS9rQ6p")


@pytest.fixture
def place(sqlite_url: str, tmp_path: Path) -> Place:
    return asyncio.run(Place(sqlite_url, tmp_path / "data", {}).install())


@pytest.fixture
def users_json(tmp_path: Path) -> Path:
    """A users.json with its .encryption_key beside it."""
    key = Fernet.generate_key()
    (tmp_path / "old").mkdir()
    (tmp_path / "old/.encryption_key").write_bytes(key + b"\n")
    keys = {"openai": Fernet(key).encrypt(OPENAI.encode()).decode(), "ANTHROPIC_API_KEY": ANTHROPIC}
    file = tmp_path / "old/users.json"
    file.write_text(json.dumps({"anna": {"api_keys": keys, "_api_keys_migrated": True}, "bob": {"api_keys": {}}}))
    return file


def imports(place: Place, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = place.command("credentials", *arguments)
    assert done.returncode == code, done.stderr
    assert not any(canary in done.stdout + done.stderr for canary in CANARIES)
    return done


def test_a_users_json_is_imported_with_links_and_a_second_run_changes_nothing(place: Place, users_json: Path) -> None:
    dry = json.loads(imports(place, "import-json", str(users_json), "--dry-run", "--json").stdout)
    assert json.loads(place.command("users", "list", "--json").stdout) == []
    ran = imports(place, "import-json", str(users_json), "--json")
    done = json.loads(ran.stdout)
    assert {name: done[name] for name in ("users", "credentials", "skipped", "already_done")} == {
        "users": 2,
        "credentials": 2,
        "skipped": [],
        "already_done": 0,
    }
    links = {each["username"]: each["link"] for each in done.pop("claim_links")}
    assert set(links) == {"anna", "bob"}
    assert all(re.fullmatch(r"http://127\.0\.0\.1:\d+/claim#khl_[\w-]{43}", link) for link in links.values())
    # And at once on standard error: an import that is ended in the middle has shown the links of what it stored.
    assert all(f"{name} {link}\n" in ran.stderr for name, link in links.items())
    assert {**dry, "dry_run": False, "claim_links": None} == {**done, "claim_links": None}
    again = json.loads(imports(place, "import-json", str(users_json), "--json").stdout)
    assert (again["users"], again["credentials"], again["already_done"], again["claim_links"]) == (0, 0, 2, [])
    listed = json.loads(place.command("credentials", "list", "--user", "anna", "--json").stdout)
    assert {(each["provider"], each["label"]) for each in listed} == {
        ("openai", "openai"),
        ("anthropic", "ANTHROPIC_API_KEY"),
    }


def test_people_read_the_same_and_each_link_once(place: Place, users_json: Path) -> None:
    done = imports(place, "import-json", str(users_json))
    *links, summary = done.stdout.splitlines()
    assert summary == "imported 2 credentials and 2 users; skipped 0, already done 0"
    assert [re.sub(r"#.*", "#", line.replace("http://127.0.0.1:0", "")) for line in links] == [
        "anna /claim#",
        "bob /claim#",
    ]


def test_a_broken_entry_stops_the_import_and_its_value_is_not_printed(place: Place, users_json: Path) -> None:
    (users_json.parent / "other").write_bytes(Fernet.generate_key())
    arguments = ("import-json", str(users_json), "--key-file", str(users_json.parent / "other"))
    stopped = imports(place, *arguments, "--json", code=1)
    assert stopped.stdout == ""
    assert "users.json: anna.api_keys.openai: is encrypted with Fernet, and no given key opens it" in stopped.stderr
    assert json.loads(place.command("users", "list", "--json").stdout) == []
    skipped = json.loads(imports(place, *arguments, "--skip-broken", "--json").stdout)
    assert (skipped["users"], skipped["credentials"]) == (2, 1)
    (entry,) = skipped["skipped"]
    assert entry["where"] == "users.json: anna.api_keys.openai"


def test_what_is_no_file_is_refused(place: Place, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", (32 << 20) + 1)
    refused = {"fifo": "not a regular file", "": "directory", "none": "does not exist", "huge": "32 MiB"}
    for name, why in refused.items():
        assert why in imports(place, "import-json", str(tmp_path / name), code=1).stderr


def test_an_env_file_and_reds_tokens_become_a_servers_credentials(place: Place, tmp_path: Path) -> None:
    (tmp_path / "legacy.env").write_text(f"export OPENAI_API_KEY='{OPENAI}' # ours\r\nPORT=80\r\n")
    guild = ("--guild", "900000000000000001", "--json")
    done = json.loads(imports(place, "import-env", str(tmp_path / "legacy.env"), *guild).stdout)
    assert (done["users"], done["credentials"], done["claim_links"]) == (0, 1, [])
    assert [each["where"] for each in done["skipped"]] == ["legacy.env: line 2: PORT"]
    (tmp_path / "red/core").mkdir(parents=True)
    tokens: dict[str, Any] = {"anthropic": {"api_key": ANTHROPIC}, "spotify": {"client_id": "abc", "client_secret": ""}}
    settings = {"0": {"GLOBAL": {"token": "x", "api_tokens": {}}, "SHARED_API_TOKENS": tokens}}
    (tmp_path / "red/core/settings.json").write_text(json.dumps(settings))
    done = json.loads(imports(place, "import-red", str(tmp_path / "red"), *guild).stdout)
    assert done["credentials"] == 2
    assert [each["where"] for each in done["skipped"]] == [
        "core/settings.json: 0.SHARED_API_TOKENS.spotify.client_secret"
    ]
    assert json.loads(imports(place, "import-red", str(tmp_path / "red"), *guild).stdout)["already_done"] == 2
    listed = json.loads(place.command("credentials", "list", "--guild", guild[1], "--json").stdout)
    assert {(each["provider"], each["label"]) for each in listed} == {
        ("openai", "OPENAI_API_KEY"),
        ("anthropic", "api_key"),
        ("spotify", "client_id"),
    }
    assert "core/settings.json" in imports(place, "import-red", str(tmp_path), "--guild", "1", code=1).stderr
    assert imports(place, "import-env", str(tmp_path / "legacy.env"), code=2).stdout == ""


@pytest.fixture
def many(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "many.json"
    file.write_text(json.dumps({f"user{n}": {"api_keys": {"openai": f"{OPENAI}{n}"}} for n in range(150)}))
    yield file
    file.unlink()


@pytest.mark.slow
def test_an_import_that_was_killed_is_completed_by_the_next_one(place: Place, many: Path) -> None:
    """SIGKILL after the first accounts are there; each has its key, and the next run imports exactly the others."""
    process = subprocess.Popen(
        [sys.executable, *KEYHALL, "credentials", "import-json", str(many)],
        cwd=PROJECT,
        env=process_environment(**place.environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with closing(sqlite3.connect(place.url.removeprefix("sqlite+aiosqlite:///"))) as database:
        while process.poll() is None and not database.execute("SELECT 1 FROM imported_entries").fetchone():
            time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stored = asyncio.run(place.contents())
    count = len(stored["users"])
    assert 0 < count == len(stored["api_credentials"]) == len(stored["imported_entries"])
    done = json.loads(imports(place, "import-json", str(many), "--json").stdout)
    assert (done["users"], done["credentials"], done["already_done"]) == (150 - count, 150 - count, count)
    assert len(asyncio.run(place.contents())["users"]) == 150
    assert place.command("credentials", "verify").returncode == 0


def test_a_start_imports_once_however_many_processes_start(place: Place, users_json: Path) -> None:
    place = place.having(LEGACY_USERS_JSON=str(users_json))
    with place.running("web") as one, place.running("web") as other, place.running("worker") as worker:
        one.address()
        other.address()
        lines = [*one.lines, *other.lines]
        assert sum("imported 2 credentials and 2 users from users.json" in line for line in lines) <= 1
        listed = json.loads(place.command("users", "list", "--json").stdout)
        assert {each["username"] for each in listed} == {"anna", "bob"}
        assert json.loads(imports(place, "import-json", str(users_json), "--json").stdout)["already_done"] == 2
        link = place.command("users", "claim-link", "anna")
        assert "/claim#khl_" in link.stdout
        assert not any(canary in line for canary in CANARIES for line in [*lines, *worker.lines])
    stored = asyncio.run(place.contents())
    assert (len(stored["users"]), len(stored["api_credentials"])) == (2, 2)
    with place.running("web") as again:
        again.address()
        assert not any("imported" in line for line in again.lines)


def test_a_broken_file_is_said_and_stops_no_start(place: Place, users_json: Path) -> None:
    users_json.write_text(json.dumps({"anna": {"api_keys": {"openai": "sk-proj-••••1234"}}, "bob": {"api_keys": {}}}))
    with place.having(LEGACY_USERS_JSON=str(users_json)).running("web") as web:
        said = web.wait_for("LEGACY_USERS_JSON was not imported.*").group()
        assert "1 of its entries are broken" in said
        assert "users.json: anna.api_keys.openai: is a mask" in said
        web.address()
    assert asyncio.run(place.contents())["users"] == []


def test_tables_are_imported_by_a_url_from_standard_input(place: Place, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old.db")) as old, old:
        old.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, username TEXT, api_keys JSON)")
        old.execute("INSERT INTO users VALUES (1, 'anna', ?)", (json.dumps({"openai": OPENAI}),))
    url = f"sqlite:///{tmp_path / 'old.db'}"
    piped = place.command("credentials", "import-db", "-", "--json", stdin=url + "\n")
    assert piped.returncode == 0, piped.stderr
    assert (json.loads(piped.stdout)["users"], json.loads(piped.stdout)["credentials"]) == (1, 1)
    again = imports(place, "import-db", url, "--json")
    assert json.loads(again.stdout)["already_done"] == 1
    refused = imports(place, "import-db", "postgresql://me:se-cret@127.0.0.1:9/x", code=1)
    assert "between 1 and 65535" in imports(place, "import-db", "postgresql://u@127.0.0.1:99999/x", code=1).stderr
    assert "standard input" in refused.stderr
    assert "se-cret" not in refused.stderr
