"""Watching a change of a key: what people may see of its job, for one look or for as long as it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from app.domain.errors import NotFound
from app.domain.identity import Actor, Permission
from app.domain.instances import Instance
from app.domain.jobs import Job, JobKind, JobState
from app.domain.keys import KeyName, Keyset
from app.domain.rotation import RotationState, Step
from app.services.keys import KeyManagementService, KeyVersionInfo
from app.services.ports import Clock, Storage

LOOK_EVERY_SECONDS: Final = 1.0
"""How old a shared look may be: a process reads the queue once in this time, however many people watch."""

_TO_A_PRIMARY: Final = (Step.PREPARE, Step.ANNOUNCED, Step.PROMOTED)
_AFTER_PROMOTION: Final[Mapping[KeyName, Sequence[Step]]] = {
    KeyName.JWT_SECRET_KEY: (Step.OVERLAP, Step.DONE),
    KeyName.AES_KEY: (Step.REENCRYPT, Step.VERIFY, Step.DONE),
    KeyName.API_SECRET_KEY: (Step.RECOMPUTE, Step.DONE),
}
"""The last one, DONE, is the retirement of former versions. Those of ENCRYPTION_KEY never retire."""
_WITHOUT_A_NEW_PRIMARY: Final = frozenset({"revoke", "retire"})
"""They begin where a promotion, if there was one, is committed already."""
_OF_ROWS: Final = frozenset({Step.REENCRYPT, Step.VERIFY, Step.RECOMPUTE, Step.DONE})
"""At these steps a job counts rows; before them, processes."""


class StepState(StrEnum):
    """Whether a step is behind the job, under way, or ahead of it; or is the one that it failed at."""

    DONE = "done"
    NOW = "now"
    AHEAD = "ahead"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationView:
    """A change of a key: from which version to which, its steps, and the live processes with what they have loaded.

    ``before`` and ``after`` are None where there is none, or none yet. ``processes`` names each live process and says
    whether it has acknowledged the step that waits for all of them; it is empty before the change and after it.
    ``rows`` are those that are done and, once they are counted, all of them.
    """

    job: Job
    name: KeyName
    action: str
    before: KeyVersionInfo | None
    after: KeyVersionInfo | None
    steps: Sequence[tuple[Step, StepState]]
    processes: Sequence[tuple[str, bool]]
    rows: tuple[int, int | None] | None
    announced: bool

    @property
    def going(self) -> bool:
        """Whether it has begun, or is about to, and is not over."""
        return not self.job.state.over and not self.announced


class RotationWatch:
    """Reads jobs that change keys. Methods demand SEE_KEYS (Forbidden), and may raise NotFound and StorageError."""

    def __init__(self, *, storage: Storage, keys: KeyManagementService, clock: Clock) -> None:
        self._storage = storage
        self._keys = keys
        self._clock = clock
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._jobs: Mapping[str, Job] = {}
        self._live: Sequence[Instance] = ()

    async def look(self, actor: Actor, job_id: str) -> RotationView:
        """The change as it is now."""
        actor.require(Permission.SEE_KEYS)
        async with self._storage.lookup() as uow:
            job = await uow.jobs.get(job_id)
            live = await uow.instances.live()
        return self._view(job, live)

    async def watch(self, actor: Actor, job_id: str) -> RotationView:
        """The change as it was within the last second: for those who ask every second."""
        actor.require(Permission.SEE_KEYS)
        async with self._reading:
            now = self._clock.monotonic()
            if now - self._read_at >= LOOK_EVERY_SECONDS:
                async with self._storage.lookup() as uow:
                    found = await uow.jobs.unfinished_of(JobKind.KEY_ROTATION)
                    self._live = await uow.instances.live()
                self._jobs, self._read_at = {job.id: job for job in found}, now
        if job_id not in self._jobs:  # it is over, or younger than the look that is shared
            return await self.look(actor, job_id)
        return self._view(self._jobs[job_id], self._live)

    def _view(self, job: Job | None, live: Sequence[Instance]) -> RotationView:
        if job is None or job.kind is not JobKind.KEY_ROTATION:
            raise NotFound
        name, action = KeyName(job.payload["name"]), str(job.payload["action"])
        keyset = self._keys.ring.keysets[name]
        step = Step(job.progress.step or Step.PREPARE)
        state = RotationState.from_json(job.progress.cursor) if job.progress.cursor else None
        before, after = _versions(job, keyset, state)
        acknowledging = state is not None and not job.state.over
        return RotationView(
            job=job,
            name=name,
            action=action,
            before=before,
            after=after,
            steps=_steps(job, name, action, step),
            processes=tuple((str(each), loaded(each, name, state.epoch)) for each in live)
            if state is not None and acknowledging
            else (),
            rows=(job.progress.done, job.progress.total) if step in _OF_ROWS and state is not None else None,
            announced=job.announced(self._clock.now()),
        )


def loaded(process: Instance, name: KeyName, epoch: int) -> bool:
    """Whether that process has loaded that epoch of the key, or a later one."""
    return process.epochs.get(name.value, 0) >= epoch


def _steps(job: Job, name: KeyName, action: str, step: Step) -> Sequence[tuple[Step, StepState]]:
    begin = _TO_A_PRIMARY[2:] if action in _WITHOUT_A_NEW_PRIMARY else _TO_A_PRIMARY
    every = (*begin, *_AFTER_PROMOTION.get(name, ()))
    # A job that fails at its end could not retire a version; no version of ENCRYPTION_KEY ever retires.
    at = every.index(step) if step in every and step is not Step.DONE else len(every) - (job.state is JobState.FAILED)

    def state(position: int) -> StepState:
        if position != at:
            return StepState.DONE if position < at else StepState.AHEAD
        if job.state.over:
            return StepState.FAILED if job.state is JobState.FAILED else StepState.AHEAD
        return StepState.NOW

    return tuple((each, state(position)) for position, each in enumerate(every))


def _versions(
    job: Job, keyset: Keyset, state: RotationState | None
) -> tuple[KeyVersionInfo | None, KeyVersionInfo | None]:
    """The version that the change leads away from, and the one that it makes primary."""
    promised: int | None = job.payload.get("version")
    target = keyset.version(state.version) if state is not None else keyset.version(promised or 0)
    if state is not None and state.since is not None:
        # A promotion gives both versions the same time: one begins as the other ends.
        left = [each for each in keyset if each.deactivated_at and each.deactivated_at.isoformat() == state.since]
        former = next(iter(left), None)
    else:
        former = None if job.state.over else keyset.primary
    if (only := job.payload.get("only")) is not None:
        former = keyset.version(only)
    if former is target:
        former = None
    return (
        None if former is None else KeyVersionInfo.of(keyset, former),
        None if target is None else KeyVersionInfo.of(keyset, target),
    )
