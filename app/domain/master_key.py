"""What may be said of a master key that somebody gave back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredMasterKey:
    """It opens the install; ``written`` is whether its file was made, False where it was there or was not asked for."""

    master_key_id: str
    database: str
    file: str
    written: bool
    overridden_by: str | None
    """The setting that goes before the file, None where nothing does."""
