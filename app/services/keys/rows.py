"""The rows of `app_config` as text: canonical JSON, authenticated as a whole.

A row's value is a JSON object whose member ``mac`` is an HMAC-SHA256, under a sub-key of the master key, over row
name, install id and the canonical JSON of all other members. Canonical means: keys sorted, no white space, ASCII.
A row that differs from the written form in any way is damaged; a value is never repaired.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from app.domain.canonical_json import canonical_json
from app.domain.errors import KeyDamaged, SchemaNewer
from app.domain.keys import (
    Environment,
    IllegalKeyset,
    KeyName,
    Keyset,
    KeysetEntry,
    KeyState,
    KeyVersion,
    Manifest,
    Origin,
)
from app.services.ports import KeyWrapping

MANIFEST_ROW: Final = "manifest"
FORMAT: Final = 1
_LONGEST_VALUE: Final = 1 << 20
_RESTORE: Final = "restore the database from a backup; nothing was changed"
_TIMES: Final = ("created_at", "activated_at", "deactivated_at", "retired_at", "compromised_at", "destroyed_at")


def keyset_names(rows: Iterable[str]) -> frozenset[str]:
    """The names of all keyset rows among these, known or not."""
    return frozenset(row.removeprefix("keyset/") for row in rows if row.startswith("keyset/"))


def keyset_row(name: KeyName) -> str:
    """The row that holds a keyset."""
    return f"keyset/{name.value}"


def digest(value: str) -> str:
    """SHA-256 of a row's value in hex: what the manifest remembers of a keyset."""
    return hashlib.sha256(value.encode()).hexdigest()


def damaged(row: str, how: str) -> KeyDamaged:
    """A row that is not what was written."""
    return KeyDamaged(f"the row {row} of app_config {how}", remedy=_RESTORE)


def there_twice(rows: Sequence[str]) -> KeyDamaged:
    """Rows that app_config holds more than once: which of them was meant cannot be known."""
    named = f"row{'s' * (len(rows) > 1)} {', '.join(sorted(rows)[:3])}"
    return KeyDamaged(f"app_config holds the {named} twice: it was restored without its primary key", remedy=_RESTORE)


# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------


def encode_keyset(keyset: Keyset, wrapping: KeyWrapping) -> str:
    """The value of a keyset's row."""
    body = {
        "format": FORMAT,
        "install_id": keyset.install_id,
        "name": keyset.name.value,
        "epoch": keyset.epoch,
        "primary": keyset.primary.version,
        "versions": [
            {
                "version": each.version,
                "state": each.state.value,
                "fingerprint": each.fingerprint,
                "origin": each.origin.value,
                "wrapped": _b64(each.wrapped),
                **{name: _time(getattr(each, name)) for name in _TIMES},
            }
            for each in keyset.versions
        ],
    }
    return _sign(keyset_row(keyset.name), keyset.install_id, body, wrapping)


def encode_manifest(manifest: Manifest, wrapping: KeyWrapping) -> str:
    """The value of the manifest's row."""
    body = {
        "format": FORMAT,
        "install_id": manifest.install_id,
        "environment": manifest.environment.value,
        "created_at": _time(manifest.created_at),
        "master_key_id": manifest.master_key_id,
        "canary": _b64(manifest.canary),
        "keysets": {
            name.value: {"epoch": entry.epoch, "digest": entry.digest} for name, entry in manifest.keysets.items()
        },
    }
    return _sign(MANIFEST_ROW, manifest.install_id, body, wrapping)


def _sign(row: str, install_id: str, body: dict[str, Any], wrapping: KeyWrapping) -> str:
    mac = wrapping.row_mac(row, install_id, canonical_json(body).encode())
    return canonical_json({**body, "mac": _b64(mac)})


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


def parse(row: str, value: str) -> dict[str, Any]:
    """The members of a row, well-formed and canonical but not yet authenticated. Raises KeyDamaged."""
    if len(value) > _LONGEST_VALUE:
        raise damaged(row, "is too long")
    try:
        members = json.loads(value)
        canonical = isinstance(members, dict) and canonical_json(members) == value
    except (ValueError, RecursionError):
        raise damaged(row, "is not JSON: it was truncated or edited") from None
    if not canonical:
        raise damaged(row, "is not in canonical form: it was edited")
    return dict(members)


def authenticate(row: str, members: dict[str, Any], install_id: str, wrapping: KeyWrapping) -> dict[str, Any]:
    """The members without ``mac``, once it was found right. Raises KeyDamaged, or SchemaNewer for a later format."""
    body = {name: value for name, value in members.items() if name != "mac"}
    stored = _bytes(row, members.get("mac"))
    if not hmac.compare_digest(stored, wrapping.row_mac(row, install_id, canonical_json(body).encode())):
        raise damaged(row, "does not carry the right MAC: it was edited or comes from elsewhere")
    if body.get("format") != FORMAT:
        raise SchemaNewer(f"the row {row} has a format that this version cannot read", remedy="run a newer Keyhall")
    return body


def read_manifest(body: dict[str, Any]) -> Manifest:
    """The manifest of an authenticated row. Raises KeyDamaged."""
    try:
        return Manifest(
            install_id=_text(body["install_id"]),
            environment=Environment(body["environment"]),
            created_at=_moment(body["created_at"]),
            master_key_id=_text(body["master_key_id"]),
            canary=_bytes(MANIFEST_ROW, body["canary"]),
            keysets={
                KeyName(name): KeysetEntry(epoch=int(entry["epoch"]), digest=_text(entry["digest"]))
                for name, entry in body["keysets"].items()
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise damaged(MANIFEST_ROW, "does not hold what a manifest holds") from None


def read_keyset(name: KeyName, body: dict[str, Any]) -> Keyset:
    """The keyset of an authenticated row. Raises KeyDamaged."""
    row = keyset_row(name)
    try:
        keyset = Keyset(
            name=KeyName(body["name"]),
            install_id=_text(body["install_id"]),
            epoch=int(body["epoch"]),
            versions=tuple(_read_version(row, each) for each in body["versions"]),
        )
        primary = int(body["primary"])
    except IllegalKeyset as error:
        raise damaged(row, f"is no legal keyset ({error})") from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise damaged(row, "does not hold what a keyset holds") from None
    if keyset.name is not name:
        raise damaged(row, "holds another key's versions: rows were swapped")
    if keyset.primary.version != primary:
        raise damaged(row, "names a primary that is not active")
    return keyset


def _read_version(row: str, members: dict[str, Any]) -> KeyVersion:
    times = {name: _moment(members[name]) for name in _TIMES if members[name] is not None}
    return KeyVersion(
        version=int(members["version"]),
        state=KeyState(members["state"]),
        fingerprint=_text(members["fingerprint"]),
        origin=Origin(members["origin"]),
        wrapped=_bytes(row, members["wrapped"]),
        **times,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Members
# ---------------------------------------------------------------------------------------------------------------------


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(row: str, value: object) -> bytes:
    try:
        decoded = base64.b64decode(_text(value), validate=True)
    except (ValueError, TypeError, binascii.Error):
        raise damaged(row, "holds bytes that are not base64") from None
    if _b64(decoded) != value:
        raise damaged(row, "holds base64 that is not canonical")
    return decoded


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _time(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")


def _moment(value: object) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError
    return moment


def canary_bytes(value: str) -> bytes:
    """The canary of a manifest that is not authenticated yet. Raises KeyDamaged."""
    return _bytes(MANIFEST_ROW, value)
