"""The environment of the templates, and their filters."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from app.domain.bitting import blade
from app.localisation import Language, texts
from app.localisation.refusals import in_words, sentence

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
    environment.filters["ago"] = moment
    environment.filters["in_words"] = partial(in_words, read)
    environment.filters["sentence"] = partial(sentence, read)
    environment.filters["translated"] = read.gettext
    environment.filters["with_code"] = with_code
    environment.globals["blade"] = blade
    environment.globals["invite_url"] = invite_url
    environment.globals["discord_sign_in"] = discord_sign_in
    return environment


def day(value: datetime) -> str:
    """`20 Nov 2026`, in UTC."""
    return f"{value.astimezone(UTC):%-d %b %Y}"


def moment(value: datetime) -> str:
    """`20 Nov 2026, 21:05 UTC`."""
    return f"{value.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def with_code(text: str) -> Markup:
    """A sentence in which the parts between backticks are code."""
    parts = text.split("`")
    code = Markup("<code>{}</code>")
    return Markup().join(code.format(part) if odd % 2 else escape(part) for odd, part in enumerate(parts))
