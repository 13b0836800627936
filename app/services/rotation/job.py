"""The job of a rotation (docs/keys.md, "Rotation"): if its worker dies anywhere, it resumes from its row.

announce → every live process acknowledges → promote → every live process acknowledges → overlap, or re-encrypt and
verify → retire. A step that changes the keys commits together with the note that it was done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from app.domain.audit import Action
from app.domain.instances import Instance
from app.domain.jobs import Progress
from app.domain.keys import IllegalKeyset, KeyName, Keyset, KeyState
from app.domain.rotation import LARGEST_NUMBER_OF_PASSES, RotationState, Step, TooManyPasses
from app.services.audit import SYSTEM, AuditTrail
from app.services.instances import InstanceService
from app.services.jobs import JobFailed, JobRun, Later
from app.services.keys import KeyManagementService, KeyRing
from app.services.ports import Clock, Storage, UnitOfWork
from app.services.rotation.passes import PassResult, RotationPasses, state_of

_AFTER_PROMOTION: Final = {
    KeyName.JWT_SECRET_KEY: Step.OVERLAP,
    KeyName.AES_KEY: Step.REENCRYPT,
    KeyName.API_SECRET_KEY: Step.RECOMPUTE,
}
"""Tokens under ENCRYPTION_KEY have left the database and cannot be verified: its versions stay until destroyed."""

_SUPERSEDED: Final = "another rotation of this key took over"


class RotationJob:
    """Continues one rotation from the step that its job's row names."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        instances: InstanceService,
        passes: RotationPasses,
        clock: Clock,
        overlap: timedelta,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._instances = instances
        self._passes = passes
        self._clock = clock
        self._overlap = overlap
        self._audit = AuditTrail(clock)
        self._steps = {
            Step.PREPARE: self._prepare,
            Step.ANNOUNCED: self._promote,
            Step.PROMOTED: self._after_promotion,
            Step.OVERLAP: self._wait_for_tokens,
            Step.REENCRYPT: self._reencrypt,
            Step.RECOMPUTE: self._recompute,
            Step.VERIFY: self._verify,
        }

    async def carry_on(self, run: JobRun) -> None:
        """Do every step that is left. Raises JobFailed, Later, ClaimLost, StorageError, NotReady."""
        name = KeyName(run.job.payload["name"])
        try:
            while (step := Step(run.progress.step or Step.PREPARE)) is not Step.DONE:
                await self._steps[step](run, name)
        except IllegalKeyset as illegal:  # the version was revoked or destroyed meanwhile
            raise JobFailed(f"the keys changed meanwhile: {illegal}") from illegal
        if run.progress.cursor:  # a superseded rotation has none
            _require_every_version_retired(state_of(run), name)

    # -- announce, promote ---------------------------------------------------------------------------------------------

    async def _prepare(self, run: JobRun, name: KeyName) -> None:
        wanted: int | None = run.job.payload.get("version")
        if wanted is None and (owner := self._keys.owner) is not None and owner.owns(name):
            raise JobFailed(owner.refusal(name, "rotated").detail)  # it was announced before a secret gave this key

        def edit(ring: KeyRing) -> Keyset:
            keyset = ring.keysets[name]
            if wanted is None:  # a version that an interrupted rotation left serves as well as a new one
                return keyset if keyset.announced else self._keys.add_version(ring, name)
            target = keyset.version(wanted)
            if target is None or target.state in {KeyState.COMPROMISED, KeyState.DESTROYED}:
                raise JobFailed(f"{name.value} version {wanted} cannot become primary any more")
            return keyset.reinstate(wanted) if target.state is KeyState.DEACTIVATED else keyset

        async with self._storage.write() as uow:
            keyset = await self._keys.change(uow, name, edit)
            version = wanted if wanted is not None else keyset.announced[-1]
            cursor = RotationState(version=version, epoch=keyset.epoch).to_json()
            await run.hold(uow, Progress(step=Step.ANNOUNCED, cursor=cursor, note=f"version {version} is announced"))
            await self._audit.record(uow, SYSTEM, Action.KEY_ANNOUNCED, about=("key", name.value), version=version)
        await self._instances.refresh()

    async def _promote(self, run: JobRun, name: KeyName) -> None:
        state = state_of(run)
        version = state.version
        await self._acknowledged(run, name)

        def edit(ring: KeyRing) -> Keyset:
            keyset = ring.keysets[name]
            target = keyset.version(version)
            if target is not None and target.retired_at is not None:
                return keyset.reinstate(version)
            return keyset if keyset.primary.version == version else keyset.promote(version, self._clock.now())

        async with self._storage.write() as uow:
            keyset = await self._keys.change(uow, name, edit)
            if keyset.primary.version != version:  # another rotation had retired it: every process must reload it
                reinstated = replace(state, epoch=keyset.epoch)
                await run.hold(uow, replace(run.progress, cursor=reinstated.to_json()))
            else:
                # The rest may take its time; a further rotation of this key need not wait for it.
                await run.free_key(uow)
                cursor = RotationState.of_primary(keyset).to_json()
                await run.hold(uow, Progress(step=Step.PROMOTED, cursor=cursor, note=f"version {version} is primary"))
                await self._audit.record(uow, SYSTEM, Action.KEY_PROMOTED, about=("key", name.value), version=version)
        await self._instances.refresh()

    async def _acknowledged(self, run: JobRun, name: KeyName) -> None:
        """Return once every live process has loaded the epoch that the state names."""
        epoch = state_of(run).epoch

        async def note(live: int, behind: Sequence[Instance]) -> None:
            done, names = live - len(behind), ", ".join(str(each) for each in behind)
            text = f"{done} of {live} processes have loaded it; waiting for {names}"
            await run.note(replace(run.progress, done=done, total=live, note=text))

        await self._instances.wait_until(lambda each: each.epochs.get(name.value, 0) >= epoch, report=note)

    async def _after_promotion(self, run: JobRun, name: KeyName) -> None:
        await self._acknowledged(run, name)
        state = replace(state_of(run), acknowledged_at=self._clock.now())
        step = _AFTER_PROMOTION.get(name, Step.DONE)
        # From here on no process signs or encrypts with an older version.
        note = run.progress.note
        if step is Step.DONE:
            note = (
                f"version {state.version} is primary; former versions open what they encrypted until they are destroyed"
            )
        await run.note(Progress(step=step, cursor=state.to_json(), note=note))

    # -- tokens --------------------------------------------------------------------------------------------------------

    async def _wait_for_tokens(self, run: JobRun, name: KeyName) -> None:
        """Retire former versions after the last token that they signed has expired."""
        state = state_of(run)
        until = (state.acknowledged_at or self._clock.now()) + self._overlap
        left = until - self._clock.now()
        keyset = self._keys.ring.keysets[name]
        verifying = [each for each in keyset if each is not keyset.primary and keyset.opens(each)]
        if verifying and left > timedelta():  # a version that was revoked verifies nothing, so nothing is waited for
            when = until.isoformat(timespec="seconds")
            await run.note(replace(run.progress, note=f"former versions verify until {when}, then they retire"))
            raise Later(left)
        await self._retire(run, name)

    # -- stored rows ---------------------------------------------------------------------------------------------------

    async def _reencrypt(self, run: JobRun, name: KeyName) -> None:
        if await self._passes.reencrypt(run, name) is PassResult.SUPERSEDED:
            await self._supersede(run)
            return
        cursor = state_of(run).first_pass().to_json()
        await run.note(Progress(step=Step.VERIFY, cursor=cursor, note="verifying every row"))

    async def _verify(self, run: JobRun, name: KeyName) -> None:
        if await self._passes.verify(run, name) is PassResult.BEHIND:
            await self._again(run, Step.REENCRYPT, total=state_of(run).behind)
        else:
            await self._retire(run, name)

    async def _recompute(self, run: JobRun, name: KeyName) -> None:
        match await self._passes.recompute(run, name):
            case PassResult.SUPERSEDED:
                await self._supersede(run)
            case PassResult.BEHIND:
                await self._again(run, Step.RECOMPUTE)
            case PassResult.FINISHED:
                await self._retire(run, name)

    async def _again(self, run: JobRun, step: Step, *, total: int | None = None) -> None:
        """Begin a further pass over the rows that changed meanwhile. Raises JobFailed where passes do not catch up."""
        state = state_of(run)
        try:
            cursor = state.next_pass().to_json()
        except TooManyPasses:
            raise JobFailed(
                f"{state.behind} rows are still under an older version after {LARGEST_NUMBER_OF_PASSES} passes: "
                "look at them with `keyhall credentials verify`, then rotate again"
            ) from None
        await run.note(Progress(step=step, cursor=cursor, total=total))

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _supersede(self, run: JobRun) -> None:
        """End here: a later rotation of this key does the rest."""
        await run.note(Progress(step=Step.DONE, note=_SUPERSEDED))

    async def _retire(self, run: JobRun, name: KeyName) -> None:
        """Retire versions that nothing needs; a version that an unreadable row needs stays, and the job says so."""
        state = state_of(run)
        only: int | None = run.job.payload.get("only")
        unreadable = state.needed - {state.version}
        by_tokens: Mapping[int, int] = {}

        def edit(ring: KeyRing) -> Keyset:
            keyset = ring.keysets[name]
            if state.superseded_in(keyset):
                return keyset
            return keyset.retire(keyset.retirable(unreadable | by_tokens.keys(), only), self._clock.now())

        async with self._storage.write() as uow:
            await uow.keys.lock()  # before the look: a shared lock could not become an exclusive one
            before = (await self._keys.ring_under_lock(uow)).keysets[name]
            if name is KeyName.API_SECRET_KEY:
                by_tokens = await self._needed_by_tokens(uow, before)
            retired = before.retirable(unreadable | by_tokens.keys(), only)
            keyset = await self._keys.change(uow, name, edit)
            if state.superseded_in(keyset):
                cursor = replace(state, kept=()).to_json()
                await run.hold(uow, replace(run.progress, step=Step.DONE, cursor=cursor, note=_SUPERSEDED))
                return
            # A row that names any other version is lost in any case.
            kept = tuple(sorted(unreadable & {each.version for each in keyset if each.wrapped}))
            note = f"version {state.version} is primary"
            if retired:
                note += f", {_listed(retired)} retired"
            for version in sorted(by_tokens):
                note += f"; version {version} stays for {by_tokens[version]} API tokens, until each was used or ended"
            if state.failed:
                note += f"; {state.failed} rows do not open: {', '.join(state.failing)}"
            cursor = replace(state, kept=kept).to_json()
            await run.hold(uow, replace(run.progress, step=Step.DONE, cursor=cursor, note=note))
            for number in retired:
                await self._audit.record(uow, SYSTEM, Action.KEY_RETIRED, about=("key", name.value), version=number)
        await self._instances.refresh()

    async def _needed_by_tokens(self, uow: UnitOfWork, keyset: Keyset) -> Mapping[int, int]:
        """How many API tokens verify by each former version alone: a token gets its new MAC when it is used."""
        counts = await uow.api_tokens.key_versions(self._clock.now())
        former = [each.version for each in keyset if each is not keyset.primary and keyset.opens(each)]
        return {version: counts[version] for version in former if version in counts}


def _require_every_version_retired(state: RotationState, name: KeyName) -> None:
    """Raises JobFailed where a version had to stay, naming the rows that need it."""
    if state.kept:
        raise JobFailed(
            f"{state.failed} rows do not open, so {name.value} version {_listed(state.kept)} was not retired: "
            f"{', '.join(state.failing)} — enter them again or remove them, then run "
            f"`keyhall keys retire {name.value} {state.kept[0]}`"
        )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
