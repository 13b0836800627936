"""Starting Keyhall, and telling which one it is."""

from __future__ import annotations

from typing import Annotated

import typer

from app import __version__
from app.cli.backend import backend


def add_to(cli: typer.Typer) -> None:
    """Add ``run``, ``web``, ``bot``, ``worker`` and ``version``."""
    for command in (run, web, bot, worker, version):
        cli.command()(command)


def run(context: typer.Context) -> None:
    """Start web, bot and worker in one process. Without DISCORD_BOT_TOKEN the web runs alone, and says so."""
    backend(context).run(web=True, bot=True, worker=True)


def web(context: typer.Context) -> None:
    """Start the web alone."""
    backend(context).run(web=True, bot=False, worker=False)


def bot(
    context: typer.Context,
    sync: Annotated[
        bool, typer.Option("--sync", help="Tell Discord of the commands even if they are the same.")
    ] = False,
) -> None:
    """Start the bot alone."""
    backend(context).run(web=False, bot=True, worker=False, sync=sync)


def worker(context: typer.Context) -> None:
    """Start the worker alone: it sweeps away what expired."""
    backend(context).run(web=False, bot=False, worker=True)


def version() -> None:
    """Print the version."""
    typer.echo(f"keyhall {__version__}")
