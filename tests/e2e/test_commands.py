"""The command line as an operator uses it: real processes, real files, secrets from standard input."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app import __version__
from app.domain.errors import InvalidCredentials, InvalidToken
from app.domain.identity import Client, Source
from app.infrastructure.database.migrate import known_revisions
from tests.support.environment import process_environment
from tests.support.installs import KEYHALL, Place
from tests.support.processes import PROJECT
from tests.support.samples import NEW_PASSWORD

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
    assert "keyhall run`" in done.stderr
    assert not place.data_dir.exists()


def test_accounts_are_made_listed_linked_and_parted(installed: Place) -> None:
    assert "alice is the owner" in _succeeded(installed, "users", "create-owner", "alice", stdin=PASSWORD + "\n")
    again = installed.command("users", "create-owner", "mallory", stdin=PASSWORD)
    assert (again.returncode, again.stdout) == (1, "")
    _succeeded(installed, "users", "create", "bob", "--role", "auditor", "--password-stdin", stdin=PASSWORD)
    assert installed.command("users", "create", "eve", "--password-stdin", stdin="short").returncode == 1
    _succeeded(installed, "users", "link", "alice", "123456789012345678")
    users = {each["username"]: each for each in json.loads(_succeeded(installed, "users", "list", "--json"))}
    assert {name: each["role"] for name, each in users.items()} == {"alice": "owner", "bob": "auditor"}
    assert users["alice"]["discord_id"] == "123456789012345678"
    _succeeded(installed, "users", "unlink", "alice")
    assert installed.command("users", "unlink", "alice").returncode == 1
    assert "alice may try again" in _succeeded(installed, "users", "unlock", "Alice")
    assert installed.command("users", "unlock", "nobody").returncode == 1


def test_a_password_is_set_from_standard_input_or_a_file_and_never_from_an_argument(
    installed: Place, tmp_path: Path
) -> None:
    _succeeded(installed, "users", "create-owner", "alice", stdin=PASSWORD)
    said = _succeeded(installed, "users", "set-password", "Alice", stdin=f"{NEW_PASSWORD}\n")
    assert said == "The password of alice is set, and all their sessions have ended\n"
    with pytest.raises(InvalidCredentials):
        asyncio.run(_signs_in(installed, PASSWORD))
    asyncio.run(_signs_in(installed, NEW_PASSWORD))
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    _succeeded(installed, "users", "set-password", "alice", "--password-file", str(file))
    asyncio.run(_signs_in(installed, PASSWORD))
    for stdin, arguments, code in (
        ("password1234", ("alice",), 1),
        (NEW_PASSWORD, ("nobody",), 1),
        ("", ("alice", NEW_PASSWORD), 2),
        ("", ("alice",), 2),
    ):
        assert installed.command("users", "set-password", *arguments, stdin=stdin).returncode == code
    asyncio.run(_signs_in(installed, PASSWORD))


def test_an_account_is_claimed_by_its_link(installed: Place) -> None:
    place = installed.having(PUBLIC_URL="https://keys.example.org")
    link = _succeeded(place, "users", "create", "bob").removesuffix("\n")
    assert re.fullmatch(r"https://keys\.example\.org/claim#khl_[\w-]{43}", link)
    again = json.loads(_succeeded(place, "users", "claim-link", "bob", "--json"))
    assert again["username"] == "bob"
    assert again["claim_link"] != link

    async def claim(link: str) -> None:
        async with place.services() as services:
            await services.claims.claim(link, PASSWORD, Client(source=Source.WEB))

    with pytest.raises(InvalidToken):
        asyncio.run(claim(link))
    asyncio.run(claim(again["claim_link"]))
    assert place.command("users", "claim-link", "bob").returncode == 1


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


def test_a_removed_credential_is_listed_restored_or_deleted_for_good(installed: Place) -> None:
    _succeeded(installed, "users", "create-owner", "alice", stdin=PASSWORD)
    alice = ("--user", "alice")
    one = json.loads(_succeeded(installed, "credentials", "add", "openai", "main", *alice, "--json", stdin=SECRET))[
        "id"
    ]
    assert "labelled spare" in _succeeded(installed, "credentials", "relabel", one, "spare", *alice)
    _succeeded(installed, "credentials", "remove", one, *alice)
    assert "spare" in _succeeded(installed, "credentials", "list", "--removed", *alice)
    assert "restored openai spare" in _succeeded(installed, "credentials", "restore", one, *alice)
    _succeeded(installed, "credentials", "remove", one, *alice)
    refused = installed.command("credentials", "purge", one, *alice)
    assert refused.returncode == 1
    assert "--yes" in refused.stderr
    assert "deleted" in _succeeded(installed, "credentials", "purge", one, *alice, "--yes")
    assert json.loads(_succeeded(installed, "credentials", "list", "--removed", *alice, "--json")) == []
    assert installed.command("credentials", "restore", one, *alice).returncode == 1


def test_a_day_means_its_end_and_a_time_is_read_with_its_zone(installed: Place) -> None:
    _succeeded(installed, "users", "create-owner", "alice", stdin=PASSWORD)
    add = ("credentials", "add", "openai", "--user", "alice", "--json", "--expires")
    for number, (given, meant) in enumerate(
        {
            "2099-03-01": "2099-03-01T23:59:59Z",
            "2099-03-01T14:00:00+02:00": "2099-03-01T12:00:00Z",
        }.items()
    ):
        added = json.loads(_succeeded(installed, *add, given, f"label {number}", stdin=SECRET))
        assert added["expires_at"] == meant
    assert installed.command(*add, "1.3.2099", "never", stdin=SECRET).returncode == 2


def test_what_comes_from_standard_input_is_the_password_alone(installed: Place) -> None:
    """A file that an editor of Windows wrote begins with a mark and ends in CRLF; both are not typed at the sign-in."""
    _succeeded(installed, "users", "create-owner", "alice", stdin=f"\ufeff{PASSWORD}\r\n")
    with pytest.raises(InvalidCredentials):
        asyncio.run(_signs_in(installed, f"\ufeff{PASSWORD}"))
    asyncio.run(_signs_in(installed, PASSWORD))
    for command in (
        ("credentials", "add", "openai", "x", "--user", "alice"),
        ("users", "create", "bob", "--password-stdin"),
    ):
        for nothing in ("", "\n", "\ufeff"):
            empty = installed.command(*command, stdin=nothing)
            assert empty.returncode == 2
            assert "nothing came from standard input" in " ".join(empty.stderr.replace("│", " ").split())


async def _signs_in(place: Place, password: str) -> None:
    async with place.services() as services:
        await services.authentication.login("alice", password, Client(source=Source.WEB))


def test_the_name_of_a_key_is_read_in_any_case_and_only_what_can_be_done_is_offered(installed: Place) -> None:
    assert "AES_KEY: version 1 is primary" in _succeeded(installed, "keys", "rotate", "aes_key", "--dry-run")
    for command in ("rotate", "rollback", "retire", "revoke", "destroy", "import"):
        missing = installed.command("keys", command)
        assert missing.returncode == 2
        assert "API_SECRET_KEY" in missing.stderr
        assert "AUDIT_SEAL_KEY" not in missing.stderr
    assert installed.command("keys", "rotate", "audit_seal_key").returncode == 2


def _in_an_interpreter_of_its_own(place: Place, *arguments: str, stdout: Any, **settings: str) -> Any:
    return subprocess.run(
        [sys.executable, *KEYHALL, *arguments],
        cwd=PROJECT,
        env=process_environment(**place.environment, **settings),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )


@pytest.mark.parametrize("arguments", [("version",), ("keys", "list"), ("--help",)])
def test_output_that_cannot_be_written_is_one_line_and_an_exit_code(
    installed: Place, arguments: tuple[str, ...]
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = _in_an_interpreter_of_its_own(installed, *arguments, stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"keyhall: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_output_in_another_encoding_replaces_what_that_cannot_show(installed: Place, encoding: str) -> None:
    shown = _in_an_interpreter_of_its_own(
        installed, "keys", "validate", stdout=subprocess.PIPE, PYTHONIOENCODING=encoding
    )
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"? AES_KEY" in shown.stdout
