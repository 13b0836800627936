"""API tokens over a real socket: the routes, every carrier, and every scope on every route of the OpenAPI document."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from app.domain.api_tokens import token_of
from app.domain.identity import Role
from app.domain.scopes import Scope
from app.infrastructure.redaction import Redactor
from app.web import WebOptions
from tests.support.installs import Place
from tests.support.postgres import PostgresServer
from tests.support.samples import ABSENT, PASSWORD, SECRET
from tests.support.web import Answer, Site, filled, open_site, served, sqlite_place

pytestmark = pytest.mark.asyncio(loop_scope="module")
TOKENS = "/api/v1/auth/tokens"
ME = "/api/v1/auth/me"
OTHER_PASSWORD = "quartz melon saddle 48 orbit"


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
)
async def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A house on either engine."""
    directory = tmp_path_factory.mktemp("tokens")
    with ExitStack() as stack:
        place = sqlite_place(directory)
        if request.param == "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres_server")
            place = Place(stack.enter_context(server.database()), directory / "data")
        async with open_site(place) as opened:
            yield opened


async def make(site: Site, *scopes: str, headers: Mapping[str, str] | None = None, **more: Any) -> Answer:
    body = {"name": "ci", "scopes": list(scopes or ("credentials:read",)), **more}
    return await site.request("POST", TOKENS, json=body, headers=headers)


async def made(site: Site, *scopes: str, **more: Any) -> tuple[str, str]:
    """The id and the text of a new token of the owner's."""
    answer = await make(site, *scopes, **more)
    assert answer.status == 201, answer.text
    return answer.json["id"], answer.json["token"]


async def revoked(site: Site, id_: str) -> None:
    assert (await site.request("DELETE", f"{TOKENS}/{id_}")).status == 204


# -- the routes --------------------------------------------------------------------------------------------------------


async def test_a_token_is_shown_once_and_serves_until_it_is_revoked(site: Site) -> None:
    until = (datetime.now(UTC) + timedelta(days=90)).isoformat()
    answer = await make(site, "metrics", "credentials:read", expires_at=until)
    assert answer.status == 201
    assert answer.headers["Cache-Control"] == "no-store"
    shown = answer.json
    assert {"id", "token", "name", "scopes", "expires_at", "created_at"} <= shown.keys()
    assert shown["scopes"] == ["credentials:read", "metrics"]
    token = shown.pop("token")
    assert token.startswith(shown["prefix"])
    assert (shown["last_used_at"], shown["status"]) == (None, "active")

    me = await site.request("GET", ME, token=token)
    assert (me.json["session_id"], me.json["scopes"]) == (None, ["credentials:read", "metrics"])
    listed = await site.request("GET", TOKENS)
    assert token not in listed.text
    assert token[9:] not in listed.text
    [item] = [each for each in listed.json["items"] if each["id"] == shown["id"]]
    assert item.pop("last_used_at") is not None
    assert item == {name: value for name, value in shown.items() if name != "last_used_at"}

    await revoked(site, shown["id"])
    refused = await site.request("GET", ME, token=token)
    assert (refused.status, refused.code) == (401, "invalid_token")
    assert (await site.request("DELETE", f"{TOKENS}/{shown['id']}")).status == 404


async def test_a_replay_under_an_idempotency_key_makes_no_second_token_and_shows_none(site: Site) -> None:
    key = {"Idempotency-Key": "one"}
    first, again = await make(site, headers=key), await make(site, headers=key)
    assert (first.status, again.status, again.headers["Idempotent-Replayed"]) == (201, 201, "true")
    assert "token" not in again.json
    assert first.json["token"] not in again.text
    assert again.json["id"] == first.json["id"]
    assert (await make(site, "credentials:write", headers=key)).code == "idempotency_conflict"
    await revoked(site, first.json["id"])


async def test_of_eight_replays_at_once_one_shows_the_token(site: Site) -> None:
    answers = await asyncio.gather(*(make(site, headers={"Idempotency-Key": "eight"}) for _ in range(8)))
    assert [each.status for each in answers] == [201] * 8
    assert sum("token" in each.json for each in answers) == 1
    assert len({each.json["id"] for each in answers}) == 1
    await revoked(site, answers[0].json["id"])


async def test_tokens_are_listed_page_by_page(site: Site) -> None:
    ids = [(await made(site))[0] for _ in range(3)]
    first = (await site.request("GET", f"{TOKENS}?limit=2")).json
    rest = (await site.request("GET", f"{TOKENS}?limit=2&cursor={first['next_cursor']}")).json
    assert [each["id"] for each in (*first["items"], *rest["items"])][:3] == ids[::-1]
    for id_ in ids:
        await revoked(site, id_)


async def test_of_parallel_requests_fifty_make_a_token(site: Site) -> None:
    answers = await asyncio.gather(*(make(site) for _ in range(60)))
    there = [each.json["id"] for each in answers if each.status == 201]
    try:
        assert len((await site.request("GET", f"{TOKENS}?limit=100")).json["items"]) == 50
        assert {each.code for each in answers if each.status != 201} == {"quota_exceeded"}
    finally:
        for id_ in there:
            await revoked(site, id_)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "ci"},
        {"name": "ci", "scopes": []},
        {"name": "ci", "scopes": "credentials:read"},
        {"name": "ci", "scopes": ["everything"]},
        {"name": "ci", "scopes": [None]},
        {"name": "ci", "scopes": ["metrics"] * 51},
        {"name": "", "scopes": ["metrics"]},
        {"name": "x" * 65, "scopes": ["metrics"]},
        {"name": token_of(bytes(32)), "scopes": ["metrics"]},
        {"name": 1, "scopes": ["metrics"]},
        {"name": "ci", "scopes": ["metrics"], "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "ci", "scopes": ["metrics"], "expires_at": "tomorrow"},
        {"name": "ci", "scopes": ["metrics"], "expires_at": 1},
        {"name": "ci", "scopes": ["metrics"], "guild_id": "x"},
        {"name": "ci", "scopes": ["metrics"], "user_id": ABSENT},
        {"name": "ci", "scopes": ["metrics"], "token": "kh_chosen"},
        {"name": "ci", "scopes": ["metrics"], "key_version": 1},
    ],
    ids=str,
)
async def test_other_input_makes_no_token_and_is_not_echoed(site: Site, body: dict[str, Any]) -> None:
    before = (await site.request("GET", TOKENS)).json
    answer = await site.request("POST", TOKENS, json=body)
    assert answer.code == "invalid_input"
    assert "kh_" not in answer.text
    assert (await site.request("GET", TOKENS)).json == before


async def test_a_token_cannot_make_list_or_revoke_tokens(site: Site) -> None:
    id_, token = await made(site, *Scope)
    for method, path in (("POST", TOKENS), ("GET", TOKENS), ("DELETE", f"{TOKENS}/{id_}")):
        answer = await site.request(method, path, token=token, json={} if method == "POST" else None)
        assert (answer.status, answer.code) == (403, "forbidden")
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="keyhall", error="insufficient_scope"'
    assert (await site.request("GET", ME, token=token)).status == 200
    await revoked(site, id_)


async def test_somebody_elses_token_is_not_there(site: Site) -> None:
    id_, token = await made(site)
    operator = await site.services.identity.operator()
    await site.services.identity.create(operator, "tok-mia", PASSWORD, Role.MEMBER)
    mia = await site.log_in("tok-mia")
    answer = await site.request("DELETE", f"{TOKENS}/{id_}", token=mia)
    unknown = await site.request("DELETE", f"{TOKENS}/{ABSENT}", token=mia)
    assert (
        (answer.status, answer.json["detail"])
        == (unknown.status, unknown.json["detail"])
        == (404, answer.json["detail"])
    )
    assert (await site.request("GET", TOKENS, token=mia)).json["items"] == []
    assert (await site.request("GET", ME, token=token)).status == 200
    await revoked(site, id_)


# -- carriers ----------------------------------------------------------------------------------------------------------


async def test_there_is_one_way_to_send_a_token(site: Site) -> None:
    id_, token = await made(site, *Scope)
    cookie, _ = await site.log_in_browser()

    async def status(headers: Any, **more: Any) -> int:
        return (await site.request("GET", ME, token="", headers=headers, **more)).status

    assert await status({"Authorization": f"bearer {token}"}) == 200
    for header in ("X-Api-Key", "Api-Key", "X-Auth-Token", "X-Access-Token", "Proxy-Authorization", "Token"):
        assert await status({header: token}) == 401
        assert await status({header: f"Bearer {token}"}) == 401
    for scheme in ("Token", "ApiKey", "Basic", "bearer\t", "Bearer:"):
        assert await status({"Authorization": f"{scheme} {token}"}) == 401
    assert await status({"Authorization": token}) == 401
    assert (await site.request("GET", f"{ME}?access_token={token}", token="")).status == 401
    assert await status({}, cookie=f"keyhall={token}") == 401
    # A bearer token wins over a cookie, also a bad one; one header of two is no header.
    assert (await site.request("GET", ME, token=token, cookie=cookie)).json["scopes"] is not None
    assert (await site.request("GET", ME, token=token[:-1] + "!", cookie=cookie)).status == 401
    await revoked(site, id_)


async def test_two_headers_are_refused(site: Site) -> None:
    id_, token = await made(site)
    for first, second in ((token, site.token), (site.token, token), (token, token)):
        pairs = [("Authorization", f"Bearer {each}") for each in (first, second)]
        async with site.client.get(site.url + ME, headers=pairs) as answer:
            assert answer.status == 401
    await revoked(site, id_)


@pytest.mark.parametrize(
    "token",
    [
        "kh_",
        "kh_" + "A" * 49,
        token_of(bytes(32)),
        token_of(bytes(32))[:-1] + "0",
        token_of(bytes(32)) + "0",
        "kh_' OR 1=1 --",
        "kh_'; DROP TABLE api_tokens; --",
        "kh_%00%00",
        "kh_" + "\u00e9" * 49,
        "kh_" + "A" * 4000,
    ],
)
async def test_hostile_tokens_are_401_and_never_echoed(site: Site, token: str) -> None:
    answer = await site.request("GET", ME, token=token)
    assert (answer.status, answer.code) == (401, "invalid_token")
    assert token not in answer.text


async def test_a_token_of_ten_megabytes_costs_its_sender_the_connection(site: Site) -> None:
    try:
        answer = await site.request("GET", ME, token="kh_" + "A" * 10_000_000)
    except OSError:
        return
    assert answer.status in {400, 401, 431}


# -- every scope on every route ----------------------------------------------------------------------------------------

W, R = Scope.CREDENTIALS_WRITE, Scope.CREDENTIALS_READ
KEYS, MANAGE, USERS = Scope.KEYS_READ, Scope.KEYS_MANAGE, Scope.USERS_MANAGE

ROUTES: dict[str, Scope] = {
    "GET /api/v1/credentials": R,
    "POST /api/v1/credentials": W,
    "GET /api/v1/credentials/health": R,
    "GET /api/v1/credentials/{credential_id}": R,
    "PATCH /api/v1/credentials/{credential_id}": W,
    "DELETE /api/v1/credentials/{credential_id}": W,
    "PUT /api/v1/credentials/{credential_id}/secret": W,
    "POST /api/v1/credentials/{credential_id}/reveal": Scope.CREDENTIALS_REVEAL,
    "POST /api/v1/credentials/{credential_id}/restore": W,
    "GET /api/v1/credentials/{credential_id}/versions": R,
    "POST /api/v1/credentials/{credential_id}/rollback": W,
    "GET /api/v1/admin/health": KEYS,
    "GET /api/v1/admin/keys": KEYS,
    "POST /api/v1/admin/keys/{name}/rotate": MANAGE,
    "POST /api/v1/admin/keys/{name}/cancel": MANAGE,
    "POST /api/v1/admin/keys/{name}/rollback": MANAGE,
    "PUT /api/v1/admin/keys/{name}/schedule": MANAGE,
    "POST /api/v1/admin/keys/{name}/versions/{version}/revoke": MANAGE,
    "POST /api/v1/admin/keys/{name}/versions/{version}/retire": MANAGE,
    "GET /api/v1/admin/jobs": KEYS,
    "GET /api/v1/admin/jobs/{job_id}": KEYS,
    "GET /api/v1/admin/backups": KEYS,
    "GET /api/v1/admin/audit": Scope.AUDIT_READ,
    "POST /api/v1/admin/cache/clear": MANAGE,
    "GET /api/v1/admin/users": USERS,
    "POST /api/v1/admin/users": USERS,
    "GET /api/v1/admin/users/{user_id}": USERS,
    "PATCH /api/v1/admin/users/{user_id}": USERS,
    "GET /api/v1/admin/invitations": USERS,
    "POST /api/v1/admin/invitations": USERS,
    "DELETE /api/v1/admin/invitations/{invitation_id}": USERS,
}
"""The scope that each route takes. At every other route, also at a new one, a token is refused whatever its scopes."""
ANY_TOKEN = {"GET /api/v1/auth/me"}


async def _routes(site: Site) -> list[tuple[str, str]]:
    """Method and path of every operation for identified requests."""
    document = (await site.request("GET", "/api/openapi.json", token="")).json
    return [
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if operation.get("security")
    ]


async def test_every_row_is_about_a_route_and_every_scope_but_the_use_opens_one(site: Site) -> None:
    assert ROUTES.keys() | ANY_TOKEN <= {f"{method} {path}" for method, path in await _routes(site)}
    assert set(Scope) - set(ROUTES.values()) == {Scope.CREDENTIALS_USE, Scope.METRICS}


async def test_each_scope_opens_its_routes_and_no_others(site: Site) -> None:
    """With an empty body, since the scope is judged before the body is read; whatever follows is not 401 or 403."""
    routes = await _routes(site)
    nothing = dict.fromkeys(Scope)
    tokens = {scope: await made(site, scope) for scope in nothing}
    try:
        for scope, (_, token) in tokens.items():
            for method, path in routes:
                wanted = ROUTES.get(f"{method} {path}")
                opened = wanted is scope or f"{method} {path}" in ANY_TOKEN
                if opened and method not in {"GET", "HEAD"} and wanted is MANAGE:
                    continue  # it would change the keys; see the service tests
                answer = await site.request(
                    method, filled(path), token=token, json=None if method in {"GET", "DELETE"} else {}
                )
                where = f"{scope} at {method} {path}: {answer.status}"
                assert (answer.status not in {401, 403}) is opened, where
                if not opened and path.startswith("/api/"):
                    assert answer.code == "forbidden", where
                    named = f', scope="{wanted}"' if wanted else ""
                    challenge = f'Bearer realm="keyhall", error="insufficient_scope"{named}'
                    assert answer.headers["WWW-Authenticate"] == challenge, where
                    assert wanted is None or wanted in answer.json["detail"], where
    finally:
        for id_, _ in tokens.values():
            await revoked(site, id_)


async def test_a_refusal_for_a_scope_is_in_the_audit_trail_with_the_token(site: Site) -> None:
    id_, token = await made(site, "metrics")
    await site.services.refusals.flush()  # of many refusals the later ones become a sum
    assert (await site.request("GET", "/api/v1/admin/keys", token=token)).status == 403
    rows = (await site.request("GET", "/api/v1/admin/audit?action=access.refused&limit=1")).json["items"]
    assert rows[0]["detail"]["token"] == id_
    assert rows[0]["result"] == "denied"
    await revoked(site, id_)


async def test_rotating_a_key_by_a_token_needs_no_fresh_proof(site: Site) -> None:
    id_, token = await made(site, "keys:manage")
    answer = await site.request("POST", "/api/v1/admin/keys/ENCRYPTION_KEY/rotate", token=token)
    assert answer.status == 202, answer.text
    await revoked(site, id_)


async def test_revealing_by_a_token(site: Site) -> None:
    stored = await site.add("by token", secret=SECRET)
    id_, token = await made(site, "credentials:reveal")
    answer = await site.request("POST", f"/api/v1/credentials/{stored['id']}/reveal", token=token)
    assert (answer.status, answer.json) == (200, {"secret": SECRET})
    assert answer.headers["Cache-Control"] == "no-store"
    await revoked(site, id_)


# -- metrics -----------------------------------------------------------------------------------------------------------


async def test_metrics_are_for_this_machine_or_for_a_token_with_their_scope(site: Site) -> None:
    elsewhere = {"X-Forwarded-For": "203.0.113.9"}

    async def asked(token: str) -> Answer:
        return await site.request("GET", "/metrics", token=token, headers=elsewhere)

    id_, token = await made(site, "metrics")
    other, wrong = await made(site, *(set(Scope) - {Scope.METRICS}))
    assert (await asked(token)).status == 200
    assert (await asked(wrong)).code == "forbidden"
    assert (await asked("")).code == "forbidden"
    assert (await asked(site.token)).code == "forbidden"  # of a person, however mighty
    assert (await asked(token_of(bytes(32)))).code == "invalid_token"
    cookie, _ = await site.log_in_browser()
    assert (await site.request("GET", "/metrics", cookie=cookie, headers=elsewhere)).code == "forbidden"
    await revoked(site, id_)
    await revoked(site, other)
    assert (await asked(token)).code == "invalid_token"


async def test_metrics_by_a_token_travel_over_https_alone_in_production(site: Site) -> None:
    id_, token = await made(site, "metrics")
    async with served(site.services, WebOptions(production=True)) as clear:
        headers = {"X-Forwarded-For": "203.0.113.9"}
        answer = await clear.request("GET", "/metrics", token=token, headers=headers)
        assert answer.code == "insecure_connection"
    await revoked(site, id_)


# -- its owner's account -----------------------------------------------------------------------------------------------


async def test_disabling_demoting_and_ending_take_effect_with_the_next_request(site: Site) -> None:
    operator = await site.services.identity.operator()
    user = await site.services.identity.create(operator, "tok-ada", PASSWORD, Role.ADMIN)
    session = replace(site, token=await site.log_in("tok-ada"))
    _, token = await made(session, "audit:read", "credentials:read")
    audit = "/api/v1/admin/audit"
    assert (await site.request("GET", audit, token=token)).status == 200
    storage = site.services.requests._storage
    async with storage.write() as uow:
        await uow.users.disable(user.id, datetime.now(UTC))
    refused = await site.request("GET", audit, token=token)
    assert (refused.status, refused.code) == (401, "invalid_token")


async def test_a_change_of_the_password_and_a_reset_end_every_token(site: Site) -> None:
    operator = await site.services.identity.operator()
    user = await site.services.identity.create(operator, "tok-eve", PASSWORD, Role.MEMBER)
    mine = replace(site, token=await site.log_in("tok-eve"))
    _, token = await made(mine, "credentials:read")
    body = {"password": PASSWORD, "new_password": OTHER_PASSWORD}
    assert (await mine.request("POST", "/api/v1/auth/password", json=body)).status == 204
    assert (await site.request("GET", ME, token=token)).status == 401
    _, token = await made(mine, "credentials:read")
    assert (await site.request("GET", ME, token=token)).status == 200
    assert (await site.request("POST", f"/api/v1/admin/users/{user.id}/reset")).status == 200
    assert (await site.request("GET", ME, token=token)).status == 401


async def test_users_are_managed_by_a_token_up_to_those_who_manage_users(site: Site) -> None:
    id_, token = await made(site, "users:manage")
    users = "/api/v1/admin/users"
    created = await site.request("POST", users, token=token, json={"username": "tok-bob", "role": "member"})
    assert created.status == 201, created.text
    admin = await site.request("POST", users, token=token, json={"username": "tok-max", "role": "admin"})
    me = (await site.request("GET", ME)).json["id"]
    raised = await site.request("PATCH", f"{users}/{created.json['id']}", token=token, json={"role": "owner"})
    reset = await site.request("POST", f"{users}/{me}/reset", token=token)
    assert [each.status for each in (admin, raised, reset)] == [403, 403, 403]
    await revoked(site, id_)


# -- a canary ----------------------------------------------------------------------------------------------------------


async def test_a_token_is_in_no_log_error_metric_or_audit_row(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    id_, token = await made(site, "credentials:read")
    slip = token[:-1] + ("0" if token[-1] != "0" else "1")
    texts = []
    for canary in (token, slip):
        for method, path in await _routes(site):
            answer = await site.request(
                method, filled(path), token=canary, json=None if method in {"GET", "DELETE"} else {}
            )
            texts.append(answer.text + repr(answer.headers))
        paths = (f"/api/v1/credentials/{canary}", f"/nowhere/{canary}", f"/api/v1/credentials?cursor={canary}")
        texts += [(await site.request("GET", path, token=canary)).text for path in paths]
    await revoked(site, id_)
    texts.append((await site.request("GET", "/metrics", token="")).text)
    texts.append((await site.request("GET", "/api/v1/admin/audit?limit=100")).text)
    texts += [Redactor().text(record.getMessage()) for record in caplog.records]
    for canary in (token, slip):
        assert not [text for text in texts if canary[9:] in text]
