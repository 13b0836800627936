"""Backups: written, verified, kept."""

from app.services.backup.creation import BackupCreation, CreatedBackup
from app.services.backup.service import BackupService, BackupView
from app.services.backup.verification import BackupVerification

__all__ = ["BackupCreation", "BackupService", "BackupVerification", "BackupView", "CreatedBackup"]
