"""Access tokens: strict in what they accept, silent about why they refuse, and PyJWT as a second opinion."""

from __future__ import annotations

import base64
import dataclasses
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.errors import InvalidToken
from app.domain.secrets import SecretBytes
from app.infrastructure.crypto.tokens import JwtAccessTokens
from app.services.ports import AccessClaims, UnknownKeyId

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
OLD, NEW = SecretBytes(bytes(range(100, 132))), SecretBytes(b"a text of more than 32 bytes from outside, as adopted")
MATERIALS = {3: OLD, 4: NEW}
ISSUER, AUDIENCE = "keyhall:6f1f2d5e-93a4-4a5e-8f0c-2b7d9c1e4a60", "keyhall-api"
TOKENS = JwtAccessTokens(ISSUER, AUDIENCE)
CLAIMS = AccessClaims(
    user_id="01999f00-0000-7000-8000-0000000000aa",
    role="member",
    session_id="01999f00-0000-7000-8000-0000000000bb",
    token_version=0,
    token_id="01999f00-0000-7000-8000-0000000000cc",
    issued_at=NOW,
    expires_at=NOW + timedelta(minutes=30),
)
HEADER = {"alg": "HS256", "kid": "jwt-4", "typ": "at+jwt"}
PAYLOAD: dict[str, Any] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": CLAIMS.user_id,
    "role": CLAIMS.role,
    "sid": CLAIMS.session_id,
    "token_version": 0,
    "jti": CLAIMS.token_id,
    "iat": int(NOW.timestamp()),
    "exp": int(NOW.timestamp()) + 1800,
}
EXP = PAYLOAD["exp"]


def _b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _forge(
    header: object = HEADER, payload: object = PAYLOAD, *, key: SecretBytes = NEW, digest: str = "sha256"
) -> str:
    """A token with any header and payload, rightly signed: the worst case. Text stands as it is, all else as JSON."""
    parts = (part if isinstance(part, str) else json.dumps(part) for part in (header, payload))
    signed = ".".join(_b64(part.encode("utf-8", "surrogatepass")) for part in parts)
    return f"{signed}.{_b64(hmac.digest(key.reveal(), signed.encode(), digest))}"


def _read(token: str, now: datetime = NOW, materials: Mapping[int, SecretBytes] = MATERIALS) -> AccessClaims:
    return TOKENS.read(token, materials, now)


def _refused(token: str, now: datetime = NOW) -> None:
    with pytest.raises(InvalidToken) as refused:
        _read(token, now)
    assert refused.value.__cause__ is None
    assert str(refused.value) == "Sign in to continue"


# ---------------------------------------------------------------------------------------------------------------------
# Good tokens
# ---------------------------------------------------------------------------------------------------------------------


def test_what_was_issued_is_read() -> None:
    assert _read(TOKENS.issue(CLAIMS, key_version=4, material=NEW)) == CLAIMS
    assert _read(TOKENS.issue(CLAIMS, key_version=3, material=OLD)) == CLAIMS


def test_the_forger_of_these_tests_can_make_good_tokens() -> None:
    assert _read(_forge()) == CLAIMS


def test_header_and_claims_are_exactly_these() -> None:
    header, payload, _ = TOKENS.issue(CLAIMS, key_version=4, material=NEW).split(".")
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == HEADER
    assert json.loads(base64.urlsafe_b64decode(payload + "==")) == PAYLOAD


def test_an_independent_library_verifies_what_we_issue() -> None:
    token = TOKENS.issue(CLAIMS, key_version=4, material=NEW)
    options: Any = {"verify_exp": False, "verify_iat": False}
    assert jwt.decode(token, NEW.reveal(), ["HS256"], options, audience=AUDIENCE, issuer=ISSUER) == PAYLOAD


def test_we_read_what_an_independent_library_issues() -> None:
    assert _read(jwt.encode(PAYLOAD, NEW.reveal(), "HS256", {"kid": "jwt-4", "typ": "at+jwt"})) == CLAIMS


def test_times_are_cut_to_whole_seconds() -> None:
    late = dataclasses.replace(CLAIMS, issued_at=NOW + SECOND * 0.9, expires_at=CLAIMS.expires_at + SECOND * 0.9)
    assert _read(TOKENS.issue(late, key_version=4, material=NEW)) == CLAIMS


@given(
    st.builds(
        AccessClaims,
        user_id=st.from_regex(r"[!-~]{1,64}", fullmatch=True),
        role=st.from_regex(r"[a-z]{1,16}", fullmatch=True),
        session_id=st.from_regex(r"[!-~]{1,64}", fullmatch=True),
        token_version=st.integers(0, 2**63 - 1),
        token_id=st.from_regex(r"[!-~]{1,64}", fullmatch=True),
        issued_at=st.integers(1, 1_777_896_000).map(lambda at: datetime.fromtimestamp(at, UTC)),
        expires_at=st.integers(1_777_896_001, 253_402_214_400).map(lambda at: datetime.fromtimestamp(at, UTC)),
    ),
    st.integers(1, 0xFFFF_FFFF),
)
def test_all_claims_survive(claims: AccessClaims, key_version: int) -> None:
    token = TOKENS.issue(claims, key_version=key_version, material=NEW)
    assert _read(token, datetime.fromtimestamp(1_777_896_000, UTC), {key_version: NEW}) == claims


# ---------------------------------------------------------------------------------------------------------------------
# Time
# ---------------------------------------------------------------------------------------------------------------------


def test_a_token_ends_with_the_second_that_it_names() -> None:
    token = _forge()
    assert _read(token, CLAIMS.expires_at - timedelta(microseconds=1)) == CLAIMS
    _refused(token, CLAIMS.expires_at)


def test_the_time_is_the_argument_and_not_the_clock() -> None:
    long_ago = datetime(1999, 1, 1, tzinfo=UTC)
    claims = dataclasses.replace(CLAIMS, issued_at=long_ago, expires_at=long_ago + SECOND)
    assert _read(TOKENS.issue(claims, key_version=4, material=NEW), long_ago) == claims


def test_a_clock_may_be_five_seconds_behind_the_issuers() -> None:
    token = _forge()
    assert _read(token, NOW - 5 * SECOND) == CLAIMS
    _refused(token, NOW - 6 * SECOND)


def test_a_token_that_is_not_valid_yet_is_refused() -> None:
    assert _read(_forge(payload={**PAYLOAD, "nbf": PAYLOAD["iat"]})) == CLAIMS
    _refused(_forge(payload={**PAYLOAD, "nbf": EXP}))
    _refused(_forge(payload={**PAYLOAD, "nbf": None}))
    _refused(_forge(payload={**PAYLOAD, "nbf": float(PAYLOAD["iat"])}))


# ---------------------------------------------------------------------------------------------------------------------
# Keys
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kid", ["jwt-1", "jwt-5", "jwt-4294967295"])
def test_a_well_formed_key_id_that_is_not_loaded_is_told_apart(kid: str) -> None:
    with pytest.raises(UnknownKeyId):
        _read(_forge({**HEADER, "kid": kid}))


@pytest.mark.parametrize(
    "kid",
    [
        *(
            "",
            "4",
            "jwt-",
            "jwt-0",
            "jwt-04",
            "jwt--4",
            "jwt-4 ",
            " jwt-4",
            "JWT-4",
            "jwt-4\n",
            "jwt-\u0664",
            "jwt-4.0",
        ),
        *("jwt-4294967296", "jwt-99999999999", "jwt-" + "9" * 3000),
        *("../../dev/null", "' OR 1=1 --", "jwt-4\x00", "\ud800"),
        *(4, 4.0, None, True, ["jwt-4"], {"jwt-4": 1}, {"kid": "jwt-4"}),
    ],
)
def test_any_other_key_id_is_refused(kid: object) -> None:
    _refused(_forge({**HEADER, "kid": kid}))


def test_a_token_is_verified_by_the_version_that_it_names_and_no_other() -> None:
    _refused(_forge(key=OLD))
    _refused(_forge({**HEADER, "kid": "jwt-3"}, key=NEW))


def test_every_flipped_bit_is_found() -> None:
    token = _forge()
    for position in range(len(token)):
        for bit in range(7):
            changed = token[:position] + chr(ord(token[position]) ^ 1 << bit) + token[position + 1 :]
            with pytest.raises((InvalidToken, UnknownKeyId)):
                _read(changed)


def test_every_truncation_is_found() -> None:
    token = _forge()
    for end in range(len(token)):
        _refused(token[:end])


# ---------------------------------------------------------------------------------------------------------------------
# RFC 8725, and the holes that libraries had
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NoNe", "NONE", "", "hs256", "HS384", "HS512", "RS256", None, 256, ["HS256"]]
)
def test_no_other_algorithm_is_taken(algorithm: object) -> None:
    header = {**HEADER, "alg": algorithm}
    _refused(_forge(header))
    unsigned = _forge(header).rpartition(".")[0]
    _refused(f"{unsigned}.")
    _refused(unsigned)


def test_a_token_signed_by_another_algorithm_is_refused() -> None:
    for digest in ("sha384", "sha512"):
        _refused(_forge(digest=digest))
        _refused(_forge({**HEADER, "alg": f"HS{digest[3:]}"}, digest=digest))


@pytest.mark.parametrize("name", HEADER)
def test_no_member_of_the_header_may_be_missing(name: str) -> None:
    _refused(_forge({key: value for key, value in HEADER.items() if key != name}))


@pytest.mark.parametrize("type_", ["JWT", "jwt", "AT+JWT", "application/at+jwt", "rt+jwt", "", None, ["at+jwt"]])
def test_no_other_type_is_taken(type_: object) -> None:
    """A refresh token or an identity token is no access token (RFC 8725, 3.11)."""
    _refused(_forge({**HEADER, "typ": type_}))


@pytest.mark.parametrize(
    "more",
    [
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"b64": False},
        {"b64": True},
        {"jku": "https://keys.example/jwks.json"},
        {"x5u": "https://keys.example/cert.pem"},
        {"jwk": {"kty": "oct", "k": _b64(NEW.reveal())}},
        {"x5c": ["MII"]},
        {"cty": "JWT"},
        {"zip": "DEF"},
        {"enc": "A256GCM"},
        {"": ""},
    ],
)
def test_nothing_else_may_stand_in_the_header(more: dict[str, object]) -> None:
    _refused(_forge({**HEADER, **more}))


@pytest.mark.parametrize(
    "header",
    [
        '{"alg":"HS256","kid":"jwt-4","typ":"at+jwt","alg":"HS256"}',
        '{"alg":"none","kid":"jwt-4","typ":"at+jwt","alg":"HS256"}',
        '{"alg":"HS256","kid":"jwt-4","typ":"at+jwt","\\u0061lg":"HS256"}',
    ],
)
def test_no_member_of_the_header_may_stand_twice(header: str) -> None:
    _refused(_forge(header))


def test_no_claim_may_stand_twice() -> None:
    text = json.dumps(PAYLOAD)
    _refused(_forge(payload=text[:-1] + f', "sub": {json.dumps(CLAIMS.user_id)}}}'))
    _refused(_forge(payload=text[:-1] + ', "more": {"a": 1, "a": 1}}'))


@pytest.mark.parametrize("name", PAYLOAD)
def test_no_claim_may_be_missing(name: str) -> None:
    _refused(_forge(payload={key: value for key, value in PAYLOAD.items() if key != name}))


@pytest.mark.parametrize("name", PAYLOAD)
@pytest.mark.parametrize(
    "value", [None, True, False, "", 1.5, -1, [], {}, ["keyhall-api"], "\ud800", "a\0b", "é", 2**63, 10**400]
)
def test_no_claim_may_have_another_type_or_a_value_that_nobody_issues(name: str, value: object) -> None:
    _refused(_forge(payload={**PAYLOAD, name: value}))


@pytest.mark.parametrize("name", ["iat", "exp", "token_version"])
@pytest.mark.parametrize("value", ["0", "1777897800", 1777897800.0, "now"])
def test_a_number_is_an_integer(name: str, value: object) -> None:
    _refused(_forge(payload={**PAYLOAD, name: value}))


@pytest.mark.parametrize(
    "value", ["1e3", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "0x7fffffff", "01", "1_0", "9" * 3000]
)
def test_an_expiry_is_plain_json(value: str) -> None:
    _refused(_forge(payload=json.dumps({**PAYLOAD, "exp": 0}).replace('"exp": 0', f'"exp": {value}')))


@pytest.mark.parametrize("exp", [253_402_300_800, 2**53, 2**63 - 1])
def test_an_expiry_that_no_calendar_holds_is_refused(exp: int) -> None:
    _refused(_forge(payload={**PAYLOAD, "exp": exp}))


@pytest.mark.parametrize(("name", "value"), [("iss", "keyhall:other"), ("iss", ISSUER + "/"), ("aud", "keyhall-web")])
def test_a_token_of_or_for_somebody_else_is_refused(name: str, value: str) -> None:
    _refused(_forge(payload={**PAYLOAD, name: value}))


@pytest.mark.parametrize(
    "part", ["null", "[]", '""', "1", "true", "", "{", '{"alg"', "\ufeff{}", "\ud800", "[" * 1400, '{"a":' * 500]
)
def test_what_is_no_json_object_is_refused(part: str) -> None:
    _refused(_forge(part))
    _refused(_forge(payload=part))


# ---------------------------------------------------------------------------------------------------------------------
# One token, one text
# ---------------------------------------------------------------------------------------------------------------------


def test_no_second_text_of_the_same_token_is_read() -> None:
    token = _forge()
    header, payload, signature = token.split(".")
    others = [f"{token}=", f"{token}==", f"{header}=.{payload}.{signature}", f"{header}.{payload}=.{signature}"]
    others += [
        f" {token}",
        f"{token} ",
        f"{token}\n",
        f"{token}.",
        f".{token}",
        f"{token}.{signature}",
        token.replace(".", ".."),
    ]
    others += [f"Bearer {token}", f"{header}.{payload}\n.{signature}", f"{header}. {payload}.{signature}"]
    others += [f"{header}.{payload}.{signature[:20]}!{signature[20:]}", token.replace("_", "/").replace("-", "+") + "="]
    for other in others:
        _refused(other)


def test_bits_that_stand_for_nothing_must_be_zero() -> None:
    """43 characters carry 258 bits of which a signature has 256: three other last characters decode to the same."""
    token = _forge()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(token[-1])
    for same in range(last + 1, last + 4):
        other = token[:-1] + alphabet[same]
        assert base64.urlsafe_b64decode(other.rpartition(".")[2] + "=") == base64.urlsafe_b64decode(
            token.rpartition(".")[2] + "="
        )
        _refused(other)


def test_a_long_token_is_refused_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    padding = 4096 - len(_forge(payload={**PAYLOAD, "more": ""}))
    longest = _forge(payload={**PAYLOAD, "more": "x" * (padding * 3 // 4)})
    assert 4090 <= len(longest) <= 4096
    assert _read(longest) == CLAIMS
    monkeypatch.setattr("app.infrastructure.crypto.tokens._decode", None)
    for token in (longest + "A" * 10, "A" * 10_000_000, "." * 10_000_000):
        _refused(token)


# ---------------------------------------------------------------------------------------------------------------------
# Anything at all
# ---------------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ODD = JSON | st.sampled_from([*HEADER.values(), *PAYLOAD.values()])


def _answers(token: str) -> None:
    try:
        claims = _read(token)
    except (InvalidToken, UnknownKeyId):
        return
    assert claims.expires_at > NOW


@given(st.text(alphabet=st.characters(exclude_categories=[])))
@example("..")
@example("\ud800.\udfff.\ud800")
@example("e30.e30.e30")
def test_no_text_raises_anything_else(token: str) -> None:
    _answers(token)


@given(st.binary(max_size=100), st.binary(max_size=100), st.binary(max_size=40))
def test_no_three_segments_raise_anything_else(header: bytes, payload: bytes, signature: bytes) -> None:
    _answers(".".join(map(_b64, (header, payload, signature))))
    _answers(".".join((_b64(json.dumps(HEADER).encode()), _b64(payload), _b64(signature))))


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from([*HEADER, "crit", "b64"]), ODD))
def test_no_signed_header_raises_anything_else(header: dict[str, object]) -> None:
    _answers(_forge({**HEADER, **header}))


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from([*PAYLOAD, "nbf"]), ODD))
def test_no_signed_payload_raises_anything_else(payload: dict[str, object]) -> None:
    _answers(_forge(payload={**PAYLOAD, **payload}))


@given(JSON)
def test_no_signed_json_raises_anything_else(content: object) -> None:
    _answers(_forge(payload=content))
    _answers(_forge(content))
