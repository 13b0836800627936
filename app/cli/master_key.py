"""``keyhall keys rotate-master``, ``print-master``, ``restore-master``; and ``reset``, where the master key is lost."""

from __future__ import annotations

import asyncio
import getpass
import os
import shlex
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.backend import backend
from app.cli.output import AsJson, read_secret, require_yes, show_json, show_table, typed_back
from app.domain.bitting import cut
from app.domain.errors import InvalidInput
from app.domain.secrets import SecretText

if TYPE_CHECKING:
    from app.cli.backend import Backend
    from app.domain.instances import Instance
    from app.services.keys.master_key import ChangedMasterKey, MasterKeyPlan
    from app.services.keys.reset import KeyResetReport

_STANDARD_OUTPUT = Path("-")


def add_to(group: typer.Typer) -> None:
    """Register the commands."""
    for name, command in (
        ("rotate-master", rotate_master),
        ("print-master", print_master),
        ("restore-master", restore_master),
        ("reset", reset),
    ):
        group.command(name)(command)


# ---------------------------------------------------------------------------------------------------------------------
# To another master key
# ---------------------------------------------------------------------------------------------------------------------


def rotate_master(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Go on without processes that do not take part.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether the present one is on paper.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put the install under another master key, while everything goes on: a new one in its file, or the one given.

    Where it is MASTER_KEY or MASTER_KEY_FILE, set the new one there and the present one as MASTER_KEY_PREVIOUS first.
    Interrupted anywhere, run it again.
    """
    if dry_run and force:
        raise typer.BadParameter("choose one of --dry-run and --force")
    if dry_run:
        raise typer.Exit(asyncio.run(_plan(backend(context), as_json=as_json)))
    changed = asyncio.run(_change(backend(context), force=force, yes=yes))
    if as_json:
        show_json(
            {
                "master_key_id": changed.after,
                "changed": changed.before is not None,
                "previous_master_key_id": changed.before,
                "file": changed.file,
                "remove": ["MASTER_KEY_PREVIOUS"] if changed.previous_given else [],
            }
        )
    else:
        _tell_changed(backend(context), changed)


async def _change(opened: Backend, *, force: bool, yes: bool) -> ChangedMasterKey:
    from rich.console import Console  # noqa: PLC0415 - a start does not wait for what it never draws

    async with opened.master_key_change() as change:
        if not yes and (plan := await change.plan()).to is None:
            typer.echo(
                f"backups made until now open with master key {_name(plan.under)} alone, and its file goes", err=True
            )
            require_yes(opened.runnable("Is it on paper (`keyhall keys print-master FILE`)?"), yes=yes)
        # Where this is no terminal nothing of it is shown.
        with Console(stderr=True).status("changing the master key") as status:
            return await change.carry_out(force=force, tell=status.update)


def _tell_changed(opened: Backend, changed: ChangedMasterKey) -> None:
    after = _name(changed.after)
    if changed.before is None:
        typer.echo(f"the install is under master key {after} already; nothing was left to do")
    else:
        typer.echo(f"master key {_name(changed.before)} → {after}")
        typer.echo(f"backups made until now still need {changed.before}: keep its page as long as you keep them")
    if changed.file is not None:
        printing = opened.runnable("`keyhall keys print-master FILE`")
        typer.echo(f"the key is in {changed.file}: print it with {printing}")
    if changed.previous_given:
        typer.echo("nothing needs the previous one any more: remove MASTER_KEY_PREVIOUS")


async def _plan(opened: Backend, *, as_json: bool) -> int:
    async with opened.master_key_change() as change:
        plan = await change.plan()
    if as_json:
        show_json(
            {
                "under": plan.under,
                "to": plan.to,
                "file": plan.file,
                "processes": [_process_members(each) for each in plan.processes],
                "behind": [_process_members(each) for each in plan.behind],
            }
        )
    else:
        _tell_plan(plan)
    return 1 if plan.behind else 0


def _tell_plan(plan: MasterKeyPlan) -> None:
    typer.echo(f"the install is under master key {_name(plan.under)}")
    if plan.to is None:
        typer.echo(f"a new one would be made in {plan.file}, the present one kept beside it until nothing needs it")
    elif plan.to == plan.under:
        typer.echo("nothing would change but that the previous one goes")
    else:
        typer.echo(f"it would be put under {_name(plan.to)}, which is given")
    for each in plan.processes:
        mark, said = ("❌", "is not given it") if each in plan.behind else (" ", "will load it")
        typer.echo(f"{mark} {said}: {each}")
    typer.echo("nothing was changed")


def _process_members(process: Instance) -> dict[str, object]:
    return {"kind": process.kind, "host": process.host, "pid": process.pid}


def _name(master_key_id: str) -> str:
    return f"{cut(master_key_id)} {master_key_id}"


# ---------------------------------------------------------------------------------------------------------------------
# The last resort
# ---------------------------------------------------------------------------------------------------------------------


def reset(
    context: typer.Context,
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="ID", help="The install's id, instead of typing it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make new keys where the master key is lost: every credential that the lost keys encrypted must be entered again.

    Users, labels, history and the audit trail stay. Refused while a process is live, or where nothing is lost.
    """
    report = asyncio.run(_reset(backend(context), confirm))
    if as_json:
        show_json(_report_members(report))
    else:
        _tell_report(report)


async def _reset(opened: Backend, confirm: str | None) -> KeyResetReport:
    async with opened.key_reset() as resetting:
        found = await resetting.look()
        if confirm is None:
            typer.echo(f"install {found.install_id}: {found.cause.happened}", err=True)
            kept = ", ".join(found.kept)
            typer.echo(f"still whole, and kept: {kept}" if kept else "no stored secret will open any more", err=True)
            typer.echo("if the right key or a backup may still turn up, stop here", err=True)
            confirm = typed_back(f"Type {found.install_id} to make new keys")
        return await resetting.carry_out(confirm)


def _tell_report(report: KeyResetReport) -> None:
    place = f" in {report.file}" if report.file else ", which is given"
    typer.echo(f"install {report.install_id} has new keys under master key {_name(report.master_key_id)}{place}")
    for path in report.moved_aside:
        typer.echo(f"what did not open it is now {path}")
    if report.copy is not None:
        typer.echo(f"the database as it was is {report.copy}: it opens with the lost master key alone")
    if report.kept:
        typer.echo(f"kept, for it was whole: {', '.join(report.kept)}")
    typer.echo(f"sessions that were ended: {report.sessions}")
    if report.lost_factors:
        typer.echo(f"second factors that do not open any more: {', '.join(report.lost_factors)}")
        typer.echo("these people sign in with a recovery code; without one: keyhall users reset NAME")
    if not report.lost:
        typer.echo("no credential has to be entered again")
        return
    typer.echo(f"to be entered again, {len(report.lost)} in all:")
    show_table(
        ("OWNER", "PROVIDER", "LABEL", "ID"),
        [(f"{each.owner_kind} {each.owner}", each.provider, each.label, each.id) for each in report.lost],
    )


def _report_members(report: KeyResetReport) -> dict[str, object]:
    return {
        "install_id": report.install_id,
        "master_key_id": report.master_key_id,
        "file": None if report.file is None else str(report.file),
        "moved_aside": [str(each) for each in report.moved_aside],
        "copy": None if report.copy is None else str(report.copy),
        "kept": [each.value for each in report.kept],
        "sessions_ended": report.sessions,
        "enter_again": [
            {
                "id": each.id,
                "owner_kind": each.owner_kind.value,
                "owner": each.owner,
                "provider": each.provider,
                "label": each.label,
            }
            for each in report.lost
        ],
        "lost_second_factors": list(report.lost_factors),
    }


# ---------------------------------------------------------------------------------------------------------------------
# To paper and back
# ---------------------------------------------------------------------------------------------------------------------


def print_master(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The SVG to make (0600); - for standard output.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Make a page to print: the master key as a QR code and as 24 words. Destroy the file once it is on paper."""
    if file == _STANDARD_OUTPUT:
        typer.echo(asyncio.run(backend(context).master_key_page()), nl=False)
        typer.echo("where this went into a file, shred it once it is on paper", err=True)
    else:
        _require_place(file, force=force)
        page = asyncio.run(backend(context).master_key_page())
        try:
            backend(context).write_private_file(file, page, replace=force)
        except OSError as error:
            raise _unwritable(file, error) from None
        typer.echo(f"{file} holds the master key: print it, then run `shred -u {shlex.quote(str(file))}`", err=True)
    typer.echo(backend(context).runnable("test the paper with `keyhall keys restore-master --check`"), err=True)


def restore_master(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Option("--file", exists=True, dir_okay=False, help="Read words or text from here.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it opens this install.")] = False,
) -> None:
    """Put the master key's file back from the 24 words, or from the text of the QR code, once it opens this install.

    Where there is no database yet, the file is made without that proof, so that a backup can be restored.
    """
    given = SecretText(_typed() if file is None and sys.stdin.isatty() else read_secret("Master key", file))
    restored = asyncio.run(backend(context).restore_master_key(given, write=not check))
    if restored.database is not None:
        typer.echo(f"master key {_name(restored.master_key_id)} opens the install in {restored.database}")
    else:
        typer.echo(f"master key {_name(restored.master_key_id)}: there is no install here that could prove it")
        typer.echo(backend(context).runnable("to prove it, restore a backup: `keyhall backup restore FILE`"), err=True)
    if not check:
        typer.echo(f"it {'is' if restored.written else 'was already'} in {restored.file}")
        if restored.overridden_by is not None:
            typer.echo(f"{restored.overridden_by} is set and goes before that file, which is not read", err=True)


def _typed() -> str:
    """Lines from a terminal, none of them shown, up to an empty one."""
    typer.echo("Type the 24 words, in as many lines as you like, or the text of the code. Nothing is shown.", err=True)
    lines = []
    while line := getpass.getpass("An empty line ends: "):
        lines.append(line)
    return "\n".join(lines)


def _require_place(path: Path, *, force: bool) -> None:
    """Refuse, before anything is revealed, where nothing may be written. Raises InvalidInput."""
    try:
        found = path.lstat() if os.path.lexists(path) else None
        path.parent.stat()
    except OSError as error:
        raise _unwritable(path, error) from None
    if found is not None and not force:
        raise InvalidInput("FILE", f"{path} is there already: name another, or overwrite it with --force")
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise InvalidInput("FILE", f"{path} is no regular file, so it is not overwritten")


def _unwritable(path: Path, error: OSError) -> InvalidInput:
    return InvalidInput("FILE", f"{path} cannot be written: {error.strerror}")
