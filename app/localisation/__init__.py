"""The languages that people read, and their texts: one catalogue for the web and the bot.

As with gettext everywhere, the English text is the key, and stands where it is used; a text without a translation is
shown in English. `make texts` finds every text, ``test_texts`` every translation that is missing.
"""

from __future__ import annotations

from functools import cache
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path
from typing import Final

from app.domain.preferences import Language

__all__ = ["Language", "mark", "negotiated", "texts"]

_CATALOGUES: Final = Path(__file__).parent


def mark(text: str) -> str:
    """The text itself: marks a constant for the catalogue, which is translated where it is shown."""
    return text


@cache
def texts(language: Language) -> NullTranslations:
    """The texts in that language: ``gettext`` and ``ngettext``. The first call reads the catalogue."""
    path = _CATALOGUES / f"{language}.po"
    if not path.exists():
        return NullTranslations()
    from babel.messages.mofile import write_mo  # noqa: PLC0415 - only who reads another language than English waits
    from babel.messages.pofile import read_po  # noqa: PLC0415 - likewise

    compiled = BytesIO()
    with path.open("rb") as catalogue:
        write_mo(compiled, read_po(catalogue, locale=language))
    compiled.seek(0)
    return GNUTranslations(compiled)


def negotiated(accept_language: str) -> Language:
    """The language that a browser prefers, by its ``Accept-Language`` (RFC 9110, 12.5.4); English where it has none."""
    wanted: list[tuple[float, Language]] = []
    for part in accept_language[:1000].split(","):
        tag, _, parameters = part.strip().partition(";")
        quality = _quality(parameters.strip())
        primary = tag.strip().lower().split("-")[0]
        if quality > 0 and primary in {each.value for each in Language}:
            wanted.append((quality, Language(primary)))
    return max(wanted, key=lambda each: each[0], default=(0.0, Language.ENGLISH))[1]


def _quality(parameter: str) -> float:
    if not parameter:
        return 1.0
    name, _, value = parameter.partition("=")
    digits = value.strip()
    if name.strip().lower() != "q" or not digits.replace(".", "", 1).isdecimal() or not digits.isascii():
        return 0.0
    return min(float(digits), 1.0)
