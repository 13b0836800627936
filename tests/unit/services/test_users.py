"""Accounts as owners and admins manage them, on a storage in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.domain.audit import Action, Result
from app.domain.errors import (
    AlreadyExists,
    Forbidden,
    IdempotencyConflict,
    InvalidCredentials,
    InvalidInput,
    InvalidToken,
    LastOwner,
    MissingScope,
    NotFound,
)
from app.domain.identity import Actor, Client, Registration, Role, Source, User, UserFilter
from app.domain.links import INVITATION_LONGEST, LINK_LASTS, invitation_span
from app.domain.passkeys import Passkey
from app.domain.scopes import Scope
from app.services import Services
from app.services.idempotency import Idempotency
from tests.support.fakes import EPOCH, FakeClock, FakeRandomness, FakeStorage
from tests.support.keyhall import Keyhall, open_keyhall
from tests.support.samples import ABSENT, PASSWORD

WEB = Client(source=Source.WEB, address="192.0.2.7")
OTHER_PASSWORD = "another correct horse"


@pytest.fixture
def services(keyhall: Keyhall) -> Services:
    return keyhall.services


@pytest.fixture
async def operator(services: Services) -> Actor:
    return await services.identity.operator()


@pytest.fixture
async def owner(services: Services, olga: User) -> Actor:
    return await signed_in(services, "olga")


@pytest.fixture
async def olga(services: Services) -> User:
    return await services.identity.create_owner("olga", PASSWORD, WEB)


def _passkey(user: User) -> Passkey:
    return Passkey(id="p", user_id=user.id, name="key", credential_id=b"c", public_key=b"k", created_at=EPOCH)


async def made(services: Services, name: str, role: Role) -> User:
    return await services.identity.create(await services.identity.operator(), name, PASSWORD, role)


async def signed_in(services: Services, name: str, password: str = PASSWORD) -> Actor:
    pair = await services.authentication.login(name, password, WEB)
    return await services.requests.authenticate(pair.access_token.reveal(), WEB)


# ---------------------------------------------------------------------------------------------------------------------
# Roles
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.ADMIN, Role.MEMBER, Role.AUDITOR])
async def test_whoever_loses_a_right_is_signed_out_and_whoever_gains_one_is_not(
    services: Services, owner: Actor, role: Role
) -> None:
    user = await made(services, "ann", role)
    pair = await services.authentication.login("ann", PASSWORD, WEB)
    for after in Role:
        before = (await services.users.get(owner, user.id)).role
        await services.users.change(owner, user.id, role=after)
        if after.covers(before):
            assert (await services.requests.authenticate(pair.access_token.reveal(), WEB)).role is after
        else:
            with pytest.raises(InvalidToken):
                await services.requests.authenticate(pair.access_token.reveal(), WEB)
            with pytest.raises(InvalidToken):
                await services.authentication.refresh(pair.refresh_token.reveal(), WEB)
            pair = await services.authentication.login("ann", PASSWORD, WEB)


async def test_an_admin_neither_touches_an_owner_nor_makes_one(services: Services, olga: User) -> None:
    await made(services, "ada", Role.ADMIN)
    await made(services, "otto", Role.OWNER)
    mia = await made(services, "mia", Role.MEMBER)
    admin = await signed_in(services, "ada")
    for attempt in (
        services.users.change(admin, olga.id, role=Role.MEMBER),
        services.users.change(admin, olga.id, disabled=True),
        services.users.change(admin, olga.id),
        services.users.reset(admin, olga.id),
        services.users.change(admin, mia.id, role=Role.OWNER),
        services.users.change(admin, admin.user_id, role=Role.OWNER),
        services.users.create(admin, "eve", Role.OWNER),
        services.users.invite(admin, Role.OWNER),
        services.identity.link(admin, "olga", "123456789012345678"),
    ):
        with pytest.raises(Forbidden):
            await attempt
    assert (await services.users.get(admin, olga.id)).role is Role.OWNER
    assert (await services.users.change(admin, mia.id, role=Role.AUDITOR)).role is Role.AUDITOR
    assert (await services.users.change(admin, admin.user_id, role=Role.MEMBER)).role is Role.MEMBER


async def test_who_was_demoted_or_disabled_a_moment_ago_changes_nobody(
    services: Services, owner: Actor, storage: FakeStorage
) -> None:
    await made(services, "ada", Role.ADMIN)
    mia = await made(services, "mia", Role.MEMBER)
    admin = await signed_in(services, "ada")  # the request was authenticated before the demotion
    await services.users.change(owner, admin.user_id, role=Role.MEMBER)
    on_discord = replace(admin, client=Client(source=Source.DISCORD), session_id=None)
    for who, refusal in ((admin, InvalidToken), (on_discord, Forbidden)):  # a demotion ends the sessions
        for attempt in (
            lambda by: services.users.change(by, mia.id, disabled=True),
            lambda by: services.users.reset(by, mia.id),
            lambda by: services.users.create(by, "eve", Role.MEMBER),
            lambda by: services.users.invite(by, Role.MEMBER),
        ):
            with pytest.raises(refusal):
                await attempt(who)
    await services.users.change(owner, admin.user_id, disabled=True)
    with pytest.raises(InvalidToken):
        await services.users.change(admin, mia.id, disabled=True)
    assert storage.tables.users[mia.id].disabled_at is None


async def test_the_last_owner_who_can_sign_in_stays_one(
    services: Services, owner: Actor, olga: User, operator: Actor, storage: FakeStorage
) -> None:
    unclaimed = (await services.users.create(owner, "ute", Role.OWNER)).user
    gone = await made(services, "gerd", Role.OWNER)
    await services.users.change(owner, gone.id, disabled=True)
    for actor in (owner, operator):
        for attempt in (
            services.users.change(actor, olga.id, role=Role.ADMIN),
            services.users.change(actor, olga.id, disabled=True),
            services.users.change(actor, olga.id, role=Role.MEMBER, disabled=False),
        ):
            with pytest.raises(LastOwner, match="give somebody else the role of owner"):
                await attempt
    assert storage.tables.users[olga.id].role is Role.OWNER
    await services.users.change(owner, unclaimed.id, role=Role.MEMBER)  # nobody could sign in as this owner
    await services.users.change(owner, gone.id, disabled=False)
    assert (await services.users.change(owner, olga.id, role=Role.ADMIN)).role is Role.ADMIN


async def test_an_owner_who_cannot_sign_in_stays_one_where_nobody_else_could(
    services: Services, owner: Actor, olga: User, operator: Actor, storage: FakeStorage
) -> None:
    await services.users.reset(operator, olga.id)
    for change in ({"role": Role.MEMBER}, {"disabled": True}):
        with pytest.raises(LastOwner):
            await services.users.change(operator, olga.id, **change)
    ute = (await services.users.create(operator, "ute", Role.OWNER)).user
    with pytest.raises(LastOwner):  # she has not claimed her account
        await services.users.change(operator, olga.id, disabled=True)
    async with storage.write() as uow:
        await uow.passkeys.add(_passkey(ute), most=20)
    await services.users.change(operator, olga.id, disabled=True)
    with pytest.raises(LastOwner):  # who signs in by a passkey alone
        await services.users.change(operator, ute.id, role=Role.MEMBER)


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN, Role.AUDITOR])
async def test_a_link_from_before_a_change_of_the_role_is_of_no_use(
    services: Services, owner: Actor, role: Role
) -> None:
    """Else an admin who created a member gets into the account of an owner."""
    await made(services, "ada", Role.ADMIN)
    admin = await signed_in(services, "ada")
    created = await services.users.create(admin, "carol", Role.MEMBER)
    mia = await made(services, "mia", Role.MEMBER)
    reset = await services.users.reset(admin, mia.id)
    assert created.token
    for user in (created.user, mia):
        await services.users.change(owner, user.id, role=role)
    for token in (created.token, reset.token):
        with pytest.raises(InvalidToken):
            await services.claims.claim(token.reveal(), OTHER_PASSWORD, WEB)
    again = await services.claims.issue(owner, "carol")
    await services.claims.claim(again.token.reveal(), OTHER_PASSWORD, WEB)
    assert (await signed_in(services, "carol", OTHER_PASSWORD)).role is role


async def test_an_api_token_gives_no_role_but_member_and_nobody_a_way_in(services: Services, owner: Actor) -> None:
    mia = await made(services, "mia", Role.MEMBER)
    created = await services.users.create(owner, "ute", Role.MEMBER)
    scope = Scope.USERS_MANAGE
    token = (await services.api_tokens.create(owner, name="ci", scopes=[scope])).token
    program = replace(owner, scopes=frozenset({scope}), token_id=token.id, session_id=None)
    for attempt in (
        services.users.create(program, "eve", Role.AUDITOR),
        services.users.invite(program, Role.AUDITOR),
        services.users.change(program, mia.id, role=Role.AUDITOR),
        services.users.reset(program, mia.id),
        services.claims.issue(program, created.user.username),
    ):
        with pytest.raises(MissingScope, match="sign in with a session"):
            await attempt
    assert (await services.users.create(program, "tom", Role.MEMBER)).user.role is Role.MEMBER
    assert (await services.users.change(program, mia.id, disabled=True)).disabled_at is not None


async def test_an_owner_who_comes_from_discord_alone_is_not_taken_away_by_a_link(
    services: Services, operator: Actor, storage: FakeStorage, clock: FakeClock
) -> None:
    mia = await made(services, "mia", Role.MEMBER)
    number = "123456789012345678"
    async with storage.write() as uow:
        await uow.users.add(
            User(
                id="discord-user",
                subject_id="subject",
                username=f"discord:{number}",
                role=Role.OWNER,
                discord_id=number,
                created_at=clock.now(),
            )
        )
    with pytest.raises(LastOwner):  # no owner would be left
        await services.identity.link(operator, "mia", number)
    await services.identity.create_claimable(operator, "ute", Role.OWNER)  # who cannot sign in yet
    with pytest.raises(LastOwner):
        await services.identity.link(operator, "ute", number)
    await services.users.change(operator, mia.id, role=Role.OWNER)
    await services.identity.link(operator, "mia", number)


# ---------------------------------------------------------------------------------------------------------------------
# Disabling and resets
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_disabled_account_is_refused_everywhere_until_it_is_enabled(services: Services, owner: Actor) -> None:
    mia = await made(services, "mia", Role.MEMBER)
    pair = await services.authentication.login("mia", PASSWORD, WEB)
    browser = await services.authentication.login_browser("mia", PASSWORD, WEB)
    assert (await services.users.change(owner, mia.id, disabled=True)).disabled_at is not None
    for attempt in (
        services.requests.authenticate(pair.access_token.reveal(), WEB),
        services.requests.authenticate_browser(browser.cookie.reveal(), WEB),
        services.authentication.refresh(pair.refresh_token.reveal(), WEB),
    ):
        with pytest.raises(InvalidToken):
            await attempt
    with pytest.raises(InvalidCredentials):
        await services.authentication.login("mia", PASSWORD, WEB)
    with pytest.raises(Forbidden, match="enable it first"):
        await services.users.reset(owner, mia.id)
    assert (await services.users.change(owner, mia.id, disabled=False)).disabled_at is None
    with pytest.raises(InvalidToken):
        await services.requests.authenticate(pair.access_token.reveal(), WEB)
    await services.authentication.login("mia", PASSWORD, WEB)


async def test_a_link_from_before_is_of_no_use_once_the_account_is_enabled_again(
    services: Services, owner: Actor
) -> None:
    created = await services.users.create(owner, "mia", Role.MEMBER)
    assert created.token
    for disabled in (True, False):
        await services.users.change(owner, created.user.id, disabled=disabled)
    with pytest.raises(InvalidToken):
        await services.claims.claim(created.token.reveal(), PASSWORD, WEB)


async def test_after_a_reset_the_former_password_is_worth_nothing(
    services: Services, owner: Actor, storage: FakeStorage
) -> None:
    mia = await made(services, "mia", Role.MEMBER)
    pair = await services.authentication.login("mia", PASSWORD, WEB)
    async with storage.write() as uow:
        await uow.passkeys.add(_passkey(mia), most=20)
        await uow.factors.put_codes(mia.id, [b"code"], EPOCH)
    first = await services.users.reset(owner, mia.id)
    assert storage.tables.passkeys == {}
    async with storage.read() as uow:
        assert await uow.factors.codes_left(mia.id) == 0
    with pytest.raises(InvalidToken):
        await services.requests.authenticate(pair.access_token.reveal(), WEB)
    with pytest.raises(InvalidCredentials):
        await services.authentication.login("mia", PASSWORD, WEB)
    second = await services.users.reset(owner, mia.id)
    with pytest.raises(InvalidToken):
        await services.claims.claim(first.token.reveal(), OTHER_PASSWORD, WEB)
    await services.claims.claim(second.token.reveal(), OTHER_PASSWORD, WEB)
    assert (await signed_in(services, "mia", OTHER_PASSWORD)).role is Role.MEMBER
    assert (Action.USER_RESET, Result.OK) in storage.trail()
    stored = repr(storage.tables)
    assert first.token.reveal() not in stored
    assert second.token.reveal() not in stored


async def test_a_reset_unlinks_discord_unless_the_account_came_from_there(
    services: Services, owner: Actor, operator: Actor, storage: FakeStorage, clock: FakeClock
) -> None:
    """Who linked their Discord to a stolen account must not get in by it after the reset."""
    mia, number, other = await made(services, "mia", Role.MEMBER), "123456789012345678", "123456789012345679"
    await services.identity.link(operator, "mia", number)
    assert (await services.users.reset(owner, mia.id)).user.discord_id is None
    assert storage.trail().count((Action.USER_UNLINKED, Result.OK)) == 1
    visitor = User(
        id="v",
        subject_id="s",
        username=f"discord:{other}",
        role=Role.MEMBER,
        discord_id=other,
        created_at=clock.now(),
    )
    async with storage.write() as uow:
        assert await uow.users.by_discord(number) is None
        await uow.users.add(visitor)
    assert (await services.users.reset(owner, visitor.id)).user.discord_id == other
    assert storage.trail().count((Action.USER_UNLINKED, Result.OK)) == 1


async def test_what_is_so_already_leaves_no_trace(services: Services, owner: Actor, storage: FakeStorage) -> None:
    mia = await made(services, "mia", Role.MEMBER)
    await services.authentication.login("mia", PASSWORD, WEB)
    before = storage.trail()
    await services.users.change(owner, mia.id, role=Role.MEMBER, disabled=False)
    await services.users.change(owner, mia.id)
    assert storage.trail() == before
    assert storage.tables.users[mia.id].token_version == mia.token_version
    for attempt in (
        services.users.get(owner, ABSENT),
        services.users.change(owner, ABSENT, disabled=True),
        services.users.reset(owner, ABSENT),
        services.users.named(owner, "nobody"),
    ):
        with pytest.raises(NotFound):
            await attempt


async def test_users_are_found_by_name_role_and_state(services: Services, owner: Actor) -> None:
    names = ["zoe", "anna", "mia_1", "mia%2", "tom"]
    for name in names:
        await made(services, name, Role.ADMIN if name == "tom" else Role.MEMBER)
    zoe = await services.users.named(owner, " ZOE ")
    await services.users.change(owner, zoe.id, disabled=True)

    async def found(**wanted: object) -> list[str]:
        page = await services.users.page(owner, wanted=UserFilter(**wanted))  # type: ignore[arg-type]
        return [each.username for each in page.items]

    assert await found() == ["olga", *names]
    assert await found(name="A_") == ["mia_1"]
    assert await found(name="%") == ["mia%2"]
    assert await found(name="ANNA") == ["anna"]
    assert await found(role=Role.ADMIN) == ["tom"]
    assert await found(disabled=True) == ["zoe"]
    assert await found(disabled=False, role=Role.MEMBER) == ["anna", "mia_1", "mia%2"]
    seen, cursor = [], None
    while True:
        page = await services.users.page(owner, after=cursor, limit=2)
        seen += [each.username for each in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == ["olga", *names]


# ---------------------------------------------------------------------------------------------------------------------
# Requests that come twice
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_repeated_request_makes_one_account_and_shows_its_link_once(
    services: Services, owner: Actor, storage: FakeStorage
) -> None:
    first = await services.users.create(owner, "mia", Role.MEMBER, idempotency_key="k")
    again = await services.users.create(owner, "mia", Role.MEMBER, idempotency_key="k")
    assert (again.user, again.token) == (first.user, None)
    assert first.token
    assert first.token.reveal() not in repr(storage.tables)
    for name, role in (("eve", Role.MEMBER), ("mia", Role.ADMIN)):
        with pytest.raises(IdempotencyConflict):
            await services.users.create(owner, name, role, idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        await services.users.invite(owner, Role.MEMBER, idempotency_key="k")
    with pytest.raises(AlreadyExists):
        await services.users.create(owner, "Mia", Role.MEMBER)


async def test_a_repeated_invitation_is_the_first_one_without_its_link(services: Services, owner: Actor) -> None:
    first = await services.users.invite(owner, Role.MEMBER, idempotency_key="k")
    again = await services.users.invite(owner, Role.MEMBER, idempotency_key="k")
    assert (again.invitation, again.token) == (first.invitation, None)
    assert len((await services.users.invitations(owner)).items) == 1
    await services.users.withdraw(owner, first.invitation.id)
    with pytest.raises(NotFound):
        await services.users.invite(owner, Role.MEMBER, idempotency_key="k")


# ---------------------------------------------------------------------------------------------------------------------
# Invitations
# ---------------------------------------------------------------------------------------------------------------------


async def _token(services: Services, actor: Actor, role: Role = Role.MEMBER, lasts: timedelta | None = None) -> str:
    invited = await services.users.invite(actor, role, lasts=lasts)
    assert invited.token
    return invited.token.reveal()


async def test_an_invitation_makes_one_account_with_its_role(
    services: Services, owner: Actor, storage: FakeStorage
) -> None:
    token = await _token(services, owner, Role.AUDITOR)
    for name, password in ((None, PASSWORD), ("two words", PASSWORD), ("mia", "password1234"), ("mia", "short")):
        with pytest.raises(InvalidInput):
            await services.claims.claim(token, password, WEB, username=name)
    with pytest.raises(AlreadyExists):
        await services.claims.claim(token, PASSWORD, WEB, username="0lga")
    user = await services.claims.claim(f"https://keyhall.example.org/claim#{token}", PASSWORD, WEB, username="mia")
    assert (user.username, user.role) == ("mia", Role.AUDITOR)
    assert (await signed_in(services, "mia")).user_id == user.id
    with pytest.raises(InvalidToken):
        await services.claims.claim(token, PASSWORD, WEB, username="eve")
    created = next(each for each in storage.tables.audit if each.action is Action.USER_CREATED)
    assert (created.object_id, created.detail["role"]) == (user.id, "auditor")
    assert token not in repr(storage.tables)


async def test_an_invitation_ends_when_it_is_withdrawn_or_its_time_is_over(
    keyhall: Keyhall, services: Services, operator: Actor, clock: FakeClock
) -> None:
    withdrawn = await services.users.invite(operator, Role.MEMBER)
    short = await _token(services, operator, lasts=timedelta(minutes=5))
    usual, long = await _token(services, operator), await _token(services, operator, lasts=INVITATION_LONGEST)
    await services.users.withdraw(operator, withdrawn.invitation.id)
    with pytest.raises(NotFound):
        await services.users.withdraw(operator, withdrawn.invitation.id)
    assert withdrawn.token
    tokens = [withdrawn.token.reveal(), short, usual]
    keyhall.advance(clock, timedelta(minutes=5))
    for token, passed in zip(tokens, (timedelta(), timedelta(), LINK_LASTS), strict=True):
        keyhall.advance(clock, passed)
        with pytest.raises(InvalidToken):
            await services.claims.claim(token, PASSWORD, WEB, username="eve")
    await services.claims.claim(long, PASSWORD, WEB, username="mia")
    for lasts in (timedelta(), timedelta(seconds=-1), INVITATION_LONGEST + timedelta(seconds=1)):
        with pytest.raises(InvalidInput, match="expires_in"):
            await services.users.invite(operator, Role.MEMBER, lasts=lasts)


@pytest.mark.parametrize("loss", [{"role": Role.MEMBER}, {"role": Role.AUDITOR}, {"disabled": True}])
async def test_an_invitation_goes_with_the_right_of_whoever_issued_it(
    services: Services, owner: Actor, loss: dict[str, object]
) -> None:
    ada = await made(services, "ada", Role.ADMIN)
    token = await _token(services, await signed_in(services, "ada"))
    kept = await _token(services, owner)
    await services.users.change(owner, ada.id, **loss)  # type: ignore[arg-type]
    assert [each.issued_by for each in (await services.users.invitations(owner)).items] == [owner.user_id]
    await services.users.change(owner, ada.id, role=Role.ADMIN, disabled=False)
    with pytest.raises(InvalidToken):
        await services.claims.claim(token, PASSWORD, WEB, username="eve")
    await services.claims.claim(kept, PASSWORD, WEB, username="mia")


async def test_an_invitation_that_was_stored_too_late_to_be_withdrawn_is_of_no_use(
    services: Services, owner: Actor, storage: FakeStorage
) -> None:
    """Between a demotion and the end of a request that was under way."""
    ada = await made(services, "ada", Role.ADMIN)
    token = await _token(services, await signed_in(services, "ada"))
    late = dict(storage.tables.links)
    await services.users.change(owner, ada.id, role=Role.MEMBER)
    storage.tables.links.update(late)
    with pytest.raises(InvalidToken):
        await services.claims.claim(token, PASSWORD, WEB, username="eve")


@pytest.mark.parametrize("seconds", [0, -1, -(10**15), 30 * 86400 + 1, 10**15, 10**400])
def test_a_number_of_seconds_is_judged_before_it_becomes_a_time_span(seconds: int) -> None:
    with pytest.raises(InvalidInput, match="expires_in"):
        invitation_span(seconds)
    assert (invitation_span(1), invitation_span(30 * 86400)) == (timedelta(seconds=1), INVITATION_LONGEST)


async def test_a_request_whose_twin_was_faster_gets_the_account_that_the_twin_made(
    services: Services, owner: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await services.users.create(owner, "mia", Role.MEMBER, idempotency_key="one")
    earlier, answers = Idempotency.earlier, [None]

    async def late(*arguments: Any) -> str | None:
        """As for a request that looked before its twin had stored anything."""
        return answers.pop() if answers else await earlier(*arguments)

    monkeypatch.setattr(Idempotency, "earlier", late)
    again = await services.users.create(owner, "mia", Role.MEMBER, idempotency_key="one")
    assert (again.user, again.token) == (first.user, None)
    with pytest.raises(AlreadyExists):
        await services.users.create(owner, "mia", Role.MEMBER, idempotency_key="two")


async def test_nobody_is_invited_as_an_owner(services: Services, owner: Actor) -> None:
    with pytest.raises(Forbidden, match="then give them that one"):
        await services.users.invite(owner, Role.OWNER)


@pytest.mark.parametrize("registration", list(Registration))
async def test_an_invitation_works_whatever_registration_says(
    storage: FakeStorage, clock: FakeClock, registration: Registration
) -> None:
    services = (await open_keyhall(storage, clock, FakeRandomness(), registration=registration)).services
    token = await _token(services, await services.identity.operator())
    assert (await services.claims.claim(token, PASSWORD, WEB, username="mia")).role is Role.MEMBER
