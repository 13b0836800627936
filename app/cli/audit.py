"""``keyhall audit``: the audit trail is listed, verified and exported."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.backend import backend
from app.cli.output import AsJson, moment, show_json, show_table, when
from app.cli.progress import ProgressBar
from app.domain.audit import Result
from app.domain.errors import InvalidInput
from app.domain.identity import operator
from app.domain.times import BEGIN_OF_DAY
from app.services.audit_trail import AuditQuery
from app.services.audit_trail.export import ExportFormat, heading, lines

if TYPE_CHECKING:
    from typing import BinaryIO

    from app.cli.backend import Backend
    from app.domain.audit import AuditItem
    from app.domain.audit_chain import Verification

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
_Result = Annotated[Result | None, typer.Option("--result", help="How it ended.")]
_STANDARD_OUTPUT = Path("-")


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


@group.command("list")
def list_(  # noqa: PLR0917 - each is an option of the command
    context: typer.Context,
    actor: _Actor = None,
    action: _Action = None,
    about: _About = None,
    result: _Result = None,
    since: _Since = None,
    until: _Until = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many rows at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List who did what, when and from where: the latest first. No key is needed."""
    query = AuditQuery(actor=actor, action=action, about=about, result=result, since=since, until=until)
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
    format_: Annotated[
        ExportFormat, typer.Option("--format", help="JSON lines, or a spreadsheet.")
    ] = ExportFormat.JSONL,
    actor: _Actor = None,
    action: _Action = None,
    about: _About = None,
    result: _Result = None,
    since: _Since = None,
    until: _Until = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a file that is there.")] = False,
) -> None:
    """Export the audit trail, the oldest row first. No key is needed.

    In a table no cell is a formula: one that begins like one gets an apostrophe in front.
    """
    query = AuditQuery(actor=actor, action=action, about=about, result=result, since=since, until=until)
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


async def _export(opened: Backend, query: AuditQuery, format_: ExportFormat, to: BinaryIO) -> int:
    rows = 0
    async with opened.audit() as audit:
        to.write(heading(format_))
        async for items in audit.all(operator(), query):
            to.write(lines(items, format_))
            rows += len(items)
    to.flush()
    return rows


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
        typer.echo("✅ nothing was changed" if found.first_bad is None else f"❌ {found.first_bad.sentence}")
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
