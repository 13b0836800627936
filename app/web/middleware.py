"""The checks that every request passes: one middleware, because each costs and the order of the checks matters."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import hdrs, web
from multidict import CIMultiDict

from app.domain.errors import AppError
from app.web.compression import compress
from app.web.connection import SPOKEN_MAJOR
from app.web.event_stream import EVENT_STREAM
from app.web.headers import default_headers
from app.web.metrics import METRICS, known_method
from app.web.options import SERVICES
from app.web.origin import ORIGIN, UNSAFE
from app.web.problems import (
    MalformedRequest,
    Unexpected,
    UnsupportedTransferCoding,
    UnsupportedVersion,
    as_app_error,
    problem,
    status_of,
)
from app.web.refusals import UNMATCHED, record_refusal, route_of
from app.web.sessions import set_renewed_cookie

log = logging.getLogger(__name__)
access_log = logging.getLogger("keyhall.access")

REQUEST_ID: web.RequestKey[str] = web.RequestKey("keyhall.request_id", str)
ErrorPage = Callable[[web.Request, AppError], Awaitable[web.Response]]
ERROR_PAGE: web.AppKey[ErrorPage] = web.AppKey("keyhall.error_page")
"""Makes the page that shows an error to a person with a browser."""

PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""They answer in every state of the keys, and to monitors that call this machine by any name."""
_BEGUN: web.RequestKey[bool] = web.RequestKey("keyhall.begun", bool)
"""Present once the head of a response was sent."""
_STATIC: Final = "/static/"
_LONGEST_PATH: Final = 512


@web.middleware
async def request_middleware(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer within a span, where anybody collects those; the trace of a trusted proxy goes on in it."""
    tracer = request.app[SERVICES].tracer
    if not tracer.on:
        return await _answer(request, handler)
    route = route_of(request)
    caller = request.headers.get("traceparent") if request.app[ORIGIN].trusts(request) else None
    attributes = {"http.request.method": known_method(request.method), "http.route": route}
    with tracer.span(f"{attributes['http.request.method']} {route}", attributes, caller=caller) as span:
        response = await _answer(request, handler)
        span.note({"http.response.status_code": response.status, "keyhall.request_id": request[REQUEST_ID]})
        return response


async def _answer(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Check host and origin, bring the keys up to date, call the handler. Errors become responses here only."""
    started = time.perf_counter()
    app = request.app
    services = app[SERVICES]
    request_id = request[REQUEST_ID] = services.randomness.token_bytes(8).hex()
    response: web.StreamResponse
    try:
        _check_protocol(request)
        if request.path not in PROBES:
            origin = app[ORIGIN]
            static = request.path.startswith(_STATIC)
            if not static:  # the page that explains the refusal needs its stylesheet
                origin.check_transport()
            origin.check_host(request)
            if request.method in UNSAFE:
                origin.check_site(request, browser=False)
            if not static:
                await services.instances.catch_up()
        with services.deadlines.request(lambda: _gone(request)):
            response = await handler(request)
    except web.HTTPException as refusal:
        response = await _refusal(request, refusal)
    except AppError as error:
        _cut_off_if_begun(request, error)
        await record_refusal(request, error)
        if status_of(type(error)) >= 500 and not _gone(request):
            what = f"{request.method} {route_of(request)}"
            services.failures.note(what, error, request_id)
        response = await _error_response(request, error)
    except (asyncio.CancelledError, ConnectionError):
        raise
    except Exception:
        log.exception("unexpected error in %s %s", request.method, route_of(request), extra={"request_id": request_id})
        _cut_off_if_begun(request, Unexpected())
        response = await _error_response(request, Unexpected())
    set_renewed_cookie(request, response)
    await compress(request, response)
    _record(request, response, time.perf_counter() - started)
    return response


def _gone(request: web.Request) -> bool:
    """Whether the client has closed the connection: nobody would read an answer."""
    return request.transport is None or request.transport.is_closing()


def _cut_off_if_begun(request: web.Request, error: AppError) -> None:
    """Close the connection where the response has begun, so that nobody takes its begin for all of it.

    A second response would go into the body of the first. Raises ConnectionResetError then.
    """
    if _BEGUN not in request:
        return
    log.warning("an answer was cut off: %s", error.detail)
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError from error


def _check_protocol(request: web.Request) -> None:
    """Refuse what the parser lets pass: other versions, and a body that is coded for its transfer."""
    major = request.get(SPOKEN_MAJOR)
    if major is not None:
        raise MalformedRequest("The request names no version of HTTP") if major == 0 else UnsupportedVersion()
    coding = request.headers.get(hdrs.TRANSFER_ENCODING)
    if coding is not None and coding.strip().lower() != "chunked":
        raise UnsupportedTransferCoding


async def _refusal(request: web.Request, refusal: web.HTTPException) -> web.StreamResponse:
    if refusal.status < 400:  # a redirect that an extension raised
        headers = refusal.headers.copy()
        headers.popall(hdrs.CONTENT_TYPE, None)
        return web.Response(status=refusal.status, headers=headers)
    response = await _error_response(request, as_app_error(refusal))
    if hdrs.ALLOW in refusal.headers:
        response.headers[hdrs.ALLOW] = refusal.headers[hdrs.ALLOW]
    return response


async def _error_response(request: web.Request, error: AppError) -> web.Response:
    if wants_html(request):
        return await request.app[ERROR_PAGE](request, error)
    response = problem(error, request[REQUEST_ID])
    if status_of(type(error)) in {408, 413, 501, 505}:
        response.force_close()  # the rest of the body is not waited for
    return response


def wants_html(request: web.Request) -> bool:
    """Whether a person reads the response in a browser."""
    return not request.path.startswith("/api/v1/") and "text/html" in request.headers.get(hdrs.ACCEPT, "")


def _record(request: web.Request, response: web.StreamResponse, seconds: float) -> None:
    route = route_of(request)
    streamed = response.content_type == EVENT_STREAM  # it lasts for as long as somebody watches
    request.app[METRICS].observe(request.method, route, response.status, None if streamed else seconds)
    # Reading without a failure is the everyday case, of interest only when somebody looks for a fault.
    everyday = request.method not in UNSAFE and response.status < 400
    level = logging.DEBUG if everyday or request.path in PROBES else logging.INFO
    if access_log.isEnabledFor(level):
        access_log.log(
            level,
            "%s %s %d in %.1f ms",
            request.method,
            route,
            response.status,
            seconds * 1000,
            extra={"request_id": request[REQUEST_ID], "address": request.app[ORIGIN].address(request)},
        )
    if route == UNMATCHED and response.status == 404:  # a proxy with a wrong prefix is found by the path alone
        path = request.raw_path.partition("?")[0][:_LONGEST_PATH]  # still percent-encoded: one line
        access_log.debug("no route for %s", path, extra={"request_id": request[REQUEST_ID]})


def add_default_headers(app: web.Application) -> None:
    """Put the default headers on every response of an application, also on those that aiohttp makes itself."""
    defaults = CIMultiDict(default_headers(https=app[ORIGIN].https))

    async def on_prepare(request: web.Request, response: web.StreamResponse) -> None:
        request[_BEGUN] = True
        headers = response.headers
        if (request_id := request.get(REQUEST_ID)) is not None:  # a stream is on its way before the middleware ends
            headers.setdefault("X-Request-Id", request_id)
        headers.merge(defaults)  # a handler's own value for one of them wins
        headers.popall(hdrs.SERVER, None)

    app.on_response_prepare.append(on_prepare)
