"""The memory of a process, over REST."""

from __future__ import annotations

from aiohttp import web

from app.domain import errors
from app.domain.identity import Actor
from app.domain.scopes import Scope
from app.web.options import SERVICES
from app.web.routing import Routes, json_response

routes = Routes("Operation")


@routes(
    "POST",
    "/api/v1/admin/cache/clear",
    status=204,
    errors=[errors.Forbidden, errors.SecretsNotRead],
    scope=Scope.KEYS_MANAGE,
)
async def clear(request: web.Request, actor: Actor) -> web.Response:
    """Forget cached rows and read the secrets in AWS again; for owners and admins.

    This process forgets the rows that it keeps in memory, and with `SECRETS_BACKEND=aws` it reads the secret again.
    Keys that have changed there are promoted in every process. If it cannot be read, the present values stay in use.
    """
    await request.app[SERVICES].outside_secrets.clear_caches(actor)
    return json_response(204)
