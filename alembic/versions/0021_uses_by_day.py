"""An index of the uses of a credential by their time, for their chart. Runs on: Keyhall 0.1.0 and newer."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0021"
down_revision = "0019"

_USES = sa.text("action = 'credential.used' AND result = 'intent'")


def upgrade() -> None:
    op.create_index(
        "ix_audit_events_uses",
        "audit_events",
        ["object_id", "at"],
        sqlite_where=_USES,
        postgresql_where=_USES,
    )
