"""Failures become sentences: one for each kind, in both languages, with nothing of the input."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import discord
import pytest
from discord import app_commands

from app.bot.errors import or_none, sentence
from app.domain import errors as domain
from app.domain.errors import AppError, InvalidInput, NotFound, StorageBusy, StorageFull, TooManyAttempts

LOCALES = [discord.Locale.american_english, discord.Locale.german]


def every_app_error() -> list[AppError]:
    special: dict[type[AppError], AppError] = {
        InvalidInput: InvalidInput("label", "must be 1 to 64 characters"),
        TooManyAttempts: TooManyAttempts(42),
    }
    kinds = [kind for kind in vars(domain).values() if isinstance(kind, type) and issubclass(kind, AppError)]
    return [special.get(kind) or kind() for kind in kinds if kind is not AppError]


@pytest.mark.parametrize("locale", LOCALES, ids=str)
@pytest.mark.parametrize("error", every_app_error(), ids=lambda error: error.code)
def test_every_error_of_the_services_has_a_sentence(error: AppError, locale: discord.Locale) -> None:
    text = sentence(locale, error, 4711)
    assert (
        text.rstrip().endswith((".", "\\.", "/key list` shows what there is.")) or "Not accepted" in text or ":" in text
    )
    assert "4711" not in text, "a foreseen failure needs no reference"
    assert "{" not in text


def test_a_failure_that_nobody_foresaw_shows_a_reference_and_nothing_of_itself() -> None:
    text = sentence(LOCALES[0], RuntimeError("sk-canary-0123456789"), 4711)
    assert "4711" in text
    assert "canary" not in text


def test_the_more_particular_sentence_wins() -> None:
    busy, full = sentence(LOCALES[0], StorageBusy(), 1), sentence(LOCALES[0], StorageFull(), 1)
    assert "again" in busy
    assert "no changes" in full


def test_seconds_to_wait_are_said() -> None:
    assert "42 seconds" in sentence(LOCALES[0], TooManyAttempts(42), 1)


def test_a_forbidden_that_knows_why_says_why() -> None:
    text = "Only members of this bot's servers can use it"
    assert sentence(LOCALES[0], domain.Forbidden(text), 1) == f"{text}."
    assert sentence(LOCALES[0], domain.Forbidden(), 1) == "You may not do this."


def test_a_command_that_discord_knows_differently_is_explained() -> None:
    assert "has changed" in sentence(LOCALES[0], app_commands.CommandNotFound("key", []), 1)


def test_the_refused_field_is_named_and_inert() -> None:
    assert "label\\: must be" in sentence(LOCALES[0], InvalidInput("label", "must be 1 to 64 characters"), 1)


class TestAutocompletion:
    interaction = cast("Any", SimpleNamespace(id=4711))

    async def test_choices_pass(self) -> None:
        async def choices() -> list[str]:
            return ["work"]

        assert await or_none(self.interaction, choices()) == ["work"]

    @pytest.mark.parametrize("error", [NotFound(), StorageBusy(), RuntimeError("broken")], ids=repr)
    async def test_a_failure_offers_nothing_and_is_logged(
        self, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def choices() -> list[str]:
            raise error

        with caplog.at_level(logging.INFO):
            assert await or_none(self.interaction, choices()) == []
        assert "4711" in caplog.text

    async def test_what_takes_too_long_offers_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("app.bot.errors.SUGGEST_WITHIN", 0.01)

        async def choices() -> list[str]:
            await asyncio.Event().wait()
            return ["too late"]

        assert await or_none(self.interaction, choices()) == []
