"""Verification of a backup: every row read, every key unwrapped, every secret decrypted."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from app.domain.backup import BackupHeader, BackupReport, OpenWith, Row, Rows
from app.domain.credentials import OwnerKind
from app.domain.encrypted_columns import (
    CREDENTIAL_SECRETS,
    ENCRYPTED_COLUMNS,
    FORMER_SECRETS,
    TOTP_SECRETS,
    EncryptedColumn,
    EncryptedRow,
)
from app.domain.errors import BackupDamaged, StartupError
from app.domain.keys import Environment, KeyName
from app.domain.secrets import SecretBytes
from app.services.keys.reading import KeyReader
from app.services.keys.ring import InstallRules, KeyRing
from app.services.ports import BackupFiles, Envelope, KeyDerivation, KeyWrapping, MasterKeySource

_AT_ONCE: Final = 100
"""Secrets that are decrypted in one go: about a millisecond, in which no other thread has its turn."""
_KEYS: Final = "app_config"
_MOST_NAMED: Final = 5


class BackupVerification:
    """Reads a backup to its end. Nothing but the file and the master key is needed: no database, no lease."""

    def __init__(
        self,
        *,
        files: BackupFiles,
        master_keys: MasterKeySource,
        wrapping: Callable[[SecretBytes], KeyWrapping],
        derivation: KeyDerivation,
        envelope: Envelope,
        fits: Callable[[str, Row], bool] = lambda _table, _row: True,
    ) -> None:
        self._fits = fits
        self.files = files
        self._master_keys = master_keys
        self._wrapping = wrapping
        self._derivation = derivation
        self.envelope = envelope

    async def verify(self, path: Path, by: OpenWith) -> BackupReport:
        """Return what is in the backup and whether all of it opens.

        Raises NotABackup, BackupLocked, BackupDamaged, BackupNewer where nothing in it may be believed.
        """
        return await self.files.read(path, by, self.report)

    def report(self, header: BackupHeader, rows: Rows) -> BackupReport:
        """Judge the rows of a backup, in the thread that reads them. Raises BackupDamaged."""
        found = _Findings(header)
        for table, row in rows:
            if found.opening is None and table not in {_KEYS, "schema_info"}:
                found.opening = self._opening(header, found)
            found.take(table, row)
            if not self._fits(table, row):
                found.misfits.append(f"{table} {row.get('id', row.get('key', '?'))}")
        if found.opening is None:
            found.opening = self._opening(header, found)
        found.open_rest()
        return found.report()

    def _opening(self, header: BackupHeader, found: _Findings) -> _Opening:
        """The keys of the backup, as far as the master key that is given here unwraps them."""
        ring: KeyRing | None = None
        try:
            ring = self.reader(header).ring_of(found.keys, None)
        except StartupError as halt:
            found.problems.append(f"the credentials could not be opened: {halt.happened}; {halt.remedy}")
        else:
            if ring is None:
                found.problems.append("the backup holds no manifest, and so no key: keep another one")
            elif (ring.manifest.install_id, ring.manifest.master_key_id) != (header.install_id, header.master_key_id):
                raise BackupDamaged("the first line of the backup names another install or master key than its keys do")
        return _Opening(self.envelope, header.install_id, ring)

    def reader(self, header: BackupHeader) -> KeyReader:
        """Return the reader of the keys in a backup of any environment. Raises BackupDamaged."""
        try:
            environment = Environment(header.environment)
        except ValueError:
            raise BackupDamaged("the first line of the backup names an environment that there is not") from None
        rules = InstallRules(environment=environment, pinned_install_id=None, outside_keys={})
        return KeyReader(
            master_keys=self._master_keys, wrapping=self._wrapping, derivation=self._derivation, rules=rules
        )


class _Opening:
    """Decrypts rows, some at a time."""

    def __init__(self, envelope: Envelope, install_id: str, ring: KeyRing | None) -> None:
        self._envelope = envelope
        self._install_id = install_id
        self._ring = ring

    def failing(self, column: EncryptedColumn, rows: list[EncryptedRow]) -> int:
        """How many of them do not open."""
        if self._ring is None:
            return len(rows)
        materials = self._ring.usable(KeyName.AES_KEY)
        opened = self._envelope.opened_by(rows, column, install_id=self._install_id, materials=materials)
        return sum(each is None for each in opened)


class _Findings:
    """Counts what goes by. Of the credentials it remembers the owners of those that have a history."""

    def __init__(self, header: BackupHeader) -> None:
        self._header = header
        self.keys: dict[str, str] = {}
        self.opening: _Opening | None = None
        self.problems: list[str] = []
        self.misfits: list[str] = []
        self._owners: dict[str, tuple[str, str]] = {}
        self._waiting: dict[EncryptedColumn, list[EncryptedRow]] = {column: [] for column in ENCRYPTED_COLUMNS}
        self._credentials = self._users = self._unreadable = 0

    def take(self, table: str, row: Row) -> None:
        """Count one row. Raises BackupDamaged for one that no schema of Keyhall has."""
        if table == _KEYS:
            self._take_key(_text(row, "key"), _text(row, "value"))
        elif table == "users":
            self._users += 1
        elif table == CREDENTIAL_SECRETS.table:
            self._credentials += 1
            owner = _text(row, "owner_kind"), _text(row, "owner_id")
            if _number(row, "version") > 1:
                self._owners[_text(row, "id")] = owner
            self._open_later(CREDENTIAL_SECRETS, row, owner)
        elif table == FORMER_SECRETS.table:
            owner = self._owners.get(_text(row, "credential_id"), ("", ""))
            self._open_later(FORMER_SECRETS, row, owner)
        elif table == TOTP_SECRETS.table:
            self._open_later(TOTP_SECRETS, row, (OwnerKind.USER.value, _text(row, "user_id")))

    def _take_key(self, key: str, value: str) -> None:
        if key in self.keys:
            raise BackupDamaged("the backup holds a key twice")
        self.keys[key] = value

    def _open_later(self, column: EncryptedColumn, row: Row, owner: tuple[str, str]) -> None:
        waiting = self._waiting[column]
        waiting.append(
            EncryptedRow(
                _text(row, "id"),
                *owner,
                _number(row, "version"),
                _number(row, "key_version"),
                _bytes(row, column.field),
            )
        )
        if len(waiting) >= _AT_ONCE:
            self.open_rest()

    def open_rest(self) -> None:
        """Decrypt the rows that wait."""
        for column, waiting in self._waiting.items():
            if waiting and self.opening is not None:
                self._unreadable += self.opening.failing(column, waiting)
                waiting.clear()

    def report(self) -> BackupReport:
        """Return the result."""
        if self._unreadable and not self.problems:
            self.problems.append(
                f"{self._unreadable} secrets (of credentials, their history or second factors) do not open with the "
                "keys in the backup: "
                "run `keyhall credentials verify` on the install, which names them"
            )
        if self.misfits:
            named = ", ".join(self.misfits[:_MOST_NAMED])
            self.problems.append(
                f"{len(self.misfits)} rows hold values that no schema takes ({named}): a restore leaves them out with "
                "--accept-unreadable, and is refused without"
            )
        header = self._header
        return BackupReport(
            ok=not self.problems,
            credentials=self._credentials,
            unreadable=self._unreadable,
            users=self._users,
            install_id=header.install_id,
            master_key_id=header.master_key_id,
            created_at=header.created_at,
            app_version=header.app_version,
            problems=tuple(self.problems),
        )


def _text(row: Mapping[str, object], column: str) -> str:
    value = row.get(column)
    if isinstance(value, str):
        return value
    raise _no_row()


def _number(row: Mapping[str, object], column: str) -> int:
    value = row.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _no_row()


def _bytes(row: Mapping[str, object], column: str) -> bytes:
    try:
        return base64.b64decode(_text(row, column), validate=True)
    except (binascii.Error, ValueError):
        raise _no_row() from None


def _no_row() -> BackupDamaged:
    return BackupDamaged("the backup holds a row with a value that Keyhall never writes there")
