"""The scopes of API tokens: each names what a token may do of what its owner may do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from app.domain.errors import InvalidInput


class Scope(StrEnum):
    """Every scope; none includes another."""

    CREDENTIALS_READ = "credentials:read"
    CREDENTIALS_WRITE = "credentials:write"
    CREDENTIALS_REVEAL = "credentials:reveal"
    CREDENTIALS_USE = "credentials:use"
    KEYS_READ = "keys:read"
    KEYS_MANAGE = "keys:manage"
    AUDIT_READ = "audit:read"
    USERS_MANAGE = "users:manage"
    METRICS = "metrics"


OF_CREDENTIALS: Final = frozenset(each for each in Scope if each.startswith("credentials:"))
"""The scopes that a token which is bound to a guild may have."""
USE_OF_ONE: Final = f"{Scope.CREDENTIALS_USE}:"
"""Followed by the id of a credential: the use of that one alone."""
_ID: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
SCOPE_PATTERN: Final = f"{'|'.join(Scope)}|{USE_OF_ONE}{_ID}"
_SCOPE: Final = re.compile(SCOPE_PATTERN, re.ASCII)
MOST_SCOPES: Final = 50


def new_scopes(values: Iterable[object]) -> tuple[str, ...]:
    """The scopes of a new token, each once, in the order of ``Scope``. Raises InvalidInput."""
    given = list(values)
    if not 1 <= len(given) <= MOST_SCOPES:
        raise InvalidInput("scopes", f"must be 1 to {MOST_SCOPES} scopes")
    known = [each for each in given if isinstance(each, str) and _SCOPE.fullmatch(each)]
    if len(known) != len(given):
        raise InvalidInput("scopes", f"may hold {', '.join(Scope)}, {USE_OF_ONE}<credential id> and nothing else")
    order = [each.value for each in Scope]
    return tuple(sorted(set(known), key=lambda each: (order.index(kind_of(each)), each)))


def kind_of(scope: str) -> str:
    """The scope itself; of the use of one credential, the use of credentials."""
    return Scope.CREDENTIALS_USE if scope.startswith(USE_OF_ONE) else scope


def credential_of(scope: str) -> str | None:
    """The id of the one credential that a scope is about; None for any other scope."""
    return scope.removeprefix(USE_OF_ONE) if scope.startswith(USE_OF_ONE) else None
