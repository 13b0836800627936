"""``keyhall backup``: age files with everything that an install needs to go on elsewhere, except the master key."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.backend import backend
from app.cli.backup_keys import (
    PASSPHRASE,
    IdentityFile,
    PassphraseFile,
    backup_path,
    given_keys,
    keys_for,
    passphrase_in,
)
from app.cli.output import AsJson, read_secret, show_json, show_table, when
from app.cli.progress import ProgressBar
from app.cli.restore import restore
from app.cli.signals import ending_on_signals
from app.domain.backup import BackupHeader, EncryptTo, OpenWith, Rehearsal
from app.domain.errors import BackupError, BackupLocked, ConfigInvalid, InsecureKey, InvalidInput
from app.domain.secrets import SecretText

if TYPE_CHECKING:
    from app.cli.backend import Backend
    from app.domain.backup import BackupInfo, BackupRecord, BackupReport
    from app.services.backup import CreatedBackup

group = typer.Typer(rich_markup_mode=None)

_File = Annotated[Path, typer.Argument(metavar="FILE")]
_HEADER = ("install_id", "master_key_id", "environment", "app_version", "revision", "min_app", "latest_seal")


@group.command()
def create(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    file: _File,
    recipient: Annotated[
        str | None, typer.Option("--recipient", metavar="AGE1...", help="Who opens it: the public key of age-keygen.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Back up the install while it runs, encrypted to a recipient or under a passphrase.

    Without --recipient and --passphrase-file it is for BACKUP_RECIPIENT, or a passphrase is asked for. The file is read
    back, and every credential in it opened, before it gets its name. The master key is not in it: keep that elsewhere.
    """
    if recipient is not None and passphrase_file is not None:
        raise typer.BadParameter("choose one of --recipient and --passphrase-file")
    given = None
    if recipient is not None:
        given = EncryptTo(recipient=recipient.strip())
    elif passphrase_file is not None:
        given = EncryptTo(passphrase=passphrase_in(passphrase_file))
    creating = _create(backend(context), backup_path(file), given, replace=replace)
    created = asyncio.run(ending_on_signals(creating))
    _show_created(backend(context), created, as_json=as_json)


async def _create(opened: Backend, path: Path, given: EncryptTo | None, *, replace: bool) -> CreatedBackup:
    from app.services.audit import OPERATOR  # noqa: PLC0415 - `--help` does not wait for it

    async with opened.backup_creation() as creation:
        to = given or _default(creation.recipient)
        with ProgressBar("backing up") as bar:
            return await creation.create(
                OPERATOR, path, to, replace=replace, show=lambda done, total: bar.show(done, total, "backing up rows")
            )


def _default(recipient: str | None) -> EncryptTo:
    if recipient is not None:
        return EncryptTo(recipient=recipient)
    if not sys.stdin.isatty():
        raise InvalidInput(
            "--recipient",
            "give an age recipient (or set BACKUP_RECIPIENT), or --passphrase-file: this is no terminal, so nobody can "
            "be asked for a passphrase",
        )
    return EncryptTo(passphrase=SecretText(read_secret("Passphrase", None, repeat=True)))


def _show_created(opened: Backend, created: CreatedBackup, *, as_json: bool) -> None:
    report, written = created.report, created.written
    if as_json:
        show_json(
            {
                "file": str(created.path),
                "size": written.size,
                "sha256": written.sha256,
                "credentials": report.credentials,
                "unreadable": report.unreadable,
                "users": report.users,
                "install_id": report.install_id,
                "master_key_id": report.master_key_id,
                "created_at": report.created_at,
                "app_version": report.app_version,
            }
        )
    else:
        typer.echo(
            f"{created.path}: {report.credentials} credentials and {report.users} users in {written.size} bytes, read "
            f"back and decrypted; it needs the master key {report.master_key_id}, which is not in it"
        )
    _warn(opened, report)


@group.command()
def inspect(
    context: typer.Context,
    file: _File,
    identity_file: IdentityFile = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what a backup is: without a key, how it is encrypted; with one, which install it is of.

    Nothing is verified: the rest of the file may be damaged.
    """
    by = given_keys(identity_file, passphrase_file)
    info = asyncio.run(_inspect(backend(context), backup_path(file), by))
    if as_json:
        show_json(
            {
                "file": str(backup_path(file)),
                "size": info.size,
                "encrypted_to": list(info.kinds),
                **{name: getattr(info.header, name, None) for name in _HEADER},
                "created_at": info.header.created_at if info.header else None,
            }
        )
        return
    _show_info(backend(context), backup_path(file), info)


async def _inspect(opened: Backend, path: Path, by: OpenWith | None) -> BackupInfo:
    verification = opened.backup_verification()
    if by is not None:
        return await verification.files.inspect(path, by)
    try:
        return await verification.files.inspect(path, opened.backup_keys())
    except (BackupLocked, ConfigInvalid, InsecureKey):  # no key is needed for the rest
        return await verification.files.inspect(path, OpenWith())


def _show_info(opened: Backend, path: Path, info: BackupInfo) -> None:
    names = {PASSPHRASE: "a passphrase", "X25519": "an age recipient"}
    rows = [("encrypted to", ", ".join(names.get(kind, kind) for kind in info.kinds)), ("size", f"{info.size} bytes")]
    if isinstance(info.header, BackupHeader):
        rows += [(name.replace("_", " "), str(getattr(info.header, name) or "-")) for name in _HEADER]
        rows.append(("created at", when(info.header.created_at)))
    show_table(("BACKUP", path.name), rows)
    if info.header is None:
        option = "--passphrase-file" if PASSPHRASE in info.kinds else "--identity-file"
        typer.echo(f"more can be read with {option}", err=True)
    else:
        typer.echo(opened.runnable(f"nothing was verified: run `keyhall backup verify {path.name}`"), err=True)


@group.command()
def verify(
    context: typer.Context,
    file: _File,
    identity_file: IdentityFile = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Decrypt a whole backup and open every credential in it; exit 1 if anything is not well.

    It needs no database, but the master key of the install that was backed up.
    """
    by = given_keys(identity_file, passphrase_file)
    try:
        report = asyncio.run(_verify(backend(context), backup_path(file), by))
    except (BackupError, InvalidInput):
        if as_json:
            show_json({"ok": False} | dict.fromkeys(_REPORT))
        raise
    if as_json:
        show_json({"ok": report.ok} | {name: getattr(report, name) for name in _REPORT})
    elif report.ok:
        typer.echo(
            f"✅ {report.credentials} credentials and {report.users} users of install {report.install_id}, as of "
            f"{when(report.created_at)}, all open with the master key {report.master_key_id}"
        )
    _warn(backend(context), report)
    if not report.ok:
        raise typer.Exit(1)


_REPORT = ("credentials", "unreadable", "users", "install_id", "master_key_id", "created_at", "app_version")


async def _verify(opened: Backend, path: Path, by: OpenWith | None) -> BackupReport:
    verification = opened.backup_verification()
    return await verification.verify(path, by or await keys_for(opened, path))


@group.command()
def rehearse(context: typer.Context, as_json: AsJson = False) -> None:
    """Restore the newest backup for trial, open every credential in it, and delete the place; exit 1 if that fails.

    A worker does the same once a day. It needs the file and BACKUP_IDENTITY_FILE, and changes nothing but the note on
    the backup. Where a worker has begun, this waits for its result.
    """
    found = asyncio.run(ending_on_signals(_rehearse(backend(context))))
    ok = found.rehearsal is Rehearsal.OK
    if as_json:
        show_json(
            {
                "file": found.path,
                "created_at": found.created_at,
                "rehearsed_at": found.rehearsed_at,
                "rehearsal": None if found.rehearsal is None else found.rehearsal.value,
                "note": found.rehearsal_note,
            }
        )
    else:
        typer.echo(f"{'✅' if ok else '❌'} {found.path}, of {when(found.created_at)}: {found.rehearsal_note}")
    if not ok:
        raise typer.Exit(1)


async def _rehearse(opened: Backend) -> BackupRecord:
    async with opened.services() as services:
        job = await services.rehearsal.request(await services.identity.operator())
        with ProgressBar("rehearsing") as bar:
            async for stand in services.rehearsal.follow(job.id):
                job = stand
                bar.show(job.progress.done, job.progress.total, job.error or job.progress.note or "waiting")
        if not job.state.over or job.error is not None:
            raise BackupError(f"the rehearsal did not end: {job.error or 'another process is at it'}; repeat it later")
        found = await services.rehearsal.newest()
        assert found is not None  # noqa: S101 - a rehearsal of nothing was refused
        return found


def _warn(opened: Backend, report: Any) -> None:
    for problem in report.problems:
        typer.echo(opened.runnable(f"❌ {problem}"), err=True)


group.command()(restore)
