"""${message}.

Say here which version of Keyhall may still run on this schema, and why (`schema_info.min_app`). There is no downgrade:
the way back is the backup that precedes every upgrade.
"""

from __future__ import annotations

import sqlalchemy as sa
${imports if imports else ""}
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
