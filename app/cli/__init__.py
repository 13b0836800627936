"""The command line: one module per command group, each opening only what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from app.cli import credentials, database, keys, start, users

if TYPE_CHECKING:
    from app.cli.backend import Backend, Run


def build_cli(backend: Backend, run: Run) -> typer.Typer:
    """The command ``keyhall``; ``opener`` is handed to each command as its context's object."""
    cli = typer.Typer(
        name="keyhall",
        help="Your community's API keys, usable by everyone, visible to no one.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @cli.callback()
    def keyhall(context: typer.Context) -> None:
        context.obj = backend

    start.add_to(cli, run)
    cli.add_typer(database.group, name="db")
    cli.add_typer(keys.group, name="keys")
    cli.add_typer(credentials.group, name="credentials")
    cli.add_typer(users.group, name="users")
    return cli
