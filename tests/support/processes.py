"""Python processes, started as copies of one that has imported Keyhall already.

Starting an interpreter and importing everything takes a second of processor time and more; a copy takes some
milliseconds. A copy is a process in every respect that tests rely on: its own pid, environment, standard streams,
signals and exit code. Tests that are about the start of an interpreter or its imports use `subprocess`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import runpy
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, chdir, suppress
from functools import cache
from multiprocessing import forkserver, reduction
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROJECT = Path(__file__).resolve().parents[2]

_COPYING = multiprocessing.get_context("forkserver")
_TO_READ, _TO_WRITE = "r", "w"

# prctl(2): where Yama restricts tracing to ancestors, a process may name others that may.
_PR_SET_PTRACER = 0x59616D61
_ANYONE = 2**64 - 1


@cache
def _have_imported() -> None:
    """Start the process that is copied; it ends with this one."""
    _COPYING.set_forkserver_preload(["tests.support.imported"])
    with chdir(PROJECT):  # which makes the project importable there
        forkserver.ensure_running()


class Process:
    """A running process: the part of `subprocess.Popen` that tests use, always with text."""

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str],
        stdin: IO[str] | int | None = DEVNULL,
        stdout: IO[str] | int | None = PIPE,
        stderr: IO[str] | int | None = None,
        traceable: bool = False,
    ) -> None:
        """Start what `python …` with these arguments would run; only ``-m`` and ``-c`` are understood.

        ``traceable``: it reads a line from ``stdin`` before it runs anything, and any process may trace it.
        """
        _have_imported()
        with ExitStack() as closing:
            given = [
                self._stream(closing, wanted, number, mode)
                for number, (wanted, mode) in enumerate([(stdin, _TO_READ), (stdout, _TO_WRITE), (stderr, _TO_WRITE)])
            ]
            self.stdin, self.stdout, self.stderr = (ours for ours, _ in given)
            self._process = _COPYING.Process(
                target=_run,
                args=(arguments, dict(env), [_Passed(theirs) for _, theirs in given], traceable),
                daemon=True,
            )
            self._process.start()
        assert self._process.pid is not None
        self.args, self.pid = arguments, self._process.pid
        self._lock = threading.Lock()

    @staticmethod
    def _stream(closing: ExitStack, wanted: IO[str] | int | None, number: int, mode: str) -> tuple[Any, int]:
        """Our end of a stream, if there is one, and the descriptor of the other process's."""
        if wanted is None:
            return None, number
        if wanted == DEVNULL:
            theirs = os.open(os.devnull, os.O_RDWR)
            closing.callback(os.close, theirs)
            return None, theirs
        if wanted == PIPE:
            ends = os.pipe()
            theirs, ours = ends if mode == _TO_READ else reversed(ends)
            closing.callback(os.close, theirs)
            return os.fdopen(ours, _TO_WRITE if mode == _TO_READ else _TO_READ, encoding="utf-8"), theirs
        return None, wanted if isinstance(wanted, int) else wanted.fileno()

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal that ended it; None while it runs."""
        return self.poll()

    def poll(self) -> int | None:
        """The same as `returncode`."""
        with self._lock:  # two threads that read the end at once would disagree about it
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        multiprocessing.connection.wait([self._process.sentinel], timeout)
        code = self.poll()
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(list(self.args), timeout)
        return code

    def communicate(self, given: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        """Send text, read everything, wait for the end. Raises subprocess.TimeoutExpired."""
        said = {stream: "" for stream in (self.stdout, self.stderr) if stream is not None and not stream.closed}

        def read(stream: IO[str]) -> None:
            said[stream] = stream.read()

        readers = [threading.Thread(target=read, args=(stream,), daemon=True) for stream in said]
        for reader in readers:
            reader.start()
        if self.stdin is not None and not self.stdin.closed:
            with suppress(BrokenPipeError):
                self.stdin.write(given or "")
                self.stdin.flush()
            with suppress(BrokenPipeError):
                self.stdin.close()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        for stream in said:
            stream.close()
        return said.get(self.stdout, ""), said.get(self.stderr, "")

    def stopped(self) -> bool:
        """Whether a signal has stopped it."""
        try:
            return "\nState:\tT" in Path(f"/proc/{self.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it is gone
            return False

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdout, self.stderr, self.stdin):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self.wait()


def run(
    *arguments: str, env: Mapping[str, str], stdin: str = "", within: float = 100
) -> subprocess.CompletedProcess[str]:
    """Run `python …` with these arguments to its end, as `subprocess.run` does."""
    process = Process(*arguments, env=env, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        out, err = process.communicate(stdin, timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    code = process.wait()
    return subprocess.CompletedProcess([sys.executable, *arguments], code, out, err)


class _Passed:
    """A descriptor on its way to the copy; received there as `_Arrived`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _Arrived, (reduction.DupFd(self._descriptor),)


class _Arrived:
    """The same descriptor in the copy."""

    def __init__(self, sent: Any) -> None:
        self._sent = sent

    def become(self, number: int) -> None:
        """Have that number from now on."""
        descriptor = self._sent.detach()
        os.dup2(descriptor, number)
        os.close(descriptor)


def _run(arguments: Sequence[str], env: dict[str, str], streams: Sequence[_Arrived], traceable: bool) -> None:  # noqa: FBT001
    """In the copy: run a module, or a program, as a new interpreter would."""
    for number, stream in enumerate(streams):
        stream.become(number)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(PROJECT)
    if traceable:
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(_ANYONE), 0, 0, 0)
        sys.stdin.readline()
    option, what, *rest = arguments
    if option == "-m":
        sys.argv = [what, *rest]
        sys.modules.pop(what, None)
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        assert option == "-c", arguments
        sys.argv = ["-c", *rest]
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - a test's own program
