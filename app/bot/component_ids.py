"""Ids of buttons, selects and forms, which say everything that is needed to serve them.

No process keeps anything about what it showed: every process serves every button and form, also after a restart. An id
names an action, whose credentials it is about, one credential and the version of it that was shown. It is no proof of
anything: the services judge every request by its sender.
"""

from __future__ import annotations

import base64
import re
import uuid
from dataclasses import dataclass
from typing import Final, Self

PREFIX: Final = "keyhall:"
"""The beginning of the ids of Keyhall's own components; extensions use others."""
LONGEST: Final = 100
"""Characters that Discord takes."""

_FORM = re.compile(
    r"keyhall:(?P<action>[a-z]{1,8}):(?:u|g(?P<guild>[0-9]{1,20})):(?P<credential>[\w-]{22})?:(?P<number>[0-9]{1,10})?:"
    r"(?P<text>.*)",
    re.ASCII | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentId:
    """``guild_id`` is None for the member's own credentials. ``number`` is a version, or the place in a list.

    ``text`` is what an action needs besides: a form has the id of the interaction that opened it, so that no two forms
    are alike, and a form that is sent twice is recognised.
    """

    action: str
    guild_id: str | None = None
    credential_id: str | None = None
    number: int | None = None
    text: str = ""

    def __str__(self) -> str:
        whose = "u" if self.guild_id is None else f"g{self.guild_id}"
        credential = "" if self.credential_id is None else _short(self.credential_id)
        number = "" if self.number is None else self.number
        return f"{PREFIX}{self.action}:{whose}:{credential}:{number}:{self.text}"

    @classmethod
    def read(cls, custom_id: str) -> Self | None:
        """Return what an id says; None for one that is not of this form, such as one of an earlier version."""
        if (match := _FORM.fullmatch(custom_id)) is None:
            return None
        credential, number = match["credential"], match["number"]
        return cls(
            action=match["action"],
            guild_id=match["guild"],
            credential_id=None if credential is None else _long(credential),
            number=None if number is None else int(number),
            text=match["text"],
        )


def _short(credential_id: str) -> str:
    return base64.urlsafe_b64encode(uuid.UUID(credential_id).bytes).decode().rstrip("=")


def _long(short: str) -> str:
    return str(uuid.UUID(bytes=base64.urlsafe_b64decode(short + "==")))
