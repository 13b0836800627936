"""Processes that share one install: leases and the key epochs they have loaded (docs/keys.md, "Leases and epochs")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

LEASE_SECONDS: Final = 15.0
"""A process is live while its lease, on the database's clock, has not lapsed."""
RENEW_EVERY_SECONDS: Final = 4.0
"""Three renewals may fail before a lease lapses."""
CONFIRM_EVERY_SECONDS: Final = 1.0
"""How often a process checks whether the keysets changed; on SQLite every request checks as well."""
IDLE_CONFIRM_SECONDS: Final = RENEW_EVERY_SECONDS
"""How often a process checks that served nothing since the last time, and that is notified of changes: not more often
than it renews its lease, which confirms the keys as well."""
CONFIRMED_FOR_SECONDS: Final = 5.0
"""A process that could not confirm its keysets for this long serves nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One process, as text `kind host/pid`.

    ``epochs`` maps each key's name to the epoch that this process has loaded; ``master_key_ids`` are the ids of the
    master keys that it is given.
    """

    id: str
    kind: str
    host: str
    pid: int
    started_at: datetime
    lease_until: datetime
    epochs: Mapping[str, int]
    master_key_ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.host}/{self.pid}"
