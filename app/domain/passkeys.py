"""Passkeys: key pairs of WebAuthn Level 3. The person's device keeps the private key, Keyhall the public one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from app.domain.text import line

PASSKEYS_MOST: Final = 20
"""How many passkeys a user may have."""
PASSKEY_NAME_LONGEST: Final = 64
CHALLENGE_LASTS: Final = timedelta(minutes=5)
"""How long a browser may take to answer (WebAuthn Level 3, 15.1, recommends five minutes to ten)."""


class Ceremony(StrEnum):
    """The purpose of an answer of an authenticator. A challenge for one purpose serves no other."""

    REGISTRATION = "registration"
    LOGIN = "login"
    REAUTHENTICATION = "reauthentication"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelyingParty:
    """For whom passkeys are made: ``id`` is a host name, ``origins`` are where its pages are (WebAuthn, 5.1.2)."""

    id: str
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passkey:
    """A public key of a user, by its id and by the ``credential_id`` that the authenticator chose.

    ``public_key`` is a COSE_Key (RFC 9052). ``sign_count`` is the authenticator's counter at its last use, always 0
    where it has none. ``transports`` say how browsers reach it; ``synced`` that it is backed up to other devices.
    """

    id: str
    user_id: str
    name: str
    credential_id: bytes
    public_key: bytes
    sign_count: int = 0
    transports: tuple[str, ...] = ()
    synced: bool = False
    created_at: datetime
    last_used_at: datetime | None = None

    def counts_on(self, sign_count: int) -> bool:
        """Whether ``sign_count`` may be the counter of its next use: it must rise, or the key was copied (6.1.1).

        An authenticator without a counter always says 0.
        """
        return sign_count > self.sign_count or sign_count == self.sign_count == 0


def passkey_name(value: object) -> str:
    """The name that a person gives to a passkey: 1 to 64 characters. Raises InvalidInput."""
    return line(value, "name", longest=PASSKEY_NAME_LONGEST)
