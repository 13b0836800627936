"""Second factors over real databases: once across processes, limits that hold, rotations, resets and edited rows."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from app.domain.attempts import WRONG_CODES
from app.domain.errors import (
    InvalidCredentials,
    InvalidToken,
    NotReady,
    OtpRequired,
    SecondFactorUnreadable,
    TooManyAttempts,
    UniqueViolation,
)
from app.domain.identity import Actor, Client, Source
from app.domain.second_factor import TotpFactor
from app.infrastructure.clock import SystemClock
from app.infrastructure.database.errors import ConstraintBroken
from tests.support.database import NOW, user
from tests.support.installs import Place
from tests.support.samples import PASSWORD
from tests.support.second_factors import Enrolled, enrol_by_the_clock

if TYPE_CHECKING:
    from pathlib import Path

    from app.services import Services
    from app.services.ports import Storage

WEB = Client(source=Source.WEB, address="192.0.2.7")
ELSEWHERE = Client(source=Source.WEB, address="203.0.113.9")


@pytest.fixture
async def place(engine_url: str, tmp_path: Path) -> Place:
    return await Place(engine_url, tmp_path / "data").install()


async def signed_in(services: Services, otp: str | None = None, client: Client = WEB) -> Actor:
    pair = await services.authentication.login("alice", PASSWORD, client, otp=otp)
    return await services.requests.authenticate(pair.access_token.reveal(), client)


async def alice_with_a_factor(services: Services) -> Enrolled:
    await services.identity.create_owner("alice", PASSWORD, WEB)
    return await enrol_by_the_clock(services, await signed_in(services))


# ---------------------------------------------------------------------------------------------------------------------
# Once
# ---------------------------------------------------------------------------------------------------------------------


async def test_of_fifty_submissions_in_two_processes_one_uses_a_code_also_after_a_restart(place: Place) -> None:
    async with place.services() as one, place.services() as other:
        enrolled = await alice_with_a_factor(one)
        code = enrolled.app.at(SystemClock().now(), 1)  # valid for a minute from now on
        for used in (code, enrolled.recovery_codes[0]):
            tries = [signed_in(process, used) for _ in range(25) for process in (one, other)]
            results = await asyncio.gather(*tries, return_exceptions=True)
            assert len([each for each in results if isinstance(each, Actor)]) == 1
            refused = {type(each) for each in results if isinstance(each, BaseException)}
            # A busy machine, on which nobody confirmed the keys for five seconds, refuses some before it looks.
            assert refused <= {InvalidCredentials, TooManyAttempts, NotReady}
            await one.authentication.unlock(await one.identity.operator(), "alice")
    async with place.services() as restarted:
        for used in (code, enrolled.recovery_codes[0]):
            with pytest.raises(InvalidCredentials):
                await signed_in(restarted, used)
        assert isinstance(await signed_in(restarted, enrolled.recovery_codes[1]), Actor)


async def test_one_code_serves_one_purpose_of_many_at_once(place: Place) -> None:
    async with place.services() as one, place.services() as other:
        enrolled = await alice_with_a_factor(one)
        session = await signed_in(one, enrolled.recovery_codes[0])
        await one.identity.link(await one.identity.operator(), "alice", "42")
        discord = dataclasses.replace(session, client=Client(source=Source.DISCORD), session_id=None, discord_id="42")
        with pytest.raises(OtpRequired) as asked:
            await one.authentication.login_browser("alice", PASSWORD, WEB)
        assert asked.value.pending is not None
        code = enrolled.app.at(SystemClock().now(), 1)
        results = await asyncio.gather(
            signed_in(one, code),
            other.authentication.reauthenticate(session, PASSWORD, otp=code),
            other.second_factor.prove(discord, code),
            one.authentication.finish_browser(asked.value.pending.reveal(), code, WEB),
            return_exceptions=True,
        )
        assert sum(not isinstance(each, BaseException) for each in results) == 1
        assert {type(each) for each in results if isinstance(each, BaseException)} == {InvalidCredentials}


async def test_of_simultaneous_starts_and_confirmations_one_secret_counts(place: Place) -> None:
    async with place.services() as one, place.services() as other:
        await one.identity.create_owner("alice", PASSWORD, WEB)
        actor = await signed_in(one)
        await asyncio.gather(*(each.second_factor.start(actor) for each in (one, other, one, other)))
        assert len((await place.contents())["totp_factors"]) == 1
        results = await asyncio.gather(
            *(enrol_by_the_clock(each, actor) for each in (one, other)), return_exceptions=True
        )
        enrolled = [each for each in results if isinstance(each, Enrolled)]
        assert len(enrolled) == 1
        assert len((await place.contents())["recovery_codes"]) == 10
        assert isinstance(await signed_in(other, enrolled[0].app.at(SystemClock().now(), 1)), Actor)


# ---------------------------------------------------------------------------------------------------------------------
# Limits
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_of_a_thousand_wrong_codes_in_two_processes_ten_are_judged(place: Place) -> None:
    """Each refusal rolls its own sign-in back; the count of wrong codes is committed beforehand."""
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(place.services()) for _ in range(2)]
        enrolled = await alice_with_a_factor(processes[0])
        with pytest.raises(OtpRequired) as asked:
            await processes[0].authentication.login_browser("alice", PASSWORD, WEB)
        pending = asked.value.pending.reveal() if asked.value.pending else ""
        wrong, judged = enrolled.app.wrong(SystemClock().now()), 0

        async def attempt(number: int) -> None:
            nonlocal judged
            process, client = processes[number % 2], Client(source=Source.WEB, address=f"198.51.100.{number % 250}")
            while True:
                try:
                    await process.authentication.finish_browser(pending, wrong, client)
                except InvalidCredentials:
                    judged += 1
                except TooManyAttempts:
                    pass
                except NotReady:  # a busy machine, on which nobody confirmed the keys for five seconds
                    await process.keys.reload()
                    continue
                return

        for begin in range(0, 1000, 50):
            await asyncio.gather(*(attempt(begin + number) for number in range(50)))
        assert judged == WRONG_CODES
        for process in processes:
            with pytest.raises(TooManyAttempts):
                await signed_in(process, enrolled.app.at(SystemClock().now()), ELSEWHERE)
    async with place.services() as restarted:
        with pytest.raises(TooManyAttempts):
            await signed_in(restarted, enrolled.app.at(SystemClock().now()), ELSEWHERE)
        assert isinstance(await signed_in(restarted, enrolled.recovery_codes[0], ELSEWHERE), Actor)


# ---------------------------------------------------------------------------------------------------------------------
# Rows that were edited
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        "encrypted_secret = substr(encrypted_secret, 1, 60)",
        "key_version = 7, encrypted_secret = substr(encrypted_secret, 2)",
        "id = 'another'",
    ],
)
async def test_an_edited_secret_lets_nobody_in_without_a_recovery_code(place: Place, edit: str) -> None:
    async with place.services() as services:
        enrolled = await alice_with_a_factor(services)
        await place.execute(f"UPDATE totp_factors SET {edit}")  # noqa: S608 - constants above
        services.credentials._storage.forget_rows()
        with pytest.raises(OtpRequired):
            await signed_in(services)
        with pytest.raises(SecondFactorUnreadable):
            await signed_in(services, enrolled.app.at(SystemClock().now()))
        operator = await services.identity.operator()
        [step] = [each async for each in services.credentials.health.verify_all(operator)]
        assert [(each.provider, each.label) for each in step.unreadable] == [("second factor of", "alice")]
        actor = await signed_in(services, enrolled.recovery_codes[0])
        await services.second_factor.remove(actor)
        assert isinstance(await signed_in(services), Actor)


# ---------------------------------------------------------------------------------------------------------------------
# The repository
# ---------------------------------------------------------------------------------------------------------------------


def factor(number: int = 1, *, minutes: int = 0) -> TotpFactor:
    return TotpFactor(
        id=f"factor-{number}",
        user_id="user-alice",
        encrypted_secret=b"envelope \x00",
        key_version=number,
        created_at=NOW + timedelta(minutes=minutes),
    )


async def test_a_secret_is_pending_then_confirmed_then_used_step_by_step(storage: Storage) -> None:
    async with storage.write() as uow:
        await uow.users.add(user())
        assert await uow.factors.get("user-alice") is None
        assert await uow.factors.start(factor(1))
        assert not await uow.factors.use_step("factor-1", 5), "it is pending"
        assert await uow.factors.start(factor(2))
        assert await uow.factors.locked("user-alice") == factor(2)
        assert not await uow.factors.confirm("factor-1", 5, NOW)
        assert await uow.factors.confirm("factor-2", 5, NOW)
        assert not await uow.factors.confirm("factor-2", 6, NOW)
        assert not await uow.factors.start(factor(3))
        assert not await uow.factors.use_step("factor-2", 4)
        assert not await uow.factors.use_step("factor-2", 5)
        assert await uow.factors.use_step("factor-2", 7)
        assert not await uow.factors.use_step("factor-2", 6)
        assert not await uow.factors.use_step("factor-3", 9)
    async with storage.read() as uow:
        found = await uow.factors.get("user-alice")
        assert found == dataclasses.replace(factor(2), confirmed_at=NOW, last_step=7)
        assert "envelope" not in repr(found)
        assert await uow.factors.encrypted_by_others([1, 3]) == ["user-alice"]
        assert await uow.factors.encrypted_by_others([2]) == []
        assert await uow.factors.encrypted_by_others([]) == ["user-alice"]


async def test_recovery_codes_are_of_one_user_and_for_one_use(storage: Storage) -> None:
    async with storage.write() as uow:
        await uow.users.add(user())
        await uow.users.add(user("Bob"))
        await uow.factors.put_codes("user-alice", [b"one", b"two", b"three"], NOW)
        await uow.factors.put_codes("user-bob", [b"one"], NOW)
        assert not await uow.factors.use_code("user-bob", b"two")
        assert await uow.factors.has_code("user-alice", b"two")
        assert await uow.factors.use_code("user-alice", b"two")
        assert not await uow.factors.use_code("user-alice", b"two")
        assert not await uow.factors.has_code("user-alice", b"two")
        assert (await uow.factors.codes_left("user-alice"), await uow.factors.codes_left("user-bob")) == (2, 1)
        await uow.factors.put_codes("user-alice", [b"four"], NOW)
        assert (await uow.factors.codes_left("user-alice"), await uow.factors.codes_left("user-bob")) == (1, 1)
        await uow.factors.put_codes("user-alice", [], NOW)
        assert await uow.factors.codes_left("user-alice") == 0


async def test_clearing_deletes_all_of_one_user(storage: Storage) -> None:
    async with storage.write() as uow:
        await uow.users.add(user())
        await uow.users.add(user("Bob"))
        assert not await uow.factors.clear("user-alice")
        await uow.factors.start(factor())
        assert not await uow.factors.clear("user-alice"), "it was pending"
        await uow.factors.start(factor())
        await uow.factors.confirm("factor-1", 1, NOW)
        await uow.factors.put_codes("user-alice", [b"one"], NOW)
        await uow.factors.put_codes("user-bob", [b"one"], NOW)
        assert await uow.factors.clear("user-alice")
        assert await uow.factors.get("user-alice") is None
        assert (await uow.factors.codes_left("user-alice"), await uow.factors.codes_left("user-bob")) == (0, 1)


async def test_a_purge_takes_old_pending_secrets_alone(storage: Storage) -> None:
    async with storage.write() as uow:
        await uow.users.add(user())
        await uow.factors.start(factor(minutes=5))
        assert await uow.factors.purge(NOW) == 0
        assert await uow.factors.purge(NOW + timedelta(hours=1), limit=0) == 0
        assert await uow.factors.purge(NOW + timedelta(hours=1), limit=5) == 1
        await uow.factors.start(factor())
        await uow.factors.confirm("factor-1", 1, NOW)
        assert await uow.factors.purge(NOW + timedelta(days=400)) == 0


async def test_a_factor_belongs_to_a_user_that_there_is(storage: Storage) -> None:
    with pytest.raises((ConstraintBroken, UniqueViolation)):
        async with storage.write() as uow:
            await uow.factors.start(factor())
    with pytest.raises((ConstraintBroken, UniqueViolation)):
        async with storage.write() as uow:
            await uow.factors.put_codes("user-alice", [b"one"], NOW)


async def test_what_is_pending_ends_when_the_factor_is_cleared_and_sessions_are_ended(place: Place) -> None:
    """As a reset by an admin does it."""
    async with place.services() as services:
        enrolled = await alice_with_a_factor(services)
        actor = await signed_in(services, enrolled.recovery_codes[0])
        with pytest.raises(OtpRequired) as asked:
            await services.authentication.login_browser("alice", PASSWORD, WEB)
        async with services.credentials._storage.write() as uow:
            await uow.sessions.end_all_of(actor.user_id, SystemClock().now())
            assert await uow.factors.clear(actor.user_id)
        pending = asked.value.pending.reveal() if asked.value.pending else ""
        with pytest.raises(InvalidToken):
            await services.authentication.finish_browser(pending, enrolled.app.at(SystemClock().now()), WEB)
        assert isinstance(await signed_in(services), Actor)
