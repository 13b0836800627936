"""The one place where errors become HTTP: which status, which headers, and a body that repeats nothing that was sent.

Bodies are problem details (RFC 9457). Malformed JSON is 400, well-formed JSON with unacceptable values is 422.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import orjson
from aiohttp import web
from multidict import CIMultiDict

from app.domain import errors
from app.domain.errors import AppError

log = logging.getLogger(__name__)

RETRY_AFTER: Final = "2"
"""Seconds after which to try again if a process is not ready or cannot reach its database."""


class MalformedRequest(AppError):
    """A request that breaks the rules of HTTP, JSON or forms."""

    code = "malformed_request"
    title = "The request is malformed"


class CrossSite(AppError):
    """A request that changes something did not come from Keyhall's own pages."""

    code = "cross_site"
    title = "This request did not come from Keyhall's own pages"


class InsecureConnection(AppError):
    """A session cookie would travel in the clear."""

    code = "insecure_connection"
    title = "Signing in here would send your session in the clear"

    def __init__(self) -> None:
        super().__init__(
            "Signing in here would send your session in the clear: open PUBLIC_URL, which must be https, or localhost "
            "outside production"
        )


class MethodNotAllowed(AppError):
    """The address exists, the method does not."""

    code = "method_not_allowed"
    title = "This address does not accept that method"


class RequestTimeout(AppError):
    """The body did not arrive in time."""

    code = "request_timeout"
    title = "The request took too long to arrive"


class TooLarge(AppError):
    """The body is larger than anything Keyhall stores."""

    code = "too_large"
    title = "The request is too large"


class UnsupportedMediaType(AppError):
    """The body is not of the one type that is accepted here."""

    code = "unsupported_media_type"
    title = "This content type is not accepted here"


class ExpectationFailed(AppError):
    """An Expect header that asks for something else than 100-continue."""

    code = "expectation_failed"
    title = "This expectation cannot be met"


class UnsupportedTransferCoding(AppError):
    """A Transfer-Encoding beside chunked, which Keyhall does not undo (RFC 9112, 6.1)."""

    code = "unsupported_transfer_coding"
    title = "Send the body without a transfer coding other than chunked"


class UnsupportedVersion(AppError):
    """A version of HTTP that this server does not speak (RFC 9110, 15.6.6)."""

    code = "unsupported_http_version"
    title = "HTTP/1.1 is spoken here"


class Misdirected(AppError):
    """The Host is not that of PUBLIC_URL, or not loopback if there is no PUBLIC_URL."""

    code = "misdirected"
    title = "This host name is not served here; PUBLIC_URL says which one is"


class Unexpected(AppError):
    """A bug: what happened is in the log under the request id."""

    code = "unexpected"
    title = "Something went wrong here; the log has the details under this request id"


STATUS: Final[Mapping[type[AppError], int]] = MappingProxyType(
    {
        MalformedRequest: 400,
        errors.InvalidCredentials: 401,
        errors.OtpRequired: 401,
        errors.InvalidToken: 401,
        errors.ReauthenticationRequired: 401,
        errors.Forbidden: 403,
        CrossSite: 403,
        InsecureConnection: 403,
        errors.NotFound: 404,
        errors.NoCredential: 404,
        MethodNotAllowed: 405,
        RequestTimeout: 408,
        errors.AlreadyExists: 409,
        errors.PasskeyRefused: 409,
        errors.SetupClosed: 409,
        errors.IdempotencyConflict: 409,
        errors.KeyStateConflict: 409,
        errors.PasswordChanged: 409,
        errors.LastOwner: 409,
        errors.QuotaExceeded: 409,
        errors.CredentialUnreadable: 409,
        errors.SecondFactorUnreadable: 409,
        errors.NoOtherWayIn: 409,
        errors.NotConfigured: 409,
        errors.VersionConflict: 412,
        TooLarge: 413,
        UnsupportedMediaType: 415,
        ExpectationFailed: 417,
        Misdirected: 421,
        errors.InvalidInput: 422,
        errors.CannotOpen: 422,
        errors.TooManyAttempts: 429,
        Unexpected: 500,
        UnsupportedTransferCoding: 501,
        errors.DiscordUnavailable: 503,
        errors.NotReady: 503,
        errors.Overloaded: 503,
        errors.RequestExpired: 503,
        errors.SecretsNotRead: 503,
        errors.StorageError: 503,
        UnsupportedVersion: 505,
        # No Retry-After: a client that repeats a change by itself might do it twice.
        errors.OutcomeUnknown: 504,
    }
)
"""An error that is not named here has the status of the nearest class above it."""

_FROM_AIOHTTP: Final[Mapping[int, type[AppError]]] = MappingProxyType(
    {404: errors.NotFound, 405: MethodNotAllowed, 413: TooLarge, 415: UnsupportedMediaType, 417: ExpectationFailed}
)

_CHALLENGES: Final[Mapping[type[AppError], str]] = MappingProxyType(
    {
        errors.InvalidToken: 'Bearer realm="keyhall", error="invalid_token"',
        # RFC 9470, section 3
        errors.ReauthenticationRequired: (
            'Bearer realm="keyhall", error="insufficient_user_authentication", max_age=600'
        ),
    }
)


def status_of(kind: type[AppError]) -> int:
    """The HTTP status of a kind of error."""
    return next((STATUS[each] for each in kind.__mro__ if each in STATUS), 500)


def as_app_error(error: web.HTTPException) -> AppError:
    """The AppError that one of aiohttp's own refusals corresponds to."""
    kind = _FROM_AIOHTTP.get(error.status)
    if kind is not None:
        return kind()
    return MalformedRequest() if error.status < 500 else Unexpected()


def headers_of(error: AppError) -> CIMultiDict[str]:
    """The headers that a status demands (RFC 9110: 401 a challenge, 429 and 503 when to try again)."""
    headers: CIMultiDict[str] = CIMultiDict()
    status = status_of(type(error))
    if isinstance(error, errors.MissingScope):  # RFC 6750, section 3.1
        wanted = f', scope="{error.scope}"' if error.scope else ""
        headers["WWW-Authenticate"] = f'Bearer realm="keyhall", error="insufficient_scope"{wanted}'
    elif status == 401:
        headers["WWW-Authenticate"] = _CHALLENGES.get(type(error), 'Bearer realm="keyhall"')
    elif isinstance(error, errors.TooManyAttempts):
        headers["Retry-After"] = str(error.retry_after)
    elif status == 503:
        headers["Retry-After"] = RETRY_AFTER
    return headers


def problem(error: AppError, request_id: str) -> web.Response:
    """The response for a program."""
    status = status_of(type(error))
    headers = headers_of(error)
    headers["Content-Type"] = "application/problem+json"
    return web.Response(status=status, body=problem_body(error, request_id), headers=headers)


def problem_body(error: AppError, request_id: str) -> bytes:
    """Problem details as JSON. ``detail`` is the program's own text and names fields, never their content."""
    return orjson.dumps(
        {
            "type": f"urn:keyhall:problem:{error.code}",
            "title": error.title,
            "status": status_of(type(error)),
            "detail": error.detail,
            "code": error.code,
            "request_id": request_id,
        }
    )
