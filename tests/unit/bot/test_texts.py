"""The bot's texts: in two languages, and no markup in them that other people typed takes effect."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import discord
import pytest
from babel.messages.pofile import read_po
from discord import app_commands
from hypothesis import given
from hypothesis import strategies as st

from app.bot import texts
from app.bot.texts import CommandTexts, inert, say
from app.domain.errors import Forbidden, LinkConflict
from app.localisation import Language
from app.services import identity, joining, messages
from app.services.credentials import service as credentials
from app.services.credentials import storing
from app.services.discord_accounts import linking
from app.services.privacy import erasure, export
from scripts.texts import path_of

BOT = Path(inspect.getfile(texts)).parent
ANYWHERE: app_commands.TranslationContext[Any, Any] = app_commands.TranslationContext(
    app_commands.TranslationContextLocation.other, None
)
GERMAN, ENGLISH = discord.Locale.german, discord.Locale.american_english
HOSTILE = [
    "**bold** __under__ ~~strike~~ ||spoiler|| `code` ```block```",
    "<@123456789012345678> <@&1> <#1> @everyone @here <t:1:R> <:name:1> </key:1>",
    "[innocent](https://evil.example) https://evil.example <https://evil.example>",
    "# heading\n> quote\n- item\n-# small",
    "{0.__class__} {detail} {} %s %(x)s ${x}",
    "\u202egnirts \u2066isolated\u2069",
    "\\*already escaped\\*",
]


def german_table() -> dict[str, str]:
    with path_of(Language.GERMAN).open("rb") as catalogue:
        return {str(message.id): str(message.string) for message in read_po(catalogue)}


def literals() -> set[str]:
    """Every text in the files that hold what people read; docstrings, titles of errors and log lines are not read."""
    found = set()
    for source in [
        *(BOT / f"{name}.py" for name in ("layout", "panels", "views", "errors", "progress", "session")),
        *BOT.glob("cogs/*.py"),
    ]:
        tree = ast.parse(source.read_text(encoding="utf-8"))
        unsaid = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        unsaid |= {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "title"
        }
        unsaid |= {
            id(argument)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log.")
            for argument in node.args
        }
        found |= {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in unsaid
        }
    return found


def said_in_the_sources() -> set[str]:
    """Every literal that begins like a sentence."""
    return {text for text in literals() if re.match(r"(?:-# |[✕⚠] |“|\*\*)*(?:[A-Z]|\{field\})\w*\W* ?\w", text)}


REASONS = {
    str(reason.value)
    for service in (identity, credentials, storing, messages, erasure, export, joining, linking)
    for node in ast.walk(ast.parse(inspect.getsource(service)))
    if isinstance(node, ast.Call) and ast.unparse(node.func) in {"Forbidden", "LinkConflict"}
    for reason in node.args[:1]
    if isinstance(reason, ast.Constant)
} | {Forbidden().detail, LinkConflict().detail}
"""The reasons that the services give for refusing somebody."""


def test_every_text_is_there_in_german() -> None:
    assert sorted((said_in_the_sources() | REASONS) - german_table().keys()) == []


def test_what_has_no_translation_is_said_in_english() -> None:
    assert say(GERMAN, "Nobody translated {this}", this="me") == "Nobody translated me"
    assert say(ENGLISH, "Kept.") == "Kept."
    assert say(GERMAN, "Kept.") == "Behalten."


async def test_who_speaks_another_language_reads_english() -> None:
    for locale in set(discord.Locale) - {GERMAN}:
        assert say(locale, "Kept.") == "Kept."
        assert await CommandTexts().translate(app_commands.locale_str("Which key"), locale, ANYWHERE) is None


async def test_commands_are_described_in_german() -> None:
    assert await CommandTexts().translate(app_commands.locale_str("Which key"), GERMAN, ANYWHERE) == "Welcher Schlüssel"
    assert await CommandTexts().translate(app_commands.locale_str("key"), GERMAN, ANYWHERE) is None


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_value_is_never_a_format_string(hostile: str) -> None:
    assert say(ENGLISH, "Not accepted: {detail}", detail=hostile) == f"Not accepted: {hostile}"


@given(st.text(st.characters(codec="utf-8")))
def test_inert_text_escapes_every_mark_and_changes_nothing_else(text: str) -> None:
    shown = inert(text)
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", shown) == text
    assert not re.search(r"(?<!\\)(?:\\\\)*[*_~|`<>@#\[\](){}-]", shown)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_markup_survives_in_inert_text(hostile: str) -> None:
    shown = inert(hostile)
    for mark in ("**", "__", "~~", "||", "```", "<@", "<#", "<t:", "](", "://", "\n> ", "\n- ", "\n-# "):
        assert mark not in shown
