"""The result of looking an installation over: one check for each thing that can be wrong, never a secret."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class CheckState(StrEnum):
    """Well, worth a look, or wrong."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


_ORDER = tuple(CheckState)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: what was found, and what to do about it; ``remedy`` is empty where there is nothing to do."""

    name: str
    state: CheckState
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks, in the order in which a start would meet them."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether none failed; warnings do not count."""
        return all(each.state is not CheckState.FAILED for each in self.checks)


def ok(name: str, detail: str) -> Check:
    """A check that found nothing to do."""
    return Check(name=name, state=CheckState.OK, detail=detail)


def warning(name: str, detail: str, remedy: str) -> Check:
    """A check that found something worth a look."""
    return Check(name=name, state=CheckState.WARNING, detail=detail, remedy=remedy)


def failed(name: str, detail: str, remedy: str) -> Check:
    """A check that found something wrong."""
    return Check(name=name, state=CheckState.FAILED, detail=detail, remedy=remedy)


def together(name: str, found: Sequence[Check], well: str) -> Check:
    """Several findings about one thing as one check, as bad as the worst of them; ``well`` where there are none."""
    if not found:
        return ok(name, well)
    worst = max((each.state for each in found), key=_ORDER.index)
    return Check(
        name=name, state=worst, detail="; ".join(each.detail for each in found), remedy="; ".join(_remedies(found))
    )


def _remedies(found: Iterable[Check]) -> Iterable[str]:
    return dict.fromkeys(each.remedy for each in found if each.remedy)
