"""Imports from other programs: the entries of a source, and the report of what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from app.domain.errors import KeyhallError
from app.domain.key_shapes import looks_like_key
from app.domain.secrets import SecretBytes, SecretText

LARGEST_SOURCE: Final = 32 << 20
"""Bytes of a file that is imported; it is read whole."""
MOST_ENTRIES: Final = 100_000
_NAMED: Final = 20
"""How many broken entries a message names."""


@dataclass(frozen=True, slots=True)
class Passed:
    """An entry that was not imported: its place in the source, never its value, and the reason."""

    where: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A key as its source holds it. ``holder`` is the account's name there, None where the source names none.

    ``provider`` and ``label`` are None where the source has none of its own; then ``name`` decides. ``encrypted`` says
    that the value cannot be plain text.
    """

    where: str
    holder: str | None
    name: str
    value: SecretText | SecretBytes
    provider: str | None = None
    label: str | None = None
    encrypted: bool = False


@dataclass(slots=True)
class Source:
    """Everything that was found in a source, in its order. ``holders`` are all accounts, with their places."""

    kind: str
    entries: list[Entry] = field(default_factory=list)
    holders: dict[str, str] = field(default_factory=dict)
    broken: list[Passed] = field(default_factory=list)
    passed_over: list[Passed] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimLink:
    """An account that was created, and the token by which its owner claims it."""

    username: str
    token: SecretText


@dataclass(slots=True, kw_only=True)
class ImportReport:
    """The result of an import, or of its dry run: how many accounts and credentials are new, and how many were here.

    ``matched`` are accounts that were here and got credentials; ``renamed`` and ``relabelled`` are places in the source
    and the names that were chosen; ``doubtful`` are places of values taken as plain text that may be ciphertext;
    ``unclaimed`` are accounts that were here and that nobody has claimed.
    """

    users: int = 0
    credentials: int = 0
    already_done: int = 0
    skipped: list[Passed] = field(default_factory=list)
    matched: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    relabelled: list[tuple[str, str]] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)
    unclaimed: list[str] = field(default_factory=list)
    claim_links: list[ClaimLink] = field(default_factory=list)


class ImportStopped(KeyhallError):
    """A source cannot be imported as it is; ``broken`` names its broken entries, if it can be read at all."""

    def __init__(self, happened: str, broken: Sequence[Passed] = ()) -> None:
        lines = [f"{each.where}: {each.why}" for each in broken[:_NAMED]]
        if len(broken) > _NAMED:
            lines.append(f"and {len(broken) - _NAMED} more")
        super().__init__("\n  ".join([happened, *lines]))
        self.broken = tuple(broken)


HIDDEN: Final = "…"
"""Stands for a name that is not shown."""


def shown(part: object) -> str:
    """A name from a source, for a report: one that may be a key itself, or that no terminal shows, is left out."""
    text = str(part)
    if not text or len(text) > 100 or not text.isprintable() or looks_like_key(text):
        return HIDDEN
    return text
