"""The course of a rotation (docs/keys.md, "Rotation"): a job that dies anywhere goes on from its row.

announce → every live process acknowledges → promote → every live process acknowledges → overlap, or re-encrypt and
scan → retire. A step that changes the keys and the note that it was done commit together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from app.domain.audit import Action
from app.domain.encrypted_columns import EncryptedColumn, columns_under
from app.domain.jobs import Progress
from app.domain.keys import IllegalKeyset, KeyName, Keyset, KeyState, Origin
from app.services.audit import by_system
from app.services.credentials import CredentialCipher
from app.services.credentials.fingerprints import Fingerprints
from app.services.instances import InstanceService
from app.services.jobs import JobFailed, JobRun, Later
from app.services.keys import KeyManagementService, KeyRing
from app.services.ports import Clock, Storage, UnitOfWork

BATCH: Final = 1000
"""Rows per unit of work. Fewer cost more processor time for each, more keep readers and writers waiting."""
NAMED: Final = 20
"""How many failing rows are named; the rest are counted."""
_LOOK_EVERY_SECONDS: Final = 0.1
_MOST_PASSES: Final = 20
_TAKEN_OVER: Final = "another rotation of this key took over"


class Step(StrEnum):
    """Where a rotation stands. Each begins with a row that says so."""

    PREPARE = "prepare"
    ANNOUNCED = "announced"
    PROMOTED = "promoted"
    OVERLAP = "overlap"
    REENCRYPT = "re-encrypt"
    RECOMPUTE = "recompute"
    VERIFY = "verify"
    DONE = "done"


_AFTER_PROMOTION: Final = {
    KeyName.JWT_SECRET_KEY: Step.OVERLAP,
    KeyName.AES_KEY: Step.REENCRYPT,
    KeyName.API_SECRET_KEY: Step.RECOMPUTE,
}
"""What left the database under ENCRYPTION_KEY cannot be looked through: its versions stay until they are destroyed."""


class RotationJob:
    """Carries one rotation on, from wherever its job's row says it stands."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        instances: InstanceService,
        cipher: CredentialCipher,
        fingerprints: Fingerprints,
        clock: Clock,
        overlap: timedelta,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._instances = instances
        self._sealing = cipher
        self._fingerprints = fingerprints
        self._clock = clock
        self._overlap = overlap
        self._steps = {
            Step.PREPARE: self._prepare,
            Step.ANNOUNCED: self._promote,
            Step.PROMOTED: self._after_promotion,
            Step.OVERLAP: self._wait_out,
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
            _require_nothing_kept(run, name)
        except IllegalKeyset as illegal:  # somebody revoked or destroyed what this was about
            raise JobFailed(f"the keys changed meanwhile: {illegal}") from illegal

    # -- announce, promote ---------------------------------------------------------------------------------------------

    async def _prepare(self, run: JobRun, name: KeyName) -> None:
        wanted: int | None = run.job.payload.get("version")

        def edit(ring: KeyRing) -> Keyset:
            keyset = ring.keysets[name]
            if wanted is None:  # a version that an interrupted rotation left behind serves as well as a new one
                return keyset if announced(keyset) else self._keys.add_version(ring, name)
            target = keyset.version(wanted)
            if target is None or target.state in {KeyState.COMPROMISED, KeyState.DESTROYED}:
                raise JobFailed(f"{name.value} version {wanted} cannot become primary any more")
            return keyset.reinstate(wanted) if target.state is KeyState.DEACTIVATED else keyset

        async with self._storage.write() as uow:
            keyset = await self._keys.change(uow, name, edit)
            version = wanted if wanted is not None else announced(keyset)[-1]
            cursor = {"version": version, "epoch": keyset.epoch}
            await run.hold(uow, Progress(step=Step.ANNOUNCED, cursor=cursor, note=f"version {version} is announced"))
            await self._tell(uow, Action.KEY_ANNOUNCED, name, version=version)
        await self._instances.refresh()

    async def _promote(self, run: JobRun, name: KeyName) -> None:
        version: int = run.progress.cursor["version"]
        await self._acknowledged(run, name)

        def edit(ring: KeyRing) -> Keyset:
            keyset = ring.keysets[name]
            target = keyset.version(version)
            if target is not None and target.retired_at is not None:
                return keyset.reinstate(version)
            return keyset if keyset.primary.version == version else keyset.promote(version, self._clock.now())

        async with self._storage.write() as uow:
            keyset = await self._keys.change(uow, name, edit)
            if keyset.primary.version != version:  # another course had retired it: every process must load it again
                await run.hold(uow, replace(run.progress, cursor={"version": version, "epoch": keyset.epoch}))
            else:
                # What is left may take its time; a further rotation of this key need not wait for it.
                await run.free_key(uow)
                note = f"version {version} is primary"
                await run.hold(uow, Progress(step=Step.PROMOTED, cursor=standing_of(keyset), note=note))
                await self._tell(uow, Action.KEY_PROMOTED, name, version=version)
        await self._instances.refresh()

    async def _acknowledged(self, run: JobRun, name: KeyName) -> None:
        """Return once every process whose lease lasts has taken up the epoch that the cursor names."""
        epoch: int = run.progress.cursor["epoch"]
        behind_before: list[str] | None = None
        while True:
            async with self._storage.read() as uow:
                live = await uow.instances.live()
            behind = [f"{each.kind} {each.host}/{each.pid}" for each in live if each.epochs.get(name.value, 0) < epoch]
            if not behind:
                return
            if behind != behind_before:
                note = f"{len(live) - len(behind)} of {len(live)} processes took it up; waiting for {', '.join(behind)}"
                done = len(live) - len(behind)
                await run.note(replace(run.progress, done=done, total=len(live), note=note))
                behind_before = behind
            await self._clock.sleep(_LOOK_EVERY_SECONDS)

    async def _after_promotion(self, run: JobRun, name: KeyName) -> None:
        await self._acknowledged(run, name)
        version: int = run.progress.cursor["version"]
        step = _AFTER_PROMOTION.get(name, Step.DONE)
        note = f"version {version} is primary; what it replaced opens what was made with it until it is destroyed"
        # From here on nobody signs or encrypts with an older version.
        cursor = {**run.progress.cursor, "acknowledged_at": self._clock.now().isoformat()}
        await run.note(Progress(step=step, cursor=cursor, note=note if step is Step.DONE else run.progress.note))

    # -- tokens --------------------------------------------------------------------------------------------------------

    async def _wait_out(self, run: JobRun, name: KeyName) -> None:
        """Retire what the last token has expired of."""
        until = datetime.fromisoformat(run.progress.cursor["acknowledged_at"]) + self._overlap
        left = until - self._clock.now()
        if left > timedelta():
            when = until.isoformat(timespec="seconds")
            await run.note(replace(run.progress, note=f"former versions verify until {when}, then they retire"))
            raise Later(left)
        await self._retire(run, name)

    # -- columns -------------------------------------------------------------------------------------------------------

    async def _reencrypt(self, run: JobRun, name: KeyName) -> None:
        """Seal every row anew that the primary did not seal; what does not open is left for the scan to name."""
        cursor = run.progress.cursor
        version: int = cursor["version"]
        columns = columns_under(name)
        total = run.progress.total if "column" in cursor else await self._rows_not_under(version, columns)
        position, after, done = (
            cursor.get("column", 0),
            cursor.get("after"),
            run.progress.done if "column" in cursor else 0,
        )
        while position < len(columns):
            column = columns[position]
            async with self._storage.read() as uow:
                rows = await uow.encrypted_rows.batch(column, primary=version, after=after, limit=BATCH)
            if not rows:
                position, after = position + 1, None
                continue
            ring = self._keys.ring
            primary, epoch = ring.primary(name), ring.keysets[name].epoch
            if _replaced(ring.keysets[name], cursor):
                return await self._superseded(run)
            resealed = await asyncio.to_thread(self._sealing.reencrypt, column, rows, primary)
            async with self._storage.write() as uow:
                # The fence: nobody changes the keyset before this unit of work ends, and what was sealed under another
                # epoch of it is sealed again.
                await self._keys.primary_under_lock(uow, name)
                if self._keys.ring.keysets[name].epoch != epoch:
                    continue
                after, done = rows[-1].id, done + len(rows)
                await uow.encrypted_rows.swap(column, [each for each in resealed if each is not None])
                place = {"column": position, "after": after}
                progress = Progress(
                    step=Step.REENCRYPT,
                    cursor={**cursor, **place},
                    done=done,
                    total=total,
                    note=f"re-encrypting {column.table} for version {version}",
                )
                await run.hold(uow, progress)
        await run.note(Progress(step=Step.VERIFY, cursor=_without_place(cursor), note="looking through every row"))
        return None

    async def _rows_not_under(self, version: int, columns: Sequence[EncryptedColumn]) -> int:
        async with self._storage.read() as uow:
            counts = [await uow.encrypted_rows.counts(column) for column in columns]
        return sum(rows for each in counts for number, rows in each.items() if number != version)

    async def _verify(self, run: JobRun, name: KeyName) -> None:
        """Open every row. One that an older version sealed sends the course back; one that does not open is named."""
        cursor = dict(run.progress.cursor)
        version: int = cursor["version"]
        columns = columns_under(name)
        total = run.progress.total
        if total is None:
            async with self._storage.read() as uow:
                total = sum([sum((await uow.encrypted_rows.counts(column)).values()) for column in columns])
        position, after, done = cursor.get("column", 0), cursor.get("after"), run.progress.done
        while position < len(columns):
            column = columns[position]
            async with self._storage.read() as uow:
                rows = await uow.encrypted_rows.all(column, after=after, limit=BATCH)
            opened = await asyncio.to_thread(self._sealing.opened_by, column, rows)
            for row, by_version in zip(rows, opened, strict=True):
                if by_version is None:
                    _name(cursor, f"{column.table} {row.id}", row.key_version)
                elif row.key_version != version:  # a member changed the row in the middle of its re-encryption
                    cursor["behind"] = cursor.get("behind", 0) + 1
                elif by_version != version:  # its key_version was tampered with, and hid it from the re-encryption
                    _name(cursor, f"{column.table} {row.id}", by_version)
            done += len(rows)
            # Behind the last page there is only what came in since, sealed by the primary: nobody need run after it.
            position, after = (position, rows[-1].id) if len(rows) == BATCH else (position + 1, None)
            cursor |= {"column": position, "after": after}
            note = f"looking through {column.table}: everything must open with version {version}"
            await run.note(Progress(step=Step.VERIFY, cursor=dict(cursor), done=done, total=total, note=note))
        if cursor.get("behind"):
            await run.note(Progress(step=Step.REENCRYPT, cursor=_another_pass(cursor)))
        else:
            await self._retire(run, name)

    async def _recompute(self, run: JobRun, name: KeyName) -> None:
        """Recompute every fingerprint, which is a MAC under this key, and look whether that is what is stored."""
        cursor = dict(run.progress.cursor)
        version: int = cursor["version"]
        after, done = cursor.get("after"), run.progress.done
        more = True
        while more:
            async with self._storage.read() as uow:
                records = await uow.credentials.page(after=after, limit=BATCH)
            more = len(records) == BATCH  # what comes in from now on has its fingerprint from the primary
            primary = self._keys.ring.primary(name)
            if primary.version != version:
                return await self._superseded(run)
            changes = await asyncio.to_thread(self._fingerprints.of, records, primary)
            if changes.unreadable and await self._keys.reload():  # sealed by a version promoted a moment ago
                changes = await asyncio.to_thread(self._fingerprints.of, records, primary)
            after, done = records[-1].id if records else after, done + len(records)
            for record in changes.unreadable:
                _name(cursor, f"api_credentials {record.id}", version)
            cursor["after"] = after
            async with self._storage.write() as uow:
                if (await self._keys.primary_under_lock(uow, name)).version != version:
                    break
                for record, fingerprint in changes.changed:
                    swapped = await uow.credentials.set_fingerprint(
                        record.id, expected_version=record.version, fingerprint=fingerprint
                    )
                    if not swapped:  # replaced meanwhile, and so under the primary; or relabelled, and not
                        cursor["behind"] = cursor.get("behind", 0) + 1
                note = f"recomputing fingerprints with version {version}"
                await run.hold(uow, Progress(step=Step.RECOMPUTE, cursor=dict(cursor), done=done, note=note))
        if self._keys.ring.keysets[name].primary.version != version:
            return await self._superseded(run)
        if cursor.get("behind"):
            await run.note(Progress(step=Step.RECOMPUTE, cursor=_another_pass(cursor)))
        else:
            await self._retire(run, name)
        return None

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _superseded(self, run: JobRun) -> None:
        """Another rotation of this key went past: whatever is left is that one's to do."""
        await run.note(Progress(step=Step.DONE, note=_TAKEN_OVER))

    async def _retire(self, run: JobRun, name: KeyName) -> None:
        """Retire what nothing needs any more; what a failing row needs stays, and the job says so."""
        cursor = run.progress.cursor
        version: int = cursor["version"]
        only: int | None = run.job.payload.get("only")
        needed: set[int] = set(cursor.get("needed", [])) - {version}
        retired: list[int] = []

        def edit(ring: KeyRing) -> Keyset:
            keyset = ring.keysets[name]
            if _replaced(keyset, cursor):
                return keyset
            retired[:] = [
                each.version
                for each in keyset
                if each.state in {KeyState.DEACTIVATED, KeyState.COMPROMISED}
                and each.retired_at is None
                and each.version not in needed
                and only in {None, each.version}
            ]
            return keyset.retire(retired, self._clock.now())

        failing, count = cursor.get("failing", []), cursor.get("failed", 0)
        async with self._storage.write() as uow:
            keyset = await self._keys.change(uow, name, edit)
            said = f"version {version} is primary"
            if retired:
                said += f", {_listed(retired)} retired"
            if _replaced(keyset, cursor):
                said, needed = _TAKEN_OVER, set()
            needed &= {each.version for each in keyset if each.wrapped}  # what names another is lost whatever happens
            if count and said != _TAKEN_OVER:
                said += f"; {count} rows do not open: {', '.join(failing)}"
            done = replace(run.progress, step=Step.DONE, cursor={**cursor, "kept": sorted(needed)}, note=said)
            await run.hold(uow, done)
            for number in retired:
                await self._tell(uow, Action.KEY_RETIRED, name, version=number)
        await self._instances.refresh()

    async def _tell(self, uow: UnitOfWork, action: Action, name: KeyName, **detail: str | int) -> None:
        await uow.audit.append(by_system(action, self._clock.now(), about=("key", name.value), **detail))


def standing_of(keyset: Keyset) -> dict[str, Any]:
    """The cursor of a course whose version is primary: which, since when, and from which epoch on."""
    primary = keyset.primary
    since = primary.activated_at or primary.created_at
    return {"version": primary.version, "since": since.isoformat(), "epoch": keyset.epoch}


def _replaced(keyset: Keyset, cursor: Mapping[str, Any]) -> bool:
    """Whether another version was primary since, be it that by now it is the same again (rolled back and forth).

    What the other one made meanwhile this course knows nothing of: whoever promoted last does the retiring.
    """
    standing = standing_of(keyset)
    return (standing["version"], standing["since"]) != (cursor["version"], cursor["since"])


def announced(keyset: Keyset) -> list[int]:
    """Versions in pre-activation that Keyhall made: never one from outside, whose import somebody may have given up."""
    return [
        each.version for each in keyset if each.state is KeyState.PRE_ACTIVATION and each.origin is not Origin.IMPORTED
    ]


def _require_nothing_kept(run: JobRun, name: KeyName) -> None:
    """Raises JobFailed where a version had to stay, naming the rows that need it."""
    cursor = run.progress.cursor
    if kept := cursor.get("kept"):
        raise JobFailed(
            f"{cursor['failed']} rows do not open, so {name.value} version {_listed(kept)} was not retired: "
            f"{', '.join(cursor['failing'])} — enter them again or remove them, then run "
            f"`keyhall keys retire {name.value} {kept[0]}`"
        )


def _without_place(cursor: Mapping[str, Any]) -> dict[str, Any]:
    """For the beginning of a pass: what is known of the rotation, nothing of how far the pass before came."""
    return {name: cursor[name] for name in ("version", "since", "acknowledged_at", "passes") if name in cursor}


def _another_pass(cursor: Mapping[str, Any]) -> dict[str, Any]:
    """For a further pass over rows that changed meanwhile. Raises JobFailed where passes get nowhere."""
    passes = cursor.get("passes", 0) + 1
    if passes > _MOST_PASSES:
        raise JobFailed(
            f"{cursor['behind']} rows are under an older version still after {_MOST_PASSES} passes: "
            "look at them with `keyhall credentials verify`, then rotate again"
        )
    return {**_without_place(cursor), "passes": passes}


def _name(cursor: dict[str, Any], row: str, key_version: int) -> None:
    """Remember a row that does not open, and the version that it needs."""
    cursor["failed"] = cursor.get("failed", 0) + 1
    cursor["failing"] = [*cursor.get("failing", []), row][:NAMED]
    cursor["needed"] = sorted({*cursor.get("needed", []), key_version})


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
