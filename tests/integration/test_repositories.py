"""The promises of every repository, on both engines and in the fake on which the service tests run.

Tests of tables, rows and locks ask for ``sql`` and run on the engines only.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import StatementError

from app.domain.audit import Action, Result
from app.domain.credentials import AGED_AFTER, Owner, OwnerKind, Status
from app.domain.errors import InvalidInput, UniqueViolation
from app.domain.identity import Role
from app.domain.instances import Instance
from app.domain.jobs import Job, JobKind, JobState, Progress
from app.domain.keys import APPLICATION_KEYS, KeyName, KeySchedule
from app.domain.preferences import Language, Preferences
from app.infrastructure.database import schema
from app.infrastructure.database.engine import open_database
from app.infrastructure.database.errors import ConstraintBroken
from app.infrastructure.database.unit_of_work import SqlStorage
from app.services.ports import IdempotentRequest, ProviderTotals, RefreshUse
from app.settings import DatabaseUrl
from tests.support.database import ALICE, NOW, api_token, credential, event, former, migrated, session, user

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.infrastructure.database.engine import Database
    from app.services.ports import Storage

GUILD = Owner(OwnerKind.GUILD, "900000000000000001")
LATER = NOW + timedelta(hours=1)
EARLIER = NOW - timedelta(hours=1)


async def rows(database: Database, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
    async with database.read() as connection:
        return [tuple(row) for row in await connection.rows(text(f"SELECT {columns} FROM {table}"))]  # noqa: S608


# ---------------------------------------------------------------------------------------------------------------------
# Keys
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_ticket_is_spent_once_and_forgotten_when_it_has_expired(storage: Storage) -> None:
    async def spend(expires_at: datetime) -> bool:
        async with storage.write() as unit:
            return await unit.tickets.spend(b"ticket", expires_at)

    assert sorted(await asyncio.gather(*(spend(NOW) for _ in range(5)))) == [False] * 4 + [True]
    async with storage.write() as unit:
        assert not await unit.tickets.spent(b"other")
        assert await unit.tickets.spend(b"other", LATER)
        assert await unit.tickets.spent(b"other")
        assert await unit.tickets.purge(NOW) == 0
        assert await unit.tickets.purge(LATER) == 1
    async with storage.write() as unit:
        assert not await unit.tickets.spend(b"other", LATER)


async def test_the_key_store_exists_once_the_schema_does(engine_url: str) -> None:
    async with (
        open_database(DatabaseUrl.parse(engine_url), may_create=True) as database,
        SqlStorage(database).read() as unit,
    ):
        assert not await unit.keys.exists()
    async with migrated(engine_url) as database, SqlStorage(database).read() as unit:
        assert await unit.keys.exists()


async def test_rows_of_the_key_store_are_kept_to_the_letter_and_replaced(storage: Storage) -> None:
    value = '{"a":1,"ü":"\\u0000 \U0001f511"}'
    async with storage.write() as unit:
        await unit.keys.put("manifest", "old", NOW)
        await unit.keys.put("manifest", value, NOW)
        for name in KeyName:
            await unit.keys.put(f"keyset/{name}", f"value of {name}", NOW)
    async with storage.read() as unit:
        assert await unit.keys.get_manifest() == value
        assert [await unit.keys.get_keyset(name) for name in KeyName] == [f"value of {name}" for name in KeyName]
        named = [
            await unit.keys.get_jwt_secret_key(),
            await unit.keys.get_aes_key(),
            await unit.keys.get_encryption_key(),
            await unit.keys.get_api_secret_key(),
        ]
        assert named == [f"value of {name}" for name in APPLICATION_KEYS]


async def test_an_empty_key_store_answers_none(storage: Storage) -> None:
    async with storage.read() as unit:
        assert await unit.keys.get_manifest() is None
        assert await unit.keys.get_jwt_secret_key() is None
        assert await unit.keys.keyset_names() == frozenset()
        assert await unit.keys.guarded_rows() == 0


async def test_keyset_names_tell_every_keyset_row_and_no_other(storage: Storage) -> None:
    async with storage.write() as unit:
        for row in ("manifest", "keyset", "keyset/AES_KEY", "keyset/unknown", "keyset0", "KEYSET/NO", "keyset-x", "z"):
            await unit.keys.put(row, "x", NOW)
        assert await unit.keys.keyset_names() == {"AES_KEY", "unknown"}


async def test_users_and_credentials_guard_against_generating_keys(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.users.add(user())
        await unit.credentials.add(replace(credential("removed"), deleted_at=NOW))
        await unit.credentials.add(credential())
        assert await unit.keys.guarded_rows() == 3


async def test_one_changer_of_keys_works_at_a_time(sql: SqlStorage) -> None:
    holds, let_go = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with sql.write() as unit:
            await unit.keys.lock()
            holds.set()
            await let_go.wait()
            await unit.keys.put("manifest", "first", NOW)

    async def second() -> str | None:
        await holds.wait()
        async with sql.write() as unit:
            await unit.keys.lock()
            return await unit.keys.get_manifest()

    async with asyncio.TaskGroup() as group:
        group.create_task(first())
        waiting = group.create_task(second())
        await asyncio.wait({waiting}, timeout=0.2)
        assert not waiting.done()
        let_go.set()
    assert waiting.result() == "first"


async def test_a_manifest_read_under_share_lock_stays_until_the_unit_ends(sql: SqlStorage) -> None:
    async with sql.write() as unit:
        await unit.keys.put("manifest", "before", NOW)

    async def rotate() -> None:
        async with sql.write() as unit:
            await unit.keys.put("manifest", "after", NOW)

    async with asyncio.TaskGroup() as group, sql.write() as unit:
        assert await unit.keys.get_manifest(share_lock=True) == "before"
        rotating = group.create_task(rotate())
        await asyncio.wait({rotating}, timeout=0.2)
        assert not rotating.done()
        assert await unit.keys.get_manifest() == "before"
    async with sql.read() as unit:
        assert await unit.keys.get_manifest() == "after"


# ---------------------------------------------------------------------------------------------------------------------
# Users
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_user_comes_back_as_stored_by_id_name_and_discord_id(storage: Storage) -> None:
    alice = user("Älice", discord_id="123456789012345678", role=Role.OWNER)
    async with storage.write() as unit:
        await unit.users.add(alice)
    async with storage.read() as unit:
        assert await unit.users.get(alice.id) == alice
        assert await unit.users.by_name("älice") == alice
        assert await unit.users.by_discord("123456789012345678") == alice
        assert await unit.users.get("nobody") is None
        assert await unit.users.by_name("Älice") is None  # look-ups go by the casefolded name
        assert await unit.users.by_discord("1") is None


async def test_a_user_has_a_subject_of_their_own(database: Database, sql: SqlStorage) -> None:
    async with sql.write() as unit:
        await unit.users.add(user())
    assert await rows(database, "subjects", "id, kind, value, user_id") == [
        ("subject-alice", "user", "Alice", "user-alice")
    ]


@pytest.mark.parametrize("twin", [user("ALICE"), replace(user("Bob"), discord_id="42")], ids=["name", "discord id"])
async def test_names_and_discord_ids_are_unique(storage: Storage, twin: Any) -> None:
    async with storage.write() as unit:
        await unit.users.add(user("Alice", discord_id="42"))
    with pytest.raises(UniqueViolation):
        async with storage.write() as unit:
            await unit.users.add(replace(twin, id="another", subject_id="another"))


async def test_users_are_paged_in_the_order_of_their_ids(storage: Storage) -> None:
    names = ["b", "a", "Z", "é", "\U0001f511", "aa", "-", "B"]
    async with storage.write() as unit:
        for number, name in enumerate(names):
            new = user(f"user{number}")
            await unit.users.add(replace(new, id=name))
    async with storage.read() as unit:
        found: list[str] = []
        while page := await unit.users.page(after=found[-1] if found else None, limit=3):
            assert len(page) <= 3
            found += [each.id for each in page]
    assert found == sorted(names, key=str.encode)  # byte by byte, under any collation of the server


async def test_a_password_and_a_discord_account_can_be_replaced(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.users.add(user())
        await unit.users.rehash("user-alice", "new hash", former=user().password_hash, at=LATER)
        await unit.users.rehash("user-alice", "a hash of the former password", former=user().password_hash, at=LATER)
        await unit.users.set_discord("user-alice", "42", LATER)
        found = await unit.users.get("user-alice")
        assert found == replace(user(), password_hash="new hash", discord_id="42")
        preferences = Preferences(language=Language.GERMAN, time_zone="Europe/Berlin")
        await unit.users.set_preferences("user-alice", preferences, LATER)
        assert await unit.users.get("user-alice") == replace(found, preferences=preferences)
        await unit.users.set_discord("user-alice", None, LATER)
        assert await unit.users.by_discord("42") is None


async def test_disabling_ends_every_session_and_keeps_its_first_time(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.users.add(user())
        await unit.users.disable("user-alice", NOW)
        await unit.users.disable("user-alice", LATER)
        assert await unit.users.get("user-alice") == replace(user(), token_version=3, disabled_at=NOW)


async def test_an_owner_is_claimed_once_for_ever(storage: Storage) -> None:
    async with storage.write() as unit:
        assert not await unit.users.owner_ever_existed()
        await unit.users.claim_owner("user-alice", NOW)
        assert await unit.users.owner_ever_existed()
    with pytest.raises(UniqueViolation):
        async with storage.write() as unit:
            await unit.users.claim_owner("user-bob", NOW)


async def test_of_two_owners_that_are_claimed_at_once_one_wins(storage: Storage) -> None:
    async def claim(name: str) -> bool:
        try:
            async with storage.write() as unit:
                await unit.users.add(user(name))
                await unit.users.claim_owner(f"user-{name}", NOW)
        except UniqueViolation:
            return False
        return True

    won = await asyncio.gather(*(claim(f"user{number}") for number in range(8)))
    assert sum(won) == 1
    async with storage.read() as unit:
        assert len(await unit.users.page(after=None, limit=10)) == 1


async def test_a_discord_account_is_linked_to_one_user(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.users.add(user("Alice", discord_id="42"))
        await unit.users.add(user("Bob"))
    with pytest.raises(UniqueViolation):
        async with storage.write() as unit:
            await unit.users.set_discord("user-bob", "42", LATER)


@pytest.mark.parametrize("twin", [{"id": "another"}, {"subject_id": "another"}], ids=["subject", "id"])
async def test_a_user_has_an_id_and_a_subject_of_their_own(storage: Storage, twin: Any) -> None:
    async with storage.write() as unit:
        await unit.users.add(user())
    with pytest.raises(UniqueViolation):
        async with storage.write() as unit:
            await unit.users.add(replace(user(), username="Bob", **twin))


async def test_a_change_of_an_unknown_user_changes_nothing(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.users.add(user())
        await unit.users.rehash("unknown", "hash", former=user().password_hash, at=LATER)
        await unit.users.set_discord("unknown", "42", LATER)
        await unit.users.set_preferences("unknown", Preferences(language=Language.GERMAN), LATER)
        await unit.users.disable("unknown", LATER)
        assert await unit.users.page(after=None, limit=10) == [user()]


# ---------------------------------------------------------------------------------------------------------------------
# Sessions
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def with_alice(storage: Storage) -> Storage:
    async with storage.write() as unit:
        await unit.users.add(user())
    return storage


async def test_a_session_comes_back_with_its_user_by_id_and_by_cookie(with_alice: Storage) -> None:
    cookie = b"\x00\x01" * 16
    async with with_alice.write() as unit:
        await unit.sessions.add(session(), cookie_hash=cookie)
        await unit.sessions.add(session("without cookie"), cookie_hash=None)
        await unit.sessions.add(session("without cookie either"), cookie_hash=None)
    async with with_alice.read() as unit:
        found = await unit.sessions.get("session-1")
        assert found is not None
        assert (found.session, found.user) == (session(), user())
        assert await unit.sessions.by_cookie(cookie) == found
        assert await unit.sessions.get("unknown") is None
        assert await unit.sessions.by_cookie(cookie[1:]) is None
    async with with_alice.write() as unit:
        assert await unit.sessions.locked("session-1") == found
        assert await unit.sessions.locked("unknown") is None
        assert await unit.users.locked(user().id) == user()
        assert await unit.users.locked("unknown") is None


async def test_a_session_needs_its_user(storage: Storage) -> None:
    with pytest.raises(ConstraintBroken):
        async with storage.write() as unit:
            await unit.sessions.add(session(), cookie_hash=None)


async def test_a_refresh_token_needs_its_session(with_alice: Storage) -> None:
    with pytest.raises(ConstraintBroken):
        async with with_alice.write() as unit:
            await unit.sessions.add_refresh(b"token", "unknown", at=NOW, expires_at=LATER)


async def test_ids_cookies_and_refresh_tokens_of_sessions_are_unique(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        await unit.sessions.add(session("a"), cookie_hash=b"cookie")
        await unit.sessions.add_refresh(b"token", "a", at=NOW, expires_at=LATER)
    with pytest.raises(UniqueViolation):
        async with with_alice.write() as unit:
            await unit.sessions.add(session("a"), cookie_hash=None)
    with pytest.raises(UniqueViolation):
        async with with_alice.write() as unit:
            await unit.sessions.add(session("b"), cookie_hash=b"cookie")
    with pytest.raises(UniqueViolation):
        async with with_alice.write() as unit:
            await unit.sessions.add_refresh(b"token", "a", at=NOW, expires_at=LATER)


async def test_a_change_of_an_unknown_session_changes_nothing(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        await unit.sessions.add(session(), cookie_hash=None)
        await unit.sessions.touch("unknown", LATER)
        await unit.sessions.prove("unknown", LATER)
        assert await unit.sessions.live_of("user-alice", NOW) == [session()]


async def test_every_session_can_be_revoked_at_once(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        for id_, lasts in (("a", 5), ("b", 5), ("expired", 0)):
            await unit.sessions.add(session(id_, lasts=timedelta(days=lasts)), cookie_hash=id_.encode())
            await unit.sessions.add_refresh(id_.encode(), id_, at=NOW, expires_at=LATER)
        assert await unit.sessions.revoke_all(NOW) == 2
        assert await unit.sessions.revoke_all(NOW) == 0
        assert await unit.sessions.live_of("user-alice", NOW) == []
        assert [await unit.sessions.use_refresh(token, NOW) for token in (b"a", b"b", b"expired")] == [None] * 3


async def test_every_session_of_a_user_but_one_can_be_ended_and_the_kept_one_goes_on(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        await unit.users.add(user("bob"))
        for id_, name, lasts in (("kept", "alice", 5), ("a", "alice", 5), ("expired", "alice", 0), ("b", "bob", 5)):
            await unit.sessions.add(
                replace(session(id_, lasts=timedelta(days=lasts)), user_id=f"user-{name}"), cookie_hash=id_.encode()
            )
            await unit.sessions.add_refresh(id_.encode(), id_, at=NOW, expires_at=LATER)
        assert await unit.sessions.end_all_of("user-alice", NOW, but="kept") == 1
    async with with_alice.write() as unit:
        for id_, alive in (("kept", True), ("a", False), ("expired", False), ("b", True)):
            found = await unit.sessions.get(id_)
            assert found is not None
            assert (found.session.alive(found.user, NOW), found.session.token_version) == (
                alive,
                2 if id_ == "kept" else 1,
            )
            assert (await unit.sessions.use_refresh(id_.encode(), NOW) is not None) == (alive or id_ == "expired")
        assert await unit.sessions.end_all_of("user-alice", NOW, but="b") == 1
    async with with_alice.read() as unit:
        assert await unit.sessions.live_of("user-alice", NOW) == []
        bobs = await unit.sessions.get("b")
        assert bobs is not None
        assert (bobs.session.token_version, bobs.user.token_version) == (1, 1)


async def test_the_cookie_and_tokens_of_a_purged_session_are_gone(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        await unit.sessions.add(session(lasts=timedelta(0)), cookie_hash=b"cookie")
        await unit.sessions.add_refresh(b"token", "session-1", at=NOW, expires_at=LATER)
        assert await unit.sessions.purge(LATER) == 1
        assert await unit.sessions.by_cookie(b"cookie") is None
        assert await unit.sessions.use_refresh(b"token", NOW) is None
        await unit.sessions.add(session(), cookie_hash=b"cookie")


async def test_live_sessions_are_told_latest_seen_first(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        for id_, seen, lasts in (("a", NOW, 5), ("b", LATER, 5), ("expired", NOW, 0), ("revoked", NOW, 5)):
            await unit.sessions.add(session(id_, seen=seen, lasts=timedelta(days=lasts)), cookie_hash=None)
        await unit.sessions.revoke("revoked", NOW)
    async with with_alice.read() as unit:
        assert [each.id for each in await unit.sessions.live_of("user-alice", NOW)] == ["b", "a"]
        assert await unit.sessions.live_of("user-bob", NOW) == []
        assert await unit.sessions.last_seen(["user-alice", "user-bob"]) == {"user-alice": LATER}
        assert await unit.sessions.last_seen([]) == {}


async def test_touching_and_proving_note_the_time_and_a_latecomer_does_not_turn_it_back(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        await unit.sessions.add(session(), cookie_hash=None)
        await unit.sessions.touch("session-1", LATER)
        await unit.sessions.touch("session-1", NOW)
        await unit.sessions.prove("session-1", LATER)
        found = await unit.sessions.get("session-1")
        assert found is not None
        assert found.session == replace(session(), last_seen_at=LATER, authenticated_at=LATER)


async def test_revoking_ends_a_session_and_its_refresh_tokens_once(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        await unit.sessions.add(session(), cookie_hash=None)
        await unit.sessions.add(session("expired", lasts=timedelta(0)), cookie_hash=None)
        await unit.sessions.add_refresh(b"token", "session-1", at=NOW, expires_at=LATER)
        assert await unit.sessions.revoke("session-1", NOW)
        assert not await unit.sessions.revoke("session-1", LATER)
        assert not await unit.sessions.revoke("expired", LATER)
        assert not await unit.sessions.revoke("unknown", NOW)
        assert await unit.sessions.use_refresh(b"token", NOW) is None
        found = await unit.sessions.get("session-1")
        assert found is not None
        assert found.session.revoked_at == NOW


async def test_a_refresh_token_is_used_up_by_its_first_use(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        await unit.sessions.add(session(), cookie_hash=None)
        await unit.sessions.add_refresh(b"token", "session-1", at=NOW, expires_at=LATER)
        found = await unit.sessions.by_refresh(b"token")
        assert found is not None
        assert (found.session, found.user.id) == (session(), "user-alice")
        assert await unit.sessions.by_refresh(b"unknown") is None
        first = await unit.sessions.use_refresh(b"token", NOW)
        again = await unit.sessions.use_refresh(b"token", NOW)
        assert first == RefreshUse(found=found, first=True, expires_at=LATER)
        assert again == RefreshUse(found=found, first=False, expires_at=LATER)
        assert await unit.sessions.use_refresh(b"unknown", NOW) is None


async def test_of_twenty_uses_of_a_refresh_token_at_once_one_is_first(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        await unit.sessions.add(session(), cookie_hash=None)
        await unit.sessions.add_refresh(b"token", "session-1", at=NOW, expires_at=LATER)

    async def use() -> bool:
        async with with_alice.write() as unit:
            found = await unit.sessions.use_refresh(b"token", NOW)
            assert found is not None
            return found.first

    assert sum(await asyncio.gather(*(use() for _ in range(20)))) == 1


async def test_sessions_that_ended_are_purged_with_their_tokens(database: Database, sql: SqlStorage) -> None:
    async with sql.write() as unit:
        await unit.users.add(user())
        for id_, lasts in (("alive", 5), ("expired", 0), ("revoked", 5)):
            await unit.sessions.add(session(id_, lasts=timedelta(days=lasts)), cookie_hash=None)
            await unit.sessions.add_refresh(id_.encode(), id_, at=NOW, expires_at=LATER)
        # Behind the back of revoke(), which drops the tokens itself.
    async with database.write() as connection:
        await connection.change(
            schema.sessions.update().where(schema.sessions.c.id == "revoked").values(revoked_at=NOW)
        )
    async with sql.write() as unit:
        assert await unit.sessions.purge(NOW) == 0
        assert await unit.sessions.purge(LATER) == 2
        assert await unit.sessions.get("alive") is not None
        assert await unit.sessions.get("expired") is None
    assert await rows(database, "refresh_tokens", "session_id") == [("alive",)]


# ---------------------------------------------------------------------------------------------------------------------
# API tokens
# ---------------------------------------------------------------------------------------------------------------------


async def test_an_api_token_is_found_by_any_of_its_macs_with_its_owner(with_alice: Storage) -> None:
    full = replace(api_token("t1"), guild_id="1", expires_at=LATER, last_used_at=NOW)
    async with with_alice.write() as unit:
        await unit.api_tokens.add(full, b"mac 1")
        await unit.api_tokens.add(api_token("t2"), b"mac 2")
    async with with_alice.read() as unit:
        for macs in ([b"mac 1"], [b"other", b"mac 1"], [b"mac 1", b"other", b"third"]):
            found = await unit.api_tokens.by_macs(macs)
            assert found is not None
            assert (found.token, found.user.id) == (full, "user-alice")
        assert await unit.api_tokens.by_macs([b"other", b"mac"]) is None
        assert await unit.api_tokens.by_macs([]) is None
        assert await unit.api_tokens.get("t1") == full
        assert await unit.api_tokens.get("t3") is None
    async with with_alice.write() as unit:
        locked = await unit.api_tokens.locked("t1")
        assert locked is not None
        assert (locked.token, locked.user.id) == (full, "user-alice")
        assert await unit.api_tokens.locked("t3") is None


async def test_ids_and_macs_of_api_tokens_are_unique_and_their_owner_exists(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        await unit.api_tokens.add(api_token("t1"), b"mac 1")
    for token, mac in ((api_token("t1"), b"mac 2"), (api_token("t2"), b"mac 1")):
        with pytest.raises(UniqueViolation):
            async with with_alice.write() as unit:
                await unit.api_tokens.add(token, mac)
    with pytest.raises(ConstraintBroken):
        async with with_alice.write() as unit:
            await unit.api_tokens.add(replace(api_token("t2"), user_id="nobody"), b"mac 2")


async def test_api_tokens_are_paged_newest_first_and_counted_until_they_expire(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        for number in range(3):
            expires_at = None if number else LATER
            await unit.api_tokens.add(replace(api_token(f"t{number}"), expires_at=expires_at), bytes([number]))
        assert [each.id for each in await unit.api_tokens.page("user-alice", after=None, limit=2)] == ["t2", "t1"]
        assert [each.id for each in await unit.api_tokens.page("user-alice", after="t1", limit=2)] == ["t0"]
        assert not await unit.api_tokens.page("nobody", after=None, limit=2)
        assert await unit.api_tokens.count("user-alice", NOW) == 3
        assert await unit.api_tokens.count("user-alice", LATER) == 2
        assert await unit.api_tokens.key_versions(LATER) == {1: 2}


async def test_a_use_of_an_api_token_is_never_set_back(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        await unit.api_tokens.add(api_token("t1"), b"mac")
        for at in (NOW, LATER, NOW):
            await unit.api_tokens.touch("t1", at)
        await unit.api_tokens.touch("unknown", NOW)
        assert await unit.api_tokens.get("t1") == replace(api_token("t1"), last_used_at=LATER)


async def test_an_api_token_gets_another_mac_once(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        await unit.api_tokens.add(api_token("t1"), b"mac 1")
        await unit.api_tokens.renew("t1", former=1, mac=b"mac 2", key_version=2)
        await unit.api_tokens.renew("t1", former=1, mac=b"mac 3", key_version=3)
        assert await unit.api_tokens.by_macs([b"mac 1", b"mac 3"]) is None
        found = await unit.api_tokens.by_macs([b"mac 2"])
        assert found is not None
        assert found.token == replace(api_token("t1"), key_version=2)


async def test_api_tokens_end_one_by_one_all_of_a_user_or_by_their_time(with_alice: Storage) -> None:
    async with with_alice.write() as unit:
        await unit.users.add(user("Bob"))
        await unit.api_tokens.add(replace(api_token("bobs"), user_id="user-bob"), b"bob")
        for number in range(4):
            expires_at = LATER if number == 3 else None
            await unit.api_tokens.add(replace(api_token(f"t{number}"), expires_at=expires_at), bytes([number]))
        assert await unit.api_tokens.delete("t0")
        assert not await unit.api_tokens.delete("t0")
        assert await unit.api_tokens.purge(LATER) == 0
        assert await unit.api_tokens.purge(LATER + timedelta(seconds=1), limit=5) == 1
        assert await unit.api_tokens.end_all_of("user-alice") == 2
        assert await unit.api_tokens.get("bobs") is not None


# ---------------------------------------------------------------------------------------------------------------------
# Credentials
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_credential_comes_back_as_stored(storage: Storage) -> None:
    full = replace(
        credential(),
        owner=GUILD,
        version=7,
        fingerprint=None,
        status=Status.COULD_NOT_CHECK,
        last_used_at=NOW,
        last_verified_at=LATER,
        deleted_at=LATER,
    )
    async with storage.write() as unit:
        await unit.credentials.add(credential())
        await unit.credentials.add(replace(full, id="full"))
    async with storage.read() as unit:
        assert await unit.credentials.get("credential-1") == credential()
        assert await unit.credentials.get("full") == replace(full, id="full")
        assert await unit.credentials.get("unknown") is None


async def test_every_status_and_owner_kind_can_be_stored(storage: Storage) -> None:
    async with storage.write() as unit:
        for status in Status:
            await unit.credentials.add(replace(credential(status, label=status), status=status))
            found = await unit.credentials.get(status)
            assert found is not None
            assert found.status is status


async def test_a_live_label_is_unique_per_owner_and_provider_however_it_is_capitalised(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.credentials.add(credential("1", label="Straße"))
        await unit.credentials.add(credential("2", label="STRASSE", owner=GUILD))
        await unit.credentials.add(replace(credential("3", label="STRASSE"), provider="github"))
        await unit.credentials.add(replace(credential("4", label="STRASSE"), deleted_at=NOW))
        await unit.credentials.add(replace(credential("5", label="STRASSE"), deleted_at=NOW))
        await unit.credentials.add(credential("other"))
    with pytest.raises(UniqueViolation):
        async with storage.write() as unit:
            await unit.credentials.add(credential("6", label="STRASSE"))
    with pytest.raises(UniqueViolation):
        async with storage.write() as unit:
            await unit.credentials.change("other", expected_version=1, label="STRASSE", expires_at=None, at=NOW)
    with pytest.raises(UniqueViolation):
        async with storage.write() as unit:
            await unit.credentials.set_removed("4", expected_version=1, at=NOW, removed=False)
    with pytest.raises(UniqueViolation):
        async with storage.write() as unit:
            await unit.credentials.move(
                "2", expected_version=1, owner=ALICE, label="straße", encrypted_value=b"x", key_version=1, at=NOW
            )


async def test_the_credentials_of_an_owner_are_found_by_provider_label_and_state(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.credentials.add(credential("c", label="Third"))
        await unit.credentials.add(credential("a", label="First"))
        await unit.credentials.add(replace(credential("b", label="Second"), provider="github"))
        await unit.credentials.add(replace(credential("d", label="Gone"), deleted_at=NOW))
        await unit.credentials.add(credential("e", label="Foreign", owner=GUILD))
        await unit.credentials.add(credential("f", label="Foreign", owner=Owner(OwnerKind.GUILD, ALICE.id)))

    async def ids(**wanted: Any) -> list[str]:
        async with storage.read() as unit:
            return [each.id for each in await unit.credentials.of_owner(ALICE, **wanted)]

    assert await ids() == ["a", "b", "c"]
    assert await ids(provider="openai") == ["a", "c"]
    assert await ids(label="FIRST") == ["a"]
    assert await ids(provider="github", label="First") == []
    assert await ids(removed=True) == ["d"]
    assert await ids(after="a") == ["b", "c"]
    assert await ids(limit=2) == ["a", "b"]
    async with storage.read() as unit:
        assert await unit.credentials.count(ALICE) == 4
        assert await unit.credentials.count(Owner(OwnerKind.USER, "nobody")) == 0
        assert [each.id for each in await unit.credentials.page(after=None, limit=4)] == ["a", "b", "c", "d"]
        assert [each.id for each in await unit.credentials.page(after="d", limit=4)] == ["e", "f"]


async def test_rows_of_an_owner_are_counted_together_with_a_look_at_the_account(with_alice: Storage) -> None:
    there, alone = user("Alice"), Owner(OwnerKind.USER, "user-bob")
    guild = Owner(OwnerKind.GUILD, ALICE.id)  # of the same id, which makes it nobody's account
    async with with_alice.write() as unit:
        await unit.users.add(user("Bob"))
        await unit.credentials.add(credential("a", label="First"))
        await unit.credentials.add(replace(credential("b", label="Gone"), deleted_at=NOW))
        await unit.credentials.add(credential("c", owner=guild))
        assert await unit.credentials.count_and_account(ALICE) == (2, there)
        assert await unit.credentials.count_and_account(alone) == (0, user("Bob"))
        assert await unit.credentials.count_and_account(guild) == (1, None)
        assert await unit.credentials.count_and_account(Owner(OwnerKind.USER, "nobody")) == (0, None)


async def test_changes_that_people_make_count_the_version_up(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.credentials.add(replace(credential(), status=Status.VALID, last_used_at=NOW, last_verified_at=NOW))
        assert await unit.credentials.change(
            "credential-1", expected_version=1, label="Ünique", expires_at=None, at=LATER
        )
        relabelled = replace(
            credential(),
            label="Ünique",
            status=Status.VALID,
            last_used_at=NOW,
            last_verified_at=NOW,
            version=2,
            expires_at=None,
            updated_at=LATER,
        )
        assert await unit.credentials.get("credential-1") == relabelled
        assert await unit.credentials.replace(
            "credential-1",
            expected_version=2,
            encrypted_value=b"new",
            key_version=2,
            fingerprint="f" * 16,
            expires_at=LATER,
            at=NOW,
        )
        replaced = replace(
            relabelled,
            encrypted_value=b"new",
            key_version=2,
            fingerprint="f" * 16,
            expires_at=LATER,
            status=Status.UNCHECKED,
            last_used_at=None,
            last_verified_at=None,
            version=3,
            updated_at=NOW,
        )
        assert await unit.credentials.get("credential-1") == replaced
        assert await unit.credentials.set_removed("credential-1", expected_version=3, at=LATER, removed=True)
        removed = replace(replaced, deleted_at=LATER, updated_at=LATER, version=4)
        assert await unit.credentials.get("credential-1") == removed
        assert await unit.credentials.set_removed("credential-1", expected_version=4, at=NOW, removed=False)
        assert await unit.credentials.get("credential-1") == replace(replaced, version=5)
        assert await unit.credentials.move(
            "credential-1",
            expected_version=5,
            owner=GUILD,
            label="Moved",
            encrypted_value=b"moved",
            key_version=3,
            at=LATER,
        )
        assert await unit.credentials.get("credential-1") == replace(
            replaced, owner=GUILD, label="Moved", encrypted_value=b"moved", key_version=3, version=6, updated_at=LATER
        )


@pytest.mark.parametrize("credential_id", ["credential-1", "unknown"])
async def test_a_change_of_another_version_or_row_changes_nothing(storage: Storage, credential_id: str) -> None:
    expected: dict[str, Any] = {"expected_version": 2, "at": LATER}
    async with storage.write() as unit:
        await unit.credentials.add(credential())
        sealed: dict[str, Any] = {"encrypted_value": b"x", "key_version": 1}
        repository = unit.credentials
        assert not await repository.change(credential_id, **expected, label="x", expires_at=None)
        assert not await repository.replace(credential_id, **expected, **sealed, fingerprint=None, expires_at=None)
        assert not await repository.set_removed(credential_id, **expected, removed=True)
        assert not await repository.move(credential_id, **expected, **sealed, owner=GUILD, label="x")
        assert await unit.credentials.get("credential-1") == credential()


async def test_of_ten_changes_of_one_version_at_once_one_is_made(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.credentials.add(credential())

    async def change(number: int) -> bool:
        async with storage.read() as unit:
            found = await unit.credentials.get("credential-1")
        assert found is not None
        async with storage.write() as unit:
            return await unit.credentials.change(
                "credential-1", expected_version=1, label=f"label {number}", expires_at=None, at=NOW
            )

    made = await asyncio.gather(*(change(number) for number in range(10)))
    assert sum(made) == 1
    async with storage.read() as unit:
        found = await unit.credentials.get("credential-1")
        assert found is not None
        assert (found.label, found.version) == (f"label {made.index(True)}", 2)


async def test_use_and_status_are_noted_without_a_new_version(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.credentials.add(credential())
        await unit.credentials.mark_used("credential-1", LATER)
        await unit.credentials.mark_used("credential-1", NOW)
        await unit.credentials.set_status("credential-1", Status.VALID, NOW)
        await unit.credentials.set_status("credential-1", Status.COULD_NOT_CHECK, LATER)
        assert await unit.credentials.get("credential-1") == replace(
            credential(), last_used_at=LATER, status=Status.COULD_NOT_CHECK, last_verified_at=NOW
        )
        await unit.credentials.set_status("credential-1", Status.REFUSED, LATER)
        found = await unit.credentials.get("credential-1")
        assert found is not None
        assert found.last_verified_at == LATER


async def test_the_history_is_told_latest_first_and_can_be_sealed_again(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.credentials.add(credential())
        await unit.credentials.add(credential("other", label="Other"))
        for version in (1, 3, 2):
            await unit.credentials.add_history(former(version))
        await unit.credentials.add_history(former(1, credential_id="other"))
        await unit.credentials.replace_history("credential-1/2", encrypted_value=b"again", key_version=9)
    async with storage.read() as unit:
        again = replace(former(2), encrypted_value=b"again", key_version=9)
        assert await unit.credentials.history("credential-1") == [former(3), again, former(1)]
        assert await unit.credentials.history("unknown") == []


async def test_a_former_secret_is_found_by_its_id(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.credentials.add(credential())
        await unit.credentials.add_history(former(1))
        assert await unit.credentials.former(former(1).id) == former(1)
        assert await unit.credentials.former("another") is None


async def test_every_read_of_a_credential_tells_when_its_latest_former_secret_was_replaced(storage: Storage) -> None:
    owner = credential().owner
    async with storage.write() as unit:
        await unit.credentials.add(credential())
        await unit.credentials.add(credential("other", label="Other"))
        for version in (1, 3, 2):
            await unit.credentials.add_history(former(version))
    for latest in (3, 2, 1, None):
        at = former(latest).replaced_at if latest else None
        async with storage.read() as unit:
            expected = [replace(credential(), replaced_at=at), credential("other", label="Other")]
            assert [await unit.credentials.get(each.id) for each in expected] == expected
            assert await unit.credentials.of_owner(owner) == expected
            assert await unit.credentials.page(after=None, limit=9) == expected
        if latest is not None:
            async with storage.write() as unit:
                await unit.credentials.drop_history(former(latest).id)


@pytest.mark.parametrize("owner", [ALICE, None], ids=["of one owner", "of everybody"])
async def test_live_credentials_are_counted_per_provider(storage: Storage, owner: Owner | None) -> None:
    """What has expired at that moment, and whose secret has been in force for more than 180 days by then."""
    now = NOW + timedelta(days=400)
    old, fresh = now - AGED_AFTER - timedelta(microseconds=1), now - AGED_AFTER
    async with storage.write() as unit:
        for number, (created, expires, removed) in enumerate(
            [(old, None, False), (fresh, now, False), (old, now + timedelta(hours=1), False), (old, None, True)]
        ):
            record = replace(credential(f"c{number}", label=f"l{number}"), created_at=created, expires_at=expires)
            await unit.credentials.add(replace(record, deleted_at=NOW if removed else None, updated_at=created))
        await unit.credentials.add_history(replace(former(1, credential_id="c2"), replaced_at=fresh))
        await unit.credentials.add(replace(credential("c4", owner=GUILD), provider="groq", expires_at=None))
        await unit.credentials.mark_used("c1", LATER)
        await unit.credentials.set_status("c0", Status.VALID, NOW)
    openai = ProviderTotals(
        provider="openai", total=3, expired=1, aged=1, oldest_update=old, last_used=LATER, last_verified=NOW
    )
    async with storage.read() as unit:
        if owner is not None:
            assert await unit.credentials.totals_of_owner(owner, now) == [openai]
            return
        of_all = await unit.credentials.totals_between(None, "c4", now)
        assert [(each.provider, each.total, each.aged) for each in of_all] == [("groq", 1, 1), ("openai", 3, 1)]
        assert await unit.credentials.totals_between(None, "c3", now) == [openai]
        (one,) = await unit.credentials.totals_between("c0", "c1", now)
        assert (one.total, one.expired, one.aged, one.last_verified) == (1, 1, 0, None)


async def test_removed_credentials_are_purged_with_their_history(database: Database, sql: SqlStorage) -> None:
    async with sql.write() as unit:
        await unit.credentials.add(replace(credential(), deleted_at=NOW))
        await unit.credentials.add_history(former(1))
        await unit.credentials.add(credential("live"))
        assert await unit.credentials.purge_removed(NOW) == 0
        assert await unit.credentials.purge_removed(LATER) == 1
        assert [each.id for each in await unit.credentials.page(after=None, limit=9)] == ["live"]
    assert await rows(database, "credential_history") == []


async def test_a_credential_has_an_id_of_its_own(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.credentials.add(credential())
    with pytest.raises(UniqueViolation):
        async with storage.write() as unit:
            await unit.credentials.add(credential(label="Other"))


async def test_a_former_secret_needs_its_credential_and_a_version_of_its_own(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.credentials.add(credential())
        await unit.credentials.add_history(former(1))
    with pytest.raises(UniqueViolation):
        async with storage.write() as unit:
            await unit.credentials.add_history(replace(former(1), id="another"))
    with pytest.raises(ConstraintBroken):
        async with storage.write() as unit:
            await unit.credentials.add_history(former(1, credential_id="unknown"))


async def test_a_change_of_an_unknown_credential_or_former_secret_changes_nothing(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.credentials.add(credential())
        await unit.credentials.add_history(former(1))
        await unit.credentials.mark_used("unknown", LATER)
        await unit.credentials.set_status("unknown", Status.VALID, LATER)
        assert not await unit.credentials.set_fingerprint("unknown", expected_version=1, fingerprint=None)
        assert not await unit.credentials.set_fingerprint("credential-1", expected_version=2, fingerprint=None)
        await unit.credentials.replace_history("unknown", encrypted_value=b"x", key_version=1)
        await unit.credentials.drop_history("unknown")
        assert await unit.credentials.history("credential-1") == [former(1)]
        assert await unit.credentials.get("credential-1") == replace(credential(), replaced_at=former(1).replaced_at)


async def test_a_sharer_is_replaced_in_guilds_only(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.credentials.add(credential("own"))
        await unit.credentials.add(credential("shared", owner=GUILD))
        await unit.credentials.add(replace(credential("other", owner=GUILD, label="Other"), created_by="user-bob"))
        assert await unit.credentials.reassign_sharer("user-alice", "user-carol") == 1
        sharers = {each.id: each.created_by for each in await unit.credentials.page(after=None, limit=9)}
        assert sharers == {"own": "user-alice", "shared": "user-carol", "other": "user-bob"}
        assert [each.id for each in await unit.credentials.of_owner(GUILD, created_by="user-bob")] == ["other"]


async def test_lost_keys_cost_fingerprints_and_what_they_encrypted(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.credentials.add(replace(credential("kept"), key_version=2))
        await unit.credentials.add(replace(credential("lost", label="Lost"), key_version=3))
        await unit.credentials.forget_keys(opening=[1, 2])
        found = {each.id: (each.fingerprint, each.status) for each in await unit.credentials.page(after=None, limit=9)}
        assert found == {"kept": (None, Status.UNCHECKED), "lost": (None, Status.UNREADABLE)}


# ---------------------------------------------------------------------------------------------------------------------
# Audit
# ---------------------------------------------------------------------------------------------------------------------


async def test_an_audit_row_is_stored_unsealed_with_ids_for_people_and_addresses(
    database: Database, sql: SqlStorage
) -> None:
    async with sql.write() as unit:
        await unit.users.add(user())
        await unit.audit.append(event(subject_id="subject-alice", address="192.0.2.7"))
        await unit.audit.append(event(address="192.0.2.7"))
        await unit.audit.append(replace(event(), result=Result.INTENT, detail={}))
    [(address_id,)] = await rows(database, "subjects WHERE kind = 'address' AND value = '192.0.2.7'", "id")
    assert address_id != "192.0.2.7"
    assert await rows(
        database,
        "audit_events ORDER BY id",
        "action, result, source, subject_id, address_id, object_kind, object_id, detail, segment, seal",
    ) == [
        (
            "credential.used",
            result,
            "discord",
            subject_id,
            address,
            "credential",
            "credential-1",
            detail,
            None,
            None,
        )
        for result, subject_id, address, detail in (
            ("ok", "subject-alice", address_id, r'{"attempt":2,"paid_by":"member","\u00fcber":"\u00df"}'),
            ("ok", None, address_id, r'{"attempt":2,"paid_by":"member","\u00fcber":"\u00df"}'),
            ("intent", None, None, "{}"),
        )
    ]


async def test_uses_are_counted_by_day_from_the_latest_on(storage: Storage) -> None:
    async def uses(since: datetime, most: int = 100) -> Mapping[date, int]:
        async with storage.read() as unit:
            return await unit.audit.uses_per_day("credential-1", since=since, most=most)

    used = replace(event(), result=Result.INTENT)
    midnight = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    async with storage.write() as unit:
        for at in (midnight - timedelta(days=3), midnight - timedelta(microseconds=1), midnight, NOW):
            await unit.audit.append(replace(used, at=at))
            await unit.audit.append(replace(used, at=at, result=Result.OK))
            await unit.audit.append(replace(used, at=at, object_id="credential-2"))
            await unit.audit.append(replace(used, at=at, action=Action.CREDENTIAL_REVEALED))
    today = NOW.date()
    assert await uses(midnight - timedelta(days=1)) == {today - timedelta(days=1): 1, today: 2}
    assert await uses(midnight - timedelta(days=3)) == {
        today - timedelta(days=3): 1,
        today - timedelta(days=1): 1,
        today: 2,
    }
    assert await uses(midnight - timedelta(days=3), most=3) == {today - timedelta(days=1): 1, today: 2}
    assert await uses(LATER) == {}


async def test_uses_are_counted_by_the_person_the_most_frequent_first(storage: Storage) -> None:
    used = replace(event(), result=Result.INTENT, at=NOW)
    async with storage.write() as unit:
        for name in ("Alice", "Bob"):
            await unit.users.add(user(name))
        for subject_id in (None, "subject-bob", "subject-alice", "subject-bob", "subject-bob", "subject-alice"):
            await unit.audit.append(replace(used, subject_id=subject_id))
        await unit.audit.append(replace(used, subject_id="subject-alice", result=Result.OK))
        await unit.audit.append(replace(used, subject_id="subject-alice", object_id="credential-2"))

    async def people(since: datetime, most: int = 100, people: int = 9) -> list[tuple[str | None, int]]:
        async with storage.read() as unit:
            found = await unit.audit.uses_per_person("credential-1", since=since, most=most, people=people)
            return [(each.name, each.uses) for each in found]

    assert await people(NOW) == [("Bob", 3), ("Alice", 2), (None, 1)]
    assert await people(NOW, people=1) == [("Bob", 3)]
    assert sum(uses for _, uses in await people(NOW, most=2)) == 2
    assert await people(LATER) == []


async def test_an_address_that_many_meet_at_once_has_one_id(database: Database, sql: SqlStorage) -> None:
    async def append() -> None:
        async with sql.write() as unit:
            await unit.audit.append(event(address="2001:db8::7"))

    await asyncio.gather(*(append() for _ in range(10)))
    assert len(await rows(database, "subjects")) == 1
    assert len(await rows(database, "audit_events", "address_id")) == 10


async def test_any_number_of_addresses_is_met_on_one_connection(database: Database, sql: SqlStorage) -> None:
    """From the sixth time on PostgreSQL plans a statement without its parameters."""
    async with sql.write() as unit:
        for number in range(12):
            await unit.audit.append(event(address=f"192.0.2.{number}"))
    assert len(await rows(database, "subjects")) == 12


async def test_an_audit_row_goes_with_its_unit_of_work(database: Database, sql: SqlStorage) -> None:
    async def fail_after_it() -> None:
        async with sql.write() as unit:
            await unit.audit.append(event(address="192.0.2.7"))
            await unit.users.claim_owner("user-alice", NOW)
            await unit.users.claim_owner("user-alice", NOW)

    with pytest.raises(UniqueViolation):
        await fail_after_it()
    assert await rows(database, "audit_events") == []


# ---------------------------------------------------------------------------------------------------------------------
# Instances
# ---------------------------------------------------------------------------------------------------------------------


def instance(id_: str = "i1") -> Instance:
    """Its times are wrong on purpose: the database's count."""
    return Instance(
        id=id_,
        kind="web",
        host="höst",
        pid=4_194_304,
        started_at=NOW - timedelta(days=999),
        lease_until=NOW + timedelta(days=999),
        epochs={"AES_KEY": 3, "JWT_SECRET_KEY": 1},
    )


async def test_a_lease_runs_on_the_clock_of_the_database(storage: Storage) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)  # SQLite has milliseconds
    async with storage.write() as unit:
        await unit.instances.register(instance(), timedelta(seconds=15))
    after = datetime.now(UTC)
    async with storage.read() as unit:
        [found] = await unit.instances.live()
    assert found == replace(instance(), started_at=found.started_at, lease_until=found.lease_until)
    assert before <= found.started_at <= after
    assert timedelta(seconds=15) <= found.lease_until - found.started_at < timedelta(seconds=16)


async def test_a_lease_is_renewed_with_the_epochs_and_given_back(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.instances.register(instance(), timedelta(seconds=15))
        assert await unit.instances.renew("i1", {"AES_KEY": 4}, timedelta(seconds=100))
        assert not await unit.instances.renew("gone", {}, timedelta(seconds=100))
        [found] = await unit.instances.live()
        assert found.epochs == {"AES_KEY": 4}
        assert found.lease_until - found.started_at > timedelta(seconds=90)
        await unit.instances.leave("i1")
        assert await unit.instances.live() == []


async def test_a_lapsed_lease_is_not_live_and_can_be_renewed_until_it_is_purged(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.instances.register(instance(), timedelta(seconds=-60))
        await unit.instances.register(instance("i2"), timedelta(seconds=60))
        assert [each.id for each in await unit.instances.live()] == ["i2"]
        assert await unit.instances.purge(timedelta(seconds=100)) == 0
        assert await unit.instances.renew("i1", {}, timedelta(seconds=-60))
        assert await unit.instances.purge(timedelta(seconds=30)) == 1
        assert not await unit.instances.renew("i1", {}, timedelta(seconds=15))


# ---------------------------------------------------------------------------------------------------------------------
# Attempts, idempotency, bot state
# ---------------------------------------------------------------------------------------------------------------------


async def test_wrong_passwords_are_counted_per_key_and_minute(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.attempts.hit(["alice"], NOW)
        await unit.attempts.hit(["bob", "alice"], NOW)
        await unit.attempts.hit(["alice"], NOW)
        await unit.attempts.hit(["alice"], LATER)
    before = NOW - timedelta(microseconds=1)
    async with storage.read() as unit:
        counts = await unit.attempts.counts({"alice": before, "bob": before, "carol": before})
        assert counts == {"alice": [(NOW, 3), (LATER, 1)], "bob": [(NOW, 1)]}
        assert await unit.attempts.counts({"alice": NOW, "bob": before}) == {"alice": [(LATER, 1)], "bob": [(NOW, 1)]}
        assert await unit.attempts.counts({}) == {}


async def test_the_counts_of_a_prefix_are_forgotten_and_no_others(storage: Storage) -> None:
    async with storage.write() as unit:
        for key in ("account/a/x", "account/a/x", "account/a/y", "account/A/x", "account/ab/x", "account/%/x", "a"):
            await unit.attempts.hit([key], NOW)
        assert await unit.attempts.forget(["account/%/"]) == 1
        assert await unit.attempts.forget(["account/a/"]) == 2
        assert await unit.attempts.forget(["account/a/"]) == 0
        assert await unit.attempts.forget(["account/A/", "nobody/"]) == 1
        left = await unit.attempts.counts(dict.fromkeys(["account/a/x", "account/ab/x", "a"], EARLIER))
        assert set(left) == {"account/ab/x", "a"}


async def test_old_counts_are_purged(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.attempts.hit(["k"], NOW)
        await unit.attempts.hit(["k"], LATER)
        assert await unit.attempts.purge(LATER) == 1
        assert await unit.attempts.counts({"k": EARLIER}) == {"k": [(LATER, 1)]}


async def test_of_twenty_attempts_at_once_each_is_counted(storage: Storage) -> None:
    async def hit(keys: list[str]) -> None:
        async with storage.write() as unit:
            await unit.attempts.hit(keys, NOW)

    keys = ["a", "b", "c"]
    await asyncio.gather(*(hit(keys[:: 1 if even else -1]) for even in [True, False] * 10))
    async with storage.lookup() as unit:
        counts = await unit.attempts.counts(dict.fromkeys(keys, EARLIER))
    assert counts == {key: [(NOW, 20)] for key in keys}


async def test_an_idempotent_request_is_remembered_once_per_user(storage: Storage) -> None:
    request = IdempotentRequest(user_id="u", key="k", mac=b"\x00mac", resource_id="credential-1", created_at=NOW)
    async with storage.write() as unit:
        await unit.idempotency.add(request, lapsed_before=NOW)
        await unit.idempotency.add(replace(request, user_id="another"), lapsed_before=NOW)
        assert await unit.idempotency.get("u", "k") == request
        assert await unit.idempotency.get("u", "unknown") is None
    with pytest.raises(UniqueViolation):
        async with storage.write() as unit:
            await unit.idempotency.add(replace(request, mac=b"other"), lapsed_before=NOW)
    later = replace(request, mac=b"other", resource_id="credential-2", created_at=LATER)
    async with storage.write() as unit:
        await unit.idempotency.add(later, lapsed_before=LATER)
        assert await unit.idempotency.get("u", "k") == later
        assert await unit.idempotency.get("another", "k") is not None
    async with storage.write() as unit:
        assert await unit.idempotency.purge(NOW) == 0
        assert await unit.idempotency.purge(LATER) == 1
        assert await unit.idempotency.purge(LATER + timedelta(microseconds=1)) == 1
        assert await unit.idempotency.get("u", "k") is None


async def test_a_fact_of_the_bot_is_replaced(storage: Storage) -> None:
    async with storage.write() as unit:
        assert await unit.bot_state.get("tree") is None
        await unit.bot_state.put("tree", "old", NOW)
        await unit.bot_state.put("tree", "new", LATER)
        assert await unit.bot_state.get("tree") == "new"


async def test_a_schedule_is_replaced(storage: Storage) -> None:
    schedule = KeySchedule(name=KeyName.AES_KEY, rotation_days=30, automatic=True)
    async with storage.write() as unit:
        assert await unit.schedules.all() == {}
        await unit.schedules.put(schedule, NOW)
        await unit.schedules.put(replace(schedule, rotation_days=60), LATER)
        assert await unit.schedules.all() == {"AES_KEY": replace(schedule, rotation_days=60)}


# ---------------------------------------------------------------------------------------------------------------------
# Jobs
# ---------------------------------------------------------------------------------------------------------------------

LASTING, LAPSED = timedelta(hours=1), timedelta(hours=-1)


def job(id_: str, *, unique_key: str | None = None, kind: JobKind = JobKind.KEY_AGES) -> Job:
    return Job(id=id_, kind=kind, payload={"names": ["ß"]}, unique_key=unique_key, run_at=NOW, created_at=NOW)


async def test_a_job_comes_back_as_stored_and_is_due_at_once(storage: Storage) -> None:
    progress = Progress(step="scan", cursor={"after": "ü"}, done=1, total=2, note="halfway")
    stored = replace(job("a"), progress=progress, requested_by="user-alice")
    async with storage.write() as unit:
        assert await unit.jobs.add(stored)
        found = await unit.jobs.get("a")
        assert found is not None
        assert replace(found, run_at=NOW) == stored
        assert await unit.jobs.get("unknown") is None
        assert await unit.jobs.claim("me", LASTING) is not None


async def test_of_one_unique_key_one_job_is_unfinished(storage: Storage) -> None:
    async with storage.write() as unit:
        assert await unit.jobs.add(job("a", unique_key="k"))
        assert not await unit.jobs.add(job("b", unique_key="k"))
        assert await unit.jobs.add(job("c", unique_key="other"))
        assert await unit.jobs.cancel("a")
        assert not await unit.jobs.cancel("a")
        assert await unit.jobs.unfinished("k") is None
        assert await unit.jobs.add(job("d", unique_key="k"))
        assert await unit.jobs.claim("me", LASTING, job_id="d") is not None
        await unit.jobs.free_key("d", "me")
        assert await unit.jobs.add(job("e", unique_key="k"))
        assert [each.id for each in await unit.jobs.unfinished_of(JobKind.KEY_AGES)] == ["e", "d", "c"]
        assert await unit.jobs.unfinished_of(JobKind.KEY_ROTATION) == []
        assert [each.id for each in await unit.jobs.page(before="e", limit=2)] == ["d", "c"]


async def test_the_job_that_is_due_for_longest_is_claimed_and_a_lapsed_claim_is_lost(storage: Storage) -> None:
    async with storage.write() as unit:
        await unit.jobs.add(job("later"), at=NOW + timedelta(days=36_500))
        await unit.jobs.add(job("b"), at=datetime(2020, 1, 1, tzinfo=UTC))
        await unit.jobs.add(job("a"), at=datetime(2020, 1, 2, tzinfo=UTC))
        first = await unit.jobs.claim("first", LAPSED)
        assert first is not None
        assert (first.id, first.state, first.attempts) == ("b", JobState.RUNNING, 1)
        second = await unit.jobs.claim("second", LASTING)
        assert second is not None
        assert (second.id, second.attempts) == ("b", 2)
        assert not await unit.jobs.hold("b", "first", LASTING)
        assert not await unit.jobs.release("b", "first", JobState.DONE)
        assert await unit.jobs.claim("third", LASTING, job_id="later") is None
        assert await unit.jobs.claim("third", LASTING) is not None
        assert await unit.jobs.claim("third", LASTING) is None


async def test_a_released_job_waits_or_is_over_and_counts_its_attempts(storage: Storage) -> None:
    async def run(*, error: str | None, counted: bool = True) -> int:
        assert await unit.jobs.claim("me", LASTING) is not None
        assert await unit.jobs.release("a", "me", JobState.WAITING, error=error, counted=counted)
        found = await unit.jobs.get("a")
        assert found is not None
        assert (found.state, found.error) == (JobState.WAITING, error)
        return found.attempts

    async with storage.write() as unit:
        await unit.jobs.add(job("a"))
        assert [await run(error="broken"), await run(error="broken"), await run(error="late", counted=False)] == [
            1,
            2,
            2,
        ]
        assert await run(error=None) == 0
        assert not await unit.jobs.hold("a", "me", LASTING)
        assert not await unit.jobs.cancel("unknown")
        assert await unit.jobs.claim("me", LASTING) is not None
        assert not await unit.jobs.cancel("a")
        assert not await unit.jobs.bring_forward("a")
        progress = Progress(step="scan", cursor={"after": "x"})
        assert await unit.jobs.hold("a", "me", LASTING, progress)
        assert await unit.jobs.release("a", "me", JobState.WAITING, pause=LASTING)
        assert await unit.jobs.claim("me", LASTING) is None
        assert not await unit.jobs.cancel("a")  # it was begun
        assert await unit.jobs.bring_forward("a")
        found = await unit.jobs.claim("me", LASTING)
        assert found is not None
        assert found.progress == progress
        assert await unit.jobs.release("a", "me", JobState.DONE)
        over = await unit.jobs.get("a")
        assert over is not None
        assert over.finished_at is not None
        assert await unit.jobs.purge(over.finished_at) == 0
        assert await unit.jobs.purge(over.finished_at + timedelta(seconds=1)) == 1


async def test_every_unfinished_job_of_a_kind_can_be_cancelled(storage: Storage) -> None:
    async with storage.write() as unit:
        for id_ in ("running", "waiting"):
            await unit.jobs.add(job(id_))
        await unit.jobs.add(job("other", kind=JobKind.KEY_ROTATION))
        assert await unit.jobs.claim("me", LASTING, job_id="running") is not None
        assert await unit.jobs.cancel_all(JobKind.KEY_AGES) == 2
        assert not await unit.jobs.hold("running", "me", LASTING)
        assert [each.id for each in await unit.jobs.unfinished_of(JobKind.KEY_ROTATION)] == ["other"]
        assert await unit.jobs.unfinished_of(JobKind.KEY_AGES) == []


# ---------------------------------------------------------------------------------------------------------------------
# Values
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "'; DROP TABLE users; --",
        "%s {0.__class__} $1 :x",
        "\u202eRTL",
        "e\u0301",
        "\u00e9",
        "\U0001f511" * 1000,
    ],
)
async def test_text_comes_back_to_the_letter(storage: Storage, value: str) -> None:
    async with storage.write() as unit:
        await unit.bot_state.put(value, value, NOW)
    async with storage.read() as unit:
        assert await unit.bot_state.get(value) == value


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "a\udfffb"])
async def test_text_that_one_engine_cannot_keep_is_refused_by_both(storage: Storage, value: str) -> None:
    for key, text_ in ((value, "x"), ("x", value)):
        with pytest.raises(InvalidInput):
            async with storage.write() as unit:
                await unit.bot_state.put(key, text_, NOW)
    with pytest.raises(InvalidInput):
        async with storage.read() as unit:
            await unit.users.by_name(value)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 3, 29, 2, 30, 0, 1, tzinfo=timezone(timedelta(hours=-9, minutes=-30))),
    ],
    ids=str,
)
async def test_moments_come_back_to_the_microsecond_in_utc(storage: Storage, moment: datetime) -> None:
    async with storage.write() as unit:
        await unit.credentials.add(replace(credential(), created_at=moment))
    async with storage.read() as unit:
        found = await unit.credentials.get("credential-1")
    assert found is not None
    assert found.created_at == moment
    assert found.created_at.tzinfo is UTC


async def test_moments_are_compared_as_moments(storage: Storage) -> None:
    """Half a second before and after, across the change of a digit, a day and a zone."""
    edge = datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    async with storage.write() as unit:
        await unit.attempts.hit(["k"], edge)
        assert await unit.attempts.purge(edge.astimezone(timezone(timedelta(hours=14)))) == 0
        assert await unit.attempts.purge(edge + timedelta(microseconds=1)) == 1


async def test_a_moment_that_utc_has_no_year_for_is_refused(storage: Storage) -> None:
    with pytest.raises(InvalidInput):
        async with storage.write() as unit:
            await unit.bot_state.put("k", "v", datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))))


async def test_a_moment_without_a_time_zone_is_refused(storage: Storage) -> None:
    with pytest.raises((StatementError, ValueError), match="without a time zone"):
        async with storage.write() as unit:
            await unit.bot_state.put("k", "v", NOW.replace(tzinfo=None))


async def test_a_row_that_a_check_refuses_is_a_bug_and_is_not_repeated(database: Database) -> None:
    statement = schema.subjects.insert().values(id="1", kind="canary-kind", value="canary-value")
    with pytest.raises(ConstraintBroken) as caught:
        async with database.write() as connection:
            await connection.change(statement)
    assert "kind_known" in str(caught.value)
    assert "canary" not in str(caught.value)
    assert caught.value.__suppress_context__


async def test_every_encrypted_column_is_marked_for_whoever_re_encrypts(database: Database) -> None:
    marked = {
        (table.name, column.name)
        for table in schema.metadata.tables.values()
        for column in table.columns
        if column.info.get("encrypted")
    }
    assert marked == {
        ("api_credentials", "encrypted_value"),
        ("credential_history", "encrypted_value"),
        ("totp_factors", "encrypted_secret"),
    }
    async with database.read() as connection:
        for table, column in marked:
            await connection.rows(select(schema.metadata.tables[table].c[column]))


async def test_facts_of_the_bot_are_found_by_their_beginning_and_forgotten(storage: Storage) -> None:
    async with storage.write() as unit:
        for key in ("left/2", "left/1", "left", "lefty", "other"):
            await unit.bot_state.put(key, f"value of {key}", NOW)
        await unit.bot_state.delete("left/2")
        await unit.bot_state.delete("unknown")
        await unit.bot_state.put("left/3", "three", NOW)
    async with storage.read() as unit:
        found = {"left/1": "value of left/1", "left/3": "three"}
        assert await unit.bot_state.starting_with("left/", limit=9) == found
        assert list(await unit.bot_state.starting_with("left/", limit=1)) == ["left/1"]


async def test_credentials_of_a_guild_are_purged_all_or_in_parts(storage: Storage) -> None:
    guilds = [Owner(OwnerKind.GUILD, each) for each in ("7", "8")]
    async with storage.write() as unit:
        await unit.users.add(user())
        await unit.credentials.add(credential("alices"))
        for owner in guilds:
            for number in range(3):
                await unit.credentials.add(credential(f"{owner.id}-{number}", owner=owner, label=f"{number}"))
        await unit.credentials.add_history(former(1, credential_id="7-0"))
        assert await unit.credentials.guilds(after="", limit=9) == ["7", "8"]
        assert await unit.credentials.guilds(after="7", limit=9) == ["8"]
        assert await unit.credentials.guilds(after="", limit=1) == ["7"]
        assert await unit.credentials.purge_of(guilds[0], limit=2) == 2
        assert await unit.credentials.purge_of(guilds[0], limit=9) == 1
        assert await unit.credentials.guilds(after="", limit=9) == ["8"]
        assert await unit.credentials.history("7-0") == []
        assert await unit.credentials.get("alices") is not None
