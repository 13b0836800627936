"""The only owner of application keys: verifies them at every start, makes them once, hands them out while confirmed.

A start calls ``verify()`` before any migration, read-only, and ``initialize()`` after. From then on the loaded keys are
one immutable ``KeyRing``; a change in the database replaces it as a whole. Key material is handed out only while this
process has confirmed, within seconds, that its ring is what the database holds (KEYS.md, "Processes").
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from app.domain.adoption import WeakKey, material_from_outside
from app.domain.audit import Action
from app.domain.errors import (
    CryptoError,
    EnvironmentMismatch,
    InsecureKey,
    InstallMismatch,
    KeyConflict,
    KeyDamaged,
    KeyMissing,
    MasterKeyMismatch,
    MasterKeyMissing,
    NoInstall,
    NotReady,
    StartupError,
)
from app.domain.instances import CONFIRMED_FOR_SECONDS
from app.domain.keys import (
    APPLICATION_KEYS,
    MATERIAL_BYTES,
    Environment,
    KeyName,
    Keyset,
    KeysetEntry,
    KeyState,
    KeyVersion,
    Manifest,
    Origin,
)
from app.domain.secrets import SecretBytes, SecretText
from app.services import key_rows
from app.services.audit import by_system

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from app.services.ports import (
        Clock,
        InstallRecord,
        KeyDerivation,
        KeyWrapping,
        MasterKeySource,
        Randomness,
        RememberedInstall,
        Storage,
        UnitOfWork,
    )

log = logging.getLogger(__name__)

_RELOAD_AT_MOST_EVERY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Primary:
    """The version that protects, at this moment, with its material."""

    version: int
    material: SecretBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyListing:
    """What anybody may see of one version of one key: never material."""

    name: KeyName
    version: int
    state: KeyState
    primary: bool
    fingerprint: str
    origin: Origin
    created_at: datetime
    activated_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVerdict:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRules:
    """What the settings demand of the install."""

    environment: Environment
    pinned_install_id: str | None
    outside_keys: Mapping[str, SecretText]


class KeyManagementService:
    """Owns the key ring. See the module's docstring for its life."""

    def __init__(
        self,
        *,
        storage: Storage,
        master_keys: MasterKeySource,
        wrapping: Callable[[SecretBytes], KeyWrapping],
        derivation: KeyDerivation,
        record: InstallRecord,
        rules: InstallRules,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._storage = storage
        self._master_keys = master_keys
        self._wrapping = wrapping
        self._derivation = derivation
        self._record = record
        self._rules = rules
        self._clock = clock
        self._randomness = randomness
        self._ring: KeyRing | None = None
        self._remembered: KeyRing | None = None
        self._confirmed_at = float("-inf")
        self._lease_until = float("-inf")
        self._reloaded_at = float("-inf")
        self._reloading = asyncio.Lock()

    # -- start ---------------------------------------------------------------------------------------------------------

    async def verify(self) -> bool:
        """Verify the install that is there, read-only, before any migration; False when there is none.

        Raises the StartupError that fits what is wrong; a failed read raises StorageError.
        """
        remembered = self._record.read()
        async with self._storage.read() as uow:
            return await self._load(uow, remembered) is not None

    async def initialize(self, *, may_create: bool) -> bool:
        """Load the keys; on a first run generate or adopt all of them in one transaction. True when they are new.

        Raises NoInstall where there is nothing and ``may_create`` is False, StartupError where something is wrong.
        """
        remembered = self._record.read()
        async with self._storage.read() as uow:
            ring = await self._load(uow, remembered)
        created = False
        if ring is None:
            if not may_create:
                raise NoInstall("there is no install yet: start `keyhall run` once, it makes one")
            ring, created = await self._create()
        self._take_up(ring)
        self._remember(ring)
        return created

    async def _create(self) -> tuple[KeyRing, bool]:
        # Whatever can be refused is refused before anything is made, first of all a key from outside.
        materials = {name: self._first_material(name) for name in KeyName}
        self._record.prove()
        wrapping = self._wrapping(self._master_key_for_creation())
        remembered = self._record.read()
        async with self._storage.write() as uow:
            await uow.keys.lock()
            existing = await self._load(uow, remembered)
            if existing is not None:  # another process won the race
                return existing, False
            now = self._clock.now()
            install_id = self._randomness.new_id()
            entries: dict[KeyName, KeysetEntry] = {}
            for name, (material, origin) in materials.items():
                first = KeyVersion(
                    version=1,
                    state=KeyState.ACTIVE,
                    fingerprint=self._derivation.fingerprint(name, material),
                    wrapped=wrapping.wrap(material, install_id=install_id, name=name, version=1),
                    origin=origin,
                    created_at=now,
                    activated_at=now,
                )
                value = key_rows.encode_keyset(Keyset.first(name, install_id, first), wrapping)
                await uow.keys.put(key_rows.keyset_row(name), value, now)
                entries[name] = KeysetEntry(epoch=1, digest=key_rows.digest(value))
            manifest = Manifest(
                install_id=install_id,
                environment=self._rules.environment,
                created_at=now,
                master_key_id=wrapping.master_key_id,
                canary=wrapping.canary(install_id),
                keysets=entries,
            )
            await uow.keys.put(key_rows.MANIFEST_ROW, key_rows.encode_manifest(manifest, wrapping), now)
            ring = await self._load(uow, remembered)
            # Nothing wrapped is kept before it was read back and unwrapped to what went in.
            if ring is None or any(
                ring.materials[name].get(1) != material for name, (material, _) in materials.items()
            ):
                raise KeyDamaged("the keys that were just written do not read back", remedy="check the database's disk")
            await uow.audit.append(by_system(Action.INSTALL_CREATED, now, about=("install", install_id)))
            for name, (_, origin) in materials.items():
                if origin is Origin.ADOPTED:
                    await uow.audit.append(by_system(Action.KEY_ADOPTED, now, about=("key", name.value)))
        return ring, True

    def _master_key_for_creation(self) -> SecretBytes:
        given = self._master_keys.given()
        if given:
            return given[0]
        if self._rules.environment.may_create_master_key:
            return self._master_keys.create()
        raise MasterKeyMissing(
            f"APP_ENV is {self._rules.environment} and no master key is given",
            remedy="set MASTER_KEY or MASTER_KEY_FILE, or run `keyhall keys generate-master --write` "
            "and keep a copy of the file elsewhere",
        )

    def _first_material(self, name: KeyName) -> tuple[SecretBytes, Origin]:
        given = self._rules.outside_keys.get(name.value)
        if given is None:
            return SecretBytes(self._randomness.token_bytes(MATERIAL_BYTES)), Origin.GENERATED
        return self._outside_material(name, given), Origin.ADOPTED

    def _outside_material(self, name: KeyName, given: SecretText) -> SecretBytes:
        try:
            return SecretBytes(material_from_outside(name, given.reveal(), self._rules.environment))
        except WeakKey as error:
            raise InsecureKey(
                f"the value given for {name.value} is refused: {error}",
                remedy=f"remove {name.value} from the environment and let Keyhall generate it, or give 32 random bytes",
            ) from None

    # -- reading and verifying -----------------------------------------------------------------------------------------

    async def _load(self, uow: UnitOfWork, remembered: RememberedInstall | None) -> KeyRing | None:
        """Read and verify everything in this unit of work; None when there is no install and none is remembered.

        ``remembered`` was read before the unit of work began: what another process commits meanwhile, and only then
        remembers, must not look like something that was lost.
        """
        value = await uow.keys.get_manifest() if await uow.keys.exists() else None
        if value is None:
            await self._require_nothing(uow, remembered)
            return None
        members = key_rows.parse(key_rows.MANIFEST_ROW, value)
        wrapping, manifest = self._open_manifest(members, remembered)
        keysets: dict[KeyName, Keyset] = {}
        materials: dict[KeyName, Mapping[int, SecretBytes]] = {}
        stray = await uow.keys.keyset_names() - {name.value for name in manifest.keysets}
        if stray:
            raise KeyDamaged(
                f"app_config holds a keyset that the manifest does not name: {', '.join(sorted(stray)[:3])}",
                remedy="restore the database from a backup; nothing was changed",
            )
        for name in KeyName:
            keysets[name], materials[name] = await self._load_keyset(uow, name, manifest, wrapping)
        self._require_not_older(manifest, remembered)
        ring = KeyRing(
            manifest_value=value,
            manifest=manifest,
            wrapping=wrapping,
            keysets=MappingProxyType(keysets),
            materials=MappingProxyType(materials),
        )
        self._require_outside_agrees(ring)
        return ring

    async def _require_nothing(self, uow: UnitOfWork, remembered: RememberedInstall | None) -> None:
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
        """Where the database is empty or not there: raise InstallMismatch if an install is remembered or pinned."""
        if remembered is not None:
            raise InstallMismatch(
                f"the database is empty, but this data directory belongs to install {remembered.install_id}",
                remedy="point DATABASE_URL at the install's database or mount its volume; for a new install on purpose "
                "start with an empty DATA_DIR",
            )
        if self._rules.pinned_install_id is not None:
            raise InstallMismatch(
                f"the database is empty, but INSTALL_ID names install {self._rules.pinned_install_id}",
                remedy="point DATABASE_URL at the install's database, or remove INSTALL_ID for a new install",
            )

    def _open_manifest(
        self, members: dict[str, object], remembered: RememberedInstall | None
    ) -> tuple[KeyWrapping, Manifest]:
        """Find the master key that opens the manifest, and judge what does not fit in the order that helps most."""
        install_id = str(members.get("install_id"))
        master_keys = [self._wrapping(each) for each in self._master_keys.given()]
        wrapping = next((each for each in master_keys if _opens(each, members, install_id)), None)
        if wrapping is not None:
            manifest = key_rows.read_manifest(
                key_rows.authenticate(key_rows.MANIFEST_ROW, members, install_id, wrapping)
            )
            self._require_this_install(manifest.install_id, remembered)
            self._require_environment(manifest.environment.value)
            return wrapping, manifest
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
        if self._rules.pinned_install_id not in {None, install_id}:
            raise InstallMismatch(
                f"the database holds install {install_id}, but INSTALL_ID names {self._rules.pinned_install_id}",
                remedy="point DATABASE_URL at the right database, or correct INSTALL_ID",
            )
        if remembered is not None and remembered.install_id != install_id:
            raise InstallMismatch(
                f"the database holds install {install_id}, but this data directory belongs to {remembered.install_id}",
                remedy="point DATABASE_URL at the right database, or DATA_DIR at the right directory",
            )

    def _require_environment(self, environment: str) -> None:
        if environment != self._rules.environment.value:
            raise EnvironmentMismatch(
                f"this install belongs to APP_ENV={environment}, this start says APP_ENV={self._rules.environment}",
                remedy=f"start with APP_ENV={environment}, or use another database and DATA_DIR",
            )

    async def _load_keyset(
        self, uow: UnitOfWork, name: KeyName, manifest: Manifest, wrapping: KeyWrapping
    ) -> tuple[Keyset, Mapping[int, SecretBytes]]:
        row = key_rows.keyset_row(name)
        entry = manifest.keysets.get(name)
        value = await uow.keys.get_keyset(name)
        if entry is None or value is None:
            raise KeyMissing(
                f"{name.value} is not in app_config",
                remedy="restore the database from a backup; nothing was generated and nothing was changed",
            )
        members = key_rows.parse(row, value)
        keyset = key_rows.read_keyset(name, key_rows.authenticate(row, members, manifest.install_id, wrapping))
        if keyset.epoch != entry.epoch or not hmac.compare_digest(key_rows.digest(value), entry.digest):
            raise key_rows.damaged(row, "is not the one that the manifest names: an older row was put back")
        unwrapped = ((each.version, self._unwrap(keyset, each, wrapping)) for each in keyset)
        return keyset, MappingProxyType({number: material for number, material in unwrapped if material is not None})

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

    def _require_outside_agrees(self, ring: KeyRing) -> None:
        """Keys given from outside must be known; an old one only warns, for the `.env` may be behind a rotation."""
        for name in APPLICATION_KEYS:
            given = self._rules.outside_keys.get(name.value)
            if given is None:
                continue
            fingerprint = self._derivation.fingerprint(name, self._outside_material(name, given))
            known = next((each for each in ring.keysets[name] if each.fingerprint == fingerprint), None)
            if known is None:
                raise KeyConflict(
                    f"the value given for {name.value} equals no version of the stored key",
                    remedy=f"remove {name.value} from the environment: the stored key stays in force",
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

    # -- while running -------------------------------------------------------------------------------------------------

    @property
    def ring(self) -> KeyRing:
        """What is loaded: for metadata. Material comes from ``primary`` and ``opening``, which check that it may."""
        if self._ring is None:
            raise NotReady
        return self._ring

    @property
    def install_id(self) -> str:
        """The install's UUID."""
        return self.ring.manifest.install_id

    @property
    def epochs(self) -> Mapping[str, int]:
        """What this process has taken up."""
        return self.ring.manifest.epochs

    def setup_token(self) -> SecretText:
        """The token that claims the first owner."""
        return self.ring.wrapping.setup_token(self.install_id)

    def confirm(self, at: float) -> None:
        """Note that at that (monotonic) moment the ring was what the database holds."""
        self._confirmed_at = max(self._confirmed_at, at)

    def lease(self, until: float) -> None:
        """Note until which (monotonic) moment this process's lease surely lasts."""
        self._lease_until = until

    @property
    def leased(self) -> bool:
        """Whether this process's lease surely lasts."""
        return self._clock.monotonic() < self._lease_until

    @property
    def confirmed(self) -> bool:
        """Whether the ring was confirmed lately enough to serve."""
        return self._clock.monotonic() - self._confirmed_at < CONFIRMED_FOR_SECONDS

    def opening(self, name: KeyName) -> Mapping[int, SecretBytes]:
        """Every version that may open, decrypt or verify, by number. Raises NotReady while not confirmed."""
        if not self.confirmed:
            raise NotReady
        ring = self.ring
        keyset = ring.keysets[name]
        return {each.version: ring.materials[name][each.version] for each in keyset if keyset.opens(each)}

    def primary(self, name: KeyName) -> Primary:
        """The version that protects what is not stored. Raises NotReady while not confirmed or not leased."""
        if not self.confirmed or not self.leased:
            raise NotReady
        return self.ring.primary(name)

    async def primary_under_lock(self, uow: UnitOfWork, name: KeyName) -> Primary:
        """The version that protects what this unit of work stores: nobody can promote another until it ends.

        Raises NotReady while the lease lapsed; takes up a keyset that moved.
        """
        if not self.leased:
            raise NotReady
        value = await uow.keys.get_manifest(share_lock=True)
        ring = self.ring
        if value != ring.manifest_value:
            # Nobody can change the keys while this unit of work lasts, so what is remembered by now is there to see.
            moved = await self._load(uow, self._record.read())
            if moved is None:
                raise NotReady
            self._take_up(moved)
            ring = moved
        return ring.primary(name)

    async def reload(self) -> bool:
        """Confirm the ring against the database, taking up what moved; True when something did.

        Raises StorageError, and StartupError where what is there now does not verify: then nothing is confirmed.
        """
        async with self._reloading:
            started = self._clock.monotonic()
            remembered = self._record.read()
            async with self._storage.read() as uow:
                value = await uow.keys.get_manifest()
                moved = value != self.ring.manifest_value
                ring = await self._load(uow, remembered) if moved else self.ring
            if ring is None:
                raise NotReady
            self._take_up(ring)
            self._remember(ring)
            self.confirm(started)
            return moved

    async def reload_for_unknown_key(self) -> bool:
        """Reload once because a token names a version that is not loaded; at most once a second, whoever asks."""
        now = self._clock.monotonic()
        if now - self._reloaded_at < _RELOAD_AT_MOST_EVERY_SECONDS:
            return False
        self._reloaded_at = now
        return await self.reload()

    def _take_up(self, ring: KeyRing) -> None:
        self._ring = ring

    def _remember(self, ring: KeyRing) -> None:
        """Note the ring's epochs outside the database, also of one that a unit of work took up by the way."""
        if self._remembered is not ring:
            self._record.remember(ring.manifest.install_id, ring.manifest.epochs)
            self._remembered = ring

    # -- for people ----------------------------------------------------------------------------------------------------

    def listing(self) -> Sequence[KeyListing]:
        """Every version of every application key; internal keys are not listed."""
        return [
            KeyListing(
                name=name,
                version=each.version,
                state=each.state,
                primary=each is keyset.primary,
                fingerprint=each.fingerprint,
                origin=each.origin,
                created_at=each.created_at,
                activated_at=each.activated_at,
            )
            for name in APPLICATION_KEYS
            for keyset in (self.ring.keysets[name],)
            for each in keyset
        ]

    async def validate(self) -> Sequence[KeyVerdict]:
        """Read every application key anew and say of each whether it is whole.

        Raises StartupError for what is wrong with the install as a whole, as a start would.
        """
        verdicts = []
        remembered = self._record.read()
        async with self._storage.read() as uow:
            value = await uow.keys.get_manifest() if await uow.keys.exists() else None
            if value is None:
                await self._require_nothing(uow, remembered)
                raise NoInstall("there is no install yet: start `keyhall run` once, it makes one")
            wrapping, manifest = self._open_manifest(key_rows.parse(key_rows.MANIFEST_ROW, value), remembered)
            for name in APPLICATION_KEYS:
                try:
                    keyset, _ = await self._load_keyset(uow, name, manifest, wrapping)
                except StartupError as error:
                    verdicts.append(KeyVerdict(name=name, ok=False, message=f"{error.happened} — {error.remedy}"))
                else:
                    primary = keyset.primary
                    said = f"version {primary.version}, {primary.state}, fingerprint {primary.fingerprint}"
                    verdicts.append(KeyVerdict(name=name, ok=True, message=said))
            if all(each.ok for each in verdicts):
                await self._load(uow, remembered)
        return verdicts


def _opens(wrapping: KeyWrapping, members: Mapping[str, object], install_id: str) -> bool:
    """Whether that master key made the canary in a manifest that is not authenticated yet."""
    canary = members.get("canary")
    if not isinstance(canary, str):
        return False
    try:
        return wrapping.opens_canary(key_rows.canary_bytes(canary), install_id)
    except KeyDamaged:
        return False
