"""The promises of the routes, over a real socket and real services."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from app.domain.identity import Client, Role, Source
from tests.support.installs import Place
from tests.support.postgres import PostgresServer
from tests.support.samples import ABSENT, OWNER, PASSWORD, SECRET
from tests.support.web import Site, open_site, sqlite_place

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
)
async def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A house on either engine."""
    directory = tmp_path_factory.mktemp("contract")
    with ExitStack() as stack:
        place = sqlite_place(directory)
        if request.param == "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres_server")
            place = Place(stack.enter_context(server.database()), directory / "data")
        async with open_site(place) as opened:
            yield opened


TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def test_alive_and_ready(site: Site) -> None:
    assert (await site.request("GET", "/healthz", token="")).json == {"status": "alive"}
    ready = (await site.request("GET", "/readyz", token="")).json
    assert ready == {"status": "ready", "checks": {"database": True, "keys": True, "lease": True}, "bot": "off"}


async def test_metrics_count_by_route_as_written_and_never_by_path(site: Site) -> None:
    await site.request("GET", f"/api/v1/credentials/{ABSENT}")
    await site.request("GET", "/nowhere/at/all")
    figures = (await site.request("GET", "/metrics", token="")).text
    assert 'route="/api/v1/credentials/{credential_id}",status="404"' in figures
    assert 'route="unmatched",status="404"' in figures
    assert ABSENT not in figures
    assert "nowhere" not in figures


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
async def test_metrics_are_not_handed_out_through_a_proxy_on_this_machine(site: Site, header: str) -> None:
    assert (await site.request("GET", "/metrics", headers={header: "203.0.113.9"})).code == "forbidden"


async def test_setup_is_open_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with open_site(sqlite_place(tmp_path_factory.mktemp("setup")), owner=False) as site:
        body = {"setup_token": "wrong", "username": OWNER, "password": PASSWORD}
        assert (await site.request("POST", "/api/v1/setup", json=body)).code == "invalid_token"
        body["setup_token"] = site.services.keys.setup_token().reveal()
        weak = await site.request("POST", "/api/v1/setup", json={**body, "password": "password1234"})
        assert weak.code == "invalid_input"
        answers = await asyncio.gather(*(site.request("POST", "/api/v1/setup", json=body) for _ in range(4)))
        assert sorted(answer.status for answer in answers) == [201, 409, 409, 409]
        made = next(answer.json for answer in answers if answer.status == 201)
        assert made.keys() == {"id", "username", "role", "discord_id"}
        assert made["role"] == "owner"
        assert (await site.request("POST", "/api/v1/setup", json=body)).code == "setup_closed"


async def test_login_answers_as_promised(site: Site) -> None:
    answer = await site.request(
        "POST", "/api/v1/auth/login", json={"username": OWNER, "password": PASSWORD, "otp": None}, token=""
    )
    assert answer.json.keys() == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (answer.json["token_type"], answer.json["expires_in"]) == ("Bearer", 1800)


async def test_unknown_and_known_names_get_the_same_refusal(site: Site) -> None:
    answers = [
        await site.request("POST", "/api/v1/auth/login", json={"username": name, "password": "not it, no"}, token="")
        for name in (OWNER, "nobody-of-that-name")
    ]
    assert [answer.code for answer in answers] == ["invalid_credentials"] * 2
    assert answers[0].status == answers[1].status == 401
    assert answers[0].headers["WWW-Authenticate"] == answers[1].headers["WWW-Authenticate"] == 'Bearer realm="keyhall"'
    assert {**answers[0].json, "request_id": ""} == {**answers[1].json, "request_id": ""}


async def test_too_many_attempts_say_when_to_come_back(site: Site) -> None:
    body = {"username": "besieged", "password": "not it, no"}
    answers = [await site.request("POST", "/api/v1/auth/login", json=body, token="") for _ in range(12)]
    assert answers[-1].code == "too_many_attempts"
    assert answers[-1].status == 429
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 900


async def test_a_refresh_token_works_once_and_its_reuse_ends_the_session(site: Site) -> None:
    login = await site.request("POST", "/api/v1/auth/login", json={"username": OWNER, "password": PASSWORD}, token="")
    first = {"refresh_token": login.json["refresh_token"]}
    second = await site.request("POST", "/api/v1/auth/refresh", json=first, token="")
    assert second.status == 200
    token = second.json["access_token"]
    assert (await site.request("GET", "/api/v1/auth/me", token=token)).status == 200
    assert (await site.request("POST", "/api/v1/auth/refresh", json=first, token="")).code == "invalid_token"
    assert (await site.request("GET", "/api/v1/auth/me", token=token)).code == "invalid_token"


async def test_logout_ends_the_session_and_an_unknown_token_is_answered_alike(site: Site) -> None:
    login = await site.request("POST", "/api/v1/auth/login", json={"username": OWNER, "password": PASSWORD}, token="")
    body = {"refresh_token": login.json["refresh_token"]}
    assert (await site.request("POST", "/api/v1/auth/logout", json=body, token="")).status == 204
    assert (await site.request("POST", "/api/v1/auth/logout", json=body, token="")).status == 204
    assert (await site.request("GET", "/api/v1/auth/me", token=login.json["access_token"])).status == 401


async def test_me_names_user_and_session(site: Site) -> None:
    me = (await site.request("GET", "/api/v1/auth/me")).json
    preferences = {"language", "time_zone"}
    named = {"id", "username", "role", "session_id", "discord_id", "authenticated_at", "scopes"}
    assert me.keys() == named | preferences
    assert (me["username"], me["role"], me["discord_id"]) == (OWNER, "owner", None)


async def test_sessions_are_listed_and_ended_one_by_one(site: Site) -> None:
    token = await site.log_in()
    listed = (await site.request("GET", "/api/v1/auth/sessions", token=token)).json
    assert listed["next_cursor"] is None
    current = [each for each in listed["items"] if each["current"]]
    assert len(current) == 1
    assert TIME.fullmatch(current[0]["created_at"])
    gone = await site.request("DELETE", f"/api/v1/auth/sessions/{current[0]['id']}", token=token)
    assert (gone.status, gone.body) == (204, b"")
    assert (await site.request("GET", "/api/v1/auth/me", token=token)).status == 401
    assert (await site.request("DELETE", f"/api/v1/auth/sessions/{current[0]['id']}")).code == "not_found"


async def test_a_credential_from_storing_to_restoring(site: Site) -> None:
    body = {"provider": "OpenAI", "label": "whole life", "secret": SECRET, "expires_at": "2099-01-01T12:00:00+02:00"}
    made = await site.request("POST", "/api/v1/credentials", json=body)
    assert made.status == 201
    assert made.headers["ETag"] == '"1"'
    path = made.headers["Location"]
    promised = "id provider label masked version created_at updated_at expires_at last_used_at status"
    assert made.json.keys() >= set(promised.split())
    assert made.json["provider"] == "openai"
    assert made.json["expires_at"] == "2099-01-01T10:00:00Z"
    assert TIME.fullmatch(made.json["created_at"])
    assert SECRET not in made.text

    assert (await site.request("GET", path)).json == made.json
    relabelled = await site.request("PATCH", path, json={"label": "a new name"}, headers={"If-Match": '"1"'})
    assert (relabelled.json["label"], relabelled.json["version"]) == ("a new name", 2)
    assert relabelled.json["expires_at"] == made.json["expires_at"]
    cleared = await site.request("PATCH", path, json={"expires_at": None})
    assert (cleared.json["label"], cleared.json["expires_at"]) == ("a new name", None)

    replaced = await site.request("PUT", f"{path}/secret", json={"secret": SECRET[::-1]})
    assert replaced.headers["ETag"] == '"4"'
    assert (await site.request("POST", f"{path}/reveal")).json == {"secret": SECRET[::-1]}
    versions = (await site.request("GET", f"{path}/versions")).json
    assert versions["next_cursor"] is None
    assert [each["masked"] for each in versions["items"]] == [made.json["masked"]]
    assert (await site.request("POST", f"{path}/rollback")).status == 200
    revealed = await site.request("POST", f"{path}/reveal")
    assert revealed.json == {"secret": SECRET}
    assert revealed.headers["Cache-Control"] == "no-store"

    assert (await site.request("DELETE", path)).status == 204
    assert (await site.request("GET", path)).code == "not_found"
    removed = (await site.request("GET", "/api/v1/credentials?removed=true")).json["items"]
    assert made.json["id"] in {each["id"] for each in removed}
    assert (await site.request("POST", f"{path}/restore")).status == 200
    assert (await site.request("GET", path)).json["label"] == "a new name"


async def test_a_stale_version_is_refused(site: Site) -> None:
    made = await site.add("stale")
    path = f"/api/v1/credentials/{made['id']}"
    await site.request("PATCH", path, json={"label": "stale 2"})
    for tag in (
        '"1"',
        'W/"1"',
        '"02"',
        '"\u0662"',
        '"x"',
        '"1", "2"',
        "2",
        '"2-other"',
        '"2-gzip-gzip"',
        "W/2",
        'w/"2"',
    ):
        stale = await site.request("PATCH", path, json={"label": "lost"}, headers={"If-Match": tag})
        assert (stale.status, stale.code) == (412, "version_conflict")
        assert (await site.request("DELETE", path, headers={"If-Match": tag})).status == 412
    assert (await site.request("PATCH", path, json={"label": "won"}, headers={"If-Match": "*"})).json["label"] == "won"
    # Proxies that compress an answer change its tag; versions are exact all the same.
    for version, form in enumerate(('W/"{}"', '"{}-gzip"', '"{};br"', 'W/"{}-gzip"'), 3):
        won = await site.request("PATCH", path, json={"label": "won"}, headers={"If-Match": form.format(version)})
        assert (won.status, won.json["version"]) == (200, version + 1)


async def test_a_rollback_honours_if_match_so_that_a_replay_does_not_go_back_again(site: Site) -> None:
    path = f"/api/v1/credentials/{(await site.add('replayed'))['id']}"
    await site.request("PUT", f"{path}/secret", json={"secret": SECRET[::-1]})
    answers = [
        await site.request("POST", f"{path}/rollback", json={"version": 1}, headers={"If-Match": '"2"'})
        for _ in range(2)
    ]
    assert [each.status for each in answers] == [200, 412]
    assert answers[0].headers["ETag"] == '"3"'
    assert (await site.request("POST", f"{path}/reveal")).json == {"secret": SECRET}
    present = await site.request("POST", f"{path}/rollback", json={"version": 3})
    assert (present.status, present.code) == (422, "invalid_input")
    unknown = await site.request("POST", f"{path}/rollback", json={"version": 99})
    assert (unknown.status, unknown.code) == (404, "not_found")
    assert (await site.request("DELETE", path)).status == 204
    removed = await site.request("POST", f"{path}/rollback", json={"version": 1})
    assert (removed.status, removed.code) == (404, "not_found")


async def test_20_replacements_and_rollbacks_at_once_lose_no_secret_that_was_acknowledged(site: Site) -> None:
    path = f"/api/v1/credentials/{(await site.add('crowded'))['id']}"
    secrets = [f"{SECRET}-{number}" for number in range(10)]
    await site.request("PUT", f"{path}/secret", json={"secret": secrets[0]})
    replacing = [site.request("PUT", f"{path}/secret", json={"secret": each}) for each in secrets[1:]]
    rolling = [site.request("POST", f"{path}/rollback") for _ in range(10)]
    answers = await asyncio.gather(*replacing, *rolling)
    assert [each.status for each in answers] == [200] * 19
    assert max(each.json["version"] for each in answers) == 21
    found = {(await site.request("POST", f"{path}/reveal")).json["secret"]}
    for version in [each["version"] for each in (await site.request("GET", f"{path}/versions")).json["items"]]:
        before = (await site.request("GET", path)).json["version"]
        back = await site.request(
            "POST", f"{path}/rollback", json={"version": version}, headers={"If-Match": f'"{before}"'}
        )
        if back.status == 200:
            found.add((await site.request("POST", f"{path}/reveal")).json["secret"])
        else:  # a copy, which made room for the secret that the rollback before replaced
            assert back.code == "not_found"
    assert found == {SECRET, *secrets}


async def test_a_credential_tells_the_age_of_its_secret_and_whether_to_replace_it(site: Site) -> None:
    made = await site.add("ageing")
    assert (made["secret_age_days"], made["concern"]) == (0, None)
    soon = (datetime.now(UTC) + timedelta(days=20)).isoformat()
    expiring = await site.request("PATCH", f"/api/v1/credentials/{made['id']}", json={"expires_at": soon})
    assert expiring.json["concern"] == "expiring"
    health = (await site.request("GET", "/api/v1/credentials/health")).json
    assert {each["aged"] for each in health["providers"]} == {0}


async def test_an_idempotency_key_stores_once_and_refuses_another_body(site: Site) -> None:
    body = {"provider": "github", "label": "once", "secret": SECRET}
    headers = {"Idempotency-Key": "7c1f"}
    first = await site.request("POST", "/api/v1/credentials", json=body, headers=headers)
    again = await site.request("POST", "/api/v1/credentials", json=body, headers=headers)
    assert (first.status, again.status) == (201, 201)
    assert again.json == first.json
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await site.request("POST", "/api/v1/credentials", json={**body, "label": "twice"}, headers=headers)
    assert (other.status, other.code) == (409, "idempotency_conflict")


async def test_lists_come_in_pages(site: Site) -> None:
    for number in range(5):
        await site.add(f"paged {number}", provider="paged")
    seen, cursor = [], None
    while True:
        path = f"/api/v1/credentials?limit=2{f'&cursor={cursor}' if cursor else ''}"
        page = (await site.request("GET", path)).json
        assert page.keys() == {"items", "next_cursor"}
        assert len(page["items"]) <= 2
        seen += [each["id"] for each in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) >= 5


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "limit=-1", "cursor=%00", "cursor=***", "removed=yes", "color=red",
              "limit=1&limit=2", "guild_id=abc", "limit=99999999999999999999"],
)  # fmt: skip
async def test_an_unacceptable_query_is_refused(site: Site, query: str) -> None:
    answer = await site.request("GET", f"/api/v1/credentials?{query}")
    assert (answer.status, answer.code) == (422, "invalid_input")


async def test_health_counts_by_provider(site: Site) -> None:
    await site.add("healthy", provider="wellness")
    health = (await site.request("GET", "/api/v1/credentials/health")).json
    assert health["scope"] == "everybody"
    assert {each["provider"]: each["readable"] for each in health["providers"]}["wellness"] == 1


async def test_nobody_reaches_what_is_somebody_elses(site: Site) -> None:
    made = await site.add("mine alone")
    owner = await site.services.requests.authenticate(site.token, Client(source=Source.WEB))
    await site.services.identity.create(owner, "mallory", PASSWORD, Role.MEMBER)
    token = await site.log_in("mallory")
    path = f"/api/v1/credentials/{made['id']}"
    attempts = [
        ("GET", path, None),
        ("PATCH", path, {"label": "taken"}),
        ("DELETE", path, None),
        ("PUT", f"{path}/secret", {"secret": "another one"}),
        ("POST", f"{path}/reveal", None),
        ("POST", f"{path}/restore", None),
        ("GET", f"{path}/versions", None),
        ("POST", f"{path}/rollback", None),
    ]
    for method, where, body in attempts:
        answer = await site.request(method, where, json=body, token=token)
        assert (answer.status, answer.code) == (404, "not_found"), (method, where)
    assert (await site.request("GET", path)).json == made
    assert (await site.request("GET", "/api/v1/credentials", token=token)).json["items"] == []


async def test_reauthenticating_needs_the_right_password(site: Site) -> None:
    wrong = await site.request("POST", "/api/v1/auth/reauthenticate", json={"password": "not it, no"})
    assert wrong.code == "invalid_credentials"
    right = await site.request("POST", "/api/v1/auth/reauthenticate", json={"password": PASSWORD})
    assert right.status == 204


async def test_a_method_that_an_address_does_not_take_names_those_that_it_does(site: Site) -> None:
    answer = await site.request("PUT", "/api/v1/credentials", json={})
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET,HEAD,POST"
    assert (await site.request("TRACE", "/api/v1/credentials")).status == 405


async def test_head_is_answered_as_get_without_a_body(site: Site) -> None:
    for path in ("/healthz", "/api/v1/auth/me", "/login"):
        head, get = await site.request("HEAD", path), await site.request("GET", path)
        assert (head.status, head.body) == (get.status, b"")
        assert head.headers["Content-Length"] == get.headers["Content-Length"]


async def test_a_bearer_token_wins_over_a_cookie_and_is_not_backed_up_by_it(site: Site) -> None:
    cookie, _ = await site.log_in_browser()
    both = await site.request("GET", "/api/v1/auth/me", token="forged", headers={"Cookie": cookie})
    assert both.code == "invalid_token"
    assert (await site.request("GET", "/api/v1/auth/me", cookie=cookie)).json["username"] == OWNER


@pytest.mark.parametrize(
    "value", ["Bearer", "Bearer ", "Basic b2xnYTp4", "Bearer a b", "bearer\t", "Bearer " + "x" * 5000, "' OR 1=1 --"]
)
async def test_a_malformed_authorization_header_is_401(site: Site, value: str) -> None:
    answer = await site.request("GET", "/api/v1/auth/me", token="", headers={"Authorization": value})
    assert (answer.status, answer.code) == (401, "invalid_token")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
