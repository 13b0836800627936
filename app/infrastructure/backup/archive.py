"""The archive in a backup: JSON lines, so that `age -d FILE | head -1` shows what it is (decision record 34).

The first line is the header, each further one a row ``[table, {column: value}]``, the last one
``{"end": {"rows": {table: number}, "sha256": hex of every byte before this line}}``. Rows come in the order of the
header's tables, so that no foreign key points at a row that is still to come. A reader believes nothing before it has
read the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from app.domain.backup import FORMAT, BackupHeader, Row, Rows
from app.domain.errors import BackupDamaged, BackupNewer, NotABackup
from app.domain.times import rfc3339, utc_text

LONGEST_LINE: Final = 4 * 1024 * 1024
"""Bytes; a row of Keyhall's has at most some hundred thousand."""
_LARGEST_INTEGER: Final = 2**63
_MOST_TABLES: Final = 200
_TEXTS: Final = ("install_id", "master_key_id", "environment", "app_version", "revision", "min_app")


class ArchiveWriter:
    """Writes an archive to ``write``, line by line."""

    def __init__(self, write: Callable[[bytes], object], header: BackupHeader) -> None:
        self._write = write
        self._digest = hashlib.sha256()
        self._rows = dict.fromkeys(header.tables, 0)
        self._line(_header_object(header))

    @property
    def rows(self) -> int:
        """How many rows were written."""
        return sum(self._rows.values())

    def add(self, table: str, row: Row) -> None:
        """Write a row; every row of a table comes before those of the next. Raises KeyError for another table."""
        self._rows[table] += 1
        self._line([table, row])

    def finish(self) -> None:
        """Write the last line."""
        self._write(orjson.dumps({"end": {"rows": self._rows, "sha256": self._digest.hexdigest()}}) + b"\n")

    def _line(self, content: Any) -> None:
        line = orjson.dumps(content, option=orjson.OPT_PASSTHROUGH_DATETIME) + b"\n"
        self._digest.update(line)
        self._write(line)


class ArchiveReader:
    """Reads an archive from its bytes: the header at once, the rows as they are asked for.

    Every method raises NotABackup, BackupNewer or BackupDamaged, and what the source of the bytes raises.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._lines = _lines(chunks)
        self._digest = hashlib.sha256()
        line = next(self._lines, b"")
        self.header = _header(line)
        self._digest.update(line)

    def rows(self) -> Rows:
        """Each row with its table. The last one was given out only when the iterator ends without raising."""
        counts = dict.fromkeys(self.header.tables, 0)
        places = {table: place for place, table in enumerate(self.header.tables)}
        current, columns = "", frozenset[str]()
        for number, line in enumerate(self._lines, 2):
            content = _parsed(line, number)
            if isinstance(content, dict):
                self._end(content, counts)
                return
            table, row = _row(content, number)
            if table != current:
                if places.get(table, -1) < places.get(current, -1) or table not in places:
                    raise BackupDamaged(f"line {number} of the backup is of a table that cannot stand there")
                current, columns = table, frozenset(row)
            if row.keys() != columns:
                raise BackupDamaged(f"line {number} of the backup has other columns than the rows before it")
            counts[table] += 1
            self._digest.update(line)
            yield table, row
        raise BackupDamaged("the backup has no last line: it was cut")

    def _end(self, content: Mapping[str, Any], counts: Mapping[str, int]) -> None:
        end = content.get("end")
        if len(content) != 1 or not isinstance(end, dict) or end.keys() != {"rows", "sha256"}:
            raise BackupDamaged("the last line of the backup is malformed")
        if end["rows"] != counts:
            raise BackupDamaged("the backup holds other rows than its last line counts")
        if end["sha256"] != self._digest.hexdigest():
            raise BackupDamaged("the backup's last line names another content than it has")
        if next(self._lines, None) is not None:
            raise BackupDamaged("the backup goes on behind its last line")


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their ends. The rest of a chunk is kept, at most LONGEST_LINE of it."""
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            if size + len(part) > LONGEST_LINE:
                raise BackupDamaged("a line of the backup is longer than any that Keyhall writes")
            yield b"".join((*parts, part, b"\n"))
            parts, size = [], 0
        if rest:
            parts.append(rest)
            size += len(rest)
            if size > LONGEST_LINE:
                raise BackupDamaged("a line of the backup is longer than any that Keyhall writes")
    if parts:
        raise BackupDamaged("the backup ends within a line: it was cut")


def _parsed(line: bytes, number: int) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        raise BackupDamaged(f"line {number} of the backup is not JSON") from None


def _row(content: Any, number: int) -> tuple[str, Row]:
    if isinstance(content, list) and len(content) == 2:
        table, row = content
        if isinstance(table, str) and isinstance(row, dict) and all(map(_is_value, row.values())):
            return table, row
    raise BackupDamaged(f"line {number} of the backup is no row")


def _is_value(value: object) -> bool:
    if isinstance(value, int):
        return -_LARGEST_INTEGER <= value < _LARGEST_INTEGER
    return value is None or isinstance(value, str)


def _header_object(header: BackupHeader) -> dict[str, Any]:
    return {
        "keyhall_backup": FORMAT,
        **{name: getattr(header, name) for name in _TEXTS},
        "created_at": utc_text(header.created_at),
        "latest_seal": header.latest_seal,
        "tables": header.tables,
    }


def _header(line: bytes) -> BackupHeader:
    """The header in the first line; members that a later version added are passed over."""
    try:
        content = orjson.loads(line)
    except orjson.JSONDecodeError:
        content = None
    if not isinstance(content, dict) or type(content.get("keyhall_backup")) is not int:
        raise NotABackup("it was decrypted, but what it holds was not written by Keyhall")
    if content["keyhall_backup"] != FORMAT:
        raise BackupNewer(
            f"it has format {content['keyhall_backup']}, and this version of Keyhall reads {FORMAT}: use the version "
            "that wrote it, or a later one"
        )
    seal, tables, created_at = content.get("latest_seal"), content.get("tables"), content.get("created_at")
    if (
        not all(isinstance(content.get(name), str) for name in _TEXTS)
        or not (seal is None or isinstance(seal, str))
        or not isinstance(created_at, str)
        or not isinstance(tables, list)
        or not all(isinstance(table, str) for table in tables)
        or len(set(tables)) != len(tables)
        or len(tables) > _MOST_TABLES
    ):
        raise BackupDamaged("the first line of the backup is malformed")
    try:
        moment: datetime = rfc3339(created_at)
    except ValueError:
        raise BackupDamaged("the first line of the backup has no valid time") from None
    return BackupHeader(
        **{name: content[name] for name in _TEXTS}, created_at=moment, latest_seal=seal, tables=tuple(tables)
    )
