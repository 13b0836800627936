"""Everything that the first release needs. Runs on: Keyhall 0.1.0 and newer."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from alembic import op

revision = "0001"
down_revision = None


def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _moment() -> sa.types.TypeEngine[Any]:
    return sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.create_table(
        "schema_info",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("min_app", _text(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_schema_info_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schema_info")),
    )
    op.execute("INSERT INTO schema_info (id, min_app) VALUES (1, '0.1.0')")
    op.create_table(
        "app_config",
        sa.Column("key", _text(), nullable=False),
        sa.Column("value", _text(), nullable=False),
        sa.Column("updated_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_app_config")),
    )
    op.create_table(
        "subjects",
        sa.Column("id", _text(), nullable=False),
        sa.Column("kind", _text(), nullable=False),
        sa.Column("value", _text(), nullable=False),
        sa.Column("user_id", _text(), nullable=True),
        sa.CheckConstraint("kind IN ('user', 'address')", name=op.f("ck_subjects_kind_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subjects")),
    )
    op.create_index(
        "uq_subjects_address",
        "subjects",
        ["value"],
        unique=True,
        sqlite_where=sa.text("kind = 'address'"),
        postgresql_where=sa.text("kind = 'address'"),
    )
    op.create_table(
        "users",
        sa.Column("id", _text(), nullable=False),
        sa.Column("subject_id", _text(), nullable=False),
        sa.Column("username", _text(), nullable=False),
        sa.Column("name_key", _text(), nullable=False),
        sa.Column("role", _text(), nullable=False),
        sa.Column("password_hash", _text(), nullable=True),
        sa.Column("discord_id", _text(), nullable=True),
        sa.Column("token_version", sa.Integer(), nullable=False),
        sa.Column("disabled_at", _moment(), nullable=True),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("updated_at", _moment(), nullable=False),
        sa.CheckConstraint("role IN ('owner', 'admin', 'member', 'auditor')", name=op.f("ck_users_role_known")),
        sa.ForeignKeyConstraint(["subject_id"], ["subjects.id"], name=op.f("fk_users_subject_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("discord_id", name=op.f("uq_users_discord_id")),
        sa.UniqueConstraint("name_key", name=op.f("uq_users_name_key")),
    )
    op.create_table(
        "owner_claim",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("user_id", _text(), nullable=False),
        sa.Column("claimed_at", _moment(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_owner_claim_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_owner_claim")),
    )
    op.create_table(
        "sessions",
        sa.Column("id", _text(), nullable=False),
        sa.Column("user_id", _text(), nullable=False),
        sa.Column("cookie_hash", sa.LargeBinary(), nullable=True),
        sa.Column("token_version", sa.Integer(), nullable=False),
        sa.Column("device", _text(), nullable=True),
        sa.Column("address", _text(), nullable=True),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("last_seen_at", _moment(), nullable=False),
        sa.Column("authenticated_at", _moment(), nullable=False),
        sa.Column("expires_at", _moment(), nullable=False),
        sa.Column("revoked_at", _moment(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sessions_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("cookie_hash", name=op.f("uq_sessions_cookie_hash")),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])
    op.create_table(
        "refresh_tokens",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", _text(), nullable=False),
        sa.Column("issued_at", _moment(), nullable=False),
        sa.Column("used_at", _moment(), nullable=True),
        sa.Column("expires_at", _moment(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("fk_refresh_tokens_session_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_refresh_tokens")),
    )
    op.create_index("ix_refresh_tokens_session_id", "refresh_tokens", ["session_id"])
    op.create_table(
        "api_credentials",
        sa.Column("id", _text(), nullable=False),
        sa.Column("owner_kind", _text(), nullable=False),
        sa.Column("owner_id", _text(), nullable=False),
        sa.Column("provider", _text(), nullable=False),
        sa.Column("label", _text(), nullable=False),
        sa.Column("label_key", _text(), nullable=False),
        sa.Column("encrypted_value", sa.LargeBinary(), nullable=False),
        sa.Column("key_version", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("fingerprint", _text(), nullable=True),
        sa.Column("status", _text(), nullable=False),
        sa.Column("created_by", _text(), nullable=False),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("updated_at", _moment(), nullable=False),
        sa.Column("expires_at", _moment(), nullable=True),
        sa.Column("last_used_at", _moment(), nullable=True),
        sa.Column("last_verified_at", _moment(), nullable=True),
        sa.Column("deleted_at", _moment(), nullable=True),
        sa.CheckConstraint("owner_kind IN ('user', 'guild')", name=op.f("ck_api_credentials_owner_kind_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_credentials")),
    )
    op.create_index("ix_api_credentials_owner_kind_owner_id_id", "api_credentials", ["owner_kind", "owner_id", "id"])
    op.create_index("ix_api_credentials_fingerprint", "api_credentials", ["fingerprint"])
    op.create_index(
        "uq_api_credentials_live_label",
        "api_credentials",
        ["owner_kind", "owner_id", "provider", "label_key"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "credential_history",
        sa.Column("id", _text(), nullable=False),
        sa.Column("credential_id", _text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("encrypted_value", sa.LargeBinary(), nullable=False),
        sa.Column("key_version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("replaced_at", _moment(), nullable=False),
        sa.ForeignKeyConstraint(
            ["credential_id"],
            ["api_credentials.id"],
            name=op.f("fk_credential_history_credential_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credential_history")),
        sa.UniqueConstraint("credential_id", "version", name=op.f("uq_credential_history_credential_id_version")),
    )
    op.create_table(
        "audit_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", _moment(), nullable=False),
        sa.Column("action", _text(), nullable=False),
        sa.Column("result", _text(), nullable=False),
        sa.Column("source", _text(), nullable=False),
        sa.Column("subject_id", _text(), nullable=True),
        sa.Column("address_id", _text(), nullable=True),
        sa.Column("object_kind", _text(), nullable=True),
        sa.Column("object_id", _text(), nullable=True),
        sa.Column("detail", _text(), nullable=False),
        sa.Column("segment", sa.BigInteger(), nullable=True),
        sa.Column("seal", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("result IN ('ok', 'denied', 'failed', 'intent')", name=op.f("ck_audit_events_result_known")),
        sa.ForeignKeyConstraint(["address_id"], ["subjects.id"], name=op.f("fk_audit_events_address_id")),
        sa.ForeignKeyConstraint(["subject_id"], ["subjects.id"], name=op.f("fk_audit_events_subject_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_events_at", "audit_events", ["at"])
    op.create_index("ix_audit_events_object_kind_object_id", "audit_events", ["object_kind", "object_id"])
    op.create_index("ix_audit_events_subject_id", "audit_events", ["subject_id"])
    op.create_table(
        "instances",
        sa.Column("id", _text(), nullable=False),
        sa.Column("kind", _text(), nullable=False),
        sa.Column("host", _text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", _moment(), nullable=False),
        sa.Column("lease_until", _moment(), nullable=False),
        sa.Column("epochs", _text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instances")),
    )
    op.create_table(
        "attempts",
        sa.Column("key", _text(), nullable=False),
        sa.Column("window", _moment(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key", "window", name=op.f("pk_attempts")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("user_id", _text(), nullable=False),
        sa.Column("key", _text(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.Column("resource_id", _text(), nullable=False),
        sa.Column("created_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_table(
        "bot_state",
        sa.Column("key", _text(), nullable=False),
        sa.Column("value", _text(), nullable=False),
        sa.Column("updated_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_bot_state")),
    )
