"""What the operating system knows of a process: its cores, its processor time, its memory."""

from __future__ import annotations

import os
import resource
from pathlib import Path

_PROC = Path("/proc")


def two_cores() -> tuple[int, int] | tuple[None, None]:
    """One core for the server and one for the load, or none where there is only one or no choice."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def pin(pid: int, core: int | None) -> None:
    """Keep all threads of a process (0: this one) on a core; None lets them be."""
    if core is None:
        return
    for task in (_PROC / str(pid or os.getpid()) / "task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def unpin(pid: int) -> None:
    """Give a process all cores back."""
    if hasattr(os, "sched_getaffinity"):
        for task in (_PROC / str(pid) / "task").iterdir():
            os.sched_setaffinity(int(task.name), os.sched_getaffinity(0))


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used, in user and system mode, all threads."""
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    """Processor time that the children of this process had used when they ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def resident_megabytes(pid: int) -> float:
    """Resident memory, in units of 1,000,000 bytes."""
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1_000_000
    raise RuntimeError("the system does not tell how much memory a process holds")
