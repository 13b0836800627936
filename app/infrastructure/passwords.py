"""Passwords: hashed with Argon2id, one at a time, on a thread that never holds up the event loop."""

from __future__ import annotations

import asyncio
import base64
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import VerifyMismatchError

from app.domain.errors import Overloaded
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.guessable import is_guessable
from app.infrastructure.memory import give_back_freed
from app.services.ports import PasswordCheck

_T = TypeVar("_T")
_WAITING: Final = 64


class Argon2Passwords:
    """The port ``PasswordHasher``: Argon2id with 19 MiB, t=2, p=1 (ASVS 5.0, appendix C).

    ``cheap`` is for APP_ENV=test alone; ``context`` are words that belong to the install. One hash runs and 64 wait;
    more threads would take the other core from the event loop, and more memory from everybody. The thread keeps its
    priority: a nicer one left the p99 of the event loop as it was and, on a busy machine, made a tenth of the hashes.
    Passwords are hashed in NFKC (SP 800-63B, 3.1.1.2) and never truncated; a hash of the password as it was typed
    matches too, and is to be renewed. When no other hash waits, the memory of a hash is given back. `close` ends the
    thread.
    """

    def __init__(self, *, cheap: bool = False, context: Sequence[str] = ("keyhall",)) -> None:
        self._hasher = PasswordHasher(
            time_cost=1 if cheap else 2,
            memory_cost=8 if cheap else 19 * 1024,
            parallelism=1,
            hash_len=32,
            salt_len=16,
            type=Type.ID,
        )
        self._context = tuple(context)
        self._decoy = _decoy(self._hasher)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="passwords")
        self._pending = 0
        self._closing = False

    async def hash(self, password: str) -> str:
        """A PHC string. Raises Overloaded when 64 others wait."""
        return await self._run(partial(self._hash, password))

    async def verify(self, phc: str | None, password: str) -> PasswordCheck:
        """Check a password; None takes as long as a hash of today's parameters and never matches.

        Raises Overloaded when 64 others wait, and argon2's InvalidHashError or VerificationError for a stored hash
        that is damaged: that is no wrong password.
        """
        return await self._run(partial(self._verify, phc, password))

    async def is_guessable(self, password: str, *, context: Sequence[str]) -> bool:
        """Whether few guesses find it (see `app.infrastructure.guessable`). Raises Overloaded.

        ``context`` are words that belong to the account; those of the install are added.
        """
        words = (*context, *self._context)
        return await self._run(partial(is_guessable, unicodedata.normalize("NFKC", password), words))

    async def close(self) -> None:
        """Finish what was accepted and end the thread."""
        self._closing = True
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self, work: Callable[[], _T]) -> _T:
        if self._pending > _WAITING:
            raise Overloaded
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._pending -= 1
            if not self._pending and not self._closing:
                self._thread.submit(give_back_freed)  # after a hash that goes on although its request was cancelled

    def _hash(self, password: str) -> str:
        return self._hasher.hash(_prepared(password))

    def _verify(self, phc: str | None, password: str) -> PasswordCheck:
        stored = self._decoy if phc is None else phc
        typed = password.encode("utf-8", "surrogatepass")
        # As it was typed, for a hash that was made without normalising or by an older version of Unicode. The forms
        # depend on the password alone, so that a known and an unknown user take as long.
        for form in dict.fromkeys((_prepared(password), typed)):
            try:
                self._hasher.verify(stored, form)
            except VerifyMismatchError:
                continue
            if phc is None:
                break
            outdated = self._hasher.check_needs_rehash(phc) or form != _prepared(password)
            return PasswordCheck(ok=True, needs_rehash=outdated)
        return PasswordCheck(ok=False, needs_rehash=False)


def _prepared(password: str) -> bytes:
    # Lone surrogates are refused at the edges; here they must at least not raise something that quotes the password.
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")


def _decoy(hasher: PasswordHasher) -> str:
    """A PHC string with the hasher's parameters that no password matches; making it takes no time."""
    salt, digest = (
        base64.b64encode(SystemRandomness().token_bytes(size)).decode().rstrip("=")
        for size in (hasher.salt_len, hasher.hash_len)
    )
    return f"$argon2id$v=19$m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}${salt}${digest}"
