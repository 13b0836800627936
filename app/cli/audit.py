"""``keyhall audit``: the audit trail is listed, verified and exported."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.backend import backend
from app.cli.output import AsJson, as_json_line, as_text, moment, show_json, show_table, when
from app.cli.progress import ProgressBar
from app.domain.errors import InvalidInput
from app.domain.identity import operator
from app.domain.times import BEGIN_OF_DAY
from app.services.audit_trail import AuditQuery

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import BinaryIO

    from app.cli.backend import Backend
    from app.domain.audit import AuditItem
    from app.domain.audit_chain import Flaw, Verification

group = typer.Typer(rich_markup_mode=None)

_Actor = Annotated[str | None, typer.Option("--actor", metavar="NAME", help="A user.")]
_Action = Annotated[
    str | None, typer.Option("--action", metavar="ACTION", help="Such as key.revoked, or a family such as key.")
]
_About = Annotated[str | None, typer.Option("--about", metavar="KIND:ID", help="Such as key:AES_KEY.")]
_Since = Annotated[
    datetime | None,
    typer.Option("--since", parser=moment(BEGIN_OF_DAY), metavar="DAY|TIME", help="From its begin on (UTC)."),
]
_Until = Annotated[
    datetime | None,
    typer.Option("--until", parser=moment(BEGIN_OF_DAY), metavar="DAY|TIME", help="Before its begin (UTC)."),
]
_COLUMNS = ("id", "at", "actor", "action", "about", "result", "source", "detail")
_STANDARD_OUTPUT = Path("-")


class Format(StrEnum):
    """How an export is written."""

    JSONL = "jsonl"
    CSV = "csv"


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


@group.command("list")
def list_(  # noqa: PLR0917 - each is an option of the command
    context: typer.Context,
    actor: _Actor = None,
    action: _Action = None,
    about: _About = None,
    since: _Since = None,
    until: _Until = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many rows at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List who did what, when and from where: the latest first. No key is needed."""
    query = AuditQuery(actor=actor, action=action, about=about, since=since, until=until)
    items = asyncio.run(_list(backend(context), query, limit))
    if as_json:
        show_json([each.as_members() for each in items])
        return
    show_table(
        ("ID", "AT", "ACTOR", "ACTION", "ABOUT", "RESULT", "SOURCE", "DETAIL"),
        [
            (
                each.id,
                when(each.at),
                each.actor or "-",
                each.action,
                each.about or "-",
                each.result,
                each.source,
                " ".join(f"{name}={value}" for name, value in each.detail.items()) or "-",
            )
            for each in items
        ],
    )


async def _list(opened: Backend, query: AuditQuery, limit: int) -> list[AuditItem]:
    items: list[AuditItem] = []
    cursor: str | None = None
    async with opened.audit() as audit:
        while len(items) < limit:
            page = await audit.page(operator(), query, after=cursor, limit=min(limit - len(items), 100))
            items += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
    return items


@group.command()
def export(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to make (0600); - for standard output.")],
    format_: Annotated[Format, typer.Option("--format", help="JSON lines, or a spreadsheet.")] = Format.JSONL,
    actor: _Actor = None,
    action: _Action = None,
    about: _About = None,
    since: _Since = None,
    until: _Until = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a file that is there.")] = False,
) -> None:
    """Export the audit trail, the oldest row first. No key is needed.

    In a table no cell is a formula: one that begins like one gets an apostrophe in front.
    """
    query = AuditQuery(actor=actor, action=action, about=about, since=since, until=until)
    opened = backend(context)
    if file == _STANDARD_OUTPUT:
        asyncio.run(_export(opened, query, format_, sys.stdout.buffer))
        return
    try:
        with opened.private_file(file, replace=replace) as written:
            rows = asyncio.run(_export(opened, query, format_, written))
    except FileExistsError:
        raise InvalidInput("FILE", f"{file} is there already: name another one, or give --replace") from None
    except OSError as error:
        raise InvalidInput("FILE", f"{file} cannot be written: {error.strerror}") from None
    typer.echo(f"{rows} rows are in {file}")


async def _export(opened: Backend, query: AuditQuery, format_: Format, to: BinaryIO) -> int:
    rows = 0
    async with opened.audit() as audit:
        if format_ is Format.CSV:
            to.write(_csv(_COLUMNS))
        async for items in audit.all(operator(), query):
            to.writelines(_line(each.as_members(), format_) for each in items)
            rows += len(items)
    to.flush()
    return rows


def _line(members: Mapping[str, Any], format_: Format) -> bytes:
    if format_ is Format.JSONL:
        return (as_json_line(members) + "\n").encode()
    return _csv([as_json_line(each) if isinstance(each, dict) else as_text(each) for each in members.values()])


def _csv(cells: Sequence[str]) -> bytes:
    written = io.StringIO()
    csv.writer(written).writerow([_harmless(each) for each in cells])
    return written.getvalue().encode()


_FORMULA = re.compile(r"(^|[;\t\r\n])(\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])")


def _harmless(cell: str) -> str:
    """The cell with an apostrophe where a spreadsheet would take it for a formula (OWASP, CSV injection).

    Also behind a semicolon, a tab or a line end: in many countries a spreadsheet begins another cell there.
    """
    return _FORMULA.sub(r"\1'\2", cell)


# ---------------------------------------------------------------------------------------------------------------------
# Verifying
# ---------------------------------------------------------------------------------------------------------------------


@group.command()
def verify(
    context: typer.Context,
    seal: Annotated[
        str | None,
        typer.Option("--seal", metavar="SEAL", help="A latest seal from a log or a backup: it must still be there."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify every row of the audit trail, and name the first that was changed, removed, inserted or moved.

    Exit 1 if there is one. Rows of the last seconds may not be sealed yet: their number is said. That its end
    was put back to an older state shows only by a seal that was remembered elsewhere: give it with --seal.
    """
    found = asyncio.run(_verify(backend(context), seal))
    if as_json:
        show_json(_as_members(found))
    else:
        typer.echo(f"{found.sealed} sealed rows in {found.segments} segments, {found.unsealed} not sealed yet")
        typer.echo(f"latest seal: {found.latest_seal or '-'}")
        typer.echo("✅ nothing was changed" if found.first_bad is None else f"❌ {_sentence(found.first_bad)}")
    if not found.ok:
        raise typer.Exit(1)


async def _verify(opened: Backend, seal: str | None) -> Verification:
    async with opened.services() as services:
        with ProgressBar("verifying") as bar:
            return await services.audit_verification.verify(
                await services.identity.operator(),
                remembered=seal,
                show=lambda done, total: bar.show(done, total, "verifying"),
            )


def _as_members(found: Verification) -> dict[str, Any]:
    flaw = found.first_bad
    return {
        "ok": found.ok,
        "sealed": found.sealed,
        "unsealed": found.unsealed,
        "segments": found.segments,
        "first_bad": flaw
        and {
            "id": flaw.id,
            "chain": flaw.stream,
            "segment": flaw.segment,
            "position": flaw.position,
            "what": flaw.what,
        },
        "latest_seal": found.latest_seal,
    }


def _sentence(flaw: Flaw) -> str:
    place = f"segment {flaw.segment}" if flaw.segment is not None and "segment" not in flaw.what else ""
    place += f", position {flaw.position} of {flaw.stream}" if place and flaw.position is not None else ""
    return f"{flaw.what} ({place})" if place else flaw.what
