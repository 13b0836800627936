"""Fernet tokens for one scope: they open for nobody else."""

from __future__ import annotations

import base64

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import CryptoError
from app.domain.secrets import SecretBytes
from app.infrastructure.crypto.messages import FernetMessages

CIPHER = FernetMessages()
OLD, NEW = SecretBytes(bytes(range(32))), SecretBytes(bytes(range(1, 33)))
SCOPE = "member:1234567890"


@given(st.binary(max_size=200), st.text(max_size=30))
def test_what_was_encrypted_for_a_scope_opens_for_it(plaintext: bytes, scope: str) -> None:
    assert CIPHER.decrypt(CIPHER.encrypt(plaintext, scope, NEW), scope, [NEW]) == plaintext


@pytest.mark.parametrize("scope", ["member:123456789", "guild:1234567890", "member:1234567890 ", "", "\ud800"])
def test_a_token_opens_for_no_other_scope(scope: str) -> None:
    token = CIPHER.encrypt(b"text", SCOPE, NEW)
    with pytest.raises(CryptoError):
        CIPHER.decrypt(token, scope, [NEW])


def test_every_version_that_is_given_opens_its_tokens() -> None:
    for material in (OLD, NEW):
        assert CIPHER.decrypt(CIPHER.encrypt(b"text", SCOPE, material), SCOPE, [NEW, OLD]) == b"text"


def test_a_version_that_is_not_given_opens_nothing() -> None:
    token = CIPHER.encrypt(b"text", SCOPE, OLD)
    for materials in ([NEW], []):
        with pytest.raises(CryptoError):
            CIPHER.decrypt(token, SCOPE, materials)


def test_the_key_of_a_token_is_not_the_version_itself() -> None:
    token = CIPHER.encrypt(b"text", SCOPE, NEW)
    with pytest.raises(CryptoError):
        CIPHER.decrypt(Fernet(base64.urlsafe_b64encode(NEW.reveal())).encrypt(b"text").decode(), SCOPE, [NEW])
    assert token.startswith("gAAAAA")


def test_every_flipped_bit_is_found() -> None:
    token = CIPHER.encrypt(b"text", SCOPE, NEW)
    content = base64.urlsafe_b64decode(token)
    for position in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            with pytest.raises(CryptoError):
                CIPHER.decrypt(base64.urlsafe_b64encode(changed).decode(), SCOPE, [NEW])


def test_every_truncation_is_found() -> None:
    token = CIPHER.encrypt(b"text", SCOPE, NEW)
    for end in range(len(token.rstrip("="))):
        with pytest.raises(CryptoError):
            CIPHER.decrypt(token[:end], SCOPE, [NEW])


@given(st.text())
def test_no_text_raises_anything_but_the_one_error(token: str) -> None:
    for given_token in (token, "gAAAAA" + token):
        with pytest.raises(CryptoError):
            CIPHER.decrypt(given_token, SCOPE, [NEW, OLD])
