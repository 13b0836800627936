"""Claim links over the real services, on both engines."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.domain.attempts import PER_NETWORK
from app.domain.audit import Action, Result
from app.domain.errors import AlreadyExists, Forbidden, InvalidCredentials, InvalidInput, InvalidToken, TooManyAttempts
from app.domain.identity import Client, Role, Source
from app.domain.links import LINK_LASTS, LinkPurpose
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.database.engine import open_database
from app.infrastructure.database.unit_of_work import SqlUnitOfWork
from app.settings import DatabaseUrl
from tests.support.database import until_waiting
from tests.support.fakes import FakeClock, FakeRandomness, FakeStorage
from tests.support.installs import Place
from tests.support.keyhall import Keyhall, member, open_keyhall
from tests.support.samples import PASSWORD

if TYPE_CHECKING:
    from app.services.links import Claimable

WEB = Client(source=Source.WEB, address="192.0.2.9")


@pytest.fixture
async def place(engine_url: str, tmp_path: Path) -> Place:
    return await Place(engine_url, tmp_path / "data").install()


async def test_of_fifty_simultaneous_claims_one_succeeds(place: Place) -> None:
    async with place.services() as services:
        made = await services.identity.create_claimable(await services.identity.operator(), "mia", Role.MEMBER)
        with pytest.raises(InvalidCredentials):
            await services.authentication.login("mia", PASSWORD, WEB)
        passwords = [f"{PASSWORD} {number}" for number in range(50)]
        networks = [Client(source=Source.WEB, address=f"192.0.2.{number % 5}") for number in range(50)]
        results = await asyncio.gather(
            *(
                services.claims.claim(made.token.reveal(), each, network)
                for each, network in zip(passwords, networks, strict=True)
            ),
            return_exceptions=True,
        )
        (won,) = (number for number, result in enumerate(results) if not isinstance(result, BaseException))
        assert {type(each) for number, each in enumerate(results) if number != won} == {InvalidToken}
        await services.authentication.login("mia", passwords[won], WEB)
        with pytest.raises(InvalidToken):
            await services.claims.claim(made.token.reveal(), PASSWORD, WEB)
        with pytest.raises(AlreadyExists):
            await services.claims.issue(await services.identity.operator(), "mia")
    stored = repr(await place.contents())
    assert made.token.reveal() not in stored
    assert stored.count(Action.USER_CLAIMED.value) >= 2, "the claim and a refused one are in the audit trail"


async def test_of_links_issued_at_once_one_works(place: Place) -> None:
    async with place.services() as one, place.services() as other:
        operator = await one.identity.operator()
        await one.identity.create_claimable(operator, "mia", Role.MEMBER)
        issued = await asyncio.gather(*(each.claims.issue(operator, "mia") for each in (one, other, one, other)))
        assert len((await place.contents())["one_time_links"]) == 1
        results = await asyncio.gather(
            *(one.claims.claim(each.token.reveal(), PASSWORD, WEB) for each in issued), return_exceptions=True
        )
        assert sorted(type(each).__name__ for each in results) == [*["InvalidToken"] * 3, "User"]


async def test_a_claim_beside_a_reset_is_refused_and_neither_waits_for_the_other(
    postgres_url: str, tmp_path: Path
) -> None:
    """A reset locks the user's row and then the links: a claim in another order would hold what the reset waits for."""
    place = await Place(postgres_url, tmp_path / "data").install()
    async with place.services() as services:
        made = await services.identity.create_claimable(await services.identity.operator(), "mia", Role.MEMBER)
        async with open_database(DatabaseUrl.parse(place.url), may_create=False) as database:
            async with database.write() as connection:
                reset = SqlUnitOfWork(connection, SystemRandomness())
                await reset.sessions.end_all_of(made.user.id, SystemClock().now())
                claim = asyncio.create_task(services.claims.claim(made.token.reveal(), PASSWORD, WEB))
                await until_waiting(connection, 1, claim)
                await reset.links.withdraw(made.user.id, LinkPurpose.CLAIM)
            with pytest.raises(InvalidToken):
                await claim


# ---------------------------------------------------------------------------------------------------------------------
# In memory, where the clock is ours
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory(frozen: FakeClock) -> FakeStorage:
    return FakeStorage(frozen)


@pytest.fixture
def frozen() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def keyhall(memory: FakeStorage, frozen: FakeClock) -> Keyhall:
    return await open_keyhall(memory, frozen, FakeRandomness())


async def _made(keyhall: Keyhall, name: str = "mia") -> Claimable:
    identity = keyhall.services.identity
    return await identity.create_claimable(await identity.operator(), name, Role.MEMBER)


async def test_every_token_that_serves_nobody_gets_one_answer(
    keyhall: Keyhall, frozen: FakeClock, memory: FakeStorage
) -> None:
    claims, operator = keyhall.services.claims, await keyhall.services.identity.operator()
    expired, replaced, disabled = await _made(keyhall), await _made(keyhall, "bob"), await _made(keyhall, "eve")
    await claims.issue(operator, "bob")
    async with keyhall.storage.write() as uow:
        await uow.users.disable(disabled.user.id, frozen.now())
    answers = set()
    for token in (replaced.token.reveal(), disabled.token.reveal(), "khl_unknown", "x"):
        with pytest.raises(InvalidToken) as refused:
            await claims.claim(token, PASSWORD, WEB)
        answers.add(str(refused.value))
    keyhall.advance(frozen, LINK_LASTS)
    with pytest.raises(InvalidToken) as refused:
        await claims.claim(expired.token.reveal(), PASSWORD, WEB)
    assert answers == {str(refused.value)}
    assert (Action.USER_CLAIMED, Result.DENIED) in memory.trail()
    with pytest.raises(Forbidden):
        await claims.issue(operator, "eve")


async def test_the_whole_link_may_be_pasted_and_a_mistake_leaves_it_usable(keyhall: Keyhall) -> None:
    made, claims = await _made(keyhall), keyhall.services.claims
    link = f" https://keyhall.example.org/claim#{made.token.reveal()}\n"
    for password, name in (("short", None), ("password1234", None), (PASSWORD, "somebody else")):
        with pytest.raises(InvalidInput):
            await claims.claim(link, password, WEB, username=name)
    assert (await claims.claim(link, PASSWORD, WEB, username="MIA")).username == "mia"


async def test_wrong_tokens_are_limited_and_keep_neither_good_links_nor_sign_ins_out(
    keyhall: Keyhall,
) -> None:
    made, claims = await _made(keyhall), keyhall.services.claims
    for number in range(PER_NETWORK):
        with pytest.raises(InvalidToken):
            await claims.claim(f"khl_{number}", PASSWORD, WEB)
    with pytest.raises(TooManyAttempts):
        await claims.claim("khl_one_more", PASSWORD, WEB)
    await claims.claim(made.token.reveal(), PASSWORD, WEB)
    await keyhall.services.authentication.login("mia", PASSWORD, WEB)


async def test_only_those_who_manage_users_make_links(keyhall: Keyhall, frozen: FakeClock) -> None:
    await _made(keyhall)
    with pytest.raises(Forbidden):
        await keyhall.services.claims.issue(member(frozen, "mia"), "mia")
    with pytest.raises(Forbidden):
        await keyhall.services.identity.create_claimable(member(frozen, "mia"), "tom", Role.MEMBER)


async def test_housekeeping_deletes_expired_links(keyhall: Keyhall, frozen: FakeClock, memory: FakeStorage) -> None:
    await _made(keyhall)
    await keyhall.housekeeping.sweep()
    assert len(memory.tables.links) == 1
    keyhall.advance(frozen, LINK_LASTS + timedelta(seconds=1))
    await keyhall.housekeeping.sweep()
    assert memory.tables.links == {}
