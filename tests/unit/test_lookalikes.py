"""Names that people could take for one another have one skeleton, and other names have not."""

from __future__ import annotations

import unicodedata

import pytest

from app.domain.identity import name_key
from app.domain.lookalikes import _LOOK_LIKE, skeleton


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("owner", "\u043ewner"),  # Cyrillic o
        ("owner", "\uff4f\uff57\uff4e\uff45\uff52"),  # full width
        ("owner", "own\u00ader"),
        ("owner", "own\u200der\ufe0f"),
        ("owner", "0wner"),
        ("owner", "OWNER"),
        ("owner", "\u039fWNER"),  # Greek Omicron
        ("owner", "\U0001d428\U0001d430\U0001d427\U0001d41e\U0001d42b"),  # mathematical bold
        ("owner", "\u1d0fwner"),  # small capital
        ("alice", "a1ice"),
        ("alice", "aIice"),
        ("alice", "\u0430li\u0441e"),
        ("ivan", "\u0406van"),  # Cyrillic I
        ("ivan", "lvan"),
        ("mia", "rnia"),
        ("mia", "\u041cia"),  # Cyrillic M, which looks like the capital
        ("Paypal", "\u0440\u0430\u0443\u0440\u0430l"),
        ("jos\u00e9", "jose\u0301"),
        ("stra\u00dfe", "STRASSE"),
        ("bob", "\u0412ob"),
    ],
)
def test_names_that_look_alike_have_one_skeleton(name: str, other: str) -> None:
    assert skeleton(name) == skeleton(other)


@pytest.mark.parametrize(
    ("name", "other"),
    [("jose", "jos\u00e9"), ("anna", "hanna"), ("bob", "bop"), ("\u043e\u043b\u044f", "olga"), ("user1", "user2")],
)
def test_other_names_have_not(name: str, other: str) -> None:
    assert skeleton(name) != skeleton(other)


def test_discord_names_stay_distinct() -> None:
    names = {f"discord:{number}" for number in range(100000, 102000)}
    assert len({skeleton(name) for name in names}) == len(names)


@pytest.mark.parametrize("name", ["Owner", "\uff2fwner", "OWNER", "stra\u00dfe", "\u212bngstr\u00f6m", "\u01c5"])
def test_both_forms_of_a_form_are_the_form_itself(name: str) -> None:
    assert name_key(name_key(name)) == name_key(name)
    assert skeleton(skeleton(name)) == skeleton(name)
    assert name_key(name) == name_key(unicodedata.normalize("NFKC", name).upper())


def test_the_table_names_each_letter_once_and_no_letter_that_nfkc_makes_ascii() -> None:
    letters = [chr(int(code, 16)) for codes in _LOOK_LIKE.values() for code in codes.split()]
    assert len(letters) == len(set(letters))
    assert not any(unicodedata.normalize("NFKC", letter).isascii() for letter in letters)
    assert all(len(prototype) == 1 and prototype.isascii() for prototype in _LOOK_LIKE)
