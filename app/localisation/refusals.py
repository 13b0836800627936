"""Refusals in the reader's language.

Domain and services give their reasons in English, with numbers in them. The catalogue has each reason with its numbers
as `{0}`, `{1}`, …; `make texts` finds the reasons where the errors are raised.
"""

from __future__ import annotations

import re
from gettext import NullTranslations
from typing import Final

from app.domain.errors import AppError, InvalidInput
from app.localisation import mark

_NUMBER: Final = re.compile(r"[0-9]+")

FIELDS: Final = (
    mark("Code"),
    mark("Days"),
    mark("Expires at"),
    mark("Label"),
    mark("Language"),
    mark("Name"),
    mark("New password"),
    mark("Passkey name"),
    mark("Password"),
    mark("Provider"),
    mark("Reason"),
    mark("Scopes"),
    mark("Secret"),
    mark("Setup token"),
    mark("Text"),
    mark("Time zone"),
    mark("Token"),
    mark("Username"),
)
"""The names that `field_name` gives to the fields that people fill in."""


def numbered(reason: str) -> tuple[str, list[str]]:
    """The reason as the catalogue has it, and the numbers that were in it."""
    numbers = _NUMBER.findall(reason)
    counted = iter(range(len(numbers)))
    escaped = reason.replace("{", "{{").replace("}", "}}")
    return _NUMBER.sub(lambda _: f"{{{next(counted)}}}", escaped), numbers


def in_words(texts: NullTranslations, reason: str) -> str:
    """A title, detail or reason of an error in that language; in English where it has no translation."""
    template, numbers = numbered(reason)
    return texts.gettext(template).format(*numbers)


def field_name(texts: NullTranslations, field: str) -> str:
    """The name of a field of a form or service, as a sentence begins with it."""
    words = field.replace("_", " ")
    name = f"{words[:1].upper()}{words[1:]}"
    return texts.gettext(name)


def sentence(texts: NullTranslations, error: AppError) -> str:
    """The refusal as one sentence."""
    if isinstance(error, InvalidInput):
        name, reason = field_name(texts, error.field), in_words(texts, error.reason)
        return texts.gettext("{field} {reason}.").format(field=name, reason=reason)
    detail = in_words(texts, error.detail)
    return detail if detail.endswith(".") else f"{detail}."
