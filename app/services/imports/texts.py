"""Reading a file from another program as text and as JSON. Nothing of its content gets into an error."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

from app.domain.imports import ImportStopped

_MARKS: Final = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


_MOST_OBJECTS: Final = 500_000
"""In memory an object is a hundred times as large as in its file."""


class Object(dict[str, Any]):
    """A JSON object; ``doubled`` are the names that it holds more than once, of which the last value is here."""

    doubled: frozenset[str]

    @classmethod
    def of(cls, pairs: list[tuple[str, Any]]) -> Object:
        """The object that these members make."""
        made = cls(pairs)
        made.doubled = frozenset()
        if len(pairs) > len(made):
            times = Counter(name for name, _ in pairs)
            made.doubled = frozenset(name for name, number in times.items() if number > 1)
        return made


def text_of(content: bytes, file: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 where it says so at its beginning. Raises ImportStopped."""
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        at = error.start
    else:
        if "\0" in text:
            raise ImportStopped(f"{file} holds NUL characters: it is no text file")
        return text
    raise ImportStopped(f"{file} is not UTF-8 text, from byte {at} on: save it as UTF-8")


def json_of(text: str, file: str) -> Any:
    """The value of a JSON text; each of its objects is an `Object`. Raises ImportStopped."""
    if not text.strip():
        raise ImportStopped(f"{file} is empty")
    left = _MOST_OBJECTS

    def counted(pairs: list[tuple[str, Any]]) -> Object:
        nonlocal left
        left -= 1
        if left < 0:
            raise ImportStopped(f"{file} holds more than {_MOST_OBJECTS:,} objects: import it in several files")
        return Object.of(pairs)

    try:
        return json.loads(text, object_pairs_hook=counted)
    except json.JSONDecodeError as error:
        reason = f"{file} is not JSON: line {error.lineno}, column {error.colno}"
    except RecursionError:
        reason = f"{file} is nested too deeply"
    except ValueError:
        reason = f"{file} holds a number that is too long"
    raise ImportStopped(reason)  # here, so that no traceback leads back to the content
