"""The form that a username has in common with those that look like it. Runs on: Keyhall 0.1.0 and newer.

Of users whose names look alike already, the first keeps the form to itself; the others go on as they are.
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op
from app.domain.identity import name_key
from app.domain.lookalikes import skeleton

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.add_column("users", sa.Column("name_skeleton", text, nullable=True))
    op.create_index("uq_users_name_skeleton", "users", ["name_skeleton"], unique=True)
    users = sa.table("users", sa.column("id"), sa.column("username"), sa.column("name_key"), sa.column("name_skeleton"))
    connection = op.get_bind()
    rows = connection.execute(sa.select(users.c.id, users.c.username, users.c.name_key).order_by(users.c.id)).all()
    keys, skeletons = {row.name_key for row in rows}, set()
    for row in rows:
        new: dict[str, str] = {}
        if (form := skeleton(row.username)) not in skeletons:
            skeletons.add(form)
            new["name_skeleton"] = form
        if (key := name_key(row.username)) not in keys:
            keys.add(key)
            new["name_key"] = key
        if new:
            connection.execute(users.update().where(users.c.id == row.id).values(new))
