"""The page itself: all sections, with the refusal of a form beside it and the text that was typed there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from app.domain.errors import AppError, ReauthenticationRequired
from app.domain.identity import Actor
from app.web.inputs import Model
from app.web.pages.account.views import NEWS, VIEWS
from app.web.pages.drafts import CONFIRM, draft_for, forget_draft, keep_draft, sign_in_first
from app.web.pages.rendering import Refused, page, see_other
from app.web.routing import Retry, Routes, SignedOut
from app.web.sessions import ACCOUNT, actor_of

routes = Routes("Pages")
PATH = "/account"


class AccountQuery(Model):
    """The action that led to the page."""

    done: str = ""


async def account_page(
    request: web.Request,
    actor: Actor,
    *,
    refused: Refused | None = None,
    section: str = "",
    news: str | None = None,
    typed: Mapping[str, str] | None = None,
    **shown: Any,
) -> web.Response:
    """The page; ``section`` is the one whose form was refused, ``typed`` the text that is not secret in its fields.

    ``shown`` takes the place of variables of a section's view, in this answer.
    """
    view: dict[str, Any] = {}
    for read in VIEWS.values():
        view |= await read(request, actor)
    return page(
        request,
        "account.html",
        viewer=actor,
        sections=list(VIEWS),
        refused=refused,
        refused_section=section,
        news=news,
        typed=dict(typed or {}),
        **(view | shown),
    )


def again(section: str, *kept: str) -> Retry:
    """Answers a refused form with the page and the refusal in that section; the fields ``kept`` are filled in again.

    Where the form demands that somebody proves who they are, the answer leads there, and the page then has the text.
    """

    async def retry(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
        typed = {name: fields.get(name, "") for name in kept}
        if isinstance(error, ReauthenticationRequired):
            response = see_other(CONFIRM)
            keep_draft(request, response, PATH, (await actor_of(request)).user_id, typed)
            return response
        return await account_page(
            request, await actor_of(request), refused=Refused(error), section=section, typed=typed
        )

    return retry


def signed_out(*kept: str) -> SignedOut:
    """Answers a form whose session had ended: after signing in the page has the text of the fields ``kept`` again."""

    def answer(request: web.Request, fields: Mapping[str, str]) -> web.StreamResponse:
        return sign_in_first(request, PATH, fields.get(ACCOUNT, ""), {name: fields.get(name, "") for name in kept})

    return answer


def done(what: str) -> web.Response:
    """Lead back to the page, which says what was done: a key of `NEWS`."""
    return see_other(f"{PATH}?done={what}")


@routes("GET", PATH, media_type="text/html")
async def account(request: web.Request, actor: Actor, query: AccountQuery) -> web.Response:
    """Your account: password, passkeys, and where you are signed in."""
    typed = draft_for(request, PATH, actor.user_id)
    response = await account_page(request, actor, news=NEWS.get(query.done), typed=typed)
    forget_draft(request, response)
    return response


@routes("GET", "/security", status=303, media_type="text/html")
async def security(request: web.Request, actor: Actor) -> web.Response:  # noqa: ARG001 - for signed-in requests only
    """Leads to your account."""
    return see_other(PATH)
