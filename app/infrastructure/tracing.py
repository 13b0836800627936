"""Traces by OpenTelemetry, sent to a collector by OTLP over HTTP.

The libraries are an extra: an install without TRACES_ENDPOINT needs none of them, and imports none.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from app import __version__
from app.domain.errors import ConfigInvalid
from app.services.ports import Attributes, Span, Storage, StorageFigures, Tracer, UnitOfWork

if TYPE_CHECKING:  # an extra, and slow to import
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SpanExporter

_EXPORT_SECONDS: Final = 2
"""A collector that does not answer must not hold up the end of a process."""
_CALLER: Final = "traceparent"

_T = TypeVar("_T")


@asynccontextmanager
async def open_tracing(endpoint: str | None, *, kind: str, process: str) -> AsyncIterator[Tracer | None]:
    """Collect spans and send them in batches, from a thread of its own, until the end; None without an endpoint.

    ``kind`` and ``process`` name the process among the others. Raises ConfigInvalid where the extra is not installed.
    """
    if endpoint is None:
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    except ImportError as error:
        raise ConfigInvalid(
            "TRACES_ENDPOINT is set, and the extra otel is not installed",
            remedy="install requirements/otel.txt, or unset TRACES_ENDPOINT",
        ) from error
    async with sending(OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS), kind, process) as tracer:
        yield tracer


@asynccontextmanager
async def sending(exporter: SpanExporter, kind: str, process: str) -> AsyncIterator[Tracer]:
    """A tracer whose spans go to that exporter."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    names = {
        "service.name": "keyhall",
        "service.version": __version__,
        "service.instance.id": process,
        "keyhall.process.kind": kind,
    }
    provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield OpenTelemetryTracer(provider.get_tracer("keyhall", __version__))
    finally:
        # In a thread that the process does not wait for: a collector that answers byte by byte has time without end.
        last = threading.Thread(target=provider.shutdown, name="last traces", daemon=True)
        last.start()
        await asyncio.to_thread(last.join, _EXPORT_SECONDS)


class OpenTelemetryTracer:
    """See `app.services.ports.Tracer`."""

    on = True

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def span(self, name: str, attributes: Attributes | None = None, *, caller: str | None = None) -> Iterator[Span]:
        """Exceptions by their type alone: their text and traceback could quote what a person typed."""
        from opentelemetry.propagate import extract  # noqa: PLC0415
        from opentelemetry.trace import StatusCode  # noqa: PLC0415

        with self._tracer.start_as_current_span(
            name,
            context=None if caller is None else extract({_CALLER: caller}),
            attributes=dict(attributes or {}),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield _OpenSpan(span)
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(StatusCode.ERROR)
                raise

    def begin(self, name: str, attributes: Attributes | None = None) -> Callable[[], None]:
        """The task's context ends with the task, so nothing has to be put back."""
        from opentelemetry import context, trace  # noqa: PLC0415

        span = self._tracer.start_span(name, attributes=dict(attributes or {}))
        context.attach(trace.set_span_in_context(span))
        return span.end


class _OpenSpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def note(self, attributes: Attributes) -> None:
        """See the port."""
        self._span.set_attributes(dict(attributes))


class TracedStorage:
    """A storage whose units of work are spans, the wait for a connection or the write lock among them."""

    def __init__(self, storage: Storage, tracer: Tracer) -> None:
        self._storage = storage
        self._tracer = tracer

    def read(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """See the port."""
        return self._traced("database read", self._storage.read())

    def lookup(self, *, large: bool = False) -> AbstractAsyncContextManager[UnitOfWork]:
        """See the port."""
        return self._traced("database lookup", self._storage.lookup(large=large))

    def write(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """See the port."""
        return self._traced("database write", self._storage.write())

    @asynccontextmanager
    async def _traced(self, name: str, unit: AbstractAsyncContextManager[UnitOfWork]) -> AsyncIterator[UnitOfWork]:
        with self._tracer.span(name):
            async with unit as uow:
                yield uow

    async def cached(self, kind: str, key: str, load: Callable[[UnitOfWork], Awaitable[_T | None]]) -> _T | None:
        """See the port."""
        return await self._storage.cached(kind, key, load)

    def data_version(self) -> int | None:
        """See the port."""
        return self._storage.data_version()

    def announced_version(self) -> int | None:
        """See the port."""
        return self._storage.announced_version()

    def forget_rows(self) -> None:
        """See the port."""
        self._storage.forget_rows()

    def figures(self) -> StorageFigures:
        """See the port."""
        return self._storage.figures()
