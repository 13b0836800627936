"""Erasures, and the indexes by which everything about a person is found. Runs on: Keyhall 0.1.0 and newer."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from alembic import op

revision = "0016"
down_revision = "0015"


def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _moment() -> sa.types.TypeEngine[Any]:
    return sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.create_table(
        "erasures",
        sa.Column("user_id", _text(), nullable=False),
        sa.Column("subject_id", _text(), nullable=False),
        sa.Column("erased_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_erasures")),
    )
    op.create_index(op.f("ix_erasures_erased_at"), "erasures", ["erased_at"])
    there = sa.text("address_id IS NOT NULL")
    op.create_index(
        op.f("ix_audit_events_address_id"), "audit_events", ["address_id"], sqlite_where=there, postgresql_where=there
    )
    op.create_index(op.f("ix_usage_hours_subject_id"), "usage_hours", ["subject_id"])
