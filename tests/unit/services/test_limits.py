"""Sign-in within the limits on guessing: who is refused, who never is, and what a refusal costs."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from app.domain.attempts import PER_ACCOUNT, PER_ACCOUNT_AND_NETWORK, PER_NETWORK, PER_OWN, WINDOW
from app.domain.audit import Action, Result
from app.domain.errors import Forbidden, InvalidCredentials, NotFound, Overloaded, RequestExpired, TooManyAttempts
from app.domain.identity import Actor, Client, Role, Source, User
from app.domain.keys import KeyName
from app.services import Services
from app.services.deadlines import Deadlines
from app.services.limits import PROMPT_REFUSALS, STRANGERS_AT_ONCE
from app.services.ports import PasswordCheck
from tests.support.fakes import FakeClock, FakePasswords, FakeStorage
from tests.support.keyhall import Keyhall
from tests.support.samples import PASSWORD

HOME = Client(source=Source.WEB, address="192.0.2.7", device="Firefox")
ELSEWHERE = Client(source=Source.WEB, address="203.0.113.9", device="Firefox")
SECOND = timedelta(seconds=1)


def stranger(number: int = 0) -> Client:
    return Client(source=Source.WEB, address=f"198.51.{100 + number // 256}.{number % 256}")


@pytest.fixture
def services(keyhall: Keyhall) -> Services:
    return keyhall.services


@pytest.fixture
async def mia(services: Services) -> User:
    return await services.identity.create(await services.identity.operator(), "mia", PASSWORD, Role.MEMBER)


async def wrong(services: Services, client: Client, times: int = 1, name: str = "mia") -> None:
    for _ in range(times):
        with pytest.raises(InvalidCredentials):
            await services.authentication.login(name, "not the password", client)


async def refused(services: Services, client: Client, name: str = "mia") -> int:
    """Be refused although the password is right; return for how many seconds."""
    with pytest.raises(TooManyAttempts) as limited:
        await services.authentication.login(name, PASSWORD, client)
    return limited.value.retry_after


async def signed_in(services: Services, client: Client = HOME) -> tuple[Actor, Client]:
    """Sign mia in; return the actor, and the client with what its browser keeps."""
    browser = await services.authentication.login_browser("mia", PASSWORD, client)
    actor = await services.requests.authenticate_browser(browser.cookie.reveal(), client)
    assert browser.device_claim is not None
    return actor, Client(source=client.source, address=client.address, claim=browser.device_claim.reveal())


# ---------------------------------------------------------------------------------------------------------------------
# What counts, and for how long
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mia", "nobody"])
async def test_the_figure_of_a_refusal_is_true_and_refusals_do_not_prolong_it(
    keyhall: Keyhall, services: Services, clock: FakeClock, mia: User, name: str
) -> None:
    keyhall.advance(clock, timedelta(seconds=41.3))
    for _ in range(PER_ACCOUNT_AND_NETWORK):
        await wrong(services, HOME, name=name)
        keyhall.advance(clock, 3 * SECOND)
    seconds = await refused(services, HOME, name=name)
    assert seconds <= WINDOW.total_seconds()
    for _ in range(seconds // 60):  # somebody tries every minute
        keyhall.advance(clock, 60 * SECOND)
        seconds -= 60
        assert await refused(services, HOME, name=name) == pytest.approx(seconds, abs=1)
    keyhall.advance(clock, seconds * SECOND)
    with pytest.raises(InvalidCredentials):
        await services.authentication.login(name, "not it either", HOME)


async def test_many_at_once_with_the_right_password_all_get_in(services: Services, mia: User) -> None:
    sign_ins = [services.authentication.login("mia", PASSWORD, HOME) for _ in range(4 * PER_ACCOUNT_AND_NETWORK)]
    await asyncio.gather(*sign_ins)
    await wrong(services, HOME, PER_ACCOUNT_AND_NETWORK)


async def test_of_many_at_once_with_wrong_passwords_exactly_so_many_are_judged(services: Services, mia: User) -> None:
    guesses = [services.authentication.login("mia", f"guess {n}", HOME) for n in range(4 * PER_ACCOUNT_AND_NETWORK)]
    results = await asyncio.gather(*guesses, return_exceptions=True)
    assert sum(isinstance(each, InvalidCredentials) for each in results) == PER_ACCOUNT_AND_NETWORK
    assert sum(isinstance(each, TooManyAttempts) for each in results) == 3 * PER_ACCOUNT_AND_NETWORK


async def test_strangers_leave_room_for_those_who_are_known(
    services: Services, mia: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor, known = await signed_in(services)
    await services.authentication.login("mia", PASSWORD, HOME)
    full, released, judging, most = asyncio.Event(), asyncio.Event(), 0, 0
    judge = FakePasswords.verify

    async def slowly(passwords: FakePasswords, phc: str | None, password: str) -> PasswordCheck:
        nonlocal judging, most
        judging += 1
        most = max(most, judging)
        if judging == STRANGERS_AT_ONCE:
            full.set()
        await released.wait()
        try:
            return await judge(passwords, phc, password)
        finally:
            judging -= 1

    monkeypatch.setattr(FakePasswords, "verify", slowly)
    strangers = [services.authentication.login("mia", "a guess", stranger(n)) for n in range(2 * STRANGERS_AT_ONCE)]
    crowd = [asyncio.create_task(each) for each in strangers]
    await full.wait()
    rightful = [
        asyncio.create_task(services.authentication.login("mia", PASSWORD, known)),
        asyncio.create_task(services.authentication.login("mia", PASSWORD, HOME)),  # another device, a known network
        asyncio.create_task(services.authentication.reauthenticate(actor, PASSWORD)),
    ]
    released.set()
    await asyncio.gather(*rightful)
    results = await asyncio.gather(*crowd, return_exceptions=True)
    assert {type(each) for each in results} == {Overloaded, InvalidCredentials}
    assert most <= STRANGERS_AT_ONCE + len(rightful)


async def test_names_tried_from_an_exhausted_network_take_no_place_from_others(services: Services, mia: User) -> None:
    await services.authentication.login("mia", PASSWORD, HOME)
    for number in range(PER_NETWORK):
        await wrong(services, stranger(1), name=f"name {number}")
    crowd = [services.authentication.login(f"nobody {n}", "a guess", stranger(1)) for n in range(40)]
    rightful = [services.authentication.login("mia", PASSWORD, HOME) for _ in range(20)]
    *results, last = await asyncio.gather(*crowd, asyncio.gather(*rightful), return_exceptions=True)
    assert all(isinstance(each, TooManyAttempts) for each in results)
    assert not isinstance(last, BaseException)


async def test_a_guess_counts_although_the_client_hangs_up_before_the_verdict(
    services: Services, clock: FakeClock, mia: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = False

    def gone() -> bool:
        return left

    judge = FakePasswords.verify

    async def while_it_leaves(passwords: FakePasswords, phc: str | None, password: str) -> PasswordCheck:
        nonlocal left
        left = True
        return await judge(passwords, phc, password)

    monkeypatch.setattr(FakePasswords, "verify", while_it_leaves)
    for number in range(PER_ACCOUNT_AND_NETWORK):
        left = False
        with Deadlines(clock).request(gone), pytest.raises(InvalidCredentials):
            await services.authentication.login("mia", f"guess {number}", HOME)
    await refused(services, HOME)
    left = True
    with Deadlines(clock).request(gone), pytest.raises(RequestExpired):
        await services.authentication.login("mia", PASSWORD, ELSEWHERE)  # no verdict that nobody waits for


# ---------------------------------------------------------------------------------------------------------------------
# Nobody is locked out by somebody else
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_stranger_who_guesses_all_day_keeps_nobody_out(
    keyhall: Keyhall, services: Services, clock: FakeClock, mia: User
) -> None:
    for _ in range(100):
        await wrong(services, stranger())
        await services.authentication.login("mia", PASSWORD, ELSEWHERE)
        keyhall.advance(clock, 90 * SECOND)


async def test_a_session_proves_its_password_whatever_strangers_do_and_has_a_limit_of_its_own(
    services: Services, mia: User
) -> None:
    actor, _ = await signed_in(services)
    await wrong(services, HOME, PER_ACCOUNT_AND_NETWORK)
    await services.authentication.reauthenticate(actor, PASSWORD)
    for _ in range(PER_OWN):
        with pytest.raises(InvalidCredentials):
            await services.authentication.reauthenticate(actor, "not the password")
    with pytest.raises(TooManyAttempts):
        await services.authentication.reauthenticate(actor, PASSWORD)
    other, _ = await signed_in(services, ELSEWHERE)
    await services.authentication.reauthenticate(other, PASSWORD)


async def test_a_device_that_signed_in_before_gets_in_beside_an_attacker_at_its_own_address(
    keyhall: Keyhall, services: Services, clock: FakeClock, mia: User
) -> None:
    _, known = await signed_in(services)
    await wrong(services, HOME, PER_ACCOUNT_AND_NETWORK)
    await refused(services, HOME)
    await signed_in(services, known)
    await keyhall.rotate(KeyName.API_SECRET_KEY)
    await keyhall.keys.reload()
    await signed_in(services, known)
    await wrong(services, known, PER_OWN)
    await refused(services, known)
    keyhall.advance(clock, timedelta(days=181))
    await wrong(services, ELSEWHERE, PER_ACCOUNT_AND_NETWORK)
    await refused(services, Client(source=Source.WEB, address=ELSEWHERE.address, claim=known.claim))


@pytest.mark.parametrize("change", ["user", "signature", "shape", "other account", "ended"])
async def test_a_claim_counts_for_its_account_alone_and_only_unchanged(
    services: Services, storage: FakeStorage, clock: FakeClock, mia: User, change: str
) -> None:
    _, known = await signed_in(services)
    assert known.claim is not None
    tom = await services.identity.create(await services.identity.operator(), "tom", PASSWORD, Role.MEMBER)
    claim = {
        "user": known.claim.replace(mia.id, tom.id),
        "signature": known.claim[:-2] + ("AA" if known.claim[-2:] != "AA" else "BB"),
        "shape": "khd_" + "." * 4 + "é",
    }.get(change, known.claim)
    name = "tom" if change in {"user", "other account"} else "mia"
    if change == "ended":
        storage.tables.users[mia.id] = User(
            id=mia.id,
            subject_id=mia.subject_id,
            username="mia",
            role=mia.role,
            password_hash=mia.password_hash,
            token_version=mia.token_version + 1,
            created_at=mia.created_at,
        )
    await wrong(services, ELSEWHERE, PER_ACCOUNT_AND_NETWORK, name)
    await refused(services, Client(source=Source.WEB, address=ELSEWHERE.address, claim=claim), name)


async def test_a_network_that_tried_many_names_shuts_out_neither_devices_nor_accounts_that_were_there_before(
    services: Services, mia: User
) -> None:
    operator = await services.identity.operator()
    await services.identity.create(operator, "tom", PASSWORD, Role.MEMBER)
    actor, known = await signed_in(services)
    for number in range(PER_NETWORK):
        await wrong(services, HOME, name=f"name {number}")
    await services.authentication.reauthenticate(actor, PASSWORD)
    await services.authentication.login("mia", PASSWORD, known)
    await services.authentication.login("mia", PASSWORD, HOME)
    await refused(services, HOME, "tom")  # was never here
    await services.authentication.login("tom", PASSWORD, ELSEWHERE)


async def test_in_a_siege_a_new_device_in_a_new_network_has_three_tries(services: Services, mia: User) -> None:
    await services.authentication.login("mia", PASSWORD, HOME)
    for number in range(PER_ACCOUNT):
        await wrong(services, stranger(number))
    await wrong(services, ELSEWHERE, 2)
    await services.authentication.login("mia", PASSWORD, ELSEWHERE)
    await wrong(services, stranger(500), 3)
    await refused(services, stranger(500))
    await wrong(services, HOME, 5)  # from where mia signed in before there are ten
    await services.authentication.login("mia", PASSWORD, HOME)


async def test_addresses_of_one_ipv6_network_share_a_budget(services: Services, mia: User) -> None:
    for number in range(PER_ACCOUNT_AND_NETWORK):
        await wrong(services, Client(source=Source.WEB, address=f"2001:db8:1:1::{number:x}"))
    await refused(services, Client(source=Source.WEB, address="2001:db8:1:1:ffff::1"))
    await services.authentication.login("mia", PASSWORD, Client(source=Source.WEB, address="2001:db8:1:2::1"))


# ---------------------------------------------------------------------------------------------------------------------
# What a refusal costs, and what ends it
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_refusal_writes_nothing_but_one_row_for_all(
    keyhall: Keyhall, services: Services, storage: FakeStorage, clock: FakeClock, mia: User
) -> None:
    await wrong(services, HOME, PER_ACCOUNT_AND_NETWORK)
    await refused(services, HOME)
    commits, units = storage.commits, storage.units
    for _ in range(PROMPT_REFUSALS - 1):
        await refused(services, HOME)
    assert (storage.commits, storage.units) == (commits, units)
    keyhall.advance(clock, 2 * SECOND)
    for number in range(200):
        keyhall.advance(clock, timedelta())
        with pytest.raises(TooManyAttempts):
            await services.authentication.login("mia", f"guess {number}", HOME)
    assert storage.commits == commits


async def test_a_flood_of_refusals_is_answered_at_a_pace_that_leaves_time_for_others(
    keyhall: Keyhall, services: Services, clock: FakeClock, mia: User
) -> None:
    await wrong(services, HOME, PER_ACCOUNT_AND_NETWORK)
    began = clock.monotonic()
    for _ in range(10 * PROMPT_REFUSALS):
        keyhall.advance(clock, timedelta())
        await refused(services, HOME)
    assert clock.monotonic() - began >= 8
    keyhall.advance(clock, 2 * SECOND)
    began = clock.monotonic()
    await refused(services, HOME)
    assert clock.monotonic() == began


@pytest.mark.parametrize("name", ["mia", "nobody"])
async def test_a_rotation_of_any_key_forgets_no_wrong_password(
    keyhall: Keyhall, services: Services, mia: User, name: str
) -> None:
    await wrong(services, HOME, PER_ACCOUNT_AND_NETWORK, name)
    for key in (KeyName.API_SECRET_KEY, KeyName.JWT_SECRET_KEY, KeyName.AES_KEY):
        await keyhall.rotate(key)
        await keyhall.keys.reload()
        await keyhall.destroy_former(key)
    await refused(services, HOME, name)


async def test_unlocking_gives_an_account_and_its_network_fresh_budgets_at_once(
    services: Services, storage: FakeStorage, mia: User
) -> None:
    await wrong(services, HOME, PER_ACCOUNT_AND_NETWORK)
    for number in range(PER_NETWORK - PER_ACCOUNT_AND_NETWORK):
        await wrong(services, HOME, name=f"name {number}")
    await refused(services, HOME)
    operator = await services.identity.operator()
    assert (await services.authentication.unlock(operator, "MIA")).id == mia.id
    assert storage.trail()[-1] == (Action.USER_UNLOCKED, Result.OK)
    await services.authentication.login("mia", PASSWORD, HOME)
    with pytest.raises(NotFound):
        await services.authentication.unlock(operator, "nobody")
    actor, _ = await signed_in(services)
    with pytest.raises(Forbidden):
        await services.authentication.unlock(actor, "mia")


async def test_a_password_hasher_that_fails_counts_nothing_and_keeps_nobody_waiting(
    services: Services, storage: FakeStorage, mia: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> object:
        raise Overloaded

    with monkeypatch.context() as patched:
        patched.setattr(FakePasswords, "verify", fail)
        sign_ins = [services.authentication.login("mia", PASSWORD, HOME) for _ in range(20)]
        results = await asyncio.gather(*sign_ins, return_exceptions=True)
    assert {type(each) for each in results} == {Overloaded}
    assert not storage.tables.attempts
    await services.authentication.login("mia", PASSWORD, HOME)
