"""Imports of legacy tables, out of both engines."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from app.domain.credentials import Owner, OwnerKind
from app.domain.imports import ImportReport, ImportStopped
from app.domain.secrets import SecretText
from app.infrastructure.database.legacy import legacy_database
from app.services import Services
from app.services.imports.tables import legacy_tables
from tests.support.installs import Place

KEY = Fernet.generate_key()
OPENAI = "sk-proj-" + "aB3dE6gH9jK2mN5p" * 3
ANTHROPIC = "sk-ant-api03-" + "zY8xW5vU2tS9rQ6p" * 3
GROQ = "gsk_" + "a1B2c3D4" * 6
GUILD = Owner(OwnerKind.GUILD, "900000000000000001")


def fernet(secret: str) -> str:
    return Fernet(KEY).encrypt(secret.encode()).decode()


def gcm(secret: str) -> bytes:
    nonce = b"twelve bytes"
    return nonce + AESGCM(base64.urlsafe_b64decode(KEY)).encrypt(nonce, secret.encode(), None)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def old_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of the other program's database."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'an old.db'}"
    else:
        with request.getfixturevalue("postgres_server").database() as url:
            yield url


@pytest.fixture
async def place(sqlite_url: str, tmp_path: Path) -> Place:
    return await Place(sqlite_url, tmp_path / "data").install()


async def execute(url: str, *statements: str, **values: object) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for each in statements:
            used = {name: value for name, value in values.items() if f":{name}" in each}
            await connection.execute(text(each), used)
    await engine.dispose()


async def imported(
    services: Services, url: str, *, owner: Owner | None = None, skip_broken: bool = False
) -> ImportReport:
    async with legacy_database(url) as database:
        source = await legacy_tables(database)
    operator = await services.identity.operator()
    return await services.imports.run(
        operator, source, owner=owner, key=SecretText(KEY.decode()), skip_broken=skip_broken
    )


async def test_both_kinds_of_tables_are_imported_once_and_stay_as_they_are(place: Place, old_url: str) -> None:
    blob = "BYTEA" if "postgresql" in old_url else "BLOB"
    await execute(
        old_url,
        "CREATE TABLE users (id INTEGER PRIMARY KEY, username VARCHAR(80), api_keys JSON)",
        f"CREATE TABLE api_credentials (id INT PRIMARY KEY, user_id INT, platform TEXT, encrypted_value {blob})",
        "INSERT INTO users VALUES (1, 'anna', :keys), (2, 'bob', NULL)",
        "INSERT INTO api_credentials VALUES (7, 2, 'anthropic', :token), (8, 2, 'groq', :sealed)",
        "INSERT INTO api_credentials VALUES (9, NULL, 'groq', :token)",
        keys=json.dumps({"openai": fernet(OPENAI), "groq": ""}),
        token=fernet(ANTHROPIC).encode(),
        sealed=gcm(GROQ),
    )
    async with place.services() as services:
        with pytest.raises(ImportStopped, match=r"api_credentials\[9\].encrypted_value: names no owner"):
            await imported(services, old_url)
        done = await imported(services, old_url, owner=GUILD)
        assert (done.users, done.credentials, done.already_done) == (2, 4, 0)
        assert [each.where for each in done.skipped] == ["users[1].api_keys.groq"]
        assert {each.username for each in done.claim_links} == {"anna", "bob"}
        bob = await services.identity.operator_for(username="bob")
        page = await services.credentials.page(bob)
        found = {each.provider: (await services.credentials.reveal(bob, each.id)).reveal() for each in page.items}
        assert found == {"anthropic": ANTHROPIC, "groq": GROQ}
        assert (await imported(services, old_url, owner=GUILD)).already_done == 4
    await execute(old_url, "SELECT * FROM users", "DELETE FROM users WHERE id = 2")  # it is not locked


async def test_a_row_that_does_not_open_is_named(place: Place, old_url: str) -> None:
    await execute(
        old_url,
        "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT)",
        "CREATE TABLE api_credentials (id TEXT PRIMARY KEY, user_id INTEGER, service TEXT, encrypted_value TEXT)",
        "INSERT INTO users VALUES (1, 'anna@example.org')",
        "INSERT INTO api_credentials VALUES ('a', 1, 'openai', :value), ('b', 5, 'openai', :other)",
        value=Fernet(Fernet.generate_key()).encrypt(OPENAI.encode()).decode(),
        other=fernet(OPENAI),
    )
    async with place.services() as services:
        with pytest.raises(ImportStopped) as stopped:
            await imported(services, old_url)
        assert "api_credentials[a].encrypted_value: is encrypted with Fernet, and no given key" in str(stopped.value)
        assert "api_credentials[b].encrypted_value: belongs to an account that the database does not" in str(
            stopped.value
        )
        done = await imported(services, old_url, skip_broken=True)
        assert (done.users, done.credentials, len(done.skipped)) == (1, 0, 2)


async def test_a_database_that_holds_no_keys_or_cannot_be_read_is_refused(
    place: Place, old_url: str, tmp_path: Path
) -> None:
    await execute(old_url, "CREATE TABLE users (id INTEGER PRIMARY KEY, username TEXT)")
    (tmp_path / "no.db").write_bytes(b"no database" * 1000)
    refused = {
        old_url: "has neither users.api_keys nor",
        place.url: "is a database of Keyhall",
        f"sqlite:///{tmp_path / 'none.db'}": "is not there",
        f"sqlite:///{tmp_path / 'no.db'}": "SQLITE_NOTADB",
        "postgresql+psycopg2://me:se-cret@127.0.0.1:9/x": "ECONNREFUSED",
        "mysql://me:se-cret@127.0.0.1/x": "must begin with",
        "nonsense:se-cret": "must be a URL",
    }
    for url, why in refused.items():
        with pytest.raises(ImportStopped, match=why) as stopped:
            async with legacy_database(url) as database:
                await legacy_tables(database)
        assert "se-cret" not in str(stopped.value)


async def test_the_old_database_cannot_be_written_to(old_url: str) -> None:
    await execute(old_url, "CREATE TABLE users (id INTEGER PRIMARY KEY, username TEXT, api_keys TEXT)")
    with pytest.raises(ImportStopped):
        async with legacy_database(old_url) as database:
            await database._connection.execute(text("DELETE FROM users"))
