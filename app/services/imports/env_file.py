"""A `.env` file of another project: the lines that hold a provider's key, as python-dotenv reads them."""

from __future__ import annotations

import io
import re
from typing import Final

from dotenv.parser import parse_stream

from app.domain.credentials import SECRET_LONGEST
from app.domain.imports import Entry, Passed, Source, shown
from app.domain.key_shapes import find_key, provider_of
from app.domain.providers import provider_named
from app.domain.secrets import SecretText
from app.services.imports.texts import text_of

LARGEST_ENV_FILE: Final = 1 << 20
"""Bytes; as much as Keyhall reads of its own. The parser takes some 200 µs a line."""
_VARIABLE: Final = re.compile(r"\$\{[A-Za-z_]\w*(?::?[-=?+][^}]*)?\}", re.ASCII)


def env_file(content: bytes, file: str) -> Source:
    """The keys in a `.env` file. Nothing is interpolated. Raises ImportStopped where it is no text file."""
    source = Source("env")
    lines: dict[str, str] = {}
    values: dict[str, str] = {}
    found: dict[str, Entry] = {}
    for binding in parse_stream(io.StringIO(text_of(content, file))):
        text = binding.original.string
        number = binding.original.line + len(text) - len(text.lstrip("\r\n"))
        where = f"{file}: line {number}"
        if binding.error:
            if text.strip() and not text.lstrip().startswith((";", "//")):
                bad = source.broken if find_key(text) else source.passed_over
                bad.append(Passed(where, "is not NAME=value"))
            continue
        if binding.key is None:
            continue
        name, value = binding.key, (binding.value or "").strip()
        where = f"{where}: {shown(name)}"
        if name in lines:
            again = "stands there again" if values[name] == value else "stands there again, with another value"
            source.passed_over.append(Passed(lines[name], f"{again}, in line {number}"))
            found.pop(name, None)
        lines[name], values[name] = where, value
        if why := _why_not(name, value):
            source.passed_over.append(Passed(where, why))
        elif _VARIABLE.search(value):
            source.broken.append(Passed(where, "refers to another variable by ${…}: write the key itself"))
        elif len(value) > SECRET_LONGEST:
            source.broken.append(Passed(where, f"is longer than {SECRET_LONGEST >> 10} KiB"))
        else:
            found[name] = Entry(where=where, holder=None, name=name, value=SecretText(value))
    source.entries = list(found.values())
    return source


def _why_not(name: str, value: str) -> str | None:
    """Why a line is passed over; None for one that holds a provider's key."""
    if not value:
        return "is empty"
    known = provider_named(name) is not None and provider_named(name) != name.lower()
    if not known and provider_of(value) is None and find_key(value) != value:
        return "is no provider's variable, and its value has the shape of no key"
    return None
