"""The envelope: bound to its row, committed to its key, and one error for whatever is wrong."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import weakref
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.hmac import HMAC
from hypothesis import given
from hypothesis import strategies as st

from app.domain.encrypted_columns import EncryptedColumn, EncryptedRow
from app.domain.errors import CryptoError
from app.domain.keys import KeyName
from app.domain.secrets import SecretBytes
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.crypto import envelope as module
from app.infrastructure.crypto.derive import encode_tuple
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.services.ports import EncryptionContext, Randomness
from tests.support.vectors import GivenRandomness

FRESH = SystemRandomness()
ENVELOPE = AesGcmEnvelope(FRESH)
MATERIAL = SecretBytes(bytes(range(32)))
OTHER = SecretBytes(bytes(range(1, 33)))
PLACE = EncryptionContext(
    install_id="6f1f2d5e-93a4-4a5e-8f0c-2b7d9c1e4a60",
    table="api_credentials",
    row_id="01999f00-0000-7000-8000-000000000001",
    owner_kind="user",
    owner_id="01999f00-0000-7000-8000-0000000000aa",
    field="encrypted_value",
    key_name="AES_KEY",
)
SECRET = b"sk-demo-1234567890"
HEADER = 82


def _seal(plaintext: bytes = SECRET) -> bytes:
    return ENVELOPE.encrypt(plaintext, PLACE, key_version=7, material=MATERIAL)


def _open(envelope: bytes, place: EncryptionContext = PLACE, material: SecretBytes = MATERIAL) -> bytes:
    return ENVELOPE.decrypt(envelope, place, material=material)


@given(st.binary(max_size=300), st.integers(1, 0xFFFF_FFFF))
def test_what_was_sealed_opens(plaintext: bytes, key_version: int) -> None:
    envelope = ENVELOPE.encrypt(plaintext, PLACE, key_version=key_version, material=MATERIAL)
    assert _open(envelope) == plaintext
    assert ENVELOPE.key_version(envelope) == key_version
    assert len(envelope) == HEADER + len(plaintext) + 16


def test_the_largest_secret_fits() -> None:
    secret = bytes(64 * 1024)
    assert _open(_seal(secret)) == secret


def test_the_same_secret_is_never_sealed_to_the_same_bytes() -> None:
    envelopes = [_seal() for _ in range(50)]
    for part in (slice(6, 38), slice(38, 50), slice(50, 82), slice(82, None)):
        assert len({envelope[part] for envelope in envelopes}) == 50


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(EncryptionContext)])
@pytest.mark.parametrize("value", ["another", "", "\ud800"])
def test_context_binds_ciphertext_to_its_row(field: str, value: str) -> None:
    with pytest.raises(CryptoError):
        _open(_seal(), dataclasses.replace(PLACE, **{field: value}))


def test_text_cannot_slide_from_one_field_of_a_place_to_the_next() -> None:
    moved = dataclasses.replace(PLACE, table=PLACE.table + PLACE.row_id[:1], row_id=PLACE.row_id[1:])
    with pytest.raises(CryptoError):
        _open(_seal(), moved)


def test_another_key_opens_nothing() -> None:
    with pytest.raises(CryptoError):
        _open(_seal(), material=OTHER)


def test_every_flipped_bit_is_found() -> None:
    envelope = _seal()
    for position in range(len(envelope)):
        for bit in range(8):
            changed = bytearray(envelope)
            changed[position] ^= 1 << bit
            with pytest.raises(CryptoError):
                _open(bytes(changed))


def test_every_truncation_and_every_addition_is_found() -> None:
    envelope = _seal()
    for changed in (
        *(envelope[:end] for end in range(len(envelope))),
        envelope[1:],
        envelope + b"\0",
        b"\0" + envelope,
    ):
        with pytest.raises(CryptoError):
            _open(changed)


@given(st.binary(max_size=200))
def test_no_other_bytes_raise_anything_but_the_one_error(envelope: bytes) -> None:
    with pytest.raises(CryptoError):
        _open(b"\x01\x01" + envelope)
    with pytest.raises(CryptoError):
        _open(b"\x02" + envelope)


@pytest.mark.parametrize("envelope", [b"", b"\x01", bytes(200), b"\x01\x02" + bytes(200), b"\x01\x01" + bytes(95)])
def test_the_key_version_is_read_from_envelopes_only(envelope: bytes) -> None:
    with pytest.raises(CryptoError):
        ENVELOPE.key_version(envelope)


def test_every_refusal_reads_the_same() -> None:
    envelope = _seal()
    elsewhere = dataclasses.replace(PLACE, row_id="other")
    attempts = [
        (b"", PLACE),
        (envelope[:-1], PLACE),
        (envelope, elsewhere),
        (bytes(200), PLACE),
        (envelope[:90], PLACE),
    ]
    messages = set()
    for given_envelope, place in attempts:
        with pytest.raises(CryptoError) as refused:
            _open(given_envelope, place)
        assert refused.value.__cause__ is None
        messages.add(str(refused.value))
    assert len(messages) == 1


def test_a_ciphertext_for_two_keys_is_refused() -> None:
    """What key commitment is for: GCM alone would open it under the other key as well.

    The second envelope is what a forger who knows ``OTHER`` can make: right tag, but the commitment of the first key.
    """
    context = module._context(module._encode(PLACE), 7)
    salt, nonce = bytes(32), bytes(12)
    _, commitment = module._derive(module._keyed(MATERIAL), context, salt)
    other_key, _ = module._derive(module._keyed(OTHER), context, salt)
    header = module._HEADER.pack(1, 1, 7, salt, nonce, commitment)
    with pytest.raises(CryptoError):
        _open(header + AESGCM(other_key).encrypt(nonce, SECRET, context), material=OTHER)


def test_the_commitment_is_checked_before_anything_is_decrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    envelope = bytearray(_seal())
    envelope[60] ^= 1
    monkeypatch.setattr(module, "AESGCM", None)
    with pytest.raises(CryptoError):
        _open(bytes(envelope))


def test_record_key_and_commitment_share_nothing() -> None:
    """Knowing an envelope's commitment must not help with its record key: they are separate halves of HKDF's output."""
    envelope = _seal()
    context = module._context(module._encode(PLACE), 7)
    key, commitment = module._derive(module._keyed(MATERIAL), context, envelope[6:38])
    assert commitment == envelope[50:82]
    assert key != commitment
    assert key not in envelope


def test_the_format_never_changes_unnoticed() -> None:
    """A digest of one envelope with given randomness; docs/vectors holds more of them."""
    sealed = AesGcmEnvelope(GivenRandomness(bytes(44))).encrypt(SECRET, PLACE, key_version=7, material=MATERIAL)
    assert hashlib.sha256(sealed).hexdigest() == ("30250b37722ecc702467318a8bfe4b04cf381c818b4b2b40b09c002043c4f1b5")


# ---------------------------------------------------------------------------------------------------------------------
# In bulk
# ---------------------------------------------------------------------------------------------------------------------

COLUMN = EncryptedColumn(table=PLACE.table, field=PLACE.field)
ROW = EncryptedRow(PLACE.row_id, PLACE.owner_kind, PLACE.owner_id, 1, 7, b"")


def _row(value: bytes, **moved: Any) -> EncryptedRow:
    return ROW._replace(value=value, **moved)


def _reseal(
    rows: list[EncryptedRow],
    materials: dict[int, SecretBytes],
    key_version: int = 8,
    material: SecretBytes = OTHER,
    randomness: Randomness = FRESH,
) -> list[bytes | None]:
    return AesGcmEnvelope(randomness).reencrypt(
        rows,
        COLUMN,
        install_id=PLACE.install_id,
        materials=materials,
        key_version=key_version,
        material=material,
    )


def _opened_by(rows: list[EncryptedRow], materials: dict[int, SecretBytes]) -> list[int | None]:
    return ENVELOPE.opened_by(rows, COLUMN, install_id=PLACE.install_id, materials=materials)


@given(st.text(), st.text(), st.text())
def test_the_context_of_a_row_is_the_tuple_that_is_documented(row_id: str, owner_kind: str, owner_id: str) -> None:
    assert module._of_row(row_id, owner_kind, owner_id) == encode_tuple(row_id, owner_kind, owner_id)


def test_what_was_resealed_opens_in_its_place_under_the_new_version_only() -> None:
    third = SecretBytes(bytes(32))
    elsewhere = dataclasses.replace(PLACE, row_id="other", owner_kind="guild", owner_id="900000000000000001")
    places = [PLACE, elsewhere]
    rows = [
        _row(_seal()),
        _row(
            ENVELOPE.encrypt(b"", elsewhere, key_version=9, material=OTHER),
            id=elsewhere.row_id,
            owner_kind=elsewhere.owner_kind,
            owner_id=elsewhere.owner_id,
        ),
    ]
    resealed = _reseal(rows, {7: MATERIAL, 9: OTHER}, 70_000, third)
    opened = []
    for value, place in zip(resealed, places, strict=True):
        assert value is not None
        assert ENVELOPE.key_version(value) == 70_000
        opened.append(ENVELOPE.decrypt(value, place, material=third))
        with pytest.raises(CryptoError):
            ENVELOPE.decrypt(value, place, material=MATERIAL)
        with pytest.raises(CryptoError):
            ENVELOPE.decrypt(value, dataclasses.replace(place, row_id="moved"), material=third)
    assert opened == [SECRET, b""]


def test_every_row_is_resealed_with_salt_and_nonce_of_its_own() -> None:
    row = _row(_seal())
    resealed = _reseal([row] * 50, {7: MATERIAL}, 7, MATERIAL)
    values = [value for value in (*resealed, row.value) if value is not None]
    assert len({value[6:38] for value in values}) == len({value[38:50] for value in values}) == 51


def test_reseal_and_seal_agree_to_the_letter() -> None:
    random = bytes(range(44))
    resealed = _reseal([_row(_seal())], {7: MATERIAL}, randomness=GivenRandomness(random))
    assert resealed == [AesGcmEnvelope(GivenRandomness(random)).encrypt(SECRET, PLACE, key_version=8, material=OTHER)]


@pytest.mark.parametrize("position", range(HEADER + len(SECRET) + 16))
def test_what_does_not_open_is_told_and_holds_up_no_other(position: int) -> None:
    changed = bytearray(_seal())
    changed[position] ^= 1
    rows = [_row(_seal()), _row(bytes(changed)), _row(_seal(), id="other"), _row(_seal()[:90]), _row(_seal())]
    materials = {7: MATERIAL, 6: MATERIAL}  # the bit that makes 6 of 7 is changed as well
    assert _opened_by(rows, materials) == [7, None, None, None, 7]
    resealed = _reseal(rows, materials)
    assert [value is not None for value in resealed] == [True, False, False, False, True]


@pytest.mark.parametrize("field", ["install_id", "table", "field", "key_name", "id", "owner_kind", "owner_id"])
def test_in_bulk_as_well_the_context_binds_ciphertext_to_its_row(field: str) -> None:
    row, column, install_id = _row(_seal()), COLUMN, PLACE.install_id
    match field:
        case "install_id":
            install_id = "another"
        case "table":
            column = dataclasses.replace(column, table="another")
        case "field":
            column = dataclasses.replace(column, field="another")
        case "key_name":
            column = dataclasses.replace(column, key_name=KeyName.ENCRYPTION_KEY)
        case _:
            row = _row(row.value, **{field: "another"})
    materials = {7: MATERIAL}
    assert ENVELOPE.opened_by([row], column, install_id=install_id, materials=materials) == [None]
    assert ENVELOPE.reencrypt(
        [row], column, install_id=install_id, materials=materials, key_version=8, material=OTHER
    ) == [None]


@pytest.mark.parametrize("field", ["id", "owner_kind", "owner_id"])
@pytest.mark.parametrize("value", [b"bytes", None, 7])
def test_what_is_no_text_in_the_place_of_an_id_opens_nothing(field: str, value: Any) -> None:
    """An edited SQLite file can hold it; the rows beside it are not concerned."""
    rows = [_row(_seal(), **{field: value}), _row(_seal())]
    assert _opened_by(rows, {7: MATERIAL}) == [None, 7]
    assert [each is not None for each in _reseal(rows, {7: MATERIAL})] == [False, True]
    place = dataclasses.replace(PLACE, **{{"id": "row_id"}.get(field, field): value})
    with pytest.raises(CryptoError):
        _open(_seal(), place)


def test_what_a_version_that_is_gone_sealed_does_not_open() -> None:
    assert _opened_by([_row(_seal())], {8: MATERIAL}) == [None]
    assert _reseal([_row(_seal())], {8: MATERIAL}, 8, MATERIAL) == [None]


def test_nothing_to_reseal_is_nothing() -> None:
    assert _reseal([], {}) == []


# ---------------------------------------------------------------------------------------------------------------------
# What holds a key version
# ---------------------------------------------------------------------------------------------------------------------


def test_no_keyed_hmac_outlives_the_call_that_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is destroyed or compromised must be gone with the key ring that held it."""
    made: list[weakref.ref[Keyed]] = []

    class Keyed:
        """An HMAC that can be watched; those of `cryptography` cannot."""

        def __init__(self, key: bytes, algorithm: SHA512) -> None:
            self._hmac = HMAC(key, algorithm)
            made.append(weakref.ref(self))

        def copy(self) -> HMAC:
            return self._hmac.copy()

    monkeypatch.setattr(module, "HMAC", Keyed)
    rows = [_row(_seal()), _row(b"damaged"), _row(_seal(), id="other")]
    assert _open(rows[0].value) == SECRET
    assert _opened_by(rows, {7: MATERIAL, 6: OTHER}) == [7, None, None]
    assert _reseal(rows, {7: MATERIAL})[1:] == [None, None]
    with pytest.raises(CryptoError):
        _open(_seal(), material=OTHER)
    gc.collect()
    assert len(made) >= 8
    assert [each() for each in made] == [None] * len(made)


def test_nothing_that_holds_a_key_version_shows_it() -> None:
    keyed = module._keyed(MATERIAL)
    shown = repr(keyed) + repr(keyed.copy()) + repr(ENVELOPE)
    assert MATERIAL.reveal().hex() not in shown
    assert repr(MATERIAL.reveal()) not in shown
