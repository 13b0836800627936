"""How the command `keyhall` is typed on this machine: messages print it so that it can be run as it is printed."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

_COMMAND: Final = re.compile(r"(?<=`)keyhall(?= [a-z-])")


def command() -> str:
    """`keyhall` where the shell finds the one of this installation, else its path; from the present directory."""
    own = Path(sys.executable).with_name("keyhall")
    if not own.exists():
        return f"{shlex.quote(sys.executable)} -m entrypoints.cli_entrypoint"
    found = shutil.which("keyhall")
    if found is not None and Path(found).samefile(own):
        return "keyhall"
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was deleted, as by a deployment that replaces it
        return shlex.quote(str(own))
    return shlex.quote(str(own.relative_to(here) if own.is_relative_to(here) else own))


def runnable(text: str) -> str:
    """A text for people, in which each `keyhall …` in backticks is a command that this machine can run."""
    return _COMMAND.sub(lambda _: command(), text) if "`keyhall " in text else text
