"""A person's data: the export of all of it, and its erasure."""

from __future__ import annotations

from app.services.privacy.erasure import PersonErasure, erase_in
from app.services.privacy.export import ExportPart, PersonalDataExport

__all__ = ["ExportPart", "PersonErasure", "PersonalDataExport", "erase_in"]
