"""What a measurement returns, and how much is measured."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured. A test runs all measurements in the smallest size, which says nothing about speed."""

    rounds: int = 5
    cold_rounds: int = 1
    """Rounds before them that are not counted: they fill caches and write the bytecode."""
    storms: int = 3
    accounts: int = 60
    """That fail to sign in, in each storm."""
    rows: int = 20_000
    backup_rows: int = 100_000
    load_seconds: float = 2.0
    storm_seconds: float = 6.0
    processes: int = 9
    """Of Keyhall, for revocations."""
    revocations: int = 20
    """At least 20, so that a p99, which is the slowest of so few, means something."""
    reads: int = 500
    uses: int = 8
    """Of a credential, by each of its writers."""
    log_megabytes: int = 100
    """Of the write-ahead log whose checkpoint is watched."""
    watch_seconds: float = 2.0

    @classmethod
    def of(cls, rounds: int) -> Size:
        """The size in which figures mean something."""
        return cls(rounds=rounds, storms=max(1, rounds * 3 // 5), revocations=max(20, rounds * 4))

    @classmethod
    def smallest(cls) -> Size:
        """Everything once, of everything a little."""
        return cls(
            rounds=1,
            cold_rounds=0,
            storms=1,
            accounts=10,
            rows=100,
            backup_rows=100,
            load_seconds=0.1,
            storm_seconds=1.1,
            processes=2,
            revocations=1,
            reads=5,
            uses=1,
            log_megabytes=6,
            watch_seconds=0.2,
        )


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured, one value per round; ``aim`` is the most, or for ``more`` the least, that was hoped for."""

    name: str
    unit: str = ""
    aim: float | None = None
    more: bool = False
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """What the figure is judged by."""
        return median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the aim is; None where there is none."""
        if self.aim is None:
            return None
        return self.median >= self.aim if self.more else self.median <= self.aim

    @property
    def wanted(self) -> str:
        """The aim in words."""
        if self.aim is None:
            return ""
        return " ".join(filter(None, ("≥" if self.more else "≤", f"{self.aim:g}", self.unit)))

    def shown(self, value: float) -> str:
        """A value as people read it."""
        digits = {"/s": 0, "ms": 1, "MB": 1, "µs": 0}.get(self.unit, 2)
        return f"{value:,.{digits}f}"


class Spent(NamedTuple):
    """Seconds that passed, and seconds of processor time that all threads of this process used in them."""

    elapsed: float
    cost: float


class Moment(NamedTuple):
    """When something began or ended."""

    clock: float
    used: float

    @classmethod
    def now(cls) -> Moment:
        """This one."""
        return cls(time.perf_counter(), time.process_time())

    def until(self, later: Moment) -> Spent:
        """What lies between the two."""
        return Spent(later.clock - self.clock, later.used - self.used)

    def spent(self) -> Spent:
        """What has been spent since."""
        return self.until(Moment.now())


def quantile(values: Sequence[float], part: float) -> float:
    """By nearest rank: a value that was measured."""
    return sorted(values)[math.ceil(len(values) * part) - 1]
