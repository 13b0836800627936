"""The second factor over HTTP: routes, the two steps of /login, and hostile input to each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.attempts import WRONG_CODES
from app.infrastructure.clock import SystemClock
from tests.support.samples import ABSENT, OWNER, PASSWORD, SECRET
from tests.support.second_factors import Authenticator
from tests.support.web import Answer, Site, open_site, sqlite_place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TOTP = "/api/v1/auth/totp"
HOSTILE: list[Any] = [
    None,
    "",
    "1",
    "1234567",
    "x" * 256,
    "' OR 1=1 --",
    "{{7*7}}",
    "１２３４５x",  # noqa: RUF001 - full width
    "🔑" * 100,
]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A site of its own: each test changes the owner's account."""
    async with open_site(sqlite_place(tmp_path)) as opened:
        yield opened


async def switched_on(site: Site) -> tuple[Authenticator, list[str]]:
    """The owner's authenticator app and recovery codes."""
    started = await site.request("POST", TOTP)
    assert started.status == 200, started.text
    assert set(started.json) == {"secret", "uri", "qr_svg"}
    assert started.headers["Cache-Control"] == "no-store"
    app = Authenticator.of(started.json["secret"])
    confirmed = await site.request("POST", f"{TOTP}/confirm", json={"otp": app.at(SystemClock().now(), -1)})
    assert confirmed.status == 200, confirmed.text
    return app, confirmed.json["recovery_codes"]


async def log_in(site: Site, **more: Any) -> Answer:
    body = {"username": OWNER, "password": PASSWORD, **more}
    return await site.request("POST", "/api/v1/auth/login", json=body, token="")


def outcome(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["code"]


def cookie_from(answer: Answer, name: str) -> str:
    found = [each.partition(";")[0] for each in answer.headers.getall("Set-Cookie") if each.startswith(name)]
    return found[0]


async def test_from_switching_on_to_switching_off(site: Site) -> None:
    off = {"totp": False, "since": None, "readable": True, "recovery_codes_left": 0}
    assert (await site.request("GET", "/api/v1/auth/factors")).json == off
    other = await site.log_in()
    app, codes = await switched_on(site)
    assert (await site.request("GET", "/api/v1/auth/me", token=other)).status == 401, "every other session ends"
    assert (await site.request("GET", "/api/v1/auth/me")).status == 200
    status = (await site.request("GET", "/api/v1/auth/factors")).json
    assert (status["totp"], status["recovery_codes_left"]) == (True, 10)
    assert outcome(await site.request("POST", TOTP)) == (409, "already_exists")
    refused = await log_in(site)
    assert outcome(refused) == (401, "otp_required")
    assert refused.headers["WWW-Authenticate"]
    assert outcome(await log_in(site, password="not the password", otp=codes[0])) == (401, "invalid_credentials")
    assert (await log_in(site, otp=codes[0])).status == 200
    assert outcome(await log_in(site, otp=codes[0])) == (401, "invalid_credentials")
    proof = {"password": PASSWORD}
    again = "/api/v1/auth/reauthenticate"
    assert outcome(await site.request("POST", again, json=proof)) == (401, "otp_required")
    code = app.at(SystemClock().now(), 1)
    assert (await site.request("POST", again, json={**proof, "otp": code})).status == 204
    assert outcome(await site.request("POST", again, json={**proof, "otp": code})) == (401, "invalid_credentials")
    made = await site.request("POST", f"{TOTP}/recovery-codes")
    assert len(set(made.json["recovery_codes"]) - set(codes)) == 10
    assert (await site.request("DELETE", TOTP)).status == 204
    assert outcome(await site.request("DELETE", TOTP)) == (404, "not_found")
    assert (await site.request("GET", "/api/v1/auth/factors")).json == off
    assert (await log_in(site)).status == 200


async def test_ten_wrong_codes_are_judged_over_http(site: Site) -> None:
    app, codes = await switched_on(site)
    answers = [await log_in(site, otp=app.wrong(SystemClock().now())) for _ in range(WRONG_CODES + 2)]
    assert [each.status for each in answers] == [401] * WRONG_CODES + [429] * 2
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert (await log_in(site, otp=codes[0])).status == 429, "the password is not judged from here either"


async def test_hostile_codes_sign_nobody_in_and_are_not_repeated(site: Site) -> None:
    await switched_on(site)
    for code in HOSTILE:
        answer = await log_in(site, otp=code)
        assert answer.status in {401, 429}
        assert not code or len(code) < 2 or code not in answer.text
    for code in (123456, ["123456"], {"otp": "123456"}, True):
        assert (await log_in(site, otp=code)).status == 422
    for code in ("x" * 2000, "12\x003456"):
        assert (await log_in(site, otp=code)).status in {422, 429}
    assert (await log_in(site, otp="\ud800")).status in {400, 422, 429}


async def test_a_browser_signs_in_in_two_steps(site: Site) -> None:
    app, _ = await switched_on(site)
    first = await site.submit("/login", "", username=OWNER, password=PASSWORD, next="/credentials")
    assert (first.status, first.headers["Location"]) == (303, "/login/code?next=/credentials")
    [set_cookie] = [each for each in first.headers.getall("Set-Cookie") if "-pending=" in each]
    for attribute in ("HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=300"):
        assert attribute in set_cookie
    assert not any("khc_" in each for each in first.headers.getall("Set-Cookie")), "no session has begun"
    pending = set_cookie.partition(";")[0]
    form = await site.page("/login/code?next=/credentials", pending)
    assert form.status == 200
    assert PASSWORD not in form.text
    assert "khp_" not in form.text
    assert re.search('autocomplete="one-time-code"', form.text)
    for code in HOSTILE[1:]:
        answer = await site.submit("/login/code", pending, otp=code, next="/")
        assert answer.status in {401, 429}
        assert not code or len(code) < 8 or code not in answer.text
    await site.services.authentication.unlock(await site.services.identity.operator(), OWNER)
    second = await site.submit("/login/code", pending, otp=app.at(SystemClock().now()), next="/credentials")
    assert (second.status, second.headers["Location"]) == (303, "/credentials")
    gone = cookie_from(second, pending.partition("=")[0])
    assert gone.partition("=")[2].strip('"') == ""
    session = next(each for each in second.headers.getall("Set-Cookie") if "khc_" in each).partition(";")[0]
    assert (await site.page("/credentials", session)).status == 200
    for answer in (
        await site.submit("/login/code", "", otp="123456", next="/"),
        await site.submit("/login/code", pending + "x", otp="123456", next="/"),
    ):
        assert (answer.status, answer.headers["Location"]) == (303, "/login?done=late")
    foreign = await site.submit("/login/code", pending, otp="123456", headers={"Sec-Fetch-Site": "cross-site"})
    assert foreign.status == 403
    away = await site.submit("/login/code", pending, otp=app.at(SystemClock().now(), 1), next="//evil.example")
    assert (away.status, away.headers["Location"]) == (303, "/")


async def test_a_changed_password_alone_makes_no_session_fresh(site: Site) -> None:
    """Whoever took over a session and knows the password still lacks the second factor."""
    body = {"provider": "openai", "label": "main", "secret": SECRET}
    stored = (await site.request("POST", "/api/v1/credentials", json=body)).json["id"]
    _, codes = await switched_on(site)
    async with site.services.credentials._storage.write() as uow:
        [user] = await uow.users.page(after=None, limit=2)
        for session in await uow.sessions.live_of(user.id, SystemClock().now()):
            await uow.sessions.prove(session.id, user.created_at.replace(year=2020))
    new = "another horse, another battery"
    change = {"password": PASSWORD, "new_password": new}
    assert (await site.request("POST", "/api/v1/auth/password", json=change)).status == 204
    reveal = f"/api/v1/credentials/{stored}/reveal"
    assert outcome(await site.request("POST", reveal)) == (401, "reauthentication_required")
    assert outcome(await site.request("DELETE", TOTP)) == (401, "reauthentication_required")
    proof = {"password": new, "otp": codes[0]}
    assert (await site.request("POST", "/api/v1/auth/reauthenticate", json=proof)).status == 204
    assert (await site.request("POST", reveal)).json == {"secret": SECRET}


async def test_revealing_on_a_page_asks_for_the_code_as_well(site: Site) -> None:
    body = {"provider": "openai", "label": "main", "secret": SECRET}
    stored = (await site.request("POST", "/api/v1/credentials", json=body)).json["id"]
    _, codes = await switched_on(site)
    first = await site.submit("/login", "", username=OWNER, password=PASSWORD, otp=codes[0], next="/")
    cookie = next(each for each in first.headers.getall("Set-Cookie") if "khc_" in each).partition(";")[0]
    token = re.search('name="form_token" value="([0-9a-f]+)"', (await site.page("/account", cookie)).text)
    assert token is not None
    async with site.services.credentials._storage.write() as uow:
        [user] = await uow.users.page(after=None, limit=2)
        for session in await uow.sessions.live_of(user.id, SystemClock().now()):
            await uow.sessions.prove(session.id, user.created_at.replace(year=2020))
    path = f"/credentials/{stored}/reveal"
    asked = await site.submit(path, cookie, form_token=token[1])
    assert asked.status == 401
    assert 'name="otp"' in asked.text
    without = await site.submit(path, cookie, form_token=token[1], password=PASSWORD)
    assert without.status == 401
    assert SECRET not in without.text
    shown = await site.submit(path, cookie, form_token=token[1], password=PASSWORD, otp=codes[1])
    assert (shown.status, SECRET in shown.text) == (200, True)
    assert ABSENT not in shown.text
