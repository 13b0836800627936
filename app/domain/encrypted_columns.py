"""Every column that holds envelopes under an application key: re-encryption and verification go by this list.

A test reflects the schema and fails for a binary column that is neither here nor listed as holding no envelope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from app.domain.keys import KeyName


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedColumn:
    """A column of envelopes. Its table also has `id`, `version` and the `key_version` that encrypted the row."""

    table: str
    field: str
    key_name: KeyName = KeyName.AES_KEY


CREDENTIAL_SECRETS: Final = EncryptedColumn(table="api_credentials", field="encrypted_value")
FORMER_SECRETS: Final = EncryptedColumn(table="credential_history", field="encrypted_value")
TOTP_SECRETS: Final = EncryptedColumn(table="totp_factors", field="encrypted_secret")

ENCRYPTED_COLUMNS: Final = (CREDENTIAL_SECRETS, FORMER_SECRETS, TOTP_SECRETS)


def columns_under(name: KeyName) -> Sequence[EncryptedColumn]:
    """The columns that this key protects."""
    return [column for column in ENCRYPTED_COLUMNS if column.key_name is name]


class EncryptedRow(NamedTuple):
    """One value where it stands. A tuple, because a rotation makes one for every row.

    ``version`` is the row's own, which counts changes that people make; ``value`` is an envelope.
    """

    id: str
    owner_kind: str
    owner_id: str
    version: int
    key_version: int
    value: bytes

    def __repr__(self) -> str:
        return f"<EncryptedRow {self.id} under {self.key_version}>"


class Reencrypted(NamedTuple):
    """A row as it was read, and the envelope of the same value under another key version."""

    row: EncryptedRow
    key_version: int
    value: bytes

    def __repr__(self) -> str:
        return f"<Reencrypted {self.row.id} under {self.key_version}>"
