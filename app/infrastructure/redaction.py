"""No secret passes into a log line: registered values are found in every encoding, others by their form.

Redaction works on values, after exceptions were turned into text and before anything is rendered, so neither the
console's colours nor JSON's escapes can hide a secret from it. A value can hold anything, also control characters and
objects that fail to describe themselves: one record stays one record, and redaction never raises.
"""

from __future__ import annotations

import json
import math
import re
import threading
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote, quote_plus

from app.domain.key_shapes import SHAPES, compiled
from app.domain.secrets import SecretBytes, SecretText

if TYPE_CHECKING:  # app/infrastructure/logging.py is who imports structlog
    from structlog.typing import EventDict, WrappedLogger

REDACTED: Final = "[redacted]"

_SHORTEST: Final = 8
_LONGEST_TEXT: Final = 16_384
_LONGEST_TRACEBACK: Final = 65_536
_LONGEST_SECRET: Final = 65_536
_DEEPEST: Final = 6
_MOST_ENTRIES: Final = 100

# ---------------------------------------------------------------------------------------------------------------------
# What looks like a secret
# ---------------------------------------------------------------------------------------------------------------------

_NAMES: Final = (
    r"pass(?:word|wd|phrase|code)|pwd|secret|token|credential|authorization|cookie|t?otp|recovery[_-]?code"
    r"|(?:api|secret|private|access|master|encryption|signing|aes|jwt)[_-]?key"
)
_SECRET_NAME: Final = re.compile(rf"(?:{_NAMES})(s?)$", re.IGNORECASE)
_QUOTED: Final = r"""b?"(?:[^"\\]|\\.)*"|b?'(?:[^'\\]|\\.)*'|\\+"[^"\\]*\\+"|\\+'[^'\\]*\\+'"""

# Each rule: what must occur in the lowered text for the pattern to be worth trying, the pattern, what to put there.
_RULES: Final[tuple[tuple[tuple[str, ...], str, re.RegexFlag, str], ...]] = (
    (
        ("private key",),
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
        re.DOTALL,
        REDACTED,
    ),
    (
        ("authorization", "cookie", "x-api-key", "x-auth-token"),
        (
            r"((?:(?:proxy-)?authorization|(?:set-)?cookie|x-api-key|x-auth-token)(?:\\*[\"']\s*[,:=]|\s*[:=])\s*)"
            rf"(?:{_QUOTED}|[^\r\n]+)"
        ),
        re.IGNORECASE,
        rf"\1{REDACTED}",
    ),
    (
        ("=", '"', "'"),
        rf"((?:{_NAMES})s?(?:\\*[\"']\s*[:=]|\s*=)\s*)(?!(?:None|null|[Tt]rue|[Ff]alse)(?:\W|$))(?:{_QUOTED}|\S+)",
        re.IGNORECASE,
        rf"\1{REDACTED}",
    ),
    (("bearer",), r"\b(bearer\s+)[\w.~+/=-]{8,}", re.ASCII | re.IGNORECASE, rf"\1{REDACTED}"),
    (("://",), r"(://[^\s/:@]*:)[^\s/@]+@", re.NOFLAG, rf"\1{REDACTED}@"),
    (("code=", "state="), r"([?&](?:code|state)=)[^\s&]+", re.NOFLAG, rf"\1{REDACTED}"),
    (
        ("webhooks/", "interactions/"),
        r"((?:webhooks|interactions)/\d+/)[\w-]{20,}",
        re.NOFLAG,
        rf"\1{REDACTED}",
    ),
    *((shape.marks, shape.within_text, re.ASCII, REDACTED) for shape in SHAPES),
)


def _possible(text: str) -> Iterator[tuple[re.Pattern[str], str]]:
    """The patterns worth trying on a text, with what to put in the place of what they match."""
    lowered = text.lower()
    for hints, pattern, flags, replacement in _RULES:
        if any(hint in lowered for hint in hints):
            yield compiled(pattern, flags), replacement


@lru_cache(maxsize=1024)
def names_a_secret(name: str) -> Literal["one", "many"] | None:
    """Whether the value of that name is a secret, or several are; None where it is none."""
    found = _SECRET_NAME.search(name)
    return None if found is None else "many" if found[1] else "one"


def _encodings(secret: str | bytes) -> Iterator[str]:
    """The forms in which a secret appears in text. In base64 it may start at each of three offsets of a longer text."""
    raw = secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        pass
    else:
        yield text
        yield json.dumps(text)[1:-1]
        yield json.dumps(text, ensure_ascii=False)[1:-1]
        yield repr(text)[1:-1]
    yield repr(raw)[2:-1]
    for quoted in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield quoted
        yield re.sub(r"%..", lambda code: code[0].lower(), quoted)
    yield raw.hex()
    yield raw.hex().upper()
    for encode in (b64encode, urlsafe_b64encode):
        yield encode(raw).decode().rstrip("=")
        for offset in range(3):
            encoded = encode(bytes(offset) + raw).decode()
            yield encoded[-(-offset * 8 // 6) : (offset + len(raw)) * 8 // 6]


class Redactor:
    """Removes secrets from log records. One per process; safe to use from every thread."""

    def __init__(self) -> None:
        self._needles: tuple[str, ...] = ()
        self._adding = threading.Lock()

    def add(self, secret: SecretText | SecretBytes | str) -> None:
        """Never show this value, raw, escaped, URL-quoted, in base64, base64url or hex.

        A value shorter than 8 characters is left to the patterns: removing each "admin" from a log helps nobody.
        """
        value = secret if isinstance(secret, str) else secret.reveal()
        found = {form for form in _encodings(value) if len(form) >= _SHORTEST} if len(value) >= _SHORTEST else set()
        with self._adding:
            # Longest first, so that a shorter form never leaves the rest of a longer one standing.
            self._needles = tuple(sorted({*self._needles, *found}, key=len, reverse=True))

    def text(self, text: str) -> str:
        """The text without secrets."""
        for needle in self._needles:
            if needle in text:
                text = text.replace(needle, REDACTED)
        for pattern, replacement in _possible(text):
            text = pattern.sub(replacement, text)
        return text

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """The structlog processor: plain values without secrets and without control characters."""
        texts: list[str] = []
        plain = {as_text(name): _plain(value, name, texts) for name, value in event.items()}
        texts += plain
        # Most lines hold nothing to take out, and one look at all of their text together shows it.
        if self._harmless(" ".join(texts)):
            return plain
        return {self._line(name): self._clean(value, multiline=name in MULTILINE) for name, value in plain.items()}

    def _harmless(self, text: str) -> bool:
        if len(text) > _LONGEST_TEXT or not text.isprintable() or any(needle in text for needle in self._needles):
            return False
        return not any(pattern.search(text) for pattern, _ in _possible(text))

    def _clean(self, value: Any, *, multiline: bool = False) -> Any:
        if isinstance(value, str):
            return self._paragraph(value) if multiline else self._line(value)
        if isinstance(value, dict):
            return {self._line(name): self._clean(entry) for name, entry in value.items()}
        if isinstance(value, list):
            return [self._clean(entry) for entry in value]
        return value

    def _line(self, text: str) -> str:
        # Cut only after the longest secret that could begin before the end: a part of one is one too.
        text = self.text(text[: _LONGEST_TEXT + _LONGEST_SECRET])
        if len(text) > _LONGEST_TEXT:
            text = f"{text[:_LONGEST_TEXT]}… ({len(text) - _LONGEST_TEXT} more)"
        return _escaped(text)

    def _paragraph(self, text: str) -> str:
        # Cut at the front: the last lines of a traceback say what happened.
        text = self.text(text[-(_LONGEST_TRACEBACK + _LONGEST_SECRET) :])[-_LONGEST_TRACEBACK:]
        return "\n".join(_escaped(line) for line in text.split("\n"))


# ---------------------------------------------------------------------------------------------------------------------
# From objects to plain values
# ---------------------------------------------------------------------------------------------------------------------

MULTILINE: Final = frozenset({"exception", "stack"})
"""Members of a record that may hold line breaks."""


def _escaped(text: str) -> str:
    """Without line breaks, terminal sequences, marks that change direction, and lone surrogates."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def as_text(value: object) -> str:
    """The text of an object, even of one that fails to describe itself."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - the line is written even if an object fails to give its text
        return f"<unprintable {type(value).__name__}>"


def _plain(value: object, name: object, texts: list[str], depth: int = 0) -> Any:
    """Plain values for JSON, every text also added to ``texts``; values with the name of a secret are redacted."""
    if value is None or isinstance(value, bool):
        return value
    hidden = names_a_secret(name) if isinstance(name, str) else None
    number = isinstance(value, int | float)
    if hidden == "one" or (hidden == "many" and not number):
        return REDACTED
    if (type(value) is int and abs(value) < 1 << 64) or (type(value) is float and math.isfinite(value)):
        return value
    if depth < _DEEPEST and not isinstance(value, str):
        try:
            if isinstance(value, Mapping):
                return _plain_mapping(value, texts, depth + 1)
            if isinstance(value, list | tuple | set | frozenset):
                return _plain_entries(value, texts, depth + 1)
        except Exception:  # noqa: BLE001, S110 - a collection that cannot be walked is shown like any other object
            pass
    text = _described(value)
    texts.append(text)
    return text


def _plain_mapping(mapping: Mapping[Any, Any], texts: list[str], depth: int) -> dict[str, Any]:
    pairs = list(mapping.items())[:_MOST_ENTRIES]
    plain = {as_text(name): _plain(value, name, texts, depth) for name, value in pairs}
    texts += plain
    return plain


def _plain_entries(entries: Collection[Any], texts: list[str], depth: int) -> list[Any]:
    shown = list(entries)[:_MOST_ENTRIES]
    # A header or a parameter as a pair: its first half names the second.
    name = shown[0] if isinstance(entries, tuple) and len(shown) == 2 else None
    return [_plain(entry, name if place else None, texts, depth) for place, entry in enumerate(shown)]


def _described(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"  # bytes in a log are never for people, and often key material
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {as_text(value)}"
    return as_text(value)
