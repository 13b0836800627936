"""The change of the master key, while processes serve (docs/operations.md, "Changing the master key").

Every process is given both keys before the database is rewrapped under the new one, and the old one is removed after
every process has loaded the rewrapped keys. So if a process dies in between, both keys are still there, and running the
command again completes the change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.domain.audit import Action
from app.domain.errors import ConfigInvalid, KeyStateConflict, MasterKeyMissing
from app.domain.identity import Client
from app.domain.instances import Instance
from app.domain.secrets import SecretBytes
from app.services.after_commit import AWAY
from app.services.audit import OPERATOR, AuditTrail
from app.services.keys import KeyManagementService
from app.services.ports import ChangeableMasterKey, Clock, MasterKeySource, Storage
from app.services.processes import wait_for_processes

WAIT_SECONDS: Final = 20.0
"""For processes to take part: longer than the lease of one that was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredMasterKey:
    """``written`` is whether its file was made, False where it was there or was not asked for."""

    master_key_id: str
    database: str | None
    """The database whose install it opens; None where there is none that could prove it."""
    file: str
    written: bool
    overridden_by: str | None
    """The setting that goes before the file, None where nothing does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterKeyPlan:
    """The plan of a change of the master key; nothing has been changed.

    ``under`` is what the database is under; ``to`` is what it would be put under, None where that is yet to be made;
    ``file`` is the default file, None where the key comes from the settings; ``behind`` are the processes that would
    stand in the way.
    """

    under: str
    to: str | None
    file: str | None
    processes: Sequence[Instance]
    behind: Sequence[Instance]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedMasterKey:
    """The database is under ``after``; ``before`` is None where it was so already.

    ``previous_given`` is True while the settings still give the former key, which nothing needs any more.
    """

    before: str | None
    after: str
    file: str | None
    previous_given: bool


class MasterKeyChange:
    """Puts the install under another master key. Methods may raise StorageError and StartupError."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        source: ChangeableMasterKey,
        clock: Clock,
        who: Client = OPERATOR,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._source = source
        self._clock = clock
        self._audit = AuditTrail(clock)
        self._who = who

    async def plan(self) -> MasterKeyPlan:
        """The plan of ``carry_out``. Raises KeyStateConflict where it would refuse."""
        under, given = self._keys.ring.manifest.master_key_id, self._given()
        current = self._keys.master_key_id(given[0])
        fresh = self._source.in_default_file and current == under and not self._begun(given)
        self._require_another(under, given)
        live = await self._live()
        return MasterKeyPlan(
            under=under,
            to=None if fresh else current,
            file=self._file,
            processes=live,
            behind=[] if fresh or current == under else [each for each in live if current not in each.master_key_ids],
        )

    async def carry_out(self, *, force: bool = False, tell: Callable[[str], None] = lambda _: None) -> ChangedMasterKey:
        """Change it, or finish a change that was cut short.

        ``force`` goes on without processes that do not take part: they serve nothing until they are given the new key.
        Raises KeyStateConflict where there is nothing to change to, or where a process stands in the way: everything
        opens as before then, with both keys.
        """
        given = self._given()
        under = self._keys.ring.manifest.master_key_id
        self._require_another(under, given)
        target = given[0]
        if self._source.in_default_file and self._keys.master_key_id(target) == under:
            target = self._source.begin_change()
        after = self._keys.master_key_id(target)
        if after != under:
            await self._announced(after, force=force, tell=tell)
        before = await self._rewrap(target, after)
        try:
            await self._keys.reload()
            await self._taken_up(after, force=force, tell=tell)
        except AWAY as away:
            raise KeyStateConflict(
                f"the install is under the master key {after}, and the database was lost after that: run this again to "
                "finish; both keys stay until then"
            ) from away
        if self._source.in_default_file:
            self._source.finish_change(target)
        return ChangedMasterKey(
            before=None if before == after else before,
            after=after,
            file=self._file,
            previous_given=len(self._given()) > 1 and self._source.place is None,
        )

    async def _rewrap(self, target: SecretBytes, after: str) -> str:
        async with self._storage.write() as uow:
            if self._given()[0] != target:
                raise KeyStateConflict("the master key was changed again meanwhile: run this again")
            before = await self._keys.rewrap(uow, target)
            if before != after:
                about = ("install", self._keys.install_id)
                await self._audit.record(
                    uow, self._who, Action.MASTER_KEY_CHANGED, about=about, before=before, after=after
                )
        return before

    # -- the other processes -------------------------------------------------------------------------------------------

    async def _announced(self, after: str, *, force: bool, tell: Callable[[str], None]) -> None:
        """Return once every live process is given the new key. Raises KeyStateConflict where one is not."""
        behind = await self._wait(lambda each: after in each.master_key_ids, tell)
        if not behind or force:
            return
        if self._source.place is not None:
            remedy = "it reads the AWS secret again within five minutes; or restart it"
        elif self._file is None:
            remedy = "restart it with the same MASTER_KEY and MASTER_KEY_PREVIOUS as this command"
        else:
            remedy = (
                f"give it {self._source.default_file} as its MASTER_KEY and {self._source.previous_file} as its "
                "MASTER_KEY_PREVIOUS, or copies of both files in its DATA_DIR, or end it"
            )
        raise KeyStateConflict(
            f"{_names(behind)} is not given the master key {after}: {remedy}; then run this again. Nothing was changed "
            "in the database, and both keys stay. With --force it goes on, and processes without the key stop serving"
        )

    async def _taken_up(self, after: str, *, force: bool, tell: Callable[[str], None]) -> None:
        """Return once every live process has read what is under the new key. Raises KeyStateConflict."""
        epochs = self._keys.epochs
        behind = await self._wait(
            lambda each: all(each.epochs.get(name, 0) >= epoch for name, epoch in epochs.items()), tell
        )
        if behind and not force:
            raise KeyStateConflict(
                f"the install is under the master key {after}, and {_names(behind)} has not taken that up in "
                f"{WAIT_SECONDS:.0f} seconds: see its log, then run this again; both keys stay until then"
            )

    async def _wait(self, done: Callable[[Instance], bool], tell: Callable[[str], None]) -> Sequence[Instance]:
        """The processes for which ``done`` does not hold when the time is over."""

        async def report(live: int, behind: Sequence[Instance]) -> None:
            tell(f"{live - len(behind)} of {live} processes follow; waiting for {_names(behind)}")

        return await wait_for_processes(self._storage, self._clock, done, within=WAIT_SECONDS, report=report)

    async def _live(self) -> Sequence[Instance]:
        async with self._storage.lookup() as uow:
            return await uow.instances.live()

    # -- the keys that are given ---------------------------------------------------------------------------------------

    @property
    def _file(self) -> str | None:
        return str(self._source.default_file) if self._source.in_default_file else None

    def _given(self) -> Sequence[SecretBytes]:
        given = self._source.given()
        if not given:
            raise MasterKeyMissing("no master key is given any more", remedy="put the master key back")
        return given

    def _begun(self, given: Sequence[SecretBytes]) -> bool:
        """Whether the old key of a change of the default file still lies beside it."""
        return len(given) > 1 and self._source.previous_file.exists()

    def _require_another(self, under: str, given: Sequence[SecretBytes]) -> None:
        """Keyhall makes the new key only in its own file; a key from the settings has to be changed there."""
        if self._source.in_default_file or len(given) > 1 or self._keys.master_key_id(given[0]) != under:
            return
        if (place := self._source.place) is not None:
            raise KeyStateConflict(
                f"the master key {under} comes from the AWS secret {place.name}, so it is changed there: "
                f"{place.change_command('MASTER_KEY')}. The former one stays in AWSPREVIOUS, and running processes put "
                "the install under the new one"
            )
        raise KeyStateConflict(
            f"the settings give the master key {under}, which the install is under, so there is nothing to change to: "
            "(1) make a new one with `keyhall keys generate-master`; (2) set it as MASTER_KEY, and the present one as "
            "MASTER_KEY_PREVIOUS; (3) restart every process; (4) run `keyhall keys rotate-master` again; (5) remove "
            "MASTER_KEY_PREVIOUS"
        )


class MasterKeyOnPaper:
    """Renders the master key for printing. ``page`` makes a page of material, install id, master-key id and time."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        source: MasterKeySource,
        page: Callable[[SecretBytes, str, str, datetime], str],
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._source = source
        self._page = page
        self._clock = clock
        self._audit = AuditTrail(clock)

    async def render(self) -> str:
        """The page, after its audit row has committed.

        Raises ConfigInvalid while a change of the master key is under way, MasterKeyMissing, StorageError.
        """
        needed, given = self._keys.ring.manifest.master_key_id, self._source.given()
        if not given:
            raise MasterKeyMissing("no master key is given any more", remedy="put the master key back")
        if self._keys.master_key_id(given[0]) != needed:
            raise ConfigInvalid(
                f"a change of the master key is under way: the install still needs the previous one, {needed}",
                remedy="run `keyhall keys rotate-master` to its end, then print the new one",
            )
        async with self._storage.write() as uow:
            await self._audit.record(uow, OPERATOR, Action.MASTER_KEY_PRINTED, about=("master_key", needed))
        return self._page(given[0], self._keys.install_id, needed, self._clock.now())


def _names(processes: Sequence[Instance]) -> str:
    return ", ".join(str(each) for each in processes)
