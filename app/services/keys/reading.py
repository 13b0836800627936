"""Reads the key store and believes nothing of it: every row is authenticated, every version unwrapped."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from app.domain.errors import (
    CryptoError,
    DatabaseEmpty,
    EnvironmentMismatch,
    InsecureKey,
    InstallMismatch,
    KeyConflict,
    KeyDamaged,
    KeyMissing,
    MasterKeyMismatch,
    MasterKeyMissing,
)
from app.domain.key_material import WeakKey, parse_external_key, same_bytes
from app.domain.keys import APPLICATION_KEYS, Environment, KeyName, Keyset, KeyState, KeyVersion, Manifest
from app.domain.secrets import SecretBytes, SecretText
from app.services.keys import rows as key_rows
from app.services.keys.owner import KeyOwner
from app.services.keys.ring import InstallRules, KeyRing
from app.services.ports import KeyDerivation, KeyWrapping, MasterKeySource, RememberedInstall, UnitOfWork

log = logging.getLogger(__name__)


class KeyReader:
    """Loads and verifies the keys in somebody else's unit of work; changes nothing."""

    def __init__(
        self,
        *,
        master_keys: MasterKeySource,
        wrapping: Callable[[SecretBytes], KeyWrapping],
        derivation: KeyDerivation,
        rules: InstallRules,
    ) -> None:
        self._master_keys = master_keys
        self.wrapping = wrapping
        self._derivation = derivation
        self.rules = rules

    def within(self, environment: Environment) -> KeyReader:
        """The reader of the same install in another environment."""
        return KeyReader(
            master_keys=self._master_keys,
            wrapping=self.wrapping,
            derivation=self._derivation,
            rules=replace(self.rules, environment=environment),
        )

    async def load(self, uow: UnitOfWork, remembered: RememberedInstall | None) -> KeyRing | None:
        """Read and verify everything in this unit of work; None when there is no install and none is remembered.

        ``remembered`` was read before the unit of work began: what another process commits meanwhile, and only then
        remembers, must not look like something that was lost.
        """
        there = await uow.keys.exists()
        if there and (twice := await uow.keys.duplicates()):
            raise key_rows.there_twice(twice)
        rows = await uow.keys.rows() if there else {}
        ring = self.ring_of(rows, remembered)
        if ring is None:
            await self.require_nothing(uow, remembered)
        return ring

    def ring_of(self, rows: Mapping[str, str], remembered: RememberedInstall | None) -> KeyRing | None:
        """Verify the rows of `app_config`, of a database or of a backup; None where no manifest is among them."""
        value = rows.get(key_rows.MANIFEST_ROW)
        if value is None:
            return None
        members = key_rows.parse(key_rows.MANIFEST_ROW, value)
        wrapping, manifest = self.open_manifest(members, remembered)
        keysets: dict[KeyName, Keyset] = {}
        materials: dict[KeyName, Mapping[int, SecretBytes]] = {}
        stray = key_rows.keyset_names(rows) - {name.value for name in manifest.keysets}
        if stray:
            raise KeyDamaged(
                f"app_config holds a keyset that the manifest does not name: {', '.join(sorted(stray)[:3])}",
                remedy="restore the database from a backup; nothing was changed",
            )
        for name in KeyName:
            value_of_keyset = rows.get(key_rows.keyset_row(name))
            keysets[name], materials[name] = self.load_keyset(value_of_keyset, name, manifest, wrapping)
        self._require_not_older(manifest, remembered)
        return KeyRing(
            manifest_value=value,
            manifest=manifest,
            wrapping=wrapping,
            keysets=MappingProxyType(keysets),
            materials=MappingProxyType(materials),
        )

    async def require_nothing(self, uow: UnitOfWork, remembered: RememberedInstall | None) -> None:
        """Without a manifest there must be nothing at all, or something was lost."""
        keysets = await uow.keys.keyset_names() if await uow.keys.exists() else frozenset()
        rows = await uow.keys.guarded_rows()
        if keysets or rows:
            raise KeyMissing(
                f"the manifest is not in app_config, while {len(keysets)} keysets and {rows} users or credentials are",
                remedy="restore the database from a backup; nothing was generated and nothing was changed",
            )
        self.require_no_install_expected(remembered)

    def require_no_install_expected(self, remembered: RememberedInstall | None) -> None:
        """Where the database is empty or not there: raise DatabaseEmpty if an install is remembered or pinned."""
        if remembered is not None:
            raise DatabaseEmpty(
                f"the database is empty, but this data directory belongs to install {remembered.install_id}",
                remedy="point DATABASE_URL at the install's database or mount its volume; if it is lost, run "
                "`keyhall backup restore FILE`; for a new install on purpose start with an empty DATA_DIR",
            )
        if self.rules.pinned_install_id is not None:
            raise DatabaseEmpty(
                f"the database is empty, but INSTALL_ID names install {self.rules.pinned_install_id}",
                remedy="point DATABASE_URL at the install's database, or remove INSTALL_ID for a new install",
            )

    def open_manifest(
        self, members: dict[str, object], remembered: RememberedInstall | None
    ) -> tuple[KeyWrapping, Manifest]:
        """Find the master key that opens the manifest, and judge what does not fit in the order that helps most."""
        install_id = str(members.get("install_id"))
        master_keys = [self.wrapping(each) for each in self._master_keys.given()]
        wrapping = next((each for each in master_keys if _opens(each, members, install_id)), None)
        if wrapping is not None:
            manifest = key_rows.read_manifest(
                key_rows.authenticate(key_rows.MANIFEST_ROW, members, install_id, wrapping)
            )
            self._require_this_install(manifest.install_id, remembered)
            self._require_environment(manifest.environment.value)
            return wrapping, manifest
        if not members.keys() >= {"install_id", "environment", "master_key_id", "canary"}:
            raise key_rows.damaged(key_rows.MANIFEST_ROW, "is no manifest: it was edited, or another row put there")
        # Nothing that is given opens it. An edited row must not pass for a wrong key: a master key whose id the row
        # names, or which opens the canary for the remembered id, is right, and then the row is wrong.
        named = str(members.get("master_key_id"))
        if any(each.master_key_id == named for each in master_keys) or (
            remembered is not None and any(_opens(each, members, remembered.install_id) for each in master_keys)
        ):
            raise key_rows.damaged(key_rows.MANIFEST_ROW, "does not open with the master key that it names")
        self._require_this_install(install_id, remembered)
        self._require_environment(str(members.get("environment")))
        if not master_keys:
            raise MasterKeyMissing(
                f"install {install_id} has keys, and no master key is given",
                remedy=f"give the master key with id {named} as MASTER_KEY or MASTER_KEY_FILE, or put its file back",
            )
        given = ", ".join(each.master_key_id for each in master_keys)
        raise MasterKeyMismatch(
            f"the master key given has id {given}, install {install_id} needs {named}",
            remedy=f"give the master key with id {named}; no other opens this install",
        )

    def _require_this_install(self, install_id: str, remembered: RememberedInstall | None) -> None:
        if self.rules.pinned_install_id not in {None, install_id}:
            raise InstallMismatch(
                f"the database holds install {install_id}, but INSTALL_ID names {self.rules.pinned_install_id}",
                remedy="point DATABASE_URL at the right database, or correct INSTALL_ID",
            )
        if remembered is not None and remembered.install_id != install_id:
            raise InstallMismatch(
                f"the database holds install {install_id}, but this data directory belongs to {remembered.install_id}",
                remedy="point DATABASE_URL at the right database, or DATA_DIR at the right directory",
            )

    def _require_environment(self, environment: str) -> None:
        if environment != self.rules.environment.value:
            raise EnvironmentMismatch(
                f"this install belongs to APP_ENV={environment}, this start says APP_ENV={self.rules.environment}",
                remedy=f"start with APP_ENV={environment}, or use another database and DATA_DIR",
            )

    def load_keyset(
        self, value: str | None, name: KeyName, manifest: Manifest, wrapping: KeyWrapping
    ) -> tuple[Keyset, Mapping[int, SecretBytes]]:
        """One keyset and the material of every version that is not destroyed. Raises KeyMissing, KeyDamaged."""
        row = key_rows.keyset_row(name)
        entry = manifest.keysets.get(name)
        if entry is None or value is None:
            raise KeyMissing(
                f"{name.value} is not in app_config",
                remedy="restore the database from a backup; nothing was generated and nothing was changed",
            )
        keyset = _authentic(name, value, manifest.install_id, wrapping)
        if keyset.epoch != entry.epoch or not hmac.compare_digest(key_rows.digest(value), entry.digest):
            raise key_rows.damaged(row, "is not the one that the manifest names: an older row was put back")
        return keyset, self._unwrapped(keyset, wrapping)

    def recover_keyset(
        self, name: KeyName, rows: Mapping[str, str], install_id: str
    ) -> tuple[Keyset, Mapping[int, SecretBytes]] | None:
        """A keyset that is intact under one of the given master keys, even where other rows are damaged; else None.

        It may not be the latest: an older row that was put back is just as intact.
        """
        value = rows.get(key_rows.keyset_row(name), "")
        for wrapping in (self.wrapping(each) for each in self._master_keys.given()):
            try:
                keyset = _authentic(name, value, install_id, wrapping)
                return keyset, self._unwrapped(keyset, wrapping)
            except KeyDamaged:
                continue
        return None

    def recognises_any_row(self, rows: Mapping[str, str], install_id: str) -> bool:
        """Whether a master key that is given made any of these rows, or is named by one."""
        for wrapping in (self.wrapping(each) for each in self._master_keys.given()):
            if f'"master_key_id":"{wrapping.master_key_id}"' in rows.get(key_rows.MANIFEST_ROW, ""):
                return True
            for row, value in rows.items():
                try:
                    key_rows.authenticate(row, key_rows.parse(row, value), install_id, wrapping)
                except KeyDamaged:
                    continue
                return True
        return False

    def _unwrapped(self, keyset: Keyset, wrapping: KeyWrapping) -> Mapping[int, SecretBytes]:
        unwrapped = ((each.version, self._unwrap(keyset, each, wrapping)) for each in keyset)
        return MappingProxyType({number: material for number, material in unwrapped if material is not None})

    def _unwrap(self, keyset: Keyset, version: KeyVersion, wrapping: KeyWrapping) -> SecretBytes | None:
        """The material of a version, None when it is destroyed. Every version is proved, also one that is not used."""
        if version.state is KeyState.DESTROYED:
            return None
        row = key_rows.keyset_row(keyset.name)
        try:
            material = wrapping.unwrap(
                version.wrapped, install_id=keyset.install_id, name=keyset.name, version=version.version
            )
        except CryptoError:
            raise key_rows.damaged(row, f"does not unwrap in version {version.version}") from None
        if self._derivation.fingerprint(keyset.name, material) != version.fingerprint:
            raise key_rows.damaged(row, f"has another fingerprint than the material of version {version.version}")
        return material

    def _require_not_older(self, manifest: Manifest, remembered: RememberedInstall | None) -> None:
        if remembered is None:
            return
        older = [name for name, epoch in remembered.epochs.items() if epoch > manifest.epochs.get(name, 0)]
        if older:
            raise KeyDamaged(
                f"the database was put back to an older state: {', '.join(sorted(older))} had a later epoch here",
                remedy="restore the newest database",
            )

    def outside_material(self, name: KeyName, given: SecretText) -> SecretBytes:
        """The material of a key that comes from outside. Raises InsecureKey for one that must not be used."""
        try:
            return SecretBytes(parse_external_key(name, given.reveal(), self.rules.environment))
        except WeakKey as error:
            raise InsecureKey(
                f"the value given for {name.value} is refused: {error}",
                remedy=f"remove {name.value} from the environment and let Keyhall generate it, or give 32 random bytes",
            ) from None

    def require_outside_sound(self) -> None:
        """Every key that is given must be one that may be used, and serve one purpose alone. Raises InsecureKey."""
        given = dict(self.rules.outside_keys)
        for name, key in given.items():
            self.outside_material(KeyName(name), key)
        if self.rules.legacy_key is not None:
            self._require_legacy_key(self.rules.legacy_key)
        seen: dict[bytes, str] = {key.reveal(): "MASTER_KEY" for key in self._master_keys.given()}
        for name, key in given.items():
            other = seen.setdefault(same_bytes(key.reveal()), name)
            if other != name:
                raise InsecureKey(
                    f"{name} and {other} are given the same value",
                    remedy=f"give {name} a value of its own, or remove it and let Keyhall generate it: one key, one "
                    "purpose",
                )

    def require_one_purpose(self, ring: KeyRing, name: KeyName, given: SecretText) -> None:
        """A key that is about to be imported must not be another key already. Raises InsecureKey."""
        wanted = same_bytes(given.reveal())
        others = [("the master key", key.reveal()) for key in self._master_keys.given()]
        others += [
            (other.value, material.reveal())
            for other, versions in ring.materials.items()
            if other is not name
            for material in versions.values()
        ]
        for other, material in others:
            if wanted in {material, same_bytes(material.decode(errors="replace"))}:
                raise InsecureKey(
                    f"the value given for {name.value} is that of {other}",
                    remedy="give 32 random bytes of its own: one key, one purpose",
                )

    def _require_legacy_key(self, given: SecretText) -> None:
        try:
            parse_external_key(KeyName.ENCRYPTION_KEY, given.reveal(), self.rules.environment)
        except WeakKey as error:
            raise InsecureKey(
                f"the value given for CREDENTIAL_ENCRYPTION_KEY is refused: {error}",
                remedy="give the key of the software that the rows come from, or remove CREDENTIAL_ENCRYPTION_KEY",
            ) from None

    def require_outside_agrees(self, ring: KeyRing) -> None:
        """Keys given from outside must be known; an old one only warns, for the `.env` may be behind a rotation.

        Asked at a start only: a process that serves does not stop because the key it was started with is revoked.
        """
        for name in APPLICATION_KEYS:
            given = self.rules.outside_keys.get(name.value)
            if given is None:
                continue
            fingerprint = self._derivation.fingerprint(name, self.outside_material(name, given))
            known = next((each for each in ring.keysets[name] if each.fingerprint == fingerprint), None)
            if self.rules.owner is not None and self.rules.owner.owns(name):
                self._require_not_revoked(self.rules.owner, name, known)
                continue
            if known is None:
                raise KeyConflict(
                    f"the value given for {name.value} equals no version of the stored key",
                    remedy=f"remove {name.value} from the environment to keep the stored one, or make this its new "
                    f"version: `keyhall keys import {name.value} --from-settings`",
                )
            if known.state in {KeyState.COMPROMISED, KeyState.DESTROYED}:
                raise InsecureKey(
                    f"the value given for {name.value} is version {known.version}, which is {known.state}",
                    remedy=f"remove {name.value} from the environment",
                )
            if known.state is KeyState.DEACTIVATED:
                log.warning(
                    "%s in the environment is version %d, which is deactivated: remove it or update it",
                    name.value,
                    known.version,
                )

    @staticmethod
    def _require_not_revoked(owner: KeyOwner, name: KeyName, known: KeyVersion | None) -> None:
        """A key that a secret outside owns may be new, or a former one: a running process makes it the primary."""
        if known is None or known.state not in {KeyState.COMPROMISED, KeyState.DESTROYED}:
            return
        place = owner.stored.place
        raise InsecureKey(
            f"{name.value} in the AWS secret {place.name} is version {known.version}, which is {known.state}",
            remedy=f"put another there: {place.change_command(name.value)}",
        )


def _authentic(name: KeyName, value: str, install_id: str, wrapping: KeyWrapping) -> Keyset:
    """The keyset in a row that this master key made. Raises KeyDamaged."""
    row = key_rows.keyset_row(name)
    return key_rows.read_keyset(name, key_rows.authenticate(row, key_rows.parse(row, value), install_id, wrapping))


def _opens(wrapping: KeyWrapping, members: Mapping[str, object], install_id: str) -> bool:
    """Whether that master key made the canary in a manifest that is not authenticated yet."""
    canary = members.get("canary")
    if not isinstance(canary, str):
        return False
    try:
        return wrapping.opens_canary(key_rows.canary_bytes(canary), install_id)
    except KeyDamaged:
        return False
