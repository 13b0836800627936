"""Backups as nobody but a test writes them: whole files with a content that Keyhall would not put there."""

from __future__ import annotations

import io
import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from app.infrastructure.backup.age import EncryptingWriter, decrypted
from app.infrastructure.backup.age_keys import X25519Identity, X25519Recipient
from app.infrastructure.clock import SystemRandomness
from tests.support.backups import IDENTITY, RECIPIENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def rewritten(
    source: Path,
    target: Path,
    *,
    header: Mapping[str, Any] | None = None,
    table: str | None = None,
    row: Mapping[str, Any] | None = None,
    tables: Sequence[str] = (),
) -> None:
    """A backup with another header, with other values in the first row of a table, or with more tables."""
    lines = b"".join(decrypted(io.BytesIO(source.read_bytes()), [X25519Identity.parse(IDENTITY)])).splitlines()
    first, rows, end = json.loads(lines[0]), [json.loads(each) for each in lines[1:-1]], json.loads(lines[-1])
    first |= dict(header or {})
    first["tables"] += list(tables)
    end["end"]["rows"] |= dict.fromkeys(tables, 0)
    if table is not None:
        for each in rows:
            if each[0] == table:
                each[1] |= dict(row or {})
                break
    content = b"".join(json.dumps(each).encode() + b"\n" for each in (first, *rows))
    end["end"]["sha256"] = sha256(content).hexdigest()
    with target.open("wb") as file:
        writer = EncryptingWriter(file, [X25519Recipient.parse(RECIPIENT)], SystemRandomness())
        writer.write(content + json.dumps(end).encode() + b"\n")
        writer.finish()
