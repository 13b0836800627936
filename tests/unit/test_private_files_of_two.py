"""One file that two processes write: one of them is refused, and what has its name is whole."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from app.infrastructure.private_files import writing


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


@pytest.mark.parametrize("replace", [False, True])
def test_of_two_writers_the_second_is_refused(tmp_path: Path, *, replace: bool) -> None:
    path = tmp_path / "file"
    with writing(path, replace=replace) as first:
        first.write(b"first")
        with pytest.raises(BlockingIOError), writing(path, replace=replace):
            pass
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["file"]


def test_a_writer_whose_file_was_taken_away_before_its_lock_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes it for the rest of a killed one, and makes its own in its place."""
    path, made = tmp_path / "file", tmp_path / ".file.new"
    flock = fcntl.flock
    others: list[Path] = []

    def late(descriptor: int, operation: int) -> None:
        if not others:
            others.append(made)
            made.unlink()
            made.write_bytes(b"half")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with writing(path, replace=False) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert names(tmp_path) == ["file"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    made = writing(path, replace=False)
    made.__enter__()
    path.write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        made.__exit__(None, None, None)
    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["file"]


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="no regular file"), writing(path, replace=True):
        pass
    assert path.is_fifo()
