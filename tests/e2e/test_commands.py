"""The command line as an operator uses it: real processes, real files, secrets from standard input."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app import __version__
from app.infrastructure.database.migrate import known_revisions
from tests.support.installs import Place

PASSWORD = "correct horse battery staple"
SECRET = "sk-proj-" + "aB3dE6gH9jK2mN5p" * 3


@pytest.fixture
def place(sqlite_url: str, tmp_path: Path) -> Place:
    return Place(sqlite_url, tmp_path / "data")


@pytest.fixture
def installed(place: Place) -> Place:
    return asyncio.run(place.install())


def _succeeded(place: Place, *arguments: str, stdin: str = "") -> str:
    done = place.command(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_before_the_first_start_say_what_to_do_and_make_nothing(place: Place) -> None:
    done = place.command("keys", "list")
    assert done.returncode == 1
    assert "`keyhall run`" in done.stderr
    assert not place.data_dir.exists()


def test_accounts_are_made_listed_linked_and_parted(installed: Place) -> None:
    assert "alice is the owner" in _succeeded(installed, "users", "create-owner", "alice", stdin=PASSWORD + "\n")
    again = installed.command("users", "create-owner", "mallory", stdin=PASSWORD)
    assert (again.returncode, again.stdout) == (1, "")
    _succeeded(installed, "users", "create", "bob", "--role", "auditor", stdin=PASSWORD)
    assert installed.command("users", "create", "eve", stdin="short").returncode == 1
    _succeeded(installed, "users", "link", "alice", "123456789012345678")
    users = {each["username"]: each for each in json.loads(_succeeded(installed, "users", "list", "--json"))}
    assert {name: each["role"] for name, each in users.items()} == {"alice": "owner", "bob": "auditor"}
    assert users["alice"]["discord_id"] == "123456789012345678"
    _succeeded(installed, "users", "unlink", "alice")
    assert installed.command("users", "unlink", "alice").returncode == 1


def test_credentials_are_stored_shown_masked_verified_and_removed(installed: Place) -> None:
    _succeeded(installed, "users", "create-owner", "alice", stdin=PASSWORD)
    added = json.loads(
        _succeeded(installed, "credentials", "add", "openai", "main", "--user", "alice", "--json", stdin=SECRET + "\n")
    )
    listed = _succeeded(installed, "credentials", "list", "--user", "alice", "--json")
    assert [each["id"] for each in json.loads(listed)] == [added["id"]]
    assert SECRET not in listed
    assert added["masked"].startswith("sk-proj-")
    assert added["masked"].endswith(SECRET[-4:])
    assert "1 of 1 secrets open" in _succeeded(installed, "credentials", "verify")
    _succeeded(installed, "credentials", "add", "openai", "shared", "--guild", "900", stdin=SECRET)
    assert "shared" in _succeeded(installed, "credentials", "list", "--guild", "900")
    _succeeded(installed, "credentials", "remove", added["id"], "--user", "alice")
    assert json.loads(_succeeded(installed, "credentials", "list", "--user", "alice", "--json")) == []
    assert installed.command("credentials", "list", "--user", "nobody").returncode == 1
    assert installed.command("credentials", "list").returncode == 2


def test_a_secret_is_replaced_its_former_ones_are_listed_and_one_is_put_back(installed: Place, tmp_path: Path) -> None:
    _succeeded(installed, "users", "create-owner", "alice", stdin=PASSWORD)
    alice = ("--user", "alice")
    add = _succeeded(installed, "credentials", "add", "openai", "main", *alice, "--json", stdin=SECRET)
    added = json.loads(add)
    assert (added["secret_age_days"], added["concern"]) == (0, None)
    one = added["id"]
    told = _succeeded(installed, "credentials", "replace", one, *alice, stdin=SECRET[::-1] + "\n")
    assert "replaced openai main" in told
    assert "version 2" in told
    file = tmp_path / "secret"
    file.write_text("another secret, from a file\n")
    replaced = _succeeded(installed, "credentials", "replace", one, *alice, "--secret-file", str(file), "--json")
    assert (json.loads(replaced)["version"], json.loads(replaced)["masked"]) == (3, "anothe••••••••ile")
    history = json.loads(_succeeded(installed, "credentials", "versions", one, *alice, "--json"))
    assert [(each["version"], each["readable"]) for each in history] == [(2, True), (1, True)]
    assert history[1]["masked"] == added["masked"]
    assert history[0]["created_at"] == history[1]["replaced_at"]
    table = _succeeded(installed, "credentials", "versions", one, *alice).splitlines()
    assert table[0].split() == ["VERSION", "SECRET", "READABLE", "FROM", "TO"]
    assert len(table) == 3
    back = _succeeded(installed, "credentials", "rollback", one, "--version", "1", *alice, "--json")
    assert (json.loads(back)["masked"], json.loads(back)["version"]) == (added["masked"], 4)
    assert "version 5" in _succeeded(installed, "credentials", "rollback", one, *alice)
    for wrong in ("99", "5"):
        assert installed.command("credentials", "rollback", one, "--version", wrong, *alice).returncode == 1
    assert installed.command("credentials", "versions", one, "--guild", "900").returncode == 1
    assert installed.command("credentials", "replace", one, stdin=SECRET).returncode == 2
    assert "5 of 5 secrets open" in _succeeded(installed, "credentials", "verify")


def test_the_list_marks_what_should_be_replaced_and_warns_at_the_end(installed: Place) -> None:
    _succeeded(installed, "users", "create-owner", "alice", stdin=PASSWORD)
    for label in ("aged", "expired", "fresh"):
        _succeeded(installed, "credentials", "add", "openai", label, "--user", "alice", stdin=SECRET)
    soon = (datetime.now(UTC) + timedelta(days=10)).strftime("%Y-%m-%d")
    _succeeded(
        installed, "credentials", "add", "openai", "expiring", "--user", "alice", "--expires", soon, stdin=SECRET
    )
    calm = installed.command("credentials", "list", "--guild", "900")
    assert (calm.returncode, calm.stderr) == (0, "")
    past = "2001-02-03T04:05:06.000000Z"
    asyncio.run(
        installed.execute("UPDATE api_credentials SET created_at = :past WHERE label IN ('aged', 'expired')", past=past)
    )
    asyncio.run(installed.execute("UPDATE api_credentials SET expires_at = :past WHERE label = 'expired'", past=past))
    done = installed.command("credentials", "list", "--user", "alice")
    assert done.returncode == 0
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["ID", "PROVIDER", "LABEL", "SECRET", "STATUS", "EXPIRES", "AGE", "UPDATED", "CONCERN"]
    concerns = {row.split()[2]: row.split()[-1] for row in rows}
    assert concerns == {"aged": "aged", "expired": "expired", "expiring": "expiring", "fresh": "-"}
    assert done.stderr.splitlines()[-1] == (
        "⚠️ to be replaced: 1 expired, 1 expiring within 30 days, 1 with a secret older than 180 days"
    )
    items = json.loads(_succeeded(installed, "credentials", "list", "--user", "alice", "--json"))
    ages = {each["label"]: each["secret_age_days"] for each in items}
    assert ages["aged"] > 9000
    assert ages["fresh"] == 0
    assert {each["label"]: each["concern"] for each in items} == {**concerns, "fresh": None}
    assert next(each["expires_at"] for each in items if each["label"] == "expired") == "2001-02-03T04:05:06Z"


def test_verify_names_the_credential_that_does_not_open(installed: Place) -> None:
    _succeeded(installed, "users", "create-owner", "alice", stdin=PASSWORD)
    _succeeded(installed, "credentials", "add", "openai", "main", "--user", "alice", stdin=SECRET)
    asyncio.run(installed.execute("UPDATE api_credentials SET encrypted_value = x'00'"))
    done = installed.command("credentials", "verify")
    assert done.returncode == 1
    assert "main does not open" in done.stdout


def test_keys_are_listed_without_material_and_judged_one_by_one(installed: Place) -> None:
    items = json.loads(_succeeded(installed, "keys", "list", "--json"))
    assert [each["name"] for each in items] == ["JWT_SECRET_KEY", "AES_KEY", "ENCRYPTION_KEY", "API_SECRET_KEY"]
    assert {"name", "version", "state", "primary", "fingerprint", "created_at"} <= set(items[0])
    assert _succeeded(installed, "keys", "validate").count("✅") == 4
    asyncio.run(installed.execute("DELETE FROM app_config WHERE key = 'keyset/AES_KEY'"))
    done = installed.command("keys", "validate")
    assert done.returncode == 1
    assert (done.stdout.count("✅"), done.stdout.count("❌")) == (3, 1)
    assert "❌ AES_KEY" in done.stdout


def test_a_master_key_is_printed_alone_or_stored_once(place: Place) -> None:
    assert len(base64.b64decode(_succeeded(place, "keys", "generate-master").strip())) == 32
    _succeeded(place, "keys", "generate-master", "--write")
    assert (place.data_dir / "master.key").stat().st_mode & 0o777 == 0o600
    assert place.command("keys", "generate-master", "--write").returncode == 78


def test_the_schema_is_upgraded_and_told_without_an_install(place: Place) -> None:
    assert f"revision {known_revisions()[-1]}" in _succeeded(place, "db", "upgrade")
    assert json.loads(_succeeded(place, "db", "current", "--json"))["up_to_date"] is True
    _succeeded(place, "db", "check")
    assert not (place.data_dir / "master.key").exists()


def test_version_and_usage_errors_open_nothing(place: Place) -> None:
    assert _succeeded(place, "version") == f"keyhall {__version__}\n"
    assert place.command("nonsense").returncode == 2
    assert place.command("credentials", "add", "openai").returncode == 2
    assert not place.data_dir.exists()
