"""How long sessions last: without use, at most, and after the password was changed in them (ASVS 5.0, 7.3)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.domain.errors import InvalidToken, ReauthenticationRequired
from app.domain.identity import REAUTHENTICATION_LASTS, SESSION_IDLE, Client, Role, Source
from app.services import Services
from tests.support.fakes import FakeClock
from tests.support.keyhall import SESSION_LIFETIME, Keyhall
from tests.support.samples import NEW_PASSWORD, PASSWORD

WEB = Client(source=Source.WEB, address="192.0.2.1", device="a test")


@pytest.fixture
async def services(keyhall: Keyhall) -> Services:
    identity = keyhall.services.identity
    await identity.create(await identity.operator(), "mia", PASSWORD, Role.MEMBER)
    return keyhall.services


async def test_a_program_that_was_not_seen_for_a_week_is_signed_out_and_not_listed(
    keyhall: Keyhall, services: Services, clock: FakeClock
) -> None:
    idle = await services.authentication.login("mia", PASSWORD, WEB)
    keyhall.advance(clock, SESSION_IDLE)
    present = await services.authentication.login("mia", PASSWORD, WEB)
    actor = await services.requests.authenticate(present.access_token.reveal(), WEB)
    with pytest.raises(InvalidToken):
        await services.authentication.refresh(idle.refresh_token.reveal(), WEB)
    assert [each.id for each in (await services.authentication.sessions(actor)).items] == [actor.session_id]


async def test_a_change_of_the_password_does_not_lengthen_the_session(
    keyhall: Keyhall, services: Services, clock: FakeClock
) -> None:
    cookie = (await services.authentication.login_browser("mia", PASSWORD, WEB)).cookie.reveal()
    step = SESSION_IDLE - timedelta(minutes=1)
    for _ in range(SESSION_LIFETIME // step):
        keyhall.advance(clock, step)
        await services.requests.authenticate_browser(cookie, WEB)
    actor = await services.requests.authenticate_browser(cookie, WEB)
    kept = await services.passwords.change(actor, PASSWORD, NEW_PASSWORD, cookie=cookie)
    assert kept.browser is not None
    renewed = kept.browser.cookie.reveal()
    await services.requests.authenticate_browser(renewed, WEB)
    keyhall.advance(clock, step)
    with pytest.raises(InvalidToken):
        await services.requests.authenticate_browser(renewed, WEB)


async def test_a_change_of_the_password_does_not_make_the_session_fresh(
    keyhall: Keyhall, services: Services, clock: FakeClock
) -> None:
    """It asks for no second factor, which proving anew would."""
    access = (await services.authentication.login("mia", PASSWORD, WEB)).access_token.reveal()
    actor = await services.requests.authenticate(access, WEB)
    keyhall.advance(clock, REAUTHENTICATION_LASTS + timedelta(seconds=1))
    await services.passwords.change(actor, PASSWORD, NEW_PASSWORD)
    with pytest.raises(ReauthenticationRequired):
        (await services.requests.authenticate(access, WEB)).require_fresh(clock.now())


async def test_ending_the_other_sessions_proves_nothing(keyhall: Keyhall, services: Services, clock: FakeClock) -> None:
    access = (await services.authentication.login("mia", PASSWORD, WEB)).access_token.reveal()
    actor = await services.requests.authenticate(access, WEB)
    keyhall.advance(clock, timedelta(minutes=20))
    await services.passwords.end_other_sessions(actor)
    assert (await services.requests.authenticate(access, WEB)).authenticated_at == actor.authenticated_at


async def test_a_session_that_ended_meanwhile_changes_no_password(services: Services) -> None:
    access = (await services.authentication.login("mia", PASSWORD, WEB)).access_token.reveal()
    actor = await services.requests.authenticate(access, WEB)
    await services.authentication.end_session(actor)
    with pytest.raises(InvalidToken):
        await services.passwords.change(actor, PASSWORD, NEW_PASSWORD)
    with pytest.raises(InvalidToken):
        await services.passwords.end_other_sessions(actor)
    await services.authentication.login("mia", PASSWORD, WEB)
