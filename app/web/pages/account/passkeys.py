"""The forms by which one adds and removes one's passkeys."""

from __future__ import annotations

from aiohttp import web

from app.domain import errors
from app.domain.identity import Actor
from app.web.inputs import ID, Model, NoFields
from app.web.options import SERVICES
from app.web.pages.account.page import PATH, again, done, signed_out
from app.web.passkeys import answer_in, relying_party
from app.web.routing import Routes
from app.web.sessions import keep_session, own_cookie

routes = Routes("Pages")


class PasskeyForm(Model):
    """A name, and the answer of the browser as JSON."""

    passkey_name: str
    credential: str


@routes(
    "POST",
    f"{PATH}/passkeys",
    status=303,
    media_type="text/html",
    retry=again("passkeys", "passkey_name"),
    signed_out=signed_out("passkey_name"),
    errors=[
        errors.ReauthenticationRequired,
        errors.PasskeyRefused,
        errors.QuotaExceeded,
        errors.AlreadyExists,
        errors.NotConfigured,
    ],
)
async def add(request: web.Request, actor: Actor, form: PasskeyForm) -> web.Response:
    """Add the passkey that your browser made; all your other sessions end."""
    added = await request.app[SERVICES].passkeys.register(
        actor, form.passkey_name, answer_in(form.credential), relying_party(request), cookie=own_cookie(request)
    )
    response = done("passkey")
    keep_session(request, response, added.kept)
    return response


@routes(
    "POST",
    f"{PATH}/passkeys/{{passkey_id:{ID}}}/remove",
    status=303,
    media_type="text/html",
    retry=again("passkeys"),
    signed_out=signed_out(),
    errors=[errors.NotFound, errors.ReauthenticationRequired, errors.NoOtherWayIn],
)
async def remove(request: web.Request, actor: Actor, passkey_id: str, form: NoFields) -> web.Response:  # noqa: ARG001
    """Remove one of your passkeys; all your other sessions end."""
    kept = await request.app[SERVICES].passkeys.remove(actor, passkey_id, cookie=own_cookie(request))
    response = done("passkey-removed")
    keep_session(request, response, kept)
    return response
