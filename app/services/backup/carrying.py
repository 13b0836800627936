"""The facts that a restored database takes from the replaced one, since no old backup may undo them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from app.domain.errors import InstallMismatch, StartupError, StorageError
from app.domain.identity import User
from app.domain.keys import KeyName, Keyset, KeyState
from app.domain.privacy import Erasure
from app.domain.restoring import merged
from app.domain.secrets import SecretBytes
from app.services.keys import KeyRing
from app.services.keys.reading import KeyReader
from app.services.paging import pages
from app.services.ports import RememberedInstall, Storage
from app.services.ports.restoring import Present

_PAGE: Final = 500
_ID: Final = re.compile(r'"install_id":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"')
_EPOCH: Final = re.compile(r'"epoch":(\d{1,10})\b')
_PLAUSIBLE: Final = 1 << 31
"""An epoch beyond this comes from a damaged row, and must not use up the numbers."""


@dataclass(slots=True)
class Replaced:
    """The facts about the database that is to be replaced; ``lost`` says which could not be read."""

    ring: KeyRing | None = None
    epoch: int = 0
    """The highest epoch that any row names, also rows that do not verify."""
    disabled: list[User] = field(default_factory=list)
    users: frozenset[str] | None = None
    """The ids of all users; None where they could not be read."""
    erasures: list[Erasure] = field(default_factory=list)
    """People who were erased: a backup from before must not bring them back."""
    lost: list[str] = field(default_factory=list)


async def read_replaced(present: Present | None, reader: KeyReader, install_id: str, name: str) -> Replaced:
    """Read it. Raises InstallMismatch where it is another install's."""
    found = Replaced()
    if present is None:
        return found
    if present.storage is None:
        found.lost.append(f"nothing could be read of the replaced database: {present.why}")
        return found
    try:
        async with present.storage.read() as uow:
            rows = await uow.keys.rows()
    except StorageError as error:
        found.lost.append(f"nothing could be read of the replaced database: {error.detail}")
        return found
    _require_same(rows, install_id, name)
    epochs = (int(each) for value in rows.values() for each in _EPOCH.findall(value))
    found.epoch = max((each for each in epochs if each < _PLAUSIBLE), default=0)
    try:
        found.ring = reader.ring_of(rows, None)
    except StartupError as halt:
        found.lost.append(f"marks of compromised and destroyed keys were not read: {halt.happened}")
    if present.at_head:
        await _read_users(present.storage, found)
    else:
        found.lost.append(
            "disabled users and erasures were not read: the schema of the replaced database is another version's"
        )
    return found


async def _read_users(storage: Storage, found: Replaced) -> None:
    users: list[User] = []
    try:
        async with storage.read() as uow:
            async for page in pages(lambda after: uow.users.page(after=after, limit=_PAGE)):
                users += page
            after: str | None = None
            while erased := await uow.personal_data.erasures(after=after, limit=_PAGE):
                found.erasures += erased
                after = erased[-1].user_id
    except StorageError as error:
        found.erasures.clear()
        found.lost.append(f"disabled users and erasures were not read: {error.detail}")
        return
    found.users = frozenset(each.id for each in users)
    found.disabled = [each for each in users if each.disabled_at is not None]


def _require_same(rows: Mapping[str, str], install_id: str, name: str) -> None:
    named = {each for value in rows.values() for each in _ID.findall(value)}
    if named and install_id not in named:
        raise InstallMismatch(
            f"the backup is of install {install_id}, and the database {name} holds install {min(named)}; nothing was "
            "changed",
            remedy="name an empty database with --into, or correct DATABASE_URL",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredKeys:
    """The keysets that the restored database gets, and the material of each version that is not destroyed."""

    keysets: Mapping[KeyName, Keyset]
    materials: Mapping[KeyName, Mapping[int, SecretBytes]]
    above: Mapping[KeyName, int]
    marks: list[tuple[KeyName, int, KeyState]]
    lost: list[str]


def restored_keys(ring: KeyRing, replaced: Replaced, remembered: RememberedInstall | None) -> RestoredKeys:
    """The keys of the backup, together with those of the replaced database where they could be read."""
    keysets: dict[KeyName, Keyset] = {}
    materials: dict[KeyName, Mapping[int, SecretBytes]] = {}
    found = RestoredKeys(keysets=keysets, materials=materials, above={}, marks=[], lost=[])
    above = {
        name: max(replaced.epoch, remembered.epochs.get(name.value, 0) if remembered else 0, ring.keysets[name].epoch)
        for name in KeyName
    }
    for name in KeyName:
        keyset, known = ring.keysets[name], dict(ring.materials[name])
        if replaced.ring is not None:
            both = merged(keyset, replaced.ring.keysets[name])
            if both is None:
                found.lost.append(f"marks of {name.value} were not carried over: the replaced database had other keys")
            else:
                keyset = both.keyset
                known |= replaced.ring.materials[name]
                states = {each.version: each.state for each in keyset}
                found.marks.extend((name, number, states[number]) for number in both.marked)
        keysets[name] = keyset
        materials[name] = {each.version: known[each.version] for each in keyset if each.state is not KeyState.DESTROYED}
    return RestoredKeys(keysets=keysets, materials=materials, above=above, marks=found.marks, lost=found.lost)
