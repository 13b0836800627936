"""The ports that are not the database: a clock that tests move, and fakes that are never slow."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from app.domain.secrets import SecretBytes
from app.services.ports import PasswordCheck, RememberedInstall

EPOCH = datetime(2026, 11, 20, 12, tzinfo=UTC)
"""When every test begins."""


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self._passed = timedelta()

    def now(self) -> datetime:
        return EPOCH + self._passed

    def monotonic(self) -> float:
        return 1_000.0 + self._passed.total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.advance(timedelta(seconds=seconds))
        await asyncio.sleep(0)

    def advance(self, by: timedelta) -> None:
        self._passed += by


class FakeRandomness:
    """The same bytes and ids in every run; ids ascend."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._ids = itertools.count(1)

    def token_bytes(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def new_id(self) -> str:
        return str(uuid.UUID(bytes=next(self._ids).to_bytes(6) + self._random.randbytes(10), version=4))


class FakeMasterKeys:
    """One master key, given from outside."""

    def __init__(self) -> None:
        self.keys = [SecretBytes(bytes(range(32)))]

    def given(self) -> Sequence[SecretBytes]:
        return self.keys

    def create(self) -> SecretBytes:
        raise AssertionError("a master key is given")


class FakeInstallRecord:
    """install.json without a file."""

    def __init__(self) -> None:
        self.remembered: RememberedInstall | None = None

    def read(self) -> RememberedInstall | None:
        return self.remembered

    def remember(self, install_id: str, epochs: Mapping[str, int]) -> None:
        before = self.remembered.epochs if self.remembered else {}
        kept = {name: max(epoch, before.get(name, 0)) for name, epoch in epochs.items()}
        self.remembered = RememberedInstall(install_id=install_id, epochs=kept)

    def prove(self) -> None:
        return None


class FakePasswords:
    """As slow as one turn of the loop: enough for an open unit of work to notice."""

    async def hash(self, password: str) -> str:
        await asyncio.sleep(0)
        return f"$fake${password[::-1]}"

    async def verify(self, phc: str | None, password: str) -> PasswordCheck:
        await asyncio.sleep(0)
        return PasswordCheck(ok=phc == f"$fake${password[::-1]}", needs_rehash=False)

    async def is_guessable(self, password: str, *, context: Sequence[str]) -> bool:
        return password == "password1234" or password.casefold() in {word.casefold() for word in context}


class FakeChangeFeed:
    """Reports the changes that the test announces."""

    def __init__(self) -> None:
        self._subscriptions: list[FakeSubscription] = []
        self.prompt = True

    def subscribe(self) -> FakeSubscription:
        self._subscriptions.append(FakeSubscription())
        return self._subscriptions[-1]

    def announce(self) -> None:
        """Somebody changed something."""
        for each in self._subscriptions:
            each.changes.set()


class FakeSubscription:
    """Waits in real time."""

    def __init__(self) -> None:
        self.changes = asyncio.Event()

    async def changed(self, within: float) -> bool:
        try:
            async with asyncio.timeout(within):
                await self.changes.wait()
        except TimeoutError:
            return False
        self.changes.clear()
        return True
