"""An index of unreadable credentials. Runs on: Keyhall 0.1.0 and newer."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    unreadable = sa.text("status = 'unreadable'")
    op.create_index(
        "ix_api_credentials_unreadable",
        "api_credentials",
        ["id"],
        sqlite_where=unreadable,
        postgresql_where=unreadable,
    )
