"""``keyhall keys``: what may be known of application keys, and the master key's making."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import master_key, rotation
from app.cli.backend import backend
from app.cli.generate import generate
from app.cli.output import AsJson, show_json, show_table, when
from app.domain.bitting import cut

if TYPE_CHECKING:
    from app.cli.backend import Backend

group = typer.Typer(rich_markup_mode=None)


@group.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List every version of every application key, and warn of keys whose rotation is due."""
    asyncio.run(_list(backend(context), as_json=as_json))


async def _list(opened: Backend, *, as_json: bool) -> None:
    async with opened.keys() as keys:
        items, warnings = keys.listing(), await keys.age_warnings(opened.rotation_days)
    for each in warnings:
        typer.echo(opened.runnable(each), err=True)
    if as_json:
        show_json(
            [
                {
                    "name": each.name.value,
                    "version": each.version,
                    "state": each.state.value,
                    "primary": each.primary,
                    "fingerprint": each.fingerprint,
                    "created_at": each.created_at,
                    "activated_at": each.activated_at,
                    "deactivated_at": each.deactivated_at,
                    "retired_at": each.retired_at,
                    "compromised_at": each.compromised_at,
                    "destroyed_at": each.destroyed_at,
                    "origin": each.origin.value,
                    "purpose": each.name.purpose,
                }
                for each in items
            ]
        )
        return
    show_table(
        ("NAME", "VERSION", "STATE", "PRIMARY", "BITTING", "FINGERPRINT", "CREATED"),
        [
            (
                each.name.value,
                str(each.version),
                each.state.value + (", retired" if each.retired_at else ""),
                "yes" if each.primary else "",
                cut(each.fingerprint),
                each.fingerprint,
                when(each.created_at),
            )
            for each in items
        ],
    )


@group.command()
def validate(context: typer.Context, as_json: AsJson = False) -> None:
    """Verify every application key: one line each; exit 1 if one is not whole."""
    if not asyncio.run(_validate(backend(context), as_json=as_json)):
        raise typer.Exit(1)


async def _validate(opened: Backend, *, as_json: bool) -> bool:
    async with opened.unverified_keys() as keys:
        verdicts = await keys.validate()
    if as_json:
        show_json([{"name": each.name.value, "ok": each.ok, "message": each.message} for each in verdicts])
    else:
        for each in verdicts:
            typer.echo(opened.runnable(f"{'✅' if each.ok else '❌'} {each.name.value}: {each.message}"))
    return all(each.ok for each in verdicts)


@group.command("generate-master")
def generate_master(
    context: typer.Context,
    write: Annotated[bool, typer.Option("--write", help="Store it in DATA_DIR/master.key (0600) instead.")] = False,
) -> None:
    """Make a master key: 32 random bytes in base64, on standard output. Keep a copy away from the database."""
    if write:
        typer.echo(f"a new master key is in {backend(context).write_master_key()}: keep a copy elsewhere")
    else:
        typer.echo(backend(context).new_master_key())


group.command()(generate)
rotation.add_to(group)
master_key.add_to(group)
