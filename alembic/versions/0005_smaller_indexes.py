"""Indexes that hold only the rows that somebody looks for. Runs on: Keyhall 0.1.0 and newer.

Removed credentials and revoked sessions are found by their time; the other rows have no entry, and cost less to write.
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for table, column in (("sessions", "revoked_at"), ("api_credentials", "deleted_at")):
        name = op.f(f"ix_{table}_{column}")
        there = sa.text(f"{column} IS NOT NULL")
        op.drop_index(name, table)
        op.create_index(name, table, [column], sqlite_where=there, postgresql_where=there)
    shared = sa.text("owner_kind = 'guild'")
    op.create_index(
        "ix_api_credentials_sharer", "api_credentials", ["created_by"], sqlite_where=shared, postgresql_where=shared
    )
