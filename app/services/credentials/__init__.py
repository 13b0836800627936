"""Credentials: what edges and other services use is exported here; the rest is internal to the package."""

from __future__ import annotations

from app.services.credentials.access import CredentialAccess
from app.services.credentials.cipher import CredentialCipher
from app.services.credentials.guilds import SharedCredential
from app.services.credentials.service import CredentialService
from app.services.credentials.transfer import CredentialTransfer, Moved, Planned, Renamed
from app.services.credentials.values import (
    UNSET,
    Added,
    CredentialCounts,
    CredentialDetail,
    CredentialList,
    DayOfUse,
    EnvironmentCredentials,
    ExpiringCredential,
    HealthReport,
    HistoryView,
    LabelChoice,
    Overview,
    ProviderHealth,
    Replaced,
    Stretch,
    UnreadableSecret,
    Unset,
    UsableCredential,
    Usage,
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
    "DayOfUse",
    "EnvironmentCredentials",
    "ExpiringCredential",
    "HealthReport",
    "HistoryView",
    "LabelChoice",
    "Moved",
    "Overview",
    "Planned",
    "ProviderHealth",
    "Renamed",
    "Replaced",
    "SharedCredential",
    "Stretch",
    "UnreadableSecret",
    "Unset",
    "UsableCredential",
    "Usage",
    "Verified",
]
