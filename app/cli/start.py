"""Starting Keyhall, and printing its version."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from app import __version__
from app.cli.backend import Run

Sync: TypeAlias = Annotated[
    bool, typer.Option("--sync", help="Send the commands to Discord even if they did not change.")
]


def add_to(cli: typer.Typer, start: Run) -> None:
    """Add ``run``, ``web``, ``bot``, ``worker``, ``doctor`` and ``version``."""

    @cli.command()
    def run(sync: Sync = False) -> None:
        """Start web, bot and worker in one process. Without DISCORD_BOT_TOKEN the web runs alone, and says so."""
        start(web=True, bot=True, worker=True, sync=sync)

    @cli.command()
    def web() -> None:
        """Start the web alone."""
        start(web=True)

    @cli.command()
    def bot(sync: Sync = False) -> None:
        """Start the bot alone."""
        start(bot=True, sync=sync)

    @cli.command()
    def worker() -> None:
        """Start the worker alone: queued jobs and expired rows."""
        start(worker=True)

    @cli.command()
    def doctor(
        context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False
    ) -> None:
        """Look for everything that can be wrong with this installation; exit 1 if a check failed.

        It runs while Keyhall runs or does not, changes nothing, and never shows a secret.
        """
        from app.cli.doctor import show_diagnosis  # noqa: PLC0415 - a start does not wait for it

        show_diagnosis(context, as_json=as_json)

    @cli.command()
    def version() -> None:
        """Print the version."""
        typer.echo(f"keyhall {__version__}")
