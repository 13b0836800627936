"""The language that a reader gets, and the catalogues: whole, and faithful to the texts that they translate."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from io import BytesIO
from zoneinfo import ZoneInfo

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po

from app.domain import errors
from app.domain.errors import AppError, InvalidInput, TooManyAttempts
from app.localisation import Language, negotiated, texts
from app.localisation.refusals import sentence
from app.localisation.times import Times
from scripts.texts import all_strings, brought_up_to_date, extracted, path_of

TRANSLATED = [language for language in Language if language is not Language.ENGLISH]
GERMAN = texts(Language.GERMAN)


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", Language.ENGLISH),
        ("de", Language.GERMAN),
        ("de-AT,de;q=0.9,en;q=0.8", Language.GERMAN),
        ("en-GB,en;q=0.9,de;q=0.8", Language.ENGLISH),
        ("fr-CH, fr;q=0.9, de;q=0.7, *;q=0.5", Language.GERMAN),
        ("fr, *", Language.ENGLISH),
        ("en;q=0.1, DE ; q=0.2", Language.GERMAN),
        ("de;q=0", Language.ENGLISH),
        ("de;q=nan,de;q=1e9,de;q=-1,de;q=²,de;level=1", Language.ENGLISH),
        (",;q=,;;=,\x00,de" + "," * 100_000, Language.GERMAN),
        ("x" * 100_000 + ",de", Language.ENGLISH),
    ],
)
def test_the_preferred_language_that_there_is_or_english(header: str, language: Language) -> None:
    assert negotiated(header) is language


@cache
def catalogue(language: Language) -> Catalog:
    return read_po(BytesIO(path_of(language).read_bytes()), locale=language)


def messages(language: Language) -> list[Message]:
    return [message for message in catalogue(language) if message.id]


def forms(text: str | Sequence[str] | None) -> list[str]:
    return [text] if isinstance(text, str) else list(text or [])


def placeholders(text: str) -> list[str]:
    """The values and the marks of HTML in a text; their order may differ between languages."""
    return sorted({*re.findall(r"%\(\w+\)s|\{\w+\}|</?\w[^>]*>|`[^`]*`", text)})


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_catalogue_holds_exactly_the_texts_of_the_sources(language: Language) -> None:
    """`make texts` brings it up to date."""
    assert path_of(language).read_bytes() == brought_up_to_date(language, extracted())


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_text_is_translated_in_all_its_plural_forms(language: Language) -> None:
    assert [message.id for message in messages(language) if not all_strings(message.string)] == []
    assert [message.id for message in messages(language) if message.fuzzy] == []
    plurals = [message for message in messages(language) if not isinstance(message.id, str)]
    assert plurals
    assert {len(forms(message.string)) for message in plurals} == {catalogue(language).num_plurals}


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_has_the_values_and_marks_of_its_text(language: Language) -> None:
    for message in messages(language):
        *others, last = forms(message.string)
        assert placeholders(last) == placeholders(forms(message.id)[-1]), message.id
        for text in others:  # "one day" may do without its number
            assert placeholders(text) in [placeholders(form) for form in forms(message.id)], message.id


def test_a_catalogue_without_a_text_shows_it_in_english() -> None:
    assert GERMAN.gettext("Nobody translated this") == "Nobody translated this"


@pytest.mark.parametrize(
    "kind",
    [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AppError)],
    ids=lambda kind: kind.__name__,
)
def test_the_title_of_every_error_is_translated(kind: type[AppError]) -> None:
    if kind is not AppError:
        assert GERMAN.gettext(kind.title) != kind.title


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TooManyAttempts(42), "Versuche es in 42 Sekunden noch einmal."),
        (
            InvalidInput("new_password", "must be 12 to 256 characters"),
            "Neues Passwort muss 12 bis 256 Zeichen lang sein.",
        ),
        (errors.Forbidden("{0} %(x)s nobody translated 7 of these"), "{0} %(x)s nobody translated 7 of these."),
    ],
)
def test_a_refusal_is_said_with_its_numbers(error: AppError, said: str) -> None:
    assert sentence(GERMAN, error) == said


WHEN = datetime(2026, 11, 20, 21, 5, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("language", "zone", "exact", "day", "relative"),
    [
        (Language.ENGLISH, "UTC", "20 Nov 2026, 21:05 UTC", "20 Nov 2026", "3 hours ago"),
        (Language.ENGLISH, "Asia/Tokyo", "21 Nov 2026, 06:05 JST", "20 Nov 2026", "3 hours ago"),
        (Language.GERMAN, "Europe/Berlin", "20. Nov. 2026, 22:05 CET", "20. Nov. 2026", "vor 3 Stunden"),
    ],
)
def test_times_are_in_the_language_and_zone_of_their_reader(
    language: Language, zone: str, exact: str, day: str, relative: str
) -> None:
    times = Times(language=language, zone=ZoneInfo(zone), now=WHEN + timedelta(hours=3))
    assert (times.exact(WHEN), times.day(WHEN), times.relative(WHEN)) == (exact, day, relative)


@pytest.mark.parametrize("language", Language)
def test_every_language_writes_the_first_and_the_last_time_that_there_is(language: Language) -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    for far, zone in itertools.product((first, last), ("Europe/Berlin", "America/New_York", "Pacific/Kiritimati")):
        times = Times(language=language, zone=ZoneInfo(zone), now=WHEN)
        assert times.exact(far)
        assert times.day(far)
        assert times.relative(far)
