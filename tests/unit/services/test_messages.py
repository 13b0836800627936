"""A token of `/encrypt` opens for whom it was made, and for nobody else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.audit import Action, Result
from app.domain.errors import CannotOpen, Forbidden, InvalidInput, StorageFull
from app.domain.identity import Actor, GuildContext, Source
from app.domain.keys import KeyName
from tests.support.fakes import FakeClock, FakeStorage
from tests.support.keyhall import Keyhall, member

GUILD = "123456789012345678"
OTHER_GUILD = "876543210987654321"


def on_discord(clock: FakeClock, name: str, discord_id: str, guild_id: str | None = GUILD) -> Actor:
    guild = GuildContext(guild_id=guild_id) if guild_id else None
    return member(clock, name, source=Source.DISCORD, guild=guild, discord_id=discord_id)


@pytest.fixture
def mia(clock: FakeClock) -> Actor:
    return on_discord(clock, "mia", "1001")


@pytest.fixture
def tom(clock: FakeClock) -> Actor:
    return on_discord(clock, "tom", "1002")


@pytest.mark.parametrize("text", ["x", " kept to the letter\n", "ключ 🔑", "x" * 32 * 1024])
async def test_a_text_comes_back_to_its_member(keyhall: Keyhall, mia: Actor, text: str) -> None:
    token = await keyhall.messages.encrypt(mia, text)
    assert await keyhall.messages.decrypt(mia, f"  {token}\n") == text


async def test_a_members_token_opens_wherever_that_member_is(keyhall: Keyhall, clock: FakeClock, mia: Actor) -> None:
    token = await keyhall.messages.encrypt(mia, "hello")
    for guild_id in (OTHER_GUILD, None):
        assert await keyhall.messages.decrypt(on_discord(clock, "mia", "1001", guild_id), token) == "hello"
    on_the_web = member(clock, "mia", discord_id="1001")
    assert await keyhall.messages.decrypt(on_the_web, token) == "hello"


async def test_a_members_token_opens_for_nobody_else(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, tom: Actor
) -> None:
    token = await keyhall.messages.encrypt(mia, "hello")
    with pytest.raises(CannotOpen):
        await keyhall.messages.decrypt(tom, token)
    denied = storage.tables.audit[-1]
    assert (denied.action, denied.result, denied.subject_id) == (
        Action.MESSAGE_OPENED,
        Result.DENIED,
        "subject-tom",
    )


async def test_a_guilds_token_opens_for_everybody_in_that_guild_only(
    keyhall: Keyhall, clock: FakeClock, mia: Actor, tom: Actor
) -> None:
    token = await keyhall.messages.encrypt(mia, "hello", for_guild=True)
    assert await keyhall.messages.decrypt(tom, token) == "hello"
    for guild_id in (OTHER_GUILD, None):
        with pytest.raises(CannotOpen):
            await keyhall.messages.decrypt(on_discord(clock, "mia", "1001", guild_id), token)


async def test_a_member_and_a_guild_of_the_same_number_are_two_scopes(keyhall: Keyhall, clock: FakeClock) -> None:
    token = await keyhall.messages.encrypt(on_discord(clock, "mia", GUILD, None), "hello")
    with pytest.raises(CannotOpen):
        await keyhall.messages.decrypt(on_discord(clock, "tom", "1002", GUILD), token)


async def test_opening_is_in_the_trail_before_the_text_is_out(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    token = await keyhall.messages.encrypt(mia, "hello")
    with storage.full(), pytest.raises(StorageFull):
        await keyhall.messages.decrypt(mia, token)
    assert storage.trail() == [(Action.MESSAGE_ENCRYPTED, Result.OK)]
    await keyhall.messages.decrypt(mia, token)
    assert storage.trail()[1:] == [(Action.MESSAGE_OPENED, Result.OK)]


async def test_the_trail_names_no_member_and_no_text(keyhall: Keyhall, storage: FakeStorage, mia: Actor) -> None:
    token = await keyhall.messages.encrypt(mia, "a very private text")
    await keyhall.messages.decrypt(mia, token)
    rows = repr(storage.tables.audit)
    assert "1001" not in rows
    assert "private" not in rows
    assert token not in rows


async def test_tokens_open_after_a_rotation_and_not_after_their_version_was_destroyed(
    keyhall: Keyhall, mia: Actor
) -> None:
    before = await keyhall.messages.encrypt(mia, "before")
    await keyhall.rotate(KeyName.ENCRYPTION_KEY)
    await keyhall.keys.reload()
    after = await keyhall.messages.encrypt(mia, "after")
    assert [await keyhall.messages.decrypt(mia, token) for token in (before, after)] == ["before", "after"]
    await keyhall.destroy_former(KeyName.ENCRYPTION_KEY)
    assert await keyhall.messages.decrypt(mia, after) == "after"
    with pytest.raises(CannotOpen):
        await keyhall.messages.decrypt(mia, before)


async def test_a_changed_token_does_not_open(keyhall: Keyhall, mia: Actor) -> None:
    token = await keyhall.messages.encrypt(mia, "hello")
    middle = len(token) // 2
    for forged in (
        token[:-8],
        token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :],
        "no token",
        "ключ",
        "gAAAA" * 100,
    ):
        with pytest.raises(CannotOpen):
            await keyhall.messages.decrypt(mia, forged)


@pytest.mark.parametrize("text", ["", "x" * (32 * 1024 + 1), "é" * (16 * 1024) + "x", "a\0b", "\ud800"])
async def test_what_is_no_text_of_1_byte_to_32_kib_is_refused(keyhall: Keyhall, mia: Actor, text: str) -> None:
    with pytest.raises(InvalidInput, match="text"):
        await keyhall.messages.encrypt(mia, text)


@pytest.mark.parametrize("token", ["", "x" * 100_000, "a\0b", "\ud800"])
async def test_what_can_be_no_token_is_refused(keyhall: Keyhall, mia: Actor, token: str) -> None:
    with pytest.raises(InvalidInput, match="token"):
        await keyhall.messages.decrypt(mia, token)


async def test_a_guilds_token_is_made_in_a_guild(keyhall: Keyhall, clock: FakeClock) -> None:
    with pytest.raises(InvalidInput, match="for_guild"):
        await keyhall.messages.encrypt(on_discord(clock, "mia", "1001", None), "hello", for_guild=True)


async def test_without_a_discord_account_there_is_nobody_to_make_a_token_for(
    keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    token = await keyhall.messages.encrypt(mia, "hello")
    unlinked = replace(member(clock, "mia"), discord_id=None)
    with pytest.raises(Forbidden):
        await keyhall.messages.encrypt(unlinked, "hello")
    with pytest.raises(CannotOpen):
        await keyhall.messages.decrypt(unlinked, token)
