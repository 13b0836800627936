"""Passwords that are replaced by their owner, by a reset link and by the operator, on both engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.domain.attempts import PER_OWN
from app.domain.audit import Action
from app.domain.errors import (
    Forbidden,
    InvalidCredentials,
    InvalidInput,
    InvalidToken,
    NotFound,
    PasswordChanged,
    TooManyAttempts,
)
from app.domain.identity import Actor, Client, Role, Source, User
from app.domain.links import LinkPurpose
from app.services import Services
from app.services.authentication import TokenPair
from tests.support.installs import Place
from tests.support.samples import NEW_PASSWORD as NEW
from tests.support.samples import PASSWORD

WEB = Client(source=Source.WEB, address="192.0.2.7", device="a test")


@pytest.fixture
async def place(engine_url: str, tmp_path: Path) -> Place:
    return await Place(engine_url, tmp_path / "data").install()


@pytest.fixture
async def services(place: Place) -> AsyncIterator[Services]:
    async with place.services() as opened:
        await opened.identity.create_owner("alice", PASSWORD, WEB)
        yield opened


async def _signed_in(services: Services, password: str = PASSWORD) -> tuple[Actor, str, str]:
    pair = await services.authentication.login("alice", password, WEB)
    access = pair.access_token.reveal()
    return await services.requests.authenticate(access, WEB), access, pair.refresh_token.reveal()


async def _alice(services: Services) -> User:
    page = await services.users.page(await services.identity.operator())
    return next(each for each in page.items if each.username == "alice")


async def _is_alive(services: Services, access: str) -> bool:
    try:
        await services.requests.authenticate(access, WEB)
    except InvalidToken:
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------------
# By their owner
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_change_ends_every_other_session_and_keeps_this_one(services: Services) -> None:
    actor, access, refresh = await _signed_in(services)
    _, other_access, other_refresh = await _signed_in(services)
    browser = await services.authentication.login_browser("alice", PASSWORD, WEB)
    await services.passwords.change(actor, PASSWORD, NEW)
    assert await _is_alive(services, access)
    await services.authentication.refresh(refresh, WEB)
    assert not await _is_alive(services, other_access)
    with pytest.raises(InvalidToken):
        await services.authentication.refresh(other_refresh, WEB)
    with pytest.raises(InvalidToken):
        await services.requests.authenticate_browser(browser.cookie.reveal(), WEB)
    assert [each.id for each in (await services.authentication.sessions(actor)).items] == [actor.session_id]
    with pytest.raises(InvalidCredentials):
        await services.authentication.login("alice", PASSWORD, WEB)
    await services.authentication.login("alice", NEW, WEB)


async def test_a_browser_that_changes_it_gets_another_cookie_and_another_device_claim(services: Services) -> None:
    signed_in = await services.authentication.login_browser("alice", PASSWORD, WEB)
    assert signed_in.device_claim is not None
    claimed = Client(source=Source.WEB, address="192.0.2.7", claim=signed_in.device_claim.reveal())
    former = signed_in.cookie.reveal()
    actor = await services.requests.authenticate_browser(former, claimed)
    kept = await services.passwords.change(actor, PASSWORD, NEW, cookie=former)
    assert kept.browser is not None
    again = await services.requests.authenticate_browser(kept.browser.cookie.reveal(), claimed)
    assert again.session_id == actor.session_id
    with pytest.raises(InvalidToken):
        await services.requests.authenticate_browser(former, claimed)
    # With the former claim this is a stranger; only the new one has a budget of its own.
    strangers = [services.authentication.login("alice", "not the password", WEB) for _ in range(PER_OWN)]
    await asyncio.gather(*strangers, return_exceptions=True)
    with pytest.raises(TooManyAttempts):
        await services.authentication.login("alice", "not the password", claimed)
    known = Client(source=Source.WEB, address="198.51.100.1", claim=kept.device_claim.reveal())
    with pytest.raises(InvalidCredentials):
        await services.authentication.login("alice", "not the password", known)
    await services.authentication.login("alice", NEW, known)


async def test_the_present_password_is_proven_within_the_budget_of_the_session(services: Services) -> None:
    actor, access, _ = await _signed_in(services)
    for _ in range(PER_OWN):
        with pytest.raises(InvalidCredentials):
            await services.passwords.change(actor, "not the password", NEW)
    with pytest.raises(TooManyAttempts):
        await services.passwords.change(actor, PASSWORD, NEW)
    assert await _is_alive(services, access)
    other, _, _ = await _signed_in(services)
    await services.passwords.change(other, PASSWORD, NEW)


@pytest.mark.parametrize(
    "new", ["short", "password1234", "alice-alice-2026", "x" * 257, "a\0bcdefghijklmnop", PASSWORD]
)
async def test_a_new_password_must_be_good_and_new(services: Services, new: str) -> None:
    actor, _, _ = await _signed_in(services)
    with pytest.raises(InvalidInput) as refused:
        await services.passwords.change(actor, PASSWORD, new)
    assert refused.value.field == "new_password"
    await services.authentication.login("alice", PASSWORD, WEB)


async def test_passwords_that_are_equal_in_nfkc_are_one_password(services: Services) -> None:
    actor, _, _ = await _signed_in(services)
    await services.passwords.change(actor, PASSWORD, "ﬁnd the Ångström key, 2 doors down")
    await services.authentication.login("alice", "find the A\u030angstro\u0308m key, 2 doors down", WEB)
    with pytest.raises(InvalidInput):
        await services.passwords.change(
            actor, "ﬁnd the Ångström key, 2 doors down", "find the \u212bngström key, \uff12 doors down"
        )


async def test_of_simultaneous_changes_one_wins_and_the_others_are_told(place: Place, services: Services) -> None:
    async with place.services() as elsewhere:
        one, _, _ = await _signed_in(services)
        other, _, _ = await _signed_in(services)
        chosen = [f"{NEW} {number}" for number in range(6)]
        changes = [
            (services, elsewhere)[number % 2].passwords.change((one, one, other)[number % 3], PASSWORD, each)
            for number, each in enumerate(chosen)
        ]
        results = await asyncio.gather(*changes, return_exceptions=True)
        (won,) = (number for number, each in enumerate(results) if not isinstance(each, BaseException))
        lost = {type(each) for number, each in enumerate(results) if number != won}
        assert lost <= {PasswordChanged, InvalidCredentials, InvalidToken}
        await services.authentication.login("alice", chosen[won], WEB)


async def test_a_sign_in_that_races_a_change_does_not_survive_it(place: Place, services: Services) -> None:
    async with place.services() as elsewhere:
        password = PASSWORD
        for turn in range(5):
            actor, _, _ = await _signed_in(services, password)
            new = f"{NEW} {turn}"
            racing = [
                (services, elsewhere)[number % 2].authentication.login("alice", password, WEB) for number in range(6)
            ]
            changed, *signed_in = await asyncio.gather(
                services.passwords.change(actor, password, new), *racing, return_exceptions=True
            )
            assert not isinstance(changed, BaseException)
            for each in signed_in:
                if isinstance(each, BaseException):
                    assert isinstance(each, InvalidCredentials)
                    continue
                assert isinstance(each, TokenPair)
                assert not await _is_alive(services, each.access_token.reveal())
                with pytest.raises(InvalidToken):
                    await services.authentication.refresh(each.refresh_token.reveal(), WEB)
            password = new


async def test_ending_all_others_keeps_this_one(services: Services) -> None:
    actor, access, refresh = await _signed_in(services)
    _, other, _ = await _signed_in(services)
    await services.passwords.end_other_sessions(actor)
    assert await _is_alive(services, access)
    assert not await _is_alive(services, other)
    await services.authentication.refresh(refresh, WEB)


async def test_an_account_without_a_password_gets_its_first_one_by_a_fresh_session(
    place: Place, services: Services
) -> None:
    actor, _, _ = await _signed_in(services)
    with pytest.raises(InvalidCredentials):
        await services.passwords.change(actor, None, NEW)
    await place.execute("UPDATE users SET password_hash = NULL")
    assert not await services.passwords.has_password(actor)
    with pytest.raises(InvalidCredentials):
        await services.passwords.change(actor, PASSWORD, NEW)
    await services.passwords.change(actor, None, NEW)
    await services.authentication.login("alice", NEW, WEB)


# ---------------------------------------------------------------------------------------------------------------------
# By a reset link
# ---------------------------------------------------------------------------------------------------------------------


async def _reset_link(place: Place, services: Services) -> str:
    alice = await _alice(services)
    async with place.keys() as opened, opened.storage.write() as uow:
        made = await services.claims.issue_reset(uow, await services.identity.operator(), alice)
    return made.token.reveal()


async def test_a_reset_link_replaces_the_password_once_and_ends_every_session(place: Place, services: Services) -> None:
    _, access, _ = await _signed_in(services)
    token = await _reset_link(place, services)
    assert await _is_alive(services, access), "issuing alone ends nothing"
    with pytest.raises(InvalidInput):
        await services.claims.claim(token, "password1234", WEB)
    results = await asyncio.gather(
        *(services.claims.claim(token, f"{NEW} {number}", WEB) for number in range(5)), return_exceptions=True
    )
    (won,) = (number for number, each in enumerate(results) if not isinstance(each, BaseException))
    assert {type(each) for number, each in enumerate(results) if number != won} == {InvalidToken}
    assert not await _is_alive(services, access)
    with pytest.raises(InvalidCredentials):
        await services.authentication.login("alice", PASSWORD, WEB)
    await services.authentication.login("alice", f"{NEW} {won}", WEB)
    stored = repr(await place.contents())
    assert token not in stored
    assert stored.count(Action.PASSWORD_RESET.value) == 1


async def test_a_change_withdraws_reset_links_and_a_reset_takes_the_place_of_a_claim(
    place: Place, services: Services
) -> None:
    actor, _, _ = await _signed_in(services)
    first = await _reset_link(place, services)
    second = await _reset_link(place, services)
    await services.passwords.change(actor, PASSWORD, NEW)
    for token in (first, second):
        with pytest.raises(InvalidToken):
            await services.claims.claim(token, PASSWORD, WEB)
    operator = await services.identity.operator()
    made = await services.identity.create_claimable(operator, "mia", Role.MEMBER)
    async with place.keys() as opened, opened.storage.write() as uow:
        reset = await services.claims.issue_reset(uow, operator, made.user)
    with pytest.raises(InvalidToken):
        await services.claims.claim(made.token.reveal(), PASSWORD, WEB)
    await services.claims.claim(reset.token.reveal(), PASSWORD, WEB)
    await services.authentication.login("mia", PASSWORD, WEB)


async def test_a_disabled_account_is_not_reset(place: Place, services: Services) -> None:
    token = await _reset_link(place, services)
    await place.execute("UPDATE users SET disabled_at = created_at")
    with pytest.raises(InvalidToken):
        await services.claims.claim(token, NEW, WEB)
    with pytest.raises(Forbidden):
        await _reset_link(place, services)
    with pytest.raises(Forbidden):
        await services.passwords.set(await services.identity.operator(), "alice", NEW)


# ---------------------------------------------------------------------------------------------------------------------
# By the operator
# ---------------------------------------------------------------------------------------------------------------------


async def test_the_operator_sets_a_password_and_nobody_else_does(place: Place, services: Services) -> None:
    actor, access, _ = await _signed_in(services)
    token = await _reset_link(place, services)
    with pytest.raises(Forbidden):
        await services.passwords.set(actor, "alice", NEW)
    operator = await services.identity.operator()
    with pytest.raises(NotFound):
        await services.passwords.set(operator, "nobody", NEW)
    with pytest.raises(InvalidInput):
        await services.passwords.set(operator, "alice", "password1234")
    assert await _is_alive(services, access)
    await services.passwords.set(operator, "ALICE", NEW)
    assert not await _is_alive(services, access)
    with pytest.raises(InvalidToken):
        await services.claims.claim(token, PASSWORD, WEB)
    with pytest.raises(InvalidCredentials):
        await services.authentication.login("alice", PASSWORD, WEB)
    await services.authentication.login("alice", NEW, WEB)
    assert LinkPurpose.RESET.value not in repr((await place.contents())["one_time_links"])
