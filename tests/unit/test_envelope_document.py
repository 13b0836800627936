"""docs/envelope.md: its program opens the vectors and what Keyhall writes, and its vectors are what Keyhall makes."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from app.domain.keys import KeyName, Keyset, KeyState, KeyVersion, Origin
from app.domain.secrets import SecretBytes
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.crypto.derive import Derivation
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from app.services.keys import rows as key_rows
from app.services.ports import EncryptionContext
from tests.support.vectors import GivenRandomness

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "envelope.md").read_text()
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
VECTORS: dict[str, Any] = json.loads((DOCS / "vectors" / "envelope.json").read_text())
MASTER = bytes.fromhex(VECTORS["master_key"])
KEYSET: str = VECTORS["app_config"]["value"]
INSTALL: str = json.loads(KEYSET)["install_id"]
CREDENTIALS = pytest.mark.parametrize("credential", VECTORS["credentials"], ids=lambda each: each["name"])

OpenCredential = Callable[..., bytes]


@pytest.fixture
def open_credential() -> OpenCredential:
    """The page's own function, from its text."""
    names: dict[str, Any] = {}
    exec(PROGRAM, names)  # noqa: S102 - running the documentation is the point
    function: OpenCredential = names["open_credential"]
    return function


def _place(credential: dict[str, Any]) -> EncryptionContext:
    return EncryptionContext(
        install_id=INSTALL,
        table=credential["table"],
        row_id=credential["row"]["id"],
        owner_kind=credential["row"]["owner_kind"],
        owner_id=credential["row"]["owner_id"],
        field="encrypted_value",
        key_name="AES_KEY",
    )


def _secret(credential: dict[str, Any]) -> bytes:
    return str(credential["secret"]).encode() * int(credential.get("secret_times", 1))


def _randomness_of(credential: dict[str, Any]) -> bytes:
    if "salt" in credential:
        return bytes.fromhex(credential["salt"] + credential["nonce"])
    return bytes.fromhex(credential["row"]["encrypted_value"])[6:50]


def _sealed(credential: dict[str, Any]) -> bytes:
    """What our code makes of a vector with the vector's own randomness."""
    number = credential.get("key_version") or AesGcmEnvelope(SystemRandomness()).key_version(
        bytes.fromhex(credential["row"]["encrypted_value"])
    )
    material = _materials()[number]
    envelope = AesGcmEnvelope(GivenRandomness(_randomness_of(credential)))
    return envelope.encrypt(_secret(credential), _place(credential), key_version=number, material=material)


def _materials() -> dict[int, SecretBytes]:
    wrapping = MasterKeyWrapping(SecretBytes(MASTER))
    body = key_rows.authenticate("keyset/AES_KEY", key_rows.parse("keyset/AES_KEY", KEYSET), INSTALL, wrapping)
    return {
        each.version: wrapping.unwrap(each.wrapped, install_id=INSTALL, name=KeyName.AES_KEY, version=each.version)
        for each in key_rows.read_keyset(KeyName.AES_KEY, body)
        if each.state is not KeyState.DESTROYED
    }


def test_the_program_is_40_lines_of_the_standard_library_and_cryptography() -> None:
    assert len(PROGRAM.splitlines()) <= 40
    imported: set[str] = set()
    for node in ast.walk(ast.parse(PROGRAM)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported <= sys.stdlib_module_names | {"cryptography"}


@CREDENTIALS
def test_the_program_opens_every_vector(open_credential: OpenCredential, credential: dict[str, Any]) -> None:
    envelope = _sealed(credential)
    if "envelope_sha256" in credential:
        assert hashlib.sha256(envelope).hexdigest() == credential["envelope_sha256"]
    else:
        envelope = bytes.fromhex(credential["row"]["encrypted_value"])
    row = {**credential["row"], "encrypted_value": envelope}
    assert open_credential(MASTER, KEYSET, row, credential["table"]) == _secret(credential)


@CREDENTIALS
def test_our_code_makes_and_opens_every_vector(credential: dict[str, Any]) -> None:
    sealed = _sealed(credential)
    if "encrypted_value" in credential["row"]:
        assert sealed.hex() == credential["row"]["encrypted_value"]
    envelope = AesGcmEnvelope(SystemRandomness())
    material = _materials()[envelope.key_version(sealed)]
    assert envelope.decrypt(sealed, _place(credential), material=material) == _secret(credential)


def test_the_vectors_cover_what_they_claim() -> None:
    secrets = [_secret(each) for each in VECTORS["credentials"]]
    assert b"" in secrets
    assert any(len(secret) == 64 * 1024 for secret in secrets)
    assert any(not secret.isascii() for secret in secrets)
    assert {each["table"] for each in VECTORS["credentials"]} == {"api_credentials", "credential_history"}
    assert {each["row"]["owner_kind"] for each in VECTORS["credentials"]} == {"user", "guild"}
    assert {each["state"] for each in json.loads(KEYSET)["versions"]} == {"destroyed", "deactivated", "active"}


def test_the_master_key_of_the_vectors_has_the_id_and_the_setup_token_that_they_name() -> None:
    wrapping = MasterKeyWrapping(SecretBytes(MASTER))
    assert wrapping.master_key_id == VECTORS["master_key_id"]
    assert wrapping.setup_token(INSTALL).reveal() == VECTORS["setup_token"]


def test_the_keyset_of_the_vectors_is_what_our_code_writes() -> None:
    """With the nonces of the vectors' own wrapped keys, byte for byte."""
    wrapping = MasterKeyWrapping(SecretBytes(MASTER))
    body = key_rows.authenticate("keyset/AES_KEY", key_rows.parse("keyset/AES_KEY", KEYSET), INSTALL, wrapping)
    keyset = key_rows.read_keyset(KeyName.AES_KEY, body)
    wrapped_again = tuple(
        each
        if each.state is KeyState.DESTROYED
        else dataclasses.replace(
            each,
            wrapped=MasterKeyWrapping(SecretBytes(MASTER), GivenRandomness(each.wrapped[:12])).wrap(
                _materials()[each.version], install_id=INSTALL, name=KeyName.AES_KEY, version=each.version
            ),
        )
        for each in keyset
    )
    assert key_rows.encode_keyset(dataclasses.replace(keyset, versions=wrapped_again), wrapping) == KEYSET
    for each in keyset:
        if each.state is not KeyState.DESTROYED:
            assert each.fingerprint == Derivation().fingerprint(KeyName.AES_KEY, _materials()[each.version])


# ---------------------------------------------------------------------------------------------------------------------
# An install that was made just now
# ---------------------------------------------------------------------------------------------------------------------

FRESH = SystemRandomness()


@dataclasses.dataclass(frozen=True)
class Install:
    master: bytes
    keyset_value: str
    row: dict[str, Any]


@pytest.fixture
def install() -> Install:
    master, material, install_id = FRESH.token_bytes(32), SecretBytes(FRESH.token_bytes(32)), FRESH.new_id()
    wrapping = MasterKeyWrapping(SecretBytes(master))
    version = KeyVersion(
        version=70_000,
        state=KeyState.ACTIVE,
        fingerprint=Derivation().fingerprint(KeyName.AES_KEY, material),
        wrapped=wrapping.wrap(material, install_id=install_id, name=KeyName.AES_KEY, version=70_000),
        origin=Origin.GENERATED,
        created_at=datetime(2026, 5, 4, tzinfo=UTC),
    )
    row: dict[str, Any] = {"id": FRESH.new_id(), "owner_kind": "user", "owner_id": FRESH.new_id()}
    place = EncryptionContext(
        install_id=install_id,
        table="api_credentials",
        row_id=row["id"],
        owner_kind=row["owner_kind"],
        owner_id=row["owner_id"],
        field="encrypted_value",
        key_name="AES_KEY",
    )
    sealed = AesGcmEnvelope(FRESH).encrypt("schlüssel".encode(), place, key_version=70_000, material=material)
    keyset = Keyset.first(KeyName.AES_KEY, install_id, version)
    return Install(master, key_rows.encode_keyset(keyset, wrapping), {**row, "encrypted_value": sealed})


def test_the_program_opens_what_keyhall_writes(open_credential: OpenCredential, install: Install) -> None:
    assert open_credential(install.master, install.keyset_value, install.row).decode() == "schlüssel"


def test_the_program_refuses_another_master_key(open_credential: OpenCredential, install: Install) -> None:
    with pytest.raises(ValueError, match="another master key"):
        open_credential(FRESH.token_bytes(32), install.keyset_value, install.row)


def test_the_program_refuses_an_edited_keyset(open_credential: OpenCredential, install: Install) -> None:
    with pytest.raises(ValueError, match="edited row"):
        open_credential(install.master, install.keyset_value.replace('"active"', '"deactivated"'), install.row)


@pytest.mark.parametrize("column", ["id", "owner_kind", "owner_id"])
def test_the_program_refuses_another_row(open_credential: OpenCredential, install: Install, column: str) -> None:
    with pytest.raises(ValueError, match="another place"):
        open_credential(install.master, install.keyset_value, {**install.row, column: "guild"})


def test_the_program_refuses_every_flipped_byte(open_credential: OpenCredential, install: Install) -> None:
    envelope: bytes = install.row["encrypted_value"]
    for position in range(len(envelope)):
        changed = bytearray(envelope)
        changed[position] ^= 0x80
        with pytest.raises((ValueError, KeyError, InvalidTag)):
            open_credential(install.master, install.keyset_value, {**install.row, "encrypted_value": bytes(changed)})
