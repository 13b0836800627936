"""Keys from outside: forms that are taken, guesses that are refused, and proof that chance never is."""

from __future__ import annotations

import base64
import hashlib
import math
import random
import re
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import key_material
from app.domain.key_material import WeakKey, master_key_from_text, parse_external_key
from app.domain.keys import APPLICATION_KEYS, Environment, KeyName

ROOT = Path(__file__).resolve().parents[2]
SPELLED = (KeyName.JWT_SECRET_KEY, KeyName.API_SECRET_KEY)
ENCODED = (KeyName.AES_KEY, KeyName.ENCRYPTION_KEY)
STRICT = [each for each in Environment if each is not Environment.TEST]
RANDOM = hashlib.sha256(b"32 bytes that stand for random ones").digest()
SECRET = hashlib.sha512(b"64 bytes that stand for random ones").digest()

strictly = pytest.mark.parametrize("environment", STRICT)


def _hex(key: bytes) -> str:
    return key.hex()


def _upper_hex(key: bytes) -> str:
    return key.hex().upper()


def _standard(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _standard_bare(key: bytes) -> str:
    return _standard(key).rstrip("=")


def _urlsafe(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode()


def _urlsafe_bare(key: bytes) -> str:
    return _urlsafe(key).rstrip("=")


FORMS: tuple[Callable[[bytes], str], ...] = (_hex, _upper_hex, _standard, _standard_bare, _urlsafe, _urlsafe_bare)
form = pytest.mark.parametrize("form", FORMS)


def _refused(name: KeyName, text: str, environment: Environment = Environment.PRODUCTION) -> str:
    with pytest.raises(WeakKey) as refused:
        parse_external_key(name, text, environment)
    return str(refused.value)


def _refused_as_master_key(text: str, environment: Environment = Environment.PRODUCTION) -> str:
    with pytest.raises(WeakKey) as refused:
        master_key_from_text(text, environment)
    return str(refused.value)


def _refusal(call: Callable[[], bytes]) -> WeakKey | None:
    try:
        call()
    except WeakKey as weak:
        return weak
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Forms
# ---------------------------------------------------------------------------------------------------------------------


@form
@pytest.mark.parametrize("environment", Environment)
def test_aes_encryption_and_master_keys_are_the_bytes_that_the_text_encodes(
    form: Callable[[bytes], str], environment: Environment
) -> None:
    text = form(RANDOM)
    assert master_key_from_text(text, environment) == RANDOM
    for name in ENCODED:
        assert parse_external_key(name, text, environment) == RANDOM


@form
@pytest.mark.parametrize("environment", Environment)
@pytest.mark.parametrize("key", [RANDOM, SECRET[:48], SECRET])
def test_jwt_and_api_keys_are_the_text_itself(
    form: Callable[[bytes], str], environment: Environment, key: bytes
) -> None:
    text = form(key)
    for name in SPELLED:
        assert parse_external_key(name, text, environment) == text.encode()


@strictly
@pytest.mark.parametrize("size", [16, 24, 31])
@form
def test_fewer_than_32_bytes_are_refused(form: Callable[[bytes], str], size: int, environment: Environment) -> None:
    text = form(SECRET[:size])
    for name in APPLICATION_KEYS:
        _refused(name, text, environment)
    _refused_as_master_key(text, environment)


@pytest.mark.parametrize("size", [33, 48, 64])
@form
def test_an_aes_encryption_or_master_key_of_more_than_32_bytes_is_refused(
    form: Callable[[bytes], str], size: int
) -> None:
    for name in ENCODED:
        assert "32 bytes" in _refused(name, form(SECRET[:size]))
    assert "32 bytes" in _refused_as_master_key(form(SECRET[:size]))


def test_64_hex_digits_are_hex_although_they_are_base64_as_well() -> None:
    text = RANDOM.hex()
    assert len(base64.b64decode(text)) == 48
    assert parse_external_key(KeyName.AES_KEY, text, Environment.PRODUCTION) == RANDOM


@pytest.mark.parametrize(
    "text",
    [
        _urlsafe(RANDOM) + "=",
        _urlsafe(RANDOM)[:-1] + "A",
        "=" + _urlsafe_bare(RANDOM),
        _urlsafe_bare(RANDOM)[:20] + "=" + _urlsafe_bare(RANDOM)[20:],
        " " + _urlsafe_bare(RANDOM),
        _urlsafe_bare(RANDOM) + "\n",
        _urlsafe_bare(RANDOM)[:-2] + "+_",
        _urlsafe_bare(RANDOM)[:-1] + "é",
        RANDOM.hex()[:-1] + "g",
        "0x" + RANDOM.hex()[:-2],
        ":".join(f"{byte:02x}" for byte in RANDOM),
        "\ud800" * 43,
        "\N{ARABIC-INDIC DIGIT ZERO}" * 64,
    ],
)
def test_other_spellings_are_refused(text: str) -> None:
    for name in ENCODED:
        _refused(name, text)
    _refused_as_master_key(text)


def test_base64_has_one_spelling() -> None:
    """The last of 43 characters carries four bits; with others set it would be the same key under another text."""
    text = _urlsafe_bare(RANDOM)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = text[:-1] + alphabet[alphabet.index(text[-1]) + 1]
    assert base64.urlsafe_b64decode(other + "=") == RANDOM
    _refused(KeyName.AES_KEY, other)


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u00a0"])
@strictly
def test_an_empty_key_is_refused(text: str, environment: Environment) -> None:
    for name in APPLICATION_KEYS:
        assert _refused(name, text, environment) == "it is empty"
    assert _refused_as_master_key(text, environment) == "it is empty"


def test_a_text_of_32_characters_is_no_aes_key_except_in_test() -> None:
    text = secrets.token_urlsafe(24)[:32]
    for name in ENCODED:
        _refused(name, text)
        assert parse_external_key(name, text, Environment.TEST) == hashlib.sha256(text.encode()).digest()


def test_lone_surrogates_are_refused_everywhere() -> None:
    for name in APPLICATION_KEYS:
        for environment in Environment:
            assert "Unicode" in _refused(name, "\ud800" * 64, environment)


def test_an_internal_key_is_never_given_from_outside() -> None:
    with pytest.raises(ValueError, match="never given") as refused:
        parse_external_key(KeyName.AUDIT_SEAL_KEY, RANDOM.hex(), Environment.PRODUCTION)
    assert not isinstance(refused.value, WeakKey)


# ---------------------------------------------------------------------------------------------------------------------
# In test
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["test-key-for-encryption-32-ch!@#", "a" * 16, "changeme-changeme", "passwörter für alle"]
)
def test_in_test_any_16_characters_serve(text: str) -> None:
    for name in ENCODED:
        assert parse_external_key(name, text, Environment.TEST) == hashlib.sha256(text.encode()).digest()
    for name in SPELLED:
        material = parse_external_key(name, text, Environment.TEST)
        assert material in {text.encode(), hashlib.sha256(text.encode()).digest()}
        assert len(material) >= 32


def test_in_test_a_long_jwt_key_is_the_text_itself() -> None:
    text = "test-secret-key-for-automated-testing-only-never-use-in-production"
    assert parse_external_key(KeyName.JWT_SECRET_KEY, text, Environment.TEST) == text.encode()


def test_in_test_15_characters_are_still_too_few() -> None:
    for name in APPLICATION_KEYS:
        assert "16 characters" in _refused(name, "a" * 15, Environment.TEST)


def test_in_test_a_master_key_may_be_a_sample_but_has_its_form() -> None:
    assert master_key_from_text("00" * 31 + "ff", Environment.TEST) == bytes(31) + b"\xff"
    for text in ("", "a" * 32, "test-master-key-of-more-than-16"):
        _refused_as_master_key(text, Environment.TEST)


# ---------------------------------------------------------------------------------------------------------------------
# Guesses, samples and documented values
# ---------------------------------------------------------------------------------------------------------------------

SAMPLES = [
    # What guides on this subject print.
    "insecure-default-key-change-this",
    "a3f1c2e9...",
    "h3ZpQ8k2...=",
    "68be464f",
    "68be464f...",
    "mysecret",
    "short",
    "dG9rZW4tc2lnbmluZy1rZXktZm9yLWRhc2h0YW0tcHJvZHVjdGlvbi1lbnZpcm9ubWVudC1oaWdobHktc2VjcmV0",
    "AES-256-key-for-provider-cred!",
    "this-is-way-too-long-for-aes-256",
    "test-secret-key-for-automated-testing-only-never-use-in-production",
    "test-key-for-encryption-32-ch!@#",
    "your-fernet-key",
    "your-jwt-secret",
    "sk-test123",
    "<generate-me>",
    "${{ secrets.CI_SECRET_KEY }}",
    "$(openssl rand -hex 32)",
    # What everybody has copied.
    "changeme",
    "CHANGE_ME",
    "please-change-me-please-change-me-please-change-me",
    "REPLACE_WITH_64_HEX_DIGITS_FROM_OPENSSL_RAND_HEX_32_REPLACE_WITH",
    "your-256-bit-secret-your-256-bit-secret-your-256",
    "Your-Super-Long-And-Very-Own-Jwt-Signing-Key-2024",
    "MyVeryOwnSuperSecretKeyThatNobodyEverGuesses2024",
    "a-string-secret-at-least-256-bits-long-for-hs256-tokens",
    "correct-horse-battery-staple-correct-horse-battery-staple",
    "DEVELOPMENT_ONLY_KEY_DEVELOPMENT_ONLY_KEY_DEVELOPMENT",
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=",
    "81HqDtbqAywKSOumSha3BhWNOdQ26slT6K0YaZeZyPs=",
    "46BKJoQYlPPOexq0OhDZnIlNepKFf87WFwLbfzqDDho=",
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    "404E635266556A586E3272357538782F413F4428472B4B6250645367566B5970",
    hashlib.sha256(b"").hexdigest(),
    # What fingers and counters make.
    "0" * 64,
    "f" * 64,
    "0123456789abcdef" * 4,
    "0123456789ABCDEF" * 4,
    "fedcba9876543210" * 4,
    "deadbeef" * 8,
    "00112233445566778899aabbccddeeff" * 2,
    bytes(range(32)).hex(),
    bytes(range(255, 223, -1)).hex(),
    bytes(range(0, 64, 2)).hex(),
    _urlsafe(bytes(range(32))),
    (RANDOM[:16] * 2).hex(),
    (bytes(24) + RANDOM[:8]).hex(),
    (RANDOM[:24] + bytes(8)).hex(),
    "A" * 43 + "=",
    _urlsafe(b"correct horse battery staple 123"),
    _standard(b"this is a secret key of 32 bytes"),
    b"a phrase in hex, thirty-two long".hex(),
    "1" * 100,
    "password" * 8,
]


@strictly
@pytest.mark.parametrize("text", SAMPLES)
def test_samples_and_guesses_are_refused_as_every_key(text: str, environment: Environment) -> None:
    for name in APPLICATION_KEYS:
        _refused(name, text, environment)
    _refused_as_master_key(text, environment)


def _documented() -> list[str]:
    """Whatever in the documentation and the templates could be taken for a key of 32 bytes."""
    documents = [*(ROOT / "docs").rglob("*.*"), *(ROOT / "env").iterdir(), ROOT / "README.md"]
    whole = r"(?<![\w+/=-])(?<!sha256:)(?:[0-9A-Fa-f]{64}|[A-Za-z0-9+/_-]{43}=?)(?![\w+/=-])"
    found = {
        text
        for path in documents
        if path.suffix in {".md", ".json", ".example", ".txt", ".yaml", ".yml", ".toml"} and path.is_file()
        for text in re.findall(whole, path.read_text())
    }
    return sorted(text for text in found if not re.search(r"[a-z]+(?:[-_/][a-z]+){3}", text))  # names and paths


def test_keys_that_stand_in_our_own_documentation_are_refused() -> None:
    documented = _documented()
    assert bytes(range(32)).hex() in documented, "the vectors' master key is the one that everybody would copy"
    for text in documented:
        for name in APPLICATION_KEYS:
            _refused(name, text)
        _refused_as_master_key(text)


def test_keys_of_the_templates_serve_in_test_only() -> None:
    text = (ROOT / "env" / ".env.test.example").read_text()
    given_keys = dict(re.findall(r"^([A-Z_]+KEY)=(.+)$", text, re.MULTILINE))
    assert {name.value for name in APPLICATION_KEYS} <= given_keys.keys()
    for name in APPLICATION_KEYS:
        assert len(parse_external_key(name, given_keys[name.value], Environment.TEST)) >= 32
        _refused(name, given_keys[name.value])
    assert len(master_key_from_text(given_keys["MASTER_KEY"], Environment.TEST)) == 32
    _refused_as_master_key(given_keys["MASTER_KEY"])


@given(st.text(max_size=80) | st.sampled_from(SAMPLES), st.sampled_from(Environment))
def test_no_text_raises_anything_else_and_no_message_repeats_it(text: str, environment: Environment) -> None:
    calls = [partial(parse_external_key, name, text, environment) for name in APPLICATION_KEYS]
    for call in [*calls, partial(master_key_from_text, text, environment)]:
        refusal = _refusal(call)
        if refusal is not None:
            assert len(text) < 6 or text not in str(refusal)
            assert refusal.__cause__ is None


# ---------------------------------------------------------------------------------------------------------------------
# Chance
# ---------------------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32), st.sampled_from(FORMS))
def test_whatever_is_refused_is_refused_for_a_reason_that_a_test_below_bounds(
    key: bytes, form: Callable[[bytes], str]
) -> None:
    """Hypothesis loves zeros and repetitions, so it does find weak keys: for no reason that is not counted below."""
    counted = {
        "it is a placeholder or a sample",
        "it is published in documentation",
        "it encodes text instead of random bytes",
        "it reads as words instead of random base64",
        "its bytes hardly differ",
        "its bytes count up or down",
        "its bytes repeat",
    }
    refusal = _refusal(lambda: parse_external_key(KeyName.AES_KEY, form(key), Environment.PRODUCTION))
    assert refusal is None or str(refusal) in counted


@pytest.mark.parametrize("size", [32, 48, 64, 96])
def test_a_random_key_is_refused_less_than_once_in_a_thousand_million(size: int) -> None:
    """The union bound over every rule, for the form that suffers most: base64 without ``=``."""
    characters = math.ceil(size * 8 / 6)
    last_letters = 2 ** (size * 8 - 6 * (characters - 1))  # the last character does not carry six bits
    placeholder = sum(
        (characters - len(word)) / 64 ** len(word) + 1 / 64 ** (len(word) - 1) / last_letters
        for word in key_material._PLACEHOLDERS
    )
    published = len(key_material._PUBLISHED) / 2**64
    printable = (98 / 256) ** size
    # 26 of 64 letters are upper case and 26 lower; that the last character may save the key is left out.
    one_case = 2 * (38 / 64) ** (characters - 1)
    few = math.comb(256, 11) * (11 / 256) ** size
    progression = (size - 7) * 256.0**-6
    repeat = sum(256.0 ** (period - size) for period in range(1, size // 2 + 1))
    assert placeholder + published + printable + one_case + few + progression + repeat < 1e-9


@pytest.mark.slow
def test_random_keys_are_taken() -> None:
    """Ten thousand of each form: a rule that is wrong by orders of magnitude would show. The same ones every time."""
    chance = random.Random(20261120)
    for _ in range(10_000):
        key = chance.randbytes(32)
        for text in (key.hex(), _urlsafe(key), _standard_bare(key)):
            assert master_key_from_text(text, Environment.PRODUCTION) == key
