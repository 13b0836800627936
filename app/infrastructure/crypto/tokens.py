"""Access tokens: HS256 JWTs of type ``at+jwt`` (RFC 7519, RFC 9068), read strictly (RFC 8725).

PyJWT signs and verifies. Defects that it accepts - duplicate members, trailing ``=``, any ``typ``, absent or textual
times - are refused here, and time is an argument.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import jwt

from app.domain.errors import InvalidToken
from app.domain.secrets import SecretBytes
from app.services.ports import AccessClaims, UnknownKeyId

_ALGORITHM: Final = "HS256"
_TYPE: Final = "at+jwt"
_LONGEST: Final = 4096
_LEEWAY_SECONDS: Final = 5
_LATEST: Final = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())
_KEY_ID: Final = re.compile(r"jwt-([1-9][0-9]{0,9})")


class JwtAccessTokens:
    """Implements ``AccessTokens`` for one issuer and one audience."""

    def __init__(self, issuer: str, audience: str) -> None:
        self._issuer = issuer
        self._audience = audience
        self._jws = jwt.PyJWS(algorithms=[_ALGORITHM])
        self._hs256 = self._jws.get_algorithm_by_name(_ALGORITHM)

    def issue(self, claims: AccessClaims, *, key_version: int, material: SecretBytes) -> str:
        """The token, in compact serialisation; times are cut to whole seconds."""
        payload = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": claims.user_id,
            "role": claims.role,
            "sid": claims.session_id,
            "token_version": claims.token_version,
            "jti": claims.token_id,
            "iat": int(claims.issued_at.timestamp()),
            "exp": int(claims.expires_at.timestamp()),
        }
        headers = {"typ": _TYPE, "kid": f"jwt-{key_version}"}
        encoded = json.dumps(payload, separators=(",", ":")).encode()
        return self._jws.encode(encoded, material.reveal(), _ALGORITHM, headers)

    def read(self, token: str, materials: Mapping[int, SecretBytes], now: datetime) -> AccessClaims:
        """The claims of a valid token.

        Raises InvalidToken for anything else, and UnknownKeyId where only the key version is not known.
        """
        try:
            return self._read(token, materials, now)
        except (ValueError, RecursionError):  # the decoders' messages quote the token
            raise InvalidToken from None

    def _read(self, token: str, materials: Mapping[int, SecretBytes], now: datetime) -> AccessClaims:
        _require(len(token) <= _LONGEST)
        header, payload, signature = map(_decode, token.split("."))
        key_version = _key_version(_members(header))
        material = materials.get(key_version)
        if material is None:
            raise UnknownKeyId(f"jwt-{key_version}")
        _require(self._hs256.verify(token.rpartition(".")[0].encode(), material.reveal(), signature))
        return self._claims(_members(payload), now.timestamp())

    def _claims(self, members: dict[str, Any], now: float) -> AccessClaims:
        _require(members.get("iss") == self._issuer and members.get("aud") == self._audience)
        issued_at, expires_at = _number(members, "iat", _LATEST), _number(members, "exp", _LATEST)
        not_before = _number(members, "nbf", _LATEST) if "nbf" in members else issued_at
        _require(issued_at <= now + _LEEWAY_SECONDS and not_before <= now + _LEEWAY_SECONDS and now < expires_at)
        return AccessClaims(
            user_id=_text(members, "sub"),
            role=_text(members, "role"),
            session_id=_text(members, "sid"),
            token_version=_number(members, "token_version", 2**63 - 1),
            token_id=_text(members, "jti"),
            issued_at=datetime.fromtimestamp(issued_at, UTC),
            expires_at=datetime.fromtimestamp(expires_at, UTC),
        )


def _require(condition: bool) -> None:  # noqa: FBT001 - an assertion, not a switch
    if not condition:
        raise ValueError


def _decode(segment: str) -> bytes:
    """Base64url without padding, in the one form that encoding gives: a token has exactly one text (RFC 4648, 3.5)."""
    decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    _require(base64.urlsafe_b64encode(decoded).rstrip(b"=") == segment.encode())
    return decoded


def _members(data: bytes) -> dict[str, Any]:
    """The members of a JSON object in which no name stands twice, at any depth (RFC 8725, 2.4)."""
    members = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    _require(isinstance(members, dict))
    return dict(members)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    _require(len(members) == len(pairs))
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _key_version(header: dict[str, Any]) -> int:
    """The key version that a header names; a header has ``alg``, ``typ`` and ``kid`` and nothing else."""
    _require(header.keys() == {"alg", "typ", "kid"} and header["alg"] == _ALGORITHM and header["typ"] == _TYPE)
    match = _KEY_ID.fullmatch(header["kid"]) if isinstance(header["kid"], str) else None
    if match is None or int(match[1]) > 0xFFFF_FFFF:
        raise ValueError
    return int(match[1])


def _text(members: dict[str, Any], name: str) -> str:
    """Visible ASCII, as ids and roles are: nothing that a database or a log would choke on."""
    value = members.get(name)
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        raise ValueError
    return value


def _number(members: dict[str, Any], name: str, largest: int) -> int:
    value = members.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise ValueError
    return value
