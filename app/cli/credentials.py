"""``keyhall credentials``: the operator's view of what members and guilds stored."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.opener import opener
from app.cli.output import AsJson, read_secret, show_json, show_table, when

if TYPE_CHECKING:
    from app.cli.opener import Opener
    from app.domain.credentials import CredentialView

group = typer.Typer(help="Credentials of members and guilds.", no_args_is_help=True)

_User = Annotated[str | None, typer.Option("--user", metavar="NAME", help="Whose: a user's.")]
_Guild = Annotated[str | None, typer.Option("--guild", metavar="ID", help="Whose: a Discord server's.")]
_SecretFile = Annotated[
    Path | None, typer.Option("--secret-file", exists=True, dir_okay=False, help="Read it from here.")
]
_PAGE = 100


@group.command("list")
def list_(context: typer.Context, user: _User = None, guild: _Guild = None, as_json: AsJson = False) -> None:
    """List the credentials of a user or a server, masked."""
    _one_owner(user, guild)
    asyncio.run(_list(opener(context), user, guild, as_json=as_json))


async def _list(opened: Opener, user: str | None, guild: str | None, *, as_json: bool) -> None:
    async with opened.services() as services:
        actor = await services.identity.operator_for(username=user, guild_id=guild)
        items: list[CredentialView] = []
        cursor: str | None = None
        while True:
            page = await services.credentials.page(actor, after=cursor, limit=_PAGE, guild_id=guild)
            items += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
    if as_json:
        show_json([_members(each) for each in items])
        return
    show_table(
        ("ID", "PROVIDER", "LABEL", "SECRET", "STATUS", "UPDATED"),
        [(each.id, each.provider, each.label, each.masked, each.status.value, when(each.updated_at)) for each in items],
    )


@group.command()
def add(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    provider: Annotated[str, typer.Argument(help="For instance openai.")],
    label: Annotated[str, typer.Argument(help="What people will call it.")],
    user: _User = None,
    guild: _Guild = None,
    secret_file: _SecretFile = None,
    expires: Annotated[datetime | None, typer.Option("--expires", help="When it expires, in UTC.")] = None,
    as_json: AsJson = False,
) -> None:
    """Store a credential; the secret comes from a prompt, from standard input or from a file."""
    _one_owner(user, guild)
    secret = read_secret("Secret", secret_file)
    moment = expires.replace(tzinfo=UTC) if expires else None
    asyncio.run(_add(opener(context), (provider, label, secret, moment), user, guild, as_json=as_json))


async def _add(
    opened: Opener,
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
def remove(
    context: typer.Context,
    credential_id: Annotated[str, typer.Argument(metavar="ID")],
    user: _User = None,
    guild: _Guild = None,
) -> None:
    """Remove a credential; it can be restored for 7 days."""
    _one_owner(user, guild)
    asyncio.run(_remove(opener(context), credential_id, user, guild))
    typer.echo(f"removed {credential_id}; it can be restored for 7 days")


async def _remove(opened: Opener, credential_id: str, user: str | None, guild: str | None) -> None:
    async with opened.services() as services:
        actor = await services.identity.operator_for(username=user, guild_id=guild)
        await services.credentials.remove(actor, credential_id)


@group.command()
def verify(context: typer.Context, as_json: AsJson = False) -> None:
    """Decrypt every credential, and its history; exit 1 if one does not open, naming it."""
    if not asyncio.run(_verify(opener(context), as_json=as_json)):
        raise typer.Exit(1)


async def _verify(opened: Opener, *, as_json: bool) -> bool:
    async with opened.services() as services:
        actor = await services.identity.operator()
        verdicts = [each async for each in services.credentials.verify_all(actor)]
    unreadable = [each for each in verdicts if not each.ok]
    if as_json:
        failing = [{"id": each.id, "provider": each.provider, "label": each.label} for each in unreadable]
        show_json({"checked": len(verdicts), "unreadable": failing})
    else:
        for each in unreadable:
            typer.echo(f"❌ {each.id} {each.provider} {each.label} does not open: enter it again")
        typer.echo(f"{'❌' if unreadable else '✅'} {len(verdicts) - len(unreadable)} of {len(verdicts)} secrets open")
    return not unreadable


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
    }
