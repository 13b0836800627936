"""This process among the others: its lease, the epochs it has loaded, and whether it may serve right now."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from app.domain.errors import KeyhallError, NotReady, StartupError, with_cause
from app.domain.instances import (
    CONFIRM_EVERY_SECONDS,
    IDLE_CONFIRM_SECONDS,
    LEASE_SECONDS,
    RENEW_EVERY_SECONDS,
    Instance,
)
from app.services.keys import KeyManagementService
from app.services.ports import ChangeFeed, Clock, Randomness, Storage
from app.services.processes import wait_for_processes

log = logging.getLogger(__name__)

_LEASE: Final = timedelta(seconds=LEASE_SECONDS)
_LEAVE_SECONDS: Final = 1.0
_FORGET_AFTER: Final = timedelta(hours=1)


class InstanceService:
    """Keeps the lease and confirms the key ring, in the background and on demand.

    A process that was stopped and wakes up finds its lease lapsed by its own clock, and serves nothing until it has
    renewed the lease and looked at the keysets again.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        feed: ChangeFeed,
        clock: Clock,
        randomness: Randomness,
        kind: str,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._feed = feed
        self._changes = feed.subscribe()
        self._clock = clock
        self._id = randomness.new_id()
        self._kind = kind
        self._seen: int | None = None
        self._used = True
        self._idle = False
        self._kept_at = float("-inf")
        self._acknowledged: dict[str, int] = {}
        self._renew_at = float("-inf")
        self._failed_at = float("-inf")
        self._failure: KeyhallError | None = None
        self._catching_up = asyncio.Lock()
        self._renewing = asyncio.Lock()

    @property
    def id(self) -> str:
        """This process's id in the table `instances`."""
        return self._id

    @asynccontextmanager
    async def present(self) -> AsyncIterator[None]:
        """Take a lease, keep it in the background, give it back at the end."""
        if not self.serving():
            await self.refresh()
        keeper = asyncio.create_task(self._keep_going(), name="lease keeper")
        try:
            yield
        finally:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
            leaving = asyncio.create_task(self._leave(), name="giving the lease back")
            # Closing the database ends a task that is not done by then, and the lease lapses by itself.
            await asyncio.wait({leaving}, timeout=_LEAVE_SECONDS)

    async def refresh(self) -> None:
        """Confirm the keys and take or renew the lease, once. Raises StorageError, NotReady, StartupError."""
        async with self._catching_up:
            confirmed = await self._confirm()
        # No request waits behind this, which may have to wait for the write lock of the database.
        await self._renew_where_due(confirmed)

    async def load_committed_change(self) -> None:
        """Load a change of keys that this process has committed; until that is possible it uses no key. Raises nothing.

        The change has taken effect: an error here would read as if it had not.
        """
        try:
            await self.refresh()
        except KeyhallError as error:
            self._seen = None
            self._keys.doubt()
            log.warning(
                "the keys were changed, and this process serves nothing until it has loaded that: %s", with_cause(error)
            )

    def serving(self) -> bool:
        """True while the lease is valid and the key ring is current.

        On SQLite: since it was read, no other process has committed, and this one has announced nothing.
        """
        self._used = True
        moved = self._storage.announced_version()
        if moved is not None and moved == self._seen and self._keys.leased:
            self._keys.confirm(self._clock.monotonic())
            return True
        if self._idle:  # nobody needed the keys, so they were confirmed less often
            self._idle = False
            if self._clock.monotonic() - self._kept_at > CONFIRM_EVERY_SECONDS:
                return False
        return moved is None and self._keys.leased and self._keys.confirmed

    async def catch_up(self) -> None:
        """Return once this process may serve; called before every request. Raises NotReady or StorageError."""
        if self.serving():
            return
        async with self._catching_up:
            if self.serving():
                return
            # While the database is away, one attempt a second is enough; all other requests get NotReady at once.
            if self._clock.monotonic() - self._failed_at < CONFIRM_EVERY_SECONDS:
                raise NotReady from self._failure
            try:
                confirmed = await self._confirm()
                if not self._keys.leased:
                    await self._renew_where_due(confirmed)
            except KeyhallError as error:
                self._failed_at, self._failure = self._clock.monotonic(), error
                if isinstance(error, StartupError):  # what would halt a start must not serve either
                    log.critical("the keys do not verify any more: %s", error.line())
                    raise NotReady from error
                raise

    async def _confirm(self) -> float:
        """Confirm the key ring, or load what has changed; when that began."""
        began = self._clock.monotonic()
        moved = self._storage.announced_version()
        if moved is None or moved != self._seen or not self._keys.leased:
            await self._keys.reload()
            self._seen = moved
        else:
            self._keys.confirm(self._clock.monotonic())
        self._kept_at = began
        return began

    async def _renew_where_due(self, confirmed: float) -> None:
        """Renew the lease where it is time to, or where the epochs moved; it counts from when the keys were confirmed.

        So a process that was stopped in between has no lease, and looks at the keys again.
        """
        async with self._renewing:
            if confirmed >= self._renew_at or not self._keys.leased or self._acknowledged != self._keys.epochs:
                await self._renew(confirmed)

    async def _renew_and_confirm(self) -> bool:
        """Do both in one unit of work, where the keys can be confirmed by reading alone; False where that did not."""
        if self._storage.announced_version() is not None or not self._keys.leased:
            return False
        async with self._renewing:
            began = self._clock.monotonic()
            if not await self._renew(began, confirming=True):
                return False
            self._keys.confirm(began)
            self._kept_at = began
            return True

    async def _renew(self, now: float, *, confirming: bool = False) -> bool:
        """Renew the lease, counted from ``now``; with ``confirming``, whether the keys are those that were loaded."""
        try:
            held = tuple(self._keys.master_key_ids())
        except StartupError as error:
            # The keys are loaded and serve; only a change of the master key will miss this process.
            log.warning("the master key cannot be read any more: %s", error.line())
            held = (self._keys.ring.wrapping.master_key_id,)
        async with self._storage.write() as uow:
            epochs = dict(self._keys.epochs)
            if not await uow.instances.renew(self._id, epochs, _LEASE, master_key_ids=held):
                # A rotation sees this process with the epochs that it has loaded, or not at all: no process can change
                # the keys between this read and the end of the unit of work.
                await self._keys.reload_under_lock(uow)
                epochs = dict(self._keys.epochs)
                await uow.instances.purge(_FORGET_AFTER)
                await uow.instances.register(self._describe(epochs, held), _LEASE)
            current = confirming and await self._keys.current_in(uow)
        # Counted from before the transaction began, so that our own idea of the lease never outlasts the row's.
        self._keys.lease(now + LEASE_SECONDS)
        self._renew_at = now + RENEW_EVERY_SECONDS
        self._acknowledged = epochs
        return current

    def _describe(self, epochs: dict[str, int], master_key_ids: tuple[str, ...]) -> Instance:
        now = self._clock.now()
        return Instance(
            id=self._id,
            kind=self._kind,
            host=socket.gethostname()[:255],
            pid=os.getpid(),
            started_at=now,
            lease_until=now + _LEASE,
            epochs=epochs,
            master_key_ids=master_key_ids,
        )

    async def _keep_going(self) -> None:
        failing = False
        while True:
            self._idle, self._used = not self._used and self._feed.prompt, False
            woken = await self._changes.changed(IDLE_CONFIRM_SECONDS if self._idle else CONFIRM_EVERY_SECONDS)
            try:
                if woken or not self._idle or not await self._renew_and_confirm():
                    await self.refresh()
            except KeyhallError as error:
                if not failing:
                    log.warning("the keys cannot be confirmed, this process stops serving: %s", with_cause(error))
                failing = True
            except Exception:  # a bug must not end the keeper: without it the process would never serve again
                log.exception("the keys could not be confirmed")
                failing = True
            else:
                if failing:
                    log.info("the keys are confirmed again")
                failing = False

    async def _leave(self) -> None:
        try:
            async with self._storage.write() as uow:
                await uow.instances.leave(self._id)
        except KeyhallError as error:
            log.warning("could not give the lease back, it lapses by itself: %s", with_cause(error))

    async def wait_until(
        self, done: Callable[[Instance], bool], *, report: Callable[[int, Sequence[Instance]], Awaitable[None]]
    ) -> None:
        """Return once ``done`` holds for every live process; see ``wait_for_processes``."""
        await wait_for_processes(self._storage, self._clock, done, report=report)

    async def live(self) -> Sequence[Instance]:
        """Every process whose lease has not lapsed."""
        async with self._storage.lookup() as uow:
            return await uow.instances.live()
