"""Death at a system call: a process under strace, killed at the N-th call that is about some files."""

from __future__ import annotations

import re
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.environment import process_environment
from tests.support.installs import PROJECT
from tests.support.tools import require_tool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.installs import Place

CALLS = (
    "pwrite64",
    "write",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "ftruncate",
    "unlink",
    "unlinkat",
)
"""Whatever changes files, or makes sure that they are changed."""


@dataclass(frozen=True)
class Point:
    """The ``number``-th time that a thread makes this call on what is watched."""

    call: str
    number: int


def points(place: Place, command: Sequence[str]) -> list[Point]:
    """Every point that a command can be killed at, in the order of the calls; it runs to its end for that."""
    log = place.data_dir.parent / "calls"
    # With the filter in the kernel only these calls stop the process: four times as fast, and injects nothing.
    done = _trace(place, command, "--seccomp-bpf", "-o", str(log), "-e", f"trace={','.join(CALLS)}")
    assert done.returncode == 0, done.stderr
    seen: Counter[tuple[str, str]] = Counter()
    found: dict[Point, None] = {}
    for line in log.read_text().splitlines():
        call = re.match(r"(\d+) +(\w+)\(", line)
        if call is None:  # the end of a call that another thread's interrupted
            assert "resumed>" in line, line
            continue
        seen[call[1], call[2]] += 1
        found[Point(call[2], seen[call[1], call[2]])] = None
    return list(found)


def killed(place: Place, command: Sequence[str], point: Point) -> bool:
    """Whether the command was killed at that point; False where it ended before it came there."""
    kill = f"inject={point.call}:signal=SIGKILL:when={point.number}"
    done = _trace(place, command, "-o", "/dev/null", "-e", f"trace={point.call}", "-e", kill)
    assert done.returncode in {0, -signal.SIGKILL}, (point, done.stderr)
    return done.returncode != 0


def spread(points: Sequence[Point], count: int) -> list[Point]:
    """Some of the points, evenly from among all of them."""
    step = len(points) / count
    return [points[int((index + 0.5) * step)] for index in range(count)]


def _trace(place: Place, command: Sequence[str], *options: str) -> subprocess.CompletedProcess[str]:
    seen = [word for path in _watched(place) for word in ("-P", path)]
    return subprocess.run(
        [require_tool("strace"), "-f", "-qq", *seen, *options, *command],
        cwd=PROJECT,
        env=process_environment(**place.environment),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def _watched(place: Place) -> list[str]:
    """The files of an embedded database, and those of its data directory."""
    database = place.url.removeprefix("sqlite+aiosqlite:///")
    names = ("master.key", "master.key.previous", "install.json")
    files = [place.data_dir, *(place.data_dir / each for name in names for each in (name, f".{name}.new"))]
    return [*(f"{database}{suffix}" for suffix in ("", "-wal", "-journal", "-shm")), *map(str, files)]
