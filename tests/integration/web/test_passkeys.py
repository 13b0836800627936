"""Passkeys over HTTP: the contract, the hosts for which there are any, and whatever else may be sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from app.domain.identity import Role
from app.web import WebOptions
from tests.support.authenticator import Authenticator
from tests.support.samples import ABSENT, PASSWORD
from tests.support.web import Answer, Site, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

API: Final = "/api/v1/auth/passkeys"
PUBLIC: Final = "https://keys.example.org"
PROXIED: Final = {"Host": "keys.example.org"}
FROM_PAGE: Final = {"Sec-Fetch-Site": "same-origin"}


def local(site: Site, **members: Any) -> Authenticator:
    """An authenticator of a browser that opened the site as localhost."""
    return Authenticator(f"http://localhost:{site.url.rpartition(':')[2]}", **members)


@asynccontextmanager
async def with_a_passkey(site: Site, authenticator: Authenticator, **more: Any) -> AsyncIterator[Any]:
    """A passkey of the owner's, removed at the end; it ends all other sessions, so the owner signs in anew."""
    site.token = await site.log_in()
    options = await site.request("POST", f"{API}/options", **more)
    assert options.status == 200, options.text
    body = {"name": "Laptop", "credential": authenticator.create(options.json)}
    added = await site.request("POST", API, json=body, **more)
    assert added.status == 201, added.text
    try:
        yield added.json
    finally:
        site.token = await site.log_in()
        await site.request("DELETE", f"{API}/{added.json['id']}")


def cookies(answer: Answer) -> dict[str, str]:
    """The cookies that were set, with their attributes."""
    return {name: rest for each in answer.headers.getall("Set-Cookie", ()) for name, _, rest in (each.partition("="),)}


async def test_the_contract(site: Site) -> None:
    authenticator = local(site)
    async with with_a_passkey(site, authenticator) as made:
        assert {"id", "name", "created_at", "last_used_at"} <= set(made)
        assert (made["name"], made["last_used_at"]) == ("Laptop", None)
        options = await site.request("POST", f"{API}/login/options", token="")
        assert (options.status, options.json["rpId"]) == (200, "localhost")
        body = {"credential": authenticator.get(options.json)}
        answer = await site.request("POST", f"{API}/login", json=body, token="")
        assert (answer.status, set(answer.json)) == (
            200,
            {"access_token", "refresh_token", "token_type", "expires_in"},
        )
        assert answer.headers["Cache-Control"] == "no-store"
        token = answer.json["access_token"]
        listed = await site.request("GET", API, token=token)
        assert listed.json == {"items": [{**made, "last_used_at": listed.json["items"][0]["last_used_at"]}],
                               "next_cursor": None}  # fmt: skip
        assert listed.json["items"][0]["last_used_at"] is not None
        again = await site.request("POST", f"{API}/login", json=body, token="")
        assert (again.status, again.code) == (401, "invalid_credentials")
        options = await site.request("POST", f"{API}/reauthenticate/options", token=token)
        body = {"credential": authenticator.get(options.json)}
        assert (await site.request("POST", f"{API}/reauthenticate", json=body, token=token)).status == 204
        assert (await site.request("DELETE", f"{API}/{made['id']}", token=token)).status == 204
        gone = await site.request("DELETE", f"{API}/{made['id']}", token=token)
        assert (gone.status, gone.code) == (404, "not_found")
        assert (await site.request("GET", API, token=token)).json["items"] == []
        none = await site.request("POST", f"{API}/reauthenticate/options", token=token)
        assert (none.status, none.code) == (404, "not_found")


async def test_the_refresh_of_a_session_that_a_passkey_began_is_not_fresh_for_longer(site: Site) -> None:
    authenticator = local(site)
    async with with_a_passkey(site, authenticator):
        options = await site.request("POST", f"{API}/login/options", token="")
        body = {"credential": authenticator.get(options.json)}
        pair = (await site.request("POST", f"{API}/login", json=body, token="")).json
        before = (await site.request("GET", "/api/v1/auth/me", token=pair["access_token"])).json
        fresh = {"refresh_token": pair["refresh_token"]}
        renewed = (await site.request("POST", "/api/v1/auth/refresh", json=fresh, token="")).json
        after = (await site.request("GET", "/api/v1/auth/me", token=renewed["access_token"])).json
        assert before == after


async def test_without_signing_in_passkeys_can_only_sign_in(site: Site) -> None:
    for method, path in (
        ("POST", f"{API}/options"), ("POST", API), ("GET", API), ("DELETE", f"{API}/{ABSENT}"),
        ("POST", f"{API}/reauthenticate/options"), ("POST", f"{API}/reauthenticate"),
    ):  # fmt: skip
        answer = await site.request(method, path, token="", json={} if method == "POST" else None)
        assert (answer.status, answer.code) == (401, "invalid_token"), path


# ---------------------------------------------------------------------------------------------------------------------
# Hosts
# ---------------------------------------------------------------------------------------------------------------------


async def test_passkeys_are_for_the_host_of_public_url(site: Site) -> None:
    options = WebOptions(public_url=PUBLIC, production=True)
    async with served(site.services, options) as public:
        public.token = await site.log_in()
        asked = await public.request("POST", f"{API}/options", headers=PROXIED)
        assert asked.json["rp"] == {"id": "keys.example.org", "name": "Keyhall"}
        elsewhere = Authenticator("http://localhost:8080", rp_id="keys.example.org")
        body = {"name": "Laptop", "credential": elsewhere.create(asked.json)}
        assert (await public.request("POST", API, json=body, headers=PROXIED)).code == "passkey_refused"
        body = {"name": "Laptop", "credential": Authenticator(PUBLIC).create(asked.json)}
        added = await public.request("POST", API, json=body, headers=PROXIED)
        assert added.status == 201
        assert (await public.request("DELETE", f"{API}/{added.json['id']}", headers=PROXIED)).status == 204
    site.token = await site.log_in()


@pytest.mark.parametrize(
    ("public_url", "rp_id"),
    [
        ("https://keys.example.org:8443", "keys.example.org"),
        ("http://localhost:8080", "localhost"),
        ("http://keys.localhost", "keys.localhost"),
        ("https://192.0.2.7", None),
        ("http://127.0.0.1:8080", None),
        ("https://[2001:db8::1]:8443", None),
        ("http://keys.example.org", None),
    ],
)
async def test_there_are_passkeys_where_browsers_make_any(site: Site, public_url: str, rp_id: str | None) -> None:
    async with served(site.services, WebOptions(public_url=public_url)) as public:
        host = {"Host": public_url.partition("://")[2]}
        answer = await public.request("POST", f"{API}/login/options", token="", headers=host)
        if rp_id is not None:
            assert answer.json["rpId"] == rp_id
        else:
            assert (answer.status, answer.code) == (409, "not_configured")
            assert "PUBLIC_URL" in answer.json["detail"]


@pytest.mark.parametrize("name", ["Origin", "Sec-Fetch-Site"])
async def test_a_page_that_was_opened_by_address_is_told_the_name(site: Site, name: str) -> None:
    port = site.url.rpartition(":")[2]
    headers = {"Origin": site.url} if name == "Origin" else FROM_PAGE
    answer = await site.request("POST", f"{API}/login/options", token="", headers=headers)
    assert (answer.status, answer.code) == (409, "not_configured")
    assert f"http://localhost:{port} " in answer.json["detail"]
    named = {"Host": f"localhost:{port}", name: f"http://localhost:{port}" if name == "Origin" else "same-origin"}
    assert (await site.request("POST", f"{API}/login/options", token="", headers=named)).status == 200


# ---------------------------------------------------------------------------------------------------------------------
# The browser that asked
# ---------------------------------------------------------------------------------------------------------------------


async def test_what_a_browser_is_asked_is_tied_to_it_by_a_cookie(site: Site) -> None:
    authenticator, host = local(site), {"Host": f"localhost:{site.url.rpartition(':')[2]}", **FROM_PAGE}
    async with with_a_passkey(site, authenticator):
        asked = await site.request("POST", f"{API}/login/options", token="", headers=host)
        ((name, rest),) = cookies(asked).items()
        assert name == "keyhall-passkey"
        assert {"HttpOnly", "Max-Age=300", "Path=/", "SameSite=Strict"} == set(rest.split("; ")[1:])
        cookie = f"{name}={rest.partition(';')[0]}"
        for sent, status in (("", 401), (f"{name}={'x' * 43}", 401), (cookie, 200)):
            body = {"credential": authenticator.get(asked.json)}
            answer = await site.request("POST", f"{API}/login", json=body, token="", cookie=sent, headers=host)
            assert answer.status == status, answer.text
        kept = await site.request("POST", f"{API}/login/options", token="", cookie=cookie, headers=host)
        assert cookies(kept)[name].partition(";")[0] == rest.partition(";")[0], "two tabs do not disturb each other"
        made_up = await site.request("POST", f"{API}/login/options", token="", cookie=f"{name}=short", headers=host)
        assert cookies(made_up)[name].partition(";")[0] != "short"


async def test_over_https_the_cookie_is_bound_to_the_host(site: Site) -> None:
    async with served(site.services, WebOptions(public_url=PUBLIC, production=True)) as public:
        asked = await public.request("POST", f"{API}/login/options", token="", headers={**PROXIED, **FROM_PAGE})
        ((name, rest),) = cookies(asked).items()
        assert (name, "Secure" in rest.split("; ")) == ("__Host-keyhall-passkey", True)


async def test_presence_proven_by_passkey_renews_the_cookie_of_the_session(site: Site) -> None:
    authenticator = local(site)
    async with with_a_passkey(site, authenticator):
        cookie, _ = await site.log_in_browser()
        host = {"Host": f"localhost:{site.url.rpartition(':')[2]}", **FROM_PAGE}
        options = await site.request("POST", f"{API}/reauthenticate/options", cookie=cookie, headers=host)
        body = {"credential": authenticator.get(options.json)}
        foreign = {**host, "Sec-Fetch-Site": "cross-site"}
        refused = await site.request("POST", f"{API}/reauthenticate", json=body, cookie=cookie, headers=foreign)
        assert refused.code == "cross_site"
        answer = await site.request("POST", f"{API}/reauthenticate", json=body, cookie=cookie, headers=host)
        assert answer.status == 204
        assert answer.cookie().partition("=")[0] == cookie.partition("=")[0]
        assert answer.cookie() != cookie
        assert (await site.request("GET", "/api/v1/auth/me", cookie=cookie)).status == 401
        assert (await site.request("GET", "/api/v1/auth/me", cookie=answer.cookie())).status == 200


# ---------------------------------------------------------------------------------------------------------------------
# Hostile bodies
# ---------------------------------------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    return {} if depth == 0 else {"response": nested(depth - 1)}


@pytest.mark.parametrize(
    ("credential", "status"),
    [
        ({}, 401),
        ({"response": None}, 401),
        ({"id": 1, "rawId": [], "response": {"clientDataJSON": {}}}, 401),
        (nested(20), 401),
        (nested(40), 400),
        ({"response": {"clientDataJSON": "A" * 20_000}}, 413),
        ("text", 422),
        ([], 422),
        (None, 422),
    ],
)
async def test_whatever_is_sent_as_an_answer_is_refused(site: Site, credential: Any, status: int) -> None:
    answer = await site.request("POST", f"{API}/login", json={"credential": credential}, token="")
    assert answer.status == status
    assert answer.code in {"invalid_credentials", "malformed_request", "too_large", "invalid_input"}
    body = {"name": "Laptop", "credential": credential}
    added = await site.request("POST", API, json=body)
    assert (added.status, added.code) == {
        401: (409, "passkey_refused"), 413: (409, "passkey_refused"),
        400: (400, "malformed_request"), 422: (422, "invalid_input"),
    }[status]  # fmt: skip


async def test_a_sign_in_by_passkey_ends_the_session_that_the_browser_had(site: Site) -> None:
    authenticator = local(site)
    async with with_a_passkey(site, authenticator):
        cookie, _ = await site.log_in_browser()
        options = await site.request("POST", f"{API}/login/options", token="")
        body = {"credential": authenticator.get(options.json)}
        assert (await site.request("POST", f"{API}/login", json=body, cookie=cookie, token="")).status == 200
        assert (await site.request("GET", "/api/v1/auth/me", cookie=cookie)).status == 401


async def test_a_passkey_of_another_user_is_not_there(site: Site) -> None:
    operator = await site.services.identity.operator()
    await site.services.identity.create(operator, "mallory", PASSWORD, Role.MEMBER)
    async with with_a_passkey(site, local(site)) as made:
        token = await site.log_in("mallory")
        answers = [await site.request("DELETE", f"{API}/{each}", token=token) for each in (made["id"], ABSENT)]
        assert {(each.status, each.code) for each in answers} == {(404, "not_found")}
        assert (await site.request("GET", API, token=token)).json["items"] == []
        assert [each["id"] for each in (await site.request("GET", API)).json["items"]] == [made["id"]]


# ---------------------------------------------------------------------------------------------------------------------
# Pages
# ---------------------------------------------------------------------------------------------------------------------


def as_page(site: Site) -> dict[str, str]:
    """The headers of a form that a browser sends from a page that it opened as localhost."""
    return {"Host": f"localhost:{site.url.rpartition(':')[2]}", "Accept": "text/html", **FROM_PAGE}


async def test_a_browser_signs_in_by_the_form_that_carries_its_answer(site: Site) -> None:
    authenticator, page = local(site), as_page(site)
    async with with_a_passkey(site, authenticator):
        asked = await site.request("POST", f"{API}/login/options", token="", headers=page)
        ((name, rest),) = cookies(asked).items()
        fields = {"credential": json.dumps(authenticator.get(asked.json)), "next": "/account"}
        for cookie in ("", f"{name}={'x' * 43}"):
            refused = await site.submit("/login/passkey", cookie, fields, headers=page)
            assert (refused.status, "This passkey is not accepted here" in refused.text) == (401, True)
            assert 'name="next" value="/account"' in refused.text
            assert "data-offer " not in refused.text, "a refused passkey would be offered again and again"
        cookie = f"{name}={rest.partition(';')[0]}"
        foreign = await site.submit("/login/passkey", cookie, fields, headers={**page, "Sec-Fetch-Site": "cross-site"})
        assert foreign.status == 403
        answer = await site.submit("/login/passkey", cookie, fields, headers=page)
        assert (answer.status, answer.headers["Location"]) == (303, "/account")
        session = cookies(answer)["keyhall"].partition(";")[0]
        assert (await site.page("/account", f"keyhall={session}")).status == 200
        again = await site.submit("/login/passkey", cookie, fields, headers=page)
        assert again.status == 401


@pytest.mark.parametrize("credential", ["", "{", "[]", "null", '"x"', "{}", '{"response":1}', "[" * 5000, "\ud800"])
async def test_whatever_a_form_carries_is_refused(site: Site, credential: str) -> None:
    fields = {"credential": credential.encode("utf-8", "replace").decode()}
    answer = await site.submit("/login/passkey", "", fields, headers=as_page(site))
    assert (answer.status, "This passkey is not accepted here" in answer.text) == (401, True)
    cookie, token = await site.log_in_browser()
    typed = {**fields, "form_token": token, "passkey_name": "My <laptop>"}
    added = await site.submit("/account/passkeys", cookie, typed, headers=as_page(site))
    assert (added.status, "start again" in added.text) == (409, True)
    assert 'value="My &lt;laptop&gt;"' in added.text


async def test_the_sign_in_page_has_a_button_where_browsers_make_passkeys(site: Site) -> None:
    there = await site.request("GET", "/login", token="", headers=as_page(site))
    assert ('data-passkey="get"' in there.text, 'autocomplete="username webauthn"' in there.text) == (True, True)
    assert "connect-src 'self'" in there.headers["Content-Security-Policy"]
    elsewhere = await site.page("/login")
    assert ("passkey" in elsewhere.text, 'autocomplete="username"' in elsewhere.text) == (False, True)


async def test_who_was_away_confirms_and_goes_on_with_what_was_typed(site: Site) -> None:
    cookie, token = await site.log_in_browser()
    me = (await site.request("GET", "/api/v1/auth/me", cookie=cookie)).json
    async with site.services.passkeys._storage.write() as uow:
        await uow.sessions.prove(me["session_id"], datetime(2026, 1, 1, tzinfo=UTC))
    page = as_page(site)
    fields = {"form_token": token, "passkey_name": "Laptop", "credential": "{}"}
    away = await site.submit("/account/passkeys", cookie, fields, headers=page)
    assert (away.status, away.headers["Location"]) == (303, "/account/confirm")
    kept = f"{cookie}; {away.cookie()}"
    assert "Confirm that it is you" in (await site.page("/account/confirm", kept)).text
    wrong = await site.submit("/account/confirm", cookie, {"form_token": token, "password": "wrong"}, headers=page)
    assert (wrong.status, "wrong" in wrong.text) == (401, True)
    answer = await site.submit("/account/confirm", cookie, {"form_token": token, "password": PASSWORD}, headers=page)
    assert (answer.status, answer.headers["Location"]) == (303, "/account?done=confirmed")
    renewed = f"{answer.cookie()}; {away.cookie()}"
    account = await site.request("GET", "/account", token="", cookie=renewed, headers={**page})
    assert 'value="Laptop"' in account.text
