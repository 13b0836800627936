"""What Prometheus is told of the requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from prometheus_client.parser import text_string_to_metric_families

from app.services.monitoring import Figures, StoredFigures
from app.services.ports import StorageFigures
from app.web.metrics import Metrics

ROUTE = "/api/v1/credentials/{credential_id}"

FIGURES = Figures(storage=StorageFigures(events={}, cache_hits=0, cache_misses=0), lease_left=9.5, stored=None)


def told(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.text(FIGURES).decode())
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value for family in families for each in family.samples
    }


def test_requests_are_counted_by_method_route_and_status() -> None:
    metrics = Metrics()
    for method, status in [("GET", 200), ("GET", 200), ("GET", 404), ("BREW", 405), ("POUR", 405)]:
        metrics.observe(method, ROUTE, status, 0.01)
    counts = {labels: value for (name, labels), value in told(metrics).items() if name == "keyhall_http_requests_total"}
    assert counts == {
        (("method", "GET"), ("route", ROUTE), ("status", "200")): 2,
        (("method", "GET"), ("route", ROUTE), ("status", "404")): 1,
        (("method", "other"), ("route", ROUTE), ("status", "405")): 2,
    }


def test_the_buckets_of_a_route_count_what_took_that_long_or_less() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.005, 0.006, 9.0, 60.0):
        metrics.observe("GET", ROUTE, 200, seconds)
    name, found = "keyhall_http_request_seconds", told(metrics)
    route = (("route", ROUTE),)
    buckets = {dict(labels)["le"]: value for (each, labels), value in found.items() if each == f"{name}_bucket"}
    assert next(iter(buckets)) == "0.005"
    assert {le: buckets[le] for le in ("0.005", "0.01", "7.5", "10.0", "+Inf")} == {
        "0.005": 2,
        "0.01": 3,
        "7.5": 3,
        "10.0": 4,
        "+Inf": 5,
    }
    assert list(buckets.values()) == sorted(buckets.values())
    assert found[f"{name}_count", route] == 5
    assert found[f"{name}_sum", route] == 0.001 + 0.005 + 0.006 + 9.0 + 60.0


def test_the_age_of_the_newest_backup_is_shown_where_there_is_one() -> None:
    metrics = Metrics()
    without = StoredFigures(keys=[], job_waits={}, backup=None, backup_age=None)
    assert b"keyhall_backup_age_seconds" not in metrics.text(replace(FIGURES, stored=without))
    old = replace(without, backup_age=timedelta(minutes=90))
    assert b"keyhall_backup_age_seconds 5400.0" in metrics.text(replace(FIGURES, stored=old))
