"""The chain of audit seals and the sums of uses. Runs on: Keyhall 0.1.0 and newer.

Rows that are there already are sealed by the first worker that runs.
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    moment = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
    op.add_column("audit_events", sa.Column("position", sa.BigInteger(), nullable=True))
    sealed, unsealed = sa.text("segment IS NOT NULL"), sa.text("segment IS NULL")
    op.create_index(
        "uq_audit_events_position",
        "audit_events",
        ["segment", "position"],
        unique=True,
        sqlite_where=sealed,
        postgresql_where=sealed,
    )
    op.create_index(
        "ix_audit_events_unsealed",
        "audit_events",
        ["segment", "id"],
        sqlite_where=unsealed,
        postgresql_where=unsealed,
    )
    op.create_table(
        "audit_segments",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("stream", text, nullable=False),
        sa.Column("value", text, nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_segments")),
    )
    op.create_index("ix_audit_segments_stream_number", "audit_segments", ["stream", "number"])
    op.create_table(
        "usage_hours",
        sa.Column("hour", moment, nullable=False),
        sa.Column("object_kind", text, nullable=False),
        sa.Column("object_id", text, nullable=False),
        sa.Column("subject_id", text, nullable=False),
        sa.Column("source", text, nullable=False),
        sa.Column("result", text, nullable=False),
        sa.Column("uses", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "hour", "object_kind", "object_id", "subject_id", "source", "result", name=op.f("pk_usage_hours")
        ),
    )
