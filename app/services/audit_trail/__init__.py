"""The audit trail as a whole: sealed, verified, read. Its rows are written through `app.services.audit`."""

from __future__ import annotations

from app.services.audit_trail.reading import ABOUT_PATTERN, ACTION_PATTERN, AuditQuery, AuditReading, Stretch
from app.services.audit_trail.retention import AuditRetention, AuditRetentionRule
from app.services.audit_trail.sealing import AuditSealing
from app.services.audit_trail.verification import AuditVerification, VerificationAt

__all__ = [
    "ABOUT_PATTERN",
    "ACTION_PATTERN",
    "AuditQuery",
    "AuditReading",
    "AuditRetention",
    "AuditRetentionRule",
    "AuditSealing",
    "AuditVerification",
    "Stretch",
    "VerificationAt",
]
