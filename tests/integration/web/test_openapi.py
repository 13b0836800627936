"""The document and the router say the same, and every route is closed that is not open on purpose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import hdrs
from jsonschema import Draft202012Validator, FormatChecker
from multidict import CIMultiDict, CIMultiDictProxy

from app.domain.errors import AppError
from app.web import WebOptions, problems
from app.web.api.documentation import DOCUMENT
from app.web.inputs import parse
from app.web.openapi import canonical, error_table
from app.web.server import build_app
from tests.support.declared_errors import check_declared
from tests.support.web import Answer, Site, filled

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPEN_TO_EVERYBODY = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/setup"),
    ("POST", "/setup"),
    ("GET", "/claim"),
    ("POST", "/claim"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("POST", "/login/passkey"),
    ("GET", "/login/code"),
    ("POST", "/login/code"),
    ("GET", "/auth/discord"),
    ("GET", "/auth/discord/callback"),
    ("GET", "/auth/discord/failed"),
    ("GET", "/static/{digest}/{name}"),
    ("GET", "/api/openapi.json"),
    ("GET", "/api/docs"),
    ("POST", "/api/v1/setup"),
    ("POST", "/api/v1/auth/claim"),
    ("POST", "/api/v1/auth/passkeys/login"),
    ("POST", "/api/v1/auth/passkeys/login/options"),
    ("POST", "/api/v1/auth/login"),
    ("POST", "/api/v1/auth/refresh"),
    ("POST", "/api/v1/auth/logout"),
}


def served_routes(site: Site) -> set[tuple[str, str]]:
    routes = set()
    for route in site.app.router.routes():
        assert route.resource is not None
        if route.method != hdrs.METH_HEAD:
            routes.add((route.method, route.resource.canonical))
    return routes


def documented_routes(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


async def test_every_route_stands_in_the_document_and_nothing_else(site: Site) -> None:
    document = (await site.request("GET", "/api/openapi.json", token="")).json
    assert document["openapi"].startswith("3.1.")
    assert documented_routes(document) == served_routes(site)


async def test_the_document_is_written_when_it_is_first_asked_for(site: Site) -> None:
    app = build_app(site.services, WebOptions())
    assert vars(app[DOCUMENT]).keys().isdisjoint({"content", "bytes"}), "a start would wait for it"
    answer = await site.request("GET", "/api/openapi.json", token="")
    assert answer.body == site.app[DOCUMENT].bytes == app[DOCUMENT].bytes


async def test_every_reference_leads_somewhere_and_every_operation_has_its_own_name(site: Site) -> None:
    document = site.app[DOCUMENT].content
    parts = document["components"]
    assert set(references(document)) <= {f"#/components/{kind}/{name}" for kind in parts for name in parts[kind]}
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    assert all(operation["summary"] for operation in operations)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every body of JSON or text that an operation for programs reads or answers with, by where it stands."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation["tags"] != ["Pages"]:
                where = f"{method} {path}"
                yield from ((where, each) for each in operation.get("requestBody", {}).get("content", {}).values())
                for status, response in operation["responses"].items():
                    for kind, content in response.get("content", {}).items():
                        if kind != "text/html":
                            yield f"{where} {status}", content


async def test_every_body_has_an_example_that_its_schema_allows(site: Site) -> None:
    document = site.app[DOCUMENT].content
    seen = 0
    for where, content in bodies(document):
        assert content.get("examples"), where
        for named in content["examples"].values():
            shared = named.get("$ref", "").rpartition("/")[2]
            example = document["components"]["examples"][shared] if shared else named
            # The document itself is where its references lead.
            schema = {**content["schema"], "components": document["components"]}
            Draft202012Validator(schema, format_checker=FormatChecker()).validate(example["value"])
            seen += 1
    assert seen > 200


async def test_the_example_of_a_request_is_one_that_is_read(site: Site) -> None:
    for endpoint in site.app[DOCUMENT].endpoints:
        if endpoint.asks.body is not None:
            operation = site.app[DOCUMENT].content["paths"][canonical(endpoint.path)][endpoint.method.lower()]
            sample = operation["requestBody"]["content"]["application/json"]["examples"]["example"]["value"]
            assert sample
            parse(endpoint.asks.body, sample)


async def test_an_operation_names_the_codes_of_its_refusals_and_no_others(site: Site) -> None:
    operation = site.app[DOCUMENT].content["paths"]["/api/v1/credentials/{credential_id}"]["patch"]
    named = {
        status: set(response["content"]["application/problem+json"]["examples"])
        for status, response in operation["responses"].items()
        if status >= "400"
    }
    assert named["404"] == {"not_found"}
    assert named["409"] == {"already_exists"}
    assert named["412"] == {"version_conflict"}
    assert "invalid_token" in named["401"]
    assert "429" not in named


async def test_an_error_that_is_not_declared_would_be_noticed(site: Site) -> None:
    other = Answer(404, CIMultiDictProxy(CIMultiDict({"Content-Type": "application/problem+json"})), b'{"code":"x"}')
    with pytest.raises(AssertionError, match="answered x, which /api/v1/auth/me does not declare"):
        check_declared(site.app[DOCUMENT], "GET", "/api/v1/auth/me?x=1", other)


async def test_the_page_for_people_keeps_the_navigation_of_whoever_is_signed_in(site: Site) -> None:
    cookie, _ = await site.log_in_browser()
    assert 'href="/account"' in (await site.page("/api/docs", cookie)).text
    for stranger in ("", "keyhall=khc_forged"):
        page = await site.page("/api/docs", stranger)
        assert page.status == 200
        assert 'href="/account"' not in page.text


async def test_no_input_takes_members_that_are_not_declared(site: Site) -> None:
    document = site.app[DOCUMENT].content
    models = [
        content["schema"]["$ref"].rpartition("/")[2]
        for path in document["paths"].values()
        for operation in path.values()
        for content in operation.get("requestBody", {}).get("content", {}).values()
    ]
    assert models
    assert all(document["components"]["schemas"][name]["additionalProperties"] is False for name in models)


async def test_whoever_is_not_signed_in_gets_nowhere_but_where_it_is_meant(site: Site) -> None:
    document = site.app[DOCUMENT].content
    closed = served_routes(site) - OPEN_TO_EVERYBODY
    for method, path in closed:
        assert document["paths"][path][method.lower()]["security"], (method, path)
        for token in ("", "forged"):
            answer = await site.request(method, filled(path), token=token, headers={"Sec-Fetch-Site": "same-origin"})
            assert answer.code == "invalid_token", (method, path)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    for method, path in OPEN_TO_EVERYBODY:
        assert document["paths"][path][method.lower()]["security"] == []


async def test_an_answer_has_no_member_that_its_documentation_does_not_name(site: Site) -> None:
    document = site.app[DOCUMENT].content
    made = await site.add("documented")
    job = await site.request(
        "POST", "/api/v1/admin/keys/ENCRYPTION_KEY/rotate", json={"at": (datetime.now(UTC) + timedelta(1)).isoformat()}
    )
    me = await site.request("GET", "/api/v1/auth/me")
    ids = {"credential_id": made["id"], "job_id": job.json["id"], "user_id": me.json["id"]}
    checked = 0
    for path, operations in document["paths"].items():
        content = operations.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema")
        if schema is None:
            continue
        answer = await site.request("GET", filled(path, **ids))
        members = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
        assert answer.json.keys() == members.keys(), path
        checked += 1
    assert checked >= 10


async def test_people_can_read_the_same(site: Site) -> None:
    page = (await site.page("/api/docs")).text
    for method, path in documented_routes(site.app[DOCUMENT].content):
        if path.startswith("/api/v1/"):
            assert f"<b>{method}</b> {path}" in page
    assert "idempotency_conflict" in page


def _kinds(kind: type[AppError]) -> Iterator[type[AppError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _kinds(each)


async def test_every_error_has_a_status_and_a_place_in_the_documentation() -> None:
    named = {code for _, code, _ in error_table()}
    for kind in _kinds(AppError):
        if kind.__module__.startswith("app.") and not kind.__module__.startswith("app.bot."):
            assert any(each in problems.STATUS for each in kind.__mro__), kind
            assert kind.code in named
