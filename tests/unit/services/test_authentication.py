"""Sign-in, sessions and requests, on a storage in memory and with a clock that the tests move."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from app.domain.audit import Action, Result
from app.domain.errors import (
    InvalidCredentials,
    InvalidInput,
    InvalidToken,
    NotFound,
    NotReady,
    Overloaded,
    ReauthenticationRequired,
    StorageError,
)
from app.domain.identity import SESSION_IDLE, Actor, Client, Role, Source, User
from app.domain.keys import KeyName
from app.services import Services
from app.services.ports import PasswordCheck
from tests.support.fakes import FakeClock, FakePasswords, FakeStorage
from tests.support.keyhall import SESSION_LIFETIME, TOKEN_LIFETIME, Keyhall
from tests.support.samples import PASSWORD

WEB = Client(source=Source.WEB, address="192.0.2.7", device="Firefox")


@pytest.fixture
def services(keyhall: Keyhall) -> Services:
    return keyhall.services


@pytest.fixture
async def mia(services: Services) -> User:
    return await services.identity.create(await services.identity.operator(), "mia", PASSWORD, Role.MEMBER)


async def signed_in(services: Services) -> tuple[str, str]:
    """Sign mia in; return her access and refresh tokens."""
    pair = await services.authentication.login("mia", PASSWORD, WEB)
    return pair.access_token.reveal(), pair.refresh_token.reveal()


async def actor(services: Services) -> Actor:
    access, _ = await signed_in(services)
    return await services.requests.authenticate(access, WEB)


# ---------------------------------------------------------------------------------------------------------------------
# Sign-in
# ---------------------------------------------------------------------------------------------------------------------


async def test_the_actor_of_a_token_is_its_user_in_its_session(
    services: Services, storage: FakeStorage, clock: FakeClock, mia: User
) -> None:
    found = await actor(services)
    assert (found.user_id, found.subject_id, found.role, found.client) == (mia.id, mia.subject_id, mia.role, WEB)
    assert found.authenticated_at == clock.now()
    [session] = storage.tables.sessions.values()
    assert (session.id, session.address, session.device) == (found.session_id, "192.0.2.7", "Firefox")
    assert storage.tables.audit[-1].object_id == session.id
    assert storage.trail()[-1] == (Action.LOGIN, Result.OK)


async def test_discord_alone_proves_no_account_that_has_a_password(
    services: Services, clock: FakeClock, mia: User
) -> None:
    now = clock.now()
    for user, fresh in ((mia, False), (replace(mia, password_hash=None), True)):
        begun = await services.authentication.begin_browser(user, WEB)
        found = await services.requests.authenticate_browser(begun.cookie.reveal(), WEB)
        if fresh:
            found.require_fresh(now)
        else:
            with pytest.raises(ReauthenticationRequired):
                found.require_fresh(now)
            await services.authentication.reauthenticate(found, PASSWORD)
            again = await services.requests.authenticate_browser(begun.cookie.reveal(), WEB)
            again.require_fresh(now)


@pytest.mark.parametrize(("name", "password"), [("mia", "wrong password"), ("nobody", PASSWORD)])
async def test_a_refused_sign_in_is_recorded_without_the_name_that_was_typed(
    services: Services, storage: FakeStorage, mia: User, name: str, password: str
) -> None:
    with pytest.raises(InvalidCredentials):
        await services.authentication.login(name, password, WEB)
    event = storage.tables.audit[-1]
    assert (event.action, event.result, event.subject_id, event.address) == (
        Action.LOGIN,
        Result.DENIED,
        None,
        "192.0.2.7",
    )
    assert event.object_id == (mia.id if name == "mia" else None)
    assert event.detail == {"reason": "wrong"}
    assert not storage.tables.sessions


async def test_unknown_disabled_and_wrong_get_one_answer_for_the_same_work(
    services: Services, storage: FakeStorage, clock: FakeClock, mia: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work is counted, in hashes of Argon2 and units of work, since times of a busy machine say nothing."""
    verify, verified = FakePasswords.verify, []

    async def counted(self: FakePasswords, phc: str | None, password: str) -> PasswordCheck:
        verified.append(password)
        return await verify(self, phc, password)

    monkeypatch.setattr(FakePasswords, "verify", counted)
    seen = []
    for name, password in (("mia", "wrong password"), ("nobody", "wrong password"), ("mia", PASSWORD)):
        if password == PASSWORD:
            async with storage.write() as uow:
                await uow.users.disable(mia.id, clock.now())
        clock.advance(timedelta(minutes=16))
        services.keys.confirm(clock.monotonic())
        before, commits = len(verified), storage.commits
        with pytest.raises(InvalidCredentials) as refused:
            await services.authentication.login(name, password, WEB)
        seen.append((refused.value.detail, len(verified) - before, storage.commits - commits))
    assert seen[0][1] == 1
    assert seen.count(seen[0]) == len(seen), seen


async def test_a_disabled_account_cannot_sign_in(
    services: Services, storage: FakeStorage, clock: FakeClock, mia: User
) -> None:
    async with storage.write() as uow:
        await uow.users.disable(mia.id, clock.now())
    with pytest.raises(InvalidCredentials):
        await services.authentication.login("mia", PASSWORD, WEB)


async def test_an_account_that_is_disabled_during_the_password_check_gets_no_session(
    services: Services, storage: FakeStorage, clock: FakeClock, mia: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = FakePasswords.verify

    async def meanwhile(self: FakePasswords, phc: str | None, password: str) -> object:
        async with storage.write() as uow:
            await uow.users.disable(mia.id, clock.now())
        return await verify(self, phc, password)

    monkeypatch.setattr(FakePasswords, "verify", meanwhile)
    with pytest.raises(InvalidCredentials):
        await services.authentication.login("mia", PASSWORD, WEB)
    assert not storage.tables.sessions


@pytest.mark.parametrize("error", [Overloaded(), StorageError()])
async def test_a_password_that_was_not_checked_does_not_count_as_an_attempt(
    services: Services, storage: FakeStorage, mia: User, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(*_: object) -> object:
        raise error

    monkeypatch.setattr(FakePasswords, "verify", fail)
    with pytest.raises(type(error)):
        await services.authentication.login("mia", PASSWORD, WEB)
    assert not storage.tables.attempts


async def test_nobody_signs_in_while_the_process_has_no_lease(keyhall: Keyhall, services: Services, mia: User) -> None:
    keyhall.keys.lease(float("-inf"))
    with pytest.raises(NotReady):
        await services.authentication.login("mia", PASSWORD, WEB)


# ---------------------------------------------------------------------------------------------------------------------
# Requests
# ---------------------------------------------------------------------------------------------------------------------


async def test_an_access_token_expires_although_its_claims_are_remembered(
    keyhall: Keyhall, services: Services, clock: FakeClock, mia: User
) -> None:
    access, _ = await signed_in(services)
    for _ in range(2):
        await services.requests.authenticate(access, WEB)
    keyhall.advance(clock, TOKEN_LIFETIME)
    for _ in range(2):
        with pytest.raises(InvalidToken):
            await services.requests.authenticate(access, WEB)


async def test_a_rotation_of_the_signing_key_keeps_tokens_and_a_new_version_is_loaded_on_sight(
    keyhall: Keyhall, services: Services, mia: User
) -> None:
    before, _ = await signed_in(services)
    await keyhall.rotate(KeyName.JWT_SECRET_KEY)
    after, _ = await signed_in(services)  # storing a session loads the new version
    for token in (before, after):
        assert (await services.requests.authenticate(token, WEB)).user_id == mia.id


@pytest.mark.parametrize("idle", [False, True])
async def test_a_session_ends_at_the_end_of_its_life_or_after_a_week_without_use(
    *, keyhall: Keyhall, services: Services, clock: FakeClock, mia: User, idle: bool
) -> None:
    cookie = (await services.authentication.login_browser("mia", PASSWORD, WEB)).cookie.reveal()
    step = SESSION_IDLE - timedelta(minutes=1)
    for _ in range(1 if idle else SESSION_LIFETIME // step):
        keyhall.advance(clock, step)
        await services.requests.authenticate_browser(cookie, WEB)
    keyhall.advance(clock, SESSION_IDLE if idle else step)
    with pytest.raises(InvalidToken):
        await services.requests.authenticate_browser(cookie, WEB)


async def test_a_full_disk_does_not_end_a_request(
    keyhall: Keyhall, services: Services, storage: FakeStorage, clock: FakeClock, mia: User
) -> None:
    access, _ = await signed_in(services)
    keyhall.advance(clock, timedelta(minutes=5))
    with storage.full():
        assert (await services.requests.authenticate(access, WEB)).user_id == mia.id
    await services.requests.authenticate(access, WEB)
    assert [each.last_seen_at for each in storage.tables.sessions.values()] == [clock.now()]


async def test_of_simultaneous_requests_one_waits_for_another_writer(
    keyhall: Keyhall, services: Services, storage: FakeStorage, clock: FakeClock, mia: User
) -> None:
    access, _ = await signed_in(services)
    keyhall.advance(clock, timedelta(minutes=5))
    async with storage._writer:
        first = asyncio.create_task(services.requests.authenticate(access, WEB))
        while not storage._writer._waiters:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert (await services.requests.authenticate(access, WEB)).user_id == mia.id
        assert not first.done()
    await first
    assert [each.last_seen_at for each in storage.tables.sessions.values()] == [clock.now()]


async def test_a_request_within_a_minute_writes_nothing(
    keyhall: Keyhall, services: Services, storage: FakeStorage, clock: FakeClock, mia: User
) -> None:
    access, _ = await signed_in(services)
    commits = storage.commits
    keyhall.advance(clock, timedelta(seconds=60))
    await services.requests.authenticate(access, WEB)
    assert storage.commits == commits


async def test_a_new_token_version_ends_every_session(
    services: Services, storage: FakeStorage, clock: FakeClock, mia: User
) -> None:
    access, refresh = await signed_in(services)
    async with storage.write() as uow:
        await uow.users.disable(mia.id, clock.now())
    with pytest.raises(InvalidToken):
        await services.requests.authenticate(access, WEB)
    with pytest.raises(InvalidToken):
        await services.authentication.refresh(refresh, WEB)


@pytest.mark.parametrize("cookie", ["", "khc_", "khc_unknown", "khr_unknown", "khc_" + "x" * 253, "khc_\ud800"])
async def test_an_unknown_cookie_is_refused(services: Services, cookie: str) -> None:
    with pytest.raises(InvalidToken):
        await services.requests.authenticate_browser(cookie, WEB)


# ---------------------------------------------------------------------------------------------------------------------
# Refresh and sign-out
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_refresh_token_that_is_used_twice_ends_its_session_and_is_recorded_once(
    services: Services, storage: FakeStorage, mia: User
) -> None:
    _, refresh = await signed_in(services)
    pair = await services.authentication.refresh(refresh, WEB)
    for _ in range(2):
        with pytest.raises(InvalidToken):
            await services.authentication.refresh(refresh, WEB)
    with pytest.raises(InvalidToken):
        await services.requests.authenticate(pair.access_token.reveal(), WEB)
    reused = [each for each in storage.tables.audit if each.action is Action.REFRESH_REUSED]
    assert [(each.result, each.subject_id) for each in reused] == [(Result.DENIED, None)]


async def test_an_unknown_refresh_token_is_refused_without_a_write(services: Services, storage: FakeStorage) -> None:
    commits = storage.commits
    with pytest.raises(InvalidToken):
        await services.authentication.refresh("khr_unknown", WEB)
    await services.authentication.logout("khr_unknown", WEB)
    assert storage.commits == commits


async def test_a_refresh_token_ends_with_its_session(
    keyhall: Keyhall, services: Services, clock: FakeClock, mia: User
) -> None:
    _, refresh = await signed_in(services)
    keyhall.advance(clock, SESSION_LIFETIME)
    with pytest.raises(InvalidToken):
        await services.authentication.refresh(refresh, WEB)


async def test_signing_out_ends_the_session_of_the_request_and_no_other(
    services: Services, storage: FakeStorage, mia: User
) -> None:
    first, second = await actor(services), await actor(services)
    await services.authentication.end_session(first)
    await services.authentication.end_session(first)
    alive = (await services.authentication.sessions(second)).items
    assert [each.id for each in alive] == [second.session_id]
    assert [each for each in storage.trail() if each[0] is Action.LOGOUT] == [(Action.LOGOUT, Result.OK)]


async def test_a_session_of_somebody_else_does_not_exist(services: Services, mia: User) -> None:
    mine = await actor(services)
    await services.identity.create(await services.identity.operator(), "tom", PASSWORD, Role.ADMIN)
    pair = await services.authentication.login("tom", PASSWORD, WEB)
    tom = await services.requests.authenticate(pair.access_token.reveal(), WEB)
    assert mine.session_id is not None
    for session_id in (mine.session_id, "unknown"):
        with pytest.raises(NotFound):
            await services.authentication.revoke_session(tom, session_id)
    assert (await services.authentication.sessions(tom)).items[0].id == tom.session_id


@pytest.mark.parametrize("cursor", ["", "!", "%", "x" * 200])
async def test_a_cursor_that_was_never_issued_is_refused(services: Services, mia: User, cursor: str) -> None:
    with pytest.raises(InvalidInput):
        await services.authentication.sessions(await actor(services), after=cursor)


async def test_proving_the_password_makes_the_session_fresh(
    keyhall: Keyhall, services: Services, storage: FakeStorage, clock: FakeClock, mia: User
) -> None:
    access, _ = await signed_in(services)
    keyhall.advance(clock, timedelta(minutes=15))
    stale = await services.requests.authenticate(access, WEB)
    with pytest.raises(InvalidCredentials):
        await services.authentication.reauthenticate(stale, "wrong password")
    await services.authentication.reauthenticate(stale, PASSWORD)
    assert (await services.requests.authenticate(access, WEB)).authenticated_at == clock.now()
    assert storage.trail()[-1] == (Action.REAUTHENTICATED, Result.OK)


async def test_without_a_session_there_is_nothing_to_prove(services: Services) -> None:
    with pytest.raises(InvalidToken):
        await services.authentication.reauthenticate(await services.identity.operator(), PASSWORD)
