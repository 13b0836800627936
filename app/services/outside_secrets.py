"""Secrets from outside while a process runs: read again on schedule and on demand, and kept where that fails.

The loaded keys stay in use. A key that has changed outside is added as a new version and promoted like every other
(docs/keys.md, "Keys in AWS").
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from typing import Final

from app.domain.audit import Action
from app.domain.errors import (
    InsecureKey,
    KeyhallError,
    KeyStateConflict,
    SecretsNotRead,
    SecretsUnavailable,
    StartupError,
    with_cause,
)
from app.domain.identity import Actor, Permission
from app.domain.keys import APPLICATION_KEYS, KeyName, KeyState
from app.domain.secrets import SecretText
from app.domain.stored_secret import StoredSecret
from app.services.audit import SYSTEM, AuditTrail
from app.services.keys import KeyManagementService
from app.services.keys.master_key import MasterKeyChange
from app.services.ports import Clock, Randomness, RenewableMasterKey, SecretsBackend, Storage
from app.services.rotation.queue import RotationQueue

log = logging.getLogger(__name__)

READ_EVERY_SECONDS: Final = 300.0
_JITTER: Final = 0.1
"""Of the pause: processes that started together spread out."""
REQUEST_WAITS_SECONDS: Final = 10.0
"""Within the time that a request has; the read goes on without it."""
_AGAIN_AFTER_SECONDS: Final = 60.0
"""Where it could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideSource:
    """The backend, the master key that follows it, and the secret as the start read it.

    ``hide`` keeps a value out of the log from now on.
    """

    backend: SecretsBackend
    master_key: RenewableMasterKey
    stored: StoredSecret
    hide: Callable[[SecretText], object]


class OutsideSecrets:
    """Follows the secret outside, where there is one, and clears the caches of this process."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        queue: RotationQueue,
        clock: Clock,
        randomness: Randomness,
        source: OutsideSource | None = None,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._queue = queue
        self._clock = clock
        self._randomness = randomness
        self._source = source
        self._stored = source.stored if source else None
        self._audit = AuditTrail(clock)
        self._reading = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._refused: Mapping[KeyName, str] = {}

    async def clear_caches(self, actor: Actor) -> None:
        """Forget every row that is kept in memory, and read the secret outside again; for owners and admins.

        Raises Forbidden, and SecretsNotRead where the secret cannot be read, or holds a key that a start would refuse:
        the present values then stay in use.
        """
        actor.require(Permission.CLEAR_CACHES)
        async with self._storage.write() as uow:
            await self._audit.record(uow, actor, Action.CACHES_CLEARED)
        self._storage.forget_rows()
        if self._source is None:
            return
        try:
            async with asyncio.timeout(REQUEST_WAITS_SECONDS):
                await self.read_again()
        except TimeoutError:
            raise SecretsNotRead("AWS has not answered yet, and is still asked: see the log in a minute") from None
        except StartupError as error:
            log.warning("the present secrets stay in use: %s — %s", error.happened, error.remedy)
            raise SecretsNotRead(f"{error.happened} — {error.remedy}") from error
        self._woken.set()
        if self._refused:
            raise SecretsNotRead(
                f"{'; '.join(self._refused.values())} — the present keys stay in use, but a start would halt: put a "
                "version of the secret with other keys, or go back to the version before"
            )

    async def keep_up(self) -> None:
        """Read the secret every five minutes, until cancelled; at once where the start found that it has moved on."""
        pause = 0.0 if self._moved_on() else self._pause()
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            except TimeoutError:
                pause = await self._kept_up(read=True)
            else:
                self._woken.clear()  # a request has read it just now
                pause = await self._kept_up(read=False)

    async def _kept_up(self, *, read: bool) -> float:
        """Seconds until the next time."""
        try:
            if read:
                await self.read_again()
            await self._follow_master_key()
        except StartupError as error:
            log.warning("the present secrets stay in use: %s — %s", error.happened, error.remedy)
        except KeyhallError as error:
            log.warning("the secrets could not be looked after: %s", with_cause(error))
        except Exception:  # a bug here must not end the process that serves with what it has
            log.exception("the secrets could not be looked after")
        else:
            return self._pause()
        return min(_AGAIN_AFTER_SECONDS, READ_EVERY_SECONDS)

    def _pause(self) -> float:
        part = self._randomness.token_bytes(1)[0] / 255
        return READ_EVERY_SECONDS * (1 + _JITTER * (2 * part - 1))

    async def read_again(self) -> None:
        """Read the secret, give its master key, and have its application keys become the primaries.

        One read is under way at a time, and all who call meanwhile share the next: theirs begins after they called.
        Raises SecretsUnavailable, ConfigInvalid and InsecureKey, after which everything is as before; StorageError.
        """
        if self._source is None:
            return
        if self._next is None:
            # In a context of its own: the deadline of one request is not that of the others.
            self._next = asyncio.create_task(self._read(self._source), name="reading secrets", context=Context())
            self._next.add_done_callback(_retrieved)
        await asyncio.shield(self._next)

    async def _read(self, source: OutsideSource) -> None:
        async with self._reading:
            self._next = None
            # The primaries first: a secret that is read after that is at least as new as they are. Otherwise a slow
            # reader would take the version before the one that another process has just promoted for a rollback.
            await self._keys.reload()
            seen = {name: keyset.primary.version for name, keyset in self._keys.ring.keysets.items()}
            stored = await source.backend.fetch()
            before = self._stored or stored
            gone = sorted(before.current.keys.keys() - stored.current.keys.keys())
            if gone:
                raise SecretsUnavailable(
                    f"the AWS secret {stored.place.name} is partial: it holds no {', '.join(gone)} any more",
                    remedy="put a whole version, or go back to the version before",
                )
            for version in (stored.current, stored.previous):
                for value in version.values.values() if version else ():
                    source.hide(value)
            source.master_key.renew(stored)
            self._stored = stored
            if (owner := self._keys.owner) is not None:
                owner.stored = stored
            if stored.current.id != before.current.id:
                log.info(
                    "Loaded secrets from AWS", extra={"aws_name": stored.place.name, "aws_version": stored.current.id}
                )
                _warn_of_what_waits(before, stored)
            await self._follow_keys(stored, seen)

    async def _follow_keys(self, stored: StoredSecret, seen: Mapping[KeyName, int]) -> None:
        if self._keys.owner is None:
            return
        refused: dict[KeyName, str] = {}
        for name in APPLICATION_KEYS:
            given = stored.current.keys.get(name.value)
            if given is None:
                continue
            try:
                if await self._queue.bring_in(SYSTEM, name, given, seen_primary=seen[name]) is not None:
                    log.info("%s in the AWS secret has changed: it becomes the primary", name.value)
            except InsecureKey as weak:
                refused[name] = f"{name.value} in the AWS secret is not used: {weak.happened}"
                log.error("%s", refused[name])  # noqa: TRY400
            except KeyStateConflict as conflict:  # it was revoked; or another process is faster, which is as good
                said = f"{name.value} in the AWS secret is not used now: {conflict.detail}"
                if self._is_revoked(name, given):
                    refused[name] = said
                log.log(logging.WARNING if name in refused else logging.INFO, "%s", said)
        self._refused = refused

    def _is_revoked(self, name: KeyName, given: SecretText) -> bool:
        fingerprint = self._keys.fingerprint(name, self._keys.outside_material(name, given))
        revoked = {KeyState.COMPROMISED, KeyState.DESTROYED}
        return any(each.fingerprint == fingerprint and each.state in revoked for each in self._keys.ring.keysets[name])

    async def _follow_master_key(self) -> None:
        """Put the install under the master key that the secret holds, once every process has been given it."""
        source = self._source
        if source is None or self._stored is None or self._stored.current.master_key is None:
            return
        given = self._keys.master_key_ids()
        if given[0] == self._keys.ring.manifest.master_key_id:
            return
        log.info("the AWS secret has another master key: the install is put under it")
        change = MasterKeyChange(
            storage=self._storage, keys=self._keys, source=source.master_key, clock=self._clock, who=SYSTEM
        )
        try:
            await change.carry_out()
        except KeyStateConflict as waits:
            log.warning("the change of the master key waits: %s", waits.detail)

    def _moved_on(self) -> bool:
        """Whether the secret that the start read holds other keys than the database."""
        stored, owner = self._stored, self._keys.owner
        if stored is None:
            return False
        if stored.current.master_key and self._keys.master_key_ids()[0] != self._keys.ring.manifest.master_key_id:
            return True
        return owner is not None and any(
            self._keys.fingerprint(name, self._keys.outside_material(name, given))
            != self._keys.ring.keysets[name].primary.fingerprint
            for name in APPLICATION_KEYS
            if (given := stored.current.keys.get(name.value)) is not None
        )


def _retrieved(task: asyncio.Task[None]) -> None:
    """Look at the error of a read for which nobody waits any more, so that the loop does not report it as lost."""
    if not task.cancelled():
        task.exception()


def _warn_of_what_waits(before: StoredSecret, now: StoredSecret) -> None:
    """Values that a process reads at its start alone."""
    keys = {"MASTER_KEY", "MASTER_KEY_PREVIOUS", "SECRET_KEY", *(name.value for name in APPLICATION_KEYS)}
    names = sorted((before.current.values.keys() | now.current.values.keys()) - keys)
    changed = [name for name in names if before.current.values.get(name) != now.current.values.get(name)]
    if changed:
        log.warning("changed in the AWS secret, and used from the next start on: %s", ", ".join(changed))
