"""Invitations: one-time links of a role, for somebody who has no account yet. Runs on: Keyhall 0.1.0 and newer.

And an index of the owners, of whom one must always remain.
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0015"
down_revision = "0014"


def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    with op.batch_alter_table("one_time_links") as batch:
        batch.alter_column("user_id", existing_type=_text(), nullable=True)
        batch.add_column(sa.Column("role", _text(), nullable=True))
        batch.add_column(sa.Column("issued_by", _text(), nullable=True))
        batch.create_check_constraint(
            op.f("ck_one_time_links_account_or_role"), "(user_id IS NULL) = (role IS NOT NULL)"
        )
        batch.create_index(op.f("ix_one_time_links_issued_by"), ["issued_by"])
    owners = sa.text("role = 'owner'")
    op.create_index("ix_users_owners", "users", ["role"], sqlite_where=owners, postgresql_where=owners)
