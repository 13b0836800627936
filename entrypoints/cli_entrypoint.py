"""The command ``keyhall``: gives the CLI its backend; an error becomes a line on standard error and an exit code."""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from app.bootstrap import Backend
from app.cli import build_cli
from app.domain.errors import AppError, KeyhallError, StartupError
from app.infrastructure.invocation import runnable

_UNWRITABLE = frozenset({errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT, errno.EFBIG})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    # A start makes 200,000 objects that stay. With Python's own 700, it would be searched 300 times for garbage.
    gc.set_threshold(10_000)
    backend = Backend()

    def run(*, web: bool = False, bot: bool = False, worker: bool = False, sync: bool = False) -> None:
        from entrypoints.process import Components, run_process  # noqa: PLC0415 - other commands start no process

        run_process(backend.settings, Components(web=web, bot=bot, worker=worker, sync=sync))

    try:
        with _lenient_output():
            build_cli(backend, run)(arguments)
    except StartupError as error:
        _fail(error.line(), error.exit_code)
    except AppError as error:
        _fail(f"keyhall: {error.detail}", 1)
    except KeyhallError as error:
        _fail(f"keyhall: {error}", 1)
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed the pipe
        _write_no_more()
        sys.exit(1)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        _write_no_more()
        _fail(f"keyhall: standard output cannot be written: {os.strerror(error.errno)}", 1)


@contextmanager
def _lenient_output() -> Iterator[None]:
    """Replace what the encoding of the output cannot show, and write everything before the interpreter ends.

    A failure to write at its end would be a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        if sys.stdout is not None:  # it is None where it was closed before the start
            sys.stdout.flush()


def _write_no_more() -> None:
    """Give standard output a place that takes everything: its buffer is written at the end all the same."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(line: str, code: int) -> None:
    print(runnable(line), file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
