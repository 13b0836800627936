"""For monitors: alive, ready, and metrics."""

from __future__ import annotations

from aiohttp import web
from typing_extensions import TypedDict

from app.domain.errors import Forbidden, InvalidToken, NotReady
from app.domain.identity import Permission
from app.web.metrics import METRICS
from app.web.options import SERVICES
from app.web.origin import ORIGIN, is_local
from app.web.problems import RETRY_AFTER
from app.web.routing import Routes, json_response
from app.web.sessions import actor_of

routes = Routes("Operation")


class Alive(TypedDict):
    """`alive`, always."""

    status: str


class Ready(TypedDict):
    """`ready`, with every check by name; under status 503 `not_ready`.

    `bot` is how the bot's last login ended: `logged_in`, `stopped`, `off` where there was none, or `unknown`. It does
    not decide whether requests should be sent here.
    """

    status: str
    checks: dict[str, bool]
    bot: str


@routes("GET", "/healthz", schema=Alive)
async def healthz(request: web.Request) -> web.Response:  # noqa: ARG001 - every handler gets the request
    """Whether the process answers at all."""
    return json_response(200, {"status": "alive"})


@routes("GET", "/readyz", schema=Ready, errors=[NotReady])
async def readyz(request: web.Request) -> web.Response:
    """Whether requests should be sent here."""
    services = request.app[SERVICES]
    checks = await services.dashboard.readiness()
    # A database that has just not answered is not asked again: a probe has little time.
    bot = (await services.bot_state.shown()).state if checks["database"] else "unknown"
    if all(checks.values()):
        return json_response(200, {"status": "ready", "checks": checks, "bot": bot})
    return json_response(503, {"status": "not_ready", "checks": checks, "bot": bot}, {"Retry-After": RETRY_AFTER})


@routes("GET", "/metrics", media_type="text/plain", errors=[Forbidden, InvalidToken])
async def metrics(request: web.Request) -> web.Response:
    """Metrics for Prometheus, to this machine, or to an API token with the scope `metrics`."""
    if not is_local(request):
        await _require_token(request)
    counted = request.app[METRICS]
    text = counted.text(await request.app[SERVICES].monitoring.figures())
    return web.Response(body=text, headers={"Content-Type": counted.content_type})


async def _require_token(request: web.Request) -> None:
    """Answer another machine only by an API token: as any request, in production over https alone."""
    if "Authorization" in request.headers:
        request.app[ORIGIN].check_transport()
        await request.app[SERVICES].instances.catch_up()
        actor = await actor_of(request)
        if actor.scopes is not None:
            actor.require(Permission.READ_METRICS)
            return
    raise Forbidden("Metrics are served to this machine, or to an API token with the scope metrics")
