"""``keyhall backup restore``: a backup takes the place of a database, which is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.backend import backend
from app.cli.backup_keys import IdentityFile, PassphraseFile, backup_path, given_keys, keys_for
from app.cli.output import AsJson, require_yes, show_json, show_table, when
from app.cli.progress import ProgressBar

if TYPE_CHECKING:
    from app.cli.backend import Backend
    from app.domain.backup import OpenWith
    from app.domain.restoring import RestoreReport


def restore(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    identity_file: IdentityFile = None,
    passphrase_file: PassphraseFile = None,
    into: Annotated[
        str | None, typer.Option("--into", metavar="DATABASE_URL", help="Another database than DATABASE_URL's.")
    ] = None,
    accept_unreadable: Annotated[
        bool, typer.Option("--accept-unreadable", help="Also if some secrets do not open; they must be entered again.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a backup in the place of the database, which is kept. Refused while a process is live.

    Everything is verified beside the database first: until the last moment nothing is changed. It needs the master key
    that the backup names. Sessions end, and marks of compromised and destroyed keys stay.
    """
    by = given_keys(identity_file, passphrase_file)
    report = asyncio.run(
        _restore(backend(context), backup_path(file), by, into, accept_unreadable=accept_unreadable, yes=yes)
    )
    if as_json:
        show_json(_members(report))
    else:
        _tell(backend(context), report)


async def _restore(
    opened: Backend, path: Path, by: OpenWith | None, into: str | None, *, accept_unreadable: bool, yes: bool
) -> RestoreReport:
    if by is None:
        by = await keys_for(opened, path)
    async with opened.backup_restore(into) as restoring:
        header = await restoring.look(path, by)
        if not yes:
            question = f"Replace the database {restoring.target_name} by the backup of {when(header.created_at)} UTC?"
            require_yes(question, yes=yes)
        with ProgressBar("restoring") as bar:
            return await restoring.restore(path, by, accept_unreadable=accept_unreadable, show=bar.show)


def _tell(opened: Backend, report: RestoreReport) -> None:
    carried = report.carried
    typer.echo(
        f"{report.database} holds install {report.install_id} as of {when(report.created_at)} UTC: "
        f"{report.credentials} credentials and {report.users} users under the master key {report.master_key_id}"
    )
    typer.echo("every session has ended, and new ones are signed with a new key")
    if carried.marks:
        typer.echo("carried over from the replaced database:")
        show_table(("KEY", "VERSION", "STATE"), [(name, str(version), state) for name, version, state in carried.marks])
    if carried.disabled:
        typer.echo(f"users who stay disabled: {carried.disabled}")
    if carried.erased:
        typer.echo(f"people of the backup who were erased since, and are erased again: {carried.erased}")
    if carried.reencrypted:
        typer.echo(f"secrets that left a compromised or destroyed version: {carried.reencrypted}")
    for each in carried.lost:
        typer.echo(f"❌ {each}", err=True)
    for row in report.unreadable:
        typer.echo(f"❌ does not open, enter it again: {row}", err=True)
    if report.replaced is not None:
        typer.echo(f"the replaced database is {report.replaced}")
        typer.echo(f"once nothing of it is wanted: {report.removed_by}")
    typer.echo(opened.runnable("start with `keyhall run`"), err=True)


def _members(report: RestoreReport) -> dict[str, object]:
    carried = report.carried
    return {
        "install_id": report.install_id,
        "master_key_id": report.master_key_id,
        "database": report.database,
        "created_at": report.created_at,
        "app_version": report.app_version,
        "rows": report.rows,
        "credentials": report.credentials,
        "users": report.users,
        "unreadable": list(report.unreadable),
        "carried": {
            "marks": [
                {"name": name.value, "version": version, "state": state.value} for name, version, state in carried.marks
            ],
            "disabled": carried.disabled,
            "erased": carried.erased,
            "reencrypted": carried.reencrypted,
        },
        "not_carried": list(carried.lost),
        "replaced": report.replaced,
        "removed_by": report.removed_by,
    }
