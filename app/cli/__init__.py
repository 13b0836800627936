"""The command line: one module per command group, each opening only what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from app.cli import start
from app.cli.groups import imported_when_used

if TYPE_CHECKING:
    from app.cli.backend import Backend, Run

_GROUPS = {
    "db": ("app.cli.database", "The database's schema."),
    "env": ("app.cli.environments", "The environment that an install belongs to."),
    "keys": ("app.cli.keys", "Application keys: states, ages, fingerprints; never material."),
    "credentials": ("app.cli.credentials", "Credentials of members and guilds."),
    "backup": ("app.cli.backup", "Encrypted backups: create, inspect, verify, restore."),
    "users": ("app.cli.users", "Who may sign in."),
    "audit": ("app.cli.audit", "The audit trail: who did what, when and from where."),
}


def build_cli(backend: Backend, run: Run) -> typer.Typer:
    """The command ``keyhall``; ``backend`` is handed to each command as its context's object."""
    cli = typer.Typer(
        name="keyhall",
        help="Your community's API keys, usable by everyone, visible to no one.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain text, as all that the commands answer; boxes cost more than the rest of --help
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @cli.callback()
    def keyhall(context: typer.Context) -> None:
        context.obj = backend

    start.add_to(cli, run)
    for name, (module, about) in _GROUPS.items():
        group = typer.Typer(cls=imported_when_used(module), help=about, no_args_is_help=True)
        cli.add_typer(group, name=name)
    return cli
