"""Servers that the bot was removed from: their credentials rest for 30 days, and then go."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.domain.audit import Action
from app.domain.identity import Actor, GuildContext, Source
from app.services.bot_guilds import KEPT_WITHOUT_THE_BOT
from tests.support.fakes import FakeClock, FakeStorage
from tests.support.keyhall import Keyhall, member
from tests.support.samples import OTHER_SECRET, SECRET

GUILD, OTHER = "123456789012345678", "876543210987654321"


def manager(clock: FakeClock, guild_id: str) -> Actor:
    return member(clock, "gwen", source=Source.DISCORD, guild=GuildContext(guild_id=guild_id, manages_guild=True))


@pytest.fixture(autouse=True)
async def shared(keyhall: Keyhall, clock: FakeClock) -> None:
    """A credential of each of two servers, with a former version, one that was removed, and one of their own."""
    for guild_id in (GUILD, OTHER):
        gwen = manager(clock, guild_id)
        main, old = [
            (
                await keyhall.credentials.add(gwen, provider="openai", label=label, secret=SECRET, guild_id=guild_id)
            ).view.id
            for label in ("main", "old")
        ]
        assert main != old
        await keyhall.credentials.remove(gwen, old)
    gwen = manager(clock, GUILD)
    mine = (await keyhall.credentials.add(gwen, provider="groq", label="mine", secret=SECRET)).view
    await keyhall.credentials.replace(gwen, mine.id, OTHER_SECRET)


def owners(storage: FakeStorage) -> set[str]:
    return {each.owner.id for each in storage.tables.credentials.values()}


async def test_they_go_30_days_after_the_bot_was_removed(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    await keyhall.services.bot_guilds.left(GUILD)
    keyhall.advance(clock, KEPT_WITHOUT_THE_BOT - timedelta(seconds=1))
    await keyhall.services.bot_guilds.left(GUILD)  # a second notice does not begin again
    await keyhall.housekeeping.sweep()
    assert owners(storage) == {GUILD, OTHER, "user-gwen"}
    keyhall.advance(clock, timedelta(seconds=1))
    await keyhall.housekeeping.sweep()
    assert owners(storage) == {OTHER, "user-gwen"}
    purged = [each for each in storage.tables.audit if each.action is Action.CREDENTIAL_PURGED]
    assert [(each.source, each.object_id, dict(each.detail)) for each in purged] == [
        (Source.SYSTEM, GUILD, {"count": 1})  # the removed one had gone after seven days
    ]
    await keyhall.housekeeping.sweep()
    assert not [each for each in storage.tables.bot_state if each.startswith("left/")]


async def test_a_bot_that_is_invited_again_finds_them(keyhall: Keyhall, storage: FakeStorage, clock: FakeClock) -> None:
    guilds = keyhall.services.bot_guilds
    await guilds.left(GUILD)
    keyhall.advance(clock, timedelta(days=29))
    await guilds.joined(GUILD)
    keyhall.advance(clock, timedelta(days=29))
    await keyhall.housekeeping.sweep()
    await guilds.left(GUILD)
    keyhall.advance(clock, timedelta(days=29))
    await keyhall.housekeeping.sweep()
    assert GUILD in owners(storage)


async def test_a_change_while_no_bot_ran_is_found_when_it_connects(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    guilds = keyhall.services.bot_guilds
    await guilds.left(GUILD)
    await guilds.compare({GUILD}, lambda _: True)  # invited again, and removed from the other one
    keyhall.advance(clock, KEPT_WITHOUT_THE_BOT)
    await keyhall.housekeeping.sweep()
    assert owners(storage) == {GUILD, "user-gwen"}


async def test_servers_of_another_process_are_not_missed(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    await keyhall.services.bot_guilds.compare({GUILD}, lambda guild_id: guild_id == GUILD)
    keyhall.advance(clock, KEPT_WITHOUT_THE_BOT)
    await keyhall.housekeeping.sweep()
    assert OTHER in owners(storage)
