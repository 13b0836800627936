"""The sections of the page, in the order in which they are shown, and what the template of each is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from aiohttp import web

from app.domain.identity import Actor
from app.domain.passkeys import PASSKEYS_MOST
from app.web.options import SERVICES
from app.web.passkeys import passkeys_elsewhere

View = Callable[[web.Request, Actor], Awaitable[Mapping[str, Any]]]
"""Reads the variables of a section's template, which must not clash with those of another section."""


async def _password(request: web.Request, actor: Actor) -> Mapping[str, Any]:
    return {"has_password": await request.app[SERVICES].passwords.has_password(actor)}


async def _sessions(request: web.Request, actor: Actor) -> Mapping[str, Any]:
    found = await request.app[SERVICES].authentication.sessions(actor, limit=100)
    return {"sessions": found.items, "more_sessions": found.next_cursor is not None, "present": actor.session_id}


async def _discord(request: web.Request, actor: Actor) -> Mapping[str, Any]:
    linked = await request.app[SERVICES].identity.discord_id_of(actor.user_id)
    return {"linked_discord": linked, "link_code": None, "link_code_until": None}


async def _factors(request: web.Request, actor: Actor) -> Mapping[str, Any]:
    return {"factor": await request.app[SERVICES].second_factor.status(actor)}


async def _passkeys(request: web.Request, actor: Actor) -> Mapping[str, Any]:
    found = await request.app[SERVICES].passkeys.page(actor, limit=100)
    return {
        "passkeys": found.items,
        "most_passkeys": PASSKEYS_MOST,
        "passkeys_elsewhere": passkeys_elsewhere(request),
    }


VIEWS: Final[Mapping[str, View]] = MappingProxyType(
    {
        "password": _password,
        "factors": _factors,
        "passkeys": _passkeys,
        "discord": _discord,
        "sessions": _sessions,
    }
)

NEWS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "password": "Your password is changed. Every other session has ended.",
        "confirmed": "It is confirmed that it is you, for ten minutes. Repeat your step.",
        "unlinked": "Your Discord account is not linked any more. Every other session has ended.",
        "passkey": "The passkey is added. Every other session has ended.",
        "passkey-removed": "The passkey is removed. Every other session has ended. Delete it on its device as well.",
        "factor_off": "The second factor is switched off. Every other session has ended.",
        "session": "That session has ended.",
        "sessions": "Every other session has ended.",
    }
)
"""The sentence on the page after a form of a section did its work, by the value of `done`."""
