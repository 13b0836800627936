"""``keyhall users``: roles, disabling, resets and invitations."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.backend import backend
from app.cli.output import AsJson, link_address, show_json, show_table, when
from app.domain.identity import Role, UserFilter
from app.domain.links import LINK_LASTS
from app.domain.times import duration

if TYPE_CHECKING:
    from app.cli.backend import Backend
    from app.domain.identity import User
    from app.domain.links import Invitation
    from app.services.invitations import Invited
    from app.services.links import Claimable

_PAGE = 100
_Name = Annotated[str, typer.Argument()]


def add_to(group: typer.Typer) -> None:
    """Register the commands."""
    group.command("list")(list_)
    group.command("set-role")(set_role)
    group.command()(disable)
    group.command()(enable)
    group.command()(reset)
    group.command()(invite)
    group.command()(invitations)
    group.command()(withdraw)


def members(user: User) -> dict[str, Any]:
    """A user in JSON."""
    return {
        "id": user.id,
        "username": user.username,
        "role": user.role.value,
        "discord_id": user.discord_id,
        "disabled": user.disabled_at is not None,
        "claimed": user.password_hash is not None,
        "created_at": user.created_at,
    }


def list_(
    context: typer.Context,
    name: Annotated[str | None, typer.Option("--name", help="Those whose name holds this.")] = None,
    role: Annotated[Role | None, typer.Option("--role")] = None,
    disabled: Annotated[
        bool | None, typer.Option("--disabled/--active", help="Those who are disabled, or those who are not.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List users: all, or those of a name, role or state."""
    wanted = UserFilter(name=name, role=role, disabled=disabled)
    users = asyncio.run(_list(backend(context), wanted))
    if as_json:
        show_json([members(each) for each in users])
        return
    show_table(
        ("NAME", "ROLE", "DISCORD", "STATE", "CREATED"),
        [
            (
                each.username,
                each.role.value,
                each.discord_id or "-",
                "disabled" if each.disabled_at else "active",
                when(each.created_at),
            )
            for each in users
        ],
    )


async def _list(opened: Backend, wanted: UserFilter) -> list[User]:
    users: list[User] = []
    async with opened.services() as services:
        actor = await services.identity.operator()
        cursor: str | None = None
        while True:
            page = await services.users.page(actor, wanted=wanted, after=cursor, limit=_PAGE)
            users += page.items
            cursor = page.next_cursor
            if cursor is None:
                return users


def set_role(
    context: typer.Context, name: _Name, role: Annotated[Role, typer.Argument()], as_json: AsJson = False
) -> None:
    """Give a user another role. Who loses a right by it is signed out everywhere.

    There may be several owners; the last one who can sign in keeps the role.
    """
    user = asyncio.run(_change(backend(context), name, role=role))
    _show(user, f"{user.username} has the role {user.role.value}", as_json=as_json)


def disable(context: typer.Context, name: _Name, as_json: AsJson = False) -> None:
    """Disable an account: sessions end everywhere, API tokens and Discord are refused, until it is enabled."""
    user = asyncio.run(_change(backend(context), name, disabled=True))
    _show(user, f"{user.username} is disabled and signed out everywhere", as_json=as_json)


def enable(context: typer.Context, name: _Name, as_json: AsJson = False) -> None:
    """Enable a disabled account. Its sessions stay ended."""
    user = asyncio.run(_change(backend(context), name, disabled=False))
    _show(user, f"{user.username} may sign in", as_json=as_json)


async def _change(opened: Backend, name: str, *, role: Role | None = None, disabled: bool | None = None) -> User:
    async with opened.services() as services:
        actor = await services.identity.operator()
        user = await services.users.named(actor, name)
        return await services.users.change(actor, user.id, role=role, disabled=disabled)


def reset(context: typer.Context, name: _Name, as_json: AsJson = False) -> None:
    """Print a link by which a user chooses another password: once, within 7 days.

    The present password stops working, second factors are removed, a linked Discord account is unlinked and every
    session ends, at once.
    """
    opened = backend(context)
    made = asyncio.run(_reset(opened, name))
    link = link_address(opened, made.token)
    if as_json:
        show_json({**members(made.user), "link": link})
        return
    typer.echo(f"Give {made.user.username} this link; it works once, for {LINK_LASTS.days} days:", err=True)
    typer.echo(link)


async def _reset(opened: Backend, name: str) -> Claimable:
    async with opened.services() as services:
        actor = await services.identity.operator()
        user = await services.users.named(actor, name)
        return await services.users.reset(actor, user.id)


def invite(
    context: typer.Context,
    role: Annotated[Role, typer.Option("--role", help="Any but owner.")] = Role.MEMBER,
    expires_in: Annotated[
        str | None, typer.Option("--expires-in", help="Such as 30m, 12h or 7d, the default; at most 30d.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a link by which somebody makes an account with that role: once. REGISTRATION does not matter."""
    opened = backend(context)
    invited = asyncio.run(_invite(opened, role, _span(expires_in)))
    link = None if invited.token is None else link_address(opened, invited.token)
    if as_json:
        show_json({**_invitation(invited.invitation), "link": link})
        return
    until = when(invited.invitation.expires_at)
    typer.echo(f"Give this link to whom you invite; it works once, until {until} UTC:", err=True)
    typer.echo(link)


async def _invite(opened: Backend, role: Role, lasts: timedelta | None) -> Invited:
    async with opened.services() as services:
        return await services.users.invite(await services.identity.operator(), role, lasts=lasts)


def invitations(context: typer.Context, as_json: AsJson = False) -> None:
    """List invitations that can still be used."""
    found = asyncio.run(_invitations(backend(context)))
    if as_json:
        show_json([_invitation(each) for each in found])
        return
    rows = [(each.id, each.role.value, when(each.created_at), when(each.expires_at)) for each in found]
    show_table(("ID", "ROLE", "ISSUED", "EXPIRES"), rows)


async def _invitations(opened: Backend) -> list[Invitation]:
    found: list[Invitation] = []
    async with opened.services() as services:
        actor = await services.identity.operator()
        cursor: str | None = None
        while True:
            page = await services.users.invitations(actor, after=cursor, limit=_PAGE)
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                return found


def withdraw(context: typer.Context, invitation: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Withdraw an invitation that nobody has used."""
    asyncio.run(_withdraw(backend(context), invitation))
    typer.echo("the invitation is withdrawn: its link does not work any more")


async def _withdraw(opened: Backend, invitation: str) -> None:
    async with opened.services() as services:
        await services.users.withdraw(await services.identity.operator(), invitation)


def _span(text: str | None) -> timedelta | None:
    try:
        return None if text is None else duration(text)
    except ValueError as refused:
        raise typer.BadParameter(f"--expires-in {refused}") from None


def _invitation(invitation: Invitation) -> dict[str, Any]:
    return {
        "id": invitation.id,
        "role": invitation.role.value,
        "issued_by": invitation.issued_by,
        "created_at": invitation.created_at,
        "expires_at": invitation.expires_at,
    }


def _show(user: User, sentence: str, *, as_json: bool) -> None:
    if as_json:
        show_json(members(user))
    else:
        typer.echo(sentence)
