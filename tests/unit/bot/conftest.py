"""A bot with its commands loaded that never meets Discord."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.bot import BotOptions
from app.bot.client import KeyhallBot
from app.bot.cogs.credentials import KeyCommands
from app.bot.cogs.messages import MessageCommands
from app.bot.cogs.privacy import PrivacyCommands
from app.bot.texts import CommandTexts
from app.domain.secrets import SecretText


@pytest.fixture
async def bot() -> KeyhallBot:
    services = SimpleNamespace(credentials=SimpleNamespace())
    bot = KeyhallBot(cast("Any", services), BotOptions(token=SecretText("a.token.of-nobody")))
    await bot.tree.set_translator(CommandTexts())
    await bot.add_cog(KeyCommands(bot.session))
    await bot.add_cog(MessageCommands(bot.session))
    await bot.add_cog(PrivacyCommands(bot.session))
    return bot
