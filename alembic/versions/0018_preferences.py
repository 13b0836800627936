"""The language and the time zone of a user. Runs on: Keyhall 0.1.0 and newer."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    for name in ("language", "time_zone"):
        text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
        op.add_column("users", sa.Column(name, text, nullable=True))
