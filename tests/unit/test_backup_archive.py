"""The archive in a backup: what was written is read, and nothing else is believed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tracemalloc
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.backup import BackupHeader, Row
from app.domain.errors import BackupDamaged, BackupError, BackupNewer, NotABackup
from app.infrastructure.backup.archive import LONGEST_LINE, ArchiveReader, ArchiveWriter

HEADER = BackupHeader(
    install_id="6f1f2d5e-93a4-4a5e-8f0c-2b7d9c1e4a60",
    master_key_id="0123456789abcdef",
    environment="test",
    app_version="0.1.0",
    revision="0005",
    min_app="0.1.0",
    created_at=datetime(2026, 11, 30, 8, 0, 0, 123456, tzinfo=UTC),
    latest_seal=None,
    tables=("users", "api_credentials"),
)
ROWS: list[tuple[str, Row]] = [
    ("users", {"id": "u1", "name": "zoë\u2028\0\U0001f511", "n": 1, "on": True, "off": None}),
    ("users", {"id": "u2", "name": "", "n": -(2**63), "on": False, "off": None}),
    ("api_credentials", {"id": "c1", "encrypted_value": "AAAA"}),
]


def written(rows: Iterable[tuple[str, Row]] = ROWS, header: BackupHeader = HEADER) -> bytes:
    lines: list[bytes] = []
    writer = ArchiveWriter(lines.append, header)
    for table, row in rows:
        writer.add(table, row)
    writer.finish()
    return b"".join(lines)


def read(archive: bytes, size: int = 64 * 1024) -> tuple[BackupHeader, list[tuple[str, Row]]]:
    reader = ArchiveReader(archive[start : start + size] for start in range(0, len(archive), size))
    return reader.header, list(reader.rows())


def ended(*lines: object, **end: Any) -> bytes:
    """An archive of any lines, with an end that fits unless it is given."""
    content = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    end = {"rows": {"users": len(lines) - 1, "api_credentials": 0}, "sha256": hashlib.sha256(content).hexdigest()} | end
    return content + json.dumps({"end": end}).encode() + b"\n"


FIRST = json.loads(written().splitlines()[0])
USER = ["users", {"id": "u1"}]


@pytest.mark.parametrize("size", [1, 7, 64, 1000, 64 * 1024])
def test_what_was_written_is_read_in_any_pieces(size: int) -> None:
    assert read(written(), size) == (HEADER, ROWS)


def test_the_first_line_says_in_plain_json_what_it_is() -> None:
    assert {
        "keyhall_backup": 1,
        "install_id": HEADER.install_id,
        "master_key_id": HEADER.master_key_id,
        "environment": "test",
        "app_version": "0.1.0",
        "revision": "0005",
        "min_app": "0.1.0",
        "created_at": "2026-11-30T08:00:00.123456Z",
        "latest_seal": None,
        "tables": ["users", "api_credentials"],
    } == FIRST


def test_the_last_line_counts_and_digests_what_is_before_it() -> None:
    *lines, last = written().splitlines(keepends=True)
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    assert json.loads(last) == {"end": {"rows": {"users": 2, "api_credentials": 1}, "sha256": digest}}


def test_a_header_with_members_of_a_later_version_is_read() -> None:
    assert read(ended(FIRST | {"later": {"a": [1]}}, USER))[1] == [("users", {"id": "u1"})]


def test_a_reader_finds_the_header_before_it_reads_on() -> None:
    def chunks() -> Iterator[bytes]:
        yield written()
        raise AssertionError("nobody asked for more")

    assert ArchiveReader(chunks()).header == HEADER


@given(st.integers(min_value=0), st.integers(0, 7))
def test_every_flipped_bit_is_refused(place: int, bit: int) -> None:
    archive = bytearray(written())
    archive[place % len(archive)] ^= 1 << bit
    try:
        found = read(bytes(archive))
    except BackupError:
        return
    # JSON has many texts for one value, and its last line is not digested: what it says must be the same.
    assert found == (HEADER, ROWS)


def test_every_cut_is_refused() -> None:
    archive = written()
    for size in range(len(archive)):
        with pytest.raises(BackupError):
            read(archive[:size])


DEEP = b"[" * 200_000 + b"]" * 200_000 + b"\n"
HOSTILE: dict[str, tuple[type[BackupError], bytes]] = {
    "nothing": (NotABackup, b""),
    "text": (NotABackup, b"hello\n"),
    "another object": (NotABackup, b'{"a": 1}\n'),
    "a list": (NotABackup, b"[1]\n"),
    "a format that is true": (NotABackup, json.dumps(FIRST | {"keyhall_backup": True}).encode() + b"\n"),
    "a later format": (BackupNewer, ended(FIRST | {"keyhall_backup": 2})),
    "a huge format": (BackupNewer, ended(FIRST | {"keyhall_backup": 2**60})),
    "a deep header": (NotABackup, DEEP),
    "a header without tables": (BackupDamaged, ended({n: v for n, v in FIRST.items() if n != "tables"})),
    "a table twice": (BackupDamaged, ended(FIRST | {"tables": ["users", "users"]})),
    "a table that is a number": (BackupDamaged, ended(FIRST | {"tables": [1]})),
    "too many tables": (BackupDamaged, ended(FIRST | {"tables": [str(n) for n in range(201)]})),
    "an install that is a number": (BackupDamaged, ended(FIRST | {"install_id": 1})),
    "a time that is none": (BackupDamaged, ended(FIRST | {"created_at": "yesterday"})),
    "a seal that is a number": (BackupDamaged, ended(FIRST | {"latest_seal": 1})),
    "an unknown table": (BackupDamaged, ended(FIRST, ["sqlite_master", {"id": "u1"}])),
    "a table out of order": (BackupDamaged, ended(FIRST, ["api_credentials", {"id": "c"}], USER)),
    "a column that others do not have": (BackupDamaged, ended(FIRST, USER, ["users", {"id": "u2", "x": 1}])),
    "a column too few": (BackupDamaged, ended(FIRST, USER, ["users", {}])),
    "a row that is an object": (BackupDamaged, ended(FIRST, {"users": {"id": "u1"}})),
    "a row that is a number": (BackupDamaged, ended(FIRST, 1)),
    "a row of three": (BackupDamaged, ended(FIRST, [*USER, 1])),
    "a value that is a list": (BackupDamaged, ended(FIRST, ["users", {"id": [1]}])),
    "a value that is a fraction": (BackupDamaged, ended(FIRST, ["users", {"id": 1.5}])),
    "a number beyond 64 bits": (BackupDamaged, ended(FIRST, ["users", {"id": 2**63}])),
    "a number of 5,000 digits": (BackupDamaged, ended(FIRST, b'["users", {"id": ' + b"9" * 5000 + b"}]\n")),
    "not a number": (BackupDamaged, ended(FIRST, b'["users", {"id": NaN}]\n')),
    "deep nesting": (BackupDamaged, ended(FIRST, DEEP)),
    "bytes that are no text": (BackupDamaged, ended(FIRST, b'["users", {"id": "\xff"}]\n')),
    "a lone surrogate": (BackupDamaged, ended(FIRST, b'["users", {"id": "\\ud800"}]\n')),
    "an empty line": (BackupDamaged, ended(FIRST, b"\n")),
    "a line of 10 MB": (BackupDamaged, ended(FIRST, ["users", {"id": "x" * 10_000_000}])),
    "an end that counts others": (BackupDamaged, ended(FIRST, USER, rows={"users": 2, "api_credentials": 0})),
    "an end that leaves a table out": (BackupDamaged, ended(FIRST, USER, rows={"users": 1})),
    "an end with another digest": (BackupDamaged, ended(FIRST, USER, sha256="0" * 64)),
    "an end with more members": (BackupDamaged, ended(FIRST, USER, more=1)),
    "an end that is no object": (BackupDamaged, json.dumps(FIRST).encode() + b'\n{"end": 1}\n'),
    "lines behind the end": (BackupDamaged, ended(FIRST, USER) + json.dumps(USER).encode() + b"\n"),
    "no end": (BackupDamaged, json.dumps(FIRST).encode() + b"\n" + json.dumps(USER).encode() + b"\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_with_a_type(name: str) -> None:
    refusal, archive = HOSTILE[name]
    with pytest.raises(refusal):
        read(archive)


def test_an_endless_line_takes_no_memory() -> None:
    pieces = 0

    def chunks() -> Iterator[bytes]:
        nonlocal pieces
        while True:
            pieces += 1
            yield b"x" * 65536

    with pytest.raises(BackupDamaged):
        ArchiveReader(chunks())
    assert pieces * 65536 < LONGEST_LINE + 3 * 65536


def test_memory_does_not_grow_with_the_rows() -> None:
    row = {"id": "u", "value": "x" * 200}

    def archive() -> Iterator[bytes]:
        lines: list[bytes] = []
        writer = ArchiveWriter(lines.append, dataclasses.replace(HEADER, tables=("users",)))
        for _ in range(20_000):
            writer.add("users", row)
            yield from lines
            lines.clear()
        writer.finish()
        yield from lines

    tracemalloc.start()
    try:
        assert sum(1 for _ in ArchiveReader(archive()).rows()) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
