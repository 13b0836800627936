"""One-time links: each lets its holder do one thing once, such as choose the first password of an account."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from app.domain.errors import InvalidInput
from app.domain.identity import Role


class LinkPurpose(StrEnum):
    """The one thing that a link lets its holder do."""

    CLAIM = "claim"
    """Choose the first password of an account that has none."""
    RESET = "reset"
    """Choose the password of an account, with or without one before; all its sessions end."""
    INVITE = "invite"
    """Make an account, with the role that the link says."""
    DISCORD = "discord"
    """Link the Discord account of the sender; a code of ten minutes, not a link."""


ACCOUNT_PURPOSES: Final[tuple[LinkPurpose, ...]] = (LinkPurpose.CLAIM, LinkPurpose.RESET)
"""The purposes of the links that let somebody choose the password of an account."""

LINK_LASTS: Final = timedelta(days=7)
"""How long a link can be used."""
INVITATION_SHORTEST: Final = timedelta(seconds=1)
INVITATION_LONGEST: Final = timedelta(days=30)
"""How long an invitation can be made to last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTimeLink:
    """One row; the database holds the SHA-256 of the token, never the token. ``user_id`` is the account it is for."""

    id: str
    purpose: LinkPurpose
    user_id: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """A link by which somebody without an account makes one, with that role.

    ``issued_by`` is the id of a user, None for the operator at the command line.
    """

    id: str
    role: Role
    issued_by: str | None
    created_at: datetime
    expires_at: datetime


def invitation_span(seconds: int) -> timedelta:
    """That many seconds as the lifetime of an invitation. Raises InvalidInput for none of 1 second to 30 days."""
    if not INVITATION_SHORTEST.total_seconds() <= seconds <= INVITATION_LONGEST.total_seconds():
        raise _no_lifetime()  # before there is a timedelta, which holds no huge number
    return timedelta(seconds=seconds)


def invitation_lifetime(lasts: timedelta | None) -> timedelta:
    """How long an invitation lasts, seven days by default. Raises InvalidInput for none of 1 second to 30 days."""
    if lasts is None:
        return LINK_LASTS
    if not INVITATION_SHORTEST <= lasts <= INVITATION_LONGEST:
        raise _no_lifetime()
    return lasts


def _no_lifetime() -> InvalidInput:
    return InvalidInput("expires_in", "must be 1 second to 30 days")
