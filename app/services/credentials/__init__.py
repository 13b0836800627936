"""Credentials: what edges and other services use is exported here; the rest is internal to the package."""

from __future__ import annotations

from app.services.credentials.access import CredentialAccess
from app.services.credentials.cipher import CredentialCipher
from app.services.credentials.service import CredentialService
from app.services.credentials.transfer import CredentialTransfer, Moved, Planned, Renamed
from app.services.credentials.values import (
    UNSET,
    Added,
    CredentialCounts,
    CredentialDetail,
    CredentialList,
    EnvironmentCredentials,
    HealthReport,
    HistoryView,
    LabelChoice,
    ProviderHealth,
    Replaced,
    Stretch,
    UnreadableSecret,
    Unset,
    UsableCredential,
    Verified,
)

__all__ = [
    "UNSET",
    "Added",
    "CredentialAccess",
    "CredentialCipher",
    "CredentialCounts",
    "CredentialDetail",
    "CredentialList",
    "CredentialService",
    "CredentialTransfer",
    "EnvironmentCredentials",
    "HealthReport",
    "HistoryView",
    "LabelChoice",
    "Moved",
    "Planned",
    "ProviderHealth",
    "Renamed",
    "Replaced",
    "Stretch",
    "UnreadableSecret",
    "Unset",
    "UsableCredential",
    "Verified",
]
