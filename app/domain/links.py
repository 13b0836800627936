"""One-time links: each lets its holder do one thing once, such as choose the first password of an account."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final


class LinkPurpose(StrEnum):
    """The one thing that a link lets its holder do."""

    CLAIM = "claim"


LINK_LASTS: Final = timedelta(days=7)
"""How long a link can be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTimeLink:
    """One row; the database holds the SHA-256 of the token, never the token. ``user_id`` is the account it is for."""

    id: str
    purpose: LinkPurpose
    user_id: str
    created_at: datetime
    expires_at: datetime
