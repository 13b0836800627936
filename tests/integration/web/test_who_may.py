"""Every route of the OpenAPI document, for somebody who is not signed in and for every role."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from app.domain.identity import Role
from app.web.api.documentation import DOCUMENT
from tests.support.access.people import ROLES
from tests.support.access.routes import OBJECTS, ROUTES, Route
from tests.support.authenticator import Authenticator
from tests.support.samples import ABSENT, OWNER, PASSWORD, SECRET
from tests.support.web import Answer, Site, filled, open_site, sqlite_place

pytestmark = pytest.mark.asyncio(loop_scope="module")

WHERE_TO_ADD = "add a row to ROUTES in tests/support/access/routes.py"
EXTRA_MEMBERS = ("id", "is_admin", "owner_id", "role", "user_id", "token_version", "__proto__")
"""Members that nobody may set by sending them along (mass assignment)."""


@dataclass
class Visitor:
    """Somebody who is signed in as a program and in a browser."""

    name: str
    token: str
    cookie: str
    form_token: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with open_site(sqlite_place(tmp_path_factory.mktemp("who-may"))) as opened:
        identity = opened.services.identity
        operator = await identity.operator()
        for role in ROLES[1:]:
            await identity.create(operator, f"{role.value}-one", PASSWORD, role)
        await identity.create(operator, "mallory", PASSWORD, Role.MEMBER)
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def visitors(site: Site) -> dict[Role, Visitor]:
    return {role: await _signed_in(site, OWNER if role is Role.OWNER else f"{role.value}-one") for role in ROLES}


async def _signed_in(site: Site, name: str) -> Visitor:
    answer = await site.submit("/login", "", username=name, password=PASSWORD, next="/")
    page = await site.page("/", answer.cookie())
    return Visitor(name, await site.log_in(name), answer.cookie(), page.form_token())


def documented(site: Site) -> set[str]:
    paths = site.app[DOCUMENT].content["paths"]
    return {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}


async def test_every_route_is_in_the_table(site: Site) -> None:
    rows = [each.route for each in ROUTES]
    assert len(rows) == len(set(rows)), "a route has two rows"
    missing = sorted(documented(site) - set(rows))
    assert not missing, f"{WHERE_TO_ADD}: {missing}"
    assert not set(rows) - documented(site), "these are served no more"
    parts = {each for route in rows for each in re.findall(r"{(\w+)}", route)}
    assert parts <= OBJECTS.keys(), "say in OBJECTS, in tests/support/access/routes.py, whose objects these name"


@pytest.mark.parametrize("row", ROUTES, ids=lambda row: row.route)
async def test_who_may(site: Site, visitors: dict[Role, Visitor], row: Route) -> None:
    wrong = []
    for who, expected in zip((None, *ROLES), row.outcomes, strict=True):
        visitor = visitors[who] if who else None
        answer = await _sent(site, row, visitor)
        if who and visitor and row.ends_sessions:
            visitors[who] = await _signed_in(site, visitor.name)
        if _outcome(row, answer) != expected:
            wrong.append(f"{who or 'nobody'}: expected {expected}, got {answer.status} {answer.text[:300]}")
    assert not wrong, "\n".join([row.route, *wrong])


async def _sent(site: Site, row: Route, visitor: Visitor | None, path: str | None = None) -> Answer:
    where = path or filled(row.path)
    if not row.is_page:
        return await site.request(row.method, where, token=visitor.token if visitor else "", json=row.body)
    if row.method == "GET":
        return await site.page(where, visitor.cookie if visitor else "")
    token = {"form_token": visitor.form_token} if visitor else {}
    return await site.submit(where, visitor.cookie if visitor else "", {**(row.form or {}), **token})


def _outcome(row: Route, answer: Answer) -> str:
    code = answer.json["code"] if answer.headers.get("Content-Type") == "application/problem+json" else ""
    if code in row.passes or str(answer.status) in row.passes:
        return "A"
    if answer.status == 303 and re.match(r"/login(\?next=|$)", answer.headers["Location"]):
        return "U"
    return {401: "U", 403: "F", 404: "N"}.get(answer.status, "A" if answer.status < 500 else str(answer.status))


async def test_an_object_of_somebody_else_is_answered_like_one_that_nobody_has(
    site: Site, visitors: Mapping[Role, Visitor]
) -> None:
    """BOLA: every route with an id in its path, for every object of another user."""
    objects = await _objects_of_another(site)
    tried = 0
    for row in ROUTES:
        parts = re.findall(r"{(\w+)}", row.path)
        kinds = [OBJECTS[each] for each in parts]
        if len(parts) != 1 or not kinds[0]:
            continue
        for theirs in objects[kinds[0]]:
            for visitor in visitors.values():
                known = await _sent(site, row, visitor, filled(row.path, **{parts[0]: theirs}))
                unknown = await _sent(site, row, visitor)
                assert known.status == unknown.status, (row.route, visitor.name, known.text)
                assert _told(known, theirs) == _told(unknown, ABSENT), (row.route, visitor.name)
                tried += 1
    assert tried > len(visitors)


async def _objects_of_another(site: Site) -> Mapping[str, list[str]]:
    """What mallory has: ids by kind."""
    token = await site.log_in("mallory")
    body: dict[str, Any] = {"provider": "openai", "label": "hers", "secret": SECRET}
    kept = await site.request("POST", "/api/v1/credentials", token=token, json=body)
    removed = await site.request("POST", "/api/v1/credentials", token=token, json={**body, "label": "removed"})
    await site.request("DELETE", f"/api/v1/credentials/{removed.json['id']}", token=token)
    options = await site.request("POST", "/api/v1/auth/passkeys/options", token=token)
    key = Authenticator(f"http://localhost:{site.url.rpartition(':')[2]}").create(options.json)
    new_key: dict[str, Any] = {"name": "hers", "credential": key}
    passkey = await site.request("POST", "/api/v1/auth/passkeys", token=token, json=new_key)
    sessions = await site.request("GET", "/api/v1/auth/sessions", token=token)
    api_token: dict[str, Any] = {"name": "hers", "scopes": ["credentials:read"]}
    made = await site.request("POST", "/api/v1/auth/tokens", token=token, json=api_token)
    return {
        "token": [made.json["id"]],
        "credential": [kept.json["id"], removed.json["id"]],
        "passkey": [passkey.json["id"]],
        "session": [each["id"] for each in sessions.json["items"]],
    }


def _told(answer: Answer, named: str) -> str:
    """The text of an answer, but for what differs between any two requests."""
    text = answer.text.replace(named, "ID")
    return re.sub(r'"request_id":"\w+"|<code>\w{16}</code>|[0-9a-f]{16}', "", text)


async def test_no_member_is_set_by_sending_it_along(site: Site, visitors: Mapping[Role, Visitor]) -> None:
    """Mass assignment (ASVS 5.0, 15.3.3), at every route that reads JSON, by an owner who would be allowed."""
    document: dict[str, Any] = site.app[DOCUMENT].content
    tried = 0
    for row in ROUTES:
        operation = document["paths"][row.path][row.method.lower()]
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            continue
        schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        assert row.body is not None, f"{row.route} reads JSON: give its row an acceptable body"
        for member in EXTRA_MEMBERS:
            if member not in schema["properties"]:
                answer = await site.request(
                    row.method,
                    filled(row.path),
                    token=visitors[Role.OWNER].token,
                    json={**row.body, member: ABSENT},
                )
                assert (answer.status, answer.code) == (422, "invalid_input"), (row.route, member, answer.text)
                tried += 1
    assert tried > len(EXTRA_MEMBERS)
