"""Making a page: a template, a view model, and the policy that lets a browser run Keyhall's own files only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from app.domain.bitting import blade
from app.domain.errors import AppError, InvalidInput, InvalidToken
from app.domain.identity import Actor
from app.web.headers import PAGE_POLICY
from app.web.middleware import REQUEST_ID
from app.web.pages.static import ASSETS
from app.web.problems import headers_of, status_of
from app.web.sessions import FORM_TOKEN, form_token

TEMPLATES: web.AppKey[Environment] = web.AppKey("keyhall.templates", Environment)
_DIRECTORY: Final = Path(__file__).parents[1] / "templates"


def templates(invite_url: str | None) -> Environment:
    """The environment of the templates: everything is escaped, and a misspelt name is an error."""
    environment = Environment(
        loader=FileSystemLoader(_DIRECTORY),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["day"] = day
    environment.filters["moment"] = moment
    environment.filters["with_code"] = with_code
    environment.globals["blade"] = blade
    environment.globals["invite_url"] = invite_url
    return environment


def page(
    request: web.Request,
    template: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    viewer: Actor | None = None,
    **view: Any,
) -> web.Response:
    """A page. ``viewer`` is the signed-in user, if there is one; ``view`` are the variables of its template."""
    text = (
        request.app[TEMPLATES]
        .get_template(template)
        .render(
            asset=request.app[ASSETS].path,
            form_token=form_token(request),
            form_token_name=FORM_TOKEN,
            here=request.path,
            viewer=viewer.username if viewer else None,
            account=viewer.user_id if viewer else "",
            **view,
        )
    )
    return web.Response(
        status=status,
        body=text.encode(),
        headers={
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": PAGE_POLICY,
            **(headers or {}),
        },
    )


def see_other(location: str) -> web.Response:
    """Lead from a form to a page (RFC 9110, 15.4.4), so that reloading repeats nothing."""
    return web.Response(status=303, headers={"Location": location})


def error_page(request: web.Request, error: AppError) -> web.Response:
    """The page of an error; without a session, a redirect to the sign-in form, which leads back afterwards."""
    if isinstance(error, InvalidToken):
        back = request.path if request.method in {"GET", "HEAD"} and request.path != "/" else ""
        return see_other(f"/login?next={quote(back, safe='/')}" if back else "/login")
    return page(
        request,
        "error.html",
        status=status_of(type(error)),
        headers=headers_of(error),
        error=error,
        request_id=request[REQUEST_ID],
    )


class Refused:
    """An error as a form shows it: one sentence, beside the field that it is about if there is one."""

    def __init__(self, error: AppError) -> None:
        self.field = error.field if isinstance(error, InvalidInput) else None
        self.sentence = _sentence(error)
        self.status = status_of(type(error))
        self.headers = headers_of(error)


def _sentence(error: AppError) -> str:
    if isinstance(error, InvalidInput):
        name = error.field.replace("_", " ")
        return f"{name[:1].upper()}{name[1:]} {error.reason}."
    return error.detail if error.detail.endswith(".") else f"{error.detail}."


def day(value: datetime) -> str:
    """`20 Nov 2026`, in UTC."""
    return f"{value.astimezone(UTC):%-d %b %Y}"


def moment(value: datetime) -> str:
    """`20 Nov 2026, 21:05 UTC`."""
    return f"{value.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def with_code(text: str) -> Markup:
    """A sentence in which the parts between backticks are code."""
    parts = text.split("`")
    code = Markup("<code>{}</code>")
    return Markup().join(code.format(part) if odd % 2 else escape(part) for odd, part in enumerate(parts))
