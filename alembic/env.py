"""The environment of Alembic: within an upgrade (app/infrastructure/database/migrate.py) or on its command line."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from alembic import context
from app.infrastructure.database.engine import open_database
from app.infrastructure.database.migrate import LOCK
from app.infrastructure.database.schema import metadata
from app.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        on_version_apply=context.config.attributes.get("on_version_apply"),
    )
    # The transaction is the caller's: any failure undoes every migration of this upgrade.
    with context.begin_transaction():
        context.run_migrations()


async def _from_the_command_line() -> None:
    url = Settings.load().database_url
    async with open_database(url, may_create=True) as database:
        await database.rebuild(LOCK, _run)


if (given := context.config.attributes.get("connection")) is not None:
    _run(given)
elif context.is_offline_mode():
    raise SystemExit("alembic: Keyhall's migrations need the database; there is no --sql")
else:
    asyncio.run(_from_the_command_line())
