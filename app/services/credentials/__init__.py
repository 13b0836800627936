"""Credentials, a package: the service is the door, everything else is behind it."""

from __future__ import annotations

from app.services.credentials.cipher import CredentialCipher
from app.services.credentials.service import CredentialService
from app.services.credentials.values import (
    UNSET,
    Added,
    EnvironmentCredentials,
    HealthReport,
    HistoryView,
    LabelChoice,
    ProviderHealth,
    Standing,
    Unset,
    UsableCredential,
    Verdict,
)

__all__ = [
    "UNSET",
    "Added",
    "CredentialCipher",
    "CredentialService",
    "EnvironmentCredentials",
    "HealthReport",
    "HistoryView",
    "LabelChoice",
    "ProviderHealth",
    "Standing",
    "Unset",
    "UsableCredential",
    "Verdict",
]
