"""How rows of the audit trail are written to a file for other programs: as JSON lines, or as a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from app.domain.audit import AuditItem

_COLUMNS: Final = tuple(each.name for each in fields(AuditItem))
_FORMULA: Final = re.compile(r"(^|[;\t\r\n])(\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])")


class ExportFormat(StrEnum):
    """How an export is written."""

    JSONL = "jsonl"
    CSV = "csv"


def heading(wanted: ExportFormat) -> bytes:
    """The begin of the file."""
    return csv_line(_COLUMNS) if wanted is ExportFormat.CSV else b""


def lines(items: Sequence[AuditItem], wanted: ExportFormat) -> bytes:
    """A line for each row. In a spreadsheet no cell is a formula."""
    if wanted is ExportFormat.JSONL:
        return "".join(f"{_json(each.as_members())}\n" for each in items).encode()
    return b"".join(csv_line([_cell(member) for member in each.as_members().values()]) for each in items)


def csv_line(cells: Sequence[str]) -> bytes:
    """A line of a spreadsheet; a cell that begins like a formula gets an apostrophe in front."""
    written = io.StringIO()
    csv.writer(written).writerow([_harmless(each) for each in cells])
    return written.getvalue().encode()


def _harmless(cell: str) -> str:
    """The cell with an apostrophe where a spreadsheet would take it for a formula (OWASP, CSV injection).

    Also behind a semicolon, a tab or a line end: in many countries a spreadsheet begins another cell there.
    """
    return _FORMULA.sub(r"\1'\2", cell)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return _json(value)
    return _time(value) if isinstance(value, datetime) else "" if value is None else str(value)


def _json(value: object) -> str:
    return json.dumps(value, default=_time)


def _time(value: object) -> str:
    if not isinstance(value, datetime):
        raise TypeError
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
