"""Indexes by which expired rows are found for deletion. Runs on: Keyhall 0.1.0 and newer."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index(op.f("ix_sessions_revoked_at"), "sessions", ["revoked_at"])
    op.create_index(op.f("ix_api_credentials_deleted_at"), "api_credentials", ["deleted_at"])
    op.create_index(op.f("ix_jobs_finished_at"), "jobs", ["finished_at"])
    op.create_index(op.f("ix_attempts_window"), "attempts", ["window"])
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"])
