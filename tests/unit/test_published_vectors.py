"""Test vectors that others published, through our own code: the package `cryptography-vectors` and RFC 7515.

Where our code takes its key or context from a derivation of its own, as it should, the vector's stands in the
derivation's place and all else is ours; each test says what it replaced. Every test says how many vectors there must
be at least, so that none passes over an empty file.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import CryptoError, InvalidToken
from app.domain.keys import KeyName
from app.domain.secrets import SecretBytes
from app.infrastructure.crypto import derive, envelope, messages, tokens, wrapping
from app.infrastructure.crypto.derive import Derivation, hkdf_sha256
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.infrastructure.crypto.messages import FernetMessages
from app.infrastructure.crypto.tokens import JwtAccessTokens
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from app.services.ports import EncryptionContext
from tests.support.vectors import GivenRandomness, nist_cases, vector_json

MATERIAL = SecretBytes(bytes(range(32)))
INSTALL = "6f1f2d5e-93a4-4a5e-8f0c-2b7d9c1e4a60"
PLACE = EncryptionContext(
    install_id=INSTALL,
    table="api_credentials",
    row_id="01999f00-0000-7000-8000-000000000001",
    owner_kind="user",
    owner_id="01999f00-0000-7000-8000-0000000000aa",
    field="encrypted_value",
    key_name="AES_KEY",
)

# ---------------------------------------------------------------------------------------------------------------------
# HKDF-SHA256
# ---------------------------------------------------------------------------------------------------------------------


def test_hkdf_gives_what_rfc_5869_says() -> None:
    ran = 0
    for path in ("KDF/rfc-5869-HKDF-SHA256.txt", "KDF/hkdf-generated.txt"):
        for case in nist_cases(path):
            material, salt, info = (bytes.fromhex(case[name]) for name in ("ikm", "salt", "info"))
            assert hkdf_sha256(material, salt=salt, info=info, length=int(case["l"])).hex() == case["okm"]
            ran += 1
    assert ran >= 4


# ---------------------------------------------------------------------------------------------------------------------
# HMAC-SHA256 and HMAC-SHA512
# ---------------------------------------------------------------------------------------------------------------------


def _hmac_cases(algorithm: str = "sha256") -> Iterator[tuple[bytes, bytes, bytes]]:
    """Key, message and MAC of RFC 4231; its case 5, a truncation that nothing of ours makes, is not in the package."""
    cases = list(nist_cases(f"HMAC/rfc-4231-{algorithm}.txt", first="len"))
    assert len(cases) >= 6
    for case in cases:
        key, message, mac = (bytes.fromhex(case[name]) for name in ("key", "msg", "md"))
        yield key, message, mac


def test_the_mac_of_a_row_is_hmac_as_rfc_4231_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vector's key stands for the sub-key of the master key, its message for the tuple that is authenticated."""
    monkeypatch.setattr(wrapping, "encode_tuple", lambda *parts: parts[-1])
    for key, message, mac in _hmac_cases():
        ours = MasterKeyWrapping(MATERIAL)
        ours._row_key = SecretBytes(key)
        assert ours.row_mac("manifest", INSTALL, message) == mac


def test_the_mac_for_services_is_hmac_as_rfc_4231_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vector's key stands for the sub-key of the label, its message for the tuple of the parts."""
    monkeypatch.setattr(derive, "encode_tuple", lambda *parts: parts[-1])
    for key, message, mac in _hmac_cases():
        monkeypatch.setattr(derive, "derive", lambda *_, key=key: key)
        assert Derivation().mac(MATERIAL, "credential-fingerprint", message) == mac


def test_the_keyed_object_of_an_envelope_is_hmac_as_rfc_4231_says() -> None:
    """The vector's key stands for the key version. A copy is made for every value, so two copies are."""
    for key, message, mac in _hmac_cases("sha512"):
        keyed = envelope._keyed(SecretBytes(key))
        for copy in (keyed.copy(), keyed.copy()):
            copy.update(message)
            assert copy.finalize() == mac


@given(context=st.binary(max_size=400), salt=st.binary(min_size=32, max_size=32), key=st.binary(min_size=32))
def test_record_key_and_commitment_are_hkdf_expand_with_sha512(context: bytes, salt: bytes, key: bytes) -> None:
    """No vectors of HKDF with SHA-512 are in the package: an implementation other than ours takes their place."""
    expected = HKDFExpand(SHA512(), 64, context + salt).derive(key)
    assert b"".join(envelope._derive(envelope._keyed(SecretBytes(key)), context, salt)) == expected


# ---------------------------------------------------------------------------------------------------------------------
# AES-256-GCM
# ---------------------------------------------------------------------------------------------------------------------


def _gcm_cases() -> Iterator[dict[str, Any]]:
    """NIST's CAVP vectors of our parameters: 256-bit keys, 96-bit nonces, 128-bit tags.

    Left out are the other lengths of nonce and tag: no argument of ours can ask for them.
    """
    for path in ("ciphers/AES/GCM/gcmEncryptExtIV256.rsp", "ciphers/AES/GCM/gcmDecrypt256.rsp"):
        for case in nist_cases(path):
            if (case["ivlen"], case["taglen"]) == ("96", "128"):
                members = {name: bytes.fromhex(case.get(name, "")) for name in ("key", "iv", "aad", "ct", "tag", "pt")}
                yield {**members, "fails": "fail" in case}


def test_an_envelope_is_aes_gcm_as_nist_defines_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vector's key stands for the record's key, its AAD for the place; salt and commitment are zeros."""
    sealed = refused = 0
    for case in _gcm_cases():
        monkeypatch.setattr(envelope, "_context", lambda *_, case=case: case["aad"])
        monkeypatch.setattr(envelope, "_derive", lambda *_, case=case: (case["key"], bytes(32)))
        header = envelope._HEADER.pack(1, 1, 7, bytes(32), case["iv"], bytes(32))
        expected = header + case["ct"] + case["tag"]
        ours = AesGcmEnvelope(GivenRandomness(bytes(32) + case["iv"]))
        if case["fails"]:
            refused += 1
            with pytest.raises(CryptoError):
                ours.decrypt(expected, PLACE, material=MATERIAL)
        else:
            sealed += 1
            assert ours.decrypt(expected, PLACE, material=MATERIAL) == case["pt"]
            assert ours.encrypt(case["pt"], PLACE, key_version=7, material=MATERIAL) == expected
    assert sealed >= 500
    assert refused >= 150


def test_wrapping_is_aes_gcm_as_nist_defines_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vector's key stands for the sub-key that wraps, its AAD for the place.

    Empty plaintexts are refused before anything is decrypted, for no key is empty.
    """
    wrapped = refused = empty = 0
    for case in _gcm_cases():
        monkeypatch.setattr(wrapping, "_place", lambda *_, case=case: case["aad"])
        ours = MasterKeyWrapping(MATERIAL, GivenRandomness(case["iv"]))
        ours._wrap = AESGCM(case["key"])
        expected = case["iv"] + case["ct"] + case["tag"]
        if case["fails"] or not case["ct"]:
            refused += case["fails"]
            empty += not case["ct"]
            with pytest.raises(CryptoError):
                ours.unwrap(expected, install_id=INSTALL, name=KeyName.AES_KEY, version=1)
        else:
            wrapped += 1
            material = ours.unwrap(expected, install_id=INSTALL, name=KeyName.AES_KEY, version=1)
            assert material.reveal() == case["pt"]
            assert ours.wrap(material, install_id=INSTALL, name=KeyName.AES_KEY, version=1) == expected
    assert wrapped >= 400
    assert refused >= 150
    assert empty >= 100


# ---------------------------------------------------------------------------------------------------------------------
# Fernet: the vectors of its specification, with their key where the scope's would stand
# ---------------------------------------------------------------------------------------------------------------------

CIPHER = FernetMessages()
SCOPE = "member:1234567890"
WITHOUT_EXPIRY = {"far-future TS (unacceptable clock skew)", "expired TTL"}
"""Invalid only where tokens expire; ours do not."""


def _fernet_cases(kind: str, at_least: int) -> Iterator[dict[str, Any]]:
    cases = vector_json(f"fernet/{kind}.json")
    assert len(cases) >= at_least
    yield from cases


def _use_key(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    """Where the scope's key is derived; everything after it is ours."""
    monkeypatch.setattr(messages, "derive", lambda *_: base64.urlsafe_b64decode(secret))
    assert messages._fernet(MATERIAL, SCOPE)._signing_key == Fernet(secret)._signing_key


def test_fernet_tokens_open_as_the_specification_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in _fernet_cases("verify", 1):
        _use_key(monkeypatch, case["secret"])
        assert CIPHER.decrypt(case["token"], SCOPE, [MATERIAL]).decode() == case["src"]


def test_fernet_tokens_are_made_as_the_specification_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library draws the IV itself: the vector's stands for the system's randomness."""
    for case in _fernet_cases("generate", 1):
        _use_key(monkeypatch, case["secret"])
        monkeypatch.setattr("cryptography.fernet.os.urandom", lambda _, case=case: bytes(case["iv"]))
        with time_machine.travel(case["now"], tick=False):
            assert CIPHER.encrypt(case["src"].encode(), SCOPE, MATERIAL) == case["token"]


def test_invalid_fernet_tokens_are_refused_as_the_specification_says(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = set()
    for case in _fernet_cases("invalid", 8):
        _use_key(monkeypatch, case["secret"])
        if case["desc"] in WITHOUT_EXPIRY:
            assert CIPHER.decrypt(case["token"], SCOPE, [MATERIAL]) == b""
            opened.add(case["desc"])
            continue
        with pytest.raises(CryptoError):
            CIPHER.decrypt(case["token"], SCOPE, [MATERIAL])
    assert opened == WITHOUT_EXPIRY


# ---------------------------------------------------------------------------------------------------------------------
# JSON Web Signature: RFC 7515, appendix A.1, transcribed
# ---------------------------------------------------------------------------------------------------------------------

A_1_KEY = SecretBytes(
    base64.urlsafe_b64decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow==")
)
A_1_HEADER = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
A_1_PAYLOAD = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
A_1_SIGNATURE = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
A_1_TOKEN = f"{A_1_HEADER}.{A_1_PAYLOAD}.{A_1_SIGNATURE}"
NOW = datetime(2011, 3, 22, 18, 0, tzinfo=UTC)
"""Before the example expires."""


def test_the_token_of_rfc_7515_verifies_with_its_key_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through our reader from the text to the claims; what only our own tokens say is not judged.

    That is the header, in which ours name a version and another type, and the claims, which are given back as read.
    """
    ours = JwtAccessTokens("issuer", "audience")
    monkeypatch.setattr(tokens, "_key_version", lambda _: 1)
    monkeypatch.setattr(ours, "_claims", lambda members, _: members)
    read: Any = ours.read(A_1_TOKEN, {1: A_1_KEY}, NOW)
    assert read == {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}
    with pytest.raises(InvalidToken):
        ours.read(A_1_TOKEN, {1: MATERIAL}, NOW)
    for position in range(len(A_1_TOKEN)):
        changed = "A" if A_1_TOKEN[position] != "A" else "B"
        with pytest.raises(InvalidToken):
            ours.read(A_1_TOKEN[:position] + changed + A_1_TOKEN[position + 1 :], {1: A_1_KEY}, NOW)


def test_the_token_of_rfc_7515_is_none_of_ours() -> None:
    """Its type is not ``at+jwt`` and it names no version: rightly signed is not enough (RFC 8725, 3.11)."""
    with pytest.raises(InvalidToken):
        JwtAccessTokens("joe", "audience").read(A_1_TOKEN, {1: A_1_KEY}, NOW)


def test_signatures_are_hmac_as_rfc_4231_says() -> None:
    """Below our reader, which takes no bare message: the algorithm that it verifies by."""
    hs256 = JwtAccessTokens("issuer", "audience")._hs256
    for key, message, mac in _hmac_cases():
        assert hs256.verify(message, key, mac)
        assert not hs256.verify(message, key + b"\1", mac)
        assert not hs256.verify(message + b"\0", key, mac)
