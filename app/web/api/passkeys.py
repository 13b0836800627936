"""Passkeys: adding and removing them, signing in with one, and proving with one who is at the keyboard.

Options are for a browser's ``parseCreationOptionsFromJSON`` and ``parseRequestOptionsFromJSON``; a credential is the
result of its ``toJSON``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal, NotRequired

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from app.domain import errors
from app.domain.identity import Actor, Client
from app.domain.passkeys import Passkey
from app.web.api.auth import Tokens, as_tokens
from app.web.inputs import ID, Model, PageQuery
from app.web.limits import PasskeyName
from app.web.options import SERVICES
from app.web.passkeys import ask_browser, browser_secret, relying_party
from app.web.routing import Routes, json_response
from app.web.sessions import keep_session, own_cookie, remember_device, renew_session, session_cookie

routes = Routes("Passkeys")

_ANSWER: Final = "The result of `PublicKeyCredential.toJSON()` in a browser"
_WRONG: Final = (errors.InvalidCredentials, errors.TooManyAttempts, errors.Overloaded, errors.NotConfigured)

Credential = Annotated[dict[str, Any], Field(description=_ANSWER)]


class NewPasskey(Model):
    """A passkey that a browser made for the options, and a name for your list."""

    name: PasskeyName = Field(description="1 to 64 characters")
    credential: Credential


class Signed(Model):
    """A challenge that a passkey signed."""

    credential: Credential


class Party(TypedDict):
    """For whom the passkey is made."""

    id: str
    name: str


class PasskeyUser(TypedDict):
    """The user of the passkey; `id` is no name."""

    id: str
    name: str
    displayName: str


class Algorithm(TypedDict):
    """An algorithm of COSE: -7 is ES256, -8 EdDSA, -257 RS256."""

    type: Literal["public-key"]
    alg: int


class Descriptor(TypedDict):
    """A passkey by the id that its authenticator gave it."""

    id: str
    type: Literal["public-key"]
    transports: NotRequired[list[str]]


class Selection(TypedDict):
    """The kind of authenticator that is needed."""

    residentKey: Literal["required"]
    requireResidentKey: bool
    userVerification: Literal["required"]


class CreationOptions(TypedDict):
    """PublicKeyCredentialCreationOptionsJSON; bytes are base64url, `timeout` is in milliseconds."""

    rp: Party
    user: PasskeyUser
    challenge: str
    pubKeyCredParams: list[Algorithm]
    timeout: int
    excludeCredentials: list[Descriptor]
    authenticatorSelection: Selection
    attestation: Literal["none"]


class RequestOptions(TypedDict):
    """PublicKeyCredentialRequestOptionsJSON; bytes are base64url, `timeout` is in milliseconds."""

    challenge: str
    timeout: int
    rpId: str
    allowCredentials: list[Descriptor]
    userVerification: Literal["required"]


class PasskeyView(TypedDict):
    """A passkey. `synced` says that it is backed up to other devices of its person."""

    id: str
    name: str
    synced: bool
    created_at: datetime
    last_used_at: datetime | None


class PasskeyViews(TypedDict):
    """Passkeys, the oldest first."""

    items: list[PasskeyView]
    next_cursor: str | None


def _as_view(passkey: Passkey) -> PasskeyView:
    return {
        "id": passkey.id,
        "name": passkey.name,
        "synced": passkey.synced,
        "created_at": passkey.created_at,
        "last_used_at": passkey.last_used_at,
    }


@routes(
    "POST",
    "/api/v1/auth/passkeys/options",
    schema=CreationOptions,
    errors=[errors.ReauthenticationRequired, errors.NotConfigured],
)
async def creation_options(request: web.Request, actor: Actor) -> web.Response:
    """Begin to add a passkey.

    The options hold a challenge for this session, good for one answer within five minutes.
    """
    options = await request.app[SERVICES].passkeys.registration_options(actor, relying_party(request))
    return json_response(200, options)


@routes(
    "POST",
    "/api/v1/auth/passkeys",
    status=201,
    schema=PasskeyView,
    errors=[
        errors.ReauthenticationRequired,
        errors.PasskeyRefused,
        errors.QuotaExceeded,
        errors.AlreadyExists,
        errors.NotConfigured,
    ],
)
async def add(request: web.Request, actor: Actor, body: NewPasskey) -> web.Response:
    """Add the passkey that your browser made.

    At most 20 for a user. All your other sessions end, and a browser's session cookie is renewed.
    """
    added = await request.app[SERVICES].passkeys.register(
        actor, body.name, body.credential, relying_party(request), cookie=own_cookie(request)
    )
    response = json_response(201, _as_view(added.passkey))
    keep_session(request, response, added.kept)
    return response


@routes("GET", "/api/v1/auth/passkeys", schema=PasskeyViews)
async def passkeys(request: web.Request, actor: Actor, query: PageQuery) -> web.Response:
    """Your passkeys."""
    found = await request.app[SERVICES].passkeys.page(actor, after=query.cursor, limit=query.limit)
    return json_response(200, {"items": [_as_view(each) for each in found.items], "next_cursor": found.next_cursor})


@routes(
    "DELETE",
    f"/api/v1/auth/passkeys/{{passkey_id:{ID}}}",
    status=204,
    errors=[errors.NotFound, errors.ReauthenticationRequired, errors.NoOtherWayIn],
)
async def remove(request: web.Request, actor: Actor, passkey_id: str) -> web.Response:
    """Remove one of your passkeys.

    All your other sessions end, and a browser's session cookie is renewed.
    """
    kept = await request.app[SERVICES].passkeys.remove(actor, passkey_id, cookie=own_cookie(request))
    response = json_response(204)
    keep_session(request, response, kept)
    return response


@routes("POST", "/api/v1/auth/passkeys/login/options", schema=RequestOptions, errors=[errors.NotConfigured])
async def login_options(request: web.Request) -> web.Response:
    """Begin to sign in with a passkey.

    Open to everybody: nothing is stored. A browser gets a cookie along with it, without which its answer is refused.
    """
    browser, set_cookie = ask_browser(request)
    options = await request.app[SERVICES].passkeys.login_options(relying_party(request), browser=browser)
    response = json_response(200, options)
    set_cookie(response)
    return response


@routes("POST", "/api/v1/auth/passkeys/login", schema=Tokens, errors=_WRONG)
async def login(request: web.Request, client: Client, body: Signed) -> web.Response:
    """Sign in with a passkey, without name, password and one-time code.

    Unknown and removed passkeys, wrong signatures and disabled accounts get the same answer. A session whose cookie is
    sent along ends. The limits on passwords do not apply: who is kept out by them gets in with a passkey.
    """
    pair = await request.app[SERVICES].passkeys.login(
        body.credential,
        client,
        relying_party(request),
        browser=browser_secret(request),
        former_cookie=session_cookie(request),
    )
    response = json_response(200, as_tokens(pair))
    remember_device(request, response, pair.device_claim)
    return response


@routes(
    "POST",
    "/api/v1/auth/passkeys/reauthenticate/options",
    schema=RequestOptions,
    errors=[errors.NotFound, errors.NotConfigured],
)
async def reauthentication_options(request: web.Request, actor: Actor) -> web.Response:
    """Begin to prove with a passkey that it is you."""
    options = await request.app[SERVICES].passkeys.reauthentication_options(actor, relying_party(request))
    return json_response(200, options)


@routes("POST", "/api/v1/auth/passkeys/reauthenticate", status=204, errors=_WRONG)
async def reauthenticate(request: web.Request, actor: Actor, body: Signed) -> web.Response:
    """Prove with a passkey that it is you.

    For ten minutes from then on this session may reveal secrets. A browser's session cookie is renewed.
    """
    renewed = await request.app[SERVICES].passkeys.reauthenticate(
        actor, body.credential, relying_party(request), cookie=own_cookie(request)
    )
    renew_session(request, renewed)
    return json_response(204)
