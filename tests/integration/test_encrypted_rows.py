"""Every encrypted column is known, and is read and swapped in bulk without touching anything else."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import LargeBinary, inspect, select

from app.domain.credentials import Owner, OwnerKind
from app.domain.encrypted_columns import (
    CREDENTIAL_SECRETS,
    ENCRYPTED_COLUMNS,
    FORMER_SECRETS,
    TOTP_SECRETS,
    EncryptedColumn,
    EncryptedRow,
    Reencrypted,
)
from app.domain.second_factor import TotpFactor
from app.infrastructure.database.schema import metadata
from tests.support.database import ALICE, NOW, credential, former, user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from app.infrastructure.database.engine import Database
    from app.infrastructure.database.unit_of_work import SqlStorage
    from app.services.ports import Storage

GUILD = Owner(OwnerKind.GUILD, "900000000000000001")
LATER = NOW + timedelta(hours=1)

# Hashes, MACs, audit seals and public keys: nothing that a key decrypts.
NOT_SEALED = {
    ("sessions", "cookie_hash"),
    ("refresh_tokens", "token_hash"),
    ("audit_events", "seal"),
    ("audit_segments", "mac"),
    ("idempotency_keys", "mac"),
    ("imported_entries", "mark"),
    ("one_time_links", "token_hash"),
    ("passkeys", "credential_id"),
    ("passkeys", "public_key"),
    ("spent_tickets", "ticket_hash"),
    ("recovery_codes", "code_hash"),
    ("api_tokens", "mac"),
}


async def test_every_binary_column_is_sealed_or_known_not_to_be(database: Database) -> None:
    """Read from the migrated schema: an envelope that re-encryption misses is lost with its key."""

    def binary(connection: Connection) -> set[tuple[str, str]]:
        catalogue = inspect(connection)
        return {
            (table, column["name"])
            for table in catalogue.get_table_names()
            for column in catalogue.get_columns(table)
            if isinstance(column["type"], LargeBinary)
        }

    async with database.dialect.reader.connect() as connection:
        found = await connection.run_sync(binary)
    assert found == NOT_SEALED | {(each.table, each.field) for each in ENCRYPTED_COLUMNS}


def test_the_schema_marks_the_same_columns() -> None:
    marked = {
        (table.name, column.name)
        for table in metadata.tables.values()
        for column in table.columns
        if column.info.get("encrypted")
    }
    assert marked == {(each.table, each.field) for each in ENCRYPTED_COLUMNS}


async def fill(storage: Storage) -> None:
    """Four credentials under the versions 1, 2, 1, 1, the third removed, the last a guild's; three former secrets.

    Besides, the second factors of four users, under the versions 1, 2, 1, 1, the third pending.
    """
    async with storage.write() as unit:
        for number, version in enumerate((1, 2, 1, 1)):
            person = user(f"user {number}")
            await unit.users.add(person)
            factor = TotpFactor(
                id=f"t{number}",
                user_id=person.id,
                encrypted_secret=b"totp \x00",
                key_version=version,
                created_at=NOW,
                confirmed_at=None if number == 2 else NOW,
            )
            await unit.factors.start(factor)
        for number, version in enumerate((1, 2, 1)):
            record = replace(credential(f"c{number}", label=f"label {number}"), key_version=version)
            await unit.credentials.add(replace(record, deleted_at=NOW if number == 2 else None))
        await unit.credentials.add(replace(credential("c3", owner=GUILD), key_version=1))
        for version, owner in enumerate(("c0", "c3", "c3"), start=1):
            await unit.credentials.add_history(former(version, credential_id=owner))


async def batch(storage: Storage, column: EncryptedColumn, after: str | None = None, limit: int = 10) -> Sequence[Any]:
    async with storage.read() as unit:
        return await unit.encrypted_rows.batch(column, primary=2, after=after, limit=limit)


async def swap(storage: Storage, column: EncryptedColumn, rows: Sequence[Reencrypted]) -> int:
    async with storage.write() as unit:
        return await unit.encrypted_rows.swap(column, rows)


async def test_a_batch_holds_what_the_primary_did_not_seal(storage: Storage) -> None:
    await fill(storage)
    value = credential().encrypted_value
    alices = ("user", ALICE.id)
    assert await batch(storage, CREDENTIAL_SECRETS) == [
        EncryptedRow("c0", *alices, 1, 1, value),
        EncryptedRow("c2", *alices, 1, 1, value),
        EncryptedRow("c3", "guild", GUILD.id, 1, 1, value),
    ]
    assert [each.id for each in await batch(storage, CREDENTIAL_SECRETS, limit=2)] == ["c0", "c2"]
    assert [each.id for each in await batch(storage, CREDENTIAL_SECRETS, after="c0", limit=1)] == ["c2"]
    assert await batch(storage, CREDENTIAL_SECRETS, after="c3") == []


async def test_a_former_secret_has_the_owner_of_its_credential(storage: Storage) -> None:
    await fill(storage)
    assert await batch(storage, FORMER_SECRETS) == [
        EncryptedRow("c0/1", "user", ALICE.id, 1, 1, b"former \x00"),
        EncryptedRow("c3/2", "guild", GUILD.id, 2, 1, b"former \x00"),
        EncryptedRow("c3/3", "guild", GUILD.id, 3, 1, b"former \x00"),
    ]


async def test_a_second_factor_has_the_owner_of_its_account(storage: Storage) -> None:
    await fill(storage)
    assert await batch(storage, TOTP_SECRETS) == [
        EncryptedRow(f"t{number}", "user", f"user-user {number}", 1, 1, b"totp \x00") for number in (0, 2, 3)
    ]


async def test_all_rows_are_told_page_by_page_and_counted(storage: Storage) -> None:
    await fill(storage)
    async with storage.read() as unit:
        first = await unit.encrypted_rows.all(CREDENTIAL_SECRETS, after=None, limit=3)
        second = await unit.encrypted_rows.all(CREDENTIAL_SECRETS, after=first[-1].id, limit=3)
        assert [(each.id, each.key_version) for each in [*first, *second]] == [
            ("c0", 1),
            ("c1", 2),
            ("c2", 1),
            ("c3", 1),
        ]
        assert await unit.encrypted_rows.counts(CREDENTIAL_SECRETS) == {1: 3, 2: 1}
        assert await unit.encrypted_rows.counts(FORMER_SECRETS) == {1: 3}
        assert await unit.encrypted_rows.counts(TOTP_SECRETS) == {1: 3, 2: 1}


@pytest.mark.parametrize("column", ENCRYPTED_COLUMNS, ids=str)
async def test_a_swap_changes_envelope_and_key_version_and_nothing_else(
    database: Database, sql: SqlStorage, column: EncryptedColumn
) -> None:
    await fill(sql)
    table = metadata.tables[column.table]

    async def contents() -> dict[str, dict[str, Any]]:
        async with database.read() as connection:
            return {row.id: dict(row._mapping) for row in await connection.rows(select(table))}

    before = await contents()
    new = [Reencrypted(row, 0xFFFF_FFFF, b"\x00\xff " + row.id.encode()) for row in await batch(sql, column)]
    assert await swap(sql, column, new) == 3
    changes = {each.row.id: {column.field: each.value, "key_version": 0xFFFF_FFFF} for each in new}
    assert await contents() == {key: row | changes.get(key, {}) for key, row in before.items()}


async def test_a_swap_leaves_what_changed_since_it_was_read(storage: Storage) -> None:
    """A new label, a new secret, a re-encryption by somebody else, and a row that went: each would be overwritten."""
    await fill(storage)
    rows = {row.id: row for row in await batch(storage, CREDENTIAL_SECRETS)}
    async with storage.write() as unit:
        await unit.credentials.change("c0", expected_version=1, label="Other", expires_at=None, at=LATER)
        await unit.encrypted_rows.swap(CREDENTIAL_SECRETS, [Reencrypted(rows["c3"], 2, b"theirs")])
        await unit.credentials.purge_removed(LATER)  # c2
        before = [await unit.credentials.get(key) for key in ("c0", "c2", "c3")]
    assert await swap(storage, CREDENTIAL_SECRETS, [Reencrypted(row, 2, b"ours") for row in rows.values()]) == 0
    async with storage.read() as unit:
        assert [await unit.credentials.get(key) for key in ("c0", "c2", "c3")] == before
    again = await batch(storage, CREDENTIAL_SECRETS)
    assert await swap(storage, CREDENTIAL_SECRETS, [Reencrypted(row, 2, b"ours") for row in again]) == 1


async def test_a_swap_of_nothing_swaps_nothing(storage: Storage) -> None:
    assert await swap(storage, CREDENTIAL_SECRETS, []) == 0


async def test_a_swap_takes_thousands_of_rows_at_once(storage: Storage) -> None:
    """More than either engine takes parameters of one statement."""
    async with storage.write() as unit:
        await unit.credentials.add(replace(credential("last"), key_version=1))
    row = (await batch(storage, CREDENTIAL_SECRETS))[0]
    many = [Reencrypted(row._replace(id=f"unknown {number}"), 2, b"x") for number in range(40_000)]
    assert await swap(storage, CREDENTIAL_SECRETS, [*many, Reencrypted(row, 2, b"ours")]) == 1


def test_no_row_shows_its_envelope() -> None:
    row = EncryptedRow("c0", "user", "alice", 1, 1, b"envelope")
    assert "envelope" not in repr(row) + str(Reencrypted(row, 2, b"another envelope"))
