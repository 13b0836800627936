"""A terminal to type on."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_ON_TERMINAL = "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execvp(sys.argv[1], sys.argv[1:])"
"""Makes standard input the controlling terminal of its session, where age asks, and becomes that program."""


def typed(
    command: Sequence[str | Path], *texts: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> bytes:
    """The output of a program that asks on its terminal, where a line is typed after each question."""
    leader, follower = pty.openpty()
    wrapped: list[str | Path] = [sys.executable, "-c", _ON_TERMINAL, *command]
    with (
        open(leader, "r+b", buffering=0) as terminal,  # noqa: PTH123 - a descriptor has no path
        subprocess.Popen(
            wrapped, stdin=follower, stderr=follower, stdout=subprocess.PIPE, start_new_session=True, env=env, cwd=cwd
        ) as running,
    ):
        os.close(follower)
        for text in texts:
            _read_until(terminal, b":")
            terminal.write(text.encode() + b"\n")
        shown = threading.Thread(target=_read_on, args=(terminal,))  # a full terminal would stop the program
        shown.start()
        output, _ = running.communicate(timeout=60)
        shown.join(timeout=60)
        assert running.returncode == 0
    return output


def _read_until(terminal: io.FileIO, wanted: bytes) -> None:
    seen = b""
    while wanted not in seen:
        seen += terminal.read(1000)


def _read_on(terminal: io.FileIO) -> None:
    with suppress(OSError):  # the terminal's other end is closed
        while terminal.read(1000):
            pass
