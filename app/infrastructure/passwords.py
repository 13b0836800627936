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
from app.infrastructure.memory import give_back_freed
from app.services.ports import PasswordCheck

_T = TypeVar("_T")
_WAITING: Final = 64
_GUESSES_LOG10: Final = 6.0
_READ_BY_ZXCVBN: Final = 72


class Argon2Passwords:
    """The port ``PasswordHasher``: Argon2id with 19 MiB, t=2, p=1 (ASVS 5.0, appendix C).

    ``cheap`` is for APP_ENV=test alone. One hash runs and 64 wait; more threads would take the other core from the
    event loop, and more memory from everybody. The thread keeps its priority: a nicer one left the p99 of the event
    loop as it was and, on a busy machine, made a tenth of the hashes. Passwords are taken in NFKC (SP 800-63B,
    3.1.1.2) and never truncated. When no other hash waits, the memory of a hash is given back. `close` ends the thread.
    """

    def __init__(self, *, cheap: bool = False) -> None:
        self._hasher = PasswordHasher(
            time_cost=1 if cheap else 2,
            memory_cost=8 if cheap else 19 * 1024,
            parallelism=1,
            hash_len=32,
            salt_len=16,
            type=Type.ID,
        )
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
        """Whether a million guesses find it: one of the frequent passwords, a repetition, a sequence, a keyboard run.

        ``context`` are words that belong to the account. The estimate is zxcvbn's (ASVS 5.0, 6.2.4). Raises Overloaded.
        """
        return await self._run(partial(_guessable, unicodedata.normalize("NFKC", password), tuple(context)))

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
        try:
            self._hasher.verify(self._decoy if phc is None else phc, _prepared(password))
        except VerifyMismatchError:
            return PasswordCheck(ok=False, needs_rehash=False)
        if phc is None:
            return PasswordCheck(ok=False, needs_rehash=False)
        return PasswordCheck(ok=True, needs_rehash=self._hasher.check_needs_rehash(phc))


def _guessable(password: str, context: Sequence[str]) -> bool:
    # Here, because its dictionaries take 14 MB and few processes ever store a new password.
    from zxcvbn import zxcvbn  # noqa: PLC0415

    # It reads 72 characters. A longer password is as good as the better one of its ends.
    ends = {password[:_READ_BY_ZXCVBN], password[-_READ_BY_ZXCVBN:]}
    return all(float(zxcvbn(end, user_inputs=[*context, "keyhall"])["guesses_log10"]) < _GUESSES_LOG10 for end in ends)


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
