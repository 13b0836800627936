"""``keyhall credentials import-…``: what other programs stored."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.backend import backend
from app.cli.output import AsJson, link_address, read_secret, show_json
from app.cli.progress import ProgressBar
from app.domain.credentials import Owner, OwnerKind
from app.domain.imports import LARGEST_SOURCE, ImportStopped
from app.domain.secrets import SecretText

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cli.backend import Backend
    from app.domain.imports import ClaimLink, ImportReport, Passed, Source

_LARGEST_KEY_FILE = 4096
_PASSWORD = re.compile(r"://[^@]*:.+@|password=")
_File = Annotated[Path, typer.Argument(metavar="FILE")]
_KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", help="The key that opens it; default: .encryption_key beside FILE, where it exists."),
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, and report what would be done.")]
_SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Import the others where an entry is broken.")]
_User = Annotated[str | None, typer.Option("--user", metavar="NAME", help="The user who gets them.")]
_Guild = Annotated[str | None, typer.Option("--guild", metavar="ID", help="The Discord server that gets them.")]


def add_to(group: typer.Typer) -> None:
    """Add the imports to a group of commands."""
    for name, command in (
        ("import-json", import_json),
        ("import-env", import_env),
        ("import-red", import_red),
        ("import-db", import_db),
    ):
        group.command(name)(command)


def import_json(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    file: _File,
    key_file: _KeyFile = None,
    dry_run: _DryRun = False,
    skip_broken: _SkipBroken = False,
    as_json: AsJson = False,
) -> None:
    """Import a users.json, plain or encrypted with Fernet: accounts, each with a claim link, and their keys.

    A second run imports what the first one has not.
    """
    from app.services.imports.users_json import users_json  # noqa: PLC0415 - other commands read no such file

    opened = backend(context)
    source = users_json(opened.read_source(file, largest=LARGEST_SOURCE), file.name)
    key = _key_beside(opened, file, key_file)
    _import(opened, source, (None, None), key, _Choices(dry_run, skip_broken, as_json))


def import_env(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    file: _File,
    user: _User = None,
    guild: _Guild = None,
    dry_run: _DryRun = False,
    skip_broken: _SkipBroken = False,
    as_json: AsJson = False,
) -> None:
    """Import the providers' keys of an .env file, for one user or one server. Other lines are named and left."""
    from app.services.imports.env_file import LARGEST_ENV_FILE, env_file  # noqa: PLC0415 - other commands read no such file

    _one_owner(user, guild)
    opened = backend(context)
    source = env_file(opened.read_source(file, largest=LARGEST_ENV_FILE), file.name)
    _import(opened, source, (user, guild), None, _Choices(dry_run, skip_broken, as_json))


def import_red(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The data path of the instance.")],
    user: _User = None,
    guild: _Guild = None,
    dry_run: _DryRun = False,
    skip_broken: _SkipBroken = False,
    as_json: AsJson = False,
) -> None:
    """Import the shared API tokens of a Red-DiscordBot, for one user or one server."""
    from app.services.imports.red import SETTINGS_FILES, red_settings  # noqa: PLC0415 - as above

    _one_owner(user, guild)
    opened = backend(context)
    file = next((path for each in SETTINGS_FILES if (path := directory / each).exists()), None)
    if file is None:
        raise ImportStopped(f"{directory} holds no core/settings.json: give the data path of a Red instance")
    source = red_settings(opened.read_source(file, largest=LARGEST_SOURCE), str(file.relative_to(directory)))
    _import(opened, source, (user, guild), None, _Choices(dry_run, skip_broken, as_json))


def import_db(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="Of SQLite or PostgreSQL; - reads it from standard input.")],
    user: _User = None,
    guild: _Guild = None,
    key_file: _KeyFile = None,
    dry_run: _DryRun = False,
    skip_broken: _SkipBroken = False,
    as_json: AsJson = False,
) -> None:
    """Import legacy tables: users.api_keys, and api_credentials. The database is only read.

    Keys that name no account go to --user or --guild, where one is given.
    """
    if user is not None and guild is not None:
        raise typer.BadParameter("give --user NAME or --guild ID, not both")
    opened = backend(context)
    if url == "-":
        url = read_secret("URL", None)
    elif _PASSWORD.search(url):
        typer.echo("⚠️ other users of this machine see the URL's password; - reads it from standard input", err=True)
    key = None if key_file is None else _key(opened, key_file)
    source = asyncio.run(_tables(opened, url))
    _import(opened, source, (user, guild), key, _Choices(dry_run, skip_broken, as_json))


async def _tables(opened: Backend, url: str) -> Source:
    from app.services.imports.tables import legacy_tables  # noqa: PLC0415 - as above

    async with opened.legacy_database(url) as database:
        return await legacy_tables(database)


class _Choices:
    """The options that every import has."""

    def __init__(self, dry_run: bool, skip_broken: bool, as_json: bool) -> None:
        self.dry_run = dry_run
        self.skip_broken = skip_broken
        self.as_json = as_json


def _import(
    opened: Backend, source: Source, whose: tuple[str | None, str | None], key: SecretText | None, choices: _Choices
) -> None:
    report = asyncio.run(_run(opened, source, whose, key, choices))
    links = [(each.username, link_address(opened, each.token)) for each in report.claim_links]
    if choices.as_json:
        show_json(
            {
                "users": report.users,
                "credentials": report.credentials,
                "skipped": _named(report.skipped),
                "already_done": report.already_done,
                "dry_run": choices.dry_run,
                "matched": report.matched,
                "renamed": [{"where": where, "username": name} for where, name in report.renamed],
                "relabelled": [{"where": where, "label": label} for where, label in report.relabelled],
                "doubtful": report.doubtful,
                "unclaimed": report.unclaimed,
                "claim_links": [{"username": name, "link": link} for name, link in links],
            }
        )
        return
    for each in report.skipped:
        typer.echo(f"skipped {each.where}: {each.why}", err=True)
    for where, name in report.renamed:
        typer.echo(f"{where}: the account is called {name} here", err=True)
    for where, label in report.relabelled:
        typer.echo(f"{where}: its label was taken, so it is labelled {label}", err=True)
    for where in report.doubtful:
        typer.echo(f"⚠️ {where}: taken as plain text, but it may be encrypted with a key that was not given", err=True)
    if report.matched:
        typer.echo(f"⚠️ accounts that were here already got credentials: {', '.join(report.matched)}", err=True)
    done = "would import" if choices.dry_run else "imported"
    typer.echo(
        f"{done} {report.credentials} credentials and {report.users} users; "
        f"skipped {len(report.skipped)}, already done {report.already_done}"
    )
    if links:
        typer.echo("Give each their link above; it works once, for 7 days, and is not printed again", err=True)
    if report.unclaimed:
        names = ", ".join(report.unclaimed)
        remedy = opened.runnable("`keyhall users claim-link NAME` makes a new link")
        typer.echo(f"not claimed yet: {names}; {remedy}", err=True)


async def _run(
    opened: Backend, source: Source, whose: tuple[str | None, str | None], key: SecretText | None, choices: _Choices
) -> ImportReport:
    user, guild = whose
    async with opened.services() as services:
        actor = await services.identity.operator_for(username=user, guild_id=guild)
        owner = None
        if actor.guild is not None:
            owner = Owner(OwnerKind.GUILD, actor.guild.guild_id)
        elif user is not None:
            owner = Owner(OwnerKind.USER, actor.user_id)

        def show(made: ClaimLink) -> None:
            """At once, so that an import that ends in the middle has shown the links of what it stored.

            With --json on standard error: standard output holds the result alone, and the links in it once more.
            """
            typer.echo(f"{made.username} {link_address(opened, made.token)}", err=choices.as_json)
            sys.stdout.flush()

        with ProgressBar("importing") as bar:
            return await services.imports.run(
                actor,
                source,
                owner=owner,
                key=key,
                dry_run=choices.dry_run,
                skip_broken=choices.skip_broken,
                created=show,
                progress=lambda done, total: bar.show(done, total, "importing"),
            )


def _key_beside(opened: Backend, file: Path, key_file: Path | None) -> SecretText | None:
    """The text of the key file: the given one, or the file that such programs put beside their users.json."""
    found = key_file or file.with_name(".encryption_key")
    if key_file is None and not found.exists():
        return None
    return _key(opened, found)


def _key(opened: Backend, file: Path) -> SecretText:
    return SecretText(opened.read_source(file, largest=_LARGEST_KEY_FILE).decode("utf-8-sig", "replace"))


def _one_owner(user: str | None, guild: str | None) -> None:
    if (user is None) == (guild is None):
        raise typer.BadParameter("say whose: --user NAME or --guild ID")


def _named(passed: Sequence[Passed]) -> list[dict[str, str]]:
    return [{"where": each.where, "why": each.why} for each in passed]
