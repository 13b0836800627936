"""Endpoints: what a handler asks for in its signature is given to it, and stands in the OpenAPI document.

A handler is an async function of `request` and any of these, by name:

- ``actor``: who asks; without it the endpoint is open to everybody
- ``client``: where the request comes from
- ``body``: a model, read from the JSON body; ``Model | None`` where the body may be left out
- ``form``: a model, read from the form of a page of ours, with its form token where there is an actor
- ``query``: a model, read from the query string
- ``expected_version``: from If-Match, None without it
- ``idempotency_key``: from Idempotency-Key, None without it
- any other name: that part of the path

The actor is known before anything else is looked at.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import UnionType
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import orjson
from aiohttp import hdrs, web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from app.domain.errors import AppError, InvalidInput, InvalidToken, NotFound, VersionConflict
from app.web.bodies import read_form, read_json
from app.web.origin import ORIGIN
from app.web.problems import MalformedRequest, status_of
from app.web.sessions import actor_of, check_form_token

ID: Final = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
"""The canonical form of a UUID, for the pattern of a path; anything else is not found."""

Handler = Callable[..., Awaitable[web.StreamResponse]]
Bound = Callable[[web.Request], Awaitable[web.StreamResponse]]
Retry = Callable[[web.Request, AppError, Mapping[str, str]], Awaitable[web.StreamResponse]]
"""What a page shows when its form was refused: the form again. It gets the fields as they were typed."""
_ETAG = re.compile(r'"(\d{1,18})"')
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:[Zz]|[+-]\d\d:\d\d)")


class Model(BaseModel):
    """What comes in: exact types, no unknown members, and errors and repr that show nothing of it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__


class PageQuery(Model):
    """Which page of a list."""

    limit: int = Field(default=50, ge=1, le=100)
    cursor: str | None = Field(default=None, description="The `next_cursor` of the page before")


def _read_time(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be a time with its zone, as RFC 3339 writes it")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not a time that exists") from None


Time = Annotated[datetime, BeforeValidator(_read_time), WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time as RFC 3339 writes it, with its zone."""


def parse(model: type[Model], value: object) -> Any:
    """A value as that model. Raises InvalidInput, which names the members that are declared and nothing else."""
    if not isinstance(value, dict):
        raise InvalidInput("body", "must be a JSON object")
    try:
        return model.model_validate(value)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
    # Raised here, so that no traceback leads back to the input.
    if first["type"] == "extra_forbidden":
        raise InvalidInput("body", f"may hold {', '.join(model.model_fields)} and nothing else")
    where = ".".join(part for part in first["loc"] if isinstance(part, str))
    raise InvalidInput(where, first["msg"].removeprefix("Value error, ").lower())


def answer(status: int, content: object = None, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer in JSON; times are RFC 3339 in UTC."""
    if content is None:
        return web.Response(status=status, headers=headers)
    return web.Response(
        status=status,
        body=orjson.dumps(content, option=orjson.OPT_UTC_Z),
        headers={hdrs.CONTENT_TYPE: "application/json", **(headers or {})},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A route with everything that its documentation says."""

    method: str
    path: str
    handler: Bound
    tag: str
    summary: str
    description: str
    status: int
    shape: Any
    media_type: str
    headers: Mapping[str, str]
    errors: Sequence[type[AppError]]
    body: type[Model] | None
    body_optional: bool
    form: type[Model] | None
    query: type[Model] | None
    needs: frozenset[str]


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
        shape: Any = None,
        media_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        errors: Sequence[type[AppError]] = (),
        retry: Retry | None = None,
    ) -> Callable[[Handler], Handler]:
        """Register the decorated handler; the first paragraph of its docstring is the summary.

        ``shape`` is the type of a successful answer; ``headers`` and ``errors`` are what else it may come with.
        ``retry`` answers when the form of a page is refused.
        """

        def register(handler: Handler) -> Handler:
            asks = _signature(handler)
            summary, _, description = inspect.cleandoc(handler.__doc__ or "").partition("\n\n")
            self.endpoints.append(
                Endpoint(
                    method=method,
                    path=path,
                    handler=(
                        _reading_json(handler, asks)
                        if asks.form is None
                        else _reading_a_form(handler, asks, asks.form, retry)
                    ),
                    tag=self._tag,
                    summary=" ".join(summary.split()).removesuffix("."),
                    description=" ".join(description.split()),
                    status=status,
                    shape=shape,
                    media_type=media_type,
                    headers=headers or {},
                    errors=errors,
                    body=asks.body,
                    body_optional=asks.body_optional,
                    form=asks.form,
                    query=asks.query,
                    needs=asks.names,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signature:
    """What a handler asks for."""

    names: frozenset[str]
    simple: Sequence[tuple[str, Callable[[web.Request], Any]]]
    body: type[Model] | None
    body_optional: bool
    form: type[Model] | None
    query: type[Model] | None

    @property
    def wants_actor(self) -> bool:
        return "actor" in self.names


def _signature(handler: Handler) -> _Signature:
    hints = get_type_hints(handler)
    names = frozenset(inspect.signature(handler).parameters) - {"request"}
    body, body_optional = _model(hints.get("body"))
    return _Signature(
        names=names,
        simple=[
            (name, _READERS.get(name) or _path_part(name))
            for name in sorted(names - {"actor", "body", "query", "form"})
        ],
        body=body,
        body_optional=body_optional,
        form=_model(hints.get("form"))[0],
        query=_model(hints.get("query"))[0],
    )


def _reading_json(handler: Handler, asks: _Signature) -> Bound:
    wants_actor, simple, query, body = asks.wants_actor, asks.simple, asks.query, asks.body

    async def bound(request: web.Request) -> web.StreamResponse:
        given: dict[str, Any] = {}
        if wants_actor:
            given["actor"] = await actor_of(request)
        for name, read in simple:
            given[name] = read(request)
        if query is not None:
            given["query"] = _read_query(query, request)
        if body is not None:
            absent = asks.body_optional and not request.can_read_body
            given["body"] = None if absent else parse(body, await read_json(request))
        return await handler(request, **given)

    return bound


def _reading_a_form(handler: Handler, asks: _Signature, form: type[Model], retry: Retry | None) -> Bound:
    async def bound(request: web.Request) -> web.StreamResponse:
        given: dict[str, Any] = {}
        request.app[ORIGIN].check_site(request, browser=True)
        if asks.wants_actor:
            given["actor"] = await actor_of(request)
        for name, read in asks.simple:
            given[name] = read(request)
        fields = await read_form(request)
        if asks.wants_actor:
            check_form_token(request, fields)
        try:
            return await handler(request, form=parse(form, fields), **given)
        except AppError as refused:
            signed_out = asks.wants_actor and isinstance(refused, InvalidToken)
            if retry is None or signed_out or isinstance(refused, NotFound) or status_of(type(refused)) >= 500:
                raise  # filling in the form again would not help
            return await retry(request, refused, fields)

    return bound


def _model(hint: Any) -> tuple[type[Model] | None, bool]:
    if get_origin(hint) is UnionType:
        return next(part for part in get_args(hint) if part is not type(None)), True
    return hint, False


def _path_part(name: str) -> Callable[[web.Request], str]:
    return lambda request: request.match_info[name]


def _client(request: web.Request) -> object:
    return request.app[ORIGIN].client(request)


def _expected_version(request: web.Request) -> int | None:
    """If-Match (RFC 9110, 13.1.1) with one strong entity tag; `*` matches whatever is there."""
    given = request.headers.getall(hdrs.IF_MATCH, ())
    if not given or given == ["*"]:
        return None
    found = _ETAG.fullmatch(given[0]) if len(given) == 1 else None
    if found is None:
        # A tag that we never gave out, a weak one among them, matches nothing.
        raise VersionConflict
    return int(found[1])


def _idempotency_key(request: web.Request) -> str | None:
    given = request.headers.getall("Idempotency-Key", ())
    if len(given) > 1:
        raise MalformedRequest("Idempotency-Key was given twice")
    return given[0] if given else None


_READERS: Final[Mapping[str, Callable[[web.Request], Any]]] = {
    "client": _client,
    "expected_version": _expected_version,
    "idempotency_key": _idempotency_key,
}


def _read_query(model: type[Model], request: web.Request) -> Any:
    given: dict[str, object] = {}
    for name, text in request.query.items():
        if name in given:
            raise InvalidInput("query", "a parameter was given twice")
        field = model.model_fields.get(name)
        if field is None:
            raise InvalidInput("query", f"may hold {', '.join(model.model_fields)} and nothing else")
        given[name] = _from_text(name, text, field.annotation)
    return parse(model, given)


def _from_text(name: str, text: str, kind: Any) -> object:
    if kind is int:
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise InvalidInput(name, "must be a number")
        return int(text)
    if kind is bool:
        if text not in {"true", "false"}:
            raise InvalidInput(name, "must be true or false")
        return text == "true"
    return text
