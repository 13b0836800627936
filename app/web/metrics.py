"""Metrics for Prometheus, in a registry per application."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app import __version__
from app.domain.backup import BackupRecord, Rehearsal
from app.services.monitoring import Figures, StoredFigures

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BOUNDS: Final = Histogram.DEFAULT_BUCKETS
"""Seconds, the last of them infinite."""
_KEY: Final = ("key", "version")
_BOUND_NAMES: Final = (*map(str, _BOUNDS[:-1]), "+Inf")


def known_method(method: str) -> str:
    """The method, or `other`: a client could make up any number of them."""
    return method if method in _METHODS else "other"


class _Route:
    """How often a route answered in time for each bound, and not for the one below it."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * len(_BOUNDS)
        self.seconds = 0.0


class Metrics(Collector):
    """Requests by the pattern of their route, never by path: paths hold ids, and labels are never dropped.

    Plain numbers, made into metrics when somebody asks for them: every request is counted, on the loop's thread alone.
    """

    content_type: Final = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str, int], int] = {}
        self._routes: dict[str, _Route] = {}
        self._figures: Figures | None = None
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._registry.register(self)

    def observe(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count one response; without ``seconds`` where they say nothing of the server, as for a stream of events."""
        key = (known_method(method), route, status)
        self._answers[key] = self._answers.get(key, 0) + 1
        if seconds is None:
            return
        observed = self._routes.get(route)
        if observed is None:
            observed = self._routes[route] = _Route()
        observed.counts[bisect_left(_BOUNDS, seconds)] += 1
        observed.seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """The numbers as the registry wants them."""
        answers = CounterMetricFamily(
            "keyhall_http_requests", "HTTP requests answered", labels=["method", "route", "status"]
        )
        for (method, route, status), count in self._answers.items():
            answers.add_metric([method, route, str(status)], count)
        yield answers
        times = HistogramMetricFamily(
            "keyhall_http_request_seconds", "Time to answer an HTTP request", labels=["route"]
        )
        for route, observed in self._routes.items():
            buckets = list(zip(_BOUND_NAMES, accumulate(observed.counts), strict=True))
            times.add_metric([route], buckets, observed.seconds)
        yield times
        if self._figures is not None:
            yield from _of_process(self._figures)
            if self._figures.stored is not None:
                yield from _of_database(self._figures.stored)

    def text(self, figures: Figures) -> bytes:
        """All metrics in the text format of Prometheus, those figures among them."""
        self._figures = figures
        return generate_latest(self._registry)


def _of_process(figures: Figures) -> Iterator[Metric]:
    build = GaugeMetricFamily("keyhall_build_info", "The version that runs", labels=["version"])
    build.add_metric([__version__], 1)
    yield build
    events = CounterMetricFamily(
        "keyhall_audit_events",
        "Events that this process recorded in the audit trail: sign-ins, uses, refusals and all else",
        labels=["action", "result", "source"],
    )
    for (action, result, source), count in figures.storage.events.items():
        events.add_metric([action, result, source], count)
    yield events
    yield CounterMetricFamily("keyhall_row_cache_hits", "Rows that were found in memory", figures.storage.cache_hits)
    yield CounterMetricFamily(
        "keyhall_row_cache_misses", "Rows that had to be read from the database", figures.storage.cache_misses
    )
    yield GaugeMetricFamily(
        "keyhall_lease_seconds", "For how long this process may still use its keys", figures.lease_left
    )
    yield GaugeMetricFamily(
        "keyhall_database_up", "Whether the database could be read just now", float(figures.stored is not None)
    )


def _of_database(stored: StoredFigures) -> Iterator[Metric]:
    since = GaugeMetricFamily(
        "keyhall_key_primary_timestamp_seconds", "Since when the version of an application key is primary", labels=_KEY
    )
    due = GaugeMetricFamily(
        "keyhall_key_due_timestamp_seconds", "When the rotation of an application key is due", labels=_KEY
    )
    for key in stored.keys:
        since.add_metric([key.name, str(key.version)], key.since.timestamp())
        due.add_metric([key.name, str(key.version)], key.due_at.timestamp())
    yield from (since, due)
    waits = GaugeMetricFamily(
        "keyhall_job_wait_seconds", "For how long a job has been due that no worker has taken", labels=["kind"]
    )
    for kind, wait in stored.job_waits.items():
        waits.add_metric([kind], wait.total_seconds())
    yield waits
    if stored.backup is not None:
        yield from _of_backup(stored.backup)
    if stored.backup_age is not None:
        yield GaugeMetricFamily(
            "keyhall_backup_age_seconds", "How long ago the newest backup was made", stored.backup_age.total_seconds()
        )


def _of_backup(backup: BackupRecord) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "keyhall_backup_created_timestamp_seconds", "When the newest backup was made", backup.created_at.timestamp()
    )
    if backup.rehearsed_at is not None:
        yield GaugeMetricFamily(
            "keyhall_backup_rehearsed_timestamp_seconds",
            "When the newest backup was last restored for trial",
            backup.rehearsed_at.timestamp(),
        )
        yield GaugeMetricFamily(
            "keyhall_backup_rehearsal_ok",
            "Whether everything in it was restored and opened then",
            float(backup.rehearsal is Rehearsal.OK),
        )


METRICS: web.AppKey[Metrics] = web.AppKey("keyhall.metrics", Metrics)
