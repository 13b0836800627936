"""The outcome of the bot's last login, as other processes show it."""

from __future__ import annotations

import pytest

from app.domain.errors import StorageError
from app.services.bot_state import BotConnection
from tests.support.fakes import FakeStorage
from tests.support.keyhall import Keyhall

INVITE = "https://discord.com/oauth2/authorize?client_id=1"
REFUSED = ("Discord refused the token", "set DISCORD_BOT_TOKEN")


async def test_the_last_outcome_counts_and_the_invitation_stays(keyhall: Keyhall) -> None:
    bot = keyhall.services.bot_state
    assert (await bot.connection()).state == "off"
    await bot.stopped(*REFUSED)
    assert await bot.connection() == BotConnection(happened=REFUSED[0], remedy=REFUSED[1])
    await bot.logged_in(INVITE)
    assert await bot.connection() == BotConnection(invite=INVITE)
    assert (await bot.connection()).state == "logged_in"
    await bot.stopped(*REFUSED)
    assert (await bot.connection()).invite == INVITE
    assert (await bot.connection()).state == "stopped"
    await bot.switched_off()
    assert (await bot.connection()).state == "off"


async def test_what_is_known_already_is_not_written_again(keyhall: Keyhall, storage: FakeStorage) -> None:
    bot = keyhall.services.bot_state
    await bot.logged_in(INVITE)
    written = storage.commits
    await bot.logged_in(INVITE)
    assert storage.commits == written


async def test_a_page_is_shown_without_it_where_the_database_does_not_answer(
    keyhall: Keyhall, storage: FakeStorage
) -> None:
    await keyhall.services.bot_state.stopped(*REFUSED)
    with storage.dead():
        assert await keyhall.services.bot_state.shown() == BotConnection()
        with pytest.raises(StorageError):
            await keyhall.services.bot_state.connection()
