"""``keyhall env``: the environment that an install belongs to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.cli.backend import backend
from app.cli.output import AsJson, show_json
from app.domain.bitting import cut
from app.domain.keys import Environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cli.backend import Backend
    from app.services.keys.environment import EnvironmentPlan

group = typer.Typer(rich_markup_mode=None)
_ALIASES: Final = {"dev": "development", "testing": "test", "prod": "production"}


@group.callback()
def env() -> None:
    """The environment that an install belongs to."""


def _offered(text: str) -> Environment:
    word = text.strip().lower()
    try:
        return Environment(_ALIASES.get(word, word))
    except ValueError:
        raise typer.BadParameter(f"must be one of {', '.join(Environment)}") from None


@group.command("set")
def set_(
    context: typer.Context,
    name: Annotated[
        Environment,
        typer.Argument(metavar="NAME", parser=_offered, show_choices=False, help=f"{', '.join(Environment)}."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Move this install up to another environment, and put its keys under the master key that is given.

    Give the master key of that environment first: as MASTER_KEY, MASTER_KEY_FILE or in AWS; DATA_DIR/master.key counts
    too. No process may be live. All of it happens, or nothing: interrupted, run it again.
    """
    plan, demands = asyncio.run(_move(backend(context), name, dry_run=dry_run))
    if as_json:
        show_json(_members(plan, demands, dry_run=dry_run))
    else:
        _tell(plan, demands, dry_run=dry_run)
    if dry_run and plan.live:
        raise typer.Exit(1)


async def _move(opened: Backend, name: Environment, *, dry_run: bool) -> tuple[EnvironmentPlan, Sequence[str]]:
    async with opened.environment_move(name) as move:
        plan = await (move.plan() if dry_run else move.carry_out())
    return plan, opened.demands_on_settings(name, rewrapped=plan.under != plan.to)


def _tell(plan: EnvironmentPlan, demands: Sequence[str], *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    if plan.before is plan.after:
        typer.echo(f"install {plan.install_id} is {plan.after} already")
    else:
        typer.echo(f"install {plan.install_id}: {plan.before} → {would}{plan.after}")
        if plan.under == plan.to:
            typer.echo(f"master key {cut(plan.to)} {plan.to}: it is given, and stays")
        else:
            typer.echo(f"master key {cut(plan.under)} {plan.under} → {would}{cut(plan.to)} {plan.to}")
            typer.echo(f"backups made until now still need {plan.under}")
    for each in plan.live if dry_run and plan.before is not plan.after else ():
        typer.echo(f"❌ has to end first: {each}")
    for demand in demands:
        typer.echo(f"next: {demand}")
    if dry_run or plan.before is plan.after:
        typer.echo("nothing was changed")


def _members(plan: EnvironmentPlan, demands: Sequence[str], *, dry_run: bool) -> dict[str, Any]:
    return {
        "install_id": plan.install_id,
        "before": plan.before.value,
        "after": plan.after.value,
        "master_key_id_before": plan.under,
        "master_key_id": plan.to,
        "live": [str(each) for each in plan.live],
        "next": list(demands),
        "changed": not dry_run and plan.before is not plan.after,
    }
