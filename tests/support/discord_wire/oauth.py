"""OAuth2 (RFC 6749 and 7636): codes for users who consent, and the grants that come of them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from tests.support.discord_wire.actors import Json
from tests.support.discord_wire.rules import Refused
from tests.support.discord_wire.world import World


class OAuth:
    """The authorization server of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._codes: dict[str, Json] = {}
        self._grants: dict[str, Json] = {}

    def grant(self, token: str) -> Json | None:
        """The grant of an access token."""
        return self._grants.get(token)

    async def authorize(self, request: web.Request) -> web.Response:
        """The user behind ``consenting`` agrees at once; there is no page."""
        query, user = request.query, self._world.consenting
        if query.get("client_id") != str(self._world.application_id) or query.get("response_type") != "code":
            raise Refused(400, 50035, "Invalid Form Body")
        if user is None:
            answer = {"error": "access_denied"}
        else:
            answer = {"code": secrets.token_urlsafe(16)}
            self._codes[answer["code"]] = {"user": user, **query}
        address = query["redirect_uri"]
        joint = "&" if "?" in address else "?"
        answer |= {"state": query["state"]} if "state" in query else {}
        raise web.HTTPFound(address + joint + urlencode(answer))

    def token(self, request: web.Request, body: Any) -> Json:
        """Exchange a code (once, same redirect, PKCE if it was begun with it) or rotate a refresh token."""
        form = self._client_form(request, body)
        if form.get("grant_type") == "refresh_token":
            found = [key for key, grant in self._grants.items() if grant["refresh"] == form.get("refresh_token")]
            known = self._grants.pop(found[0]) if found else None
        else:
            known = self._codes.pop(form.get("code", ""), None)
            if known is not None and (
                known["redirect_uri"] != form.get("redirect_uri")
                or known.get("code_challenge") != _challenge(known, form.get("code_verifier"))
            ):
                known = None
        if known is None:
            raise _refusal("invalid_grant")
        token, refresh = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self._grants[token] = {"user": known["user"], "scope": known["scope"], "refresh": refresh}
        rest = {"token_type": "Bearer", "expires_in": 604_800, "scope": known["scope"]}
        return {"access_token": token, "refresh_token": refresh} | rest

    def revoke(self, request: web.Request, body: Any) -> Json:
        """End the grant of an access or refresh token."""
        token = self._client_form(request, body).get("token")
        self._grants = {key: grant for key, grant in self._grants.items() if token not in {key, grant["refresh"]}}
        return {}

    def _client_form(self, request: web.Request, body: Any) -> dict[str, str]:
        """The form of a client that proved its secret, by Basic authentication or in the form."""
        form: dict[str, str] = body if isinstance(body, dict) else {}
        given = f"{form.get('client_id')}:{form.get('client_secret')}"
        scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            try:
                given = base64.b64decode(credential, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                raise _refusal("invalid_client", 401) from None
        if given != f"{self._world.application_id}:{self._world.client_secret}":
            raise _refusal("invalid_client", 401)
        return form


def _refusal(code: str, status: int = 400) -> Refused:
    refusal = Refused(status, 0, code)
    refusal.body = {"error": code}
    return refusal


def _challenge(begun: Json, verifier: str | None) -> str | None:
    """The challenge of a verifier: S256 of it, itself (plain), or None if neither side used PKCE."""
    if verifier is None or begun.get("code_challenge_method") != "S256":
        return verifier
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
