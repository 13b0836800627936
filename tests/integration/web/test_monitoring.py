"""What an operator's monitoring reads: metrics that answer questions, rules and a dashboard that ask for real ones."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from app.domain.errors import ConfigInvalid
from app.infrastructure.tracing import TracedStorage, open_tracing, sending
from app.services.monitoring import MonitoringService
from app.web import WebOptions
from tests.support.fakes import EPOCH, FakeStorage
from tests.support.processes import PROJECT
from tests.support.samples import ABSENT, OWNER
from tests.support.tools import require_tool
from tests.support.web import Site, served

MONITORING = PROJECT / "deploy" / "monitoring"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _scraped(site: Site) -> tuple[str, Samples]:
    answer = await site.request("GET", "/metrics", token="")
    assert answer.status == 200
    families = text_string_to_metric_families(answer.text)
    return answer.text, {
        (each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples
    }


def _of(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0)


async def test_sign_ins_uses_and_refusals_are_counted_once_they_are_recorded(site: Site) -> None:
    _, before = await _scraped(site)
    wrong = {"username": OWNER, "password": "not the owner's password"}
    assert (await site.request("POST", "/api/v1/auth/login", json=wrong, token="")).status == 401
    await site.log_in()
    one = await site.add("counted")
    assert (await site.request("POST", f"/api/v1/credentials/{one['id']}/reveal")).status == 200
    _, after = await _scraped(site)
    for action, result in (
        ("auth.login", "ok"),
        ("auth.login", "denied"),
        ("credential.added", "ok"),
        ("credential.revealed", "ok"),
    ):
        labels = {"action": action, "result": result, "source": "web"}
        name = "keyhall_audit_events_total"
        assert _of(after, name, **labels) - _of(before, name, **labels) == 1, (action, result)


async def test_a_change_that_is_rolled_back_is_not_counted(site: Site) -> None:
    await site.add("taken")
    _, before = await _scraped(site)
    body = {"provider": "openai", "label": "taken", "secret": "sk-proj-4f9aTq7ZbX2mLw8v"}
    assert (await site.request("POST", "/api/v1/credentials", json=body)).status == 409
    _, after = await _scraped(site)
    added = {"action": "credential.added", "result": "ok", "source": "web"}
    assert _of(after, "keyhall_audit_events_total", **added) == _of(before, "keyhall_audit_events_total", **added)


async def test_keys_jobs_lease_and_cache_are_shown(site: Site) -> None:
    services = site.services
    await services.rotation.watch_ages()  # queues a job, which no worker takes here
    text, samples = await _scraped(site)
    assert {key for name, labels in samples if name == "keyhall_key_due_timestamp_seconds" for _, key in labels} > {
        "AES_KEY",
        "JWT_SECRET_KEY",
        "ENCRYPTION_KEY",
        "API_SECRET_KEY",
    }
    primary = _of(samples, "keyhall_key_primary_timestamp_seconds", key="AES_KEY", version="1")
    assert _of(samples, "keyhall_key_due_timestamp_seconds", key="AES_KEY", version="1") - primary == 90 * 86400
    assert ("keyhall_job_wait_seconds", frozenset({("kind", "key.ages")})) in samples
    assert _of(samples, "keyhall_lease_seconds") > 0
    assert _of(samples, "keyhall_database_up") == 1
    assert _of(samples, "keyhall_row_cache_hits_total") + _of(samples, "keyhall_row_cache_misses_total") > 0
    assert "keyhall_build_info{" in text


async def test_without_the_database_the_process_still_answers_for_itself(site: Site) -> None:
    storage = FakeStorage()
    monitoring = MonitoringService(
        storage=storage, keys=site.services.keys, dashboard=site.services.dashboard, rehearsal=site.services.rehearsal
    )
    async with served(replace(site.services, monitoring=monitoring)) as apart:
        with storage.dead():
            _, samples = await _scraped(apart)
    assert _of(samples, "keyhall_database_up") == 0
    assert ("keyhall_lease_seconds", frozenset()) in samples


def _promtool(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [require_tool("promtool"), *arguments]
    return subprocess.run(command, cwd=MONITORING, input=text, capture_output=True, text=True, check=False)


async def test_promtool_accepts_the_metrics(site: Site) -> None:
    text, _ = await _scraped(site)
    judged = _promtool("check", "metrics", text=text)
    # Names that the client library gives to what it measures of Python itself are not ours to choose.
    own = [line for line in judged.stderr.splitlines() if line.startswith("keyhall_")]
    assert own == []
    assert judged.returncode in {0, 3}, judged.stderr


async def test_promtool_accepts_the_alert_rules_and_their_tests() -> None:
    for command in (("check", "rules", "alerts.yaml"), ("test", "rules", "alerts.test.yaml")):
        judged = _promtool(*command)
        assert judged.returncode == 0, judged.stdout + judged.stderr


_METRIC = re.compile(r"\b(keyhall_[a-z_]+|process_[a-z_]+|up)\b")


def _expressions() -> Iterator[str]:
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


async def test_rules_and_dashboard_ask_for_metrics_and_labels_that_there_are(site: Site, tmp_path: Path) -> None:
    await site.log_in()
    text, samples = await _scraped(site)
    known = {name for name, _ in samples} | {"up", "keyhall_backup_age_seconds", "keyhall_backup_rehearsal_ok"}
    asked = {name for expression in _expressions() for name in _METRIC.findall(expression)}
    assert asked - known == set()
    labels = {"kind", *re.findall(r'(\w+)="', text)}  # Prometheus adds job and instance
    used = {name for each in _expressions() for name in re.findall(r'(\w+)=~?"', each)}
    groups = [names for each in _expressions() for names in re.findall(r"by \(([\w, ]+)\)", each)]
    grouped = {name for names in groups for name in names.split(", ")}
    assert (used | grouped) - labels - {"job", "instance"} == set()


async def test_every_alert_is_explained() -> None:
    manual = (PROJECT / "docs" / "operations.md").read_text()
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    assert [rule["alert"] for rule in rules if f"`{rule['alert']}`" not in manual] == []


# ---------------------------------------------------------------------------------------------------------------------
# Traces
# ---------------------------------------------------------------------------------------------------------------------


CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""A `traceparent` (W3C Trace Context, section 3.2)."""
CALLERS_TRACE = 0x0AF7651916CD43DD8448EB211C80319C


async def _spans(site: Site, *trusted: str, path: str, **headers: str) -> Sequence[ReadableSpan]:
    exporter = InMemorySpanExporter()
    networks = tuple(ipaddress.ip_network(each) for each in trusted)
    async with sending(exporter, "web", "here/1") as tracer:
        services = replace(site.services, tracer=tracer)
        async with served(services, WebOptions(trusted_proxies=networks)) as traced:
            await traced.request("GET", path, token=site.token, headers=headers)
    return exporter.get_finished_spans()


async def test_a_span_names_the_route_and_the_outcome_and_nothing_that_was_sent(site: Site) -> None:
    path = f"/api/v1/credentials/{ABSENT}?cursor=a-canary"
    [span] = await _spans(site, path=path, **{"User-Agent": "a-canary", "X-Forwarded-For": "203.0.113.9"})
    assert span.name == "GET /api/v1/credentials/{credential_id}"
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "http.route": "/api/v1/credentials/{credential_id}",
        "http.response.status_code": 404,
        "keyhall.request_id": (span.attributes or {})["keyhall.request_id"],
    }
    assert span.events == ()
    assert not {ABSENT, "a-canary", site.token, "203.0.113.9"} & set(re.split(r'[\s"]', span.to_json()))
    assert "a-canary" not in span.to_json()


@pytest.mark.parametrize(
    ("trusted", "header", "goes_on"),
    [
        (["127.0.0.1/32"], CALLER, True),
        ([], CALLER, False),
        (["10.0.0.0/8"], CALLER, False),
        (["127.0.0.1/32"], CALLER.replace("0af7", "ZZZZ"), False),
        (["127.0.0.1/32"], "x" * 5000, False),
    ],
    ids=["a trusted proxy", "anybody", "another proxy", "malformed", "long"],
)
async def test_the_trace_of_a_trusted_proxy_goes_on(site: Site, trusted: list[str], header: str, goes_on: bool) -> None:  # noqa: FBT001 - a parameter
    [span] = await _spans(site, *trusted, path="/healthz", traceparent=header)
    assert span.context is not None
    assert (span.context.trace_id == CALLERS_TRACE) is goes_on
    assert (span.parent is not None) is goes_on


async def test_an_error_is_noted_by_its_type_alone() -> None:
    exporter = InMemorySpanExporter()
    async with sending(exporter, "web", "here/1") as tracer:
        with pytest.raises(ValueError, match="canary"), tracer.span("outer"), tracer.span("inner"):
            raise ValueError("a-canary")
    inner, outer = exporter.get_finished_spans()
    assert inner.parent is not None
    assert outer.context is not None
    assert inner.parent.span_id == outer.context.span_id
    assert dict(inner.attributes or {}) == {"error.type": "ValueError"}
    assert not inner.status.is_ok
    assert "a-canary" not in inner.to_json() + outer.to_json()


async def test_units_of_work_are_spans_and_all_else_of_a_storage_is_as_it_was() -> None:
    exporter, storage = InMemorySpanExporter(), FakeStorage()
    async with sending(exporter, "web", "here/1") as tracer:
        traced = TracedStorage(storage, tracer)
        async with traced.write() as uow:
            await uow.bot_state.put("guilds", "3", EPOCH)
        for reading in (traced.read(), traced.lookup()):
            async with reading as uow:
                assert await uow.bot_state.get("guilds") == "3"
        assert await traced.cached("fact", "guilds", lambda uow: uow.bot_state.get("guilds")) == "3"
        assert traced.data_version() == storage.data_version() == traced.announced_version()
        assert traced.figures() == storage.figures()
        traced.forget_rows()
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["database write", "database read", "database lookup"]


async def test_a_collector_without_the_extra_halts_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigInvalid, match="TRACES_ENDPOINT") as halted:
        async with open_tracing("http://127.0.0.1:4318/v1/traces", kind="web", process="here/1"):
            pass
    remedy = halted.value.remedy
    assert "requirements/otel.txt" in remedy
    assert (PROJECT / "requirements" / "otel.txt").is_file()


class _StuckExporter(InMemorySpanExporter):
    """A collector that takes for ever, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.free.wait()
        return super().export(spans)


async def test_a_collector_that_does_not_answer_holds_up_no_end() -> None:
    exporter = _StuckExporter()
    try:
        async with asyncio.timeout(60):  # the exporter would wait for ever
            async with sending(exporter, "web", "here/1") as tracer:
                with tracer.span("unsent"):
                    pass
    finally:
        exporter.free.set()
