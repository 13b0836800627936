"""Making a page: a template, a view model, and the policy that lets a browser run Keyhall's own files only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import cache
from gettext import NullTranslations
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aiohttp import web

from app.domain.errors import AppError, InvalidInput, InvalidToken, NotFound
from app.domain.identity import Actor
from app.localisation import Language, negotiated, refusals, texts
from app.web.headers import PAGE_POLICY
from app.web.middleware import REQUEST_ID
from app.web.options import SERVICES
from app.web.pages.navigation import administration
from app.web.pages.static import ASSETS
from app.web.problems import headers_of, status_of
from app.web.sessions import ACTOR, FORM_TOKEN, form_token, viewer_of

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True, slots=True)
class Reader:
    """For whom a page is made: ``zone`` is that of the account, None for the browser's."""

    zone: tzinfo | None
    now: datetime


class Templates:
    """The templates, read when the first page is made: a start does not wait for jinja2."""

    def __init__(self, invite_url: str | None, discord_sign_in: Callable[[], bool]) -> None:
        self._invite_url = invite_url
        self._discord_sign_in = discord_sign_in
        self._environments: dict[Language, Environment] = {}

    def _environment(self, language: Language) -> Environment:
        if language not in self._environments:
            from app.web.pages.templates import environment  # noqa: PLC0415 - it imports jinja2

            self._environments[language] = environment(
                self._invite_url, discord_sign_in=self._discord_sign_in(), language=language
            )
        return self._environments[language]

    def render(self, template: str, view: Mapping[str, Any], language: Language, reader: Reader) -> str:
        """A page's text, in that language; its times are those of the reader."""
        from app.localisation.times import Times  # noqa: PLC0415 - it imports Babel
        from app.web.pages.templates import READING, Reading  # noqa: PLC0415 - it imports jinja2

        times = Times(language=language, zone=reader.zone or UTC, now=reader.now)
        token = READING.set(Reading(times, local=reader.zone is None))
        try:
            return self._environment(language).get_template(template).render(view)
        finally:
            READING.reset(token)


TEMPLATES: web.AppKey[Templates] = web.AppKey("keyhall.templates", Templates)


def language_of(request: web.Request) -> Language:
    """The language of the pages for that request: the one of the account, else the one that the browser prefers."""
    actor: Actor | None = request.get(ACTOR)
    if actor is not None and actor.preferences.language is not None:
        return actor.preferences.language
    return negotiated(request.headers.get("Accept-Language", ""))


def _reader_of(request: web.Request) -> Reader:
    actor: Actor | None = request.get(ACTOR)
    return Reader(zone_named(actor.preferences.time_zone) if actor else None, request.app[SERVICES].clock.now())


@cache
def zone_named(name: str | None) -> tzinfo | None:
    """The time zone of that name; None where this machine has none of that name, and for None."""
    try:
        return ZoneInfo(name) if name is not None else None
    except (ZoneInfoNotFoundError, ValueError):
        return None


def texts_of(request: web.Request) -> NullTranslations:
    """The texts in the reader's language: ``gettext`` and ``ngettext``, for sentences that are put together here."""
    return texts(language_of(request))


def page(
    request: web.Request,
    template: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    viewer: Actor | None = None,
    refused: Refused | None = None,
    **view: Any,
) -> web.Response:
    """A page. ``viewer`` is the signed-in user, if there is one; ``view`` are the variables of its template.

    A ``refused`` form decides the status and adds its headers; the template has it too.
    """
    text = request.app[TEMPLATES].render(
        template,
        {
            "asset": request.app[ASSETS].path,
            "form_token": form_token(request),
            "form_token_name": FORM_TOKEN,
            "here": request.path,
            "viewer": viewer.username if viewer else None,
            "account": viewer.user_id if viewer else "",
            "administration": administration(viewer.role) if viewer else [],
            "refused": refused,
            **view,
        },
        language_of(request),
        _reader_of(request),
    )
    return web.Response(
        status=refused.status if refused else status,
        body=text.encode(),
        headers={
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": PAGE_POLICY,
            "Vary": "Accept-Language",
            **(headers or {}),
            **(refused.headers if refused else {}),
        },
    )


def see_other(location: str) -> web.Response:
    """Lead from a form to a page (RFC 9110, 15.4.4), so that reloading repeats nothing."""
    return web.Response(status=303, headers={"Location": location})


async def error_page(request: web.Request, error: AppError) -> web.Response:
    """The page of an error, with the navigation of those who are signed in.

    Without a session, a redirect to the sign-in form, which leads back afterwards.
    """
    if isinstance(error, InvalidToken):
        back = request.path if request.method in {"GET", "HEAD"} and request.path != "/" else ""
        return see_other(f"/login?next={quote(back, safe='/')}" if back else "/login")
    return page(
        request,
        "error.html",
        status=status_of(type(error)),
        headers=headers_of(error),
        viewer=await _viewer_at(request, error),
        error=error,
        request_id=request[REQUEST_ID],
    )


async def _viewer_at(request: web.Request, error: AppError) -> Actor | None:
    """Who meets this error, as far as that is known.

    Nobody is looked up after an error that may come of the session, of the connection or of the database.
    """
    if isinstance(error, NotFound) and ACTOR not in request and request.method in {"GET", "HEAD"}:
        with suppress(AppError):
            await viewer_of(request)
    actor = request.get(ACTOR)
    return actor if actor is not None and actor.scopes is None else None


_OWN_PATH = re.compile(r"/(?:[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*)?")


def own_page(path: str) -> str:
    """The path if it can only be one of Keyhall's own pages, `/` otherwise."""
    return path if _OWN_PATH.fullmatch(path) else "/"


class Refused:
    """An error as a form shows it: one sentence, beside the field that it is about if there is one."""

    def __init__(self, error: AppError) -> None:
        self.error = error
        self.field = error.field if isinstance(error, InvalidInput) else None
        self.status = status_of(type(error))
        self.headers = headers_of(error)

    def sentence(self, texts: NullTranslations) -> str:
        """The sentence in that language; templates have the filter of the same name."""
        return refusals.sentence(texts, self.error)
