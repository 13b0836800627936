"""Connections behind PgBouncer, which lets no settings of a session through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg


def limiting(limits: Mapping[str, str]) -> type[Any]:
    """Connections whose transactions begin with these limits, in one message."""
    also = "".join(f" SET LOCAL {name} = {value};" for name, value in limits.items())

    class Limiting(asyncpg.Connection):  # type: ignore[misc]
        async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:  # noqa: ASYNC109
            begun = f"{query}{also}" if query.startswith("BEGIN") else query
            status: str = await super().execute(begun, *args, timeout=timeout)
            return status

    return Limiting
