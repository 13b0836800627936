"""The bot's texts in the reader's language, which is that of their Discord; the catalogue is `app/localisation`.

Values stand in these as `{name}`.
"""

from __future__ import annotations

import re
from typing import Final

import discord
from discord import app_commands

from app.localisation import Language, texts

_MARKUP: Final = re.compile(r"([!-/:-@\[-`{-~])")


def say(locale: discord.Locale, text: str, /, **values: object) -> str:
    """The text in the reader's language, with its values filled in.

    ``text`` is a constant of the program; text that people typed is passed as a value and through `inert`.
    """
    return translated(locale, text).format(**values)


def translated(locale: discord.Locale, text: str) -> str:
    """The text in the reader's language if it is translated, unchanged otherwise."""
    return texts(language_of(locale)).gettext(text)


def language_of(locale: discord.Locale) -> Language:
    """The language for somebody whose Discord speaks ``locale``; English where there is no translation."""
    return Language.GERMAN if locale is discord.Locale.german else Language.ENGLISH


def inert(text: str) -> str:
    """Somebody's text as plain characters: no markdown, mention, link, timestamp or emoji takes effect."""
    return _MARKUP.sub(r"\\\1", text)


class CommandTexts(app_commands.Translator):
    """Descriptions of commands and options in other languages; names stay as they are documented."""

    async def translate(
        self,
        string: app_commands.locale_str,
        locale: discord.Locale,
        context: app_commands.TranslationContextTypes,  # noqa: ARG002 - the library's signature
    ) -> str | None:
        """The translation, or None without one: Discord then shows the English text."""
        text = translated(locale, string.message)
        return text if text != string.message else None
