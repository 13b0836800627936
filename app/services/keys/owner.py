"""Application keys that a secret outside owns: Keyhall follows what it says, and leaves their rotation to it."""

from __future__ import annotations

from typing import Literal

from app.domain.errors import KeyStateConflict
from app.domain.keys import KeyName
from app.domain.stored_secret import StoredSecret

Asked = Literal["rotated", "rolled back", "imported", "revoked"]


class KeyOwner:
    """The secret that gives application keys, as it was read last."""

    def __init__(self, stored: StoredSecret) -> None:
        self.stored = stored

    def owns(self, name: KeyName) -> bool:
        """Whether that key comes from the secret."""
        return name.value in self.stored.current.keys

    def refusal(self, name: KeyName, asked: Asked) -> KeyStateConflict:
        """The error for a change that only the owner of the key can make, with the commands that make it."""
        place = self.stored.place
        command = self.stored.rollback_command() if asked == "rolled back" else place.change_command(name.value)
        command = command or "there is no AWSPREVIOUS to go back to"
        return KeyStateConflict(
            f"{name.value} belongs to the AWS secret {place.name}, so it is {asked} there: {command}. Every process "
            "follows within minutes, or at once with POST /api/v1/admin/cache/clear"
        )


def age_warning(name: KeyName, age_days: int, owner: KeyOwner | None) -> str:
    """The sentence that warns of a key whose rotation is due, with the command for it."""
    if owner is not None and owner.owns(name):
        return f"{name} is {age_days} days old: {owner.refusal(name, 'rotated').detail}"
    return f"{name} is {age_days} days old: rotate it with `keyhall keys rotate {name}`"


def require_ours(owner: KeyOwner | None, name: KeyName, asked: Asked) -> None:
    """Raise KeyStateConflict, with the commands to run, where a secret outside owns that key."""
    if owner is not None and owner.owns(name):
        raise owner.refusal(name, asked)
