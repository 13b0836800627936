"""One-time links: each lets its holder do one thing once, such as choose the first password of an account."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final


class LinkPurpose(StrEnum):
    """The one thing that a link lets its holder do."""

    CLAIM = "claim"
    """Choose the first password of an account that has none."""
    RESET = "reset"
    """Choose the password of an account, with or without one before; all its sessions end."""


ACCOUNT_PURPOSES: Final[tuple[LinkPurpose, ...]] = (LinkPurpose.CLAIM, LinkPurpose.RESET)
"""The purposes of the links that let somebody choose the password of an account."""

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
