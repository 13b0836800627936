"""What whoever can write the database, and no more, can do to secrets and keys: make them unreadable, never wrong.

A secret that was changed, cut or moved is shown as unreadable and takes no other with it; a key that was halts the
start. Most cases run in a transaction that nobody else sees and that is undone; samples of them are committed and go
through the services and over HTTP.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from sqlalchemy import Column, literal_column, select, update

from app.bootstrap.database import key_management
from app.domain.credentials import CredentialView, Owner, OwnerKind, Status
from app.domain.errors import (
    CredentialUnreadable,
    CryptoError,
    InstallMismatch,
    KeyDamaged,
    KeyMissing,
    NotFound,
    StartupError,
)
from app.domain.identity import Actor, GuildContext, Role, Source, User
from app.domain.keys import KeyName
from app.domain.second_factor import TotpFactor
from app.domain.secrets import SecretBytes
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.crypto.derive import Derivation
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.infrastructure.database.engine import Connection, Database, open_database
from app.infrastructure.database.schema import api_credentials, app_config, credential_history, metadata, totp_factors
from app.infrastructure.database.unit_of_work import SqlStorage, SqlUnitOfWork
from app.services import Services
from app.services.credentials import CredentialCipher, CredentialTransfer
from app.services.keys import KeyManagementService
from app.settings import DatabaseUrl
from tests.support.fakes import FakeStorage
from tests.support.installs import Place
from tests.support.keyhall import member
from tests.support.snapshots import InstallSnapshot, kind
from tests.support.web import open_site

CLOCK = SystemClock()
GUILD, OTHER_GUILD = "123456789012345678", "876543210987654321"
MASTER_KEY = "ab" * 32
UNREADABLE = "•" * 8

ENCRYPTED = [
    column for table in metadata.sorted_tables for column in table.columns if column.info.get("encrypted", False)
]
"""Every column that holds envelopes, as the schema marks them."""


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


class _Undone(Exception):
    """Ends a transaction without a trace."""


@asynccontextmanager
async def _undone(database: Database) -> AsyncIterator[Connection]:
    """A transaction in which everything may be broken: nobody else sees it, and it never commits."""
    with suppress(_Undone):
        async with database.write() as connection:
            yield connection
            raise _Undone


# ---------------------------------------------------------------------------------------------------------------------
# Secrets
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cell:
    """An encrypted value at rest: where it stands, whose it is, and what it opens to."""

    column: Column[Any]
    row_id: str
    credential_id: str
    owner: Owner
    value: bytes
    key_version: int
    secret: str


@dataclass(frozen=True, kw_only=True)
class Install:
    """An install with secrets of two members and two guilds, present and former, under two versions of AES_KEY."""

    place: Place
    services: Services
    database: Database
    cipher: CredentialCipher
    alice: Actor
    bob: Actor
    cells: list[Cell]

    def cell(self, label: str, column: Column[Any] = api_credentials.c.encrypted_value) -> Cell:
        """The cell whose secret ends with that label."""
        return next(each for each in self.cells if each.column is column and each.secret.endswith(f"-{label}"))

    async def opened(self, connection: Connection, cell: Cell) -> str | None:
        """What the cell opens to in this transaction, or None; any other error than the one for that gets through."""
        read = READERS[str(cell.column)]
        try:
            return await read(self, connection, cell.row_id)
        except CryptoError:
            return None

    async def unreadable(self, connection: Connection) -> set[str]:
        """The secrets that do not open in this transaction; what opens must open to what was stored."""
        lost = set()
        for cell in self.cells:
            opened = await self.opened(connection, cell)
            assert opened in {None, cell.secret}
            if opened is None:
                lost.add(cell.secret)
        return lost


async def _read_live(install: Install, connection: Connection, row_id: str) -> str:
    record = await SqlUnitOfWork(connection, SystemRandomness()).credentials.get(row_id)
    assert record is not None
    return install.cipher.decrypt(record)


async def _read_former(install: Install, connection: Connection, row_id: str) -> str:
    columns = credential_history.c
    credential_id = await connection.value(select(columns.credential_id).where(columns.id == row_id))
    uow = SqlUnitOfWork(connection, SystemRandomness())
    record = await uow.credentials.get(credential_id)
    assert record is not None
    former = next(each for each in await uow.credentials.history(record.id) if each.id == row_id)
    return install.cipher.decrypt_former(former, record.owner)


async def _read_totp(install: Install, connection: Connection, row_id: str) -> str:
    user_id = await connection.value(select(totp_factors.c.user_id).where(totp_factors.c.id == row_id))
    factor = await SqlUnitOfWork(connection, SystemRandomness()).factors.get(user_id)
    assert factor is not None
    return install.cipher.decrypt_totp(factor).reveal().decode()


READERS = {
    "api_credentials.encrypted_value": _read_live,
    "credential_history.encrypted_value": _read_former,
    "totp_factors.encrypted_secret": _read_totp,
}
"""How each encrypted column is read: a new one is not covered before it stands here."""


def _where(cell: Cell) -> Any:
    return cell.column.table.c.id == cell.row_id


async def _put(connection: Connection, cell: Cell, value: bytes, **more: Any) -> None:
    changed = await connection.change(
        update(cell.column.table).where(_where(cell)).values({cell.column.name: value, **more})
    )
    assert changed == 1


async def _commit(install: Install, cell: Cell, value: bytes) -> None:
    async with install.database.write() as connection:
        await _put(connection, cell, value)


async def _register(database: Database, actor: Actor) -> Actor:
    """The actor, as a user whom the trail can name."""
    now = CLOCK.now()
    async with SqlStorage(database).write() as uow:
        await uow.users.add(
            User(
                id=actor.user_id,
                subject_id=actor.subject_id or "",
                username=actor.username,
                role=actor.role,
                created_at=now,
            )
        )
    return actor


def _secret(label: str) -> str:
    return f"sk-proj-4f9aTq7ZbX2mLw8v-{label}"


async def _add(
    services: Services, actor: Actor, label: str, *, provider: str = "openai", guild_id: str | None = None
) -> CredentialView:
    added = await services.credentials.add(
        actor, provider=provider, label=label, secret=_secret(label), guild_id=guild_id
    )
    return added.view


async def _enrol(services: Services, database: Database, actor: Actor) -> None:
    """Give the actor a second factor, whose secret is a text that names it among the cells."""
    factor_id = SystemRandomness().new_id()
    cipher = CredentialCipher(keys=services.keys, envelope=AesGcmEnvelope(SystemRandomness()), derivation=Derivation())
    async with SqlStorage(database).write() as uow:
        primary = (await services.keys.ring_under_lock(uow)).primary(KeyName.AES_KEY)
        secret = SecretBytes(_secret(f"code-{actor.username}").encode())
        factor = TotpFactor(
            id=factor_id,
            user_id=actor.user_id,
            encrypted_secret=cipher.encrypt_totp(secret, factor_id, actor.user_id, primary),
            key_version=primary.version,
            created_at=CLOCK.now(),
        )
        assert await uow.factors.start(factor)
        assert await uow.factors.confirm(factor_id, 1, CLOCK.now())


async def _cells(database: Database, cipher: CredentialCipher) -> list[Cell]:
    """Every encrypted value that is stored, found by the schema's marks alone."""
    cells = []
    storage = SqlStorage(database)
    async with storage.read() as uow:
        records = {each.id: each for each in await uow.credentials.page(after=None, limit=100)}
        secrets = {each.id: cipher.decrypt(each) for each in records.values()}
        for record in records.values():
            for former in await uow.credentials.history(record.id):
                secrets[former.id] = cipher.decrypt_former(former, record.owner)
        owners = {each.id: each.owner for each in records.values()}
        for user in await uow.users.page(after=None, limit=100):
            if factor := await uow.factors.get(user.id):
                secrets[factor.id] = cipher.decrypt_totp(factor).reveal().decode()
                owners[factor.id] = Owner(OwnerKind.USER, user.id)
    async with database.read() as connection:
        for column in ENCRYPTED:
            table = column.table
            credential_id = table.c.get("credential_id", table.c.id)
            rows = await connection.rows(select(table.c.id, credential_id, column, table.c.key_version))
            cells += [
                Cell(
                    column=column,
                    row_id=row[0],
                    credential_id=row[1],
                    owner=owners[row[1]],
                    value=row[2],
                    key_version=row[3],
                    secret=secrets[row[0]],
                )
                for row in rows
            ]
    return cells


async def _furnish(place: Place) -> None:
    async with place.services() as services, open_database(DatabaseUrl.parse(place.url), may_create=False) as database:
        alice = await _register(database, member(CLOCK, "alice"))
        bob = await _register(database, member(CLOCK, "bob"))
        boss = await _register(database, member(CLOCK, "boss", role=Role.OWNER))
        credentials = services.credentials
        one = await _add(services, alice, "one-first")
        await _add(services, alice, "two", provider="github")
        await credentials.replace(alice, one.id, _secret("one-second"))
        await _add(services, boss, "guild", guild_id=GUILD)
        await _enrol(services, database, alice)
        await place.revoke(KeyName.AES_KEY)
        await services.keys.reload()
        await credentials.replace(alice, one.id, _secret("one"))
        bobs = await _add(services, bob, "bob-first")
        await credentials.replace(bob, bobs.id, _secret("bob"))
        await _add(services, boss, "other-guild", guild_id=OTHER_GUILD)
        await _enrol(services, database, bob)
        await _enrol(services, database, boss)


@asynccontextmanager
async def _open_hall(place: Place) -> AsyncIterator[Install]:
    async with place.services() as services, open_database(DatabaseUrl.parse(place.url), may_create=False) as database:
        # Keys of its own, confirmed for ever: those of the services lapse while a case keeps the database to itself.
        keys = key_management(place.load(), SqlStorage(database))
        await keys.initialize(may_create=False)
        keys.confirm(math.inf)
        cipher = CredentialCipher(keys=keys, envelope=AesGcmEnvelope(SystemRandomness()), derivation=Derivation())
        yield Install(
            place=place,
            services=services,
            database=database,
            cipher=cipher,
            alice=member(CLOCK, "alice"),
            bob=member(CLOCK, "bob"),
            cells=await _cells(database, cipher),
        )


_FURNISHED: dict[str, InstallSnapshot] = {}


@asynccontextmanager
async def _copied_hall(place: Place) -> AsyncIterator[Install]:
    """The first hall of its kind is furnished, the others are copies of it."""
    if kind(place.url) in _FURNISHED:
        await _FURNISHED[kind(place.url)].copy(place.url, place.data_dir)
    else:
        await _furnish(place)
        _FURNISHED[kind(place.url)] = InstallSnapshot.of(place.url, place.data_dir)
    async with _open_hall(place) as install:
        yield install


@pytest.fixture
async def install(place: Place) -> AsyncIterator[Install]:
    async with _copied_hall(place) as install:
        yield install


async def test_the_matrix_covers_every_encrypted_column(install: Install) -> None:
    assert {str(column) for column in ENCRYPTED} == READERS.keys()
    assert {str(cell.column) for cell in install.cells} == READERS.keys()
    assert {cell.key_version for cell in install.cells} == {1, 2}
    secrets = [cell.secret for cell in install.cells]
    assert len(secrets) == len(set(secrets)) == 11
    async with _undone(install.database) as connection:
        assert await install.unreadable(connection) == set()


def _damages(value: bytes) -> Iterator[bytes]:
    for position in range(len(value)):
        mask = 0x01 if position % 2 else 0x80
        yield value[:position] + bytes([value[position] ^ mask]) + value[position + 1 :]
    for length in range(len(value)):
        yield value[:length]
    yield from (value[1:], value + b"\0", b"\0" + value, value + value)


@pytest.mark.parametrize("column", ENCRYPTED, ids=str)
async def test_no_changed_byte_and_no_truncation_opens(install: Install, column: Column[Any]) -> None:
    tried = 0
    for cell in install.cells:
        if cell.column is not column:
            continue
        async with _undone(install.database) as connection:
            for damaged in _damages(cell.value):
                await _put(connection, cell, damaged)
                assert await install.opened(connection, cell) is None, damaged
                tried += 1
            assert await install.unreadable(connection) == {cell.secret}
            await _put(connection, cell, cell.value)
            assert await install.unreadable(connection) == set()
    assert tried >= 500


def _relations(one: Cell, other: Cell) -> Iterator[str]:
    """What a swap of the two stands for."""
    if one.column is other.column:
        yield "the same table"
    else:
        factor = totp_factors.c.encrypted_secret in {one.column, other.column}
        yield "a credential and a second factor" if factor else "live and former"
    yield "one row and its history" if one.credential_id == other.credential_id else "two credentials"
    if one.owner == other.owner:
        yield "the same owner"
    else:
        yield " and ".join(sorted({one.owner.kind.value, other.owner.kind.value}))
    yield "the same key version" if one.key_version == other.key_version else "two key versions"


@pytest.mark.parametrize("with_key_version", [False, True], ids=["value", "value-and-key-version"])
async def test_no_two_values_can_be_swapped(install: Install, with_key_version: bool) -> None:  # noqa: FBT001 - a parameter
    relations: set[str] = set()
    async with _undone(install.database) as connection:
        for one, other in combinations(install.cells, 2):
            relations.update(_relations(one, other))
            for target, source in ((one, other), (other, one)):
                more = {"key_version": source.key_version} if with_key_version else {}
                await _put(connection, target, source.value, **more)
            assert await install.opened(connection, one) is None
            assert await install.opened(connection, other) is None
            for cell in (one, other):
                await _put(connection, cell, cell.value, key_version=cell.key_version)
        assert await install.unreadable(connection) == set()
    assert relations == {
        *(
            "the same table",
            "live and former",
            "a credential and a second factor",
            "one row and its history",
            "two credentials",
        ),
        *("the same owner", "user", "guild", "guild and user", "the same key version", "two key versions"),
    }


async def test_a_value_of_another_install_does_not_open(install: Install, tmp_path: Path) -> None:
    elsewhere = Place(f"sqlite+aiosqlite:///{tmp_path / 'elsewhere.db'}", tmp_path / "elsewhere")
    await _furnish(elsewhere)
    async with _open_hall(elsewhere) as other, _undone(install.database) as connection:
        for mine in install.cells:
            theirs = other.cell(mine.secret.removeprefix(_secret("")), mine.column)
            await _put(connection, mine, theirs.value, key_version=theirs.key_version)
        assert await install.unreadable(connection) == {cell.secret for cell in install.cells}


async def test_the_key_version_beside_a_value_decides_nothing(install: Install) -> None:
    """The envelope names its version itself, authenticated; the column is only what a rotation looks for."""
    async with _undone(install.database) as connection:
        for cell in install.cells:
            for version in (0, 1, 2, 3, 2**32):
                await _put(connection, cell, cell.value, key_version=version)
                assert await install.opened(connection, cell) == cell.secret


NEW_ID = "01999f00-0000-7000-8000-000000000001"


async def _change(connection: Connection, cell: Cell, **values: Any) -> None:
    assert await connection.change(update(cell.column.table).where(_where(cell)).values(values)) == 1


async def test_a_row_given_to_somebody_else_opens_for_nobody_and_neither_does_its_history(install: Install) -> None:
    one, bob, guild = install.cell("one"), install.cell("bob"), install.cell("guild")
    lost = {_secret("one"), _secret("one-first"), _secret("one-second")}
    for owner in (
        bob.owner,
        guild.owner,
        Owner(OwnerKind.GUILD, one.owner.id),
        Owner(OwnerKind.USER, GUILD),
        Owner(OwnerKind.USER, one.owner.id + " "),
        Owner(OwnerKind.USER, ""),
    ):
        async with _undone(install.database) as connection:
            await _change(connection, one, owner_kind=owner.kind, owner_id=owner.id, label_key="taken away")
            assert await install.unreadable(connection) == lost, owner
    async with _undone(install.database) as connection:
        await _change(connection, guild, owner_id=OTHER_GUILD)
        assert await install.unreadable(connection) == {guild.secret}


async def test_a_row_under_another_id_does_not_open(install: Install) -> None:
    two, former = install.cell("two"), install.cell("bob-first", credential_history.c.encrypted_value)
    async with _undone(install.database) as connection:
        await _change(connection, two, id=NEW_ID)
        with pytest.raises(CryptoError):
            await _read_live(install, connection, NEW_ID)
        await _change(connection, former, id=NEW_ID)
        with pytest.raises(CryptoError):
            await _read_former(install, connection, NEW_ID)


async def test_a_former_value_does_not_open_under_the_credential_of_another_owner(install: Install) -> None:
    former = install.cell("one-first", credential_history.c.encrypted_value)
    for target in (install.cell("bob"), install.cell("guild")):
        async with _undone(install.database) as connection:
            await _change(connection, former, credential_id=target.credential_id, version=7)
            assert await install.unreadable(connection) == {former.secret}


async def test_not_promised_that_provider_label_or_place_in_the_history_of_one_owner_are_bound(
    install: Install,
) -> None:
    """The envelope binds row and owner (KEYS: AAD). What stands beside it is as trustworthy as the database."""
    one, two = install.cell("one"), install.cell("two")
    former = install.cell("one-first", credential_history.c.encrypted_value)
    async with _undone(install.database) as connection:
        await _change(connection, one, provider="another", label="another", label_key="another", version=9)
        await _change(connection, former, credential_id=two.credential_id, version=7)
        assert await install.unreadable(connection) == set()


async def test_not_promised_that_an_older_value_put_back_in_its_own_row_is_found(install: Install) -> None:
    """The row's version is no part of what the envelope binds, so that a rotation need not change it."""
    two = install.cell("two")
    await install.services.credentials.replace(install.alice, two.credential_id, _secret("newer"))
    async with install.database.write() as connection:
        await _put(connection, two, two.value, key_version=two.key_version)
    assert (await install.services.credentials.reveal(install.alice, two.credential_id)).reveal() == two.secret


async def test_an_older_value_from_before_a_change_of_owner_does_not_open(install: Install) -> None:
    two = install.cell("two")
    async with SqlStorage(install.database).write() as uow:
        transfer = CredentialTransfer(keys=install.services.keys, cipher=install.cipher, clock=SystemClock())
        await transfer.move(uow, two.owner, install.cell("bob").owner)
    assert (await install.services.credentials.reveal(install.bob, two.credential_id)).reveal() == two.secret
    await _commit(install, two, two.value)
    assert (await install.services.credentials.get(install.bob, two.credential_id)).status is Status.UNREADABLE


# -- through the services ---------------------------------------------------------------------------------------------

PARTS = {"format": 0, "algorithm": 1, "key version": 5, "salt": 6, "nonce": 38, "commitment": 50, "text": 82, "tag": -1}
"""A byte of each part of an envelope (docs/envelope.md)."""


def _flipped(value: bytes, position: int) -> bytes:
    changed = bytearray(value)
    changed[position] ^= 1
    return bytes(changed)


async def _verified(install: Install) -> tuple[int, list[tuple[str, int | None]]]:
    """How many secrets there are, and which of them do not decrypt."""
    operator = member(CLOCK, "operator", role=Role.OWNER, source=Source.CLI)
    steps = [each async for each in install.services.credentials.health.verify_all(operator)]
    return steps[-1].done, [(each.id, each.former) for step in steps for each in step.unreadable]


async def _assert_only_this_is_unreadable(install: Install, cell: Cell) -> None:
    """Through every method that reads a present secret."""
    credentials, alice = install.services.credentials, install.alice
    view = await credentials.get(alice, cell.credential_id)
    assert (view.status, view.masked) == (Status.UNREADABLE, UNREADABLE)
    listed = (await credentials.page(alice)).items
    assert {each.id: each.status for each in listed} == {
        cell.credential_id: Status.UNREADABLE,
        install.cell("two").credential_id: Status.UNCHECKED,
    }
    with pytest.raises(CredentialUnreadable):
        await credentials.reveal(alice, cell.credential_id)
    with pytest.raises(CredentialUnreadable):
        async with credentials.use(alice, view.provider, view.label):
            pass
    async with credentials.use(alice, "github") as other:
        assert other.reveal() == _secret("two")
    assert [each.id for each in (await credentials.health.report(alice)).unreadable] == [cell.credential_id]
    assert await _verified(install) == (len(install.cells), [(cell.credential_id, None)])


@pytest.mark.parametrize("part", PARTS)
async def test_a_changed_secret_is_unreadable_for_every_service_and_takes_no_other_with_it(
    install: Install, part: str
) -> None:
    one = install.cell("one")
    await _commit(install, one, _flipped(one.value, PARTS[part]))
    await _assert_only_this_is_unreadable(install, one)
    await _commit(install, one, one.value)
    assert (await install.services.credentials.reveal(install.alice, one.credential_id)).reveal() == one.secret
    assert await _verified(install) == (len(install.cells), [])


@pytest.mark.parametrize("part", PARTS)
async def test_a_changed_former_secret_is_unreadable_and_is_not_put_back_in_force(install: Install, part: str) -> None:
    credentials, former = install.services.credentials, install.cell("one-first", credential_history.c.encrypted_value)
    await _commit(install, former, _flipped(former.value, PARTS[part]))
    versions = (await credentials.versions(install.alice, former.credential_id)).items
    assert [(each.version, each.readable, each.masked == UNREADABLE) for each in versions] == [
        (2, True, False),
        (1, False, True),
    ]
    with pytest.raises(CredentialUnreadable):
        await credentials.rollback(install.alice, former.credential_id, version=1)
    assert (await credentials.reveal(install.alice, former.credential_id)).reveal() == _secret("one")
    assert await _verified(install) == (len(install.cells), [(former.credential_id, 1)])
    await _commit(install, former, former.value)
    await credentials.rollback(install.alice, former.credential_id, version=1)
    assert (await credentials.reveal(install.alice, former.credential_id)).reveal() == former.secret


async def test_what_was_taken_from_another_member_shows_them_nothing(install: Install) -> None:
    """Bob writes himself into Alice's row: it is his now, and unreadable."""
    credentials, one = install.services.credentials, install.cell("one")
    async with install.database.write() as connection:
        await _change(connection, one, owner_id=install.bob.user_id)
    with pytest.raises(NotFound):
        await credentials.get(install.alice, one.credential_id)
    statuses = {each.id: each.status for each in (await credentials.page(install.bob)).items}
    assert statuses == {
        one.credential_id: Status.UNREADABLE,
        install.cell("bob").credential_id: Status.UNCHECKED,
    }
    with pytest.raises(CredentialUnreadable):
        await credentials.reveal(install.bob, one.credential_id)
    for version in (1, 2):
        with pytest.raises(CredentialUnreadable):
            await credentials.rollback(install.bob, one.credential_id, version=version)
    async with credentials.use(install.bob, "openai", "bob-first") as own:
        assert own.reveal() == _secret("bob")


async def test_what_was_moved_to_another_guild_serves_nobody_there(install: Install) -> None:
    guild = install.cell("guild")
    async with install.database.write() as connection:
        await _change(connection, guild, owner_id=OTHER_GUILD, provider="github")
    context = GuildContext(guild_id=OTHER_GUILD, manages_guild=True)
    gwen = await _register(install.database, member(CLOCK, "gwen", source=Source.DISCORD, guild=context))
    with pytest.raises(CredentialUnreadable):
        async with install.services.credentials.use(gwen, "github"):
            pass
    async with install.services.credentials.use(gwen, "openai") as theirs:
        assert theirs.reveal() == _secret("other-guild")


@pytest.mark.parametrize("stored", ["'sk-typed-by-hand'", "'" + "x" * 200 + "'", "5", "1.5", "1000000000000", "''"])
async def test_what_is_no_bytes_at_all_is_unreadable_as_well(sqlite_url: str, tmp_path: Path, stored: str) -> None:
    """SQLite keeps a value of any type in any column."""
    async with _copied_hall(Place(sqlite_url, tmp_path / "data")) as install:
        one = install.cell("one")
        former = install.cell("bob-first", credential_history.c.encrypted_value)
        async with _undone(install.database) as connection:
            for cell in (one, former):
                statement = update(cell.column.table).where(_where(cell)).values(encrypted_value=literal_column(stored))
                assert await connection.change(statement) == 1
            assert await install.unreadable(connection) == {one.secret, former.secret}
        async with install.database.write() as connection:
            await connection.change(
                update(api_credentials).where(_where(one)).values(encrypted_value=literal_column(stored))
            )
        await _assert_only_this_is_unreadable(install, one)


async def test_over_http_an_unreadable_secret_is_a_typed_answer_and_all_else_goes_on(place: Place) -> None:
    async with open_site(place) as site, open_database(DatabaseUrl.parse(place.url), may_create=False) as database:
        damaged, whole = await site.add("damaged"), await site.add("whole", provider="github")
        path = f"/api/v1/credentials/{damaged['id']}"
        assert (await site.request("PUT", f"{path}/secret", json={"secret": _secret("second")})).status == 200
        async with database.write() as connection:
            for table, column in ((api_credentials, "id"), (credential_history, "credential_id")):
                rows = await connection.rows(
                    select(table.c.id, table.c.encrypted_value).where(table.c[column] == damaged["id"])
                )
                assert len(rows) == 1
                values = {"encrypted_value": _flipped(rows[0][1], 90)}
                await connection.change(update(table).where(table.c.id == rows[0][0]).values(values))
        shown = await site.request("GET", path)
        assert (shown.status, shown.json["status"], shown.json["masked"]) == (200, "unreadable", UNREADABLE)
        listed = (await site.request("GET", "/api/v1/credentials")).json["items"]
        assert {each["label"]: each["status"] for each in listed} == {"damaged": "unreadable", "whole": "unchecked"}
        versions = (await site.request("GET", f"{path}/versions")).json["items"]
        assert [each["readable"] for each in versions] == [False]
        for refused in ("reveal", "rollback"):
            answer = await site.request("POST", f"{path}/{refused}")
            assert (answer.status, answer.code) == (409, "credential_unreadable")
        revealed = await site.request("POST", f"/api/v1/credentials/{whole['id']}/reveal")
        assert revealed.status == 200
        cookie, _ = await site.log_in_browser()
        assert (await site.page("/credentials", cookie)).status == 200


# ---------------------------------------------------------------------------------------------------------------------
# Keys
# ---------------------------------------------------------------------------------------------------------------------

Rows = dict[str, str]


class _InOneTransaction:
    """A storage whose every read sees what one unfinished transaction sees."""

    def __init__(self, connection: Connection) -> None:
        self._unit = SqlUnitOfWork(connection, SystemRandomness())

    @asynccontextmanager
    async def read(self) -> AsyncIterator[SqlUnitOfWork]:
        yield self._unit


@dataclass(frozen=True)
class Vault:
    """The key store of an install inside a transaction, judged as a start does before anything else."""

    connection: Connection
    keys: KeyManagementService
    rows: MappingProxyType[str, str]

    async def put(self, row: str, value: Any) -> None:
        """Change a row behind Keyhall's back."""
        statement = update(app_config).where(app_config.c.key == row).values(value=value)
        assert await self.connection.change(statement) == 1

    async def halts(self, row: str, value: Any) -> None:
        """That row with that value must halt the start."""
        await self.put(row, value)
        with pytest.raises(KeyDamaged):
            await self.keys.verify()

    async def opens_again(self) -> None:
        """With every row restored it must open."""
        for row, value in self.rows.items():
            await self.put(row, value)
        assert await self.keys.verify()


_REVOKED: dict[str, InstallSnapshot] = {}


@asynccontextmanager
async def _open_vault(place: Place) -> AsyncIterator[Vault]:
    if kind(place.url) in _REVOKED:
        await _REVOKED[kind(place.url)].copy(place.url, place.data_dir)
    else:
        await place.install()
        await place.revoke(KeyName.AES_KEY)
        _REVOKED[kind(place.url)] = InstallSnapshot.of(place.url, place.data_dir)
    rows = MappingProxyType(await place.app_config())
    assert rows.keys() == {"manifest", *(f"keyset/{name}" for name in KeyName)}
    async with (
        open_database(DatabaseUrl.parse(place.url), may_create=False) as database,
        _undone(database) as connection,
    ):
        storage: Any = _InOneTransaction(connection)
        vault = Vault(connection, key_management(place.load(), storage), rows)
        assert await vault.keys.verify()
        yield vault


@pytest.fixture
async def vault(place: Place) -> AsyncIterator[Vault]:
    async with _open_vault(place) as vault:
        yield vault


def _as_text(value: bytes) -> Any:
    """SQL for a text of these bytes, be it UTF-8 or not: SQLite keeps what it is given."""
    return literal_column(f"CAST(x'{value.hex()}' AS TEXT)")


WAYS: list[Callable[[str], str]] = [
    lambda character: chr(ord(character) ^ 0x01),
    lambda character: chr(ord(character) ^ 0x80),
    lambda _: "",
    lambda character: 2 * character,
]
"""What may become of a character: one bit, another alphabet, gone, twice."""


def _changes(value: str) -> Iterator[str]:
    """Every character in every way, and every length."""
    for position, character in enumerate(value):
        for way in WAYS:
            yield value[:position] + way(character) + value[position + 1 :]
    for length in range(len(value)):
        yield value[:length]


@pytest.mark.slow
async def test_every_changed_character_and_every_truncation_of_a_row_halts(sqlite_url: str, tmp_path: Path) -> None:
    """The rows of a real install, read from memory for speed: some 18,000 cases."""
    place = Place(sqlite_url, tmp_path / "data")
    async with place.keys():
        pass
    storage: Any = FakeStorage()
    keys = key_management(place.load(), storage)
    rows = storage.tables.config = await place.app_config()
    assert rows.keys() == {"manifest", *(f"keyset/{name}" for name in KeyName)}
    tried = 0
    for row, value in dict(rows).items():
        for changed in _changes(value):
            assert changed != value
            rows[row] = changed
            with pytest.raises(KeyDamaged):
                await keys.verify()
            tried += 1
        rows[row] = value
        assert await keys.verify()
    assert tried > 10_000


async def test_a_changed_character_and_a_truncation_in_the_database_halts(vault: Vault) -> None:
    for row, value in vault.rows.items():
        for changed in islice(_changes(value), 0, None, 41):
            await vault.halts(row, changed)
        await vault.opens_again()


async def test_text_that_is_no_utf_8_halts(sqlite_url: str, tmp_path: Path) -> None:
    """PostgreSQL keeps no such text; SQLite does, and its driver refuses to decode it."""
    place = Place(sqlite_url, tmp_path / "data")
    async with _open_vault(place) as vault:
        for row, value in vault.rows.items():
            raw = value.encode()
            for position in range(0, len(raw), 13):
                await vault.halts(row, _as_text(raw[:position] + bytes([raw[position] ^ 0x80]) + raw[position + 1 :]))
            await vault.opens_again()


async def test_every_swap_of_two_rows_halts(vault: Vault) -> None:
    for one, other in combinations(vault.rows, 2):
        await vault.put(one, vault.rows[other])
        await vault.halts(other, vault.rows[one])
        await vault.opens_again()
        await vault.halts(one, vault.rows[other])
        await vault.opens_again()


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every member and element, at any depth."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        yield (*path, key)
        yield from _paths(inner, (*path, key))


def _edited(value: str, path: tuple[str | int, ...], edit: Callable[[Any, str | int], None]) -> str:
    """The row with one member edited, in canonical form as ever."""
    members = json.loads(value)
    container = members
    for key in path[:-1]:
        container = container[key]
    edit(container, path[-1])
    return json.dumps(members, sort_keys=True, separators=(",", ":"))


def _remove(container: Any, key: str | int) -> None:
    del container[key]


def _put_null(container: Any, key: str | int) -> None:
    container[key] = None if container[key] is not None else "2026-01-01T00:00:00.000000+00:00"


def _put_list(container: Any, key: str | int) -> None:
    container[key] = [container[key]]


@pytest.mark.parametrize("edit", [_remove, _put_null, _put_list])
async def test_every_member_that_is_removed_or_replaced_halts(
    vault: Vault, edit: Callable[[Any, str | int], None]
) -> None:
    tried = 0
    for row, value in vault.rows.items():
        for path in _paths(json.loads(value)):
            changed = _edited(value, path, edit)
            assert changed != value
            await vault.halts(row, changed)
            tried += 1
        await vault.opens_again()
    assert tried > 90


async def test_every_name_that_stands_twice_halts(vault: Vault) -> None:
    """With the same value or with another, before or after: whichever a reader of JSON would take."""
    for row, value in vault.rows.items():
        members = json.loads(value)
        for path in _paths(members):
            if not isinstance(path[-1], str):
                continue
            name = json.dumps(path[-1]) + ":"
            for at in range(len(value)):
                if value.startswith(name, at):
                    await vault.halts(row, f"{value[:at]}{name}0,{value[at:]}")
                    await vault.halts(row, f"{value[:at]}{name}{_first_value(value[at + len(name) :])},{value[at:]}")
        await vault.opens_again()


def _first_value(text: str) -> str:
    """The JSON value that a text begins with, as it stands there."""
    _, end = json.JSONDecoder().raw_decode(text)
    return text[:end]


RESHAPED: dict[str, Callable[[str], str]] = {
    "a space behind": lambda value: value + " ",
    "a line feed behind": lambda value: value + "\n",
    "a space before": lambda value: " " + value,
    "a byte order mark": lambda value: "\ufeff" + value,
    "spaces between": lambda value: json.dumps(json.loads(value), sort_keys=True),
    "lines": lambda value: json.dumps(json.loads(value), sort_keys=True, indent=1),
    "another order": lambda value: json.dumps(dict(reversed(json.loads(value).items())), separators=(",", ":")),
    "an escape": lambda value: value.replace("m", r"\u006d", 1),
    "a fraction": lambda value: value.replace('"format":1', '"format":1.0'),
    "an exponent": lambda value: value.replace('"format":1', '"format":1e0'),
    "a boolean": lambda value: value.replace('"format":1', '"format":true'),
    "no number": lambda value: value.replace('"format":1', '"format":NaN'),
    "a number beyond all bounds": lambda value: value.replace('"format":1', f'"format":{"9" * 5000}'),
    "a list around": lambda value: f"[{value}]",
    "two documents": lambda value: value + value,
    "padding": lambda value: value.replace('="', '=="', 1),
    "no padding": lambda value: value.replace('="', '"', 1),
    "a lone surrogate": lambda value: value.replace('":"', r'":"\ud800', 1),
    "NUL, escaped": lambda value: value.replace('":"', r'":"\u0000', 1),
    "very deep": lambda _: "[" * 100_000,
    "very long": lambda value: value + " " * (1 << 20),
    "nothing": lambda _: "",
}


@pytest.mark.parametrize("shape", RESHAPED)
async def test_the_same_content_in_another_form_halts(vault: Vault, shape: str) -> None:
    for row, value in vault.rows.items():
        reshaped = RESHAPED[shape](value)
        assert reshaped != value
        await vault.halts(row, reshaped)
    await vault.opens_again()


# -- committed, and with whole starts ---------------------------------------------------------------------------------


async def _starts(place: Place) -> bool:
    async with place.keys(may_create=False):
        return True


async def _store(place: Place, row: str, value: str) -> None:
    await place.execute("UPDATE app_config SET value = :value WHERE key = :key", key=row, value=value)


async def test_a_start_halts_on_a_damaged_row_and_opens_once_it_is_restored(place: Place) -> None:
    await place.install()
    for row, value in (await place.app_config()).items():
        for position in range(0, len(value), len(value) // 3):
            flipped = chr(ord(value[position]) ^ 0x01)
            await _store(place, row, value[:position] + flipped + value[position + 1 :])
            damaged = await place.contents()
            with pytest.raises(KeyDamaged) as halted:
                await _starts(place)
            assert row in halted.value.line()
            assert await place.contents() == damaged
        await _store(place, row, value)
        assert await _starts(place)


async def test_a_start_halts_on_text_that_is_no_utf_8(sqlite_url: str, tmp_path: Path) -> None:
    place = Place(sqlite_url, tmp_path / "data")
    async with place.keys():
        pass
    rows = await place.app_config()
    async with open_database(DatabaseUrl.parse(place.url), may_create=False) as database:
        for row in rows:
            async with database.write() as connection:
                broken = update(app_config).where(app_config.c.key == row).values(value=_as_text(b'{"mac":"\xff"}'))
                await connection.change(broken)
            with pytest.raises(KeyDamaged):
                await _starts(place)
            await _store(place, row, rows[row])
            assert await _starts(place)


async def test_a_row_under_another_name_halts(place: Place) -> None:
    await place.install()
    for row in await place.app_config():
        for renamed in (row + "x", row[:-1], row.swapcase(), "x" + row):
            await place.execute("UPDATE app_config SET key = :new WHERE key = :old", old=row, new=renamed)
            with pytest.raises(StartupError) as halted:
                await _starts(place)
            assert type(halted.value) in {KeyMissing, KeyDamaged}
            await place.execute("UPDATE app_config SET key = :new WHERE key = :old", old=renamed, new=row)
    assert await _starts(place)


async def _of_another_install(tmp_path: Path) -> Rows:
    other = Place(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}", tmp_path / "other").having(MASTER_KEY=MASTER_KEY)
    async with other.keys():
        pass
    return await other.app_config()


async def test_a_row_of_another_install_with_the_same_master_key_halts(place: Place, tmp_path: Path) -> None:
    place = place.having(MASTER_KEY=MASTER_KEY)
    async with place.keys():
        pass
    foreign = await _of_another_install(tmp_path)
    for row, value in (await place.app_config()).items():
        await _store(place, row, foreign[row])
        with pytest.raises(InstallMismatch if row == "manifest" else KeyDamaged):
            await _starts(place)
        await _store(place, row, value)
        assert await _starts(place)


async def test_the_whole_key_store_of_another_install_with_the_same_master_key_halts(
    place: Place, tmp_path: Path
) -> None:
    place = place.having(MASTER_KEY=MASTER_KEY)
    async with place.keys():
        pass
    for row, value in (await _of_another_install(tmp_path)).items():
        await _store(place, row, value)
    with pytest.raises(InstallMismatch):
        await _starts(place)
