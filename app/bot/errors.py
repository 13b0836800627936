"""The one place where failures become sentences: first what is true now, then why, then a button that leads on."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, TypeVar

import aiohttp
import discord
from discord import app_commands, ui

from app.bot.layout import Notice
from app.bot.progress import Progress, progress_of
from app.bot.session import ALREADY_ACKNOWLEDGED, UNKNOWN_INTERACTION, Interaction, NotServed, OnlyInServers
from app.bot.texts import inert, say, translated
from app.domain.errors import (
    AlreadyExists,
    AppError,
    CannotOpen,
    CredentialUnreadable,
    Forbidden,
    IdempotencyConflict,
    InvalidInput,
    InvitationRequired,
    LastOwner,
    LinkCodeRefused,
    LinkConflict,
    MembershipRequired,
    NotFound,
    NotReady,
    OutcomeUnknown,
    Overloaded,
    QuotaExceeded,
    RequestExpired,
    StorageError,
    StorageFull,
    StorageReadOnly,
    TooManyAttempts,
    VersionConflict,
)
from app.localisation import mark

log = logging.getLogger(__name__)

_T = TypeVar("_T")

SUGGEST_WITHIN: Final = 2.0
"""Seconds for an autocompletion; Discord waits three, network included."""

UNANSWERED: Final = (discord.DiscordException, aiohttp.ClientError, OSError)
"""The exceptions of a call to Discord that fails."""


class Outdated(AppError):
    """A form or button of an earlier version, which says too little to be served."""

    code = "outdated"
    title = "This form or button is too old"


# The first match counts: subclasses come before their bases.
_SENTENCES: Final[Sequence[tuple[type[Exception], str]]] = (
    (OnlyInServers, mark("This only works in a server.")),
    (NotServed, mark("I am not in this server, or may not serve it, so it can have no keys here.")),
    (Outdated, mark("This form or button is too old: run the command again.")),
    (RequestExpired, mark("This took too long, so it was not carried out; try again in a few seconds.")),
    (
        InvitationRequired,
        mark("This Keyhall is by invitation. Ask the person who runs it, and give them your Discord id: `{user}`."),
    ),
    (
        MembershipRequired,
        mark("I only serve members of the servers I am in. Are you in one? Run the command once there."),
    ),
    (NotReady, mark("Keyhall is catching up; try again in a few seconds.")),
    (Overloaded, mark("Keyhall is too busy right now; try again in a few seconds.")),
    (
        StorageReadOnly,
        mark("Keyhall cannot save anything right now. Your keys are safe; notify the person who runs it."),
    ),
    (StorageFull, mark("Keyhall cannot save anything right now. Your keys are safe; notify the person who runs it.")),
    (StorageError, mark("Keyhall cannot reach its storage. Your keys are safe; try again in a minute.")),
    (TooManyAttempts, mark("Too many attempts. Try again in {seconds} seconds.")),
    (
        LinkCodeRefused,
        mark("This code was used, has expired or never was: make another one on your account page."),
    ),
    (NotFound, mark("There is no such key, or it is not yours. {list} shows what there is.")),
    (IdempotencyConflict, mark("This form was sent before, with something else in it. {list} shows what is stored.")),
    (VersionConflict, mark("This key was changed in the meantime. {list} shows it as it is now.")),
    (QuotaExceeded, mark("The quota is used up: remove a key, and delete it for good on the web or wait for 7 days.")),
    (LastOwner, mark("You are the last owner of this Keyhall: make somebody else an owner first.")),
    (CredentialUnreadable, mark("This key cannot be read: enter it again with {replace}.")),
    (app_commands.CommandNotFound, mark("This command has changed: try it again in a minute.")),
    (app_commands.CommandSignatureMismatch, mark("This command has changed: try it again in a minute.")),
    (discord.DiscordException, mark("Discord is slow right now: try again in a minute.")),
    (aiohttp.ClientError, mark("Discord is slow right now: try again in a minute.")),
    (TimeoutError, mark("Discord is slow right now: try again in a minute.")),
    (
        CannotOpen,
        mark("This token cannot be opened here: it was made for somebody else, was changed, or is not a token."),
    ),
)

_FIELDS: Final[Mapping[str, str]] = {
    "secret": mark("Key"),
    "provider": mark("Provider"),
    "label": mark("Label"),
    "expires": mark("Expires in days"),
    "expires_at": mark("Expires in days"),
    "name": mark("Your name"),
    "text": mark("Text"),
    "token": mark("Token"),
}
"""The names that people see of the fields of the services."""

_NO_NAME: Final = mark("“{field}” takes only the key: no quotes, no “Bearer”, no NAME=")
_UNSEEN: Final = mark("“{field}” has invisible characters in it: type it instead of pasting it.")
_WRONG_FIELD: Final = mark("“{field}” looks like a key, and it is shown openly. Did the key slip into the wrong field?")
_REASONS: Final[Mapping[str, str]] = {
    "must be text": mark("“{field}” must be text."),
    "is not yours: nothing was erased": mark("That is not your name, so nothing was erased."),
    "must be at most {0} characters": mark("“{field}” takes at most {0} characters."),
    "must be {0} to {1} characters": mark("“{field}” takes {0} to {1} characters."),
    "must not hold control, private-use or other characters that are no text": (
        mark("“{field}” has characters in it that nobody can type: copy it again.")
    ),
    "must not hold invisible characters": _UNSEEN,
    "must not hold other blanks than the ordinary space": _UNSEEN,
    "holds an invisible character: copy it again, without formatting": (
        mark("“{field}” has an invisible character in it: copy it again, without formatting.")
    ),
    "is a mask, not the key itself: copy the whole key": mark(
        "That is a mask, not the key itself: copy the whole key."
    ),
    "must be the key alone, without the name before it": _NO_NAME,
    "must be the key alone, without the name before it and the quotes around it": _NO_NAME,
    "must be the key alone, without the word Bearer or the header's name before it": _NO_NAME,
    "must be the key alone, without the quotes around it": (
        mark("“{field}” takes only the key, without the quotes around it.")
    ),
    "must be at most {0} bytes": mark("“{field}” is too long: it takes {0} bytes, and an emoji has four."),
    "must be {0} to {1} bytes": mark(
        "“{field}” is empty or too long: it takes {0} to {1} bytes, and an emoji has four."
    ),
    "must not hold NUL": mark("“{field}” has characters in it that nobody can type: copy it again."),
    "must be valid Unicode": mark("“{field}” has characters in it that nobody can type: copy it again."),
    "must be {0} to {1} letters, digits, '.', '_' or '-'": (
        mark("“{field}” takes {0} to {1} letters, digits, dots, hyphens and underscores, such as openai.")
    ),
    "looks like a key; labels are shown unencrypted": _WRONG_FIELD,
    "looks like a key; providers are shown unencrypted": _WRONG_FIELD,
    "holds the secret itself; labels are shown unencrypted": (
        mark("That label shows the key itself, and labels are shown openly: choose another one.")
    ),
    "must not be blank": mark("“{field}” is empty."),
    "must be in the future": mark("“{field}” must lie in the future."),
    "must have a time zone": mark("“{field}” must lie in the future."),
    "must be before the year {0}": mark("“{field}” lies too far in the future."),
    "must be a whole number of days, {0} to {1}, or empty": mark(
        "“{field}” takes a number from {0} to {1}, or nothing."
    ),
    "fits several keys; choose one of the suggestions": mark(
        "Several keys have this label: choose one of the suggestions."
    ),
    "works only in a server": mark("This only works in a server."),
}
"""The reasons for which the services refuse a value, in people's words; ``test_errors`` finds missing ones."""

_NUMBER = re.compile(r"[0-9]+")


def sentence(locale: discord.Locale, error: Exception, reference: int, progress: Progress | None = None) -> str:
    """The state of things, and why, in the reader's language; ``reference`` is that of the log line."""
    progress = progress or Progress()
    names = {"list": "`/key list`", "replace": "`/key replace`"} | progress.names
    if progress.change is None:
        return _reason(locale, error, reference, names)
    if progress.done:
        return say(locale, progress.change.done, **names)
    if isinstance(error, OutcomeUnknown) and progress.begun:
        return say(locale, progress.change.doubt, **names)
    return f"{say(locale, progress.change.nothing)} {_reason(locale, error, reference, names)}"


def interrupted(locale: discord.Locale, progress: Progress) -> str:
    """The sentence for an interaction that is not through when this process has to leave."""
    names = {"list": "`/key list`"} | progress.names
    if progress.change is None:
        return say(locale, "Keyhall is restarting: try again in a minute.")
    if not progress.begun:
        return f"{say(locale, progress.change.nothing)} {say(locale, 'Keyhall is restarting: try again in a minute.')}"
    return say(locale, progress.change.done if progress.done else progress.change.doubt, **names)


def _reason(locale: discord.Locale, error: Exception, reference: int, names: Mapping[str, object]) -> str:
    for kind, text in _SENTENCES:
        if isinstance(error, kind):
            values = {"seconds": getattr(error, "retry_after", 0), "user": "", **names}
            return say(locale, text, **values)
    match error:
        case InvalidInput():
            return _invalid(locale, error)
        case AlreadyExists():
            return _taken(locale, error, names)
        case Forbidden():
            return _forbidden(locale, error, names)
        case AppError():
            return say(locale, "Not accepted: {detail}", detail=inert(error.detail))
    return say(
        locale,
        "Something went wrong. If it happens again, give the person who runs this Keyhall the reference {reference}.",
        reference=reference,
    )


def _forbidden(locale: discord.Locale, error: Forbidden, names: Mapping[str, object]) -> str:
    if names.get("guild") and error.detail == Forbidden.title:
        return say(locale, "Only people who may manage this server can do that with its keys.")
    return f"{translated(locale, error.detail)}."


def _invalid(locale: discord.Locale, error: InvalidInput) -> str:
    numbers = _NUMBER.findall(error.reason)
    counted = iter(range(len(numbers)))
    template = _NUMBER.sub(lambda _: f"{{{next(counted)}}}", error.reason)
    field = translated(locale, _FIELDS.get(error.field, error.field))
    if (known := _REASONS.get(template)) is not None:
        return translated(locale, known).format(*numbers, field=field)
    return say(locale, "“{field}” is not accepted: {reason}", field=field, reason=inert(error.reason))


def _taken(locale: discord.Locale, error: AlreadyExists, names: Mapping[str, object]) -> str:
    if isinstance(error, LinkConflict):
        return f"{translated(locale, error.detail)}."
    if "label" not in names:
        return say(locale, "There is a key of this provider with this label already.")
    text = (
        mark("This server already has a key for {provider} called **{label}**.")
        if names.get("guild")
        else mark("You already have a key for {provider} called **{label}**.")
    )
    return say(locale, text, provider=names["provider"], label=names["label"])


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
    progress = progress_of(interaction)
    session = interaction.client.session
    progress.names |= {
        "list": session.command("key list"),
        "replace": session.command("key replace"),
        "user": interaction.user.id,
    }
    parts: list[str | ui.Item[Any]] = [sentence(interaction.locale, error, interaction.id, progress)]
    if buttons := await _steps(interaction, progress, error):
        parts.append(ui.ActionRow(*buttons))
    await _answer(interaction, Notice(*parts), progress)
    if isinstance(error, AppError):
        await session.record_refusal(interaction, error)


async def notify_interrupted(interaction: Interaction) -> None:
    """Notify the user that this process leaves. A failure to answer is logged, not raised."""
    progress = progress_of(interaction)
    progress.names["list"] = interaction.client.session.command("key list")
    await _answer(interaction, Notice(interrupted(interaction.locale, progress)), progress)


async def _answer(interaction: Interaction, answer: Notice, progress: Progress) -> None:
    try:
        if progress.acknowledged or interaction.response.is_done():
            await interaction.edit_original_response(view=answer, attachments=[])
        else:
            await interaction.response.send_message(view=answer, ephemeral=True)
    except UNANSWERED as unanswered:
        log.warning("interaction %s could not be answered: %s", interaction.id, type(unanswered).__name__)


async def _steps(interaction: Interaction, progress: Progress, error: Exception) -> Sequence[ui.Button[Any]]:
    if progress.steps is None or progress.done:
        return []
    try:
        return await progress.steps(error)
    except AppError as without:  # the sentence is worth more than its buttons
        log.info("no buttons for interaction %s: %s", interaction.id, type(without).__name__)
        return []


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
