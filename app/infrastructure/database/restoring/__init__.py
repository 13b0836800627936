"""Restoring: a database is made beside the one that it replaces, and takes its place in one transaction."""

from app.infrastructure.database.restoring.loading import fits
from app.infrastructure.database.restoring.place import restore_target
from app.infrastructure.database.restoring.staging import staged_file

__all__ = ["fits", "restore_target", "staged_file"]
