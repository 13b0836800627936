"""Canonical JSON: one text for one value, for rows that are compared, hashed or authenticated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def canonical_json(members: Mapping[str, Any]) -> str:
    """Keys sorted, no white space, ASCII. Raises ValueError for a number that JSON does not know."""
    return json.dumps(dict(members), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
