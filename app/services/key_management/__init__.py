"""Application keys: read and verified (reading), made and changed (writing), handed out while confirmed (service)."""

from app.services.key_management.ring import InstallRules, KeyListing, KeyRing, KeyVerdict, Primary
from app.services.key_management.service import KeyManagementService

__all__ = ["InstallRules", "KeyListing", "KeyManagementService", "KeyRing", "KeyVerdict", "Primary"]
