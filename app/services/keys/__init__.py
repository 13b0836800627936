"""Application keys: read and verified (reading), made and changed (writing), handed out while confirmed (service)."""

from app.services.keys.management import KeyManagementService
from app.services.keys.ring import InstallRules, KeyCheck, KeyRing, KeyVersionInfo, Primary

__all__ = ["InstallRules", "KeyCheck", "KeyManagementService", "KeyRing", "KeyVersionInfo", "Primary"]
