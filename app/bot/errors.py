"""The one place where failures become sentences."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

import aiohttp
import discord
from discord import app_commands

from app.bot.layout import Notice
from app.bot.session import Interaction
from app.bot.texts import inert, say, translated
from app.domain.errors import (
    AlreadyExists,
    AppError,
    CannotOpen,
    CredentialUnreadable,
    Forbidden,
    NotFound,
    NotReady,
    OutcomeUnknown,
    Overloaded,
    QuotaExceeded,
    StorageError,
    StorageFull,
    StorageReadOnly,
    TooManyAttempts,
    VersionConflict,
)

log = logging.getLogger(__name__)

_T = TypeVar("_T")

SUGGEST_WITHIN: Final = 2.0
"""Seconds for an autocompletion; Discord waits three, network included."""

# Discord's JSON error codes for an interaction that is over (3 s passed) or that another process acknowledged.
UNKNOWN_INTERACTION: Final = 10062
ALREADY_ACKNOWLEDGED: Final = 40060


class OnlyInServers(AppError):
    """An option for this server was used outside of a server."""

    code = "only_in_servers"
    title = "This only works in a server"


class Outdated(AppError):
    """A form or button that outlived its process or its time."""

    code = "outdated"
    title = "This form or button is no longer in use"


# The first match counts: subclasses come before their bases.
_SENTENCES: Final[Sequence[tuple[type[AppError], str]]] = (
    (OnlyInServers, "This only works in a server."),
    (Outdated, "This form or button is no longer in use: run the command again."),
    (NotReady, "Keyhall is not ready: try again in a few seconds."),
    (Overloaded, "Keyhall is too busy right now. Try again in a moment."),
    (
        OutcomeUnknown,
        "The database was lost, so this may have taken effect or not. Look with `/key list` before you do it again.",
    ),
    (StorageReadOnly, "The database takes no changes right now. Notify the person who runs this Keyhall."),
    (StorageFull, "The database takes no changes right now. Notify the person who runs this Keyhall."),
    (StorageError, "The database does not answer. Try again in a moment."),
    (TooManyAttempts, "Too many attempts. Try again in {seconds} seconds."),
    (NotFound, "There is no such key, or it is not yours. `/key list` shows what there is."),
    (
        AlreadyExists,
        "There is a key of this provider with this label already. Choose another label, or use `/key replace`.",
    ),
    (VersionConflict, "This key was changed in the meantime. Look again with `/key list`."),
    (QuotaExceeded, "The quota is used up: remove a key first. Removed keys count for 7 days."),
    (CredentialUnreadable, "This key cannot be read: enter it again with `/key replace`."),
    (CannotOpen, "This token cannot be opened here: it was made for somebody else, was changed, or is not a token."),
)


def sentence(locale: discord.Locale, error: Exception, reference: int) -> str:
    """The failure in the reader's language; ``reference`` leads to the log line of an unexpected one."""
    for kind, text in _SENTENCES:
        if isinstance(error, kind):
            return say(locale, text, seconds=getattr(error, "retry_after", 0))
    if isinstance(error, Forbidden):
        return f"{translated(locale, error.detail)}."
    if isinstance(error, AppError):
        return say(locale, "Not accepted: {detail}", detail=inert(error.detail))
    if isinstance(error, app_commands.CommandNotFound | app_commands.CommandSignatureMismatch):
        return say(locale, "This command has changed: try it again in a minute.")
    if isinstance(error, discord.DiscordException | TimeoutError):
        return say(locale, "Discord did not answer. Try again in a moment.")
    return say(
        locale,
        "Something went wrong. If it happens again, give the person who runs this Keyhall the reference {reference}.",
        reference=reference,
    )


async def explain(interaction: Interaction, error: Exception) -> None:
    """Answer a failed interaction, visible to its user only. A failure to answer is logged, not raised."""
    if isinstance(error, app_commands.CommandInvokeError):
        error = error.original
    if isinstance(error, discord.HTTPException) and error.code in {UNKNOWN_INTERACTION, ALREADY_ACKNOWLEDGED}:
        # Nothing was done: every interaction is acknowledged before anything else.
        log.info("interaction %s came too late or was served elsewhere", interaction.id)
        return
    if isinstance(error, NotReady | Overloaded | StorageError):
        interaction.client.services.failures.note("an interaction", error, str(interaction.id))
    elif not isinstance(error, AppError):
        log.error("interaction %s failed", interaction.id, exc_info=error)
    answer = Notice(sentence(interaction.locale, error, interaction.id))
    try:
        if interaction.response.is_done():
            await interaction.edit_original_response(view=answer, attachments=[])
        else:
            await interaction.response.send_message(view=answer, ephemeral=True)
    except (discord.DiscordException, aiohttp.ClientError, OSError) as unanswered:
        log.warning("interaction %s could not be answered: %s", interaction.id, type(unanswered).__name__)


async def or_none(interaction: Interaction, choices: Awaitable[list[_T]]) -> list[_T]:
    """The choices of an autocompletion; none if they fail or take too long."""
    try:
        async with asyncio.timeout(SUGGEST_WITHIN):
            return await choices
    except (AppError, TimeoutError) as error:
        log.info("no choices for interaction %s: %s", interaction.id, type(error).__name__)
    except Exception:
        log.exception("no choices for interaction %s", interaction.id)
    return []
