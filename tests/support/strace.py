"""Death at a system call: a process under strace, killed at the N-th call that is about some files."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.environment import process_environment
from tests.support.processes import PROJECT, Process
from tests.support.tools import require_tool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tests.support.installs import Place

CALLS = (
    "pwrite64",
    "write",
    "fsync",
    "fdatasync",
    "link",
    "linkat",
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


def points(place: Place, command: Sequence[str], watched: Sequence[Path] = ()) -> list[Point]:
    """Every point that a command can be killed at, in the order of the calls; it runs to its end for that.

    ``watched`` are the files that the calls are about, if not those of the install.
    """
    log = place.data_dir.parent / "calls"
    # With the filter in the kernel only these calls stop the process: four times as fast, and injects nothing.
    options = [*watching(watched or _watched(place)), "--seccomp-bpf", "-o", str(log), "-e", f"trace={','.join(CALLS)}"]
    done = subprocess.run(
        [require_tool("strace"), "-f", "-qq", *options, sys.executable, *command],
        cwd=PROJECT,
        env=process_environment(**place.environment),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
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


def killed(place: Place, command: Sequence[str], point: Point, watched: Sequence[Path] = ()) -> bool:
    """Whether the command was killed at that point; False where it ended before it came there."""
    options = [*watching(watched or _watched(place)), *killing(point.call, point.number)]
    done = traced(command, *options, env=process_environment(**place.environment))
    assert done.returncode in {0, -signal.SIGKILL}, (point, done.stderr)
    return done.returncode != 0


def spread(points: Sequence[Point], count: int) -> list[Point]:
    """Some of the points, evenly from among all of them."""
    step = len(points) / count
    return [points[int((index + 0.5) * step)] for index in range(count)]


def watching(paths: Iterable[str | Path]) -> list[str]:
    """Options of strace: only calls that are about these files."""
    return [word for path in paths for word in ("-P", str(path))]


def killing(call: str, number: int) -> list[str]:
    """Options of strace: death at the N-th time that a thread makes a call."""
    kill = f"inject={call}:signal=SIGKILL:when={number}"
    return ["-o", "/dev/null", "-e", f"trace={call}", "-e", kill]


def traced(command: Sequence[str], *options: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `python COMMAND` to its end, strace being attached before its first call."""
    tool = require_tool("strace")
    process = Process(*command, env=env, stdin=subprocess.PIPE, stderr=subprocess.PIPE, traceable=True)
    # Only the message that it is attached is wanted.
    tracing = [tool, "-f", "--quiet=exit,path-resolution,personality,thread-execve", *options, "-p", str(process.pid)]
    with subprocess.Popen(tracing, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        attached = strace.stderr.readline()
        assert attached.endswith(" attached\n"), attached
        out, err = process.communicate("go\n", timeout=100)
        strace.communicate(timeout=100)
    return subprocess.CompletedProcess(tracing, process.wait(), out, err)


def _watched(place: Place) -> list[str]:
    """The files of an embedded database, and those of its data directory."""
    database = place.url.removeprefix("sqlite+aiosqlite:///")
    names = ("master.key", "master.key.previous", "install.json")
    files = [place.data_dir, *(place.data_dir / each for name in names for each in (name, f".{name}.new"))]
    return [*(f"{database}{suffix}" for suffix in ("", "-wal", "-journal", "-shm")), *map(str, files)]
