"""A storage that fails every now and then, as a seed has it: before, in the middle, at the commit, or after it."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar, cast

from app.domain.errors import OutcomeUnknown, StorageBusy, StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from app.services.ports import Storage, StorageFigures, UnitOfWork

_T = TypeVar("_T")

_CALLS = 8
"""The call that fails is one of the first; where a unit of work makes fewer, its commit does."""


class Failure(StrEnum):
    """When a unit of work fails."""

    AT_BEGIN = "at the begin"
    AT_A_CALL = "at a call"
    BEFORE_COMMIT = "before the commit"
    AFTER_COMMIT = "after the commit"
    """It counts, and whoever made it hears that nobody knows."""


class FlakyStorage:
    """The port ``Storage`` over another one. ``rate`` is the share of units of work that fail; zero until it is set."""

    def __init__(self, storage: Storage, seed: int) -> None:
        self.rate = 0.0
        self.failed: Counter[Failure] = Counter()
        self._storage = storage
        self._random = random.Random(seed)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[UnitOfWork]:
        """Fails at the begin or at a call: it has no commit."""
        unit = self._unit(Failure.AT_BEGIN, Failure.AT_A_CALL)
        unit.meet(Failure.AT_BEGIN)
        async with self._storage.read() as inner:
            yield unit.around(inner)

    @asynccontextmanager
    async def lookup(self, *, large: bool = False) -> AsyncIterator[UnitOfWork]:
        """As ``read``."""
        unit = self._unit(Failure.AT_BEGIN, Failure.AT_A_CALL)
        unit.meet(Failure.AT_BEGIN)
        async with self._storage.lookup(large=large) as inner:
            yield unit.around(inner)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[UnitOfWork]:
        """Fails anywhere."""
        unit = self._unit(*Failure)
        unit.meet(Failure.AT_BEGIN)
        async with self._storage.write() as inner:
            yield unit.around(inner)
            unit.require_sound()
            unit.meet(Failure.AT_A_CALL)
            unit.meet(Failure.BEFORE_COMMIT)
        unit.meet(Failure.AFTER_COMMIT)

    def data_version(self) -> int | None:
        """As it is."""
        return self._storage.data_version()

    def announced_version(self) -> int | None:
        """As it is."""
        return self._storage.announced_version()

    async def cached(self, kind: str, key: str, load: Callable[[UnitOfWork], Awaitable[_T | None]]) -> _T | None:
        """Nothing is remembered: everything is read, and may fail."""
        async with self.read() as uow:
            return await load(uow)

    def figures(self) -> StorageFigures:
        """As they are."""
        return self._storage.figures()

    def forget_rows(self) -> None:
        self._storage.forget_rows()

    def _unit(self, *failures: Failure) -> _Unit:
        failure = self._random.choice(failures) if self._random.random() < self.rate else None
        return _Unit(self.failed, failure, self._random.randint(1, _CALLS))


class _Unit:
    """What becomes of one unit of work."""

    def __init__(self, failed: Counter[Failure], failure: Failure | None, call: int) -> None:
        self._failed = failed
        self._failure = failure
        self._calls_left = call
        self._error: StorageError | None = None

    def around(self, inner: UnitOfWork) -> UnitOfWork:
        return cast("UnitOfWork", _Repositories(inner, self))

    def meet(self, moment: Failure) -> None:
        if self._failure is moment:
            self._failed[moment] += 1
            kinds = {Failure.AT_BEGIN: StorageBusy, Failure.AFTER_COMMIT: OutcomeUnknown}
            self._error = kinds.get(moment, StorageError)()
            raise self._error

    def call(self) -> None:
        self.require_sound()
        self._calls_left -= 1
        if self._calls_left == 0:
            self.meet(Failure.AT_A_CALL)

    def require_sound(self) -> None:
        """As of the real one: after a failure that somebody caught, nothing is committed."""
        if self._error is not None:
            raise self._error


class _Repositories:
    def __init__(self, inner: UnitOfWork, unit: _Unit) -> None:
        self._inner = inner
        self._unit = unit

    def __getattr__(self, name: str) -> Any:
        return _Repository(getattr(self._inner, name), self._unit)


class _Repository:
    def __init__(self, inner: Any, unit: _Unit) -> None:
        self._inner = inner
        self._unit = unit

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            self._unit.call()
            return await method(*arguments, **named)

        return call
