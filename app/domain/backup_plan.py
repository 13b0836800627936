"""When backups are made by themselves, for whom, and how long they are kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol, TypeVar

_KEEP: Final = re.compile(r"([1-9][0-9]{0,3})(d?)", re.ASCII)


class Aged(Protocol):
    """Anything that was made at some time."""

    @property
    def created_at(self) -> datetime:
        """When."""
        ...


_Aged = TypeVar("_Aged", bound=Aged)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Which backups are kept: the latest ones by number, those younger than an age, or both."""

    number: int | None = None
    age: timedelta | None = None

    @classmethod
    def parse(cls, text: str) -> Keep:
        """Read ``7``, ``30d`` or ``7,30d``. Raises ValueError, which says what is wrong."""
        rules: dict[str, int] = {}
        for part in text.split(","):
            found = _KEEP.fullmatch(part.strip().lower())
            if found is None or found[2] in rules:
                raise ValueError("must be a number of backups, such as 7, an age in days, such as 30d, or both: 7,30d")
            rules[found[2]] = int(found[1])
        days = rules.get("d")
        return cls(number=rules.get(""), age=None if days is None else timedelta(days=days))

    def surplus(self, backups: Sequence[_Aged], now: datetime) -> Sequence[_Aged]:
        """Those that no rule keeps, of backups that are given the latest first."""
        old = backups[self.number or 0 :]
        return [each for each in old if self.age is None or now - each.created_at > self.age]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPlan:
    """The decisions of the operator about backups."""

    directory: Path
    recipient: str | None = None
    schedule: str | None = None
    """Moments in UTC, in the five fields of cron."""
    keep: Keep = field(default_factory=lambda: Keep(number=7))
