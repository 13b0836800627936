"""``keyhall db``: the schema."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from app.cli.backend import backend
from app.cli.output import AsJson, show_json

if TYPE_CHECKING:
    from app.domain.schema import SchemaState

group = typer.Typer(rich_markup_mode=None)


@group.command()
def upgrade(context: typer.Context) -> None:
    """Run pending migrations, all or none."""
    state = asyncio.run(backend(context).schema(upgrade=True))
    typer.echo(f"{state.database} is at revision {state.current}")


@group.command()
def current(context: typer.Context, as_json: AsJson = False) -> None:
    """Print the revision that the database is at."""
    state = asyncio.run(backend(context).schema())
    _show(context, state, as_json=as_json)


@group.command()
def check(context: typer.Context, as_json: AsJson = False) -> None:
    """Check every page, row and index of an SQLite file for damage; exit 1 if a migration is pending."""
    state = asyncio.run(backend(context).schema(check=True))
    _show(context, state, as_json=as_json)
    if not as_json:
        typer.echo("no damage was found" if state.checked else "PostgreSQL is checked for damage by its own pg_amcheck")
    if not state.up_to_date:
        raise typer.Exit(1)


def _show(context: typer.Context, state: SchemaState, *, as_json: bool) -> None:
    if as_json:
        show_json(
            {
                "database": state.database,
                "current": state.current,
                "head": state.head,
                "up_to_date": state.up_to_date,
                "checked_for_damage": state.checked,
            }
        )
    else:
        pending = "up to date" if state.up_to_date else f"head is {state.head}: run `keyhall db upgrade`"
        typer.echo(f"{state.database} is at revision {state.current or 'none'} ({backend(context).runnable(pending)})")
