"""The master key at work: what it wraps opens in its own place only."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from app.domain.errors import CryptoError
from app.domain.keys import KeyName
from app.domain.secrets import SecretBytes
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from tests.support.vectors import GivenRandomness

INSTALL = "6f1f2d5e-93a4-4a5e-8f0c-2b7d9c1e4a60"
MASTER = SecretBytes(bytes(range(32)))
MATERIAL = SecretBytes(bytes(range(100, 132)))


@pytest.fixture
def wrapping() -> MasterKeyWrapping:
    return MasterKeyWrapping(MASTER)


def _wrap(wrapping: MasterKeyWrapping, material: SecretBytes = MATERIAL) -> bytes:
    return wrapping.wrap(material, install_id=INSTALL, name=KeyName.AES_KEY, version=1)


def _unwrap(wrapping: MasterKeyWrapping, wrapped: bytes) -> SecretBytes:
    return wrapping.unwrap(wrapped, install_id=INSTALL, name=KeyName.AES_KEY, version=1)


@pytest.mark.parametrize("size", [1, 32, 43, 4096])
def test_what_was_wrapped_unwraps(wrapping: MasterKeyWrapping, size: int) -> None:
    material = SecretBytes(b"k" * size)
    assert _unwrap(wrapping, _wrap(wrapping, material)) == material


def test_the_same_key_is_never_wrapped_to_the_same_bytes(wrapping: MasterKeyWrapping) -> None:
    assert len({_wrap(wrapping) for _ in range(50)}) == 50


def test_the_layout_is_nonce_ciphertext_tag() -> None:
    nonce = bytes(range(12))
    wrapped = _wrap(MasterKeyWrapping(MASTER, GivenRandomness(nonce)))
    assert wrapped.startswith(nonce)
    assert len(wrapped) == 12 + 32 + 16


@pytest.mark.parametrize(
    ("install_id", "name", "version"),
    [
        ("another", KeyName.AES_KEY, 1),
        ("\ud800", KeyName.AES_KEY, 1),
        (INSTALL, KeyName.ENCRYPTION_KEY, 1),
        (INSTALL, KeyName.AES_KEY, 2),
    ],
)
def test_a_wrapped_key_opens_in_its_own_place_only(
    wrapping: MasterKeyWrapping, install_id: str, name: KeyName, version: int
) -> None:
    wrapped = _wrap(wrapping)
    with pytest.raises(CryptoError):
        wrapping.unwrap(wrapped, install_id=install_id, name=name, version=version)


def test_another_master_key_unwraps_nothing(wrapping: MasterKeyWrapping) -> None:
    with pytest.raises(CryptoError):
        _unwrap(MasterKeyWrapping(SecretBytes(bytes(32))), _wrap(wrapping))


def test_every_flipped_bit_is_found(wrapping: MasterKeyWrapping) -> None:
    wrapped = _wrap(wrapping)
    for position in range(len(wrapped)):
        for bit in range(8):
            changed = bytearray(wrapped)
            changed[position] ^= 1 << bit
            with pytest.raises(CryptoError):
                _unwrap(wrapping, bytes(changed))


def test_every_truncation_and_every_addition_is_found(wrapping: MasterKeyWrapping) -> None:
    wrapped = _wrap(wrapping)
    for changed in (
        *(wrapped[:length] for length in range(len(wrapped))),
        wrapped[1:],
        wrapped + b"\0",
        b"\0" + wrapped,
    ):
        with pytest.raises(CryptoError):
            _unwrap(wrapping, changed)


def test_every_refusal_reads_the_same(wrapping: MasterKeyWrapping) -> None:
    messages = set()
    for wrapped in (b"", b"short", bytes(60), _wrap(wrapping)[:-1]):
        with pytest.raises(CryptoError) as refused:
            _unwrap(wrapping, wrapped)
        messages.add(str(refused.value))
    assert len(messages) == 1


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_master_key_has_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        MasterKeyWrapping(SecretBytes(bytes(size)))


def test_the_id_names_the_master_key_and_is_the_same_everywhere(wrapping: MasterKeyWrapping) -> None:
    assert re.fullmatch("[0-9a-f]{16}", wrapping.master_key_id)
    assert wrapping.master_key_id == MasterKeyWrapping(MASTER).master_key_id
    assert wrapping.master_key_id != MasterKeyWrapping(MATERIAL).master_key_id


def test_a_row_mac_covers_name_install_and_value(wrapping: MasterKeyWrapping) -> None:
    rows = [("manifest", INSTALL, b"{}"), ("keyset/AES_KEY", INSTALL, b"{}"), ("manifest", "other", b"{}")]
    rows += [("manifest", INSTALL, b"{} "), ("manifes", "t" + INSTALL, b"{}"), ("manifest", INSTALL + "{", b"}")]
    macs = [wrapping.row_mac(*row) for row in rows]
    assert len(set(macs)) == len(rows)
    assert {len(mac) for mac in macs} == {32}
    assert MasterKeyWrapping(MATERIAL).row_mac(*rows[0]) not in macs


def test_the_canary_is_opened_by_its_master_key_for_its_install_only(wrapping: MasterKeyWrapping) -> None:
    canary = wrapping.canary(INSTALL)
    assert wrapping.opens_canary(canary, INSTALL)
    assert not wrapping.opens_canary(canary, "another")
    assert not wrapping.opens_canary(canary, "\ud800")
    assert not MasterKeyWrapping(MATERIAL).opens_canary(canary, INSTALL)
    for damaged in (b"", canary[:-1], canary + b"\0", bytes(32)):
        assert not wrapping.opens_canary(damaged, INSTALL)


def test_the_setup_token_is_the_same_in_every_process_of_an_install(wrapping: MasterKeyWrapping) -> None:
    token = wrapping.setup_token(INSTALL).reveal()
    assert token == MasterKeyWrapping(MASTER).setup_token(INSTALL).reveal()
    assert re.fullmatch("khs_[A-Za-z0-9_-]{32}", token)
    others = [MasterKeyWrapping(MATERIAL).setup_token(INSTALL).reveal(), wrapping.setup_token("another").reveal()]
    assert len({token, *others}) == 3


def test_the_passphrase_of_backups_is_that_of_the_master_key_alone(wrapping: MasterKeyWrapping) -> None:
    passphrase = wrapping.backup_passphrase().reveal()
    assert re.fullmatch("[A-Za-z0-9_-]{43}", passphrase)
    assert passphrase == MasterKeyWrapping(MASTER).backup_passphrase().reveal()
    assert passphrase != MasterKeyWrapping(MATERIAL).backup_passphrase().reveal()


def test_the_sub_keys_differ(wrapping: MasterKeyWrapping) -> None:
    keys = [wrapping._row_key, wrapping._canary_key, wrapping._setup_key, wrapping._backup_key, MASTER]
    assert all(one != other for one, other in pairwise(sorted(keys, key=SecretBytes.reveal)))


def test_nothing_of_the_master_key_shows(wrapping: MasterKeyWrapping) -> None:
    shown = f"{wrapping!r} {wrapping} {[getattr(wrapping, name) for name in wrapping.__slots__]!r}"
    assert MASTER.reveal().hex() not in shown
    assert repr(MASTER.reveal()) not in shown
