"""The only owner of application keys: verifies them at every start, makes them once, hands them out while confirmed.

A start calls ``verify()`` before any migration, read-only, and ``initialize()`` after. From then on the loaded keys are
one immutable ``KeyRing``; a change in the database replaces it as a whole. Key material is handed out only while this
process has confirmed, within seconds, that its ring is what the database holds (docs/keys.md, "Leases and epochs").
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from app.domain.errors import MasterKeyMissing, NoInstall, NotReady, StartupError
from app.domain.instances import CONFIRMED_FOR_SECONDS
from app.domain.keys import APPLICATION_KEYS, KeyName, KeySchedule, Keyset, Manifest, Origin
from app.domain.secrets import SecretBytes, SecretText
from app.services.keys import rows as key_rows
from app.services.keys.owner import KeyOwner, age_warning
from app.services.keys.reading import KeyReader
from app.services.keys.ring import InstallRules, KeyCheck, KeyRing, KeyVersionInfo, Primary
from app.services.keys.writing import KeyWriter
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
        self._reader = KeyReader(master_keys=master_keys, wrapping=wrapping, derivation=derivation, rules=rules)
        self._writer = KeyWriter(
            reader=self._reader, derivation=derivation, record=record, clock=clock, randomness=randomness
        )
        self._ring: KeyRing | None = None
        self._usable: Mapping[KeyName, Mapping[int, SecretBytes]] = {}
        self._remembered: KeyRing | None = None
        self._confirmed_at = float("-inf")
        self._lease_until = float("-inf")
        self._reloaded_at = float("-inf")
        self._reloading = asyncio.Lock()

    # -- start ---------------------------------------------------------------------------------------------------------

    async def verify(self) -> bool:
        """Verify the install that is there, read-only, before any migration; False when there is none. See `read`."""
        return await self.read() is not None

    async def read(self) -> KeyRing | None:
        """The verified keys of the install that is there, which are not loaded for use; None when there is none.

        Raises the StartupError that fits what is wrong; a failed read raises StorageError.
        """
        remembered = self._record.read()
        async with self._storage.read() as uow:
            ring = await self._reader.load(uow, remembered)
        self._reader.require_outside_sound()
        if ring is not None:
            self._reader.require_outside_agrees(ring)
        return ring

    def require_no_install_expected(self, remembered: RememberedInstall | None) -> None:
        """Where the database is empty or not there: raise InstallMismatch if an install is remembered or pinned."""
        self._reader.require_no_install_expected(remembered)

    async def initialize(self, *, may_create: bool) -> bool:
        """Load the keys; on a first run generate or adopt all of them in one transaction. True when they are new.

        Raises NoInstall where there is nothing and ``may_create`` is False, StartupError where something is wrong.
        """
        remembered = self._record.read()
        async with self._storage.read() as uow:
            ring = await self._reader.load(uow, remembered)
        created = False
        if ring is None:
            if not may_create:
                raise NoInstall
            ring, created = await self._create()
        self._reader.require_outside_agrees(ring)
        self._use(ring)
        self._remember(ring)
        return created

    async def _create(self) -> tuple[KeyRing, bool]:
        # Everything that can be refused is refused before anything is made, first of all an external key.
        materials = {name: self._writer.first_material(name) for name in KeyName}
        self._record.prove()
        wrapping = self._wrapping(self._master_key_for_creation())
        remembered = self._record.read()
        async with self._storage.write() as uow:
            await uow.keys.lock()
            existing = await self._reader.load(uow, remembered)
            if existing is not None:  # another process won the race
                return existing, False
            ring = await self._writer.create(
                uow, materials, environment=self._rules.environment, wrapping=wrapping, remembered=remembered
            )
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

    # -- while running -------------------------------------------------------------------------------------------------

    @property
    def ring(self) -> KeyRing:
        """The ring that is loaded, for metadata; take material from ``primary`` and ``usable_materials``."""
        if self._ring is None:
            raise NotReady
        return self._ring

    @property
    def install_id(self) -> str:
        """The install's UUID."""
        return self.ring.manifest.install_id

    @property
    def epochs(self) -> Mapping[str, int]:
        """The epochs that this process has loaded."""
        return self.ring.manifest.epochs

    @property
    def owner(self) -> KeyOwner | None:
        """The secret outside that owns application keys, where one does."""
        return self._rules.owner

    def setup_token(self) -> SecretText:
        """The token that claims the first owner."""
        return self.ring.wrapping.setup_token(self.install_id)

    def confirm(self, at: float) -> None:
        """Note that at that (monotonic) moment the ring was what the database holds."""
        self._confirmed_at = max(self._confirmed_at, at)

    def doubt(self) -> None:
        """Hand out no key before the ring was confirmed again: it is known that the database holds another."""
        self._confirmed_at = float("-inf")

    def lease(self, until: float) -> None:
        """Note until which (monotonic) moment this process's lease surely lasts."""
        self._lease_until = until

    @property
    def lease_left(self) -> float:
        """Seconds for which this process's lease surely lasts; not positive once it may have lapsed."""
        return self._lease_until - self._clock.monotonic()

    @property
    def leased(self) -> bool:
        """Whether this process's lease surely lasts."""
        return self._clock.monotonic() < self._lease_until

    @property
    def confirmed(self) -> bool:
        """Whether the ring was confirmed lately enough to serve."""
        return self._clock.monotonic() - self._confirmed_at < CONFIRMED_FOR_SECONDS

    def usable_materials(self, name: KeyName) -> Mapping[int, SecretBytes]:
        """Every version that may open, decrypt or verify, by number. Raises NotReady while not confirmed."""
        if not self.confirmed:
            raise NotReady
        return self._usable[name]

    def confirmed_manifest(self) -> Manifest:
        """The manifest of the ring, another object after every change of keys. Raises NotReady while not confirmed.

        Views and claims that were made with the keys are remembered under it: it names them and holds no material.
        """
        if not self.confirmed:
            raise NotReady
        return self.ring.manifest

    def primary(self, name: KeyName) -> Primary:
        """The version that protects what is not stored. Raises NotReady while not confirmed or not leased."""
        if not self.confirmed or not self.leased:
            raise NotReady
        return self.ring.primary(name)

    async def ring_under_lock(self, uow: UnitOfWork) -> KeyRing:
        """The ring as it is and stays until this unit of work ends, for protecting what the unit of work stores.

        Ask once per unit of work and take every primary from the answer. Loads a keyset that has changed.
        Raises NotReady while this process has no lease.
        """
        if not self.leased:
            raise NotReady
        return await self.reload_under_lock(uow)

    async def reload_under_lock(self, uow: UnitOfWork) -> KeyRing:
        """The same without a lease: for taking one. Raises NotReady where the keys do not verify any more."""
        try:
            value = await uow.keys.get_manifest(share_lock=True)
            if value == self.ring.manifest_value:
                return self.ring
            # No process can change the keys during this unit of work, so the file is at least as old as the rows.
            ring = await self._reader.load(uow, self._record.read())
        except StartupError as error:  # a process must not serve with keys that would halt a start
            log.critical("the keys do not verify any more: %s", error.line())
            raise NotReady from error
        if ring is None:
            raise NotReady
        self._use(ring)
        return self.ring

    async def current_in(self, uow: UnitOfWork) -> bool:
        """Whether the ring is what the database holds, as this unit of work sees it."""
        return await uow.keys.get_manifest() == self.ring.manifest_value

    async def reload(self) -> bool:
        """Confirm the ring against the database and load changed keysets; True when the ring is a new one.

        Raises StorageError, and StartupError where what is there now does not verify: then nothing is confirmed.
        """
        before = self.ring
        async with self._reloading:
            started = self._clock.monotonic()
            remembered = self._record.read()
            ring: KeyRing | None = self.ring
            async with self._storage.lookup() as uow:
                value = await uow.keys.get_manifest()
            if value != self.ring.manifest_value:
                async with self._storage.read() as uow:
                    ring = await self._reader.load(uow, remembered)
            if ring is None:
                raise NotReady
            self._use(ring)
            self._remember(self.ring)
            self.confirm(started)
        return self.ring is not before  # also if another task loaded it: a value that did not open before may open now

    async def reload_for_unknown_key(self) -> None:
        """Reload because a token names a version that is not loaded; at most once a second for all callers."""
        now = self._clock.monotonic()
        if now - self._reloaded_at < _RELOAD_AT_MOST_EVERY_SECONDS:
            async with self._reloading:  # a reload that brings the version may be under way already
                return
        self._reloaded_at = now
        await self.reload()

    # -- changing ------------------------------------------------------------------------------------------------------

    async def change(self, uow: UnitOfWork, name: KeyName, edit: Callable[[KeyRing], Keyset]) -> Keyset:
        """Replace a keyset by what ``edit`` makes of the present ring, in this unit of work, under the keys' lock.

        ``edit`` may return the present keyset: then nothing changes. This process loads the change when ``reload`` is
        called after the commit. Raises KeyDamaged, IllegalKeyset, and the errors of ``edit``.
        """
        return (await self._writer.change(uow, name, edit)).keysets[name]

    def add_version(
        self, ring: KeyRing, name: KeyName, material: SecretBytes | None = None, origin: Origin = Origin.GENERATED
    ) -> Keyset:
        """For ``edit``: the key with one version more, in pre-activation; its material is generated unless given."""
        return self._writer.add_version(ring, name, material, origin)

    def parse_external_key(self, name: KeyName, given: SecretText) -> SecretBytes:
        """The material of a key that is about to be imported, checked as at a start. Raises InsecureKey."""
        material = self._reader.outside_material(name, given)
        self._reader.require_one_purpose(self.ring, name, given)
        return material

    def outside_material(self, name: KeyName, given: SecretText) -> SecretBytes:
        """The material of a key that the settings give. Raises InsecureKey."""
        return self._reader.outside_material(name, given)

    async def rewrap(self, uow: UnitOfWork, master_key: SecretBytes) -> str:
        """Put every key under that master key, in this unit of work; the id of the one that they were under.

        The same master key changes nothing. Raises StartupError where it is not among those that are given any more.
        """
        before, _ = await self._writer.rewrap(uow, self._wrapping(master_key))
        return before

    def master_key_ids(self) -> Sequence[str]:
        """The ids of the master keys that this process is given at this moment: current, then previous."""
        return [self.master_key_id(each) for each in self._master_keys.given()]

    def master_key_id(self, master_key: SecretBytes) -> str:
        """The 16 hex digits by which that master key is known."""
        return self._wrapping(master_key).master_key_id

    def fingerprint(self, name: KeyName, material: SecretBytes) -> str:
        """The 16 hex digits by which a version with that material would be known."""
        return self._derivation.fingerprint(name, material)

    def _use(self, ring: KeyRing) -> None:
        """Use that ring from now on, unless it is older: a read may have begun before another brought the newer one."""
        epochs = ring.manifest.epochs
        if self._ring is None or all(epochs[name] >= epoch for name, epoch in self._ring.manifest.epochs.items()):
            self._ring = ring
            self._usable = {name: ring.usable(name) for name in ring.keysets}

    def _remember(self, ring: KeyRing) -> None:
        """Record the ring's epochs outside the database, also those of a ring that a unit of work loaded."""
        if self._remembered is not ring:
            self._record.remember(ring.manifest.install_id, ring.manifest.epochs)
            self._remembered = ring

    # -- for people ----------------------------------------------------------------------------------------------------

    def listing(self) -> Sequence[KeyVersionInfo]:
        """Every version of every application key; internal keys are not listed."""
        keysets = [self.ring.keysets[name] for name in APPLICATION_KEYS]
        return [KeyVersionInfo.of(keyset, each) for keyset in keysets for each in keyset]

    async def age_warnings(self, rotation_days: int) -> Sequence[str]:
        """A sentence for each key whose rotation is due; ``rotation_days`` counts for keys without a schedule."""
        async with self._storage.lookup() as uow:
            schedules = await uow.schedules.all()
        now, warnings = self._clock.now(), []
        for name in APPLICATION_KEYS:
            since = self.ring.keysets[name].since
            schedule = schedules.get(name.value) or KeySchedule(name=name, rotation_days=rotation_days)
            if now >= schedule.due_at(since):
                warnings.append(age_warning(name, (now - since).days, self.owner))
        return warnings

    async def validate(self) -> Sequence[KeyCheck]:
        """Read every application key again and report of each whether it is intact.

        Raises StartupError for a fault of the whole install, as a start would.
        """
        verdicts = []
        remembered = self._record.read()
        async with self._storage.read() as uow:
            value = await uow.keys.get_manifest() if await uow.keys.exists() else None
            if value is None:
                await self._reader.require_nothing(uow, remembered)
                raise NoInstall
            wrapping, manifest = self._reader.open_manifest(key_rows.parse(key_rows.MANIFEST_ROW, value), remembered)
            for name in APPLICATION_KEYS:
                try:
                    keyset, _ = self._reader.load_keyset(await uow.keys.get_keyset(name), name, manifest, wrapping)
                except StartupError as error:
                    verdicts.append(KeyCheck(name=name, ok=False, message=f"{error.happened} — {error.remedy}"))
                else:
                    primary = keyset.primary
                    said = f"version {primary.version}, {primary.state}, fingerprint {primary.fingerprint}"
                    verdicts.append(KeyCheck(name=name, ok=True, message=said))
            if all(each.ok for each in verdicts):
                ring = await self._reader.load(uow, remembered)
                if ring is not None:
                    self._reader.require_outside_agrees(ring)
        return verdicts
