"""The machine: its clock, and the packages that are installed."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from app.domain.diagnosis import Check, failed, ok, together, warning

_TIMEX_BYTES: Final = 512
"""More than any system's `struct timex`; zeros ask and change nothing (adjtimex(2))."""
_UNSYNCHRONIZED: Final = 5
_WORTH_A_LOOK: Final = timedelta(seconds=2)
_WRONG: Final = timedelta(seconds=30)
_PINNED: Final = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)\s*(;)?", re.MULTILINE)
_UNPINNED_IMAGE: Final = re.compile(r"^\s*(?:-\s*)?image:\s*[\"']?(?P<image>[^\s\"'#]+)", re.MULTILINE)


def clock(others: Sequence[tuple[str, timedelta]]) -> Check:
    """Whether this machine's clock is right; ``others`` are clocks by name, and how far this one is ahead of each."""
    found: list[Check] = []
    remedy = "synchronize the clock of this machine (NTP): one-time codes and expiry dates depend on it"
    for name, ahead in others:
        seconds = ahead.total_seconds()
        if abs(ahead) > _WORTH_A_LOOK:
            kind = failed if abs(ahead) > _WRONG else warning
            side = "ahead of" if seconds > 0 else "behind"
            found.append(kind("clock", f"this machine is {abs(seconds):.0f} s {side} {name}", remedy))
    if not others and _synchronized() is False:
        found.append(warning("clock", "the system says that its clock is not synchronized", remedy))
    compared = (
        f"it agrees with {' and '.join(name for name, _ in others)}" if others else "nothing says that it is wrong"
    )
    return together("clock", found, compared)


def _synchronized() -> bool | None:
    """The answer of the kernel; None where it cannot be asked."""
    try:
        state: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _UNSYNCHRONIZED


def packages(lock: Path, *, production: bool) -> Check:
    """Whether exactly the locked packages are installed."""
    try:
        text = lock.read_text(encoding="utf-8")
    except OSError:
        return warning("packages", f"{lock} cannot be read, so nothing says which packages belong here", "reinstall")
    wrong = list(_differing(text))
    if not wrong:
        return ok("packages", "exactly those that are locked are installed")
    named = ", ".join(wrong[:5]) + (" and more" if len(wrong) > 5 else "")
    kind = failed if production else warning
    return kind("packages", f"installed and locked differ: {named}", "run `make setup`, or build the image again")


def _differing(lock: str) -> Iterator[str]:
    for name, pinned, marker in _PINNED.findall(lock):
        try:
            installed = version(name)
        except PackageNotFoundError:
            if not marker:  # else it is for other systems
                yield f"{name} is missing"
            continue
        if installed != pinned:
            yield f"{name} {installed} instead of {pinned}"


def images(files: Sequence[Path]) -> Check:
    """Whether the container images that these files name say which version they are."""
    found: list[Check] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except OSError:
            continue
        for image in (each["image"] for each in _UNPINNED_IMAGE.finditer(text)):
            if image.startswith("$") or "@sha256:" in image:
                continue
            _, _, tag = image.rpartition("/")[2].partition(":")
            if tag == "latest":
                remedy = "name a version, best with its digest (image:tag@sha256:…)"
                found.append(warning("images", f"{file.name} runs any version that {image} happens to be", remedy))
    return together("images", found, "no file asks for the latest of an image")
