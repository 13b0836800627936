"""Keys from outside: which text is a key, and which keys nobody may use (docs/keys.md, "External keys").

A guess is refused, a random key never: all rules together refuse fewer than one in 10**9 keys of 32 to 96 bytes from
a CSPRNG in hex, base64 or base64url, which the tests compute. No message holds a value or a part of one.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from typing import Final

from app.domain.keys import MATERIAL_BYTES, Environment, KeyName

_TEST_SHORTEST: Final = 16
_FEWEST_DISTINCT_BYTES: Final = 12
_LONGEST_PROGRESSION: Final = 7

_HEX = re.compile(r"[0-9A-Fa-f]+")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]+|[A-Za-z0-9_-]+)={0,2}")
_TO_URLSAFE: Final = str.maketrans("+/", "-_")
_FORM: Final = "it is not 32 bytes as 64 hex digits or 43 characters of base64"

# Seven letters or more each, since a shorter word turns up in a random key once in a hundred million times.
_PLACEHOLDER_WORDS: Final = (
    "change-me",
    "change-this",
    "replace-me",
    "replace-with",
    "replace-this",
    "placeholder",
    "example",
    "insecure",
    "your-secret",
    "your-super",
    "your-jwt",
    "your-own",
    "your-key",
    "your-256",
    "secret-key",
    "super-secret",
    "my-secret",
    "dev-secret",
    "dev-only",
    "default-key",
    "default-secret",
    "password",
    "testing",
    "test-key",
    "test-only",
    "test-secret",
    "never-use",
    "do-not-use",
)
_PLACEHOLDERS: Final = frozenset(
    case(word.replace("-", separator))
    for word, separator, case in itertools.product(
        _PLACEHOLDER_WORDS,
        ("-", "_", ""),
        (str.lower, str.upper, str.title, lambda word: word.title().replace("-", "")),
    )
)

# Keys that others published, and bytes of docs/vectors that look like keys: the first 16 hex digits of their SHA-256.
_PUBLISHED: Final = frozenset(
    {
        "4d0f8dec4515d07a",  # FastAPI's tutorial
        "c8ecc9361a05e285",  # RFC 7515, A.1
        "cbeb362f1fa69a66",  # the Fernet specification
        "3990442a9e73e2e2",  # Airflow's documentation
        "5ca278330d08b9ce",  # a popular Airflow image
        "5df6e0e2761359d3",  # SHA-256 of nothing, from an unset variable
        "c88e38d6a53ce736",  # the MAC in docs/vectors/envelope.json
        "2c22c4dc6e2a456a",  # a digest there
    }
)


class WeakKey(ValueError):
    """A key that must not be used; the message continues a sentence ("… is refused: it is empty")."""


def parse_external_key(name: KeyName, text: str, environment: Environment) -> bytes:
    """The material of an application key that somebody gives.

    JWT and API keys are the text's own UTF-8 bytes, AES and ENCRYPTION keys the 32 bytes that it encodes. In ``test``
    any text of 16 characters serves, as its SHA-256 where it does not give (for JWT and API: at least) 32 bytes.
    Raises WeakKey, and ValueError for an internal key.
    """
    if name.internal:
        raise ValueError(f"{name.value} is never given from outside")
    spelled = name in {KeyName.JWT_SECRET_KEY, KeyName.API_SECRET_KEY}
    try:
        literal = text.encode()
    except UnicodeEncodeError:
        raise WeakKey("it is not valid Unicode") from None
    if environment is Environment.TEST:
        return _test_material(text, literal, spelled=spelled)
    _require_own_text(text)
    decoded = _decode(text) if spelled else _exactly_32(text)
    if decoded is None:
        raise WeakKey("it is neither hex nor base64url" if spelled else _FORM)
    if len(decoded) < MATERIAL_BYTES:
        raise WeakKey(f"it has fewer than {MATERIAL_BYTES} bytes")
    _require_random(text, decoded)
    return literal if spelled else decoded


def _test_material(text: str, literal: bytes, *, spelled: bool) -> bytes:
    if len(text) < _TEST_SHORTEST:
        raise WeakKey(f"it has fewer than {_TEST_SHORTEST} characters")
    if spelled and len(literal) >= MATERIAL_BYTES:
        return literal
    return (None if spelled else _exactly_32(text)) or hashlib.sha256(literal).digest()


def same_bytes(text: str) -> bytes:
    """The 32 bytes that a key encodes, else its text: equal for two spellings of one key."""
    return _exactly_32(text) or text.encode(errors="surrogatepass")


def master_key_from_text(text: str, environment: Environment) -> bytes:
    """The 32 bytes of a master key in hex, base64 or base64url. Raises WeakKey; in ``test`` only for another form."""
    if environment is not Environment.TEST:
        _require_own_text(text)
    material = _exactly_32(text)
    if material is None:
        raise WeakKey(_FORM if text else "it is empty")
    if environment is not Environment.TEST:
        _require_random(text, material)
    return material


def _decode(text: str) -> bytes | None:
    """Hex, else base64 in either alphabet, padded or not; None for anything else."""
    if _HEX.fullmatch(text):
        return bytes.fromhex(text[: len(text) // 2 * 2])
    body = text.rstrip("=")
    if not _BASE64.fullmatch(text) or len(body) % 4 == 1:
        return None
    return base64.urlsafe_b64decode(body.translate(_TO_URLSAFE) + "=" * (-len(body) % 4))


def _exactly_32(text: str) -> bytes | None:
    """The 32 bytes that 64 hex digits, or 43 characters of canonical base64, encode; None for anything else."""
    if len(text) not in {43, 44, 64}:
        return None
    decoded = _decode(text)
    if decoded is None or len(decoded) != MATERIAL_BYTES:
        return None
    canonical = base64.urlsafe_b64encode(decoded).decode().rstrip("=")
    return decoded if len(text) == 64 or canonical == text.rstrip("=").translate(_TO_URLSAFE) else None


def _require_own_text(text: str) -> None:
    if not text.strip():
        raise WeakKey("it is empty")
    if any(word in text for word in _PLACEHOLDERS):
        raise WeakKey("it is a placeholder or a sample")


def _require_random(text: str, decoded: bytes) -> None:
    """Refuse what a person thought up, a tutorial printed or a counter counted."""
    if hashlib.sha256(decoded).hexdigest()[:16] in _PUBLISHED:
        raise WeakKey("it is published in documentation")
    if all(byte in b"\t\n\r" or 0x20 <= byte < 0x7F for byte in decoded):
        raise WeakKey("it encodes text instead of random bytes")
    if not _HEX.fullmatch(text) and (text == text.lower() or text == text.upper()):
        raise WeakKey("it reads as words instead of random base64")
    if len(set(decoded)) < _FEWEST_DISTINCT_BYTES:
        raise WeakKey("its bytes hardly differ")
    steps = [(later - earlier) % 256 for earlier, later in itertools.pairwise(decoded)]
    if any(len(list(run)) >= _LONGEST_PROGRESSION for _, run in itertools.groupby(steps)):
        raise WeakKey("its bytes count up or down")
    if any(decoded == (decoded[:period] * len(decoded))[: len(decoded)] for period in range(1, len(decoded) // 2 + 1)):
        raise WeakKey("its bytes repeat")
