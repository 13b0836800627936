"""An authenticator in software, with a key and a will of its own: it answers as told, right or wrong."""

from __future__ import annotations

import hashlib
import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Any, Final

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

PRESENT, VERIFIED, ELIGIBLE, BACKED_UP, ATTESTED = 0x01, 0x04, 0x08, 0x10, 0x40
"""Flags of authenticator data (WebAuthn Level 3, 6.1)."""

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
ES256: Final = -7


def text(value: bytes) -> str:
    return urlsafe_b64encode(value).decode().rstrip("=")


def raw(value: str) -> bytes:
    return urlsafe_b64decode(value + "=" * (-len(value) % 4))


def _number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def cose(key: Key) -> dict[int, Any]:
    """The public half as a COSE_Key (RFC 9052, 7)."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        numbers = key.public_key().public_numbers()
        size = (key.curve.key_size + 7) // 8
        curve = {"secp256r1": 1, "secp384r1": 2}[key.curve.name]
        return {1: 2, 3: ES256, -1: curve, -2: numbers.x.to_bytes(size, "big"), -3: numbers.y.to_bytes(size, "big")}
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return {1: 1, 3: -8, -1: 6, -2: key.public_key().public_bytes_raw()}
    public = key.public_key().public_numbers()
    return {1: 3, 3: -257, -1: _number(public.n), -2: _number(public.e)}


@dataclass
class Authenticator:
    """One key, made for an origin, with a counter that rises with every use unless it is told otherwise."""

    origin: str
    key: Key = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    credential_id: bytes = field(default_factory=lambda: os.urandom(32))
    rp_id: str | None = None
    user_handle: bytes | None = None
    count: int = 0
    counting: int = 1
    flags: int = PRESENT | VERIFIED
    client_data: dict[str, Any] = field(default_factory=dict)
    """What clientDataJSON holds besides, or instead of, what it should."""

    def create(self, options: Any, **attestation: Any) -> dict[str, Any]:
        """The answer to creation options; ``attestation`` replaces members of the attestation object."""
        self.user_handle = raw(options["user"]["id"])
        self.rp_id = self.rp_id or options["rp"]["id"]
        public = cbor2.dumps(cose(self.key))
        made = bytes(16) + len(self.credential_id).to_bytes(2, "big") + self.credential_id + public
        data = self._data(self.flags | ATTESTED) + made
        members = {"fmt": "none", "attStmt": {}, "authData": data, **attestation}
        return self._answer(
            clientDataJSON=text(self._client_data("webauthn.create", options["challenge"])),
            attestationObject=text(cbor2.dumps(members)),
            transports=["internal", "hybrid"],
        )

    def get(self, options: Any) -> dict[str, Any]:
        """The answer to request options."""
        self.rp_id = self.rp_id or options["rpId"]
        self.count += self.counting
        data, client = self._data(self.flags), self._client_data("webauthn.get", options["challenge"])
        signed = self.sign(data + self.digest(client))
        handle = {} if self.user_handle is None else {"userHandle": text(self.user_handle)}
        return self._answer(clientDataJSON=text(client), authenticatorData=text(data), signature=text(signed), **handle)

    def _answer(self, **response: Any) -> dict[str, Any]:
        return {
            "id": text(self.credential_id),
            "rawId": text(self.credential_id),
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "clientExtensionResults": {"credProps": {"rk": True}},
            "response": response,
        }

    def _data(self, flags: int) -> bytes:
        assert self.rp_id is not None
        return hashlib.sha256(self.rp_id.encode()).digest() + bytes([flags]) + self.count.to_bytes(4, "big")

    def _client_data(self, kind: str, challenge: str) -> bytes:
        data = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False, **self.client_data}
        return json.dumps(data, separators=(",", ":")).encode()

    @staticmethod
    def digest(client_data: bytes) -> bytes:
        """What is signed of clientDataJSON."""
        return hashlib.sha256(client_data).digest()

    def sign(self, message: bytes) -> bytes:
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            return self.key.sign(message, ec.ECDSA(SHA256()))
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(message)
        return self.key.sign(message, padding.PKCS1v15(), SHA256())
