"""The language that a reader gets."""

from __future__ import annotations

import pytest

from app.localisation import Language, negotiated


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
