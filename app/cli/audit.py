"""``keyhall audit``: the audit trail is listed, verified and exported."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.backend import backend
from app.cli.output import AsJson, show_json
from app.cli.progress import ProgressBar

if TYPE_CHECKING:
    from app.cli.backend import Backend
    from app.domain.audit_chain import Flaw, Verification

group = typer.Typer(rich_markup_mode=None)


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
