"""API tokens. Runs on: Keyhall 0.1.0 and newer."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from alembic import op

revision = "0017"
down_revision = "0016"


def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _moment() -> sa.types.TypeEngine[Any]:
    return sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("id", _text(), nullable=False),
        sa.Column("user_id", _text(), nullable=False),
        sa.Column("name", _text(), nullable=False),
        sa.Column("prefix", _text(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.Column("key_version", sa.BigInteger(), nullable=False),
        sa.Column("scopes", _text(), nullable=False),
        sa.Column("guild_id", _text(), nullable=True),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("expires_at", _moment(), nullable=True),
        sa.Column("last_used_at", _moment(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_api_tokens_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("mac", name=op.f("uq_api_tokens_mac")),
    )
    op.create_index(op.f("ix_api_tokens_expires_at"), "api_tokens", ["expires_at"])
    op.create_index(op.f("ix_api_tokens_user_id_id"), "api_tokens", ["user_id", "id"])
