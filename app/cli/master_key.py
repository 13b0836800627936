"""``keyhall keys print-master`` and ``restore-master``: the master key to paper and back."""

from __future__ import annotations

import asyncio
import getpass
import os
import shlex
import stat
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.opener import opener
from app.cli.output import read_secret
from app.domain.bitting import cut
from app.domain.errors import InvalidInput
from app.domain.secrets import SecretText

_STANDARD_OUTPUT = Path("-")


def print_master(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The SVG to make (0600); - for standard output.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Make a page to print: the master key as a QR code and as 24 words. Destroy the file once it is on paper."""
    if file == _STANDARD_OUTPUT:
        typer.echo(asyncio.run(opener(context).master_key_page()), nl=False)
        typer.echo("where this went into a file, shred it once it is on paper", err=True)
    else:
        _require_place(file, force=force)
        _write(file, asyncio.run(opener(context).master_key_page()), force=force)
        typer.echo(f"{file} holds the master key: print it, then run `shred -u {shlex.quote(str(file))}`", err=True)
    typer.echo("test the paper with `keyhall keys restore-master --check`", err=True)


def restore_master(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Option("--file", exists=True, dir_okay=False, help="Read words or text from here.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it opens this install.")] = False,
) -> None:
    """Put the master key's file back from the 24 words, or from the text of the QR code, once it opens this install."""
    given = SecretText(_typed() if file is None and sys.stdin.isatty() else read_secret("Master key", file))
    restored = asyncio.run(opener(context).restore_master_key(given, write=not check))
    name = f"{cut(restored.master_key_id)} {restored.master_key_id}"
    typer.echo(f"master key {name} opens the install in {restored.database}")
    if not check:
        typer.echo(f"it {'is' if restored.written else 'was already'} in {restored.file}")
        if restored.overridden_by is not None:
            typer.echo(f"{restored.overridden_by} is set and goes before that file, which is not read", err=True)


def _typed() -> str:
    """Lines from a terminal, none of them shown, up to an empty one."""
    typer.echo("Type the 24 words, in as many lines as you like, or the text of the code. Nothing is shown.", err=True)
    lines = []
    while line := getpass.getpass("An empty line ends: "):
        lines.append(line)
    return "\n".join(lines)


def _require_place(path: Path, *, force: bool) -> None:
    """Refuse, before anything is revealed, where nothing may be written. Raises InvalidInput."""
    try:
        found = path.lstat() if os.path.lexists(path) else None
        path.parent.stat()
    except OSError as error:
        raise _unwritable(path, error) from None
    if found is not None and not force:
        raise InvalidInput("FILE", f"{path} is there already: name another, or overwrite it with --force")
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise InvalidInput("FILE", f"{path} is no regular file, so it is not overwritten")


def _write(path: Path, content: str, *, force: bool) -> None:
    """Make a file for its owner alone, or none. Raises InvalidInput where it cannot be written."""
    made = path.with_name(f".{path.name}.new") if force else path
    try:
        if force:
            made.unlink(missing_ok=True)  # of a command that was killed here
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(made, flags, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as opened:  # noqa: PTH123 - a descriptor has no path
                opened.write(content)
            if force:
                made.replace(path)
        except BaseException:
            made.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> InvalidInput:
    return InvalidInput("FILE", f"{path} cannot be written: {error.strerror}")
