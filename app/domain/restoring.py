"""Restoring: keysets of a backup and of the database that it replaces as one, and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from app.domain.keys import KeyName, Keyset, KeyState, KeyVersion

MARKS = frozenset({KeyState.COMPROMISED, KeyState.DESTROYED})
"""States that no backup takes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedKeyset:
    """A keyset, and the versions in it whose mark came from the replaced database."""

    keyset: Keyset
    marked: Sequence[int]


def merged(backup: Keyset, replaced: Keyset) -> MergedKeyset | None:
    """Every version of both; where both have one, the state and primary of the replaced database, which is later.

    The epoch is the higher one. None where a version of the same number is another key in each, as after a reset.
    """
    ours = {each.version: each for each in backup}
    theirs = {each.version: each for each in replaced}
    common = ours.keys() & theirs.keys()
    if any(ours[number].fingerprint != theirs[number].fingerprint for number in common):
        return None
    versions = {number: _out_of_use(each) for number, each in ours.items()} | theirs
    marked = [number for number in sorted(common) if theirs[number].state in MARKS and ours[number].state not in MARKS]
    keyset = replace(
        replaced,
        epoch=max(backup.epoch, replaced.epoch),
        versions=tuple(versions[number] for number in sorted(versions)),
    )
    return MergedKeyset(keyset=keyset, marked=marked)


def _out_of_use(version: KeyVersion) -> KeyVersion:
    """A version that the replaced database does not have: it opens, and protects nothing any more."""
    if version.state not in {KeyState.ACTIVE, KeyState.PRE_ACTIVATION}:
        return version
    return replace(version, state=KeyState.DEACTIVATED, deactivated_at=version.deactivated_at or version.created_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedOver:
    """The facts that a restored database took from the replaced one; ``lost`` says which it could not."""

    marks: Sequence[tuple[KeyName, int, KeyState]] = ()
    disabled: int = 0
    """Users who are disabled although they were not in the backup."""
    erased: int = 0
    """People of the backup who were erased since, and are erased again."""
    reencrypted: int = 0
    """Secrets that had to leave a version with such a mark."""
    lost: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """A restore that happened. ``replaced`` is None where nothing was there; ``removed_by`` deletes it."""

    install_id: str
    master_key_id: str
    database: str
    created_at: datetime
    app_version: str
    rows: int
    credentials: int
    users: int
    unreadable: Sequence[str]
    carried: CarriedOver
    replaced: str | None
    removed_by: str | None
