"""The command ``keyhall``: gives the CLI its backend; an error becomes a line on standard error and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from app.bootstrap import Backend
from app.cli import build_cli
from app.domain.errors import AppError, KeyhallError, StartupError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    backend = Backend()

    def run(*, web: bool = False, bot: bool = False, worker: bool = False, sync: bool = False) -> None:
        from entrypoints.process import Components, run_process  # noqa: PLC0415 - other commands start no process

        run_process(backend.settings, Components(web=web, bot=bot, worker=worker, sync=sync))

    try:
        build_cli(backend, run)(arguments)
    except StartupError as error:
        _fail(error.line(), error.exit_code)
    except AppError as error:
        _fail(f"keyhall: {error.detail}", 1)
    except KeyhallError as error:
        _fail(f"keyhall: {error}", 1)
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(line: str, code: int) -> None:
    print(line, file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
