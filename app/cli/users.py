"""``keyhall users``: accounts, and their link to Discord."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import accounts, personal_data
from app.cli.accounts import members
from app.cli.backend import backend
from app.cli.output import AsJson, link_address, read_secret, show_json
from app.domain.identity import Role
from app.domain.links import LINK_LASTS

if TYPE_CHECKING:
    from app.cli.backend import Backend
    from app.domain.identity import User
    from app.services.links import Claimable

group = typer.Typer(rich_markup_mode=None)

_PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", exists=True, dir_okay=False, help="Read the password from here.")
]


@group.command("create-owner")
def create_owner(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Default: owner.")] = None,
    username: Annotated[str | None, typer.Option("--username", help="The same as NAME.")] = None,
    password_file: _PasswordFile = None,
) -> None:
    """Make the first owner; the password comes from a prompt, from standard input or from a file."""
    chosen = name or username or (typer.prompt("Name", default="owner") if sys.stdin.isatty() else "owner")
    password = read_secret("Password", password_file, repeat=True)
    asyncio.run(_create_owner(backend(context), chosen, password))


async def _create_owner(opened: Backend, name: str, password: str) -> None:
    async with opened.services() as services:
        actor = await services.identity.operator()
        user = await services.identity.create_owner(name, password, actor.client)
    typer.echo(f"{user.username} is the owner")


@group.command()
def create(  # noqa: PLR0917 - each is an argument or option of the command
    context: typer.Context,
    name: Annotated[str, typer.Argument()],
    role: Annotated[Role, typer.Option("--role")] = Role.MEMBER,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read a password from standard input, instead of making a link.")
    ] = False,
    password_file: _PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Make an account and print its claim link, by which its owner chooses the password: once, within 7 days.

    With --password-stdin or --password-file the account gets that password, and there is no link.
    """
    if password_stdin or password_file is not None:
        password = read_secret("Password", password_file, repeat=True)
        asyncio.run(_create(backend(context), name, password, role, as_json=as_json))
    else:
        asyncio.run(_create_claimable(backend(context), name, role, as_json=as_json))


async def _create(opened: Backend, name: str, password: str, role: Role, *, as_json: bool) -> None:
    async with opened.services() as services:
        user = await services.identity.create(await services.identity.operator(), name, password, role)
    if as_json:
        show_json(members(user))
    else:
        typer.echo(f"{user.username} is a user with the role {user.role.value}")


async def _create_claimable(opened: Backend, name: str, role: Role, *, as_json: bool) -> None:
    async with opened.services() as services:
        made = await services.identity.create_claimable(await services.identity.operator(), name, role)
    typer.echo(f"{made.user.username} is a user with the role {made.user.role.value}", err=True)
    _show_link(opened, made, as_json=as_json)


@group.command("claim-link")
def claim_link(context: typer.Context, name: Annotated[str, typer.Argument()], as_json: AsJson = False) -> None:
    """Print a new claim link of a user who has no password yet; an earlier one stops working."""
    asyncio.run(_claim_link(backend(context), name, as_json=as_json))


async def _claim_link(opened: Backend, name: str, *, as_json: bool) -> None:
    async with opened.services() as services:
        made = await services.claims.issue(await services.identity.operator(), name)
    _show_link(opened, made, as_json=as_json)


def _show_link(opened: Backend, made: Claimable, *, as_json: bool) -> None:
    link = link_address(opened, made.token)
    if as_json:
        show_json({**members(made.user), "claim_link": link})
        return
    typer.echo(f"Give {made.user.username} this link; it works once, for {LINK_LASTS.days} days:", err=True)
    typer.echo(link)


@group.command("set-password")
def set_password(
    context: typer.Context, name: Annotated[str, typer.Argument()], password_file: _PasswordFile = None
) -> None:
    """Set a user's password, as the last resort: from a prompt, standard input or a file. All their sessions end.

    The operator learns the password, so the user should change it on the page /account.
    """
    password = read_secret("New password", password_file, repeat=True)
    user = asyncio.run(_set_password(backend(context), name, password))
    typer.echo(f"The password of {user.username} is set, and all their sessions have ended")


async def _set_password(opened: Backend, name: str, password: str) -> User:
    async with opened.services() as services:
        return await services.passwords.set(await services.identity.operator(), name, password)


@group.command()
def link(
    context: typer.Context, name: Annotated[str, typer.Argument()], discord_id: Annotated[str, typer.Argument()]
) -> None:
    """Join an account and a Discord account; what was stored from Discord moves to the account."""
    asyncio.run(_link(backend(context), name, discord_id))


async def _link(opened: Backend, name: str, discord_id: str) -> None:
    async with opened.services() as services:
        linked = await services.identity.link(await services.identity.operator(), name, discord_id)
    typer.echo(
        f"{linked.user.username} is linked to Discord {linked.user.discord_id}; credentials moved: {linked.moved}"
    )
    for each in linked.renamed:
        typer.echo(f"{each.provider}: {each.label!r} is {each.new_label!r} now, since that label was taken")


@group.command()
def unlink(context: typer.Context, name: Annotated[str, typer.Argument()]) -> None:
    """Part an account from its Discord account; credentials stay with the account."""
    asyncio.run(_unlink(backend(context), name))
    typer.echo(f"{name} is not linked to Discord any more")


async def _unlink(opened: Backend, name: str) -> None:
    async with opened.services() as services:
        await services.identity.unlink(await services.identity.operator(), name)


@group.command()
def unlock(context: typer.Context, name: Annotated[str, typer.Argument()]) -> None:
    """Let a user try again who is refused for too many wrong passwords."""
    user = asyncio.run(_unlock(backend(context), name))
    typer.echo(f"{user.username} may try again: the wrong passwords are forgotten")


async def _unlock(opened: Backend, name: str) -> User:
    async with opened.services() as services:
        return await services.authentication.unlock(await services.identity.operator(), name)


accounts.add_to(group)
personal_data.add_to(group)
