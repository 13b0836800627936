"""Application keys: names, states, keysets and the manifest, with their invariants.

States and their meaning follow NIST SP 800-57 part 1 rev. 5, section 7; one primary per keyset follows Tink. Nothing
here depends on how a key is wrapped: a version carries its wrapped material as opaque bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

MATERIAL_BYTES: Final = 32
"""Every application key that Keyhall generates is 32 bytes (256 bits)."""


class Environment(StrEnum):
    """The purpose of an install, which remembers it and refuses the keys of another environment."""

    DEVELOPMENT = "development"
    TEST = "test"
    STAGING = "staging"
    PRODUCTION = "production"

    @property
    def rank(self) -> int:
        """How much depends on an install there: it moves to an environment of a higher rank, never to a lower one."""
        return (Environment.TEST, Environment.DEVELOPMENT, Environment.STAGING, Environment.PRODUCTION).index(self)

    @property
    def may_create_master_key(self) -> bool:
        """Only here a start makes a master key itself; elsewhere it must be given."""
        return self in {Environment.DEVELOPMENT, Environment.TEST}


class KeyName(StrEnum):
    """The keys of an install; one purpose each (SP 800-57 section 5.2)."""

    JWT_SECRET_KEY = "JWT_SECRET_KEY"  # noqa: S105 - the name of a key, not a key
    AES_KEY = "AES_KEY"
    ENCRYPTION_KEY = "ENCRYPTION_KEY"
    API_SECRET_KEY = "API_SECRET_KEY"  # noqa: S105 - the name of a key, not a key
    AUDIT_SEAL_KEY = "AUDIT_SEAL_KEY"

    @property
    def internal(self) -> bool:
        """Keyhall's own bookkeeping: never listed, never given from outside."""
        return self is KeyName.AUDIT_SEAL_KEY

    @property
    def purpose(self) -> str:
        """One phrase for lists and pages."""
        return _PURPOSES[self]


_PURPOSES: Final[Mapping[KeyName, str]] = MappingProxyType(
    {
        KeyName.JWT_SECRET_KEY: "signs access tokens",
        KeyName.AES_KEY: "protects credentials at rest",
        KeyName.ENCRYPTION_KEY: "makes the tokens of /encrypt",
        KeyName.API_SECRET_KEY: "hashes API tokens and fingerprints",
        KeyName.AUDIT_SEAL_KEY: "seals the audit trail",
    }
)

APPLICATION_KEYS: Final = tuple(name for name in KeyName if not name.internal)


class KeyState(StrEnum):
    """SP 800-57 part 1, 7.1 to 7.6 (suspension is not used)."""

    PRE_ACTIVATION = "pre-activation"
    ACTIVE = "active"
    DEACTIVATED = "deactivated"
    COMPROMISED = "compromised"
    DESTROYED = "destroyed"

    def may_become(self, other: KeyState) -> bool:
        """Whether the transition is legal; a state never becomes itself."""
        return other in _TRANSITIONS[self]


_TRANSITIONS: Final[Mapping[KeyState, frozenset[KeyState]]] = MappingProxyType(
    {
        KeyState.PRE_ACTIVATION: frozenset({KeyState.ACTIVE, KeyState.COMPROMISED, KeyState.DESTROYED}),
        KeyState.ACTIVE: frozenset({KeyState.DEACTIVATED, KeyState.COMPROMISED}),
        KeyState.DEACTIVATED: frozenset({KeyState.ACTIVE, KeyState.COMPROMISED, KeyState.DESTROYED}),
        KeyState.COMPROMISED: frozenset({KeyState.DESTROYED}),
        KeyState.DESTROYED: frozenset(),
    }
)

# Compromised AES and ENCRYPTION versions still open what they protect (so that nothing is lost while re-encryption
# runs); compromised JWT and API versions verify nothing, so that a forger gains nothing.
_OPENS_WHEN_COMPROMISED: Final = frozenset({KeyName.AES_KEY, KeyName.ENCRYPTION_KEY, KeyName.AUDIT_SEAL_KEY})


class Origin(StrEnum):
    """Where a version came from."""

    GENERATED = "generated"
    ADOPTED = "adopted"
    IMPORTED = "imported"


class IllegalKeyset(ValueError):
    """A keyset or a transition that must not exist; messages name versions, never material."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVersion:
    """One version of one key, its material wrapped by the master key.

    ``wrapped`` is empty exactly when the version is destroyed. ``fingerprint`` is 16 hex digits derived from the
    material by HKDF; it identifies, and reveals nothing.
    """

    version: int
    state: KeyState
    fingerprint: str
    wrapped: bytes
    origin: Origin
    created_at: datetime
    activated_at: datetime | None = None
    deactivated_at: datetime | None = None
    retired_at: datetime | None = None
    compromised_at: datetime | None = None
    destroyed_at: datetime | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.version <= 0xFFFF_FFFF:
            raise IllegalKeyset(f"version {self.version} is out of range")
        if (self.state is KeyState.DESTROYED) != (not self.wrapped):
            raise IllegalKeyset(f"version {self.version}: material is there exactly until it is destroyed")
        if len(self.fingerprint) != 16 or not set(self.fingerprint) <= set("0123456789abcdef"):
            raise IllegalKeyset(f"version {self.version}: the fingerprint is not 16 hex digits")
        if self.retired_at is not None and self.state in {KeyState.ACTIVE, KeyState.PRE_ACTIVATION}:
            raise IllegalKeyset(f"version {self.version}: a version in use is not retired")

    def become(self, state: KeyState, at: datetime) -> KeyVersion:
        """This version in another state. Raises IllegalKeyset for a transition that SP 800-57 does not have."""
        if not self.state.may_become(state):
            raise IllegalKeyset(f"version {self.version}: {self.state} cannot become {state}")
        match state:
            case KeyState.ACTIVE:
                return replace(self, state=state, activated_at=at, deactivated_at=None, retired_at=None)
            case KeyState.DEACTIVATED:
                return replace(self, state=state, deactivated_at=at)
            case KeyState.COMPROMISED:
                return replace(self, state=state, compromised_at=at)
            case _:
                return replace(self, state=state, destroyed_at=at, wrapped=b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyset:
    """All versions of one key; exactly one is active, and that is the primary. The epoch grows with every change."""

    name: KeyName
    install_id: str
    epoch: int
    versions: tuple[KeyVersion, ...]

    def __post_init__(self) -> None:
        numbers = [each.version for each in self.versions]
        if len(set(numbers)) != len(numbers):
            raise IllegalKeyset(f"{self.name}: a version is there twice")
        if numbers != sorted(numbers):
            raise IllegalKeyset(f"{self.name}: versions are not in order")
        if sum(each.state is KeyState.ACTIVE for each in self.versions) != 1:
            raise IllegalKeyset(f"{self.name}: exactly one version must be active")
        if self.epoch < 1:
            raise IllegalKeyset(f"{self.name}: the epoch must be at least 1")

    def __iter__(self) -> Iterator[KeyVersion]:
        return iter(self.versions)

    @property
    def primary(self) -> KeyVersion:
        """The one version that protects, signs and encrypts."""
        return next(each for each in self.versions if each.state is KeyState.ACTIVE)

    def version(self, number: int) -> KeyVersion | None:
        """The version of that number, or None."""
        return next((each for each in self.versions if each.version == number), None)

    @property
    def announced(self) -> Sequence[int]:
        """Versions in pre-activation that Keyhall made; one from outside may belong to an import that was given up."""
        return [
            each.version
            for each in self.versions
            if each.state is KeyState.PRE_ACTIVATION and each.origin is not Origin.IMPORTED
        ]

    @property
    def former(self) -> KeyVersion | None:
        """The version that a rollback makes primary again: the last one that was deactivated, and nothing worse."""
        left = [each for each in self.versions if each.state is KeyState.DEACTIVATED]
        return max(left, key=lambda each: (each.deactivated_at or each.created_at, each.version), default=None)

    def retirable(self, needed: Collection[int], only: int | None = None) -> Sequence[int]:
        """Versions out of use that are not retired yet and not ``needed``; ``only`` narrows them to one."""
        return [
            each.version
            for each in self.versions
            if each.state in {KeyState.DEACTIVATED, KeyState.COMPROMISED}
            and each.retired_at is None
            and each.version not in needed
            and only in {None, each.version}
        ]

    def opens(self, version: KeyVersion) -> bool:
        """Whether this version may open, decrypt or verify.

        A version in pre-activation may: processes acknowledge that they can. So what another process made with it just
        after the promotion opens here before this process has read of the promotion.
        """
        if version.state in {KeyState.PRE_ACTIVATION, KeyState.ACTIVE, KeyState.DEACTIVATED}:
            # A retired JWT version is not even loaded: its last token has expired.
            return not (self.name is KeyName.JWT_SECRET_KEY and version.retired_at is not None)
        return version.state is KeyState.COMPROMISED and self.name in _OPENS_WHEN_COMPROMISED

    @property
    def since(self) -> datetime:
        """When the primary came into use."""
        return self.primary.activated_at or self.primary.created_at

    @classmethod
    def first(cls, name: KeyName, install_id: str, version: KeyVersion) -> Keyset:
        """The keyset of a new install: one version, active."""
        return cls(name=name, install_id=install_id, epoch=1, versions=(version,))

    def add(self, version: KeyVersion) -> Keyset:
        """With a new version, in pre-activation. Rotation adds and promotes, it never overwrites."""
        if version.state is not KeyState.PRE_ACTIVATION:
            raise IllegalKeyset(f"{self.name}: a new version enters in pre-activation")
        return replace(self, epoch=self.epoch + 1, versions=(*self.versions, version))

    def promote(self, number: int, at: datetime) -> Keyset:
        """With that version as primary; the former primary is deactivated."""
        target = self.version(number)
        if target is None:
            raise IllegalKeyset(f"{self.name}: there is no version {number}")
        changed = {
            self.primary.version: self.primary.become(KeyState.DEACTIVATED, at),
            number: target.become(KeyState.ACTIVE, at),
        }
        return self._with(changed)

    def mark(self, number: int, state: KeyState, at: datetime) -> Keyset:
        """With that version compromised or destroyed; never the primary, which is replaced by ``promote`` first."""
        target = self.version(number)
        if target is None:
            raise IllegalKeyset(f"{self.name}: there is no version {number}")
        if state not in {KeyState.COMPROMISED, KeyState.DESTROYED}:
            raise IllegalKeyset(f"{self.name}: use promote to make version {number} {state}")
        return self._with({number: target.become(state, at)})

    def retire(self, numbers: Iterable[int], at: datetime) -> Keyset:
        """With those versions retired: nothing that is stored or in force needs them any more. Reversible."""
        changed = {}
        for number in numbers:
            target = self.version(number)
            if target is None or target.state not in {KeyState.DEACTIVATED, KeyState.COMPROMISED}:
                raise IllegalKeyset(f"{self.name}: version {number} is not out of use, so it cannot be retired")
            changed[number] = replace(target, retired_at=at)
        return self._with(changed) if changed else self

    def reinstate(self, number: int) -> Keyset:
        """With that deactivated version not retired any more, so that every process loads it again."""
        target = self.version(number)
        if target is None or target.state is not KeyState.DEACTIVATED:
            raise IllegalKeyset(f"{self.name}: version {number} is not deactivated")
        return self if target.retired_at is None else self._with({number: replace(target, retired_at=None)})

    def rewrapped(self, wrapped: Mapping[int, bytes]) -> Keyset:
        """With the same versions under another master key; ``wrapped`` has every version that is not destroyed."""
        return self._with({each.version: replace(each, wrapped=wrapped[each.version]) for each in self if each.wrapped})

    def _with(self, changed: Mapping[int, KeyVersion]) -> Keyset:
        versions = tuple(changed.get(each.version, each) for each in self.versions)
        return replace(self, epoch=self.epoch + 1, versions=versions)


SHORTEST_SCHEDULE: Final = 1
LONGEST_SCHEDULE: Final = 3650
"""Days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySchedule:
    """How old a key's primary may become, in days, and whether it is then rotated without being asked."""

    name: KeyName
    rotation_days: int
    automatic: bool = False

    def due_at(self, since: datetime) -> datetime:
        """When a primary that has been in use since then is to be rotated."""
        return since + timedelta(days=self.rotation_days)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysetEntry:
    """The manifest's record of a keyset: its epoch and the SHA-256 of its row's value, in hex."""

    epoch: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The contents of an install. ``canary`` proves the master key; ``keysets`` pins every row to this moment."""

    install_id: str
    environment: Environment
    created_at: datetime
    master_key_id: str
    canary: bytes
    keysets: Mapping[KeyName, KeysetEntry]

    def __post_init__(self) -> None:
        object.__setattr__(self, "keysets", MappingProxyType(dict(self.keysets)))

    @property
    def epochs(self) -> dict[str, int]:
        """Key name to epoch, as install.json and `instances` keep them."""
        return {name.value: entry.epoch for name, entry in self.keysets.items()}

    def under(self, master_key_id: str, canary: bytes) -> Manifest:
        """The manifest under another master key."""
        return replace(self, master_key_id=master_key_id, canary=canary)

    def within(self, environment: Environment) -> Manifest:
        """The manifest of the install in another environment."""
        return replace(self, environment=environment)

    def with_keyset(self, name: KeyName, entry: KeysetEntry) -> Manifest:
        """The manifest after that keyset changed; stored in the same transaction."""
        return replace(self, keysets={**self.keysets, name: entry})
