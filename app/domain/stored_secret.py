"""One JSON secret outside, such as in AWS Secrets Manager, and the commands with which its owner changes it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from app.domain.keys import APPLICATION_KEYS, KeyName
from app.domain.secrets import SecretText

_OTHER_NAME: Final = {KeyName.JWT_SECRET_KEY.value: "SECRET_KEY"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretPlace:
    """Where a secret is in AWS: its name (or ARN) and its region."""

    name: str
    region: str

    @property
    def arguments(self) -> str:
        """The options with which `aws secretsmanager` finds it."""
        return f"--secret-id {shlex.quote(self.name)} --region {shlex.quote(self.region)}"

    def change_command(self, name: str) -> str:
        """The command line that puts a fresh value of one key into a new version of the secret."""
        return (
            # In a file that nobody else can read.
            f"`(umask 077; aws secretsmanager get-secret-value {self.arguments} --query SecretString --output text > "
            "secret.json)`, "
            f"`keyhall keys generate {name} --into secret.json`, "
            f"`aws secretsmanager put-secret-value {self.arguments} --secret-string file://secret.json`, "
            "`shred -u secret.json`"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretVersion:
    """One version: its id, and values by the names of settings."""

    id: str
    values: Mapping[str, SecretText] = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))

    @property
    def master_key(self) -> SecretText | None:
        """The master key, None where this version holds none."""
        return self.values.get("MASTER_KEY")

    @property
    def keys(self) -> Mapping[str, SecretText]:
        """The application keys in it, by name; SECRET_KEY counts as JWT_SECRET_KEY."""
        found = {
            name.value: self.values.get(name.value, self.values.get(_OTHER_NAME.get(name.value, "")))
            for name in APPLICATION_KEYS
        }
        return MappingProxyType({name: key for name, key in found.items() if key is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSecret:
    """A secret as it was read: AWSCURRENT, and AWSPREVIOUS where there is one that could be read."""

    place: SecretPlace
    current: SecretVersion
    previous: SecretVersion | None = None
    notices: tuple[str, ...] = ()
    """Warnings about what was passed over, for the log."""

    @property
    def name_and_version(self) -> str:
        """For the log."""
        return f"secret {self.place.name}, version {self.current.id}"

    @property
    def former_keys(self) -> Mapping[str, SecretText]:
        """The application keys of AWSPREVIOUS that AWSCURRENT has replaced."""
        if self.previous is None:
            return MappingProxyType({})
        now = self.current.keys
        return MappingProxyType({name: key for name, key in self.previous.keys.items() if now.get(name, key) != key})

    @property
    def lost(self) -> tuple[str, ...]:
        """Keys that AWSCURRENT should hold and does not: one of several, or one that AWSPREVIOUS has."""
        before = {} if self.previous is None else self.previous.keys
        keys = self.current.keys
        demanded = [name.value for name in APPLICATION_KEYS] if keys or before else []
        missing = [name for name in demanded if name not in keys]
        if self.current.master_key is None and self.previous is not None and self.previous.master_key is not None:
            missing.insert(0, "MASTER_KEY")
        return tuple(missing)

    def rollback_command(self) -> str | None:
        """The command line that makes AWSPREVIOUS the current version again; None where there is none."""
        if self.previous is None:
            return None
        return (
            f"`aws secretsmanager update-secret-version-stage {self.place.arguments} --version-stage AWSCURRENT "
            f"--remove-from-version-id {self.current.id} --move-to-version-id {self.previous.id}`"
        )
