"""WebAuthn by py_webauthn: the options for browsers, and the verification of answers of authenticators.

The library is imported when the first answer comes: it brings much that a start does not need. Options are a few
members, put together here without the library.
"""

from __future__ import annotations

import asyncio
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from app.domain.passkeys import CHALLENGE_LASTS, Passkey, RelyingParty
from app.services.ports import Answer, AnswerRefused, Claimed, NewKey, Options, Signed

_T = TypeVar("_T")
_PARTY_NAME: Final = "Keyhall"
_ES256, _EDDSA, _RS256 = -7, -8, -257
_ALGORITHMS: Final = (_ES256, _EDDSA, _RS256)
"""COSE algorithms (RFC 9053; RFC 8812 for RS256), the best first: WebAuthn, 5.4, names these three for everybody."""
_P256, _ED25519 = 1, 6
_RSA_BITS: Final = range(2048, 4097)
_MILLISECONDS: Final = int(CHALLENGE_LASTS.total_seconds() * 1000)
_CREDENTIAL_ID_LONGEST: Final = 1023
"""Bytes (WebAuthn, 6.5.1)."""
_LONGEST_MEMBER: Final = 16 * 1024
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_TRANSPORTS: Final = frozenset({"usb", "nfc", "ble", "smart-card", "hybrid", "internal", "cable"})


class WebAuthn:
    """The port ``Authenticators``."""

    def creation_options(
        self, party: RelyingParty, challenge: bytes, *, handle: bytes, username: str, known: Sequence[Passkey]
    ) -> Options:
        """PublicKeyCredentialCreationOptionsJSON. A key that browsers can find without a name is demanded."""
        return {
            "rp": {"id": party.id, "name": _PARTY_NAME},
            "user": {"id": _text(handle), "name": username, "displayName": username},
            "challenge": _text(challenge),
            "pubKeyCredParams": [{"type": "public-key", "alg": each} for each in _ALGORITHMS],
            "timeout": _MILLISECONDS,
            "excludeCredentials": _descriptors(known),
            "authenticatorSelection": {
                "residentKey": "required",
                "requireResidentKey": True,
                "userVerification": "required",
            },
            "attestation": "none",
        }

    def request_options(self, party: RelyingParty, challenge: bytes, *, allowed: Sequence[Passkey]) -> Options:
        """PublicKeyCredentialRequestOptionsJSON."""
        return {
            "challenge": _text(challenge),
            "timeout": _MILLISECONDS,
            "rpId": party.id,
            "allowCredentials": _descriptors(allowed),
            "userVerification": "required",
        }

    def claimed(self, answer: Answer) -> Claimed:
        """Challenge, credential and user, as the answer names them. Raises AnswerRefused."""
        response = answer.get("response")
        if not isinstance(response, dict):
            raise AnswerRefused("response is no object")
        handle = response.get("userHandle")
        return Claimed(
            challenge=_bytes(_client_data(response).get("challenge")),
            credential_id=_bytes(answer.get("rawId")),
            user_handle=None if handle is None else _bytes(handle),
        )

    async def verify_creation(self, answer: Answer, party: RelyingParty, challenge: bytes) -> NewKey:
        """WebAuthn, 7.1. An attestation is not asked for; one that signs itself is verified, any other refused."""
        return await _in_a_thread(lambda: _verified_creation(answer, party, challenge))

    async def verify_signature(
        self, answer: Answer, party: RelyingParty, challenge: bytes, *, public_key: bytes
    ) -> Signed:
        """WebAuthn, 7.2, except for the counter."""
        return await _in_a_thread(lambda: _verified_signature(answer, party, challenge, public_key))


async def _in_a_thread(verify: Callable[[], _T]) -> _T:
    return await asyncio.to_thread(_refusing, verify)


def _refusing(verify: Callable[[], _T]) -> _T:
    try:
        return verify()
    except AnswerRefused:
        raise
    except Exception as error:  # noqa: BLE001 - for this reason:
        # The library and those below it raise many kinds, also TypeError and ValueError, for bytes that a stranger made
        # up. After any error the answer was not verified.
        raise AnswerRefused(ascii(f"{type(error).__name__}: {error}")[:200]) from None


def _verified_creation(answer: Answer, party: RelyingParty, challenge: bytes) -> NewKey:
    from webauthn import verify_registration_response  # noqa: PLC0415 - see the module
    from webauthn.helpers import parse_attestation_object  # noqa: PLC0415
    from webauthn.helpers.cose import COSEAlgorithmIdentifier  # noqa: PLC0415

    response = _response(answer, "attestationObject")
    attestation = parse_attestation_object(_bytes(response["attestationObject"]))
    if attestation.fmt not in {"none", "packed"} or attestation.att_stmt.x5c:
        raise AnswerRefused("an attestation by a manufacturer was not asked for")
    made = attestation.auth_data.attested_credential_data
    if (
        made is None
        or len(made.credential_id) > _CREDENTIAL_ID_LONGEST
        or made.credential_id != _bytes(answer["rawId"])
    ):
        raise AnswerRefused("the id of the key is not rawId, or too long")
    _check_key(made.credential_public_key)  # first: a key that signs itself is verified below, which may be slow
    verified = verify_registration_response(
        credential=_plain(answer, response),
        expected_challenge=challenge,
        expected_rp_id=party.id,
        expected_origin=list(party.origins),
        require_user_verification=True,
        supported_pub_key_algs=[COSEAlgorithmIdentifier(each) for each in _ALGORITHMS],
    )
    named = response.get("transports")
    return NewKey(
        credential_id=verified.credential_id,
        public_key=verified.credential_public_key,
        sign_count=verified.sign_count,
        transports=tuple(sorted(_TRANSPORTS.intersection(each for each in named if isinstance(each, str))))
        if isinstance(named, list)
        else (),
        synced=verified.credential_backed_up,
    )


def _check_key(public_key: bytes) -> None:
    """Refuse a key that could not verify, or only slowly. Raises AnswerRefused, and what the library raises."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415 - see the module
    from webauthn.helpers import decode_credential_public_key, decoded_public_key_to_cryptography  # noqa: PLC0415

    decoded: Any = decode_credential_public_key(public_key)
    key = decoded_public_key_to_cryptography(decoded)
    curve = getattr(decoded, "crv", None)
    if isinstance(key, RSAPublicKey):
        fits = decoded.alg == _RS256 and key.key_size in _RSA_BITS and key.public_numbers().e == 65537
    else:
        fits = (decoded.alg, curve) in {(_ES256, _P256), (_EDDSA, _ED25519)}
    if not fits:
        raise AnswerRefused("the key is of a kind that was not asked for")


def _verified_signature(answer: Answer, party: RelyingParty, challenge: bytes, public_key: bytes) -> Signed:
    from webauthn import verify_authentication_response  # noqa: PLC0415 - see the module

    response = _response(answer, "authenticatorData", "signature")
    verified = verify_authentication_response(
        credential=_plain(answer, response),
        expected_challenge=challenge,
        expected_rp_id=party.id,
        expected_origin=list(party.origins),
        credential_public_key=public_key,
        # The library would judge the counter before the signature: then anybody could report somebody's key as copied.
        credential_current_sign_count=0,
        require_user_verification=True,
    )
    return Signed(sign_count=verified.new_sign_count, synced=verified.credential_backed_up)


def _response(answer: Answer, *members: str) -> dict[str, Any]:
    """The response, with each of these members, made on one of our own pages."""
    response = answer.get("response")
    if not isinstance(response, dict):
        raise AnswerRefused("response is no object")
    for each in members:
        _bytes(response.get(each))
    data = _client_data(response)
    if data.get("crossOrigin") not in {None, False} or "topOrigin" in data:
        raise AnswerRefused("it was made within a page of another site")
    return response


def _plain(answer: Answer, response: dict[str, Any]) -> dict[str, Any]:
    """The members of an answer that the library needs, and none that it could stumble over."""
    kept = ("clientDataJSON", "attestationObject", "authenticatorData", "signature")
    return {
        **{name: answer.get(name) for name in ("id", "rawId", "type")},
        "response": {name: response[name] for name in kept if name in response},
    }


def _client_data(response: dict[str, Any]) -> dict[str, Any]:
    try:
        data = json.loads(_bytes(response.get("clientDataJSON")).decode("utf-8"))
    except (ValueError, RecursionError):
        raise AnswerRefused("clientDataJSON is no JSON") from None
    if not isinstance(data, dict):
        raise AnswerRefused("clientDataJSON is no object")
    return data


def _descriptors(passkeys: Sequence[Passkey]) -> list[dict[str, object]]:
    return [
        {
            "id": _text(each.credential_id),
            "type": "public-key",
            **({"transports": list(each.transports)} if each.transports else {}),
        }
        for each in passkeys
    ]


def _text(value: bytes) -> str:
    return urlsafe_b64encode(value).decode().rstrip("=")


def _bytes(value: object) -> bytes:
    """The bytes of a member in base64url without padding."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_MEMBER or _BASE64URL.fullmatch(value) is None:
        raise AnswerRefused("a member is no base64url, or too long")
    try:
        return urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except ValueError:
        raise AnswerRefused("a member is no base64url") from None
