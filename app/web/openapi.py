"""The OpenAPI 3.1 document, generated from the endpoints that are served."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict

import app
from app.domain.errors import AppError
from app.services.idempotency import KEY_PATTERN
from app.web.examples import Examples, problem_example, text_example
from app.web.inputs import ID
from app.web.limits import IF_MATCH, whole
from app.web.possible_errors import OF_THE_PROTOCOL, possible_errors
from app.web.problems import status_of
from app.web.routing import Endpoint

_PARTS = re.compile(r"{(\w+)(?::([^{}]*(?:{[^{}]*}[^{}]*)*))?}")
_PHRASES: Final = {
    400: "Malformed",
    401: "Not signed in, or the password must be proven again",
    403: "Refused",
    404: "Not found, or not yours",
    405: "Method not allowed",
    408: "Too slow",
    409: "In conflict with the present state",
    412: "Changed in the meantime",
    413: "Too large",
    415: "Not the expected type",
    417: "Expectation failed",
    421: "Not a host that is served",
    422: "Not acceptable",
    429: "Too many attempts",
    500: "A bug",
    503: "Not ready",
    504: "The outcome is unknown",
}
_HEADERS: Final = {
    "expected_version": (
        "If-Match",
        'The version that you read, as in `"3"`. The answer is 412 if it has changed since.',
        IF_MATCH,
    ),
    "idempotency_key": (
        "Idempotency-Key",
        "Any text of your choice. The same request with the same key is done once within 24 hours.",
        {"type": "string", "pattern": whole(KEY_PATTERN)},
    ),
}


class Problem(TypedDict):
    """Problem details (RFC 9457). `code` is what to program against; nothing that was sent is repeated."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


def document(endpoints: Sequence[Endpoint], *, server: str | None, cookie: str) -> dict[str, Any]:
    """The document as JSON values; ``server`` is PUBLIC_URL, ``cookie`` the name of the session cookie."""
    schemas = _Schemas(endpoints)
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for endpoint in endpoints:
        paths[canonical(endpoint.path)][endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Keyhall",
            "version": app.__version__,
            "summary": "Your community's API keys, usable by everyone, visible to no one.",
            "description": "JSON in UTF-8. Times are RFC 3339 in UTC. Errors are problem details (RFC 9457). "
            "Lists take `limit` and `cursor`; `next_cursor` is null on the last page. A request that is not in the "
            f"form of this document may also be refused with {_codes(OF_THE_PROTOCOL)}.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": server or "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(endpoint.tag for endpoint in endpoints)],
        "paths": paths,
        "components": {
            "schemas": schemas.definitions,
            "examples": {
                error.code: {"summary": error.title, "value": problem_example(error)}
                for error in {error.code: error for each in endpoints for error in possible_errors(each)}.values()
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "session": {"type": "apiKey", "in": "cookie", "name": cookie},
            },
        },
    }


def canonical(path: str) -> str:
    """A path without the patterns of its parts."""
    return _PARTS.sub(r"{\1}", path)


def _codes(kinds: Iterable[type[AppError]]) -> str:
    return ", ".join(f"`{kind.code}`" for kind in kinds)


class _Schemas:
    """Every schema by name, in one namespace."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        modes: dict[Any, Literal["validation", "serialization"]] = {Problem: "serialization"}
        for endpoint in endpoints:
            if endpoint.schema is not None:
                modes[endpoint.schema] = "serialization"
            for model in (endpoint.asks.body, endpoint.asks.form, endpoint.asks.query):
                if model is not None:
                    modes[model] = "validation"
        inputs = [(kind, mode, TypeAdapter[Any](kind)) for kind, mode in modes.items()]
        references, bundle = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")
        self._references = references
        self._modes = modes
        self.definitions: dict[str, Any] = bundle.get("$defs", {})
        self.examples = Examples(self.definitions)

    def reference(self, kind: Any) -> dict[str, Any]:
        return self._references[kind, self._modes[kind]]

    def properties(self, kind: Any) -> dict[str, Any]:
        """The members of a model, for parameters of a query."""
        name = self.reference(kind)["$ref"].rpartition("/")[2]
        properties: dict[str, Any] = self.definitions[name].get("properties", {})
        return properties


def _operation(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "operationId": _operation_id(endpoint),
        "parameters": list(_parameters(endpoint, schemas)),
        "responses": _responses(endpoint, schemas),
        "security": [{"bearer": []}, {"session": []}] if endpoint.asks.wants_actor else [],
    }
    if endpoint.description:
        operation["description"] = endpoint.description
    for model, media_type in (
        (endpoint.asks.body, "application/json"),
        (endpoint.asks.form, "application/x-www-form-urlencoded"),
    ):
        if model is not None:
            operation["requestBody"] = {
                "required": not endpoint.asks.body_optional,
                "content": {
                    media_type: {
                        "schema": schemas.reference(model),
                        **_example(schemas.examples.request(schemas.reference(model))),
                    }
                },
            }
    return operation


def _shared_examples(codes: Iterable[str]) -> dict[str, Any]:
    return {code: {"$ref": f"#/components/examples/{code}"} for code in codes}


def _example(value: Any) -> dict[str, Any]:
    """The members of a media type that carry its example; nothing where there is none."""
    return {} if value is None else {"examples": {"example": {"value": value}}}


def _operation_id(endpoint: Endpoint) -> str:
    words = re.sub(r"\W+", "_", canonical(endpoint.path).removeprefix("/api/v1")).strip("_")
    return "_".join(filter(None, (endpoint.method.lower(), "page" if endpoint.tag == "Pages" else "", words)))


def _parameters(endpoint: Endpoint, schemas: _Schemas) -> Iterable[dict[str, Any]]:
    for name, pattern in _PARTS.findall(endpoint.path):
        yield {"name": name, "in": "path", "required": True, "schema": _part(pattern)}
    if endpoint.asks.query is not None:
        for name, schema in schemas.properties(endpoint.asks.query).items():
            yield {"name": name, "in": "query", "required": False, "schema": schema}
    for need, (header, description, schema) in _HEADERS.items():
        if need in endpoint.asks.names:
            yield {"name": header, "in": "header", "required": False, "description": description, "schema": schema}


def _part(pattern: str) -> dict[str, Any]:
    """The schema of a part of a path, by its pattern in the route: anything else is not found."""
    if not pattern:
        return {"type": "string"}
    if pattern == ID:
        return {"type": "string", "format": "uuid", "pattern": whole(ID)}
    words = pattern.split("|")
    if all(re.fullmatch(r"\w+", word) for word in words):
        return {"type": "string", "enum": words}
    return {"type": "string", "pattern": whole(pattern)}


def _responses(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    success: dict[str, Any] = {"description": endpoint.summary}
    if endpoint.schema is not None:
        reference = schemas.reference(endpoint.schema)
        success["content"] = {
            endpoint.media_type: {"schema": reference, **_example(schemas.examples.answer(reference, endpoint.example))}
        }
    elif endpoint.media_type != "application/json":
        success["content"] = {
            kind: {"schema": {"type": "string"}, **_example(text_example(kind))}
            for kind in endpoint.media_type.split(", ")
        }
    if endpoint.headers:
        success["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in endpoint.headers.items()
        }
    responses = {str(endpoint.status): success}
    page = endpoint.tag == "Pages"
    by_status: dict[int, list[str]] = defaultdict(list)
    for error in possible_errors(endpoint):
        by_status[status_of(error)].append(error.code)
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = {
            "description": f"{_PHRASES[status]}: {', '.join(f'`{code}`' for code in codes)}",
            "content": {
                "application/problem+json": {
                    "schema": schemas.reference(Problem),
                    **({} if page else {"examples": _shared_examples(codes)}),
                }
            },
        }
    return responses


def error_table() -> list[tuple[int, str, str]]:
    """Status, code and title of every error, for the page that people read."""
    kinds = [error for error in _subclasses(AppError) if "code" in vars(error)]
    return sorted((status_of(error), error.code, error.title) for error in kinds)


def _subclasses(kind: type[AppError]) -> Iterable[type[AppError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)
