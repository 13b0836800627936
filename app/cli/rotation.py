"""``keyhall keys rotate`` and its siblings: application keys change, while everything goes on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.backend import backend
from app.cli.output import AsJson, moment, read_secret, require_yes, show_json, show_table, typed_back, when
from app.cli.progress import ProgressBar
from app.domain.bitting import cut
from app.domain.errors import AppError, InvalidInput
from app.domain.jobs import Job, JobState
from app.domain.keys import KeyName
from app.domain.secrets import SecretText
from app.domain.times import BEGIN_OF_DAY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.cli.backend import Backend
    from app.domain.identity import Actor
    from app.services import Services
    from app.services.rotation import Dependents, KeyStatus, Plan


class ApplicationKey(StrEnum):
    """The keys that commands change; Keyhall's own internal ones are not offered."""

    JWT_SECRET_KEY = KeyName.JWT_SECRET_KEY.value
    AES_KEY = KeyName.AES_KEY.value
    ENCRYPTION_KEY = KeyName.ENCRYPTION_KEY.value
    API_SECRET_KEY = KeyName.API_SECRET_KEY.value


_KEYS = f"{', '.join(ApplicationKey)}."


def offered(text: str) -> ApplicationKey:
    """The key that somebody typed, in either case. Raises BadParameter."""
    try:
        return ApplicationKey(text.strip().upper())
    except ValueError:
        raise typer.BadParameter(f"must be one of {', '.join(ApplicationKey)}") from None


_Name = Annotated[ApplicationKey, typer.Argument(metavar="NAME", parser=offered, show_choices=False, help=_KEYS)]
_Reason = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Why: a line that stands in the audit trail.")
]
_Version = Annotated[int, typer.Argument(metavar="VERSION", min=1)]


def add_to(group: typer.Typer) -> None:
    """Register the commands."""
    for command in (rotate, rollback, retire, revoke, destroy, schedule):
        group.command()(command)
    group.command("import")(import_)


# ---------------------------------------------------------------------------------------------------------------------
# To a new primary
# ---------------------------------------------------------------------------------------------------------------------


def rotate(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    name: _Name,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")] = False,
    at: Annotated[
        datetime | None,
        typer.Option(
            "--at",
            parser=moment(BEGIN_OF_DAY),
            metavar="DAY|TIME",
            help="Announce it: for 2027-03-01 (the begin of that day, in UTC) or 2027-03-01T12:00:00Z.",
        ),
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Call off a rotation that was announced.")] = False,
    reason: _Reason = None,
    as_json: AsJson = False,
) -> None:
    """Make a new version primary: every process loads it first, then stored rows are re-encrypted.

    Nothing stops meanwhile. Interrupted, it goes on where it was: run it again, or let a worker.
    """
    key = KeyName(name)
    if dry_run + cancel + (at is not None) > 1:
        raise typer.BadParameter("choose one of --dry-run, --at and --cancel")
    if dry_run:
        raise typer.Exit(asyncio.run(_plan(backend(context), key, as_json=as_json)))
    if cancel:
        asyncio.run(_cancel(backend(context), key, reason))
        typer.echo(f"the rotation of {key.value} is called off")
        return
    _changed(
        context,
        key,
        lambda services, actor: services.rotation.rotate(actor, key, at=at),
        reason=reason,
        as_json=as_json,
    )


def rollback(context: typer.Context, name: _Name, reason: _Reason = None, as_json: AsJson = False) -> None:
    """Make the version primary again that was it before; not one that was revoked or destroyed."""
    key = KeyName(name)
    _changed(
        context, key, lambda services, actor: services.rotation.rollback(actor, key), reason=reason, as_json=as_json
    )


def import_(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    name: _Name,
    file: Annotated[
        Path | None, typer.Option("--file", exists=True, dir_okay=False, help="Read the key from here.")
    ] = None,
    from_settings: Annotated[
        bool, typer.Option("--from-settings", help="Take the value that the environment or .env gives.")
    ] = False,
    reason: _Reason = None,
    as_json: AsJson = False,
) -> None:
    """Make a key from outside the primary; it comes from a prompt, standard input, a file or the settings."""
    key = KeyName(name)
    if from_settings and file is not None:
        raise typer.BadParameter("choose one of --file and --from-settings")
    given = (
        backend(context).key_from_settings(key) if from_settings else SecretText(read_secret(key.value, file).strip())
    )
    if given is None:
        raise InvalidInput("--from-settings", f"the settings give no {key.value}")

    async def begin(services: Services, actor: Actor) -> Job | None:
        return await services.rotation.import_(actor, key, given)

    _changed(context, key, begin, reason=reason, as_json=as_json, importing=key)


# ---------------------------------------------------------------------------------------------------------------------
# Out of use
# ---------------------------------------------------------------------------------------------------------------------


def retire(
    context: typer.Context, name: _Name, version: _Version, reason: _Reason = None, as_json: AsJson = False
) -> None:
    """Prove by a full scan that nothing needs a version any more, and retire it."""
    key = KeyName(name)
    _changed(
        context,
        key,
        lambda services, actor: services.rotation.retire(actor, key, version),
        reason=reason,
        as_json=as_json,
    )


def revoke(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    name: _Name,
    version: _Version,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    reason: _Reason = None,
    as_json: AsJson = False,
) -> None:
    """Mark a version as compromised, at once and irreversibly; a primary is replaced first."""
    key = KeyName(name)
    require_yes(f"Revoke {key.value} version {version}? It cannot be undone.", yes=yes)
    _changed(
        context,
        key,
        lambda services, actor: services.rotation.revoke(actor, key, version),
        reason=reason,
        as_json=as_json,
    )


def destroy(
    context: typer.Context,
    name: _Name,
    version: _Version,
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="NAME", help="The key's name, instead of typing it.")
    ] = None,
    reason: _Reason = None,
) -> None:
    """Destroy a version's material irreversibly, after a list of its dependents. Type the key's name to confirm."""
    asyncio.run(_destroy(backend(context), KeyName(name), version, confirm, reason))


async def _destroy(opened: Backend, name: KeyName, version: int, confirm: str | None, reason: str | None) -> None:
    async with opened.services() as services:
        actor = (await services.identity.operator()).because(reason)
        needed = await services.key_inspection.dependents(actor, name, version)
        typer.echo(_sentence(needed))
        if confirm is None:
            # In a thread: while somebody thinks, this process goes on renewing its lease.
            confirm = await asyncio.to_thread(typed_back, f"Type {name.value} to destroy version {version}")
        await services.rotation.destroy(actor, name, version, typed=confirm)
    typer.echo(f"{name.value} version {version} is destroyed; backups made before still hold it, wrapped")


def _sentence(needed: Dependents) -> str:
    return f"{needed.name.value} version {needed.version}: on it depends — {needed.sentence}"


# ---------------------------------------------------------------------------------------------------------------------
# The schedule
# ---------------------------------------------------------------------------------------------------------------------


def schedule(
    context: typer.Context,
    name: Annotated[
        ApplicationKey | None,
        typer.Argument(metavar="[NAME]", parser=offered, show_choices=False, help=f"{_KEYS} Without it: all."),
    ] = None,
    days: Annotated[int | None, typer.Option("--days", min=1, help="How many days its primary may serve.")] = None,
    automatic: Annotated[
        bool | None, typer.Option("--automatic/--manual", help="Whether it is rotated then without being asked.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how old keys are and when they are due, or set that for one key."""
    if name is None and (days is not None or automatic is not None):
        raise typer.BadParameter("say which key")
    standings = asyncio.run(_schedule(backend(context), KeyName(name) if name else None, days, automatic=automatic))
    if as_json:
        show_json([_standing_members(each) for each in standings])
        return
    show_table(
        ("NAME", "VERSION", "AGE", "EVERY", "DUE", "AUTOMATIC", "ANNOUNCED"),
        [
            (
                each.name.value,
                str(next(version.version for version in each.versions if version.primary)),
                f"{each.age_days} d",
                f"{each.rotation_days} d",
                "now" if each.due else when(each.due_at),
                "yes" if each.automatic else "no",
                when(each.announced_at),
            )
            for each in standings
        ],
    )


async def _schedule(
    opened: Backend, name: KeyName | None, days: int | None, *, automatic: bool | None
) -> list[KeyStatus]:
    async with opened.services() as services:
        actor = await services.identity.operator()
        standings = [each for each in await services.key_inspection.list(actor) if name in {None, each.name}]
        if name is None or (days is None and automatic is None):
            return standings
        present = standings[0]
        return [
            await services.rotation.set_schedule(
                actor,
                name,
                rotation_days=present.rotation_days if days is None else days,
                automatic=present.automatic if automatic is None else automatic,
            )
        ]


def _standing_members(standing: KeyStatus) -> dict[str, Any]:
    return {
        "name": standing.name.value,
        "since": standing.since,
        "age_days": standing.age_days,
        "rotation_days": standing.rotation_days,
        "automatic": standing.automatic,
        "due_at": standing.due_at,
        "due": standing.due,
        "announced_at": standing.announced_at,
    }


async def _cancel(opened: Backend, name: KeyName, reason: str | None) -> None:
    async with opened.services() as services:
        await services.rotation.cancel((await services.identity.operator()).because(reason), name)


async def _plan(opened: Backend, name: KeyName, *, as_json: bool) -> int:
    async with opened.services() as services:
        plan = await services.key_inspection.plan(await services.identity.operator(), name)
    if as_json:
        show_json(_plan_members(plan))
    else:
        typer.echo(f"{name.value}: version {plan.primary} is primary; a rotation would make a new one primary")
        for each in plan.processes:
            typer.echo(f"  will load it: {each}")
        typer.echo(f"  rows: {plan.rows}")
        typer.echo(f"  then: {plan.consequence}")
        for row in plan.unreadable:
            typer.echo(f"❌ {row} does not open: the version it needs would not retire")
        typer.echo("nothing was changed")
    return 1 if plan.unreadable else 0


def _plan_members(plan: Plan) -> dict[str, Any]:
    return {
        "name": plan.name.value,
        "primary": plan.primary,
        "processes": [{"kind": each.kind, "host": each.host, "pid": each.pid} for each in plan.processes],
        "rows": plan.rows,
        "unreadable": list(plan.unreadable),
        "consequence": plan.consequence,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Seeing a job through
# ---------------------------------------------------------------------------------------------------------------------


def _changed(
    context: typer.Context,
    name: KeyName,
    begin: Callable[[Services, Actor], Awaitable[Job | None]],
    *,
    reason: str | None,
    as_json: bool,
    importing: KeyName | None = None,
) -> None:
    """Begin a change of a key and stay until it is done, or has nothing to do but wait. Exit 1 where it fails."""
    job = asyncio.run(_see_through(backend(context), name, begin, reason=reason, as_json=as_json, importing=importing))
    if job is not None and job.error is not None:
        goes_on = "" if job.state.over else "; a worker, or the same command, goes on where it stopped"
        typer.echo(backend(context).runnable(f"keyhall: {job.error}{goes_on}"), err=True)
        raise typer.Exit(1)


async def _see_through(
    opened: Backend,
    name: KeyName,
    begin: Callable[[Services, Actor], Awaitable[Job | None]],
    *,
    reason: str | None,
    as_json: bool,
    importing: KeyName | None,
) -> Job | None:
    async with opened.services(importing=importing) as services:
        actor = (await services.identity.operator()).because(reason)
        before = services.keys.ring.keysets[name].primary
        job = await begin(services, actor)
        try:
            if job is not None:
                with ProgressBar("waiting for a worker") as bar:
                    async for stand in services.rotation.follow(job.id):
                        job, progress = stand, stand.progress
                        bar.show(progress.done, progress.total, stand.error or progress.note or "beginning")
            await services.keys.reload()
        except AppError as away:
            if job is None:
                raise
            job = replace(job, error=f"the change is queued, and cannot be watched now: {away.detail}")
        after = services.keys.ring.keysets[name].primary
    if as_json:
        show_json(_job_members(job, name, after.version))
        return job
    if after.version != before.version:
        typer.echo(
            f"{name.value}: {cut(before.fingerprint)} version {before.version} →"
            f" {cut(after.fingerprint)} version {after.version}"
        )
    if job is None:
        typer.echo(f"{name.value}: version {after.version} is primary; nothing was left to do")
    elif job.error is None:
        later = job.state is JobState.WAITING and not job.progress.step
        typer.echo(
            f"{name.value}: announced for {when(job.run_at)} UTC" if later else f"{name.value}: {job.progress.note}"
        )
    return job


def _job_members(job: Job | None, name: KeyName, primary: int) -> dict[str, Any]:
    members: dict[str, Any] = {"name": name.value, "primary": primary, "job": None}
    if job is not None:
        members["job"] = {
            "id": job.id,
            "state": job.state.value,
            "step": job.progress.step,
            "done": job.progress.done,
            "total": job.progress.total,
            "note": job.progress.note,
            "error": job.error,
            "run_at": job.run_at,
        }
    return members
