"""Server-sent events: an answer that stays open and says what has changed (HTML Standard, 9.2).

A stream is a request that goes on, so what every request passes is repeated while it is open: the keys are brought up
to date at every look, and its sender is identified again within seconds, since a session may end meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import hdrs, web

from app.domain.errors import AppError, TooManyAttempts
from app.domain.identity import Actor
from app.services.deadlines import restart_deadline
from app.web.options import SERVICES
from app.web.sessions import actor_of

EVENT_STREAM: Final = "text/event-stream"
STREAMS_PER_USER: Final = 4
LOOK_EVERY_SECONDS: Final = 1.0
IDENTIFY_EVERY_SECONDS: Final = 2.0
"""With a look and the freshness of sessions on top, a stream ends within 5 s of its session."""
HEARTBEAT_SECONDS: Final = 15.0
"""Proxies close connections on which nothing is sent, commonly after a minute."""
_WRITE_SECONDS: Final = 10.0
"""How long a reader may take to accept an event; one that reads nothing must not keep its place."""
_RETRY_SECONDS: Final = 2
_HEADERS: Final[Mapping[str, str]] = {
    hdrs.CONTENT_TYPE: f"{EVENT_STREAM}; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-store, no-transform",
    "X-Accel-Buffering": "no",  # nginx would gather the events until its buffer is full
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The state that a look found; ``last`` says that nothing more will happen."""

    name: str
    data: Mapping[str, Any]
    last: bool

    @property
    def frame(self) -> bytes:
        """As it is sent. JSON has no line breaks, so it is one field."""
        data = orjson.dumps(self.data, option=orjson.OPT_UTC_Z)
        return b"event: %b\ndata: %b\n\n" % (self.name.encode(), data)


Look = Callable[[Actor], Awaitable[Event]]
"""Finds the present state, for that actor. An error before the first event is the answer to the request."""


class EventStreams:
    """The streams that are open: few for each user, and all of them end when the process is asked to."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._ending = asyncio.Event()

    @contextmanager
    def place_of(self, actor: Actor) -> Iterator[None]:
        """Take one of the places of a user. Raises TooManyAttempts."""
        if self._open[actor.user_id] >= STREAMS_PER_USER:
            raise TooManyAttempts(_RETRY_SECONDS)
        self._open[actor.user_id] += 1
        try:
            yield
        finally:
            self._open[actor.user_id] -= 1
            self._open += Counter()  # drops those at zero

    @property
    def open(self) -> int:
        """How many there are."""
        return self._open.total()

    async def end(self, _: web.Application) -> None:
        """End all of them: a process that is asked to end waits for its requests, and these would go on."""
        self._ending.set()

    async def ended_within(self, seconds: float) -> bool:
        """Wait for that long; True at once when all are to end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        return self._ending.is_set()


STREAMS: web.AppKey[EventStreams] = web.AppKey("keyhall.event_streams", EventStreams)


async def event_stream(request: web.Request, actor: Actor, look: Look) -> web.StreamResponse:
    """Answer with what ``look`` finds, and again whenever that has changed, until the last of it.

    Raises the errors of the first look, and TooManyAttempts where the actor has too many streams.
    """
    first = await look(actor)
    if request.method == hdrs.METH_HEAD:
        return web.Response(headers=_HEADERS)
    with request.app[STREAMS].place_of(actor):
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        # An error after the head cannot be answered any more: the stream ends, and who asks again gets the refusal.
        with suppress(AppError, ConnectionError, TimeoutError):
            await _send(response, b"retry: %d\n\n" % (_RETRY_SECONDS * 1000))
            await _follow(request, response, actor, first, look)
        return response


async def _follow(request: web.Request, response: web.StreamResponse, actor: Actor, event: Event, look: Look) -> None:
    services, streams, time = request.app[SERVICES], request.app[STREAMS], asyncio.get_running_loop().time
    sent: Event | None = None
    sent_at = identified_at = time()
    while request.transport is not None and not request.transport.is_closing():
        if event != sent:
            await _send(response, event.frame)
            sent, sent_at = event, time()
        elif time() - sent_at >= HEARTBEAT_SECONDS:
            await _send(response, b":\n\n")
            sent_at = time()
        if event.last or await streams.ended_within(LOOK_EVERY_SECONDS):
            return
        await services.instances.catch_up()
        if time() - identified_at >= IDENTIFY_EVERY_SECONDS:
            restart_deadline()  # noting that the session is used is part of this request, however old that is
            actor, identified_at = await actor_of(request), time()
        event = await look(actor)


async def _send(response: web.StreamResponse, frame: bytes) -> None:
    async with asyncio.timeout(_WRITE_SECONDS):
        await response.write(frame)
