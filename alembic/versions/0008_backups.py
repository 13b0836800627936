"""The backups that an install made. Runs on: Keyhall 0.1.0 and newer."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from alembic import op

revision = "0008"
down_revision = "0007"


def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _moment() -> sa.types.TypeEngine[Any]:
    return sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.create_table(
        "backups",
        sa.Column("id", _text(), nullable=False),
        sa.Column("path", _text(), nullable=False),
        sa.Column("managed", sa.Boolean(), nullable=False),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", _text(), nullable=False),
        sa.Column("credentials", sa.Integer(), nullable=False),
        sa.Column("unreadable", sa.Integer(), nullable=False),
        sa.Column("users", sa.Integer(), nullable=False),
        sa.Column("latest_seal", _text(), nullable=True),
        sa.Column("verified_at", _moment(), nullable=True),
        sa.Column("rehearsed_at", _moment(), nullable=True),
        sa.Column("rehearsal", _text(), nullable=True),
        sa.Column("rehearsal_note", _text(), nullable=True),
        sa.CheckConstraint("rehearsal IN ('ok', 'failed', 'not_decryptable')", name=op.f("ck_backups_rehearsal_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backups")),
    )
