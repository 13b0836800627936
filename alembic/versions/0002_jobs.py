"""Jobs, schedules of keys, and which master keys a process holds. Runs on: Keyhall 0.1.0 and newer."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"


def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _moment() -> sa.types.TypeEngine[Any]:
    return sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.add_column("instances", sa.Column("master_key_ids", _text(), server_default="", nullable=False))
    op.create_table(
        "jobs",
        sa.Column("id", _text(), nullable=False),
        sa.Column("kind", _text(), nullable=False),
        sa.Column("payload", _text(), nullable=False),
        sa.Column("state", _text(), nullable=False),
        sa.Column("unique_key", _text(), nullable=True),
        sa.Column("run_at", _moment(), nullable=False),
        sa.Column("claim", _text(), nullable=True),
        sa.Column("lease_until", _moment(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("step", _text(), nullable=False),
        sa.Column("cursor", _text(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=True),
        sa.Column("note", _text(), nullable=False),
        sa.Column("error", _text(), nullable=True),
        sa.Column("requested_by", _text(), nullable=True),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("finished_at", _moment(), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'done', 'failed', 'cancelled')", name=op.f("ck_jobs_state_known")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(op.f("ix_jobs_state_run_at"), "jobs", ["state", "run_at"])
    op.create_index(
        "uq_jobs_unfinished",
        "jobs",
        ["unique_key"],
        unique=True,
        sqlite_where=sa.text("state IN ('waiting', 'running')"),
        postgresql_where=sa.text("state IN ('waiting', 'running')"),
    )
    op.create_table(
        "key_schedules",
        sa.Column("name", _text(), nullable=False),
        sa.Column("rotation_days", sa.Integer(), nullable=False),
        sa.Column("automatic", sa.Boolean(), nullable=False),
        sa.Column("updated_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_key_schedules")),
    )
