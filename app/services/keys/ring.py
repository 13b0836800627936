"""The loaded application keys, and the parts of them that may be shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from app.domain.keys import Environment, KeyName, Keyset, KeyState, KeyVersion, Manifest, Origin
from app.domain.secrets import SecretBytes, SecretText
from app.services.keys.owner import KeyOwner
from app.services.ports import KeyWrapping


@dataclass(frozen=True, slots=True)
class Primary:
    """The version that protects, at this moment, with its material."""

    version: int
    material: SecretBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVersionInfo:
    """The public facts of one version of one key: never material."""

    name: KeyName
    version: int
    state: KeyState
    primary: bool
    fingerprint: str
    origin: Origin
    created_at: datetime
    activated_at: datetime | None
    deactivated_at: datetime | None
    retired_at: datetime | None
    compromised_at: datetime | None
    destroyed_at: datetime | None

    @classmethod
    def of(cls, keyset: Keyset, version: KeyVersion) -> KeyVersionInfo:
        """The facts of a version of that keyset."""
        return cls(
            name=keyset.name,
            version=version.version,
            state=version.state,
            primary=version is keyset.primary,
            fingerprint=version.fingerprint,
            origin=version.origin,
            created_at=version.created_at,
            activated_at=version.activated_at,
            deactivated_at=version.deactivated_at,
            retired_at=version.retired_at,
            compromised_at=version.compromised_at,
            destroyed_at=version.destroyed_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCheck:
    """One line of `keys validate`."""

    name: KeyName
    ok: bool
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRing:
    """Everything that was verified together: the manifest's text as it stood, and every keyset unwrapped."""

    manifest_value: str
    manifest: Manifest
    wrapping: KeyWrapping
    keysets: Mapping[KeyName, Keyset]
    materials: Mapping[KeyName, Mapping[int, SecretBytes]]

    def primary(self, name: KeyName) -> Primary:
        """The version of that key which protects."""
        version = self.keysets[name].primary.version
        return Primary(version, self.materials[name][version])

    def usable(self, name: KeyName) -> Mapping[int, SecretBytes]:
        """Every version of that key that may open, decrypt or verify, by number."""
        keyset = self.keysets[name]
        return {each.version: self.materials[name][each.version] for each in keyset if keyset.opens(each)}


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRules:
    """The demands of the settings on the install."""

    environment: Environment
    pinned_install_id: str | None
    outside_keys: Mapping[str, SecretText]
    legacy_key: SecretText | None = None
    """CREDENTIAL_ENCRYPTION_KEY, which opens rows of other software in imports and nothing else."""
    owner: KeyOwner | None = None
    """The secret outside that gives the ``outside_keys``, where one does."""
