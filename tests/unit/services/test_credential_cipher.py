"""Re-encryption in bulk: the same places, the same checks, the same secret afterwards."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from app.domain.encrypted_columns import (
    CREDENTIAL_SECRETS,
    ENCRYPTED_COLUMNS,
    FORMER_SECRETS,
    EncryptedColumn,
    EncryptedRow,
    Reencrypted,
)
from app.domain.errors import NotReady
from app.domain.identity import Client, Role, Source
from app.domain.keys import KeyName
from tests.support.keyhall import Keyhall, member
from tests.support.samples import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.fakes import FakeClock, FakeStorage

SECRETS = ["sk-proj-4f9aTq7ZbX2mLw8vKd3Yc6Rn", "schlüssel-Hn5sPw1JxU8eQg2Bt7Vf4Mz9"]


@pytest.fixture
async def filled(keyhall: Keyhall, clock: FakeClock) -> Keyhall:
    """Two credentials with a former secret each, and the pending second factors of two users, encrypted by key version
    1; version 2 is the primary.
    """
    mia = member(clock)
    for number, secret in enumerate(SECRETS):
        view = (await keyhall.credentials.add(mia, provider="openai", label=f"key {number}", secret="former")).view
        await keyhall.credentials.replace(mia, view.id, expected_version=1, secret=secret)
    for name in ("mia", "bob"):
        operator, client = await keyhall.services.identity.operator(), Client(source=Source.WEB)
        await keyhall.services.identity.create(operator, name, PASSWORD, Role.MEMBER)
        pair = await keyhall.services.authentication.login(name, PASSWORD, client)
        someone = await keyhall.services.requests.authenticate(pair.access_token.reveal(), client)
        await keyhall.services.second_factor.start(someone)
    await keyhall.rotate(KeyName.AES_KEY)
    return keyhall


async def rows(storage: FakeStorage, column: EncryptedColumn) -> Sequence[EncryptedRow]:
    async with storage.read() as uow:
        return await uow.encrypted_rows.all(column, after=None, limit=100)


async def swap(storage: FakeStorage, column: EncryptedColumn, resealed: Sequence[Reencrypted | None]) -> None:
    async with storage.write() as uow:
        await uow.encrypted_rows.swap(column, [each for each in resealed if each is not None])


@pytest.mark.parametrize("column", ENCRYPTED_COLUMNS, ids=str)
async def test_what_was_resealed_is_under_the_primary_and_opens(
    filled: Keyhall, storage: FakeStorage, column: EncryptedColumn
) -> None:
    cipher = filled.cipher
    before = await rows(storage, column)
    assert {row.key_version for row in before} == {1}
    async with storage.write() as uow:
        primary = (await filled.keys.ring_under_lock(uow)).primary(KeyName.AES_KEY)
    await swap(storage, column, cipher.reencrypt(column, before, primary))
    after = await rows(storage, column)
    assert {row.key_version for row in after} == {primary.version} == {2}
    assert [row._replace(key_version=0, value=b"") for row in after] == [
        row._replace(key_version=0, value=b"") for row in before
    ]
    assert cipher.opened_by(column, after) == [primary.version] * len(SECRETS)
    await filled.destroy_former(KeyName.AES_KEY)
    assert cipher.opened_by(column, after) == [primary.version] * len(SECRETS)
    assert cipher.opened_by(column, before) == [None] * len(SECRETS)


async def test_the_secrets_are_the_same_afterwards(filled: Keyhall, storage: FakeStorage) -> None:
    async with storage.write() as uow:
        primary = (await filled.keys.ring_under_lock(uow)).primary(KeyName.AES_KEY)
    for column in ENCRYPTED_COLUMNS:
        await swap(storage, column, filled.cipher.reencrypt(column, await rows(storage, column), primary))
    await filled.destroy_former(KeyName.AES_KEY)
    records = list(storage.tables.credentials.values())
    assert sorted(filled.cipher.decrypt(record) for record in records) == sorted(SECRETS)
    owner = records[0].owner
    assert {filled.cipher.decrypt_former(each, owner) for each in storage.tables.history.values()} == {"former"}
    secrets = [filled.cipher.decrypt_totp(each) for each in storage.tables.factors.values()]
    assert [len(each) for each in secrets] == [20, 20]


async def test_a_row_that_does_not_open_is_told_and_holds_up_no_other(filled: Keyhall, storage: FakeStorage) -> None:
    one, other = await rows(storage, CREDENTIAL_SECRETS)
    async with storage.write() as uow:
        primary = (await filled.keys.ring_under_lock(uow)).primary(KeyName.AES_KEY)
    mixed = [one._replace(owner_id="somebody"), other, one._replace(value=b""), one._replace(value=other.value)]
    resealed = filled.cipher.reencrypt(CREDENTIAL_SECRETS, mixed, primary)
    assert [each is not None for each in resealed] == [False, True, False, False]
    assert filled.cipher.opened_by(CREDENTIAL_SECRETS, mixed) == [None, 1, None, None]


async def test_a_value_opens_in_its_own_column_only(filled: Keyhall, storage: FakeStorage) -> None:
    for column, other in ((CREDENTIAL_SECRETS, FORMER_SECRETS), (FORMER_SECRETS, CREDENTIAL_SECRETS)):
        assert set(filled.cipher.opened_by(other, await rows(storage, column))) == {None}


async def test_what_sealed_a_row_is_told_by_its_envelope_alone(filled: Keyhall, storage: FakeStorage) -> None:
    """A row that lies about it is not picked up by a re-encryption, and retirement would lose it."""
    row = (await rows(storage, CREDENTIAL_SECRETS))[0]
    assert filled.cipher.opened_by(CREDENTIAL_SECRETS, [row, row._replace(key_version=2)]) == [1, 1]


async def test_stale_keys_reseal_and_verify_nothing(filled: Keyhall, storage: FakeStorage, clock: FakeClock) -> None:
    found = await rows(storage, CREDENTIAL_SECRETS)
    async with storage.write() as uow:
        primary = (await filled.keys.ring_under_lock(uow)).primary(KeyName.AES_KEY)
    clock.advance(timedelta(minutes=1))
    with pytest.raises(NotReady):
        filled.cipher.reencrypt(CREDENTIAL_SECRETS, found, primary)
    with pytest.raises(NotReady):
        filled.cipher.opened_by(CREDENTIAL_SECRETS, found)
