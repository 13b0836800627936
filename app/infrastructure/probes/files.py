"""Files: who may open them, the file system that they are on, and the space that is left there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from app.domain.diagnosis import Check, failed, ok, together, warning

_LEAST_BYTES: Final = 100 << 20
_FEW_BYTES: Final = 1 << 30
_REMOTE: Final = re.compile(
    r"nfs\d?|cifs|smb\w*|afs|ceph|glusterfs|lustre|gpfs|ncpfs|fuse\.(sshfs|rclone|s3fs|glusterfs)"
)
"""File systems that other machines share: SQLite's WAL needs memory that all processes of one machine share."""
_UNUSUAL: Final = re.compile(r"9p|virtiofs|vboxsf|drvfs|fuse(\..*)?|fakeowner|grpcfuse|exfat|vfat|msdos")
"""File systems of virtual machines and sticks, which keep some of the promises that a database relies on, not all."""


def open_to_others(data_dir: Path, private: Iterable[Path], shown: Iterable[Path]) -> Check:
    """Whether other users of the machine may open what is Keyhall's.

    ``private`` are files that hold keys, ``shown`` files that hold what a thief would like to have too.
    """
    found: list[Check] = []
    for path, keys in [(data_dir, False), *((each, True) for each in private), *((each, False) for each in shown)]:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            continue
        others = "others" if mode & 0o007 else "its group"
        if mode & 0o022:
            kind, does, rights = failed, "write", "go-rwx"
        elif mode & 0o055:
            kind, does, rights = (failed if keys else warning), "read", "go-rwx"
        else:
            continue
        remedy = f"run `chmod {rights} {shlex.quote(str(path))}`"
        found.append(kind("files", f"{others} may {does} {path}", remedy))
    return together("files", found, "only the user who runs Keyhall may open its files")


def file_system(database: Path) -> Check:
    """Whether WAL works where an embedded database lies."""
    there = next((each for each in (database, *database.parents) if each.exists()), database.anchor)
    kind = _file_system_of(Path(os.path.realpath(there)))
    if kind is None:
        return ok("file system", "its kind cannot be found out on this system")
    if _REMOTE.fullmatch(kind):
        return failed(
            "file system",
            f"{database} is on {kind}, which several machines share: WAL does not work there and can damage it",
            "move DATA_DIR to a local disk, or use PostgreSQL (DATABASE_URL)",
        )
    if _UNUSUAL.fullmatch(kind):
        return warning(
            "file system",
            f"{database} is on {kind}, which may not keep what a database needs (locks, shared memory, fsync)",
            "use a volume on a local disk, such as a named volume instead of a shared folder",
        )
    return ok("file system", f"{database} is on {kind}, where WAL works")


def _file_system_of(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The kind of the file system that a path is on; None where there is no such list (see proc(5))."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    best: tuple[int, str] | None = None
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = Path(re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), fields[4]))
        # A later mount on the same point lies over the earlier one.
        if path.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = len(point.parts), after.split(" ")[0]
    return best and best[1]


def space(directories: Sequence[Path]) -> Check:
    """Whether there is room for what these directories will hold."""
    found, free = [], []
    for directory in dict.fromkeys(directories):
        there = next((each for each in (directory, *directory.parents) if each.is_dir()), None)
        if there is None:
            continue
        left = shutil.disk_usage(there).free
        free.append(left)
        kind = failed if left < _LEAST_BYTES else warning if left < _FEW_BYTES else None
        if kind is not None:
            found.append(kind("disk", f"{left >> 20} MiB are free for {directory}", "free some space, or move it"))
    return together("disk", found, f"{min(free, default=0) >> 30} GiB are free")


def backups_in(directory: Path) -> Iterator[Path]:
    """The files in a directory of backups, some hundred at most."""
    try:
        with os.scandir(directory) as entries:
            for _, entry in zip(range(500), entries, strict=False):
                if entry.is_file(follow_symlinks=False):
                    yield Path(entry.path)
    except OSError:
        return
