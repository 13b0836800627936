"""Randomness that a test decides, and the third-party vectors of the package ``cryptography-vectors``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from typing import Any


class GivenRandomness:
    """Hands out prepared bytes in their order, for results that are known beforehand."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)

    def token_bytes(self, size: int) -> bytes:
        chunk = self._chunks.pop(0)
        assert len(chunk) == size
        return chunk

    def new_id(self) -> str:
        raise AssertionError("no id was prepared")


def vector_text(path: str) -> str:
    """A file of the package."""
    return resources.files("cryptography_vectors").joinpath(path).read_text()


def vector_json(path: str) -> list[dict[str, Any]]:
    """A JSON file of the package."""
    cases: list[dict[str, Any]] = json.loads(vector_text(path))
    return cases


def nist_cases(path: str, *, first: str = "count") -> Iterator[dict[str, str]]:
    """The cases of a NIST response file, their names in lower case; each knows its section's lengths as well.

    ``first`` is the name that every case begins with.
    """
    section: dict[str, str] = {}
    case: dict[str, str] = {}
    for line in [*vector_text(path).splitlines(), f"{first} ="]:
        name, _, value = line.strip("[] ").partition("=")
        name, value = name.strip().lower(), value.strip()
        if line.startswith("["):
            section[name] = value
        elif name == first:
            if case:
                yield case
            case = {**section, name: value}
        elif name and not name.startswith("#"):
            case[name] = value
