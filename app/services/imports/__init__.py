"""Imports from other programs: readers that find entries in a source, and the service that stores them once."""

from __future__ import annotations

from app.services.imports.service import ImportService

__all__ = ["ImportService"]
