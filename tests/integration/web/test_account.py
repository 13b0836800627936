"""The page of one's own account, and the routes behind it: the password, and where one is signed in."""

from __future__ import annotations

import re

import pytest

from app.domain.identity import PASSWORD_LONGEST, Role
from app.infrastructure.clock import SystemClock
from tests.support.samples import ABSENT, NEW_PASSWORD, OWNER, PASSWORD
from tests.support.second_factors import Authenticator
from tests.support.web import Answer, Site

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _member(site: Site, name: str) -> tuple[str, str]:
    """A new member who is signed in in a browser: the cookies, and the form token."""
    identity = site.services.identity
    await identity.create(await identity.operator(), name, PASSWORD, Role.MEMBER)
    return await _in_a_browser(site, name, PASSWORD)


async def _in_a_browser(site: Site, name: str, password: str, sent: str = "") -> tuple[str, str]:
    answer = await site.submit("/login", sent, username=name, password=password)
    assert answer.status == 303, answer.text
    return answer.cookie(), (await site.page("/account", answer.cookie())).form_token()


def _cookies(answer: Answer) -> dict[str, str]:
    """The cookies that an answer sets, by name, as `name=value; attributes`."""
    return {each.partition("=")[0]: each for each in answer.headers.getall("Set-Cookie", ())}


# ---------------------------------------------------------------------------------------------------------------------
# The page
# ---------------------------------------------------------------------------------------------------------------------


async def test_the_page_has_its_sections_and_security_leads_there(site: Site) -> None:
    cookie, _ = await _member(site, "reader")
    page = await site.page("/account", cookie)
    assert page.status == 200
    assert re.findall(r'<h2 id="(\w+)-heading">', page.text)[0] == "password"
    assert "sessions-heading" in page.text
    assert '<a href="/account" aria-current="page">Account</a>' in page.text
    assert "this session" in page.text
    assert "127.0.0.1" in page.text
    led = await site.page("/security", cookie)
    assert (led.status, led.headers["Location"]) == (303, "/account")
    stranger = await site.page("/security")
    assert stranger.headers["Location"] == "/login?next=/security"
    assert "never-said" not in (await site.page("/account?done=never-said", cookie)).text


async def test_the_form_changes_the_password_and_this_browser_goes_on(site: Site) -> None:
    cookie, token = await _member(site, "changer")
    other, _ = await _in_a_browser(site, "changer", PASSWORD)
    program = await site.log_in("changer")
    changed = await site.submit(
        "/account/password", cookie, form_token=token, password=PASSWORD, new_password=NEW_PASSWORD
    )
    assert (changed.status, changed.headers["Location"]) == (303, "/account?done=password")
    set_ = _cookies(changed)
    renewed = set_["keyhall"].partition(";")[0]
    assert renewed != cookie
    assert "HttpOnly" in set_["keyhall"]
    assert set_["keyhall-device"].startswith("keyhall-device=khd_")
    page = await site.page("/account?done=password", renewed)
    assert "Your password is changed." in page.text
    sent = await site.submit("/account/sessions/end", renewed, form_token=token)
    assert sent.status == 303, "forms that are open in other tabs can still be sent"
    for former in (cookie, other):
        assert (await site.page("/account", former)).status == 303
    assert (await site.request("GET", "/api/v1/auth/me", token=program)).status == 401
    await _in_a_browser(site, "changer", NEW_PASSWORD)


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"password": "wrong", "new_password": NEW_PASSWORD}, 401, "The present password is wrong"),
        ({"password": PASSWORD, "new_password": "short"}, 422, "New password must be 12 to 256 characters"),
        ({"password": PASSWORD, "new_password": "password1234"}, 422, "New password is too easy to guess"),
        ({"password": PASSWORD, "new_password": "refused-one-2026"}, 422, "New password is too easy to guess"),
        ({"password": PASSWORD, "new_password": PASSWORD}, 422, "New password must differ from the present one"),
        ({"password": PASSWORD}, 422, "New password"),
        ({"new_password": NEW_PASSWORD}, 401, "The present password is wrong"),
    ],
)
async def test_a_refusal_stands_beside_the_form_and_repeats_no_password(
    site: Site, fields: dict[str, str], status: int, said: str
) -> None:
    name = "refused-one"
    identity = site.services.identity
    if not any(
        each.username == name for each in (await site.services.users.page(await identity.operator(), limit=100)).items
    ):
        await identity.create(await identity.operator(), name, PASSWORD, Role.MEMBER)
    cookie, token = await _in_a_browser(site, name, PASSWORD)
    answer = await site.submit("/account/password", cookie, fields, form_token=token)
    assert answer.status == status
    assert said in answer.text
    assert all(f'value="{each}"' not in answer.text for each in fields.values())
    assert "keyhall" not in _cookies(answer)
    assert (await site.page("/account", cookie)).status == 200


async def test_one_session_and_every_other_session_are_ended_by_buttons(site: Site) -> None:
    cookie, token = await _member(site, "closer")
    first, second = await site.log_in("closer"), await site.log_in("closer")
    page = await site.page("/account", cookie)
    ends = re.findall(r'action="(/account/sessions/[0-9a-f-]{36}/end)"', page.text)
    assert len(ends) == 2, "this session has no button"
    answer = await site.submit(ends[0], cookie, form_token=token)
    assert answer.headers["Location"] == "/account?done=session"
    assert "That session has ended." in (await site.page("/account?done=session", cookie)).text
    left = [
        each for each in (first, second) if (await site.request("GET", "/api/v1/auth/me", token=each)).status == 200
    ]
    assert len(left) == 1
    again = await site.submit(ends[0], cookie, form_token=token)
    assert again.status == 404
    others = await site.submit("/account/sessions/end", cookie, form_token=token)
    assert others.headers["Location"] == "/account?done=sessions"
    assert (await site.request("GET", "/api/v1/auth/me", token=left[0])).status == 401
    renewed = _cookies(others)["keyhall"].partition(";")[0]
    page = await site.page("/account?done=sessions", renewed)
    assert page.text.count('class="entry"') == 1
    assert "End every other session" not in page.text


# ---------------------------------------------------------------------------------------------------------------------
# For programs
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_program_changes_the_password_and_keeps_its_tokens(site: Site) -> None:
    await _member(site, "program")
    login = {"username": "program", "password": PASSWORD}
    pair = (await site.request("POST", "/api/v1/auth/login", json=login, token="")).json
    other = await site.log_in("program")
    body = {"password": PASSWORD, "new_password": NEW_PASSWORD}
    changed = await site.request("POST", "/api/v1/auth/password", json=body, token=pair["access_token"])
    assert (changed.status, changed.body) == (204, b"")
    assert "keyhall" not in _cookies(changed), "a program has no session cookie"
    assert (await site.request("GET", "/api/v1/auth/me", token=pair["access_token"])).status == 200
    assert (await site.request("GET", "/api/v1/auth/me", token=other)).status == 401
    refresh = {"refresh_token": pair["refresh_token"]}
    assert (await site.request("POST", "/api/v1/auth/refresh", json=refresh, token="")).status == 200
    old = await site.request("POST", "/api/v1/auth/login", json=login, token="")
    assert (old.status, old.code) == (401, "invalid_credentials")
    await site.log_in("program", NEW_PASSWORD)


async def test_a_program_ends_all_its_other_sessions(site: Site) -> None:
    await _member(site, "sole")
    kept, other = await site.log_in("sole"), await site.log_in("sole")
    answer = await site.request("DELETE", "/api/v1/auth/sessions", token=kept)
    assert (answer.status, answer.body) == (204, b"")
    assert (await site.request("GET", "/api/v1/auth/me", token=other)).status == 401
    items = (await site.request("GET", "/api/v1/auth/sessions", token=kept)).json["items"]
    assert [each["current"] for each in items] == [True]
    assert items[0]["device"] is not None
    assert items[0]["last_seen_at"].endswith("Z")


async def test_the_longest_passwords_and_all_of_unicode_work(site: Site) -> None:
    await _member(site, "longest")
    password = PASSWORD
    for new in (
        "\U0001f511 sits under the flowerpot, \u2728 not the doormat",
        "the sixty-fourth character of this passphrase is its very last one!"[:64],
        ("every one of the characters counts to the last " * 9)[:PASSWORD_LONGEST],
        "\u0645\u0641\u062a\u0627\u062d \u0627\u0644\u0628\u064a\u062a \u062a\u062d\u062a \u0627\u0644\u062d",
    ):
        token = await site.log_in("longest", password)
        body = {"password": password, "new_password": new}
        changed = await site.request("POST", "/api/v1/auth/password", json=body, token=token)
        assert changed.status == 204, changed.text
        cut = {"username": "longest", "password": new[:-1]}
        assert (await site.request("POST", "/api/v1/auth/login", json=cut, token="")).status == 401
        password = new


HOSTILE = {
    "nothing": {},
    "a number": {"password": 1, "new_password": NEW_PASSWORD},
    "a list": {"password": PASSWORD, "new_password": [NEW_PASSWORD]},
    "an unknown member": {"password": PASSWORD, "new_password": NEW_PASSWORD, "user_id": ABSENT},
    "NUL": {"password": PASSWORD, "new_password": NEW_PASSWORD + "\0"},
    "huge": {"password": "x" * 100_000, "new_password": "y" * 100_000},
    "a null": {"password": PASSWORD, "new_password": None},
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_bodies_are_refused_and_change_nothing(site: Site, case: str) -> None:
    token = await site.log_in()
    answer = await site.request("POST", "/api/v1/auth/password", json=HOSTILE[case], token=token)
    assert (answer.status, answer.code) == (422, "invalid_input")
    assert PASSWORD not in answer.text
    await site.log_in()


async def test_the_password_of_somebody_else_proves_nothing(site: Site) -> None:
    await _member(site, "victim")
    token = await site.log_in()
    identity = site.services.identity
    await site.services.passwords.set(await identity.operator(), "victim", NEW_PASSWORD)
    body = {"password": NEW_PASSWORD, "new_password": f"{NEW_PASSWORD} at dawn"}
    answer = await site.request("POST", "/api/v1/auth/password", json=body, token=token)
    assert (answer.status, answer.code) == (401, "invalid_credentials")


async def test_a_reset_link_chooses_another_password_by_the_page_and_by_program(site: Site) -> None:
    await _member(site, "forgetful")
    identity = site.services.identity
    operator = await identity.operator()
    user = next(
        each for each in (await site.services.users.page(operator, limit=100)).items if each.username == "forgetful"
    )
    for turn, by_page in enumerate((True, False)):
        access = await site.log_in("forgetful", PASSWORD if turn == 0 else f"{NEW_PASSWORD} 0")
        async with identity._storage.write() as uow:
            made = await site.services.claims.issue_reset(uow, operator, user)
        fields = {"token": made.token.reveal(), "password": f"{NEW_PASSWORD} {turn}"}
        if by_page:
            done = await site.submit("/claim", "", fields)
            assert (done.status, done.headers["Location"]) == (303, "/login?done=claimed")
        else:
            done = await site.request("POST", "/api/v1/auth/claim", json=fields, token="")
            assert (done.status, done.json["username"]) == (201, "forgetful")
        assert (await site.request("GET", "/api/v1/auth/me", token=access)).status == 401
        await site.log_in("forgetful", f"{NEW_PASSWORD} {turn}")


async def test_the_owner_is_still_there(site: Site) -> None:
    assert (await site.request("GET", "/api/v1/auth/me")).json["username"] == OWNER


async def test_each_change_of_a_factor_gives_the_browser_another_cookie_and_claim(site: Site) -> None:
    """As the password does: the claim that the device had stops with the other sessions (ASVS 5.0, 7.2.4)."""
    cookie, token = await _member(site, "factor-changer")
    await site.submit("/account/factors/start", cookie, form_token=token)
    secret = re.search(r"<pre[^>]*>([A-Z2-7 ]{30,})</pre>", (await site.page("/account/factors/new", cookie)).text)
    assert secret is not None
    app = Authenticator.of(secret[1].replace(" ", ""))
    changes = {"factors/new": {"otp": app.at(SystemClock().now())}, "factors/codes": {}, "factors/remove": {}}
    claims = set()
    for path, fields in changes.items():
        changed = await site.submit(f"/account/{path}", cookie, fields, form_token=token)
        assert changed.status in {200, 303}, changed.text
        set_ = _cookies(changed)
        former, cookie = cookie, set_["keyhall"].partition(";")[0]
        assert (await site.page("/account", former)).status == 303
        claims.add(set_["keyhall-device"].partition(";")[0])
        claim = site.services.authentication._proof._devices.read(
            set_["keyhall-device"].partition(";")[0].partition("=")[2]
        )
        user = await site.services.users.named(await site.services.identity.operator(), "factor-changer")
        assert claim is not None
        assert claim.of(user)
    assert len(claims) == len(changes)
