"""A person's data over the services in memory: what an export holds, and what an erasure leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.audit import Action, Result
from app.domain.credentials import OwnerKind
from app.domain.errors import (
    Forbidden,
    InvalidCredentials,
    InvalidInput,
    InvalidToken,
    LastOwner,
    NotFound,
    OtpRequired,
    ReauthenticationRequired,
)
from app.domain.identity import Actor, Client, GuildContext, Role, Source, User
from app.services.identity import DiscordEvent
from app.services.privacy import ExportPart
from tests.support.fakes import FakeClock, FakeRandomness, FakeStorage
from tests.support.keyhall import Keyhall, open_keyhall
from tests.support.samples import OTHER_SECRET, PASSWORD, SECRET
from tests.support.second_factors import enrol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

WEB = Client(source=Source.WEB, address="192.0.2.9", device="Firefox")
GUILD = GuildContext(guild_id="900000000000000002", manages_guild=True)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def memory(clock: FakeClock) -> FakeStorage:
    return FakeStorage(clock)


@pytest.fixture
async def keyhall(memory: FakeStorage, clock: FakeClock) -> Keyhall:
    return await open_keyhall(memory, clock, FakeRandomness())


async def _signed_in(keyhall: Keyhall, name: str = "mia", role: Role = Role.MEMBER) -> Actor:
    identity = keyhall.services.identity
    try:
        await identity.create(await identity.operator(), name, PASSWORD, role)
    except InvalidInput:  # an owner
        await identity.create_owner(name, PASSWORD, WEB)
    pair = await keyhall.services.authentication.login(name, PASSWORD, WEB)
    return await keyhall.services.requests.authenticate(pair.access_token.reveal(), WEB)


async def _furnished(keyhall: Keyhall) -> Actor:
    """Mia, with a credential of two versions, a removed one and one that she shares."""
    mia = await _signed_in(keyhall)
    added = await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET)
    await keyhall.credentials.replace(mia, added.view.id, OTHER_SECRET)
    gone = await keyhall.credentials.add(mia, provider="github", label="old", secret=SECRET)
    await keyhall.credentials.remove(mia, gone.view.id)
    shared = replace(mia, guild=GUILD)
    await keyhall.credentials.add(shared, provider="groq", label="all", secret=SECRET, guild_id=GUILD.guild_id)
    return mia


async def _discord(keyhall: Keyhall, number: str = "42") -> Actor:
    async def known() -> bool:
        return True

    event = DiscordEvent(discord_id=number, guild=None, member_of_known_guild=known)
    return await keyhall.services.identity.from_discord(event)


async def _parts(parts: AsyncIterator[ExportPart]) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    async for part in parts:
        if part.rows:
            found.setdefault(part.section, []).extend(part.content)
        else:
            found[part.section] = part.content
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Export
# ---------------------------------------------------------------------------------------------------------------------


async def test_an_export_holds_everything_and_no_secret(keyhall: Keyhall) -> None:
    mia = await _furnished(keyhall)
    async with keyhall.credentials.use(mia, "openai"):
        pass
    export = await keyhall.services.personal_data.of_oneself(mia)
    assert export["account"]["username"] == "mia"
    assert export["account"]["has_password"] is True
    assert [each["device"] for each in export["sessions"]] == ["Firefox"]
    by_label = {each["label"]: each for each in export["credentials"]}
    assert set(by_label) == {"main", "old", "all"}
    assert [each["version"] for each in by_label["main"]["versions"]] == [1]
    assert by_label["old"]["removed_at"] is not None
    assert by_label["all"]["guild_id"] == GUILD.guild_id
    actions = [each["action"] for each in export["audit"]]
    assert {"credential.added", "credential.used", "auth.login", "user.created", "user.exported"} <= set(actions)
    assert len({each["id"] for each in export["audit"]}) == len(actions), "each row once"
    assert export["complete"] is True
    text = json.dumps(export, default=str)
    assert SECRET not in text
    assert OTHER_SECRET not in text
    assert PASSWORD not in text


async def test_an_export_needs_a_fresh_proof_except_on_discord(keyhall: Keyhall, clock: FakeClock) -> None:
    mia = await _furnished(keyhall)
    keyhall.advance(clock, timedelta(minutes=11))
    with pytest.raises(ReauthenticationRequired):
        await keyhall.services.personal_data.of_oneself(mia)
    eve = await _discord(keyhall)
    assert (await keyhall.services.personal_data.of_oneself(eve))["account"]["discord_id"] == "42"


async def test_who_else_touched_an_account_is_not_in_its_export(keyhall: Keyhall) -> None:
    mia = await _furnished(keyhall)
    boss = await _signed_in(keyhall, "boss", Role.OWNER)
    await keyhall.services.authentication.unlock(boss, "mia")
    export = await keyhall.services.personal_data.of_oneself(mia)
    (row,) = (each for each in export["audit"] if each["action"] == "user.unlocked")
    assert row["actor"] == "another person"
    assert row["detail"] == {}
    assert "boss" not in json.dumps(export, default=str)


async def test_of_a_long_trail_the_latest_rows_are_answered(keyhall: Keyhall, monkeypatch: pytest.MonkeyPatch) -> None:
    mia = await _furnished(keyhall)
    monkeypatch.setattr("app.services.privacy.export.MOST_ROWS", 3)
    monkeypatch.setattr("app.services.privacy.export._PAGE", 2)
    export = await keyhall.services.personal_data.of_oneself(mia)
    assert export["complete"] is False
    assert [each["action"] for each in export["audit"]][:3] == [
        "user.exported",
        "credential.added",
        "credential.removed",
    ]
    operator = await keyhall.services.identity.operator()
    whole = await _parts(keyhall.services.personal_data.of_user(operator, "mia"))
    assert whole["complete"] is True
    assert len(whole["audit"]) > 6


async def test_secrets_are_exported_by_the_owner_at_the_command_line_alone_and_recorded_first(
    keyhall: Keyhall, memory: FakeStorage
) -> None:
    mia = await _furnished(keyhall)
    export = keyhall.services.personal_data
    boss, admin = await _signed_in(keyhall, "boss", Role.OWNER), await _signed_in(keyhall, "ada", Role.ADMIN)
    for who, wanted in ((boss, True), (admin, False), (mia, False)):
        with pytest.raises(Forbidden):
            await anext(export.of_user(who, "mia", with_secrets=wanted))
    operator = await keyhall.services.identity.operator()
    with memory.full(), pytest.raises(Exception, match="space"):
        await anext(export.of_user(operator, "mia", with_secrets=True))
    found = await _parts(export.of_user(operator, "MIA", with_secrets=True))
    secrets = {each["label"]: each["secret"] for each in found["credentials"]}
    assert secrets == {"main": OTHER_SECRET, "old": SECRET, "all": SECRET}
    assert [each["secret"] for each in found["credentials"][0]["versions"]] == [SECRET]
    assert [action for action, _ in memory.trail()].count(Action.CREDENTIAL_REVEALED) == 3
    with pytest.raises(NotFound):
        await anext(export.of_user(operator, "nobody"))


# ---------------------------------------------------------------------------------------------------------------------
# Erasure
# ---------------------------------------------------------------------------------------------------------------------


async def test_an_erasure_leaves_no_row_of_the_person(keyhall: Keyhall, memory: FakeStorage) -> None:
    mia = await _furnished(keyhall)
    bob = await _signed_in(keyhall, "bob")
    await keyhall.credentials.add(bob, provider="openai", label="main", secret=SECRET)
    preview = await keyhall.services.erasure.preview(mia)
    assert (preview.credentials, preview.shared, preview.sessions) == (2, 1, 1)
    gone = await keyhall.services.erasure.of_oneself(mia, PASSWORD)
    assert (gone.credentials, gone.shared, gone.sessions) == (2, 1, 1)
    tables = memory.tables
    assert {each.username for each in tables.users.values()} == {"bob"}
    assert {each.owner.id for each in tables.credentials.values()} == {bob.user_id}
    assert not tables.history
    assert {each.user_id for each in tables.sessions.values()} == {bob.user_id}
    assert list(tables.erasures) == [mia.user_id]
    last = tables.audit[-1]
    assert (last.action, last.subject_id, last.address) == (Action.USER_ERASED, mia.subject_id, None)


async def test_the_password_is_proven_before_an_erasure(keyhall: Keyhall, memory: FakeStorage) -> None:
    mia = await _furnished(keyhall)
    erasure = keyhall.services.erasure
    with pytest.raises(ReauthenticationRequired):
        await erasure.of_oneself(mia, None)
    with pytest.raises(InvalidCredentials):
        await erasure.of_oneself(mia, "another horse battery")
    assert mia.user_id in memory.tables.users
    await erasure.of_oneself(mia, PASSWORD)
    with pytest.raises(InvalidToken):
        await erasure.of_oneself(mia, PASSWORD)


async def test_addresses_of_failed_sign_ins_go_unless_another_person_used_them(
    keyhall: Keyhall, memory: FakeStorage
) -> None:
    mia = await _furnished(keyhall)
    alone, shared = (Client(source=Source.WEB, address=each) for each in ("198.51.100.5", "198.51.100.6"))
    for client in (alone, shared):
        with pytest.raises(InvalidCredentials):
            await keyhall.services.authentication.login("mia", "another horse battery", client)
    await _signed_in(keyhall, "bob")
    await keyhall.services.authentication.login("bob", PASSWORD, shared)
    await keyhall.services.erasure.of_oneself(mia, PASSWORD)
    addresses = {each.address for each in memory.tables.audit}
    assert alone.address not in addresses
    assert shared.address in addresses


async def test_the_last_owner_cannot_be_erased(keyhall: Keyhall, memory: FakeStorage) -> None:
    boss = await _signed_in(keyhall, "boss", Role.OWNER)
    operator = await keyhall.services.identity.operator()
    assert (await keyhall.services.erasure.preview(boss)).last_owner
    # Nobody else is left either where this owner cannot sign in at the moment, as after a reset.
    stored = memory.tables.users[boss.user_id]
    memory.tables.users[boss.user_id] = replace(stored, password_hash=None)
    assert (await keyhall.services.erasure.preview(boss)).last_owner
    memory.tables.users[boss.user_id] = stored
    with pytest.raises(LastOwner):
        await keyhall.services.erasure.of_oneself(boss, PASSWORD)
    with pytest.raises(LastOwner):
        await keyhall.services.erasure.of_user(operator, "boss", confirm="boss")
    second = User(
        id="second",
        subject_id="s2",
        username="second",
        role=Role.OWNER,
        password_hash="$fake$x",
        created_at=keyhall.clock.now(),
    )
    async with keyhall.storage.write() as uow:
        await uow.users.add(second)
    await keyhall.services.erasure.of_oneself(boss, PASSWORD)
    assert [each.username for each in memory.tables.users.values()] == ["second"]


async def test_only_the_owner_erases_others_and_names_them_twice(keyhall: Keyhall, memory: FakeStorage) -> None:
    mia, admin = await _furnished(keyhall), await _signed_in(keyhall, "ada", Role.ADMIN)
    erasure, operator = keyhall.services.erasure, await keyhall.services.identity.operator()
    for who in (mia, admin):
        with pytest.raises(Forbidden):
            await erasure.of_user(who, "mia", confirm="mia")
    with pytest.raises(InvalidInput):
        await erasure.of_user(operator, "mia", confirm="ada")
    with pytest.raises(NotFound):
        await erasure.of_user(operator, "nobody", confirm="nobody")
    assert mia.user_id in memory.tables.users
    await erasure.of_user(operator, "Mia", confirm="mia")
    assert mia.user_id not in memory.tables.users
    with pytest.raises(NotFound):
        await erasure.of_user(operator, "mia", confirm="mia")


async def test_on_discord_the_name_is_typed_and_a_password_protects(keyhall: Keyhall, memory: FakeStorage) -> None:
    eve, erasure = await _discord(keyhall), keyhall.services.erasure
    with pytest.raises(InvalidInput):
        await erasure.on_discord(eve, "mia", discord_name="eve")
    mia = await _furnished(keyhall)
    with pytest.raises(Forbidden, match="password"):
        await erasure.on_discord(replace(mia, client=Client(source=Source.DISCORD)), "mia", discord_name="mia")
    with pytest.raises(Forbidden):
        await erasure.on_discord(mia, "mia", discord_name="mia")
    await erasure.on_discord(eve, " @Eve ", discord_name="eve")
    assert eve.user_id not in memory.tables.users
    back = await _discord(keyhall)
    assert back.user_id != eve.user_id
    assert back.subject_id != eve.subject_id
    await erasure.on_discord(back, "discord:42", discord_name="eve")


async def test_in_discord_nothing_is_exported_that_a_password_or_a_factor_protects(
    keyhall: Keyhall, clock: FakeClock, memory: FakeStorage
) -> None:
    mia, export = await _furnished(keyhall), keyhall.services.personal_data
    there = replace(mia, client=Client(source=Source.DISCORD))
    with pytest.raises(Forbidden, match="password"):
        await export.of_oneself(there)
    await enrol(keyhall.services, mia, clock.now())
    memory.tables.users[mia.user_id] = replace(memory.tables.users[mia.user_id], password_hash=None)
    with pytest.raises(Forbidden, match="second factor"):
        await export.of_oneself(there)
    assert (Action.USER_EXPORTED, Result.OK) not in memory.trail()


async def test_the_account_that_a_linked_discord_user_had_goes_too(keyhall: Keyhall, memory: FakeStorage) -> None:
    eve, services = await _discord(keyhall), keyhall.services
    user = memory.tables.users[eve.user_id]
    elsewhere = Client(source=Source.WEB, address="203.0.113.77", device="Phone")
    await services.authentication.begin_browser(user, elsewhere)
    mia = await _signed_in(keyhall)
    await services.identity.link(await services.identity.operator(), "mia", "42")
    assert eve.user_id in memory.tables.users
    export = await services.personal_data.of_oneself(mia)
    assert {each["device"] for each in export["sessions"]} == {"Firefox", "Phone"}
    assert len({each["id"] for each in export["audit"]}) == len(export["audit"]), "each row once"
    assert "203.0.113.77" in json.dumps(export["audit"], default=str)
    gone = await services.erasure.of_oneself(mia, PASSWORD)
    assert gone.sessions == 2
    assert not memory.tables.users
    assert not memory.tables.sessions
    assert set(memory.tables.erasures) == {mia.user_id, eve.user_id}
    assert all(each.address != elsewhere.address for each in memory.tables.audit)
    assert (await _discord(keyhall)).user_id != eve.user_id, "the person may come back"


async def test_the_name_is_free_again_and_names_another_person(keyhall: Keyhall) -> None:
    mia = await _furnished(keyhall)
    await keyhall.services.erasure.of_oneself(mia, PASSWORD)
    again = await _signed_in(keyhall)
    assert again.user_id != mia.user_id
    export = await keyhall.services.personal_data.of_oneself(again)
    assert export["credentials"] == []
    assert {each["action"] for each in export["audit"]} == {"user.created", "auth.login", "user.exported"}


async def test_what_a_request_stored_meanwhile_is_swept_away(keyhall: Keyhall, memory: FakeStorage) -> None:
    mia = await _furnished(keyhall)
    await keyhall.services.erasure.of_oneself(mia, PASSWORD)
    shared = replace(mia, guild=GUILD, session_id=None)  # as the bot, which has none
    await keyhall.credentials.add(mia, provider="openai", label="late", secret=SECRET)
    await keyhall.credentials.add(shared, provider="groq", label="late", secret=SECRET, guild_id=GUILD.guild_id)
    await keyhall.housekeeping.sweep()
    assert not memory.tables.credentials
    assert {each.owner.kind for each in memory.tables.credentials.values()} == set[OwnerKind]()


async def test_a_second_factor_is_proven_before_an_erasure(
    keyhall: Keyhall, memory: FakeStorage, clock: FakeClock
) -> None:
    mia, erasure = await _furnished(keyhall), keyhall.services.erasure
    enrolled = await enrol(keyhall.services, mia, clock.now())
    assert (await erasure.preview(mia)).has_factor
    export = await keyhall.services.personal_data.of_oneself(mia)
    assert [each["confirmed_at"] for each in export["factors"]] == [clock.now()]
    with pytest.raises(InvalidCredentials):
        await erasure.of_oneself(mia, "another horse battery", otp=enrolled.recovery_codes[0])
    with pytest.raises(OtpRequired):
        await erasure.of_oneself(mia, PASSWORD)
    with pytest.raises(InvalidCredentials):
        await erasure.of_oneself(mia, PASSWORD, otp=enrolled.app.wrong(clock.now()))
    assert mia.user_id in memory.tables.users
    await erasure.of_oneself(mia, PASSWORD, otp=enrolled.recovery_codes[0])
    assert not memory.tables.factors
    assert not memory.tables.recovery_codes
    assert mia.user_id not in memory.tables.users
