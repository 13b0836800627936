"""What is installed is what the locks name: nothing was resolved on the way."""

from __future__ import annotations

import re
from importlib.metadata import distribution, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = {name: ROOT / "requirements" / f"{name}.txt" for name in ("run", "dev", "generator", "peer")}
INSTALLED = ("run", "dev")
"""In this environment; the generator of clients and the benchmark's peer have their own."""


def _locked(lock: str) -> dict[str, Requirement]:
    """The requirements of a lock that apply to this interpreter, by canonical name."""
    lines = re.findall(r"^([A-Za-z0-9].*?) \\$", LOCKS[lock].read_text(encoding="utf-8"), re.MULTILINE)
    requirements = [Requirement(line) for line in lines]
    return {
        canonicalize_name(each.name): each for each in requirements if each.marker is None or each.marker.evaluate()
    }


def _needed_by(requirement: Requirement) -> list[Requirement]:
    """What an installed distribution requires here, with the extras that the lock asks of it."""
    needed = [Requirement(line) for line in distribution(requirement.name).requires or ()]
    extras = ["", *requirement.extras]
    return [
        each
        for each in needed
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
    ]


@pytest.mark.parametrize("lock", INSTALLED)
def test_every_locked_package_is_installed_in_the_locked_version(lock: str) -> None:
    locked = _locked(lock)
    assert len(locked) > 30
    found = {name: version(name) for name in locked}
    assert {name: found[name] for name, each in locked.items() if found[name] not in each.specifier} == {}


@pytest.mark.parametrize("lock", INSTALLED)
def test_a_lock_is_whole_so_that_nothing_has_to_be_resolved(lock: str) -> None:
    """Every requirement of every locked package, extras included, is locked too, in a version that satisfies it."""
    locked = _locked(lock)
    missing = [
        f"{name} needs {needed}"
        for name, requirement in locked.items()
        for needed in _needed_by(requirement)
        if (found := locked.get(canonicalize_name(needed.name))) is None
        or version(found.name) not in needed.specifier
        or not needed.extras <= found.extras
    ]
    assert missing == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_hashes_for_every_package_and_no_address(lock: str) -> None:
    text = LOCKS[lock].read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in text
