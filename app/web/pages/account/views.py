"""The sections of the page, in the order in which they are shown, and what the template of each is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from aiohttp import web

from app.domain.identity import Actor, grantable
from app.domain.passkeys import PASSKEYS_MOST
from app.domain.scopes import Scope
from app.localisation import Language, mark
from app.web.options import SERVICES
from app.web.pages.drafts import CONFIRMED
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


_WORDS: Final = {
    Scope.CREDENTIALS_READ: mark("list your credentials, without their secrets"),
    Scope.CREDENTIALS_WRITE: mark("store, change and remove credentials"),
    Scope.CREDENTIALS_REVEAL: mark("reveal secrets, without asking for your password"),
    Scope.CREDENTIALS_USE: mark("use credentials by way of Keyhall"),
    Scope.KEYS_READ: mark("see application keys, jobs and backups"),
    Scope.KEYS_MANAGE: mark("rotate and revoke application keys"),
    Scope.AUDIT_READ: mark("read the audit trail"),
    Scope.USERS_MANAGE: mark("create and invite members, disable members and auditors"),
    Scope.METRICS: mark("read metrics"),
}
_LIFETIMES: Final = (
    ("7", mark("7 days")),
    ("30", mark("30 days")),
    ("90", mark("90 days")),
    ("365", mark("a year")),
    ("", mark("until it is revoked")),
)


async def _tokens(request: web.Request, actor: Actor) -> Mapping[str, Any]:
    service = request.app[SERVICES].api_tokens
    found = await service.page(actor, limit=100)
    return {
        "tokens": [{"token": each, "status": service.status(each).value} for each in found.items],
        "new_token": None,
        "token_boxes": [
            {"name": scope.value.replace(":", "_"), "scope": scope.value, "words": words}
            for scope, words in _WORDS.items()
            if grantable(actor.role, scope)
        ],
        "token_lifetimes": _LIFETIMES,
    }


_LANGUAGES: Final = ((Language.ENGLISH, "English"), (Language.GERMAN, "Deutsch"))
"""Each by its own name, in the order of the alphabet of English."""


async def _preferences(request: web.Request, actor: Actor) -> Mapping[str, Any]:  # noqa: ARG001 - see View
    return {"preferences": actor.preferences, "languages": _LANGUAGES}


VIEWS: Final[Mapping[str, View]] = MappingProxyType(
    {
        "password": _password,
        "factors": _factors,
        "passkeys": _passkeys,
        "discord": _discord,
        "tokens": _tokens,
        "sessions": _sessions,
        "preferences": _preferences,
    }
)

NEWS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "password": mark("Your password is changed. Every other session has ended."),
        "confirmed": CONFIRMED,
        "unlinked": mark("Your Discord account is not linked any more. Every other session has ended."),
        "passkey": mark("The passkey is added. Every other session has ended."),
        "passkey-removed": mark(
            "The passkey is removed. Every other session has ended. Delete it on its device as well."
        ),
        "factor_off": mark("The second factor is switched off. Every other session has ended."),
        "preferences": mark("The language and the time zone are saved."),
        "token": mark("That token is revoked."),
        "session": mark("That session has ended."),
        "sessions": mark("Every other session has ended."),
    }
)
"""The sentence on the page after a form of a section did its work, by the value of `done`."""
