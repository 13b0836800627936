"""Sessions of browsers and programs at sign-in: what ends, what is renewed, and what shows that a client is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from aiohttp import web

from app.domain.attempts import PER_ACCOUNT_AND_NETWORK, PER_NETWORK
from app.domain.identity import Actor
from app.web import routing
from tests.support.samples import OWNER, PASSWORD, SECRET
from tests.support.web import Answer, Site, open_site, sqlite_place

DEVICE = "keyhall-device"
SignIn = Callable[..., Awaitable[Answer]]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(sqlite_place(tmp_path)) as opened:
        yield opened


def cookies(answer: Answer) -> dict[str, str]:
    """The cookies that were set, by name, with their attributes."""
    pairs = [each.partition("=") for each in answer.headers.getall("Set-Cookie", [])]
    return {name: value for name, _, value in pairs}


async def sign_in(site: Site, cookie: str = "", password: str = PASSWORD) -> Answer:
    return await site.submit("/login", cookie, username=OWNER, password=password, next="/")


async def program_signs_in(site: Site, cookie: str = "", password: str = PASSWORD) -> Answer:
    body = {"username": OWNER, "password": password}
    return await site.request("POST", "/api/v1/auth/login", json=body, cookie=cookie, token="")


@pytest.mark.parametrize("again", [sign_in, program_signs_in])
async def test_signing_in_again_ends_the_session_of_the_cookie(site: Site, again: SignIn) -> None:
    first = (await sign_in(site)).cookie()
    other = (await sign_in(site)).cookie()
    assert (await again(site, first)).status in {200, 303}
    assert (await site.page("/credentials", first)).status == 303
    assert (await site.page("/credentials", other)).status == 200


async def test_a_failed_sign_in_ends_nothing(site: Site) -> None:
    cookie = (await sign_in(site)).cookie()
    assert (await sign_in(site, cookie, "not the password")).status == 401
    assert (await site.page("/credentials", cookie)).status == 200


async def test_proving_the_password_renews_the_cookie_and_forms_that_are_open_still_work(site: Site) -> None:
    made = await site.add("main", secret=SECRET)
    path = f"/credentials/{made['id']}"
    cookie, form_token = await site.log_in_browser()
    for _ in range(2):
        proven = await site.request(
            "POST",
            "/api/v1/auth/reauthenticate",
            json={"password": PASSWORD},
            cookie=cookie,
            headers={"Sec-Fetch-Site": "same-origin"},
        )
        assert proven.status == 204
        assert "expires=" in cookies(proven)["keyhall"]
        assert (await site.page(path, cookie)).status == 303
        cookie = proven.cookie()
        assert (await site.page(path, cookie)).status == 200
    assert SECRET in (await site.submit(f"{path}/reveal", cookie, form_token=form_token)).text


async def test_the_cookie_is_renewed_also_where_the_form_fails_after_the_password_was_right(site: Site) -> None:
    made = await site.add("gone", secret=SECRET)
    cookie, form_token = await site.log_in_browser()
    assert (await site.request("DELETE", f"/api/v1/credentials/{made['id']}")).status == 204
    answer = await site.submit(f"/credentials/{made['id']}/reveal", cookie, form_token=form_token, password=PASSWORD)
    assert answer.status == 404
    assert (await site.page("/credentials", answer.cookie())).status == 200


async def test_a_program_keeps_its_token_when_it_proves_the_password(site: Site) -> None:
    token = await site.log_in()
    answer = await site.request("POST", "/api/v1/auth/reauthenticate", json={"password": PASSWORD}, token=token)
    assert (answer.status, cookies(answer)) == (204, {})
    assert (await site.request("GET", "/api/v1/auth/me", token=token)).status == 200


@pytest.mark.parametrize("attempt", [sign_in, program_signs_in])
async def test_a_client_that_signed_in_before_gets_in_beside_an_attacker_at_its_address(
    site: Site, attempt: SignIn
) -> None:
    signed_in = await attempt(site)
    claim = cookies(signed_in)[DEVICE]
    assert "HttpOnly" in claim
    assert "SameSite=Strict" in claim
    device = f"{DEVICE}={claim.partition(';')[0]}"
    answers = [await attempt(site, password="not it, no") for _ in range(PER_ACCOUNT_AND_NETWORK + 1)]
    assert [each.status for each in answers] == [401] * PER_ACCOUNT_AND_NETWORK + [429]
    assert (await attempt(site)).status == 429
    assert (await attempt(site, device)).status in {200, 303}
    assert (await site.page("/credentials", device)).status == 303  # it signs nobody in


async def test_after_the_time_that_a_refusal_names_the_right_password_is_accepted(site: Site) -> None:
    for _ in range(PER_ACCOUNT_AND_NETWORK):
        await program_signs_in(site, password="not it, no")
    refused = await program_signs_in(site)
    assert refused.status == 429
    seconds = int(refused.headers["Retry-After"])
    assert 0 < seconds <= 900
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=seconds), tick=True):
        await site.services.instances.catch_up()
        assert (await program_signs_in(site)).status == 200


@pytest.mark.slow
async def test_many_wrong_names_shut_out_nobody_who_is_signed_in_or_was_here_before(site: Site) -> None:
    await program_signs_in(site)
    bodies = [{"username": f"name {number}", "password": "not it, no"} for number in range(PER_NETWORK + 1)]
    answers = [await site.request("POST", "/api/v1/auth/login", json=body, token="") for body in bodies]
    assert answers[-1].status == 429
    assert (await program_signs_in(site)).status == 200
    proof = {"password": PASSWORD}
    assert (await site.request("POST", "/api/v1/auth/reauthenticate", json=proof)).status == 204


async def test_two_clicks_at_once_that_prove_the_password_leave_the_browser_signed_in(site: Site) -> None:
    """It drops the first answer, with its cookie, and keeps the second."""
    made = await site.add("clicked twice")
    cookie, form_token = await site.log_in_browser()
    path = f"/credentials/{made['id']}/reveal"
    answers = await asyncio.gather(
        *(site.submit(path, cookie, form_token=form_token, password=PASSWORD) for _ in range(2))
    )
    shown = [each for each in answers if each.status == 200]
    assert shown  # one that arrives after the cookie of the other was renewed leads to signing in
    kept = [each for each in shown if (await site.page("/credentials", each.cookie())).status == 200]
    assert len(kept) == 1


@pytest.mark.parametrize("by_form", [False, True], ids=["program", "browser"])
async def test_a_request_that_is_held_back_until_its_session_has_ended_changes_nothing(
    *, site: Site, monkeypatch: pytest.MonkeyPatch, by_form: bool
) -> None:
    monkeypatch.setattr(routing, "_IDENTIFIED_AGAIN_AFTER", 0.0)
    identified, honest = asyncio.Event(), routing._permitted

    async def permitted(request: web.Request, scope: str | None) -> Actor:
        actor = await honest(request, scope)
        identified.set()
        return actor

    cookie, form_token = await site.log_in_browser()
    token = await site.log_in()
    path = "/account/discord/code" if by_form else "/api/v1/auth/tokens"
    if by_form:
        body = f"form_token={form_token}".encode()
        headers = f"Cookie: {cookie}\r\nSec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded"
    else:
        body = b'{"name": "held back", "scopes": ["users:manage"]}'
        headers = f"Authorization: Bearer {token}\r\nContent-Type: application/json"
    monkeypatch.setattr(routing, "_permitted", permitted)
    host, _, port = site.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{headers}"
    )
    writer.write(f"{head}\r\n\r\n".encode() + body[:-1])
    await asyncio.wait_for(identified.wait(), 60)
    for each in (await site.request("GET", "/api/v1/auth/sessions")).json["items"]:
        await site.request("DELETE", f"/api/v1/auth/sessions/{each['id']}")
    writer.write(body[-1:])
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 303" if by_form else b"HTTP/1.1 401"), answer
    assert (b"Location: /login" if by_form else b"invalid_token") in answer
