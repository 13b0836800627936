"""The environment of the templates, and their filters."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from app.domain.bitting import blade
from app.localisation import Language, texts
from app.localisation.refusals import in_words, sentence
from app.localisation.times import Times

_DIRECTORY: Final = Path(__file__).parents[1] / "templates"


def environment(invite_url: str | None, *, discord_sign_in: bool, language: Language) -> Environment:
    """The environment of the templates in that language: all is escaped, and a misspelt name is an error."""
    environment = Environment(
        loader=FileSystemLoader(_DIRECTORY),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["ext.i18n.trimmed"] = True
    read = texts(language)
    environment.install_gettext_translations(read, newstyle=True)  # type: ignore[attr-defined]
    environment.globals["language"] = language.value
    environment.filters["day"] = day
    environment.filters["moment"] = moment
    environment.filters["ago"] = ago
    environment.filters["in_words"] = partial(in_words, read)
    environment.filters["sentence"] = partial(sentence, read)
    environment.filters["translated"] = read.gettext
    environment.filters["with_code"] = with_code
    environment.globals["blade"] = blade
    environment.globals["invite_url"] = invite_url
    environment.globals["discord_sign_in"] = discord_sign_in
    return environment


@dataclass(frozen=True, slots=True)
class Reading:
    """The times of the page that is being made; ``local`` where the browser puts them into its own zone."""

    times: Times
    local: bool


READING: Final[ContextVar[Reading]] = ContextVar("keyhall.reading")
"""Filters get it from here: a macro of another file sees no variable of the page."""


def day(value: datetime) -> Markup:
    """`20 Nov 2026`; the exact time on hover."""
    return _time(value, READING.get().times.day(value), "title")


def moment(value: datetime) -> Markup:
    """`20 Nov 2026, 22:05 CET`."""
    return _time(value, READING.get().times.exact(value), "text")


def ago(value: datetime) -> Markup:
    """`3 hours ago`; the exact time on hover."""
    return _time(value, READING.get().times.relative(value), "title")


_TIME: Final = Markup('<time datetime="{}" title="{}"{}>{}</time>')


def _time(value: datetime, shown: str, part: str) -> Markup:
    """``part`` is what the browser writes again in its own zone: the title alone, or the text too."""
    reading = READING.get()
    return _marked_up(value, reading.times.exact(value), part if reading.local else "", shown)


@lru_cache(4_096)
def _marked_up(value: datetime, exact: str, local: str, shown: str) -> Markup:
    part = Markup(' data-local="{}"').format(local) if local else ""
    return _TIME.format(f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}", exact, part, shown)


def with_code(text: str) -> Markup:
    """A sentence in which the parts between backticks are code."""
    parts = text.split("`")
    code = Markup("<code>{}</code>")
    return Markup().join(code.format(part) if odd % 2 else escape(part) for odd, part in enumerate(parts))
