"""Which errors each endpoint can answer with: those that it declares, and those that follow from what it reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from app.domain import errors
from app.domain.errors import AppError
from app.web import problems
from app.web.routing import ANY_SCOPE, Endpoint

OF_THE_PROTOCOL: Final = (
    problems.MethodNotAllowed,
    problems.ExpectationFailed,
    problems.UnsupportedTransferCoding,
    problems.UnsupportedVersion,
)
"""Refusals of the form of a request, whichever endpoint it is for: no client that follows the document meets them."""
OF_EVERY_REQUEST: Final = (
    problems.MalformedRequest,
    problems.InsecureConnection,
    problems.Misdirected,
    problems.Unexpected,
    errors.NotReady,
    errors.RequestExpired,
    errors.StorageError,
    errors.StorageBusy,
)
"""The refusals of the checks before every handler (`app.web.middleware`)."""
_OF_A_CHANGE: Final = (errors.StorageReadOnly, errors.StorageFull, errors.OutcomeUnknown, problems.CrossSite)
_OF_A_BODY: Final = (
    problems.RequestTimeout,
    problems.TooLarge,
    problems.UnsupportedMediaType,
    errors.InvalidInput,
)


def possible_errors(endpoint: Endpoint) -> list[type[AppError]]:
    """The errors that an endpoint can answer with, one of each code."""
    by_code: dict[str, type[AppError]] = {}
    for error in _errors(endpoint):
        by_code.setdefault(error.code, error)
    return list(by_code.values())


def _errors(endpoint: Endpoint) -> Iterable[type[AppError]]:
    asks = endpoint.asks
    yield from OF_EVERY_REQUEST
    yield from endpoint.errors
    if asks.wants_actor:
        yield errors.InvalidToken
        if endpoint.scope != ANY_SCOPE:
            yield errors.Forbidden  # an API token without the scope
    if endpoint.method != "GET":
        yield from _OF_A_CHANGE
    if asks.body is not None or asks.form is not None:
        yield from _OF_A_BODY
    if asks.query is not None:
        yield errors.InvalidInput
    if "expected_version" in asks.names:
        yield errors.VersionConflict
    if "idempotency_key" in asks.names:
        yield errors.InvalidInput
        yield errors.IdempotencyConflict
