"""One-time links, and marks of imported entries. Runs on: Keyhall 0.1.0 and newer."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from alembic import op

revision = "0007"
down_revision = "0006"


def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _moment() -> sa.types.TypeEngine[Any]:
    return sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.create_table(
        "one_time_links",
        sa.Column("id", _text(), nullable=False),
        sa.Column("purpose", _text(), nullable=False),
        sa.Column("user_id", _text(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("expires_at", _moment(), nullable=False),
        sa.Column("used_at", _moment(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_one_time_links_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_one_time_links")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_one_time_links_token_hash")),
    )
    op.create_index(op.f("ix_one_time_links_user_id"), "one_time_links", ["user_id"])
    op.create_index(op.f("ix_one_time_links_expires_at"), "one_time_links", ["expires_at"])
    op.create_table(
        "imported_entries",
        sa.Column("mark", sa.LargeBinary(), nullable=False),
        sa.Column("credential_id", _text(), nullable=False),
        sa.Column("imported_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("mark", name=op.f("pk_imported_entries")),
    )
