"""``keyhall credentials``: the operator's view of what members and guilds stored."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import imports
from app.cli.backend import backend
from app.cli.output import AsJson, moment, read_secret, require_yes, show_json, show_table, when
from app.cli.progress import ProgressBar
from app.domain.credentials import AGED_AFTER, SOON, Concern
from app.domain.times import END_OF_DAY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cli.backend import Backend
    from app.domain.credentials import CredentialView
    from app.services.credentials import HistoryView, Replaced, UnreadableSecret

group = typer.Typer(rich_markup_mode=None)


_User = Annotated[str | None, typer.Option("--user", metavar="NAME", help="Credentials of this user.")]
_Guild = Annotated[str | None, typer.Option("--guild", metavar="ID", help="Credentials of this Discord server.")]
_SecretFile = Annotated[
    Path | None, typer.Option("--secret-file", exists=True, dir_okay=False, help="Read it from here.")
]
_Id = Annotated[str, typer.Argument(metavar="ID")]
_Expires = Annotated[
    datetime | None,
    typer.Option(
        "--expires",
        parser=moment(END_OF_DAY),
        metavar="DAY|TIME",
        help="When it expires: 2027-03-01 (the end of that day, in UTC) or 2027-03-01T12:00:00Z.",
    ),
]
_PAGE = 100
_CONCERNS = {
    Concern.EXPIRED: "expired",
    Concern.EXPIRING: f"expiring within {SOON.days} days",
    Concern.AGED: f"with a secret older than {AGED_AFTER.days} days",
}


@group.command("list")
def list_(
    context: typer.Context,
    user: _User = None,
    guild: _Guild = None,
    removed: Annotated[bool, typer.Option("--removed", help="List the removed ones that can be restored.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the credentials of a user or a server, masked."""
    _one_owner(user, guild)
    asyncio.run(_list(backend(context), user, guild, removed=removed, as_json=as_json))


async def _list(opened: Backend, user: str | None, guild: str | None, *, removed: bool, as_json: bool) -> None:
    async with opened.services() as services:
        actor = await services.identity.operator_for(username=user, guild_id=guild)
        items: list[CredentialView] = []
        cursor: str | None = None
        while True:
            page = await services.credentials.page(actor, after=cursor, limit=_PAGE, guild_id=guild, removed=removed)
            items += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
    if as_json:
        show_json([_members(each) for each in items])
        return
    show_table(
        ("ID", "PROVIDER", "LABEL", "SECRET", "STATUS", "EXPIRES", "AGE", "UPDATED", "CONCERN"),
        [
            (
                each.id,
                each.provider,
                each.label,
                each.masked,
                each.status.value,
                when(each.expires_at),
                f"{each.secret_age_days}d",
                when(each.updated_at),
                each.concern.value if each.concern else "-",
            )
            for each in items
        ],
    )
    _warn([each.concern for each in items])


def _warn(concerns: Sequence[Concern | None]) -> None:
    counted = [f"{count} {words}" for each, words in _CONCERNS.items() if (count := concerns.count(each))]
    if counted:
        typer.echo(f"⚠️ to be replaced: {', '.join(counted)}", err=True)


@group.command()
def add(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    provider: Annotated[str, typer.Argument(help="For instance openai.")],
    label: Annotated[str, typer.Argument(help="The name that people see.")],
    user: _User = None,
    guild: _Guild = None,
    secret_file: _SecretFile = None,
    expires: _Expires = None,
    as_json: AsJson = False,
) -> None:
    """Store a credential; the secret comes from a prompt, from standard input or from a file."""
    _one_owner(user, guild)
    secret = read_secret("Secret", secret_file)
    asyncio.run(_add(backend(context), (provider, label, secret, expires), user, guild, as_json=as_json))


async def _add(
    opened: Backend,
    new: tuple[str, str, str, datetime | None],
    user: str | None,
    guild: str | None,
    *,
    as_json: bool,
) -> None:
    provider, label, secret, expires_at = new
    async with opened.services() as services:
        actor = await services.identity.operator_for(username=user, guild_id=guild)
        added = await services.credentials.add(
            actor, provider=provider, label=label, secret=secret, expires_at=expires_at, guild_id=guild
        )
    if as_json:
        show_json(_members(added.view))
    else:
        typer.echo(f"stored {added.view.provider} {added.view.label} ({added.view.masked}) as {added.view.id}")


@group.command()
def replace(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    credential_id: _Id,
    user: _User = None,
    guild: _Guild = None,
    secret_file: _SecretFile = None,
    expires: _Expires = None,
    as_json: AsJson = False,
) -> None:
    """Replace a secret; the new one comes from a prompt, from standard input or from a file.

    The former one stays in the history. An expiry stays unless a new one is given or it has passed.
    """
    _one_owner(user, guild)
    secret = read_secret("New secret", secret_file)
    replaced = asyncio.run(_replace(backend(context), credential_id, (secret, expires), user, guild))
    _tell("replaced", replaced, as_json=as_json)


async def _replace(
    opened: Backend, credential_id: str, new: tuple[str, datetime | None], user: str | None, guild: str | None
) -> Replaced:
    secret, expires_at = new
    async with opened.services() as services:
        actor = await services.identity.operator_for(username=user, guild_id=guild)
        if expires_at is None:  # the expiry stays
            return await services.credentials.replace(actor, credential_id, secret)
        return await services.credentials.replace(actor, credential_id, secret, expires_at=expires_at)


@group.command()
def versions(
    context: typer.Context, credential_id: _Id, user: _User = None, guild: _Guild = None, as_json: AsJson = False
) -> None:
    """List the former secrets of a credential, masked, latest first."""
    _one_owner(user, guild)
    history = asyncio.run(_versions(backend(context), credential_id, user, guild))
    if as_json:
        show_json([_former_members(each) for each in history])
        return
    show_table(
        ("VERSION", "SECRET", "READABLE", "FROM", "TO"),
        [
            (
                str(each.version),
                each.masked,
                "yes" if each.readable else "no",
                when(each.created_at),
                when(each.replaced_at),
            )
            for each in history
        ],
    )


async def _versions(opened: Backend, credential_id: str, user: str | None, guild: str | None) -> Sequence[HistoryView]:
    async with opened.services() as services:
        actor = await services.identity.operator_for(username=user, guild_id=guild)
        return (await services.credentials.versions(actor, credential_id, limit=_PAGE)).items


@group.command()
def rollback(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    credential_id: _Id,
    version: Annotated[
        int | None, typer.Option("--version", help="A number from `versions`; without it the latest.")
    ] = None,
    user: _User = None,
    guild: _Guild = None,
    as_json: AsJson = False,
) -> None:
    """Put a former secret back in force; the present one goes to the history."""
    _one_owner(user, guild)
    replaced = asyncio.run(_rollback(backend(context), credential_id, version, user, guild))
    _tell("rolled back", replaced, as_json=as_json)


async def _rollback(
    opened: Backend, credential_id: str, version: int | None, user: str | None, guild: str | None
) -> Replaced:
    async with opened.services() as services:
        actor = await services.identity.operator_for(username=user, guild_id=guild)
        return await services.credentials.rollback(actor, credential_id, version=version)


def _tell(done: str, replaced: Replaced, *, as_json: bool) -> None:
    view = replaced.view
    if as_json:
        show_json(_members(view))
    elif replaced.new_secret:
        typer.echo(f"{done} {view.provider} {view.label}: {view.masked} is in force, as version {view.version}")
    elif replaced.new_expiry:
        typer.echo(f"{view.masked} of {view.provider} {view.label} is in force already; its expiry is changed")
    else:
        typer.echo(f"nothing changed: {view.masked} of {view.provider} {view.label} is in force already")


@group.command()
def relabel(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    credential_id: _Id,
    label: Annotated[str, typer.Argument(help="The name that people see.")],
    user: _User = None,
    guild: _Guild = None,
    as_json: AsJson = False,
) -> None:
    """Give a credential another label."""
    _one_owner(user, guild)
    view = asyncio.run(_relabel(backend(context), credential_id, label, user, guild))
    if as_json:
        show_json(_members(view))
    else:
        typer.echo(f"{view.id} is labelled {view.label}")


async def _relabel(
    opened: Backend, credential_id: str, label: str, user: str | None, guild: str | None
) -> CredentialView:
    async with opened.services() as services:
        actor = await services.identity.operator_for(username=user, guild_id=guild)
        return await services.credentials.change(actor, credential_id, label=label)


@group.command()
def remove(
    context: typer.Context,
    credential_id: _Id,
    user: _User = None,
    guild: _Guild = None,
) -> None:
    """Remove a credential; it can be restored for 7 days."""
    _one_owner(user, guild)
    asyncio.run(_remove(backend(context), credential_id, user, guild, purge=False))
    typer.echo(f"removed {credential_id}; it can be restored for 7 days")


@group.command()
def restore(context: typer.Context, credential_id: _Id, user: _User = None, guild: _Guild = None) -> None:
    """Restore a removed credential; `list --removed` names them."""
    _one_owner(user, guild)
    view = asyncio.run(_restore(backend(context), credential_id, user, guild))
    typer.echo(f"restored {view.provider} {view.label} ({view.masked})")


async def _restore(opened: Backend, credential_id: str, user: str | None, guild: str | None) -> CredentialView:
    async with opened.services() as services:
        actor = await services.identity.operator_for(username=user, guild_id=guild)
        return await services.credentials.restore(actor, credential_id)


@group.command()
def purge(
    context: typer.Context,
    credential_id: _Id,
    user: _User = None,
    guild: _Guild = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a removed credential and its history for good, which frees its place in the quota."""
    _one_owner(user, guild)
    require_yes(f"Delete {credential_id} for good? It cannot be undone.", yes=yes)
    asyncio.run(_remove(backend(context), credential_id, user, guild, purge=True))
    typer.echo(f"deleted {credential_id} for good")


async def _remove(opened: Backend, credential_id: str, user: str | None, guild: str | None, *, purge: bool) -> None:
    async with opened.services() as services:
        actor = await services.identity.operator_for(username=user, guild_id=guild)
        remove_or_purge = services.credentials.purge if purge else services.credentials.remove
        await remove_or_purge(actor, credential_id)


@group.command()
def verify(context: typer.Context, as_json: AsJson = False) -> None:
    """Decrypt every credential, and its history; exit 1 if one does not open, naming it."""
    if not asyncio.run(_verify(backend(context), as_json=as_json)):
        raise typer.Exit(1)


async def _verify(opened: Backend, *, as_json: bool) -> bool:
    async with opened.services() as services:
        actor = await services.identity.operator()
        checked = 0
        unreadable: list[UnreadableSecret] = []
        with ProgressBar("decrypting") as bar:
            async for verified in services.credentials.health.verify_all(actor):
                checked = verified.done
                unreadable += verified.unreadable
                bar.show(checked, verified.total, "decrypting")
    if as_json:
        failing = [{"id": each.id, "provider": each.provider, "label": each.label} for each in unreadable]
        show_json({"checked": checked, "unreadable": failing})
    else:
        for each in unreadable:
            typer.echo(f"❌ {each.id} {each.provider} {each.label} does not open: enter it again")
        typer.echo(f"{'❌' if unreadable else '✅'} {checked - len(unreadable)} of {checked} secrets open")
    return not unreadable


imports.add_to(group)


def _one_owner(user: str | None, guild: str | None) -> None:
    if (user is None) == (guild is None):
        raise typer.BadParameter("say whose: --user NAME or --guild ID")


def _members(view: CredentialView) -> dict[str, Any]:
    return {
        "id": view.id,
        "provider": view.provider,
        "label": view.label,
        "masked": view.masked,
        "version": view.version,
        "status": view.status.value,
        "created_at": view.created_at,
        "updated_at": view.updated_at,
        "expires_at": view.expires_at,
        "last_used_at": view.last_used_at,
        "secret_age_days": view.secret_age_days,
        "concern": None if view.concern is None else view.concern.value,
    }


def _former_members(former: HistoryView) -> dict[str, Any]:
    return {
        "version": former.version,
        "masked": former.masked,
        "readable": former.readable,
        "created_at": former.created_at,
        "replaced_at": former.replaced_at,
    }
