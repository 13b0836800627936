"""Restoring a backup: everything is made and verified beside the database, which then is replaced in one transaction.

Until that transaction commits nothing is changed, and after it nothing is left to do: the new keysets have epochs
above those that install.json remembers, so the install starts whether or not install.json was written after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from app.domain.audit import Action
from app.domain.backup import BackupHeader, OpenWith, Rows
from app.domain.errors import (
    BackupDamaged,
    BackupUnreadable,
    InstallMismatch,
    MasterKeyMismatch,
    MasterKeyMissing,
)
from app.domain.identity import User
from app.domain.jobs import JobKind
from app.domain.keys import KeyName
from app.domain.restoring import CarriedOver, RestoreReport
from app.domain.rotation import RotationState, Step
from app.services.audit import OPERATOR, AuditTrail
from app.services.backup.carrying import Replaced, RestoredKeys, read_replaced, restored_keys
from app.services.backup.opening import Opened, ShowStep, open_all
from app.services.jobs import JobService
from app.services.keys import KeyRing
from app.services.keys.reading import KeyReader
from app.services.keys.writing import KeyWriter
from app.services.ports import (
    BackupFiles,
    Clock,
    Envelope,
    InstallRecord,
    KeyDerivation,
    MasterKeySource,
    RememberedInstall,
    Storage,
    UnitOfWork,
)
from app.services.ports.restoring import Loaded, RestoreTarget, Staged
from app.services.privacy.erasure import erase_in, erased_name_mark

_NAMED: Final = 20
"""Unreadable secrets that an error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreTools:
    """The tools of a restore, besides the file and the place."""

    source: MasterKeySource
    reader: KeyReader
    writer: KeyWriter
    envelope: Envelope
    derivation: KeyDerivation
    record: InstallRecord
    jobs: Callable[[Storage], JobService]
    clock: Clock


class BackupRestore:
    """Puts a backup in a database's place. ``remembers`` is whether install.json is about that database."""

    def __init__(self, *, files: BackupFiles, target: RestoreTarget, tools: RestoreTools, remembers: bool) -> None:
        self._files = files
        self._target = target
        self._tools = tools
        self._remembers = remembers
        self._reader = tools.reader
        self._audit = AuditTrail(tools.clock)

    @property
    def target_name(self) -> str:
        """The database that is replaced, without user and password."""
        return self._target.name

    async def look(self, path: Path, by: OpenWith) -> BackupHeader:
        """Return the backup's header, once it may be restored here as far as that can be seen; nothing is changed.

        Raises BackupError or one of its kinds, InUse, InstallMismatch, MasterKeyMissing, MasterKeyMismatch.
        """
        header = await self._files.read(path, by, lambda header, _: header)
        await self._target.require_free()
        self._require_install(header, self._tools.record.read())
        self._require_master_key(header)
        return header

    async def restore(self, path: Path, by: OpenWith, *, accept_unreadable: bool, show: ShowStep) -> RestoreReport:
        """Restore it.

        Raises:
            BackupError: or one of its kinds: the file is no whole backup, or BackupUnreadable.
            StartupError: InUse, InstallMismatch, a master key that is missing or another one, SchemaNewer, or keys in
                the backup that do not verify.
            StorageError: the database did not take it.
        """
        header, remembered = await self.look(path, by), self._tools.record.read()
        async with self._target.staged(header) as staged:
            loaded = await self._files.read(path, by, lambda read, rows: _load(header, read, rows, staged, show))
            if loaded.refused and not accept_unreadable:
                raise _unreadable(loaded.refused)
            await staged.upgrade()
            storage = staged.storage
            async with storage.read() as uow:
                ring = await self._reader.load(uow, None)
            if ring is None or ring.manifest.install_id != header.install_id:
                raise BackupDamaged("the first line of the backup names another install than its keys do")
            async with self._target.present() as present:
                replaced = await read_replaced(present, self._reader, header.install_id, self._target.name)
            keys = restored_keys(ring, replaced, remembered)
            opened = await open_all(storage, self._tools.envelope, ring, keys, show)
            opened.unreadable[:0] = loaded.refused
            if opened.unreadable and not accept_unreadable:
                raise _unreadable(opened.unreadable)
            await self._settle(
                storage,
                ring=ring,
                keys=keys,
                replaced=replaced,
                remembered=remembered,
                header=header,
                opened=opened,
            )
            async with storage.read() as uow:
                final = await self._reader.load(uow, remembered)
            if final is None:
                raise BackupDamaged("the restored keys do not read back")
            carried = self._carried(keys, replaced, opened)
            show(0, None, "replacing the database")
            kept = await self._target.replace(self._tools.clock.now())
        if self._remembers:
            self._tools.record.remember(final.manifest.install_id, final.manifest.epochs)
        return RestoreReport(
            install_id=final.manifest.install_id,
            master_key_id=final.manifest.master_key_id,
            database=self._target.name,
            created_at=header.created_at,
            app_version=header.app_version,
            rows=loaded.rows,
            credentials=opened.credentials,
            users=len(opened.users) - opened.erased,
            unreadable=opened.unreadable,
            carried=carried,
            replaced=None if kept is None else kept.place,
            removed_by=None if kept is None else kept.removed_by,
        )

    # -- may it be restored here ---------------------------------------------------------------------------------------

    def _require_install(self, header: BackupHeader, remembered: RememberedInstall | None) -> None:
        pinned = self._reader.rules.pinned_install_id
        if pinned not in {None, header.install_id}:
            raise InstallMismatch(
                f"the backup is of install {header.install_id}, but INSTALL_ID names {pinned}; nothing was changed",
                remedy="restore a backup of that install, or correct INSTALL_ID",
            )
        if remembered is not None and remembered.install_id != header.install_id:
            raise InstallMismatch(
                f"the backup is of install {header.install_id}, but this data directory belongs to "
                f"{remembered.install_id}; nothing was changed",
                remedy="restore a backup of that install, or name another DATA_DIR, which may be empty",
            )

    def _require_master_key(self, header: BackupHeader) -> None:
        """Before minutes are spent on a file that will not open: the keys themselves are verified later."""
        given = [self._reader.wrapping(each).master_key_id for each in self._tools.source.given()]
        if not given:
            raise MasterKeyMissing(
                f"the backup of install {header.install_id} needs the master key {header.master_key_id}, and none is "
                "given; nothing was changed",
                remedy="give it as MASTER_KEY or MASTER_KEY_FILE, or from paper with `keyhall keys restore-master`",
            )
        if header.master_key_id not in given:
            raise MasterKeyMismatch(
                f"the master key given has id {', '.join(given)}, and the backup of install {header.install_id} needs "
                f"{header.master_key_id}; nothing was changed",
                remedy=f"give the master key with id {header.master_key_id}, as MASTER_KEY_PREVIOUS where the install "
                "has another one since",
            )

    # -- the restored database -----------------------------------------------------------------------------------------

    async def _settle(
        self,
        storage: Storage,
        *,
        ring: KeyRing,
        keys: RestoredKeys,
        replaced: Replaced,
        remembered: RememberedInstall | None,
        header: BackupHeader,
        opened: Opened,
    ) -> None:
        """Give it its keys, what it takes over, and its audit row."""
        wrapping = self._reader.wrapping(self._tools.source.given()[0])
        async with storage.write() as uow:
            written = await self._tools.writer.restore(
                uow,
                ring,
                keys.keysets,
                keys.materials,
                wrapping=wrapping,
                above=keys.above,
                remembered=remembered,
            )
            for user in replaced.disabled:
                here = await uow.users.get(user.id)
                if here is not None and here.disabled_at is None:
                    await uow.users.disable(user.id, user.disabled_at or self._tools.clock.now())
                    opened.disabled += 1
            for erasure in replaced.erasures:
                if (person := await uow.users.get(erasure.user_id)) is not None:
                    await self._remember_name(uow, person, ring, erasure.erased_at)
                    opened.erased += 1
                await erase_in(uow, erasure.person, erasure.erased_at)
            await self._queue_what_follows(uow, self._tools.jobs(storage), ring, written)
            await self._audit.record(
                uow,
                OPERATOR,
                Action.BACKUP_RESTORED,
                about=("install", header.install_id),
                backup_of=header.created_at.isoformat(),
                app_version=header.app_version,
                marks=len(keys.marks),
                disabled=opened.disabled,
                erased=opened.erased,
                unreadable=len(opened.unreadable),
            )

    async def _remember_name(self, uow: UnitOfWork, person: User, ring: KeyRing, at: datetime) -> None:
        """As the erasure did: an import in the restored database passes the name over."""
        mark = erased_name_mark(ring.primary(KeyName.AUDIT_SEAL_KEY).material, self._tools.derivation, person.username)
        if not await uow.imports.known([mark]):
            await uow.imports.add(mark, "", at)

    async def _queue_what_follows(self, uow: UnitOfWork, jobs: JobService, before: KeyRing, after: KeyRing) -> None:
        """Where the replaced database had a later primary: what a promotion is followed by."""
        for name in (KeyName.AES_KEY, KeyName.API_SECRET_KEY):
            if before.keysets[name].primary.version != after.keysets[name].primary.version:
                cursor = RotationState.of_primary(after.keysets[name]).to_json()
                payload = {"name": name.value, "action": "restore"}
                await uow.jobs.add(jobs.new(JobKind.KEY_ROTATION, payload, step=Step.PROMOTED, cursor=cursor))

    def _carried(self, keys: RestoredKeys, replaced: Replaced, opened: Opened) -> CarriedOver:
        lost = [*replaced.lost, *keys.lost]
        known = opened.users - {each.user_id for each in replaced.erasures}
        if replaced.users is not None and (gone := known - replaced.users):
            lost.append(
                f"{len(gone)} users of the backup are not in the replaced database: if they were erased there, erase "
                f"them again ({', '.join(sorted(gone)[:5])})"
            )
        return CarriedOver(
            marks=keys.marks,
            disabled=opened.disabled,
            erased=opened.erased,
            reencrypted=opened.reencrypted,
            lost=lost,
        )


def _load(header: BackupHeader, read: BackupHeader, rows: Rows, staged: Staged, show: ShowStep) -> Loaded:
    if read != header:
        raise BackupDamaged("the file became another one while it was read")
    return staged.load(header, rows, lambda done, total: show(done, total, "reading rows"))


def _unreadable(rows: Sequence[str]) -> BackupUnreadable:
    named = ", ".join(rows[:_NAMED])
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return BackupUnreadable(
        f"{len(rows)} rows in the backup do not open with its keys, or hold values that no schema takes; nothing was "
        f"changed: {named}{more}. Restore another backup, or this one with --accept-unreadable: secrets that do not "
        "open stay, and must be entered again; the other rows are left out"
    )
