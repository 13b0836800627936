"""The inputs of a handler: models of bodies, forms and queries, and the reading of each parameter of its signature."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import UnionType
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from aiohttp import hdrs, web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from app.domain.errors import InvalidInput, VersionConflict
from app.domain.text import whole_number
from app.domain.times import rfc3339
from app.web.limits import Cursor
from app.web.origin import ORIGIN
from app.web.problems import MalformedRequest

ID: Final = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
"""The canonical form of a UUID, for the pattern of a path; anything else is not found."""

Handler = Callable[..., Awaitable[web.StreamResponse]]
# With the marks that a proxy adds when it compresses: nginx makes the tag weak, Apache appends the encoding.
_ETAG = re.compile(r'(?:W/)?"(0|[1-9][0-9]{0,17})(?:[-;](?:gzip|br|deflate|zstd))?"', re.ASCII)


class Model(BaseModel):
    """An input: exact types, no unknown members, and errors and repr that show nothing of its content."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__


class NoFields(Model):
    """A button."""


class PageQuery(Model):
    """Which page of a list."""

    limit: int = Field(default=50, ge=1, le=100)
    cursor: Cursor | None = Field(default=None, description="The `next_cursor` of the page before")


def _read_time(value: object) -> object:
    if isinstance(value, datetime):
        return value
    return rfc3339(value if isinstance(value, str) else "")


Time = Annotated[datetime, BeforeValidator(_read_time), WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time as RFC 3339 writes it, with its zone."""


def parse(model: type[Model], value: object) -> Any:
    """The value as an instance of the model. Raises InvalidInput, which names declared members and nothing else."""
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


def parse_query(model: type[Model], request: web.Request, *, lenient: bool = False) -> Any:
    """The query string as an instance of the model. Raises InvalidInput.

    A ``lenient`` reader ignores other parameters, as pages do: addresses gather parameters on their way.
    """
    given: dict[str, object] = {}
    for name, text in request.query.items():
        field = model.model_fields.get(name)
        if lenient and (field is None or name in given):
            continue
        if name in given:
            raise InvalidInput("query", "a parameter was given twice")
        if field is None:
            raise InvalidInput("query", f"may hold {', '.join(model.model_fields)} and nothing else")
        given[name] = _from_text(name, text, field.annotation)
    return parse(model, given)


def _from_text(name: str, text: str, kind: Any) -> object:
    if kind is int:
        number = whole_number(text)
        if number is None:
            raise InvalidInput(name, "must be a number")
        return number
    if kind is bool:
        if text not in {"true", "false"}:
            raise InvalidInput(name, "must be true or false")
        return text == "true"
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The parameters of a handler; ``simple`` are those that can be read before the body, each with its reader."""

    names: frozenset[str]
    simple: Sequence[tuple[str, Callable[[web.Request], Any]]]
    body: type[Model] | None
    body_optional: bool
    form: type[Model] | None
    query: type[Model] | None

    @classmethod
    def of(cls, handler: Handler) -> Signature:
        """The signature of a handler, by the names and types of its parameters."""
        hints = get_type_hints(handler)
        names = frozenset(inspect.signature(handler).parameters) - {"request"}
        body, body_optional = _model(hints.get("body"))
        return cls(
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

    @property
    def wants_actor(self) -> bool:
        """Whether the handler is for signed-in requests only."""
        return "actor" in self.names


def _model(hint: Any) -> tuple[type[Model] | None, bool]:
    if get_origin(hint) is UnionType:
        return next(part for part in get_args(hint) if part is not type(None)), True
    return hint, False


def _path_part(name: str) -> Callable[[web.Request], str]:
    return lambda request: request.match_info[name]


def _client(request: web.Request) -> object:
    return request.app[ORIGIN].client(request)


def _expected_version(request: web.Request) -> int | None:
    """If-Match (RFC 9110, 13.1.1) with one entity tag; `*` matches any version.

    Keyhall's versions are exact, so a tag that a proxy made weak by compressing the answer still names one.
    """
    given = request.headers.getall(hdrs.IF_MATCH, ())
    if not given or given == ["*"]:
        return None
    found = _ETAG.fullmatch(given[0]) if len(given) == 1 else None
    if found is None:
        # A tag that Keyhall never sent matches nothing.
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
