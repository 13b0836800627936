"""Writes the key store: under its lock, and nothing stays that does not read back and unwrap to what went in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from app.domain.audit import Action
from app.domain.errors import KeyDamaged, NotReady
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
from app.services.audit import by_system
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

Materials = dict[KeyName, tuple[SecretBytes, Origin]]
"""What each key of an install begins with, and where that came from."""


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
        now = self._clock.now()
        install_id = self._randomness.new_id()
        keysets = [
            Keyset.first(name, install_id, self._first_version(install_id, name, material, origin, wrapping))
            for name, (material, origin) in materials.items()
        ]
        await self._put(uow, self._manifest(install_id, environment, wrapping), keysets, wrapping)
        ring = await self._read_back(uow, remembered, {name: {1: each} for name, (each, _) in materials.items()})
        await uow.audit.append(by_system(Action.INSTALL_CREATED, now, about=("install", install_id)))
        for name, (_, origin) in materials.items():
            if origin is Origin.ADOPTED:
                await uow.audit.append(by_system(Action.KEY_ADOPTED, now, about=("key", name.value)))
        return ring

    def _first_version(
        self, install_id: str, name: KeyName, material: SecretBytes, origin: Origin, wrapping: KeyWrapping
    ) -> KeyVersion:
        now = self._clock.now()
        return KeyVersion(
            version=1,
            state=KeyState.ACTIVE,
            fingerprint=self._derivation.fingerprint(name, material),
            wrapped=wrapping.wrap(material, install_id=install_id, name=name, version=1),
            origin=origin,
            created_at=now,
            activated_at=now,
        )

    async def replace_all(
        self,
        uow: UnitOfWork,
        keysets: Sequence[Keyset],
        *,
        install_id: str,
        environment: Environment,
        wrapping: KeyWrapping,
    ) -> KeyRing:
        """These keysets and a new manifest in the place of every row, whatever is there. The caller holds the lock."""
        await uow.keys.clear()
        await self._put(uow, self._manifest(install_id, environment, wrapping), keysets, wrapping)
        return await self._read_back(uow, None, {})

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

        The unit of work holds the lock from here to its end. Raises KeyDamaged, IllegalKeyset, whatever ``edit`` does.
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
        material = material or SecretBytes(self._randomness.token_bytes(MATERIAL_BYTES))
        return keyset.add(
            KeyVersion(
                version=number,
                state=KeyState.PRE_ACTIVATION,
                fingerprint=self._derivation.fingerprint(name, material),
                wrapped=ring.wrapping.wrap(material, install_id=keyset.install_id, name=name, version=number),
                origin=origin,
                created_at=self._clock.now(),
            )
        )

    async def rewrap(self, uow: UnitOfWork, wrapping: KeyWrapping) -> str:
        """Put every version under another master key, O(keys) rows; the id of the one before.

        The same master key changes nothing.
        """
        await uow.keys.lock()
        remembered = self._record.read()
        ring = await self._reader.load(uow, remembered)
        if ring is None:
            raise NotReady
        before = ring.manifest.master_key_id
        if before == wrapping.master_key_id:
            return before
        install_id = ring.manifest.install_id
        keysets = [
            keyset.rewrapped(
                {
                    number: wrapping.wrap(material, install_id=install_id, name=name, version=number)
                    for number, material in ring.materials[name].items()
                }
            )
            for name, keyset in ring.keysets.items()
        ]
        manifest = ring.manifest.under(wrapping.master_key_id, wrapping.canary(install_id))
        await self._put(uow, manifest, keysets, wrapping)
        await self._read_back(uow, remembered, ring.materials)
        return before

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
    ) -> KeyRing:
        """The ring as it was just written: nothing wrapped is kept before it was unwrapped to what went in."""
        ring = await self._reader.load(uow, remembered)
        if ring is None or any(
            ring.materials[name].get(number) != material
            for name, versions in expected.items()
            for number, material in versions.items()
        ):
            raise KeyDamaged("the keys that were just written do not read back", remedy="check the database's disk")
        return ring


def _without_destroyed(keyset: Keyset, materials: Mapping[int, SecretBytes]) -> dict[int, SecretBytes]:
    """What must still unwrap to the same: every version that was there and was not destroyed just now."""
    return {each.version: materials[each.version] for each in keyset if each.wrapped and each.version in materials}
