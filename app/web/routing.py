"""Endpoints: the parameters of a handler say what it is given, and stand in the OpenAPI document.

A handler is an async function of `request` and any of these, by name:

- ``actor``: the user who sent the request; without it the endpoint is open to everybody
- ``client``: the address and device that the request comes from
- ``body``: a model, read from the JSON body; ``Model | None`` if the body may be left out
- ``form``: a model, read from the form of one of Keyhall's pages, with its form token if there is an actor
- ``query``: a model, read from the query string
- ``expected_version``: from If-Match, None without it
- ``idempotency_key``: from Idempotency-Key, None without it
- any other name: that part of the path

The actor is identified before anything else is read. An endpoint refuses API tokens unless it says which scope one
needs, or that any may ask.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import hdrs, web

from app.domain.errors import AppError, InvalidToken, MissingScope, NotFound
from app.domain.identity import Actor
from app.domain.scopes import Scope
from app.web.bodies import LARGEST_BODY, LARGEST_BODY_OF_A_STRANGER, read_form, read_json
from app.web.inputs import Handler, Model, Signature, parse, parse_query
from app.web.origin import ORIGIN
from app.web.problems import status_of
from app.web.refusals import record_refusal
from app.web.sessions import ACCOUNT, actor_of, check_form_token

ANY_SCOPE: Final = "any"
"""For an endpoint that answers every API token."""
Bound = Callable[[web.Request], Awaitable[web.StreamResponse]]
Retry = Callable[[web.Request, AppError, Mapping[str, str]], Awaitable[web.StreamResponse]]
"""Makes the page that answers a refused form: the form again. It gets the fields as they were typed."""
Refuse = Callable[[web.Request, AppError], Awaitable[web.StreamResponse]]
"""Answers a refused request for a page."""
SignedOut = Callable[[web.Request, Mapping[str, str]], web.StreamResponse]
"""Answers a form whose session has ended, so that the text of its fields is not lost."""


_IDENTIFIED_AGAIN_AFTER: Final = 1.0
"""Seconds after which a request that was still being read is identified once more."""


def json_response(status: int, content: object = None, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response in JSON; times are RFC 3339 in UTC."""
    if content is None:
        return web.Response(status=status, headers=headers)
    return web.Response(
        status=status,
        body=orjson.dumps(content, option=orjson.OPT_UTC_Z),
        headers={hdrs.CONTENT_TYPE: "application/json", **(headers or {})},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A route with its documentation; ``schema`` is the type of a successful answer."""

    method: str
    path: str
    handler: Bound
    asks: Signature
    tag: str
    summary: str
    description: str
    status: int
    schema: Any
    media_type: str
    headers: Mapping[str, str]
    errors: Sequence[type[AppError]]
    scope: str | None
    example: Mapping[str, Any]


class Routes:
    """Endpoints of one family, collected where they are written and added to an application later."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self.endpoints: list[Endpoint] = []

    def __call__(
        self,
        method: str,
        path: str,
        *,
        status: int = 200,
        schema: Any = None,
        media_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        errors: Sequence[type[AppError]] = (),
        scope: Scope | str | None = None,
        example: Mapping[str, Any] | None = None,
        retry: Retry | None = None,
        refuse: Refuse | None = None,
        signed_out: SignedOut | None = None,
    ) -> Callable[[Handler], Handler]:
        """Register the decorated handler; the first paragraph of its docstring is the summary.

        ``schema`` is the type of a successful answer; ``headers`` are the further headers of that, ``errors`` the
        refusals that are particular to this endpoint. ``scope`` is the one that an API token needs here, ANY_SCOPE
        where every token is answered; without it the endpoint is for sessions alone. ``example`` are the members of the
        documented answer that differ from those of other endpoints with the same schema (`app.web.examples`).
        ``retry`` answers when the form of a page is refused, ``signed_out`` when its session has ended; ``refuse``
        answers every error of a request without a form.
        """

        def register(handler: Handler) -> Handler:
            asks = Signature.of(handler)
            summary, _, description = inspect.cleandoc(handler.__doc__ or "").partition("\n\n")
            self.endpoints.append(
                Endpoint(
                    method=method,
                    path=path,
                    handler=(
                        _reading_json(handler, asks, scope, refuse, lenient=media_type == "text/html")
                        if asks.form is None
                        else _reading_a_form(handler, asks, asks.form, retry, signed_out)
                    ),
                    asks=asks,
                    tag=self._tag,
                    summary=" ".join(summary.split()).removesuffix("."),
                    description=" ".join(description.split()),
                    status=status,
                    schema=schema,
                    media_type=media_type,
                    headers=headers or {},
                    errors=errors,
                    scope=scope,
                    example=example or {},
                )
            )
            return handler

        return register

    def add_to(self, app: web.Application) -> None:
        """Serve them; GET answers HEAD as well."""
        for endpoint in self.endpoints:
            if endpoint.method == hdrs.METH_GET:
                app.router.add_get(endpoint.path, endpoint.handler)
            else:
                app.router.add_route(endpoint.method, endpoint.path, endpoint.handler)


async def _permitted(request: web.Request, scope: str | None) -> Actor:
    """The actor of a request that an endpoint of that scope answers: found before anything else is read.

    The services judge by the scopes of the actor as well; this refuses tokens where nobody thought of them.
    """
    actor = await actor_of(request)
    if actor.scopes is not None and scope != ANY_SCOPE and scope not in actor.scopes:
        raise MissingScope(scope)
    return actor


async def _permitted_still(request: web.Request, scope: str | None, actor: Actor, since: float) -> Actor:
    """The actor, identified again where the body took its time: the session may have ended meanwhile.

    A body may take half a minute (`app.web.bodies`), and what ends a session ends it everywhere within 5 s.
    """
    if asyncio.get_running_loop().time() - since < _IDENTIFIED_AGAIN_AFTER:
        return actor
    return await _permitted(request, scope)


def _reading_json(
    handler: Handler, asks: Signature, scope: str | None, refuse: Refuse | None, *, lenient: bool
) -> Bound:
    wants_actor, simple, query, body = asks.wants_actor, asks.simple, asks.query, asks.body
    largest = LARGEST_BODY if wants_actor else LARGEST_BODY_OF_A_STRANGER

    async def bound(request: web.Request) -> web.StreamResponse:
        given: dict[str, Any] = {}
        since = asyncio.get_running_loop().time()
        if wants_actor:
            given["actor"] = await _permitted(request, scope)
        for name, read in simple:
            given[name] = read(request)
        if query is not None:
            given["query"] = parse_query(query, request, lenient=lenient)
        if body is not None:
            absent = asks.body_optional and not request.can_read_body
            given["body"] = None if absent else parse(body, await read_json(request, largest=largest))
        if wants_actor:
            given["actor"] = await _permitted_still(request, scope, given["actor"], since)
        return await handler(request, **given)

    async def bound_with_refusal(request: web.Request) -> web.StreamResponse:
        assert refuse is not None  # noqa: S101 - see below
        try:
            return await bound(request)
        except AppError as refused:
            await record_refusal(request, refused)
            return await refuse(request, refused)

    return bound if refuse is None else bound_with_refusal


async def _without_session(
    request: web.Request, refused: InvalidToken, signed_out: SignedOut | None, fields: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Answer a form whose session has ended, or raise the refusal where there is no answer of that kind."""
    if signed_out is None:
        raise refused
    try:
        typed = await read_form(request, largest=LARGEST_BODY_OF_A_STRANGER) if fields is None else fields
    except AppError:
        raise refused from None  # not one of our own forms, so nothing was typed
    await record_refusal(request, refused)
    return signed_out(request, typed)


def _reading_a_form(
    handler: Handler, asks: Signature, form: type[Model], retry: Retry | None, signed_out: SignedOut | None
) -> Bound:
    largest = LARGEST_BODY if asks.wants_actor else LARGEST_BODY_OF_A_STRANGER

    async def bound(request: web.Request) -> web.StreamResponse:
        given: dict[str, Any] = {}
        request.app[ORIGIN].check_site(request, browser=True)
        since = asyncio.get_running_loop().time()
        if asks.wants_actor:
            try:
                given["actor"] = await _permitted(request, None)
            except InvalidToken as refused:
                return await _without_session(request, refused, signed_out)
        for name, read in asks.simple:
            given[name] = read(request)
        fields = await read_form(request, largest=largest)
        if asks.wants_actor:
            check_form_token(request, fields)
            try:
                given["actor"] = await _permitted_still(request, None, given["actor"], since)
            except InvalidToken as refused:
                return await _without_session(request, refused, signed_out, fields)
            fields.pop(ACCOUNT, None)
        try:
            return await handler(request, form=parse(form, fields), **given)
        except AppError as refused:
            ended = asks.wants_actor and isinstance(refused, InvalidToken)
            if retry is None or ended or isinstance(refused, NotFound) or status_of(type(refused)) >= 500:
                raise  # filling in the form again would not help
            await record_refusal(request, refused)
            return await retry(request, refused, fields)

    return bound
