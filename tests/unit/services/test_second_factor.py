"""The second factor of an account, on a storage in memory and with a clock that the tests move."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta

import pytest

from app.domain.attempts import CODES_ASKED_FOR, WRONG_CODES, WRONG_CODES_A_DAY
from app.domain.audit import Action, Result
from app.domain.errors import (
    AlreadyExists,
    Forbidden,
    InvalidCredentials,
    InvalidToken,
    NotFound,
    OtpRequired,
    ReauthenticationRequired,
    SecondFactorUnreadable,
    StorageError,
    TooManyAttempts,
)
from app.domain.identity import Actor, Client, Role, Source, User
from app.domain.keys import KeyName
from app.domain.second_factor import PENDING_FOR
from app.services import Services
from app.services.authentication import PENDING_SIGN_IN_LASTS
from tests.support.fakes import FakeClock, FakeStorage
from tests.support.keyhall import Keyhall, member
from tests.support.samples import PASSWORD
from tests.support.second_factors import Authenticator, Enrolled, enrol

WEB = Client(source=Source.WEB, address="192.0.2.7", device="Firefox")
QUARTER = timedelta(minutes=15)


@pytest.fixture
def services(keyhall: Keyhall) -> Services:
    return keyhall.services


@pytest.fixture
async def mia(services: Services) -> User:
    return await services.identity.create(await services.identity.operator(), "mia", PASSWORD, Role.MEMBER)


async def signed_in(services: Services, otp: str | None = None, client: Client = WEB) -> Actor:
    pair = await services.authentication.login("mia", PASSWORD, client, otp=otp)
    return await services.requests.authenticate(pair.access_token.reveal(), client)


@pytest.fixture
async def actor(services: Services, mia: User) -> Actor:
    return await signed_in(services)


@pytest.fixture
async def enrolled(services: Services, actor: Actor, clock: FakeClock) -> Enrolled:
    return await enrol(services, actor, clock.now())


def about_mia(storage: FakeStorage, action: Action) -> list[tuple[Result, dict[str, str | int]]]:
    return [(each.result, dict(each.detail)) for each in storage.tables.audit if each.action is action]


# ---------------------------------------------------------------------------------------------------------------------
# Switching on and off
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_secret_counts_once_a_code_of_it_was_confirmed(
    services: Services, actor: Actor, clock: FakeClock, storage: FakeStorage
) -> None:
    enrolment = await services.second_factor.start(actor)
    assert enrolment.secret.reveal() in enrolment.uri.reveal()
    assert (await services.second_factor.status(actor)).since is None
    await signed_in(services)  # what is pending demands nothing
    app = Authenticator.of(enrolment.secret.reveal())
    codes = (await services.second_factor.confirm(actor, app.unused(clock.now()))).codes
    assert len({each.reveal() for each in codes}) == 10
    status = await services.second_factor.status(actor)
    assert (status.since, status.readable, status.recovery_codes_left) == (clock.now(), True, 10)
    stored = repr([vars(storage.tables), *(each.encrypted_secret for each in storage.tables.factors.values())])
    for secret in (enrolment.secret, *codes):
        assert secret.reveal() not in stored
    assert app.secret.reveal() not in next(iter(storage.tables.factors.values())).encrypted_secret


async def test_a_new_start_replaces_a_pending_secret_and_never_a_confirmed_one(
    services: Services, actor: Actor, clock: FakeClock
) -> None:
    first, second = [Authenticator.of((await services.second_factor.start(actor)).secret.reveal()) for _ in range(2)]
    with pytest.raises(InvalidCredentials):
        await services.second_factor.confirm(actor, first.at(clock.now()))
    await services.second_factor.confirm(actor, second.at(clock.now()))
    with pytest.raises(AlreadyExists):
        await services.second_factor.start(actor)
    with pytest.raises(NotFound):
        await services.second_factor.confirm(actor, second.at(clock.now(), 1))
    with pytest.raises(OtpRequired):
        await signed_in(services)


async def test_a_pending_secret_ends_after_ten_minutes_and_is_purged(
    keyhall: Keyhall, services: Services, mia: User, clock: FakeClock, storage: FakeStorage
) -> None:
    app = Authenticator.of((await services.second_factor.start(await signed_in(services))).secret.reveal())
    keyhall.advance(clock, PENDING_FOR)
    actor = await signed_in(services)
    assert await services.second_factor.pending(actor) is None
    with pytest.raises(NotFound):
        await services.second_factor.confirm(actor, app.at(clock.now()))
    keyhall.advance(clock, timedelta(seconds=1))
    await keyhall.housekeeping.sweep()
    assert storage.tables.factors == {}


async def test_housekeeping_leaves_a_confirmed_secret(keyhall: Keyhall, enrolled: Enrolled, clock: FakeClock) -> None:
    keyhall.advance(clock, timedelta(days=400))
    await keyhall.housekeeping.sweep()
    with pytest.raises(OtpRequired):
        await signed_in(keyhall.services)


async def test_each_change_ends_every_other_session_and_no_pending_sign_in_outlives_it(
    keyhall: Keyhall, services: Services, mia: User, clock: FakeClock, storage: FakeStorage
) -> None:
    other, mine = await signed_in(services), await signed_in(services)
    enrolled = await enrol(services, mine, clock.now())
    ended = [mine.session_id, other.session_id]

    async def require_only_mine() -> None:
        alive = await services.authentication.sessions(mine)
        assert [each.id for each in alive.items] == [mine.session_id]

    await require_only_mine()
    for change in (services.second_factor.new_recovery_codes, services.second_factor.remove):
        keyhall.advance(clock, timedelta(seconds=30))
        another = await signed_in(services, enrolled.app.unused(clock.now()))
        ended.append(another.session_id)
        with pytest.raises(OtpRequired) as asked:
            await services.authentication.login_browser("mia", PASSWORD, WEB)
        await change(mine)
        await require_only_mine()
        assert asked.value.pending is not None
        code = enrolled.app.at(clock.now(), 1)
        with pytest.raises(InvalidToken):
            await services.authentication.finish_browser(asked.value.pending.reveal(), code, WEB)
    await signed_in(services)
    for action in (Action.FACTOR_CONFIRMED, Action.RECOVERY_CODES_MADE, Action.FACTOR_REMOVED):
        assert about_mia(storage, action)[-1] == (Result.OK, {"sessions_ended": 1})
    assert storage.tables.recovery_codes == {}


async def test_a_change_demands_a_fresh_session_of_ones_own(
    keyhall: Keyhall, services: Services, actor: Actor, enrolled: Enrolled, clock: FakeClock
) -> None:
    changes = (
        services.second_factor.start,
        services.second_factor.pending,
        services.second_factor.remove,
        services.second_factor.new_recovery_codes,
        lambda who: services.second_factor.confirm(who, "123456"),
    )
    operator = await services.identity.operator_for(username="mia")
    discord = dataclasses.replace(member(clock, source=Source.DISCORD, discord_id="1"), user_id=actor.user_id)
    keyhall.advance(clock, timedelta(minutes=11))
    for change in changes:
        for nobody in (operator, discord):
            with pytest.raises(Forbidden):
                await change(nobody)
        with pytest.raises(ReauthenticationRequired):
            await change(actor)
    with pytest.raises(OtpRequired):
        await services.authentication.reauthenticate(actor, PASSWORD)
    await services.authentication.reauthenticate(actor, PASSWORD, otp=enrolled.app.unused(clock.now()))
    with pytest.raises(ReauthenticationRequired):
        await services.second_factor.remove(actor)  # as it was before
    fresh = dataclasses.replace(actor, authenticated_at=clock.now())
    await services.second_factor.remove(fresh)
    with pytest.raises(NotFound):
        await services.second_factor.remove(fresh)
    with pytest.raises(NotFound):
        await services.second_factor.new_recovery_codes(fresh)


# ---------------------------------------------------------------------------------------------------------------------
# Signing in
# ---------------------------------------------------------------------------------------------------------------------


async def test_the_answers_come_in_one_order(
    services: Services, enrolled: Enrolled, clock: FakeClock, storage: FakeStorage
) -> None:
    good = enrolled.app.at(clock.now())
    for name, password in (("mia", "not the password"), ("nobody", PASSWORD)):
        with pytest.raises(InvalidCredentials):
            await services.authentication.login(name, password, WEB, otp=good)
    for nothing in (None, "", "  "):
        with pytest.raises(OtpRequired):
            await services.authentication.login("mia", PASSWORD, WEB, otp=nothing)
    with pytest.raises(InvalidCredentials):
        await services.authentication.login("mia", PASSWORD, WEB, otp=enrolled.app.wrong(clock.now()))
    await signed_in(services, good)
    reasons = [each.detail.get("reason") for each in storage.tables.audit if each.result is Result.DENIED]
    assert reasons == ["wrong", "wrong", "otp_required", "otp_required", "otp_required", "wrong_code"]


async def test_an_account_without_a_factor_ignores_a_code(services: Services, mia: User) -> None:
    await signed_in(services, "123456")


async def test_each_code_counts_once_also_an_earlier_one_afterwards(
    keyhall: Keyhall, services: Services, enrolled: Enrolled, clock: FakeClock
) -> None:
    now, late = enrolled.app.at(clock.now()), enrolled.app.at(clock.now(), 1)
    await signed_in(services, late)
    for used in (late, now):
        with pytest.raises(InvalidCredentials):
            await signed_in(services, used)
    keyhall.advance(clock, timedelta(seconds=60))
    await signed_in(services, enrolled.app.at(clock.now()))
    keyhall.advance(clock, timedelta(seconds=60))
    with pytest.raises(InvalidCredentials):
        await signed_in(services, enrolled.app.at(clock.now(), -2))


async def test_the_code_that_switched_it_on_signs_nobody_in(services: Services, actor: Actor, clock: FakeClock) -> None:
    app = Authenticator.of((await services.second_factor.start(actor)).secret.reveal())
    code = app.at(clock.now())
    await services.second_factor.confirm(actor, code)
    with pytest.raises(InvalidCredentials):
        await signed_in(services, code)


async def test_a_recovery_code_counts_once_and_is_recorded(
    services: Services, enrolled: Enrolled, storage: FakeStorage
) -> None:
    code, other = enrolled.recovery_codes[:2]
    signed = await signed_in(services, code.lower().replace("-", " "))
    assert (await services.second_factor.status(signed)).recovery_codes_left == 9
    with pytest.raises(InvalidCredentials):
        await signed_in(services, code)
    await services.authentication.reauthenticate(signed, PASSWORD, otp=other)
    assert about_mia(storage, Action.RECOVERY_CODE_USED) == [(Result.OK, {"left": 9}), (Result.OK, {"left": 8})]


async def test_new_recovery_codes_replace_all_former_ones(
    services: Services, actor: Actor, enrolled: Enrolled, clock: FakeClock
) -> None:
    new = (await services.second_factor.new_recovery_codes(actor)).codes
    assert len({each.reveal() for each in new} | set(enrolled.recovery_codes)) == 20
    with pytest.raises(InvalidCredentials):
        await signed_in(services, enrolled.recovery_codes[0])
    await signed_in(services, new[0].reveal())


async def test_nobody_signs_in_with_the_codes_of_somebody_else(
    services: Services, enrolled: Enrolled, clock: FakeClock
) -> None:
    await services.identity.create(await services.identity.operator(), "bob", PASSWORD, Role.MEMBER)
    pair = await services.authentication.login("bob", PASSWORD, WEB)
    bob = await services.requests.authenticate(pair.access_token.reveal(), WEB)
    theirs = await enrol(services, bob, clock.now())
    for code in (theirs.app.at(clock.now()), theirs.recovery_codes[0]):
        with pytest.raises(InvalidCredentials):
            await signed_in(services, code)
    await services.authentication.login("bob", PASSWORD, WEB, otp=theirs.recovery_codes[0])


async def test_of_many_at_once_one_uses_a_code(services: Services, enrolled: Enrolled, clock: FakeClock) -> None:
    for code in (enrolled.app.at(clock.now()), enrolled.recovery_codes[0]):
        results = await asyncio.gather(*(signed_in(services, code) for _ in range(50)), return_exceptions=True)
        assert len([each for each in results if isinstance(each, Actor)]) == 1
        await services.authentication.unlock(await services.identity.operator(), "mia")


async def test_a_sign_in_that_fails_uses_no_code(
    services: Services, enrolled: Enrolled, clock: FakeClock, storage: FakeStorage
) -> None:
    code = enrolled.app.at(clock.now())
    with storage.dead_after(1), pytest.raises(StorageError):  # the verdict is the first unit of work
        await signed_in(services, code)
    await signed_in(services, code)


# ---------------------------------------------------------------------------------------------------------------------
# In two steps
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_browser_gives_the_code_without_the_password(
    keyhall: Keyhall, services: Services, enrolled: Enrolled, clock: FakeClock
) -> None:
    with pytest.raises(OtpRequired) as asked:
        await services.authentication.login_browser("mia", PASSWORD, WEB)
    assert asked.value.pending is not None
    pending = asked.value.pending.reveal()
    finish = services.authentication.finish_browser
    with pytest.raises(OtpRequired):
        await finish(pending, "", WEB)
    with pytest.raises(InvalidCredentials):
        await finish(pending, enrolled.app.wrong(clock.now()), WEB)
    code = enrolled.app.unused(clock.now())
    browser = await finish(pending, code, WEB)
    actor = await services.requests.authenticate_browser(browser.cookie.reveal(), WEB)
    assert actor.username == "mia"
    with pytest.raises(InvalidCredentials):
        await finish(pending, code, WEB)
    keyhall.advance(clock, PENDING_SIGN_IN_LASTS + timedelta(seconds=1))
    with pytest.raises(InvalidToken):
        await finish(pending, enrolled.app.unused(clock.now()), WEB)


async def test_a_forged_or_foreign_pending_sign_in_is_none(
    services: Services, enrolled: Enrolled, clock: FakeClock, storage: FakeStorage, mia: User
) -> None:
    with pytest.raises(OtpRequired) as asked:
        await services.authentication.login_browser("mia", PASSWORD, WEB)
    pending = asked.value.pending.reveal() if asked.value.pending else ""
    code, user = enrolled.app.at(clock.now()), mia.id
    device = await services.authentication.login_browser("mia", PASSWORD, WEB, otp=enrolled.recovery_codes[0])
    claim = device.device_claim.reveal() if device.device_claim else ""
    for forged in (
        None,
        "",
        "khp_",
        "khp_a.b.c.d.e",
        pending[:-1] + ("A" if pending[-1] != "A" else "B"),
        pending.replace(user, "0" * len(user)),
        "khp_" + claim.removeprefix("khd_"),
        pending + ".x",
        "khp_" + "x" * 1000,
        "khp_\ud800",
    ):
        with pytest.raises(InvalidToken):
            await services.authentication.finish_browser(forged, code, WEB)
    async with storage.write() as uow:
        await uow.users.disable(user, clock.now())
    with pytest.raises(InvalidToken):
        await services.authentication.finish_browser(pending, code, WEB)


# ---------------------------------------------------------------------------------------------------------------------
# Limits
# ---------------------------------------------------------------------------------------------------------------------


async def _judged(services: Services, code: str, clients: list[Client]) -> int:
    """How many of the attempts were judged."""
    judged = 0
    for client in clients:
        try:
            await services.authentication.login("mia", PASSWORD, client, otp=code)
        except InvalidCredentials:
            judged += 1
        except TooManyAttempts:
            pass
    return judged


async def test_ten_wrong_codes_are_judged_in_a_quarter_of_an_hour_from_however_many_networks(
    keyhall: Keyhall, services: Services, enrolled: Enrolled, clock: FakeClock
) -> None:
    networks = [Client(source=Source.WEB, address=f"198.51.100.{number}") for number in range(25)]
    wrong = enrolled.app.wrong(clock.now())
    assert await _judged(services, wrong, networks) == WRONG_CODES
    with pytest.raises(TooManyAttempts):
        await signed_in(services, enrolled.app.at(clock.now()), Client(source=Source.WEB, address="203.0.113.9"))
    keyhall.advance(clock, QUARTER + timedelta(minutes=1))
    assert await _judged(services, enrolled.app.wrong(clock.now()), networks) == WRONG_CODES
    keyhall.advance(clock, QUARTER + timedelta(minutes=1))
    await signed_in(services, enrolled.app.at(clock.now()), networks[0])


async def test_a_day_has_room_for_fifty_wrong_codes(
    keyhall: Keyhall, services: Services, enrolled: Enrolled, clock: FakeClock
) -> None:
    networks = [Client(source=Source.WEB, address=f"198.51.100.{number}") for number in range(20)]
    judged = 0
    for _ in range(20):
        judged += await _judged(services, enrolled.app.wrong(clock.now()), networks)
        keyhall.advance(clock, timedelta(minutes=20))
    assert judged == WRONG_CODES_A_DAY


async def test_a_known_device_a_session_and_a_recovery_code_have_room_whatever_strangers_do(
    keyhall: Keyhall, services: Services, actor: Actor, enrolled: Enrolled, clock: FakeClock
) -> None:
    known = await services.authentication.login("mia", PASSWORD, WEB, otp=enrolled.recovery_codes[0])
    claim = known.device_claim.reveal() if known.device_claim else ""
    networks = [Client(source=Source.WEB, address=f"198.51.100.{number}") for number in range(20)]
    assert await _judged(services, enrolled.app.wrong(clock.now()), networks) == WRONG_CODES
    new_place = Client(source=Source.WEB, address="203.0.113.9")
    with pytest.raises(TooManyAttempts):
        await signed_in(services, enrolled.app.at(clock.now()), new_place)
    await signed_in(services, enrolled.recovery_codes[1], new_place)
    await services.authentication.reauthenticate(actor, PASSWORD, otp=enrolled.app.unused(clock.now()))
    await signed_in(services, enrolled.app.unused(clock.now()), dataclasses.replace(new_place, claim=claim))


async def test_a_session_and_wrong_recovery_codes_have_limits_too(
    services: Services, actor: Actor, enrolled: Enrolled, clock: FakeClock
) -> None:
    again = services.authentication.reauthenticate
    for _ in range(WRONG_CODES):
        with pytest.raises(InvalidCredentials):
            await again(actor, PASSWORD, otp=enrolled.app.wrong(clock.now()))
    for code in (enrolled.app.at(clock.now()), enrolled.recovery_codes[0]):
        with pytest.raises(TooManyAttempts):
            await again(actor, PASSWORD, otp=code)
    client = Client(source=Source.WEB, address="203.0.113.9")
    assert await _judged(services, "0000-0000-0000-0000-0000-0000", [client] * 20) == WRONG_CODES


async def test_a_right_password_without_a_code_is_recorded_and_bounded(
    services: Services, enrolled: Enrolled, storage: FakeStorage
) -> None:
    for _ in range(CODES_ASKED_FOR):
        with pytest.raises(OtpRequired):
            await signed_in(services)
    with pytest.raises(TooManyAttempts):
        await signed_in(services)
    assert (Result.DENIED, {"reason": "otp_required"}) in about_mia(storage, Action.LOGIN)
    await signed_in(services, enrolled.recovery_codes[0])


async def test_unlocking_gives_codes_new_room(services: Services, enrolled: Enrolled, clock: FakeClock) -> None:
    assert await _judged(services, enrolled.app.wrong(clock.now()), [WEB] * 20) == WRONG_CODES
    await services.authentication.unlock(await services.identity.operator(), "mia")
    await signed_in(services, enrolled.app.at(clock.now()))


async def test_confirming_is_limited(services: Services, actor: Actor, clock: FakeClock) -> None:
    app = Authenticator.of((await services.second_factor.start(actor)).secret.reveal())
    for _ in range(WRONG_CODES):
        with pytest.raises(InvalidCredentials):
            await services.second_factor.confirm(actor, app.wrong(clock.now()))
    with pytest.raises(TooManyAttempts):
        await services.second_factor.confirm(actor, app.at(clock.now()))


# ---------------------------------------------------------------------------------------------------------------------
# Step-up on Discord
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_person_on_discord_proves_the_factor_for_one_act(
    services: Services, actor: Actor, enrolled: Enrolled, clock: FakeClock, storage: FakeStorage
) -> None:
    await services.identity.link(await services.identity.operator(), actor.username, "42")
    discord = dataclasses.replace(actor, client=Client(source=Source.DISCORD), session_id=None, discord_id="42")
    code = enrolled.app.unused(clock.now())
    await services.second_factor.prove(discord, code)
    assert about_mia(storage, Action.FACTOR_PROVEN)[-1][0] is Result.OK
    with pytest.raises(InvalidCredentials):
        await services.second_factor.prove(discord, code)
    with pytest.raises(InvalidCredentials):
        await signed_in(services, code)
    with pytest.raises(OtpRequired):
        await services.second_factor.prove(discord, None)
    await services.second_factor.prove(discord, enrolled.recovery_codes[0])
    for _ in range(WRONG_CODES - 1):
        with pytest.raises(InvalidCredentials):
            await services.second_factor.prove(discord, enrolled.app.wrong(clock.now()))
    with pytest.raises(TooManyAttempts):
        await services.second_factor.prove(discord, enrolled.app.unused(clock.now()))


async def test_without_a_factor_nothing_is_proven(services: Services, actor: Actor) -> None:
    with pytest.raises(NotFound):
        await services.second_factor.prove(actor, "123456")


# ---------------------------------------------------------------------------------------------------------------------
# A secret that does not open
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_secret_that_does_not_open_is_never_taken_for_no_factor(
    services: Services, enrolled: Enrolled, clock: FakeClock, storage: FakeStorage
) -> None:
    [factor] = storage.tables.factors.values()
    storage.tables.factors[factor.id] = dataclasses.replace(factor, encrypted_secret=b"")
    with pytest.raises(OtpRequired):
        await signed_in(services)
    with pytest.raises(SecondFactorUnreadable, match="recovery code"):
        await signed_in(services, enrolled.app.at(clock.now()))
    with pytest.raises(InvalidCredentials):
        await services.authentication.login("mia", "not the password", WEB, otp=enrolled.app.at(clock.now()))
    assert (Result.DENIED, {"reason": "second_factor_unreadable"}) in about_mia(storage, Action.LOGIN)
    actor = await signed_in(services, enrolled.recovery_codes[0])
    assert not (await services.second_factor.status(actor)).readable
    with pytest.raises(AlreadyExists):
        await services.second_factor.start(actor)
    await services.second_factor.remove(actor)
    await enrol(services, actor, clock.now())


async def test_a_secret_is_bound_to_its_row_and_its_owner(
    services: Services, enrolled: Enrolled, clock: FakeClock, storage: FakeStorage
) -> None:
    await services.identity.create(await services.identity.operator(), "bob", PASSWORD, Role.MEMBER)
    pair = await services.authentication.login("bob", PASSWORD, WEB)
    bob = await services.requests.authenticate(pair.access_token.reveal(), WEB)
    theirs = await enrol(services, bob, clock.now())
    mine, other = sorted(storage.tables.factors.values(), key=lambda each: each.user_id == bob.user_id)
    swaps = [
        dataclasses.replace(mine, encrypted_secret=other.encrypted_secret),
        dataclasses.replace(other, user_id=mine.user_id),
        dataclasses.replace(other, user_id=mine.user_id, id=mine.id),
    ]
    for swapped in swaps:
        storage.tables.factors = {swapped.id: swapped}
        for code in (enrolled.app.at(clock.now()), theirs.app.at(clock.now())):
            with pytest.raises(SecondFactorUnreadable):
                await signed_in(services, code)


async def test_a_secret_opens_during_a_rotation_that_another_process_made(
    keyhall: Keyhall, services: Services, mia: User, clock: FakeClock, storage: FakeStorage
) -> None:
    await keyhall.rotate(KeyName.AES_KEY)
    actor = await signed_in(services)
    enrolled = await enrol(services, actor, clock.now())
    assert {each.key_version for each in storage.tables.factors.values()} == {2}
    await signed_in(services, enrolled.app.at(clock.now()))
