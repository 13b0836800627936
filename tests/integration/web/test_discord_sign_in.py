"""Signing in with Discord: the whole way over real sockets, and everything that can be wrong on it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio
import time_machine
from aiohttp import web

from app.domain.attempts import PER_NETWORK
from app.domain.errors import AppError, DiscordUnavailable, InvalidToken, NotConfigured
from app.domain.second_factor import TotpFactor
from app.domain.secrets import SecretText
from app.infrastructure.discord_accounts import DiscordAccountsImpl, DiscordApplication
from app.services.audit_trail import AuditQuery
from app.services.identity import DiscordEvent
from tests.support.discord_browsers import Browser, DiscordPlace, open_discord_place, parameters
from tests.support.samples import OWNER
from tests.support.web import open_site, sqlite_place

TICKET = "keyhall-discord"
FAILED = "/auth/discord/failed?why="


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DiscordPlace]:
    directory = tmp_path_factory.mktemp("place")
    async with open_discord_place(
        f"sqlite+aiosqlite:///{directory / 'keyhall.db'}", directory, REGISTRATION="open"
    ) as it:
        yield it


@pytest_asyncio.fixture(loop_scope="module")
async def browser(place: DiscordPlace) -> AsyncIterator[Browser]:
    async with place.browser() as opened:
        yield opened


async def refusals(place: DiscordPlace) -> list[Any]:
    """The reasons of refused sign-ins, as the audit trail has them, the latest first."""
    await place.site.services.refusals.flush()
    answer = await place.site.request("GET", "/api/v1/admin/audit?action=auth.login&limit=100")
    return [each["detail"]["reason"] for each in answer.json["items"] if each["result"] == "denied"]


def exchanges(place: DiscordPlace) -> int:
    """How often Discord was asked for a token."""
    return len(place.wire.called("POST", "/oauth2/token"))


# ---------------------------------------------------------------------------------------------------------------------
# The way there and back
# ---------------------------------------------------------------------------------------------------------------------


async def test_somebody_who_agrees_at_discord_is_signed_in_and_nothing_of_it_stays(
    place: DiscordPlace, browser: Browser
) -> None:
    alice = place.wire.user(1001, "alice")
    page = await browser.open("/login?next=/credentials")
    assert 'href="/auth/discord?next=/credentials"' in page.text
    address = await browser.depart("/auth/discord?next=/credentials")
    asked = parameters(address)
    assert asked["scope"] == "identify"
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == f"{place.site.url}/auth/discord/callback"
    assert browser.cookie(TICKET) is not None
    answer = await browser.come_back(await browser.agree(address, alice))
    assert (answer.status, answer.headers["Location"]) == (303, "/credentials")
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    assert await browser.who() is not None
    assert browser.cookie(TICKET) is None
    me = await browser.open("/api/v1/auth/me")
    assert (me.json["username"], me.json["discord_id"], me.json["role"]) == ("discord:1001", "1001", "member")
    assert "discord" in [each.get("by") for each in await details_of_sign_ins(place)]


async def details_of_sign_ins(place: DiscordPlace) -> list[dict[str, Any]]:
    operator = await place.site.services.identity.operator()
    found = await place.site.services.audit.page(operator, AuditQuery(action="auth.login"))
    return [dict(each.detail) for each in found.items]


async def test_the_ticket_is_kept_as_a_cookie_should_be(place: DiscordPlace, browser: Browser) -> None:
    answer = await browser.open("/auth/discord")
    (cookie,) = answer.headers.getall("Set-Cookie")
    assert {"HttpOnly", "Max-Age=600", "Path=/", "SameSite=Lax"} <= set(cookie.split("; ")[1:])
    ticket = cookie.partition("=")[2].partition(";")[0]
    assert ticket not in answer.headers["Location"]
    assert (await browser.open("/auth/discord", site="none")).status == 303
    for other in ("cross-site", "same-site"):
        refused = await browser.open("/auth/discord", site=other)
        assert (refused.status, "Set-Cookie" in refused.headers) == (403, False)


async def test_the_same_person_comes_to_the_same_account_whether_by_the_bot_or_the_web(
    place: DiscordPlace, browser: Browser
) -> None:
    async def nobody_asks() -> bool:
        raise AssertionError

    event = DiscordEvent(discord_id="1002", guild=None, member_of_known_guild=nobody_asks)
    known = await place.site.services.identity.from_discord(event)
    await browser.sign_in(place.wire.user(1002))
    assert await browser.who() == known.user_id


async def test_a_linked_account_is_signed_in_and_its_former_session_ends(place: DiscordPlace, browser: Browser) -> None:
    operator = await place.site.services.identity.operator()
    await place.site.services.identity.link(operator, OWNER, "1003")
    await browser.sign_in_by_password()
    former = browser.cookie("keyhall")
    answer = await browser.sign_in(place.wire.user(1003))
    assert answer.headers["Location"] == "/"
    assert (await place.site.page("/credentials", f"keyhall={former}")).status == 303
    me = await browser.open("/api/v1/auth/me")
    assert me.json["username"] == OWNER


async def test_it_leads_to_own_pages_alone(place: DiscordPlace, browser: Browser) -> None:
    for elsewhere in ("//evil.example", "https://evil.example", "/%5cevil.example", "/a%0d%0ab", "x"):
        answer = await browser.sign_in(place.wire.user(1001), next_page=elsewhere)
        assert answer.headers["Location"] == "/"


async def test_an_address_of_mail_that_is_somebody_elses_name_changes_nothing(
    place: DiscordPlace, browser: Browser
) -> None:
    """Nhost CVE-2026-41574: here no address is asked for, so none is believed."""
    mallory = place.wire.user(1004, OWNER)
    mallory.email, mallory.verified = "owner@example.org", False
    await browser.sign_in(mallory)
    me = await browser.open("/api/v1/auth/me")
    assert (me.json["username"], me.json["role"]) == ("discord:1004", "member")


async def test_where_there_is_a_second_factor_discord_alone_signs_nobody_in(
    place: DiscordPlace, browser: Browser
) -> None:
    await browser.sign_in(place.wire.user(1010))
    user_id, now = await browser.who() or "", datetime.now(UTC)
    factor = TotpFactor(id="factor-1010", user_id=user_id, encrypted_secret=b"x", key_version=1, created_at=now)
    async with place.site.services.requests._storage.write() as uow:
        assert await uow.factors.start(factor)
        assert await uow.factors.confirm(factor.id, 1, now)
    async with place.browser() as other:
        answer = await other.sign_in(place.wire.user(1010), next_page="/credentials")
        assert answer.status == 303
        assert not answer.headers["Location"].startswith(("/credentials", FAILED))
        assert (await other.open(answer.headers["Location"])).status == 200
        assert other.cookie("keyhall") is None
        assert await other.who() is None


# ---------------------------------------------------------------------------------------------------------------------
# What can be wrong
# ---------------------------------------------------------------------------------------------------------------------


async def refused(place: DiscordPlace, browser: Browser, address: str, why: str) -> None:
    answer = await browser.come_back(address)
    assert (answer.status, answer.headers["Location"]) == (303, FAILED + why)
    assert await browser.who() is None
    shown = await browser.open(answer.headers["Location"])
    assert (shown.status, 'role="alert"' in shown.text) == (200, True)


async def test_an_address_that_was_used_works_no_more(place: DiscordPlace, browser: Browser) -> None:
    before = exchanges(place)
    address = await browser.agree(await browser.depart(), place.wire.user(1001))
    ticket = browser.cookie(TICKET)
    assert (await browser.come_back(address)).headers["Location"] == "/"
    await refused_with(place, f"{TICKET}={ticket}", address)
    assert "ticket" in await refusals(place)
    assert exchanges(place) == before + 1


async def refused_with(place: DiscordPlace, cookie: str, address: str) -> None:
    path = address.removeprefix(place.site.url)
    answer = await place.site.request("GET", path, token="", cookie=cookie, headers={"Accept": "text/html"})
    assert (answer.status, answer.headers["Location"]) == (303, f"{FAILED}again")
    assert not any(each.startswith("keyhall=") for each in answer.headers.getall("Set-Cookie", ()))


async def test_a_browser_that_did_not_begin_is_refused_and_the_one_that_did_is_not(place: DiscordPlace) -> None:
    """Vaultwarden CVE-2026-47158: the state is bound to the browser. With a ticket of its own and without any."""
    before = exchanges(place)
    async with place.browser() as victim, place.browser() as attacker:
        address = await attacker.agree(await attacker.depart(), place.wire.user(6666))
        await refused(place, victim, address, "again")
        theirs = await victim.agree(await victim.depart(), place.wire.user(1001))
        await refused(place, victim, address, "again")
        assert exchanges(place) == before
        assert (await victim.come_back(theirs)).headers["Location"] == "/"  # nobody ended it by a link
        assert (await attacker.come_back(address)).headers["Location"] == "/"


async def test_a_code_of_another_sign_in_is_refused_by_its_challenge(place: DiscordPlace) -> None:
    """Code injection (RFC 9700, 4.5): a stolen code in one's own sign-in; PKCE makes Discord refuse it."""
    async with place.browser() as victim, place.browser() as attacker:
        stolen = parameters(await victim.agree(await victim.depart(), place.wire.user(1001)))["code"]
        own = parameters(await attacker.depart())["state"]
        callback = f"{place.site.url}/auth/discord/callback?{urlencode({'code': stolen, 'state': own})}"
        await refused(place, attacker, callback, "code")
        assert "code" in await refusals(place)


async def test_a_code_for_another_address_of_return_is_refused(place: DiscordPlace, browser: Browser) -> None:
    asked = await browser.depart()
    elsewhere = asked.replace(urlencode({"r": place.site.url})[2:], urlencode({"r": "http://127.0.0.1:1"})[2:])
    assert elsewhere != asked
    back = await browser.agree(elsewhere, place.wire.user(1001))
    await refused(place, browser, f"{place.site.url}/auth/discord/callback?{back.partition('?')[2]}", "code")


async def test_after_ten_minutes_it_is_too_late(place: DiscordPlace, browser: Browser) -> None:
    address = await browser.agree(await browser.depart(), place.wire.user(1001))
    ticket = browser.cookie(TICKET)
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=10, seconds=1), tick=True):
        await place.site.services.instances.catch_up()
        await refused_with(place, f"{TICKET}={ticket}", address)


CHANGES: list[Callable[[dict[str, str]], str]] = [
    lambda _: "",
    lambda found: f"state={found['state']}",
    lambda found: f"code={found['code']}",
    lambda found: f"code={found['code']}&state=",
    lambda found: f"code={found['code']}&state={found['state'][:-1]}",
    lambda found: f"code={found['code']}&state={found['state']}A",
    lambda found: f"code={found['code']}&state=%ff%fe",
    lambda found: f"code={found['code']}&state=%00",
    lambda found: f"code={found['code']}&state={'x' * 4000}",
    lambda found: f"code={found['code']}&state=x&state={found['state']}",
    lambda found: f"code={'x' * 5000}&state={found['state']}",
]


async def test_an_address_that_lacks_or_changes_something_is_refused(place: DiscordPlace, browser: Browser) -> None:
    before = exchanges(place)
    for change in CHANGES:
        found = parameters(await browser.agree(await browser.depart(), place.wire.user(1001)))
        answer = await browser.come_back(f"{place.site.url}/auth/discord/callback?{change(found)}")
        assert answer.headers["Location"] in {f"{FAILED}again", f"{FAILED}declined"}
        assert await browser.who() is None
    assert exchanges(place) == before


async def test_a_ticket_that_nobody_signed_is_none(place: DiscordPlace) -> None:
    for ticket in ("", "x", "kht_", "kht_.", "kht_e30.x", "kht_" + "A" * 5000, "kht_WyJzaWduLWluIl0.AAAA", "khc_a.b"):
        await refused_with(place, f"{TICKET}={ticket}", f"{place.site.url}/auth/discord/callback?code=x&state=y")


async def test_somebody_who_declines_is_told_so(place: DiscordPlace, browser: Browser) -> None:
    await refused(place, browser, await browser.agree(await browser.depart(), None), "declined")
    assert "declined" in await refusals(place)
    assert browser.cookie(TICKET) is None


async def test_of_returns_at_once_with_one_state_one_makes_a_session(engine_url: str, tmp_path: Path) -> None:
    async with open_discord_place(engine_url, tmp_path, REGISTRATION="open") as place, place.browser() as browser:
        address = await browser.agree(await browser.depart(), place.wire.user(1001))
        cookie, path = f"{TICKET}={browser.cookie(TICKET)}", address.removeprefix(place.site.url)
        asked = [place.site.request("GET", path, token="", cookie=cookie) for _ in range(8)]
        answers = await asyncio.gather(*asked)
        assert sorted(each.headers["Location"] for each in answers) == ["/", *[f"{FAILED}again"] * 7]
        assert exchanges(place) == 1


async def test_codes_that_discord_does_not_take_are_limited_for_each_network(sqlite_url: str, tmp_path: Path) -> None:
    async with open_discord_place(sqlite_url, tmp_path, REGISTRATION="open") as place, place.browser() as browser:
        for number in range(PER_NETWORK + 1):
            state = parameters(await browser.depart())["state"]
            answer = await browser.come_back(f"{place.site.url}/auth/discord/callback?code=guess&state={state}")
            assert answer.headers["Location"] == FAILED + ("code" if number < PER_NETWORK else "later")
        assert exchanges(place) == PER_NETWORK


# ---------------------------------------------------------------------------------------------------------------------
# Who gets an account
# ---------------------------------------------------------------------------------------------------------------------


async def test_members_of_the_bots_servers_get_an_account_and_others_do_not(sqlite_url: str, tmp_path: Path) -> None:
    async with open_discord_place(sqlite_url, tmp_path) as place, place.browser() as browser:
        member, stranger = place.wire.user(1001), place.wire.user(1002)
        place.wire.add_guild(id=2001, members=[member])
        place.wire.add_guild(id=2002, members=[stranger], has_bot=False)
        answer = await browser.sign_in(stranger)
        assert answer.headers["Location"] == f"{FAILED}members"
        assert "registration" in await refusals(place)
        assert (await browser.sign_in(member)).headers["Location"] == "/"


async def test_an_allowlist_names_the_servers(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        open_discord_place(sqlite_url, tmp_path, GUILD_ALLOWLIST="2002,2003") as place,
        place.browser() as browser,
    ):
        one, other = place.wire.user(1001), place.wire.user(1002)
        place.wire.add_guild(id=2001, members=[one])
        place.wire.add_guild(id=2002, members=[other])
        assert (await browser.sign_in(one)).headers["Location"] == f"{FAILED}members"
        assert (await browser.sign_in(other)).headers["Location"] == "/"


async def test_a_discord_that_does_not_say_who_is_a_member_makes_no_stranger(sqlite_url: str, tmp_path: Path) -> None:
    async with open_discord_place(sqlite_url, tmp_path) as place, place.browser() as browser:
        member = place.wire.user(1001)
        place.wire.add_guild(id=2001, members=[member])
        for path in ("/users/@me/guilds", "/guilds/2001/members"):
            place.wire.fault(path, 500)
            assert (await browser.sign_in(member)).headers["Location"] == f"{FAILED}discord"
        assert (await browser.sign_in(member)).headers["Location"] == "/"


async def test_by_invitation_strangers_are_refused_with_the_remedy(sqlite_url: str, tmp_path: Path) -> None:
    async with open_discord_place(sqlite_url, tmp_path, REGISTRATION="invite") as place, place.browser() as browser:
        answer = await browser.sign_in(place.wire.user(1001))
        assert answer.headers["Location"] == f"{FAILED}invited"
        assert "Ask the owner" in (await browser.open(answer.headers["Location"])).text


async def test_a_disabled_account_is_refused_as_a_stranger_is(place: DiscordPlace, browser: Browser) -> None:
    await browser.sign_in(place.wire.user(1009))
    user_id = await browser.who()
    async with place.site.services.requests._storage.write() as uow:
        await uow.users.disable(user_id or "", datetime.now(UTC))
    assert await browser.who() is None
    assert (await browser.sign_in(place.wire.user(1009))).headers["Location"] == f"{FAILED}invited"
    assert await browser.who() is None


# ---------------------------------------------------------------------------------------------------------------------
# A Discord that misbehaves
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_discord_that_is_down_costs_a_sentence_and_the_next_try_succeeds(
    place: DiscordPlace, browser: Browser
) -> None:
    alice = place.wire.user(1001)
    troubles: list[Callable[[], None]] = [
        lambda: place.wire.fault("/oauth2/token", 500),
        lambda: place.wire.fault("/oauth2/token", 0, times=2),
        lambda: place.wire.fault("/users/@me", 502),
        lambda: place.wire.rate_limit("/oauth2/token"),
        lambda: place.wire.rate_limit("/users/@me", banned=True),
        lambda: place.wire.fault("/users/@me", 401),
    ]
    for make in troubles:
        make()
        assert (await browser.sign_in(alice)).headers["Location"] == f"{FAILED}discord"
        place.wire._rest.faults.clear()
    assert (await browser.sign_in(alice)).headers["Location"] == "/"


async def test_a_wrong_client_secret_is_the_owners_to_correct(sqlite_url: str, tmp_path: Path) -> None:
    given = {"REGISTRATION": "open", "DISCORD_CLIENT_SECRET": "wire-client-former"}
    async with open_discord_place(sqlite_url, tmp_path, **given) as place, place.browser() as browser:
        assert (await browser.sign_in(place.wire.user(1001))).headers["Location"] == f"{FAILED}settings"


def application(base: str) -> DiscordApplication:
    return DiscordApplication(
        client_id="1",
        client_secret=SecretText("client-secret"),
        redirect_uri="https://keys.example.org/auth/discord/callback",
        api_base=base,
    )


GRANT = {"access_token": "token-of-discord", "token_type": "Bearer", "scope": "identify", "expires_in": 1}


@pytest.mark.parametrize(
    ("status", "body", "content_type", "expected"),
    [
        (200, b"<html>Just a moment...</html>", "text/html", DiscordUnavailable),
        (200, b"{", "application/json", DiscordUnavailable),
        (200, b"[]", "application/json", DiscordUnavailable),
        (200, b"[" * 100_000, "application/json", DiscordUnavailable),
        (200, b"null", "application/json", DiscordUnavailable),
        (200, b'{"access_token": 5, "scope": "identify"}', "application/json", DiscordUnavailable),
        (200, b'{"access_token": "a\\r\\nb", "scope": "identify"}', "application/json", DiscordUnavailable),
        (200, b'{"access_token": "x"}', "application/json", InvalidToken),
        (200, b'{"access_token": "x", "scope": "email"}', "application/json", InvalidToken),
        (200, b'{"x": "' + b"x" * 400_000 + b'"}', "application/json", DiscordUnavailable),
        (302, b"", "text/html", DiscordUnavailable),
        (400, b'{"error": "invalid_grant"}', "application/json", InvalidToken),
        (400, b"nonsense", "text/plain", DiscordUnavailable),
        (401, b'{"error": "invalid_client"}', "application/json", NotConfigured),
        (403, b"{}", "application/json", DiscordUnavailable),
        (429, b'{"retry_after": 5}', "application/json", DiscordUnavailable),
        (503, b"upstream connect error", "text/plain", DiscordUnavailable),
    ],
)
async def test_whatever_discord_answers_to_a_code_is_an_error_with_a_name(
    status: int, body: bytes, content_type: str, expected: type[AppError], caplog: pytest.LogCaptureFixture
) -> None:
    async def token(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Content-Type": content_type, "Location": "/elsewhere"})

    with caplog.at_level(logging.DEBUG):
        async with serving_discord(token) as base:
            with pytest.raises(expected) as raised:
                await DiscordAccountsImpl(application(base)).identify(
                    SecretText("the-code"), SecretText("the-verifier")
                )
    said = caplog.text + str(raised.value) + repr(raised.value)
    assert not any(secret in said for secret in ("the-code", "a-verifier", "client-secret"))


@pytest.mark.parametrize("who", [b"{}", b"[]", b'{"id": "x"}', b'{"id": "0"}', b'{"id": true}', b'{"id": null}', b"<>"])
async def test_whoever_discord_names_must_be_a_user(who: bytes) -> None:
    async def token(_: web.Request) -> web.Response:
        return web.json_response(GRANT)

    async def me(_: web.Request) -> web.Response:
        return web.Response(body=who, content_type="application/json")

    async with serving_discord(token, me) as base:
        with pytest.raises(DiscordUnavailable):
            await DiscordAccountsImpl(application(base)).identify(SecretText("code"), SecretText("verifier"))


async def test_a_discord_that_is_silent_or_drips_is_left_after_the_deadline() -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    async with serving_discord(silent) as base:
        accounts = DiscordAccountsImpl(application(base), within=0.3)
        with pytest.raises(DiscordUnavailable):
            await accounts.identify(SecretText("code"), SecretText("verifier"))


async def test_nothing_of_a_sign_in_is_logged(
    place: DiscordPlace, browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("aiohttp.client").setLevel(logging.DEBUG)
        address = await browser.agree(await browser.depart(), place.wire.user(1001))
        ticket, found = browser.cookie(TICKET) or "", parameters(address)
        place.wire.fault("/users/@me", 500)
        await browser.come_back(address)
        await browser.sign_in(place.wire.user(1001))
    logged = json.dumps(
        [vars(each) for each in caplog.records if each.name.startswith(("app.", "keyhall"))], default=str
    )
    tokens = list(place.wire._rest._oauth._grants)
    assert len(tokens) >= 2
    assert "GET /auth/discord/callback" in logged
    for secret in (found["code"], found["state"], ticket, place.wire.client_secret, *tokens):
        assert secret not in logged


# ---------------------------------------------------------------------------------------------------------------------
# Without an application at Discord
# ---------------------------------------------------------------------------------------------------------------------


async def test_without_its_settings_nothing_is_offered(tmp_path: Path) -> None:
    async with open_site(sqlite_place(tmp_path)) as site:
        assert "Discord" not in (await site.page("/login")).text
        for path in ("/auth/discord", "/auth/discord/callback?code=x&state=y"):
            answer = await site.page(path)
            assert (answer.status, answer.headers.get("Location")) in {(409, None), (303, f"{FAILED}settings")}


# ---------------------------------------------------------------------------------------------------------------------


class serving_discord:  # noqa: N801 - used like a function
    """A Discord of which only these two answers exist."""

    def __init__(self, token: Any, me: Any = None) -> None:
        app = web.Application()
        app.router.add_post("/oauth2/token", token)
        if me is not None:
            app.router.add_get("/users/@me", me)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def __aenter__(self) -> str:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
