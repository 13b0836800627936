"""Restores of backups, made in this process, and installs with some of everything in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.bootstrap.restore import open_backup_restore
from tests.support.backups import OPENS, content
from tests.support.rotations import stored

if TYPE_CHECKING:
    from pathlib import Path

    from app.domain.restoring import RestoreReport
    from tests.support.installs import Place

GUILD: Final = "900000000000000001"
SECRET: Final = "sk-proj-4f9aTq7ZbX2mLw8vKd3Yc6Rn"
LABELS: Final = ("one", "two", "zoë \U0001f511")


async def fill(place: Place) -> Place:
    """An install with credentials, one of which has a history."""
    await place.install()
    async with place.services() as services:
        actor = await services.identity.operator_for(guild_id=GUILD)
        for label in LABELS:
            await services.credentials.add(
                actor, provider="openai", label=label, secret=f"{SECRET}{label}", guild_id=GUILD
            )
        page = await services.credentials.page(actor, guild_id=GUILD)
        await services.credentials.replace(actor, page.items[0].id, f"{SECRET}second")
    return place


async def restore(
    place: Place, path: Path, *, into: str | None = None, accept_unreadable: bool = False
) -> RestoreReport:
    """Restore a backup, as `keyhall backup restore --yes` does."""
    async with open_backup_restore(place.load(), into) as restoring:
        return await restoring.restore(path, OPENS, accept_unreadable=accept_unreadable, show=lambda *_: None)


async def secrets_of(place: Place) -> dict[str, list[str]]:
    """Every secret, former ones too, by the credential's id, opened by the services."""
    async with place.services() as services:
        return await stored(services)


def rows_in(path: Path) -> dict[str, list[tuple[str, ...]]]:
    """The rows of a backup by table, as comparable text; the keys and the audit trail, which change, left out."""
    _, rows = content(path.read_bytes())
    found: dict[str, list[tuple[str, ...]]] = {}
    for table, row in rows:
        if table not in {"app_config", "audit_events", "backups"}:
            found.setdefault(table, []).append(tuple(f"{name}={_plain(value)}" for name, value in sorted(row.items())))
    return {table: sorted(those) for table, those in found.items()}


def _plain(value: Any) -> str:
    return repr(value)
