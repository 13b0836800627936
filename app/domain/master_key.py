"""What may be said of a master key: of one that somebody gave back, and of its change. Ids only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.domain.instances import Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredMasterKey:
    """It opens the install; ``written`` is whether its file was made, False where it was there or was not asked for."""

    master_key_id: str
    database: str
    file: str
    written: bool
    overridden_by: str | None
    """The setting that goes before the file, None where nothing does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterKeyPlan:
    """What a change of the master key would do; nothing has been changed.

    ``under`` is what the database is under; ``to`` is what it would be put under, None where that is yet to be made;
    ``file`` is the default file, None where the key comes from the settings; ``behind`` are the processes that would
    stand in the way.
    """

    under: str
    to: str | None
    file: str | None
    processes: Sequence[Instance]
    behind: Sequence[Instance]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedMasterKey:
    """The database is under ``after``; ``before`` is None where it was so already.

    ``previous_given`` tells that the settings still give another one, which nothing needs any more.
    """

    before: str | None
    after: str
    file: str | None
    previous_given: bool
