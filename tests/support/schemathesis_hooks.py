"""The rules that JSON Schema cannot express, for schemathesis: the document names each of them by a format."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import Any

import schemathesis
from hypothesis import strategies as st

_WORD = st.text(st.characters(codec="ascii", categories=("Ll", "Lu")), min_size=2, max_size=16)
_TYPED = st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)
_CURSOR = base64.urlsafe_b64encode(b"12").decode()
_SOON = st.datetimes(datetime(2040, 1, 1), datetime(2045, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - a bound

for name, strategy in {
    "label": _WORD,
    "provider": _WORD,
    "username": _WORD,
    "secret": _WORD.map(lambda word: f"{word} and another word"),
    "new-password": _WORD.map(lambda word: f"{word} {word[::-1]} in a long sentence"),
    "typed-text": _TYPED,
    "cursor": st.just(_CURSOR),
    "snowflake": st.integers(10**17, 2**63).map(str),
    "date-time": _SOON.map(lambda moment: moment.isoformat().replace("+00:00", "Z")),
}.items():
    schemathesis.openapi.format(name, strategy)


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Make a well-formed cursor one that was given out, and a well-formed time one that lies ahead."""
    query = case.query or {}
    if isinstance(query.get("cursor"), str) and re.fullmatch("[A-Za-z0-9_-]{1,100}", query["cursor"]):
        case.query = {**query, "cursor": _CURSOR}
    if isinstance(case.body, dict):
        year = datetime.now(UTC).year + 5
        case.body = {
            key: re.sub(r"^\d{4}(?=-\d\d-\d\dT)", str(year), value)
            if key in {"at", "expires_at"} and isinstance(value, str)
            else value
            for key, value in case.body.items()
        }
