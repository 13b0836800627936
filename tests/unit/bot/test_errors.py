"""Failures become sentences: one for each kind, in both languages, with nothing of the input."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
from types import SimpleNamespace
from typing import Any, cast

import discord
import pytest
from discord import app_commands

from app.bot.cogs import credentials as key_cog
from app.bot.cogs import messages as messages_cog
from app.bot.errors import interrupted, or_none, sentence
from app.bot.progress import REMOVE, RESTORE, STORE, Change, Progress
from app.domain import credentials as domain_credentials
from app.domain import errors as domain
from app.domain import text as domain_text
from app.domain.errors import (
    AppError,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    StorageBusy,
    StorageFull,
    TooManyAttempts,
)
from app.services import messages

SOURCES = (domain_text, domain_credentials, messages, key_cog, messages_cog)
"""Where values that people type in Discord are refused."""
LOCALES = [discord.Locale.american_english, discord.Locale.german]


def every_app_error() -> list[AppError]:
    special: dict[type[AppError], AppError] = {
        InvalidInput: InvalidInput("label", "must be 1 to 64 characters"),
        TooManyAttempts: TooManyAttempts(42),
    }
    kinds = [kind for kind in vars(domain).values() if isinstance(kind, type) and issubclass(kind, AppError)]
    return [special.get(kind) or kind() for kind in kinds if kind is not AppError]


def reasons_of_the_services() -> list[tuple[str, str]]:
    """Every reason for which a field of the bot's forms can be refused, with numbers in the place of values."""
    found = []
    for call in (node for source in SOURCES for node in ast.walk(ast.parse(inspect.getsource(source)))):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "InvalidInput":
            field, reason = call.args
            for each in (reason.body, reason.orelse) if isinstance(reason, ast.IfExp) else (reason,):
                parts = each.values if isinstance(each, ast.JoinedStr) else [each]
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in parts)
                found.append((str(field.value) if isinstance(field, ast.Constant) else "label", text))
    assert len(found) > 15
    return sorted(set(found), key=str)


@pytest.mark.parametrize("locale", LOCALES, ids=str)
@pytest.mark.parametrize("error", every_app_error(), ids=lambda error: error.code)
def test_every_error_of_the_services_has_a_sentence(error: AppError, locale: discord.Locale) -> None:
    text = sentence(locale, error, 4711)
    assert text.rstrip().endswith((".", "?")) or ":" in text
    assert "4711" not in text, "a foreseen failure needs no reference"
    assert "{" not in text


def test_a_failure_that_nobody_foresaw_shows_a_reference_and_nothing_of_itself() -> None:
    text = sentence(LOCALES[0], RuntimeError("sk-canary-0123456789"), 4711)
    assert "4711" in text
    assert "canary" not in text


def test_the_more_particular_sentence_wins() -> None:
    busy, full = sentence(LOCALES[0], StorageBusy(), 1), sentence(LOCALES[0], StorageFull(), 1)
    assert "again" in busy
    assert "cannot save" in full


def test_seconds_to_wait_are_said() -> None:
    assert "42 seconds" in sentence(LOCALES[0], TooManyAttempts(42), 1)


def test_a_forbidden_that_knows_why_says_why() -> None:
    assert sentence(LOCALES[0], domain.Forbidden("This account is disabled"), 1) == "This account is disabled."
    assert sentence(LOCALES[0], domain.Forbidden(), 1) == "You may not do this."
    assert "Run the command once there" in sentence(LOCALES[0], domain.MembershipRequired(), 1)
    invited = sentence(LOCALES[0], domain.InvitationRequired(), 1, Progress(names={"user": 1001}))
    assert "by invitation" in invited
    assert "`1001`" in invited


def test_a_command_that_discord_knows_differently_is_explained() -> None:
    assert "has changed" in sentence(LOCALES[0], app_commands.CommandNotFound("key", []), 1)


class TestWhatIsTrueNow:
    @pytest.mark.parametrize("change", [STORE, REMOVE, RESTORE])
    @pytest.mark.parametrize("error", [*every_app_error(), RuntimeError("x"), TimeoutError()], ids=repr)
    def test_a_failed_change_says_first_that_nothing_changed(self, change: Change, error: Exception) -> None:
        text = sentence(LOCALES[0], error, 1, Progress(change=change, begun=True))
        if isinstance(error, OutcomeUnknown):
            assert text.startswith("**It is not certain yet whether this was ")
            return
        assert text.startswith("**Nothing was ")
        assert text.startswith(change.nothing)

    @pytest.mark.parametrize("change", [STORE, REMOVE, RESTORE])
    @pytest.mark.parametrize("error", [StorageBusy(), RuntimeError("x"), TimeoutError()], ids=repr)
    def test_after_it_is_done_no_failure_is_said(self, change: Change, error: Exception) -> None:
        text = sentence(LOCALES[0], error, 1, Progress(change=change, done=True))
        assert "Nothing" not in text
        assert "again" not in text.replace("enter it again", "")
        assert "Discord lost the answer" in text

    def test_a_process_that_leaves_says_what_it_knows(self) -> None:
        assert interrupted(LOCALES[0], Progress(change=STORE)).startswith(
            "**Nothing was stored.** Keyhall is restarting"
        )
        assert "It is not certain yet" in interrupted(LOCALES[0], Progress(change=STORE, begun=True))
        assert interrupted(LOCALES[0], Progress(change=STORE, begun=True, done=True)).startswith("**Stored**")
        assert "restarting" in interrupted(LOCALES[0], Progress())


class TestRefusedInput:
    def test_a_field_has_the_name_that_people_see(self) -> None:
        error = InvalidInput("expires", "must be a whole number of days, 1 to 3650, or empty")
        assert sentence(LOCALES[0], error, 1) == "“Expires in days” takes a number from 1 to 3650, or nothing."
        assert sentence(LOCALES[1], error, 1) == "„Läuft ab in Tagen“ nimmt eine Zahl von 1 bis 3650 oder nichts."

    @pytest.mark.parametrize(("field", "reason"), reasons_of_the_services())
    def test_every_reason_is_said_in_both_languages_without_code_names(self, field: str, reason: str) -> None:
        error = InvalidInput(field, reason)
        english, german = sentence(LOCALES[0], error, 1), sentence(LOCALES[1], error, 1)
        assert "is not accepted" not in english, "a reason that has no words for people yet: see _REASONS"
        assert english != german
        for text in (english, german):
            assert "{" not in text
            assert f"“{field}”" not in text

    def test_a_reason_without_words_is_said_as_it_is_and_inert(self) -> None:
        text = sentence(LOCALES[0], InvalidInput("label", "must be **odd**"), 1)
        assert text == "“Label” is not accepted: must be \\*\\*odd\\*\\*"


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
