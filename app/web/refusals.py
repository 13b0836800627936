"""Refusals of the web in the audit trail: recorded here, unless the service that refused has recorded them."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError
from app.web.options import SERVICES
from app.web.origin import ORIGIN
from app.web.problems import CrossSite, InsecureConnection
from app.web.sessions import ACTOR

REFUSALS: Final = (
    errors.Forbidden,
    errors.InvalidCredentials,
    errors.InvalidToken,
    errors.ReauthenticationRequired,
    errors.SetupClosed,
    CrossSite,
    InsecureConnection,
)
"""The errors that deny somebody something; wrong passwords are recorded where they are judged."""


UNMATCHED: Final = "unmatched"
"""Stands for the pattern of an address that no route serves."""


async def record_refusal(request: web.Request, error: AppError) -> None:
    """Record a refused request, with the address's pattern, never with any of its content."""
    if isinstance(error, REFUSALS):
        who = request.get(ACTOR) or request.app[ORIGIN].client(request)
        await request.app[SERVICES].refusals.refuse(who, error, f"{request.method} {route_of(request)}")


def route_of(request: web.Request) -> str:
    """The pattern of the address, such as `/credentials/{credential_id}`."""
    resource = request.match_info.route.resource
    return UNMATCHED if resource is None else resource.canonical
