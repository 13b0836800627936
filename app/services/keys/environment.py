"""An install moves up to another environment: one transaction, while no process is live (`keyhall env set`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.domain.audit import Action
from app.domain.errors import InsecureKey, InUse, InvalidInput, MasterKeyMissing, NoInstall
from app.domain.instances import Instance
from app.domain.keys import APPLICATION_KEYS, Environment, KeyName, Origin
from app.domain.secrets import SecretBytes
from app.services.audit import OPERATOR, AuditTrail
from app.services.keys.reading import KeyReader
from app.services.keys.ring import KeyRing
from app.services.keys.writing import KeyWriter
from app.services.ports import Clock, InstallRecord, KeyWrapping, MasterKeySource, Storage, UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentPlan:
    """The plan of a move. ``under`` and ``to`` are ids of master keys; ``live`` are processes that have to end first.

    ``before`` equals ``after`` where the install is there already.
    """

    install_id: str
    before: Environment
    after: Environment
    under: str
    to: str
    live: Sequence[Instance]


class EnvironmentMove:
    """Moves an install. ``reader`` reads it where it is. Methods may raise StorageError and every StartupError."""

    def __init__(
        self,
        *,
        storage: Storage,
        source: MasterKeySource,
        reader: KeyReader,
        writer: KeyWriter,
        wrapping: Callable[[SecretBytes], KeyWrapping],
        record: InstallRecord,
        clock: Clock,
        target: Environment,
    ) -> None:
        self._storage = storage
        self._source = source
        self._reader = reader
        self._writer = writer
        self._wrapping = wrapping
        self._record = record
        self._target = target
        self._audit = AuditTrail(clock)

    async def plan(self) -> EnvironmentPlan:
        """The plan of ``carry_out``; nothing is changed.

        Raises InvalidInput for a way down, MasterKeyMissing, InsecureKey for a master key or an application key that
        the environment refuses, KeyConflict, NoInstall.
        """
        remembered = self._record.read()
        async with self._storage.read() as uow:
            ring = await self._reader.load(uow, remembered)
            if ring is None:
                raise NoInstall
            live = await uow.instances.live()
        present = ring.manifest.environment
        under = ring.manifest.master_key_id
        to = under if present is self._target else self._wrapping(self._judged(ring)).master_key_id
        return EnvironmentPlan(
            install_id=ring.manifest.install_id, before=present, after=self._target, under=under, to=to, live=live
        )

    async def carry_out(self) -> EnvironmentPlan:
        """Move the install; what was done. Raises as ``plan``, and InUse while a process is live."""
        plan = await self.plan()
        if plan.before is plan.after:
            return plan
        _require_nobody(plan.live)
        remembered = self._record.read()
        async with self._storage.write() as uow:
            await uow.keys.lock()
            ring = await self._reader.load(uow, remembered)
            if ring is None:
                raise NoInstall
            master_key = self._wrapping(self._judged(ring))
            _, moved = await self._writer.rewrap(uow, master_key, environment=self._target)
            await self._record_move(uow, plan, master_key)
            # Last: a process that takes a lease reads the manifest under a lock, so it has a lease by now or waits
            # for the commit, and then halts.
            _require_nobody(await uow.instances.live())
        self._record.remember(plan.install_id, moved.manifest.epochs)
        return plan

    async def _record_move(self, uow: UnitOfWork, plan: EnvironmentPlan, master_key: KeyWrapping) -> None:
        about, before, after = ("install", plan.install_id), plan.before.value, plan.after.value
        await self._audit.record(uow, OPERATOR, Action.ENVIRONMENT_CHANGED, about=about, before=before, after=after)
        before, after = plan.under, master_key.master_key_id
        if before != after:
            await self._audit.record(uow, OPERATOR, Action.MASTER_KEY_CHANGED, about=about, before=before, after=after)

    # -- what the environment demands ----------------------------------------------------------------------------------

    def _judged(self, ring: KeyRing) -> SecretBytes:
        """The master key that the install will be under, once nothing stands in the way of the move."""
        present = ring.manifest.environment
        if self._target.rank < present.rank:
            raise InvalidInput(
                "NAME",
                f"this install is {present}, and an install only moves up ({_ways_up()}), because what it holds stays "
                f"as secret as it was: for {self._target} start a new one with another DATA_DIR and DATABASE_URL",
            )
        given = self._source.given()
        if not given:
            raise MasterKeyMissing(
                f"no master key is given, and {self._target} makes none",
                remedy="set MASTER_KEY or MASTER_KEY_FILE, or run `keyhall keys generate-master --write`",
            )
        there = self._reader.within(self._target)
        there.require_outside_sound()
        there.require_outside_agrees(ring)
        if present is Environment.TEST and (weak := _from_outside(ring)):
            named = ", ".join(f"{name.value} version {number}" for name, number in weak)
            steps = "; ".join(
                f"`keyhall keys rotate {name.value}`, then `keyhall keys destroy {name.value} {number} --confirm "
                f"{name.value}`"
                for name, number in weak
            )
            raise InsecureKey(
                f"{named}: given from outside while the install was {present}, where public and weak keys are accepted",
                remedy=f"take them out of the environment and replace them while it is still {present}: {steps}",
            )
        return given[0]


def _from_outside(ring: KeyRing) -> list[tuple[KeyName, int]]:
    """Versions that open or verify and whose material Keyhall did not make."""
    return [
        (name, each.version)
        for name in APPLICATION_KEYS
        for each in ring.keysets[name]
        if each.origin is not Origin.GENERATED and ring.keysets[name].opens(each)
    ]


def _require_nobody(live: Sequence[Instance]) -> None:
    if live:
        raise InUse(
            f"{', '.join(str(each) for each in live)} is live, and serves the environment that the install leaves",
            remedy="end it; one that was killed counts as live for 15 seconds",
        )


def _ways_up() -> str:
    return " → ".join(each.value for each in sorted(Environment, key=lambda each: each.rank))
