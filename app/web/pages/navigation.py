"""The pages that a reader can go to: one list, from which the navigation is drawn."""

from __future__ import annotations

from typing import Final

from app.domain.identity import Permission, Role
from app.localisation import mark

_ADMINISTRATION: Final[tuple[tuple[str, str, Permission], ...]] = (
    ("/admin/keys", mark("Keys"), Permission.SEE_KEYS),
    ("/admin/users", mark("Users"), Permission.MANAGE_USERS),
    ("/admin/credentials", mark("Credentials"), Permission.SEE_ALL_CREDENTIALS),
    ("/admin/audit", mark("Audit trail"), Permission.READ_AUDIT),
    ("/admin/backups", mark("Backups"), Permission.SEE_KEYS),
    ("/admin/health", mark("Health"), Permission.SEE_KEYS),
)
"""Address, title (marked for the catalogue) and the permission that its services ask for, in the order shown:
keys, users, credentials, audit, backups, health.
"""


def administration(role: Role) -> list[tuple[str, str]]:
    """Address and title of the pages of administration that the role can open; the first one leads in."""
    return [(path, title) for path, title, permission in _ADMINISTRATION if role.grants(permission)]
