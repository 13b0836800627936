"""The examples in the OpenAPI document, built from its schemas: each member's value is chosen here by its name.

A value of an enumeration, a time, a number or a nested object follows from the schema; a member that may be null is
null without a value of its own. Requests show the members that are required, and those in ``_SHOWN``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from app.domain.errors import AppError, InvalidInput, TooManyAttempts
from app.web.problems import problem_body

_ID: Final = "0192f3a4-5b6c-4d7e-8f90-a1b2c3d4e5f6"
_REQUEST_ID: Final = "5f0c3a9b7d21e846"
_GUILD: Final = "1098765432109876543"
_CREATED: Final = "2026-03-01T09:30:00Z"
_USED: Final = "2026-03-14T16:05:00Z"
_AHEAD: Final = "2036-06-01T00:00:00Z"
"""Far ahead, so that a request with it can be sent as it stands."""
_LINK: Final = "https://keyhall.example.org/claim#khl_3q2w…"

_MEMBERS: Final[Mapping[str, Any]] = {
    "about": "key:AES_KEY",
    "access_token": "eyJhbGciOiJIUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiIwMTky….Qm9vay4",
    "action": "credential.revealed",
    "actor": "ada",
    "address": "203.0.113.7",
    "age_days": 12,
    "alg": -7,
    "attempts": 1,
    "at": _AHEAD,
    "authenticated_at": _USED,
    "challenge": "nU8TqM0kQXmS3gqv3m1XrWQyR2v0bEw7Lk9pZtJcA5s",
    "claim_link": _LINK,
    "code": "7KQ4-M2XD",
    "credential": {
        "id": "kq8d0b7YQm6Zt2l1w9sXcA",
        "rawId": "kq8d0b7YQm6Zt2l1w9sXcA",
        "type": "public-key",
        "response": {"clientDataJSON": "eyJ0eXBlIjoi…", "authenticatorData": "SZYN5YgO…", "signature": "MEUCIQDx…"},
        "clientExtensionResults": {},
    },
    "credentials": 42,
    "device": "Firefox on Linux",
    "displayName": "ada",
    "due_at": "2026-06-01T09:30:00Z",
    "expires_at": _AHEAD,
    "expires_in": 900,
    "file": "keyhall-2026-03-14T160500Z.age",
    "fingerprint": "3f9a1c7e",
    "guild_id": None,
    "id": _ID,
    "install_id": "8d0b7e52-6c1f-4a39-9b84-2e5f7a10c3d6",
    "issued_by": "ada",
    "label": "Team account",
    "language": "de",
    "last_used": _USED,
    "last_used_at": _USED,
    "last_verified": _USED,
    "link": _LINK,
    "masked": "sk-proj-••••••••0GjE",
    "name": "AES_KEY",
    "new_password": "nine lighthouses and a borrowed kite",
    "note": "re-encrypting credentials",
    "origin": "generated",
    "otp": "123456",
    "password": "seven quiet rivers under the bridge",
    "prefix": "kh_9fQ2",
    "primary": True,
    "provider": "openai",
    "purpose": "protects credentials at rest",
    "readable": True,
    "reason": "a laptop was stolen",
    "recovery_codes": ["4JK7-QX2M-9TDA", "W8PF-3NHC-6YRE"],
    "recovery_codes_left": 10,
    "refresh_token": "khr_Zk3v8Qp1…",
    "role": "member",
    "rotation_days": 90,
    "rpId": "keyhall.example.org",
    "run_at": _CREATED,
    "scopes": ["credentials:read", "credentials:use"],
    "secret": "the key that the provider gave you",
    "secret_age_days": 12,
    "setup_token": "khs_2w9sXcAkq8d0…",
    "session_id": "5b6c4d7e-8f90-41b2-83d4-e5f60192f3a4",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "since": _CREATED,
    "size": 18_432,
    "status": "active",
    "step": "re-encrypt",
    "time_zone": "Europe/Berlin",
    "timeout": 300_000,
    "token": "khl_3q2w…",
    "total": 42,
    "transports": ["internal"],
    "username": "ada",
    "users": 7,
    "verified_at": _USED,
    "version": 1,
}
"""By the name of a member, wherever it stands."""

_PARTICULAR: Final[Mapping[str, Any]] = {
    "Account.role": "owner",
    "Alive.status": "alive",
    "ApplicationKeyVersion.activated_at": _CREATED,
    "ApplicationKeyVersion.state": "active",
    "AuditItem.about": f"credential:{_ID}",
    "AuditItem.at": _USED,
    "AuditItem.detail": {"address": "203.0.113.7"},
    "AuditItem.id": "1204",
    "Backup.managed": True,
    "Backup.present": True,
    "Claim.username": "ada",
    "CreatedToken.name": "Nightly report",
    "CreatedToken.token": "kh_9fQ2…",
    "CreationOptions.excludeCredentials": [],
    "Export.account": {"username": "ada", "role": "member"},
    "Export.complete": True,
    "Export.credentials": [{"provider": "openai", "label": "Team account", "masked": "sk-proj-••••••••0GjE"}],
    "Export.format": 1,
    "Factors.totp": True,
    "FormerSecret.replaced_at": _USED,
    "HealthCheck.detail": "answers, and its schema is current",
    "HealthCheck.name": "database",
    "HealthCheck.remedy": "",
    "InstallHealthReport.ok": True,
    "Job.action": "rotate",
    "Job.key": "AES_KEY",
    "Job.state": "running",
    "Me.role": "owner",
    "Me.scopes": None,
    "NewAccount.claimed": False,
    "NewInvitation.expires_in": 604_800,
    "NewPasskey.name": "Laptop",
    "NewToken.name": "Nightly report",
    "Party.id": "keyhall.example.org",
    "Party.name": "Keyhall",
    "PasskeyUser.id": "AZLzpFtsTX6PkKGyw9Tl9g",
    "PasskeyUser.name": "ada",
    "PasskeyView.name": "Laptop",
    "ProviderHealth.readable": 3,
    "ProviderHealth.total": 3,
    "Ready.bot": "logged_in",
    "Ready.checks": {"database": True, "keys": True, "lease": True},
    "Ready.status": "ready",
    "RequestOptions.allowCredentials": [],
    "RollbackTo.version": 2,
    "Rotation.reason": "yearly rotation",
    "SignIn.current": True,
    "SignIn.last_seen_at": _USED,
    "Token.name": "Nightly report",
    "TotpSecret.qr_svg": "<svg>…</svg>",
    "TotpSecret.secret": "JBSWY3DPEHPK3PXP",
    "TotpSecret.uri": "otpauth://totp/Keyhall:ada?secret=JBSWY3DPEHPK3PXP&issuer=Keyhall",
    "Unreadable.username": "ada",
    "UserAccount.claimed": True,
    "UserChange.role": "member",
}
"""By schema and member, where the name alone does not say enough."""

_SHOWN: Final = frozenset({"PasswordChange.password"})
"""Members that most requests need though the schema does not."""

_TEXTS: Final[Mapping[str, str]] = {"text/plain": "keyhall_backup_age_seconds 5400.0\n"}
"""Answers that are no JSON, by media type."""

_BY_FORMAT: Final[Mapping[str, Any]] = {"date-time": _CREATED}
_BY_TYPE: Final[Mapping[str, Any]] = {"string": "text", "integer": 0, "number": 0, "boolean": False, "object": {}}
_NOTHING: Final = object()


class Examples:
    """Examples of the schemas of one document."""

    def __init__(self, schemas: Mapping[str, dict[str, Any]]) -> None:
        self._schemas = schemas

    def answer(self, reference: Mapping[str, Any], particular: Mapping[str, Any]) -> dict[str, Any]:
        """An answer of that schema, with every member; ``particular`` are those that one endpoint chose."""
        return {**self._of(reference), **particular}

    def request(self, reference: Mapping[str, Any]) -> dict[str, Any]:
        """A request of that schema: what is required, or else all that has a value worth showing."""
        name = _name(reference)
        required = self._schemas[name].get("required", [])
        content: dict[str, Any] = self._of(reference)
        shown = {member: value for member, value in content.items() if f"{name}.{member}" in _SHOWN}
        needed = {member: value for member, value in content.items() if member in required}
        return {**shown, **needed} or {member: value for member, value in content.items() if value is not None}

    def _of(self, schema: Mapping[str, Any]) -> Any:
        if "$ref" in schema:
            name = _name(schema)
            members = self._schemas[name].get("properties", {})
            return {member: self._member(name, member, each) for member, each in members.items()}
        if "anyOf" in schema:
            return None if {"type": "null"} in schema["anyOf"] else self._of(schema["anyOf"][0])
        if schema.get("type") == "array":
            items = schema.get("items", {})
            return [] if items.get("type") == "object" else [self._of(items)]
        return _simple(schema)

    def _member(self, owner: str, member: str, schema: Mapping[str, Any]) -> Any:
        value = _PARTICULAR.get(f"{owner}.{member}", _NOTHING)
        if value is _NOTHING and not _nested(schema):
            value = _MEMBERS.get(member, _NOTHING)
        return self._of(schema) if value is _NOTHING or not _allowed(value, schema) else value


def _simple(schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    return _BY_FORMAT.get(schema.get("format", ""), _BY_TYPE.get(schema.get("type", "")))


def _name(reference: Mapping[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _nested(schema: Mapping[str, Any]) -> bool:
    return "$ref" in schema or "$ref" in schema.get("items", {})


def _allowed(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether an enumeration has the value; what else a schema demands, the tests hold the examples to."""
    alternatives = schema.get("anyOf", [schema])
    return all("enum" not in each or value in each["enum"] for each in alternatives if each.get("type") != "null")


def text_example(media_type: str) -> str | None:
    """An answer that is no JSON, None where a page is the answer."""
    return _TEXTS.get(media_type)


def problem_example(kind: type[AppError]) -> Any:
    """The answer that carries an error of that kind."""
    error: AppError
    if issubclass(kind, InvalidInput):
        error = InvalidInput("label", "must have 1 to 64 characters")
    elif issubclass(kind, TooManyAttempts):
        error = TooManyAttempts(30)
    else:
        error = kind()
    return orjson.loads(problem_body(error, _REQUEST_ID))
