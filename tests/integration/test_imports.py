"""Imports from other programs over the real services, on both engines."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.domain.audit import Action
from app.domain.credentials import Owner, OwnerKind
from app.domain.errors import InvalidInput
from app.domain.identity import Client, Role, Source
from app.domain.imports import ImportReport, ImportStopped
from app.domain.secrets import SecretText
from app.services import Services
from app.services.imports.env_file import env_file
from app.services.imports.users_json import users_json
from tests.support.installs import Place
from tests.support.samples import PASSWORD

KEY = Fernet.generate_key()
OPENAI = "sk-proj-" + "aB3dE6gH9jK2mN5p" * 3
ANTHROPIC = "sk-ant-api03-" + "zY8xW5vU2tS9rQ6p" * 3
GUILD = "900000000000000001"


@pytest.fixture
async def place(engine_url: str, tmp_path: Path) -> Place:
    return await Place(engine_url, tmp_path / "data").install()


def fernet(text: str, key: bytes = KEY) -> str:
    return Fernet(key).encrypt(text.encode()).decode()


def gcm(text: str, key: bytes = KEY) -> str:
    nonce = b"twelve bytes"
    return base64.b64encode(nonce + AESGCM(base64.urlsafe_b64decode(key)).encrypt(nonce, text.encode(), None)).decode()


async def imported(services: Services, document: Any, *, key: bytes | None = KEY, **choices: Any) -> ImportReport:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    given = None if key is None else SecretText(key.decode())
    operator = await services.identity.operator()
    return await services.imports.run(operator, users_json(content, "users.json"), key=given, **choices)


async def secrets_of(services: Services, name: str) -> Mapping[tuple[str, str], str]:
    actor = await services.identity.operator_for(username=name)
    page = await services.credentials.page(actor, limit=100)
    return {
        (each.provider, each.label): (await services.credentials.reveal(actor, each.id)).reveal() for each in page.items
    }


LEGACY: dict[str, Any] = {
    "anna": {
        "password_hash": "$2b$12$abc",
        "api_keys": {"openai": fernet(OPENAI), "ANTHROPIC_API_KEY": gcm(ANTHROPIC), "empty": ""},
        "_api_keys_migrated": True,
    },
    "bob@example.org": {"role": "admin", "api_keys": {}},
}


async def test_accounts_and_keys_are_imported_once_and_claimed_by_their_links(place: Place) -> None:
    async with place.services() as services:
        before = await place.contents()
        dry = await imported(services, LEGACY, dry_run=True)
        assert {**await place.contents(), "instances": []} == {**before, "instances": []}
        done = await imported(services, LEGACY)
        assert (done.users, done.credentials, done.already_done) == (2, 2, 0)
        assert (dry.users, dry.credentials, dry.already_done, dry.skipped, dry.renamed) == (
            done.users,
            done.credentials,
            done.already_done,
            done.skipped,
            done.renamed,
        )
        assert [(each.where, each.why) for each in done.skipped] == [("users.json: anna.api_keys.empty", "is empty")]
        assert done.renamed == [("users.json: bob@example.org", "bob.example.org")]
        assert await secrets_of(services, "anna") == {
            ("openai", "openai"): OPENAI,
            ("anthropic", "ANTHROPIC_API_KEY"): ANTHROPIC,
        }
        links = {each.username: each.token for each in done.claim_links}
        user = await services.claims.claim(links["bob.example.org"].reveal(), PASSWORD, Client(source=Source.WEB))
        assert user.role is Role.MEMBER, "a role elsewhere is no role here"
        stored = await place.contents()
        again = await imported(services, LEGACY)
        assert (again.users, again.credentials, again.already_done, again.claim_links) == (0, 0, 2, [])
        assert {**await place.contents(), "instances": []} == {**stored, "instances": []}
        new = {**LEGACY, "anna": {"api_keys": {**LEGACY["anna"]["api_keys"], "groq": "gsk_" + "a1B2c3D4" * 6}}}
        more = await imported(services, new)
        assert (more.users, more.credentials, more.already_done, more.matched) == (0, 1, 2, ["anna"])
        trail = [row for row in stored["audit_events"] if Action.CREDENTIAL_ADDED.value in row]
        assert len(trail) == 2
        assert all('"imported":"json"' in repr(row) for row in trail)
    assert OPENAI not in repr(stored)


async def test_a_removed_credential_does_not_come_back_with_the_next_import(place: Place) -> None:
    async with place.services() as services:
        await imported(services, LEGACY)
        actor = await services.identity.operator_for(username="anna")
        for each in (await services.credentials.page(actor)).items:
            await services.credentials.remove(actor, each.id)
        assert (await imported(services, LEGACY)).credentials == 0


@pytest.mark.parametrize(
    ("document", "where", "why"),
    [
        ({"anna": {"api_keys": {"openai": fernet(OPENAI, Fernet.generate_key())}}}, "anna.api_keys.openai", "opens it"),
        ({"anna": {"api_keys": {"openai": "sk-proj-••••1234"}}}, "anna.api_keys.openai", "is a mask"),
        ({"anna": {"api_keys": {"openai": 5}}}, "anna.api_keys.openai", "is no text"),
        ({"anna": {"api_keys": {"openai": "x" * 10_000_000}}}, "anna.api_keys.openai", "longer than 64 KiB"),
        ({"anna": {"api_keys": {"openai": "sk-\u0000"}}}, "anna.api_keys.openai", "NUL"),
        ({"anna": {"api_keys": {"openai": "sk-\ud800"}}}, "anna.api_keys.openai", "Unicode"),
        ({"anna": {"api_keys": {"openai\ud800": OPENAI}}}, "anna.api_keys.…1", "its name must be valid Unicode"),
        ({"anna\ud800": {"api_keys": {"openai": OPENAI}}}, "…1", "username"),
        ({"anna": {"api_keys": {"n" * 2000: OPENAI}}}, "anna.api_keys.…1", "its name must be"),
        ({"anna": {"api_keys": {"key": "something of nobody's"}}}, "anna.api_keys.key", "no provider"),
        ({"anna": "hash"}, "anna", "no object"),
        ({"a\u202enna": {}}, "…", "username"),
        ({"Anna": {}, "anna": {}}, "anna", "same account"),
        ({"anna": {}, "\u0430nna": {}}, "\u0430nna", "look like it"),
        ([{"api_keys": {}}], "[0]", "names no user"),
        ([{"name": "anna"}, {"name": "anna"}], "[1]", "same user"),
        (b'{"anna": {"api_keys": {"openai": "a", "openai": "b"}}}', "anna.api_keys.openai", "twice"),
        ({"anna": {"api_keys": {f"openai{n}": f"secret number {n}" for n in range(101)}}}, "openai100", "one too many"),
    ],
)
async def test_a_broken_entry_is_named_and_stops_everything_or_is_skipped(
    sqlite_url: str, tmp_path: Path, document: Any, where: str, why: str
) -> None:
    place = await Place(sqlite_url, tmp_path / "data").install()
    whole = {"zoe": {"api_keys": {"openai": OPENAI}}}
    if isinstance(document, dict):
        document = {**document, **whole}
    async with place.services() as services:
        before = await place.contents()
        for dry_run in (True, False):
            with pytest.raises(ImportStopped) as stopped:
                await imported(services, document, dry_run=dry_run)
            assert where in str(stopped.value)
            assert why in str(stopped.value)
            assert "xxxx" not in str(stopped.value)
        assert {**await place.contents(), "instances": []} == {**before, "instances": []}
        skipped = await imported(services, document, skip_broken=True)
        assert any(where in each.where and why in each.why for each in skipped.skipped)
        if isinstance(document, dict):
            assert await secrets_of(services, "zoe") == {("openai", "openai"): OPENAI}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"{", "is not JSON: line 1, column 2"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too long"),
        (b"\xff\x00\x01", "not UTF-8"),
        (b'{"a": "\x00"}', "NUL"),
        (b"[" + b"{}," * 500_001 + b"{}]", "more than 500,000 objects"),
        (b"7", "neither users by name nor a list"),
    ],
)
def test_a_file_that_is_no_users_json_is_refused_without_its_content(content: bytes, why: str) -> None:
    with pytest.raises(ImportStopped, match=why):
        users_json(content, "users.json")


def test_names_with_an_underscore_are_flags_unless_an_account_has_such_a_name() -> None:
    document = {"_version": 2, "_bob": {"_migrated": True, "api_keys": {"_updated": "2024-01-01", OPENAI: 5}}}
    source = users_json(json.dumps(document).encode(), "users.json")
    assert list(source.holders) == ["_bob"]
    assert source.entries == []
    assert [each.where for each in source.passed_over] == ["users.json: _bob.api_keys._updated"]
    assert [each.where for each in source.broken] == ["users.json: _bob.api_keys.…2"]


def test_a_doubled_name_among_very_many_is_found_at_once() -> None:
    content = b'{"a": {}, ' + b", ".join(b'"%d": {}' % number for number in range(50_000)) + b', "a": {}}'
    assert [each.where for each in users_json(content, "users.json").broken] == ["users.json: a"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_and_encodings_of_windows_are_understood(encoding: str) -> None:
    found = users_json(json.dumps({"änna": {"api_keys": {"openai": OPENAI}}}).encode(encoding), "users.json")
    assert list(found.holders) == ["änna"]


@pytest.mark.parametrize(
    "members",
    [
        {"api_keys": [{"provider": "openai", "api_key": OPENAI}]},
        {"api_keys": {"openai": {"value": OPENAI, "added": "2024-01-01"}}},
        {"api_keys": {"openai": {"openai": OPENAI}}},
        {"api_keys": json.dumps({"openai": OPENAI})},
        {"credentials": [{"service": "openai", "encrypted_value": fernet(OPENAI)}]},
        {"openai_api_key": OPENAI, "email": "a@example.org", "github": "anna"},
        {"api_keys": {"openai": base64.b64encode(fernet(OPENAI).encode()).decode()}},
    ],
)
async def test_the_layouts_of_real_projects_are_understood(sqlite_url: str, tmp_path: Path, members: Any) -> None:
    place = await Place(sqlite_url, tmp_path / "data").install()
    async with place.services() as services:
        for document in ({"users": {"anna": members}}, [{"username": "mia", **members}]):
            assert (await imported(services, document)).credentials == 1
        for name in ("anna", "mia"):
            ((provider, _),) = found = await secrets_of(services, name)
            assert (provider, list(found.values())) == ("openai", [OPENAI])


async def test_taken_labels_get_a_number_and_an_account_that_is_here_is_named(sqlite_url: str, tmp_path: Path) -> None:
    place = await Place(sqlite_url, tmp_path / "data").install()
    async with place.services() as services:
        operator = await services.identity.operator()
        await services.identity.create(operator, "anna", PASSWORD, Role.MEMBER)
        actor = await services.identity.operator_for(username="anna")
        await services.credentials.add(actor, provider="openai", label="OpenAI", secret="another secret")
        report = await imported(services, {"ANNA": {"api_keys": {"openai": [OPENAI, OPENAI + "x", OPENAI]}}})
        assert (report.users, report.credentials, report.matched) == (0, 2, ["anna"])
        assert report.relabelled == [
            ("users.json: ANNA.api_keys.openai[0]", "openai (2)"),
            ("users.json: ANNA.api_keys.openai[1]", "openai (3)"),
        ]
        assert [each.why for each in report.skipped] == ["is the same as users.json: ANNA.api_keys.openai[0]"]
        for refused in ("auditor", "disabled"):
            await services.identity.create(operator, refused, PASSWORD, Role.AUDITOR)
            with pytest.raises(ImportStopped, match="has no credentials of its own"):
                await imported(services, {refused: {"api_keys": {"openai": OPENAI}}})


async def test_a_plain_text_that_may_be_ciphertext_is_said(sqlite_url: str, tmp_path: Path) -> None:
    place = await Place(sqlite_url, tmp_path / "data").install()
    another = base64.urlsafe_b64encode(bytes(range(32)))  # of every thousand texts some look like a provider's key
    keys = {"openai": gcm(OPENAI, another), "groq": OPENAI, "other": "a password/with+signs"}
    async with place.services() as services:
        report = await imported(services, {"anna": {"api_keys": keys}})
        assert (report.credentials, report.doubtful) == (3, ["users.json: anna.api_keys.openai"])


async def test_placeholders_are_no_keys_in_any_source(sqlite_url: str, tmp_path: Path) -> None:
    place = await Place(sqlite_url, tmp_path / "data").install()
    keys = {"openai": "YOUR_API_KEY_HERE", "groq": "changeme", "mistral": fernet("REPLACE_ME"), "cohere": OPENAI}
    async with place.services() as services:
        report = await imported(services, {"anna": {"api_keys": keys}})
        assert report.credentials == 1
        assert {each.where.rpartition(".")[2]: each.why for each in report.skipped} == dict.fromkeys(
            ("openai", "groq", "mistral"), "holds a placeholder"
        )


async def test_a_key_file_without_a_key_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    place = await Place(sqlite_url, tmp_path / "data").install()
    async with place.services() as services:
        with pytest.raises(InvalidInput, match="32 bytes"):
            await imported(services, LEGACY, key=b"passphrase")
        with pytest.raises(ImportStopped, match="--key-file"):
            await imported(services, LEGACY, key=None)
    async with place.having(CREDENTIAL_ENCRYPTION_KEY=KEY.decode()).services() as services:
        assert (await imported(services, LEGACY, key=None)).credentials == 2


async def test_simultaneous_imports_import_once(place: Place) -> None:
    document = {f"user{n}": {"api_keys": {"openai": OPENAI, "anthropic": ANTHROPIC}} for n in range(5)}
    async with place.services() as one, place.services() as other:
        reports = await asyncio.gather(*(imported(each, document) for each in (one, other, one, other)))
        assert sum(each.users for each in reports) == 5
        assert sum(each.credentials for each in reports) == 10
        assert {each.username for report in reports for each in report.claim_links} == set(document)
    assert len((await place.contents())["api_credentials"]) == 10


# ---------------------------------------------------------------------------------------------------------------------
# .env
# ---------------------------------------------------------------------------------------------------------------------

ENV = f"""\ufeff# keys
export OPENAI_API_KEY="{OPENAI}"   # of the team\r
ANTHROPIC_API_KEY='{ANTHROPIC}'\r
SOME_NAME={"ghp_" + "a1B2c3D4e5" * 4} # by its shape
PORT=8080
GROQ_API_KEY=
MISTRAL_API_KEY=your-key-here
GITHUB_TOKEN=first-token-of-some-length
GITHUB_TOKEN=second-token-of-some-length
: no assignment
; comment
PRIVATE="-----BEGIN PRIVATE KEY-----
abc
-----END PRIVATE KEY-----"
"""


async def test_an_env_file_gives_its_providers_keys_and_names_the_other_lines(place: Place) -> None:
    async with place.services() as services:
        operator = await services.identity.operator()
        source = env_file(ENV.encode(), ".env")
        report = await services.imports.run(operator, source, owner=Owner(OwnerKind.GUILD, GUILD))
        assert (report.users, report.credentials) == (0, 4)
        manager = await services.identity.operator_for(guild_id=GUILD)
        page = await services.credentials.page(manager, guild_id=GUILD)
        found = {each.label: (await services.credentials.reveal(manager, each.id)).reveal() for each in page.items}
        assert found == {
            "OPENAI_API_KEY": OPENAI,
            "ANTHROPIC_API_KEY": ANTHROPIC,
            "SOME_NAME": "ghp_" + "a1B2c3D4e5" * 4,
            "GITHUB_TOKEN": "second-token-of-some-length",
        }
        why = {each.where: each.why for each in report.skipped}
        assert why == {
            ".env: line 5: PORT": "is no provider's variable, and its value has the shape of no key",
            ".env: line 6: GROQ_API_KEY": "is empty",
            ".env: line 7: MISTRAL_API_KEY": "holds a placeholder",
            ".env: line 8: GITHUB_TOKEN": "stands there again, with another value, in line 9",
            ".env: line 10": "is not NAME=value",
            ".env: line 12: PRIVATE": "is no provider's variable, and its value has the shape of no key",
        }
        again = await services.imports.run(operator, env_file(ENV.encode(), "x"), owner=Owner(OwnerKind.GUILD, GUILD))
        assert (again.credentials, again.already_done) == (0, 4)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("OPENAI_API_KEY=${OTHER}", "refers to another variable"),
        ("OPENAI_API_KEY=sk-${ORG:-x}-abc", "refers to another variable"),
        ("OPENAI_API_KEY=" + "xyz" * 25_000, "longer than 64 KiB"),
        (f"this is {OPENAI}", "is not NAME=value"),
        ("OPENAI_API_KEY=Bearer abcdefghijklmnopqrstuvwxyz", "key alone"),
    ],
)
async def test_a_broken_line_is_named_without_its_value(sqlite_url: str, tmp_path: Path, line: str, why: str) -> None:
    place = await Place(sqlite_url, tmp_path / "data").install()
    async with place.services() as services:
        operator = await services.identity.operator()
        with pytest.raises(ImportStopped, match=why) as stopped:
            await services.imports.run(operator, env_file(line.encode(), ".env"), owner=Owner(OwnerKind.GUILD, GUILD))
        assert ".env: line 1" in str(stopped.value)
        assert line[-20:] not in str(stopped.value)
