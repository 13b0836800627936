"""The header of an age file: its stanzas, in the one form that the specification gives to each."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from app.domain.errors import BackupDamaged

LARGEST_HEADER: Final = 256 * 1024
FILE_KEY_BYTES: Final = 16
TAG_BYTES: Final = 16
X25519: Final = "X25519"
SCRYPT: Final = "scrypt"
_COLUMNS: Final = 64


@dataclass(frozen=True, slots=True)
class Stanza:
    """One way to the file key: its kind, its arguments, and the wrapped key."""

    kind: str
    arguments: tuple[str, ...]
    body: bytes

    def lines(self) -> bytes:
        """The stanza as it stands in a header."""
        body = encoded(self.body)
        # The last line is shorter than the others; it may be empty.
        lines = [body[start : start + _COLUMNS] for start in range(0, len(body) + 1, _COLUMNS)]
        return "\n".join((" ".join(("->", self.kind, *self.arguments)), *lines, "")).encode()


def read_body(file: BinaryIO) -> tuple[bytes, list[bytes]]:
    """The body of a stanza and its lines: all but the last have 64 columns. Raises BackupDamaged."""
    lines: list[bytes] = []
    while not lines or len(lines[-1]) == _COLUMNS + 1:
        line = read_line(file)
        if len(line) > _COLUMNS + 1 or len(lines) * _COLUMNS > LARGEST_HEADER:
            raise damaged_header("a line is malformed")
        lines.append(line)
    return b"".join(decoded(text_of(line[:-1])) for line in lines), lines


def checked(stanzas: Sequence[Stanza]) -> tuple[Stanza, ...]:
    """Stanzas of the kinds that the specification has, in the form that it gives them. Raises BackupDamaged."""
    for stanza in stanzas:
        arguments, body = stanza.arguments, stanza.body
        if stanza.kind == X25519:
            whole = len(arguments) == 1 and len(decoded(arguments[0])) == 32 and len(body) == FILE_KEY_BYTES + TAG_BYTES
        elif stanza.kind == SCRYPT:
            if len(stanzas) > 1:
                raise damaged_header("a passphrase must be the only way to open it")
            whole = (
                len(arguments) == 2
                and len(decoded(arguments[0])) == 16
                and len(body) == FILE_KEY_BYTES + TAG_BYTES
                and _is_work_factor(arguments[1])
            )
        else:
            continue
        if not whole:
            raise damaged_header(f"its part for {stanza.kind} is malformed")
    return tuple(stanzas)


def _is_work_factor(text: str) -> bool:
    return len(text) <= 2 and text.isascii() and text.isdigit() and not text.startswith("0")


def read_line(file: BinaryIO) -> bytes:
    """The next line with its end. Raises BackupDamaged, OSError."""
    line = file.readline(LARGEST_HEADER)
    if not line.endswith(b"\n"):
        raise damaged_header("it ends early")
    return line


def encoded(data: bytes) -> str:
    """Base64 without padding."""
    return base64.b64encode(data).decode().rstrip("=")


def decoded(text: str) -> bytes:
    """Base64 without padding, in the one canonical form. Raises BackupDamaged."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise damaged_header("it holds malformed base64") from None
    if encoded(data) != text:
        raise damaged_header("it holds base64 that is not canonical")
    return data


def text_of(line: bytes) -> str:
    """The text of a header's line: printable ASCII and blanks. Raises BackupDamaged."""
    if any(not 0x20 <= byte <= 0x7E for byte in line):
        raise damaged_header("it holds a character that no header has")
    return line.decode("ascii")


def damaged_header(why: str) -> BackupDamaged:
    """The error for a header that is not as it was written."""
    return BackupDamaged(f"the header of the backup is damaged: {why}")
