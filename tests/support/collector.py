"""A collector of traces: takes OTLP over HTTP, as the real ones do, and keeps what it was sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """The spans, and the bytes in which they came."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.spans: list[Span] = []
        self.address = ""

    def names(self) -> set[str]:
        """The names of all spans."""
        return {span.name for span in self.spans}

    def named(self, name: str) -> Span:
        """The first span of that name."""
        return next(span for span in self.spans if span.name == name)

    def within(self, span: Span) -> set[str]:
        """The names of the spans that lie directly within that one."""
        return {each.name for each in self.spans if each.parent_span_id == span.span_id}

    async def take(self, request: web.Request) -> web.Response:
        """Take one batch."""
        body = await request.read()
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return web.Response(content_type="application/x-protobuf")


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on a free port of loopback."""
    collector = Collector()
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/traces", collector.take)
    async with TestServer(app, host="127.0.0.1") as server:
        collector.address = str(server.make_url("/v1/traces"))
        yield collector


def attributes(span: Span) -> dict[str, str | int]:
    """The attributes of a span, which are texts and whole numbers."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in span.attributes}
