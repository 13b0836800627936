"""Common passwords of twelve characters or more are refused, and good ones are not (ASVS 5.0, 6.2.4 and 6.2.11)."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

import pytest

from app.domain.identity import PASSWORD_LONGEST, PASSWORD_SHORTEST
from app.infrastructure.guessable import is_guessable
from tests.support.common_passwords import CONTEXT, KINDS, USERNAME, common, made_by_managers, passphrases

log = logging.getLogger(__name__)
WORDS = (USERNAME, *CONTEXT)
LEET = "4@8({[<3691!|7105$+7%2"


def test_the_set_is_as_large_as_the_standard_asks_for() -> None:
    counts = {kind: len(common(kind)) for kind in KINDS}
    log.info("common passwords by kind: %s", counts)
    assert sum(counts.values()) >= 3_000
    assert min(counts.values()) >= 100
    assert all(len(each) >= PASSWORD_SHORTEST for kind in KINDS for each in common(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_common_password_is_refused(kind: str) -> None:
    judged = common(kind)
    accepted = [each for each in judged if not is_guessable(each, WORDS)]
    log.info("%s: %s judged, %s accepted", kind, len(judged), len(accepted))
    assert accepted == []


@pytest.mark.slow
@pytest.mark.parametrize("made", [passphrases, made_by_managers])
@pytest.mark.parametrize("number", [300])
def test_no_passphrase_and_no_random_password_is_refused(made: Callable[[int], list[str]], number: int) -> None:
    judged = made(number)
    refused = [each for each in judged if is_guessable(each, WORDS)]
    log.info("%s judged, %s refused", len(judged), len(refused))
    assert refused == []


@pytest.mark.parametrize(
    "password",
    [
        *("password", "PassWord1234", "123456789qwerty", "1234567890987654321"),
        *("aaaaaaaaaaaa", "123456789012", "210987654321", "passwordpassword", "abcabcabcabc", "letmeinletmein"),
        *("abcdefghijkl", "qwertyuiopas", "1q2w3e4r5t6y", "P@ssw0rd1234", "iloveyou2024", "changemechangeme"),
        *("Summer2024!!!", "Welcome@2024", "default-password", "1qaz!QAZ2wsx@WSX", "1234567890!@#$%^&*()"),
        *("keyhallkeyhall", "olgaolgaolga", "x" * 256, "ab" * 128, "OpenAI-Petrova-26", "k3yh@ll keyhall 2026"),
    ],
)
def test_a_password_that_few_guesses_find_is_refused(password: str) -> None:
    assert is_guessable(password, ("olga", *WORDS))


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery staple",
        "tr0ub4dor&3-and-more",
        "a quiet sentence",
        "a quiet sentence about keyhall",
        "\u0434\u043b\u0438\u043d\u043d\u044b\u0439 \u043f\u0430\u0440\u043e\u043b\u044c",
        "\u6b63\u3057\u3044\u99ac\u306e\u96fb\u6c60\u306e\u30db\u30c1\u30ad\u30b9",
        "\ud800 is no text, yet it must not fail",
        "x" * 100 + " and then something that nobody guesses",
        "z" * 20 + "W7#kd9!qLm",
    ],
)
def test_other_passwords_are_accepted(password: str) -> None:
    assert not is_guessable(password, ("olga", *WORDS))


def test_words_of_the_context_matter_to_their_account_alone() -> None:
    assert is_guessable("olga.petrova-2026", WORDS)
    assert not is_guessable("olga.petrova-2026", ())
    assert is_guessable("keys.example.org!", WORDS)


@pytest.mark.slow
@pytest.mark.parametrize("size", [PASSWORD_SHORTEST, 16, 20, 40, 72, PASSWORD_LONGEST])
def test_no_password_keeps_the_judge_busy(size: int) -> None:
    """zxcvbn takes 20 s for 72 characters that can all be substituted letters."""
    chance = random.Random(1)
    texts = [(LEET * 12)[:size], *("".join(chance.choices(LEET + "abceilost", k=size)) for _ in range(3))]
    is_guessable("the dictionaries are read", ())
    for text in texts:
        began = time.thread_time()
        is_guessable(text, WORDS)
        assert time.thread_time() - began < 3, "of the thread's own time; 0.6 s where it was measured"
