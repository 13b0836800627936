"""Tell Discord of the commands when they changed, and only then."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from typing import TYPE_CHECKING, Final

import aiohttp
import discord

from app.domain.errors import AppError

if TYPE_CHECKING:
    from app.bot.client import KeyhallBot

log = logging.getLogger(__name__)

_SYNC_WITHIN: Final = 30.0


async def tree_digest(bot: KeyhallBot) -> str:
    """SHA-256, in hex, of what a sync would send, and to which application; the order of loading does not matter."""
    translator = bot.tree.translator
    payloads = [
        await command.get_translated_payload(bot.tree, translator) if translator else command.to_dict(bot.tree)
        for command in bot.tree.get_commands()
    ]
    lines = sorted(json.dumps(payload, sort_keys=True) for payload in payloads)
    return hashlib.sha256("\n".join([str(bot.application_id), *lines]).encode()).hexdigest()


async def sync_tree(bot: KeyhallBot, *, force: bool) -> None:
    """Sync the global commands where their digest changed, or in any case with ``force``; it takes at most 30 s.

    A failure is logged and not fatal: commands that Discord knows already keep working, the next start tries again.
    """
    digest = await tree_digest(bot)
    try:
        async with asyncio.timeout(_SYNC_WITHIN):
            if force or await bot.services.bot_state.synced_tree() != digest:
                await bot.tree.sync()
                await bot.services.bot_state.remember_tree(digest)
                log.info("told Discord of the commands")
    except (discord.DiscordException, aiohttp.ClientError, OSError, AppError) as error:
        log.warning(
            "the commands could not be synced, the next start tries again: %s", str(error) or type(error).__name__
        )
