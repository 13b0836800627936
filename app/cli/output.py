"""How commands answer and ask: tables for people, JSON for programs, secrets never from an argument."""

from __future__ import annotations

import getpass
import json
import sys
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.domain.errors import InvalidInput
from app.domain.text import without_byte_order_mark
from app.domain.times import day_or_time

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from app.cli.backend import Backend
    from app.domain.secrets import SecretText

AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
_LARGEST_SECRET = 256 * 1024


def show_json(value: Any) -> None:
    """JSON on standard output, times as RFC 3339 in UTC."""
    typer.echo(json.dumps(value, indent=2, default=_time))


class JsonDocument:
    """A JSON object, written to a file member by member: an export may be larger than what memory should hold.

    Rows of one member may come in several calls, one after the other.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._open: str | None = None
        self._separator = ""
        self._begun = False

    def add(self, name: str, content: Any, *, rows: bool) -> None:
        """Write a member, or some more of its rows."""
        if name != self._open:
            self._close()
            self._file.write(f"{',' if self._begun else '{'}\n{json.dumps(name)}: ".encode())
            self._begun = True
            if not rows:
                self._file.write(json.dumps(content, default=_time).encode())
                return
            self._file.write(b"[")
            self._open, self._separator = name, ""
        for row in content:
            self._file.write(f"{self._separator}\n  {json.dumps(row, default=_time)}".encode())
            self._separator = ","

    def end(self) -> None:
        """Close the object."""
        self._close()
        self._file.write(b"\n}\n")

    def _close(self) -> None:
        if self._open is not None:
            self._file.write(b"]")
        self._open = None


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns in plain text, which a terminal shows and `awk` splits."""
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    for row in (headings, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def when(moment: datetime | None) -> str:
    """A time for a table."""
    return "-" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def read_secret(what: str, file: Path | None, *, repeat: bool = False) -> str:
    """A secret from a file, a prompt on a terminal, or else standard input.

    One trailing newline is dropped, and the byte order mark that Windows puts in front.
    """
    if file is not None:
        with file.open("rb") as opened:
            return _text(opened.read(_LARGEST_SECRET + 1), what, f"{file} is empty")
    if not sys.stdin.isatty():
        return _text(sys.stdin.buffer.read(_LARGEST_SECRET + 1), what, "nothing came from standard input")
    secret = getpass.getpass(f"{what}: ")
    if repeat and getpass.getpass(f"{what} again: ") != secret:
        raise typer.BadParameter(f"the two entries of the {what.lower()} differ")
    return secret


def link_address(opened: Backend, token: SecretText) -> str:
    """The claim link of a token, which is in the fragment: browsers send that part to nobody."""
    return f"{opened.address('/claim')}#{token.reveal()}"


def moment(at: time) -> Callable[[str], datetime]:
    """A reader of days, which mean that time of them in UTC, and of times."""

    def read(text: str) -> datetime:
        try:
            return day_or_time(text, at)
        except ValueError as refused:
            raise typer.BadParameter(
                f"{refused}: give a day such as 2027-03-01, or a time such as 2027-03-01T12:00:00Z"
            ) from None

    return read


def typed_back(prompt: str) -> str:
    """The text that the operator types to confirm, or the first line of standard input."""
    if sys.stdin.isatty():
        answer: str = typer.prompt(prompt, default="", show_default=False, err=True)
        return answer
    return sys.stdin.readline()


def require_yes(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone. Raises InvalidInput where nobody can be asked and ``yes`` is not set.

    Standard input that is no terminal is no answer, even where it holds a "y": it may be meant for something else.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInput("--yes", f"{question} This is no terminal, so nobody can be asked: nothing was changed")
    typer.confirm(question, abort=True, err=True)


def _text(content: bytes, what: str, empty: str) -> str:
    if len(content) > _LARGEST_SECRET:
        raise typer.BadParameter(f"the {what.lower()} is too long")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise typer.BadParameter(f"the {what.lower()} is not UTF-8") from None
    text = without_byte_order_mark(text).removesuffix("\n").removesuffix("\r")
    if not text:
        raise typer.BadParameter(f"{empty}: the {what.lower()} was expected there")
    return text


def _time(value: object) -> str:
    if not isinstance(value, datetime):
        raise TypeError
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
