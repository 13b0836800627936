"""Metrics for Prometheus, in a registry per application."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from datetime import timedelta
from itertools import accumulate
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.domain.backup import BackupRecord, Rehearsal

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BOUNDS: Final = Histogram.DEFAULT_BUCKETS
"""Seconds, the last of them infinite."""
_BOUND_NAMES: Final = (*map(str, _BOUNDS[:-1]), "+Inf")


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
        self._backup: BackupRecord | None = None
        self._age: timedelta | None = None
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._registry.register(self)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one response."""
        key = (method if method in _METHODS else "other", route, status)
        self._answers[key] = self._answers.get(key, 0) + 1
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
        if self._backup is not None:
            yield from _of_backup(self._backup)
        if self._age is not None:
            yield GaugeMetricFamily(
                "keyhall_backup_age_seconds", "How long ago the newest backup was made", self._age.total_seconds()
            )

    def text(self, backup: BackupRecord | None = None, *, age: timedelta | None = None) -> bytes:
        """All metrics in the text format of Prometheus, those of the newest backup and its age among them."""
        self._backup, self._age = backup, age
        return generate_latest(self._registry)


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
