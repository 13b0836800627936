"""Every column that holds envelopes under a key of Keyhall's: whoever re-encrypts goes by this list.

A test reflects the schema and fails for a binary column that is neither here nor known to hold no envelope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from app.domain.keys import KeyName


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedColumn:
    """A column of envelopes. Its table also has `id`, `version` and the `key_version` that sealed the row."""

    table: str
    field: str
    key_name: KeyName = KeyName.AES_KEY


CREDENTIAL_SECRETS: Final = EncryptedColumn(table="api_credentials", field="encrypted_value")
FORMER_SECRETS: Final = EncryptedColumn(table="credential_history", field="encrypted_value")

ENCRYPTED_COLUMNS: Final = (CREDENTIAL_SECRETS, FORMER_SECRETS)


def columns_under(name: KeyName) -> Sequence[EncryptedColumn]:
    """The columns that this key protects."""
    return [column for column in ENCRYPTED_COLUMNS if column.key_name is name]


class EncryptedRow(NamedTuple):
    """One value where it stands. A tuple, for a rotation makes one of every row there is.

    ``version`` is the row's own, which counts changes that people make; ``value`` is an envelope.
    """

    id: str
    owner_kind: str
    owner_id: str
    version: int
    key_version: int
    value: bytes

    def __repr__(self) -> str:
        return f"<SealedRow {self.id} under {self.key_version}>"


class Reencrypted(NamedTuple):
    """A row as it was read, and the envelope of the same value under another key version."""

    row: EncryptedRow
    key_version: int
    value: bytes

    def __repr__(self) -> str:
        return f"<Resealed {self.row.id} under {self.key_version}>"
