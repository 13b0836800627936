"""Register the commands with Discord when they have changed, and only then."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from typing import Any, Final

import aiohttp
import discord
from discord import app_commands

from app.domain.errors import AppError
from app.services.bot_state import BotStateService

log = logging.getLogger(__name__)

_SYNC_WITHIN: Final = 30.0


async def sync_tree(
    tree: app_commands.CommandTree[Any], application_id: int | None, bot_state: BotStateService, *, force: bool
) -> None:
    """Sync the global commands if their digest has changed, or in any case with ``force``; it takes at most 30 s.

    A failure is logged and not fatal: the commands that Discord has already keep working, the next start tries again.
    """
    digest = await _digest(tree, application_id)
    try:
        async with asyncio.timeout(_SYNC_WITHIN):
            if force or await bot_state.synced_tree() != digest:
                await tree.sync()
                await bot_state.remember_tree(digest)
                log.info("registered the commands with Discord")
    except (discord.DiscordException, aiohttp.ClientError, OSError, AppError) as error:
        log.warning(
            "the commands could not be synced, the next start tries again: %s", str(error) or type(error).__name__
        )


async def _digest(tree: app_commands.CommandTree[Any], application_id: int | None) -> str:
    """SHA-256, in hex, of the commands as a sync sends them, and of the application; the loading order is ignored."""
    translator = tree.translator
    payloads = [
        await command.get_translated_payload(tree, translator) if translator else command.to_dict(tree)
        for command in tree.get_commands()
    ]
    lines = sorted(json.dumps(payload, sort_keys=True) for payload in payloads)
    return hashlib.sha256("\n".join([str(application_id), *lines]).encode()).hexdigest()
