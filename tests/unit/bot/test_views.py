"""Forms and buttons."""

from __future__ import annotations

import discord

from app.bot.client import KeyhallBot
from app.bot.layout import CUSTOM_ID
from app.bot.views import Form

ENGLISH = discord.Locale.american_english


async def test_two_forms_are_never_taken_for_one_another(bot: KeyhallBot) -> None:
    one, other = Form(bot.session, ENGLISH, "Store a key"), Form(bot.session, ENGLISH, "Store a key")
    assert one.custom_id != other.custom_id
    assert one.custom_id.startswith(CUSTOM_ID)
    assert len(one.custom_id) <= 100
