"""Register the commands with Discord when they have changed, here or there, and only then."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence
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
) -> dict[str, int]:
    """Sync the global commands if they differ from those of the last sync, or with ``force``; it takes at most 30 s.

    Returns the ids of the slash commands by their names, as far as Discord has sent them. Commands that somebody
    changed or deleted at Discord differ too, so one request asks for them at every start. A failure is logged and not
    fatal: the commands that Discord has already keep working, the next start tries again.
    """
    registered: Sequence[app_commands.AppCommand] = []
    try:
        async with asyncio.timeout(_SYNC_WITHIN):
            wanted = await _wanted(tree, application_id)
            registered = await tree.fetch_commands()
            if force or await bot_state.synced_tree() != _digest(wanted, registered):
                await tree.sync()
                # Asked for again, since Discord describes them differently in its answer to a sync.
                registered = await tree.fetch_commands()
                await bot_state.remember_tree(_digest(wanted, registered))
                log.info("registered the commands with Discord")
    except (discord.DiscordException, aiohttp.ClientError, OSError, AppError) as error:
        log.warning(
            "the commands could not be synced, the next start tries again: %s", str(error) or type(error).__name__
        )
    slash = discord.AppCommandType.chat_input
    return {command.name: command.id for command in registered if command.type is slash}


async def _wanted(tree: app_commands.CommandTree[Any], application_id: int | None) -> list[str]:
    """The application, and the commands as a sync sends them; the loading order is ignored."""
    translator = tree.translator
    payloads = [
        await command.get_translated_payload(tree, translator) if translator else command.to_dict(tree)
        for command in tree.get_commands()
    ]
    return [str(application_id), *sorted(json.dumps(payload, sort_keys=True) for payload in payloads)]


def _digest(wanted: Sequence[str], registered: Sequence[app_commands.AppCommand]) -> str:
    """SHA-256, in hex, of the commands here and of those at Discord, their ids included."""
    there = sorted(
        json.dumps([command.to_dict(), str(command.default_member_permissions), command.nsfw], sort_keys=True)
        for command in registered
    )
    return hashlib.sha256("\n".join([*wanted, "", *there]).encode()).hexdigest()
