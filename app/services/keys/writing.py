"""Writes the key store: under its lock, and nothing stays that does not read back and unwrap to what went in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from app.domain.audit import Action
from app.domain.errors import InsecureKey, KeyDamaged, NotReady
from app.domain.keys import (
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
from app.domain.secrets import SecretBytes
from app.services.audit import SYSTEM, AuditTrail
from app.services.keys import rows as key_rows
from app.services.keys.reading import KeyReader
from app.services.keys.ring import KeyRing
from app.services.ports import (
    Clock,
    InstallRecord,
    KeyDerivation,
    KeyWrapping,
    Randomness,
    RememberedInstall,
    UnitOfWork,
)

log = logging.getLogger(__name__)

Materials = dict[KeyName, tuple[SecretBytes, Origin]]
"""The first material of each key of an install, and its origin."""


class KeyWriter:
    """Every change of `app_config`, inside a unit of work that its caller commits."""

    def __init__(
        self,
        *,
        reader: KeyReader,
        derivation: KeyDerivation,
        record: InstallRecord,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._reader = reader
        self._derivation = derivation
        self._record = record
        self._clock = clock
        self._randomness = randomness
        self._audit = AuditTrail(clock)

    async def create(
        self,
        uow: UnitOfWork,
        materials: Materials,
        *,
        environment: Environment,
        wrapping: KeyWrapping,
        remembered: RememberedInstall | None,
    ) -> KeyRing:
        """A new install: one active version of every key. The caller holds the lock and found no install."""
        now, install_id = self._clock.now(), self._randomness.new_id()
        keysets = []
        expected: dict[KeyName, dict[int, SecretBytes]] = {}
        for name, material in materials.items():
            generations = [*self._former(name), material]
            versions = [
                self.new_version(name, number, each, install_id=install_id, wrapping=wrapping).become(
                    KeyState.ACTIVE, now
                )
                for number, each in enumerate(generations, 1)
            ]
            retired = [each.become(KeyState.DEACTIVATED, now) for each in versions[:-1]]
            keysets.append(Keyset(name=name, install_id=install_id, epoch=1, versions=(*retired, versions[-1])))
            expected[name] = {number: each for number, (each, _) in enumerate(generations, 1)}
        await self._put(uow, self._manifest(install_id, environment, wrapping), keysets, wrapping)
        ring = await self._read_back(uow, remembered, expected)
        await self._audit.record(uow, SYSTEM, Action.INSTALL_CREATED, about=("install", install_id))
        for name, (_, origin) in materials.items():
            if origin is Origin.ADOPTED:
                await self._audit.record(uow, SYSTEM, Action.KEY_ADOPTED, about=("key", name.value))
        return ring

    def first_material(self, name: KeyName, known: Iterable[KeyVersion] = ()) -> tuple[SecretBytes, Origin]:
        """The material of a new key: the one that the settings give, unless a known version has it, else generated.

        Raises InsecureKey for a given one that must not be used.
        """
        given = self._reader.rules.outside_keys.get(name.value)
        if given is not None:
            material = self._reader.outside_material(name, given)
            if self._derivation.fingerprint(name, material) not in {each.fingerprint for each in known}:
                return material, Origin.ADOPTED
        return self._generated(), Origin.GENERATED

    def _former(self, name: KeyName) -> Sequence[tuple[SecretBytes, Origin]]:
        """The key that the settings' secret gave before the present one, to open what was made with it."""
        owner = self._reader.rules.owner
        given = None if owner is None else owner.stored.former_keys.get(name.value)
        if given is None:
            return []
        try:
            return [(self._reader.outside_material(name, given), Origin.ADOPTED)]
        except InsecureKey as weak:
            log.warning("the former version of %s in the AWS secret is passed over: %s", name.value, weak.happened)
            return []

    def new_version(
        self,
        name: KeyName,
        number: int,
        material: tuple[SecretBytes, Origin],
        *,
        install_id: str,
        wrapping: KeyWrapping,
    ) -> KeyVersion:
        """A version in pre-activation, wrapped."""
        return KeyVersion(
            version=number,
            state=KeyState.PRE_ACTIVATION,
            fingerprint=self._derivation.fingerprint(name, material[0]),
            wrapped=wrapping.wrap(material[0], install_id=install_id, name=name, version=number),
            origin=material[1],
            created_at=self._clock.now(),
        )

    def _generated(self) -> SecretBytes:
        return SecretBytes(self._randomness.token_bytes(MATERIAL_BYTES))

    async def replace_all(
        self,
        uow: UnitOfWork,
        keysets: Sequence[Keyset],
        *,
        install_id: str,
        environment: Environment,
        wrapping: KeyWrapping,
    ) -> KeyRing:
        """Replace every row by these keysets and a new manifest. The caller holds the lock."""
        await uow.keys.clear()
        await self._put(uow, self._manifest(install_id, environment, wrapping), keysets, wrapping)
        return await self._read_back(uow, None, {})

    async def restore(
        self,
        uow: UnitOfWork,
        ring: KeyRing,
        keysets: Mapping[KeyName, Keyset],
        materials: Mapping[KeyName, Mapping[int, SecretBytes]],
        *,
        wrapping: KeyWrapping,
        above: Mapping[KeyName, int],
        remembered: RememberedInstall | None,
    ) -> KeyRing:
        """Replace every keyset of a database that was restored, under that master key, and sign with a new key.

        Args:
            uow: writes the restored database, which nobody else uses.
            ring: what its keys were.
            keysets: what they will be, but for their wrapping and epochs.
            materials: of every version that is not destroyed.
            wrapping: the master key.
            above: every epoch will be higher than this one.
            remembered: of install.json; what is written does not look older than that.
        """
        now, install_id = self._clock.now(), ring.manifest.install_id
        written, expected = [], {}
        for name, keyset in keysets.items():
            expected[name] = dict(materials[name])
            wrapped = {
                number: wrapping.wrap(each, install_id=install_id, name=name, version=number)
                for number, each in materials[name].items()
            }
            new = keyset.rewrapped(wrapped)
            if name is KeyName.JWT_SECRET_KEY:  # no session outlives a restore, so no former version verifies anything
                number, material = max(each.version for each in new) + 1, (self._generated(), Origin.GENERATED)
                new = new.add(self.new_version(name, number, material, install_id=install_id, wrapping=wrapping))
                new = new.promote(number, now)
                new = new.retire(new.retirable(()), now)
                expected[name][number] = material[0]
            written.append(replace(new, epoch=max(new.epoch, above[name] + 1)))
        await uow.keys.clear()
        manifest = ring.manifest.under(wrapping.master_key_id, wrapping.canary(install_id))
        await self._put(uow, manifest, written, wrapping)
        return await self._read_back(uow, remembered, expected)

    def _manifest(self, install_id: str, environment: Environment, wrapping: KeyWrapping) -> Manifest:
        return Manifest(
            install_id=install_id,
            environment=environment,
            created_at=self._clock.now(),
            master_key_id=wrapping.master_key_id,
            canary=wrapping.canary(install_id),
            keysets={},
        )

    async def change(self, uow: UnitOfWork, name: KeyName, edit: Callable[[KeyRing], Keyset]) -> KeyRing:
        """Replace one keyset by what ``edit`` makes of the present ring; the same keyset changes nothing.

        The unit of work holds the lock to its end. Raises KeyDamaged, IllegalKeyset, and the errors of ``edit``.
        """
        await uow.keys.lock()
        # Nobody else changes the keys from now on, so what is remembered by now is there to see.
        remembered = self._record.read()
        ring = await self._reader.load(uow, remembered)
        if ring is None:
            raise NotReady
        keyset = edit(ring)
        if keyset is ring.keysets[name]:
            return ring
        await self._put(uow, ring.manifest, [keyset], ring.wrapping)
        return await self._read_back(uow, remembered, {name: _without_destroyed(keyset, ring.materials[name])})

    def add_version(self, ring: KeyRing, name: KeyName, material: SecretBytes | None, origin: Origin) -> Keyset:
        """That key with one version more, in pre-activation: generated unless ``material`` is given."""
        keyset = ring.keysets[name]
        number = max(each.version for each in keyset) + 1
        described = (material or self._generated(), origin)
        return keyset.add(
            self.new_version(name, number, described, install_id=keyset.install_id, wrapping=ring.wrapping)
        )

    async def rewrap(
        self, uow: UnitOfWork, wrapping: KeyWrapping, *, environment: Environment | None = None
    ) -> tuple[str, KeyRing]:
        """Put every version under another master key, O(keys) rows; the id of the one before, and the ring after.

        With ``environment`` the install belongs to that from now on. Where neither differs nothing changes.
        """
        await uow.keys.lock()
        remembered = self._record.read()
        ring = await self._reader.load(uow, remembered)
        if ring is None:
            raise NotReady
        before = ring.manifest.master_key_id
        same = before == wrapping.master_key_id
        if same and environment in {None, ring.manifest.environment}:
            return before, ring
        install_id = ring.manifest.install_id
        rewrapped = [
            keyset.rewrapped(
                {
                    number: wrapping.wrap(material, install_id=install_id, name=name, version=number)
                    for number, material in ring.materials[name].items()
                }
            )
            for name, keyset in ring.keysets.items()
        ]
        manifest = ring.manifest.under(wrapping.master_key_id, wrapping.canary(install_id))
        if environment is not None:
            manifest = manifest.within(environment)
        await self._put(uow, manifest, [] if same else rewrapped, wrapping)
        return before, await self._read_back(uow, remembered, ring.materials, environment)

    async def _put(self, uow: UnitOfWork, manifest: Manifest, keysets: Sequence[Keyset], wrapping: KeyWrapping) -> None:
        now = self._clock.now()
        for keyset in keysets:
            value = key_rows.encode_keyset(keyset, wrapping)
            await uow.keys.put(key_rows.keyset_row(keyset.name), value, now)
            manifest = manifest.with_keyset(keyset.name, KeysetEntry(epoch=keyset.epoch, digest=key_rows.digest(value)))
        await uow.keys.put(key_rows.MANIFEST_ROW, key_rows.encode_manifest(manifest, wrapping), now)

    async def _read_back(
        self,
        uow: UnitOfWork,
        remembered: RememberedInstall | None,
        expected: Mapping[KeyName, Mapping[int, SecretBytes]],
        environment: Environment | None = None,
    ) -> KeyRing:
        """The ring as it was just written: nothing wrapped is kept before it was unwrapped to what went in."""
        reader = self._reader if environment is None else self._reader.within(environment)
        ring = await reader.load(uow, remembered)
        if ring is None or any(
            ring.materials[name].get(number) != material
            for name, versions in expected.items()
            for number, material in versions.items()
        ):
            raise KeyDamaged("the keys that were just written do not read back", remedy="check the database's disk")
        return ring


def _without_destroyed(keyset: Keyset, materials: Mapping[int, SecretBytes]) -> dict[int, SecretBytes]:
    """The materials that must still unwrap to the same: of versions that were there and are not destroyed now."""
    return {each.version: materials[each.version] for each in keyset if each.wrapped and each.version in materials}
