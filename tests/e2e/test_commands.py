"""The command line as an operator uses it: real processes, real files, secrets from standard input."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest

from app import __version__
from tests.support.installs import Place

PASSWORD = "correct horse battery staple"
SECRET = "sk-proj-" + "aB3dE6gH9jK2mN5p" * 3


@pytest.fixture
def place(sqlite_url: str, tmp_path: Path) -> Place:
    return Place(sqlite_url, tmp_path / "data")


@pytest.fixture
def installed(place: Place) -> Place:
    async def install() -> None:
        async with place.keys():
            pass

    asyncio.run(install())
    return place


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
    assert "revision 0001" in _succeeded(place, "db", "upgrade")
    assert json.loads(_succeeded(place, "db", "current", "--json"))["up_to_date"] is True
    _succeeded(place, "db", "check")
    assert not (place.data_dir / "master.key").exists()


def test_version_and_usage_errors_open_nothing(place: Place) -> None:
    assert _succeeded(place, "version") == f"keyhall {__version__}\n"
    assert place.command("nonsense").returncode == 2
    assert place.command("credentials", "add", "openai").returncode == 2
    assert not place.data_dir.exists()
