"""The chain of audit seals: which columns a seal covers, in which form, and the segments that the chain is kept in.

There are two chains, one of security events and one of uses of credentials, so that the rows of each can be dropped
after a time of their own while both still verify (docs/security.md, decision record 29).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from app.domain.audit import Action
from app.domain.canonical_json import canonical_json
from app.domain.errors import KeyhallError

SEGMENT_ROWS: Final = 100_000
"""A segment is closed when it has so many rows, or the day (UTC) on which it was opened is over."""
NEVER_REACHED: Final = 2**62
"""Above every segment that Keyhall makes, and below text and bytes, which SQLite sorts behind all numbers."""
NO_SEAL: Final = b""
"""Stands in the place of a seal before the first one of a chain."""


class AuditExportFailed(KeyhallError):
    """A segment could not be exported, so that its rows stay; the message says why."""


class Stream(StrEnum):
    """The chain that a row belongs to."""

    SECURITY = "security"
    USES = "uses"

    @classmethod
    def of(cls, action: object) -> Stream:
        """The chain of rows with that action."""
        return cls.USES if action == Action.CREDENTIAL_USED else cls.SECURITY


class ChainRow(NamedTuple):
    """A row of `audit_events` as the driver returns it: an edited SQLite file holds any type in any column."""

    id: Any
    at: Any
    action: Any
    result: Any
    source: Any
    subject_id: Any
    address_id: Any
    object_kind: Any
    object_id: Any
    detail: Any
    segment: Any
    position: Any
    seal: Any

    def sealed_parts(self, segment: int, position: int) -> Sequence[bytes]:
        """The parts that a seal covers besides the seal before it: every column, at that place of the chain."""
        return [_part(each) for each in (*self[:-3], segment, position)]


class Seal(NamedTuple):
    """A row's place in the chain. ``id`` is the row's."""

    id: int
    segment: int
    position: int
    seal: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of one chain: the rows at the positions ``first`` to ``last``, sealed with one key version.

    ``previous`` is the seal before its first row, ``seal`` that of its last row. ``export`` is the file that its rows
    were written to and ``digest`` the SHA-256 of that file; ``dropped_at`` is when its rows left the database, or began
    to. ``mac`` authenticates all of it as ``value`` writes it.
    """

    number: int
    stream: Stream
    key_version: int
    first: int
    last: int
    previous: bytes
    seal: bytes
    opened_at: datetime
    closed_at: datetime | None = None
    export: str | None = None
    digest: str | None = None
    dropped_at: datetime | None = None
    mac: bytes = field(default=b"", compare=False)

    @property
    def rows(self) -> int:
        """How many rows were sealed in it."""
        return self.last - self.first + 1

    @property
    def value(self) -> str:
        """Its members as canonical JSON, for storing: all but the number, the stream and the MAC."""
        return canonical_json(
            {
                "closed_at": _text(self.closed_at),
                "digest": self.digest,
                "dropped_at": _text(self.dropped_at),
                "export": self.export,
                "first": self.first,
                "key_version": self.key_version,
                "last": self.last,
                "opened_at": _text(self.opened_at),
                "previous": self.previous.hex(),
                "seal": self.seal.hex(),
            }
        )

    def authenticated_parts(self) -> Sequence[bytes]:
        """The parts that the MAC of a segment covers."""
        return [_part(self.number), self.stream.encode(), self.value.encode()]

    def followed_by(self, seals: Sequence[Seal]) -> Segment:
        """This segment with more rows at its end."""
        return replace(self, last=seals[-1].position, seal=seals[-1].seal) if seals else self

    def full(self, now: datetime, key_version: int) -> bool:
        """Whether the next row belongs to another segment."""
        today = now.astimezone(UTC).date() == self.opened_at.astimezone(UTC).date()
        return not today or self.rows >= SEGMENT_ROWS or self.key_version != key_version

    def next(self, number: int, now: datetime, key_version: int) -> Segment:
        """The segment that begins where this one ends."""
        return Segment(
            number=number,
            stream=self.stream,
            key_version=key_version,
            first=self.last + 1,
            last=self.last,
            previous=self.seal,
            seal=self.seal,
            opened_at=now,
        )

    @classmethod
    def beginning(cls, number: int, stream: Stream, now: datetime, key_version: int) -> Segment:
        """The first segment of a chain."""
        return cls(
            number=number,
            stream=stream,
            key_version=key_version,
            first=1,
            last=0,
            previous=NO_SEAL,
            seal=NO_SEAL,
            opened_at=now,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSegment:
    """A segment's row as it is found; ``segment`` is None where it was edited and is no segment any more."""

    number: int
    segment: Segment | None


def read_segment(number: int, stream: object, value: object, mac: object) -> StoredSegment:
    """A segment's row, judged by its form alone: the MAC is not verified here."""
    segment: Segment | None = None
    try:
        found = json.loads(str(value))
        segment = Segment(
            number=number,
            stream=Stream(str(stream)),
            key_version=int(found["key_version"]),
            first=int(found["first"]),
            last=int(found["last"]),
            previous=bytes.fromhex(found["previous"]),
            seal=bytes.fromhex(found["seal"]),
            opened_at=datetime.fromisoformat(found["opened_at"]),
            closed_at=_moment(found["closed_at"]),
            export=found["export"],
            digest=found["digest"],
            dropped_at=_moment(found["dropped_at"]),
            mac=mac if isinstance(mac, bytes) else b"",
        )
        if segment.value != value:  # another text of the same members
            segment = None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ArithmeticError):
        segment = None  # ArithmeticError: a number or a time beyond what there is
    return StoredSegment(number=number, segment=segment)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """The first thing that is wrong with the audit trail, and where; None in place of a fact that is not known.

    ``position`` is a place in the chain ``stream``, ``id`` the id of a row; ``what`` is a sentence for people.
    """

    stream: Stream | None = None
    segment: int | None = None
    position: int | None = None
    id: str | None = None
    what: str

    @property
    def sentence(self) -> str:
        """The flaw in one sentence, with its place where that is known."""
        place = f"segment {self.segment}" if self.segment is not None and "segment" not in self.what else ""
        place += f", position {self.position} of {self.stream}" if place and self.position is not None else ""
        return f"{self.what} ({place})" if place else self.what


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The outcome of a verification: ``sealed`` rows are in the database, ``unsealed`` ones not in a chain yet."""

    sealed: int
    unsealed: int
    segments: int
    first_bad: Flaw | None
    latest_seal: str | None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.first_bad is None


def latest_seal(heads: Sequence[Segment]) -> str | None:
    """The latest seals of the chains in one text, to be kept elsewhere: ``stream:position:seal`` joined by commas."""
    ends = sorted((each.stream.value, each.last, each.seal.hex()) for each in heads if each.last)
    return ",".join(f"{stream}:{last}:{seal}" for stream, last, seal in ends) or None


class RememberedSeal(NamedTuple):
    """One part of what ``latest_seal`` returned at another time."""

    stream: Stream
    position: int
    seal: bytes


def read_remembered(text: str) -> Sequence[RememberedSeal]:
    """The parts of a text that ``latest_seal`` made. Raises ValueError."""
    parts = [each.split(":") for each in text.strip().split(",")]
    found = [RememberedSeal(Stream(stream), int(last), bytes.fromhex(seal)) for stream, last, seal in parts]
    if any(len(each.seal) != 32 or each.position < 1 for each in found):
        raise ValueError("no seal")
    return found


def canonical_time(moment: datetime) -> str:
    """RFC 3339 in UTC with six decimals, as SQLite stores it: both engines seal the same bytes."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _part(value: object) -> bytes:
    """A column with its type, so that NULL, an empty text, a number and its digits are four different things."""
    if value is None:
        return b""
    if isinstance(value, datetime):
        value = canonical_time(value)
    if isinstance(value, str):
        return b"t" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, int):
        return b"i%d" % value
    return b"b" + value if isinstance(value, bytes) else b"?" + repr(value).encode()


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else canonical_time(moment)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
