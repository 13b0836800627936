"""Credentials over the real storage, on both engines, in one process and in two that share a database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import event, select, update

from app.domain.audit import Action, Result
from app.domain.credentials import Owner, OwnerKind, Status
from app.domain.errors import AlreadyExists, IdempotencyConflict, NotFound, QuotaExceeded, VersionConflict
from app.domain.identity import Actor, GuildContext, Role, Source, User
from app.domain.keys import KeyName
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.database.engine import Database
from app.infrastructure.database.schema import api_credentials, audit_events, credential_history
from app.infrastructure.database.unit_of_work import SqlStorage
from tests.support.database import migrated
from tests.support.keyhall import Keyhall, UnhurriedClock, member, open_keyhall
from tests.support.samples import OTHER_SECRET, SECRET

GUILD = "123456789012345678"
CLOCK = UnhurriedClock()


async def process(stack: AsyncExitStack, url: str) -> Keyhall:
    """One more process on that database."""
    database = await stack.enter_async_context(migrated(url))
    return await open_keyhall(SqlStorage(database), CLOCK, SystemRandomness())


async def registered(keyhall: Keyhall, actor: Actor) -> Actor:
    """The actor, as a user that the audit trail can name."""
    user = User(
        id=actor.user_id,
        subject_id=actor.subject_id or "",
        username=actor.username,
        role=actor.role,
        created_at=CLOCK.now(),
    )
    async with keyhall.storage.write() as uow:
        await uow.users.add(user)
    return actor


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def database(engine_url: str, stack: AsyncExitStack) -> Database:
    return await stack.enter_async_context(migrated(engine_url))


@pytest.fixture
async def keyhall(database: Database) -> Keyhall:
    return await open_keyhall(SqlStorage(database), CLOCK, SystemRandomness())


@pytest.fixture
async def mia(keyhall: Keyhall) -> Actor:
    return await registered(keyhall, member(CLOCK, "mia"))


async def trail(database: Database) -> list[tuple[str, str]]:
    columns = audit_events.c
    statement = select(columns.action, columns.result).where(columns.action.startswith("credential."))
    async with database.read() as connection:
        return [(row[0], row[1]) for row in await connection.rows(statement.order_by(columns.id))]


async def test_storing_reads_the_manifest_under_lock_once(keyhall: Keyhall, database: Database, mia: Actor) -> None:
    statements: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    async def locked(change: Awaitable[object]) -> int:
        statements.clear()
        await change
        return sum("app_config" in each for each in statements)

    view = (await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET)).view
    event.listen(database.dialect.writer.sync_engine, "before_cursor_execute", count)
    adding = keyhall.credentials.add(mia, provider="openai", label="key", secret=SECRET, idempotency_key="k")
    assert await locked(adding) == 1
    assert await locked(keyhall.credentials.replace(mia, view.id, OTHER_SECRET)) == 1
    assert await locked(keyhall.credentials.rollback(mia, view.id)) == 1


async def test_a_credentials_whole_life(keyhall: Keyhall, database: Database, mia: Actor) -> None:
    credentials = keyhall.credentials
    view = (await credentials.add(mia, provider="openai", label="main", secret=SECRET)).view
    assert await credentials.get(mia, view.id) == view
    assert (await credentials.change(mia, view.id, label="renamed")).version == 2
    assert (await credentials.replace(mia, view.id, OTHER_SECRET)).view.version == 3
    assert [each.version for each in (await credentials.versions(mia, view.id)).items] == [2]
    assert (await credentials.rollback(mia, view.id)).view.version == 4
    assert (await credentials.reveal(mia, view.id)).reveal() == SECRET
    await credentials.remove(mia, view.id)
    with pytest.raises(NotFound):
        await credentials.get(mia, view.id)
    assert (await credentials.restore(mia, view.id)).label == "renamed"
    async with credentials.use(mia, "openai", "RENAMED") as credential:
        assert credential.reveal() == SECRET
    used = await credentials.get(mia, view.id)
    assert used.last_used_at is not None
    assert (await credentials.page(mia)).items == [used]
    assert [
        (each.provider, each.total, each.readable) for each in (await credentials.health.report(mia)).providers
    ] == [("openai", 1, 1)]
    assert await trail(database) == [
        (Action.CREDENTIAL_ADDED, Result.OK),
        (Action.CREDENTIAL_CHANGED, Result.OK),
        (Action.CREDENTIAL_REPLACED, Result.OK),
        (Action.CREDENTIAL_ROLLED_BACK, Result.OK),
        (Action.CREDENTIAL_REVEALED, Result.OK),
        (Action.CREDENTIAL_REMOVED, Result.OK),
        (Action.CREDENTIAL_RESTORED, Result.OK),
        (Action.CREDENTIAL_USED, Result.INTENT),
        (Action.CREDENTIAL_USED, Result.OK),
    ]


async def test_a_credential_is_the_same_after_every_restart(engine_url: str) -> None:
    async with AsyncExitStack() as first:
        keyhall = await process(first, engine_url)
        mia = await registered(keyhall, member(CLOCK, "mia"))
        view = (await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET)).view
    for _ in range(10):
        async with AsyncExitStack() as again:
            keyhall = await process(again, engine_url)
            assert await keyhall.credentials.get(mia, view.id) == view
            assert (await keyhall.credentials.reveal(mia, view.id)).reveal() == SECRET


async def test_what_one_process_changes_the_other_shows_at_once(
    engine_url: str, stack: AsyncExitStack, keyhall: Keyhall, mia: Actor
) -> None:
    other = await process(stack, engine_url)
    view = (await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET)).view
    for number in range(20):
        writer, reader = (keyhall, other) if number % 2 else (other, keyhall)
        changed = await writer.credentials.change(mia, view.id, label=f"label {number}")
        assert await reader.credentials.get(mia, view.id) == changed
    await other.credentials.remove(mia, view.id)
    with pytest.raises(NotFound):
        await keyhall.credentials.get(mia, view.id)


async def test_no_update_is_lost_between_two_processes(
    engine_url: str, stack: AsyncExitStack, keyhall: Keyhall, mia: Actor
) -> None:
    other = await process(stack, engine_url)
    view = (await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET)).view
    secrets = {f"{OTHER_SECRET}-{number}" for number in range(8)}
    await asyncio.gather(
        *(
            (keyhall if number % 2 else other).credentials.replace(mia, view.id, secret)
            for number, secret in enumerate(sorted(secrets))
        )
    )
    assert (await keyhall.credentials.get(mia, view.id)).version == 9
    found = {(await keyhall.credentials.reveal(mia, view.id)).reveal()}
    for version in range(2, 9):
        await keyhall.credentials.rollback(mia, view.id, version=version)
        found.add((await keyhall.credentials.reveal(mia, view.id)).reveal())
    assert found == secrets


@pytest.mark.slow
async def test_20_replacements_and_rollbacks_at_once_lose_no_secret_that_was_acknowledged(
    engine_url: str, stack: AsyncExitStack, keyhall: Keyhall, mia: Actor
) -> None:
    """Each is in force or in the history, and the history's times follow on each other."""
    other = await process(stack, engine_url)
    view = (await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET)).view
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    secrets = [f"{OTHER_SECRET}-{number}" for number in range(12)]
    operations = [
        (keyhall if number % 2 else other).credentials.replace(mia, view.id, each)
        for number, each in enumerate(secrets)
    ]
    for number in range(7):
        operations.insert(number * 2, (other if number % 2 else keyhall).credentials.rollback(mia, view.id))
    await asyncio.gather(*operations)
    now = await keyhall.credentials.get(mia, view.id)
    assert now.version == 21
    history = (await keyhall.credentials.versions(mia, view.id)).items
    assert [each.version for each in history] == list(range(20, 0, -1))
    assert all(later.created_at == earlier.replaced_at for later, earlier in pairwise(history))
    found = {(await keyhall.credentials.reveal(mia, view.id)).reveal()}
    async with keyhall.storage.read() as uow:
        record = await uow.credentials.get(view.id)
        assert record is not None
        former = await uow.credentials.history(view.id)
    found |= {keyhall.credentials._cipher.decrypt_former(each, record.owner) for each in former}
    assert found == {SECRET, OTHER_SECRET, *secrets}


async def test_the_20_latest_former_secrets_are_kept(keyhall: Keyhall, database: Database, mia: Actor) -> None:
    view = (await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET)).view
    for number in range(23):
        await keyhall.credentials.replace(mia, view.id, f"{OTHER_SECRET}-{number}")
    history = (await keyhall.credentials.versions(mia, view.id)).items
    assert [each.version for each in history] == list(range(23, 3, -1))
    async with database.read() as connection:
        assert len(await connection.rows(select(credential_history.c.id))) == 20


async def test_of_two_processes_that_expect_the_same_version_one_wins(
    engine_url: str, stack: AsyncExitStack, keyhall: Keyhall, mia: Actor
) -> None:
    other = await process(stack, engine_url)
    view = (await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET)).view
    outcomes = await asyncio.gather(
        keyhall.credentials.replace(mia, view.id, OTHER_SECRET, expected_version=1),
        other.credentials.change(mia, view.id, label="renamed", expected_version=1),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, VersionConflict) for outcome in outcomes) == 1
    assert (await keyhall.credentials.get(mia, view.id)).version == 2


async def test_of_many_that_take_the_same_label_one_gets_it(
    engine_url: str, stack: AsyncExitStack, keyhall: Keyhall, mia: Actor
) -> None:
    other = await process(stack, engine_url)
    outcomes = await asyncio.gather(
        *(
            each.credentials.add(mia, provider="openai", label=label, secret=SECRET)
            for each in (keyhall, other)
            for label in ("main", "Main", "MAIN")
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 5
    assert len((await keyhall.credentials.page(mia)).items) == 1


async def test_equal_requests_at_two_processes_store_one_credential(
    engine_url: str, stack: AsyncExitStack, keyhall: Keyhall, mia: Actor
) -> None:
    other = await process(stack, engine_url)
    answers = await asyncio.gather(
        *(
            each.credentials.add(mia, provider="openai", label="main", secret=SECRET, idempotency_key="k1")
            for each in (keyhall, other, keyhall, other)
        )
    )
    assert sorted(answer.replayed for answer in answers) == [False, True, True, True]
    assert len({answer.view.id for answer in answers}) == 1


async def test_different_requests_under_one_key_at_two_processes_store_one_credential(
    engine_url: str, stack: AsyncExitStack, keyhall: Keyhall, mia: Actor
) -> None:
    other = await process(stack, engine_url)
    outcomes = await asyncio.gather(
        keyhall.credentials.add(mia, provider="openai", label="one", secret=SECRET, idempotency_key="k1"),
        other.credentials.add(mia, provider="openai", label="other", secret=SECRET, idempotency_key="k1"),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, IdempotencyConflict) for outcome in outcomes) == 1
    assert len((await keyhall.credentials.page(mia)).items) == 1


@pytest.mark.slow
async def test_the_quota_holds_when_the_last_place_is_taken_twice_at_once(
    engine_url: str, stack: AsyncExitStack, keyhall: Keyhall, mia: Actor
) -> None:
    other = await process(stack, engine_url)
    for number in range(99):
        await keyhall.credentials.add(mia, provider="openai", label=f"label {number}", secret=SECRET)
    outcomes = await asyncio.gather(
        *(
            each.credentials.add(mia, provider="github", label=f"label {number}", secret=SECRET)
            for number, each in enumerate((keyhall, other, keyhall, other))
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, QuotaExceeded) for outcome in outcomes) == 3


@pytest.mark.slow
async def test_every_flipped_byte_of_a_stored_secret_is_noticed(
    keyhall: Keyhall, database: Database, mia: Actor
) -> None:
    view = (await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET)).view
    async with keyhall.storage.read() as uow:
        record = await uow.credentials.get(view.id)
    assert record is not None
    sound = record.encrypted_value
    for position in range(len(sound)):
        flipped = bytearray(sound)
        flipped[position] ^= 0x80
        await _overwrite(database, view.id, bytes(flipped))
        assert (await keyhall.credentials.get(mia, view.id)).status is Status.UNREADABLE, position
    await _overwrite(database, view.id, sound)
    assert (await keyhall.credentials.get(mia, view.id)).masked == view.masked
    unreadable = (Action.CREDENTIAL_UNREADABLE, Result.OK)
    assert (await trail(database)).count(unreadable) == 1


async def _overwrite(database: Database, credential_id: str, value: bytes) -> None:
    statement = update(api_credentials).where(api_credentials.c.id == credential_id).values(encrypted_value=value)
    async with database.write() as connection:
        await connection.change(statement)


async def test_writers_and_readers_do_not_notice_a_rotation_of_the_key(
    engine_url: str, stack: AsyncExitStack, keyhall: Keyhall, mia: Actor
) -> None:
    """One process rotates; the other, not notified yet, neither fails nor encrypts with the former version."""
    other = await process(stack, engine_url)
    before = (await other.credentials.add(mia, provider="openai", label="before", secret=SECRET)).view
    await keyhall.rotate(KeyName.AES_KEY)
    await keyhall.keys.reload()
    after = (await other.credentials.add(mia, provider="openai", label="after", secret=SECRET)).view
    ours = (await keyhall.credentials.add(mia, provider="openai", label="ours", secret=OTHER_SECRET)).view
    async with keyhall.storage.read() as uow:
        rows = {each.label: each.key_version for each in await uow.credentials.page(after=None, limit=10)}
    assert rows == {"before": 1, "after": 2, "ours": 2}
    for each in (keyhall, other):
        assert (await each.credentials.reveal(mia, before.id)).reveal() == SECRET
        assert (await each.credentials.reveal(mia, after.id)).reveal() == SECRET
        assert (await each.credentials.reveal(mia, ours.id)).reveal() == OTHER_SECRET


async def test_a_guilds_credential_serves_its_managers(keyhall: Keyhall) -> None:
    guild = GuildContext(guild_id=GUILD, manages_guild=True)
    gwen = await registered(keyhall, member(CLOCK, "gwen", source=Source.DISCORD, guild=guild))
    await keyhall.credentials.add(gwen, provider="openai", label="ours", secret=SECRET, guild_id=GUILD)
    async with keyhall.credentials.use(gwen, "openai") as credential:
        assert credential.reveal() == SECRET
    offered = await keyhall.credentials.lists.labels(gwen, "ou")
    assert [(each.label, each.shared) for each in offered] == [("ours", True)]


async def test_a_moved_credential_opens_for_its_new_owner(keyhall: Keyhall, mia: Actor) -> None:
    tom = await registered(keyhall, member(CLOCK, "tom"))
    view = (await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET)).view
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    async with keyhall.storage.write() as uow:
        moved = await keyhall.transfer.move(uow, Owner(OwnerKind.USER, mia.user_id), Owner(OwnerKind.USER, tom.user_id))
    assert moved.count == 1
    with pytest.raises(NotFound):
        await keyhall.credentials.get(mia, view.id)
    await keyhall.credentials.rollback(tom, view.id)
    assert (await keyhall.credentials.reveal(tom, view.id)).reveal() == SECRET


@pytest.mark.slow
async def test_verification_reads_more_than_one_page(keyhall: Keyhall, mia: Actor) -> None:
    operator = member(CLOCK, "operator", role=Role.OWNER, source=Source.CLI)
    for number in range(60):
        view = (await keyhall.credentials.add(mia, provider="openai", label=f"l {number}", secret=SECRET)).view
        if number % 2:
            await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    tom = await registered(keyhall, member(CLOCK, "tom"))
    for number in range(60):
        await keyhall.credentials.add(tom, provider="openai", label=f"l {number}", secret=SECRET)
    steps = [each async for each in keyhall.credentials.health.verify_all(operator)]
    assert (steps[-1].done, [each for step in steps for each in step.unreadable]) == (150, [])


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


async def test_no_byte_of_the_database_file_shows_a_secret(sqlite_url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        keyhall = await process(stack, sqlite_url)
        mia = await registered(keyhall, member(CLOCK, "mia"))
        added = await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET, idempotency_key="k1")
        await keyhall.credentials.replace(mia, added.view.id, OTHER_SECRET)
        await keyhall.credentials.reveal(mia, added.view.id)
        async with keyhall.credentials.use(mia, "openai"):
            files = contents(tmp_path)
    assert any(b"openai" in content for content in files.values())
    for secret in (SECRET, OTHER_SECRET):
        for piece in (secret.encode(), secret[8:20].encode()):
            assert [name for name, content in files.items() if piece in content] == []
