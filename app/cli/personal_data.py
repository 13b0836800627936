"""``keyhall users export`` and ``erase``: everything that is stored about a person."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.backend import backend
from app.cli.output import AsJson, JsonDocument, show_json
from app.domain.errors import InvalidInput

if TYPE_CHECKING:
    from typing import BinaryIO

    from app.cli.backend import Backend
    from app.domain.privacy import ErasedRows


def add_to(group: typer.Typer) -> None:
    """Register the commands."""
    group.command()(export)
    group.command()(erase)


def export(
    context: typer.Context,
    name: Annotated[str, typer.Argument()],
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The file to make (0600).")],
    with_secrets: Annotated[
        bool, typer.Option("--with-secrets", help="With the secrets of credentials, instead of masks.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write everything that is stored about a person into a file, as JSON.

    Secrets are masked, unless --with-secrets is given: then a row of the audit trail for each is stored first.
    """
    opened = backend(context)
    try:
        with opened.private_file(output, replace=force) as written:
            asyncio.run(_export(opened, name, written, with_secrets=with_secrets))
    except FileExistsError:
        raise InvalidInput("--output", f"{output} is there already: name another file, or give --force") from None
    except OSError as error:
        raise InvalidInput("--output", f"{output} cannot be written: {error.strerror}") from None
    typer.echo(f"everything about {name} is in {output}" + (", with secrets: keep it safe" if with_secrets else ""))


async def _export(opened: Backend, name: str, to: BinaryIO, *, with_secrets: bool) -> None:
    async with opened.services() as services:
        operator = await services.identity.operator()
        document = JsonDocument(to)
        async for part in services.personal_data.of_user(operator, name, with_secrets=with_secrets):
            document.add(part.section, part.content, rows=part.rows)
        document.end()


def erase(
    context: typer.Context,
    name: Annotated[str, typer.Argument()],
    confirm: Annotated[str, typer.Option("--confirm", metavar="NAME", help="The name once more.")],
    as_json: AsJson = False,
) -> None:
    """Erase a person for good: the account, sessions, and every credential that they own or shared.

    The audit trail stays and still verifies: it names the person by a random id. Backups from before still hold
    everything until they are deleted; a restore of one erases the person again.
    """
    gone = asyncio.run(_erase(backend(context), name, confirm))
    if as_json:
        show_json({"credentials": gone.credentials, "shared": gone.shared, "sessions": gone.sessions})
        return
    typer.echo(
        f"{name} is erased: {gone.credentials} credentials, {gone.shared} shared with servers, {gone.sessions} sessions"
    )


async def _erase(opened: Backend, name: str, confirm: str) -> ErasedRows:
    async with opened.services() as services:
        return await services.erasure.of_user(await services.identity.operator(), name, confirm=confirm)
