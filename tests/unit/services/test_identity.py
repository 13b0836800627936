"""Accounts, the first owner, and people who come from Discord, on a storage in memory."""

from __future__ import annotations

import pytest

from app.domain.audit import Action, Result
from app.domain.errors import AlreadyExists, Forbidden, InvalidInput, InvalidToken, NotFound, SetupClosed
from app.domain.identity import Actor, Client, GuildContext, Registration, Role, Source, User
from app.services.identity import DiscordEvent, IdentityService
from tests.support.fakes import FakeClock, FakeRandomness, FakeStorage
from tests.support.keyhall import Keyhall, member, open_keyhall
from tests.support.samples import PASSWORD, SECRET

WEB = Client(source=Source.WEB, address="192.0.2.7")
NUMBER = "123456789012345678"
GUILD = GuildContext(guild_id="900000000000000009")


@pytest.fixture
def identity(keyhall: Keyhall) -> IdentityService:
    return keyhall.services.identity


@pytest.fixture
async def operator(identity: IdentityService) -> Actor:
    return await identity.operator()


@pytest.fixture
async def mia(identity: IdentityService, operator: Actor) -> User:
    return await identity.create(operator, "Mia", PASSWORD, Role.MEMBER)


def event(number: str = NUMBER, *, of_known_guild: bool = True) -> DiscordEvent:
    async def member_of_known_guild() -> bool:
        return of_known_guild

    return DiscordEvent(discord_id=number, guild=GUILD, member_of_known_guild=member_of_known_guild)


# ---------------------------------------------------------------------------------------------------------------------
# The first owner
# ---------------------------------------------------------------------------------------------------------------------


async def test_the_setup_token_creates_the_owner_once(
    keyhall: Keyhall, identity: IdentityService, storage: FakeStorage
) -> None:
    token = keyhall.keys.setup_token().reveal()
    assert not await identity.owner_ever_existed()
    owner = await identity.setup(f" {token}\n", "Olga", PASSWORD, WEB)
    assert (owner.role, owner.username) == (Role.OWNER, "Olga")
    assert await identity.owner_ever_existed()
    assert storage.trail() == [(Action.OWNER_CREATED, Result.OK)]
    created = storage.tables.audit[-1]
    assert (created.subject_id, created.address, created.object_id) == (None, "192.0.2.7", owner.id)
    for attempt in (identity.setup(token, "Eve", PASSWORD, WEB), identity.create_owner("Eve", PASSWORD, WEB)):
        with pytest.raises(SetupClosed):
            await attempt
    assert list(storage.tables.users) == [owner.id]


async def test_the_setup_stays_closed_when_the_owner_is_disabled(
    identity: IdentityService, storage: FakeStorage, clock: FakeClock
) -> None:
    owner = await identity.create_owner("Olga", PASSWORD, WEB)
    async with storage.write() as uow:
        await uow.users.disable(owner.id, clock.now())
    with pytest.raises(SetupClosed):
        await identity.create_owner("Eve", PASSWORD, WEB)


@pytest.mark.parametrize("token", ["", "khs_wrong", "x" * 257, "a\0b"])
async def test_a_wrong_setup_token_creates_nothing(identity: IdentityService, storage: FakeStorage, token: str) -> None:
    with pytest.raises((InvalidToken, InvalidInput)):
        await identity.setup(token, "Olga", PASSWORD, WEB)
    assert storage.tables.users == {}


# ---------------------------------------------------------------------------------------------------------------------
# Accounts
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("x", PASSWORD),
        ("two words", PASSWORD),
        ("discord:1", PASSWORD),
        ("tom", "too short"),
        ("tom", "password1234"),
        ("long enough name".replace(" ", "-"), "LONG-ENOUGH-NAME"),
    ],
)
async def test_a_malformed_name_or_a_weak_password_is_refused(
    identity: IdentityService, operator: Actor, storage: FakeStorage, name: str, password: str
) -> None:
    with pytest.raises(InvalidInput):
        await identity.create(operator, name, password, Role.MEMBER)
    assert storage.tables.users == {}


async def test_a_name_is_taken_in_every_capitalisation(identity: IdentityService, operator: Actor, mia: User) -> None:
    with pytest.raises(AlreadyExists):
        await identity.create(operator, "MIA", PASSWORD, Role.MEMBER)


@pytest.mark.parametrize(
    "name", ["M\u0131a", "\uff2d\uff49\uff41", "\u041c\u0456\u0430", "rnia", "M1a"]
)  # dotless i, full width, Cyrillic
async def test_a_name_that_looks_like_another_is_taken(
    identity: IdentityService, operator: Actor, mia: User, name: str
) -> None:
    with pytest.raises(AlreadyExists):
        await identity.create(operator, name, PASSWORD, Role.MEMBER)
    await identity.create(operator, "mina", PASSWORD, Role.MEMBER)


@pytest.mark.parametrize(
    "name", ["mi\u00ada", "\u3164", "\u3164\u3164", "mi\u200da", "mi\u2800a", "mi\u00a0a", "mi\ufe0fa", "\u115f\u1160"]
)
async def test_a_name_with_characters_that_nobody_sees_is_refused(
    identity: IdentityService, operator: Actor, name: str
) -> None:
    with pytest.raises(InvalidInput):
        await identity.create(operator, name, PASSWORD, Role.MEMBER)


async def test_an_admin_makes_nobody_an_owner(
    identity: IdentityService, operator: Actor, clock: FakeClock, storage: FakeStorage
) -> None:
    admin = member(clock, role=Role.ADMIN)
    for attempt in (
        identity.create(admin, "eve", PASSWORD, Role.OWNER),
        identity.create_claimable(admin, "eve", Role.OWNER),
    ):
        with pytest.raises(Forbidden):
            await attempt
    assert storage.tables.users == {}
    assert (await identity.create(operator, "olga", PASSWORD, Role.OWNER)).role is Role.OWNER


@pytest.mark.parametrize("role", [Role.MEMBER, Role.AUDITOR])
async def test_only_those_who_manage_users_create_link_and_unlink_them(
    identity: IdentityService, clock: FakeClock, mia: User, role: Role
) -> None:
    actor = member(clock, role=role)
    for attempt in (
        identity.create(actor, "eve", PASSWORD, Role.MEMBER),
        identity.link(actor, "mia", NUMBER),
        identity.unlink(actor, "mia"),
    ):
        with pytest.raises(Forbidden):
            await attempt


# ---------------------------------------------------------------------------------------------------------------------
# Discord
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_first_interaction_creates_one_account(identity: IdentityService, storage: FakeStorage) -> None:
    first = await identity.from_discord(event())
    again = await identity.from_discord(event())
    assert (first.user_id, first.username, first.role) == (again.user_id, f"discord:{NUMBER}", Role.MEMBER)
    assert (first.guild, first.discord_id, first.client.source) == (GUILD, NUMBER, Source.DISCORD)
    assert first.authenticated_at is None
    assert storage.trail() == [(Action.USER_CREATED, Result.OK)]
    assert storage.tables.audit[-1].source is Source.SYSTEM


@pytest.mark.parametrize(
    ("registration", "of_known_guild", "admitted"),
    [
        (Registration.OPEN, False, True),
        (Registration.GUILD, True, True),
        (Registration.GUILD, False, False),
        (Registration.INVITE, True, False),
    ],
)
async def test_registration_decides_who_gets_an_account(
    *, storage: FakeStorage, clock: FakeClock, registration: Registration, of_known_guild: bool, admitted: bool
) -> None:
    keyhall = await open_keyhall(storage, clock, FakeRandomness(), registration=registration)
    attempt = keyhall.services.identity.from_discord(event(of_known_guild=of_known_guild))
    if admitted:
        await attempt
    else:
        with pytest.raises(Forbidden):
            await attempt
    assert len(storage.tables.users) == int(admitted)


async def test_a_disabled_account_is_refused_on_discord(
    identity: IdentityService, storage: FakeStorage, clock: FakeClock
) -> None:
    found = await identity.from_discord(event())
    async with storage.write() as uow:
        await uow.users.disable(found.user_id, clock.now())
    with pytest.raises(Forbidden):
        await identity.from_discord(event())


async def test_linking_moves_the_credentials_of_the_discord_account_and_disables_it(
    keyhall: Keyhall, identity: IdentityService, operator: Actor, storage: FakeStorage, mia: User
) -> None:
    visitor = await identity.from_discord(event())
    view = (await keyhall.credentials.add(visitor, provider="openai", label="main", secret=SECRET)).view
    linked = await identity.link(operator, "mia", NUMBER)
    assert (linked.user.id, linked.user.discord_id, linked.moved) == (mia.id, NUMBER, 1)
    now = await identity.from_discord(event())
    assert now.user_id == mia.id
    assert (await keyhall.credentials.get(now, view.id)).label == "main"
    assert storage.tables.users[visitor.user_id].disabled_at is not None
    linked_event = storage.tables.audit[-1]
    assert (linked_event.action, linked_event.object_id, dict(linked_event.detail)) == (
        Action.USER_LINKED,
        mia.id,
        {"moved": 1},
    )


async def test_linking_again_to_the_same_discord_account_changes_nothing(
    identity: IdentityService, operator: Actor, mia: User
) -> None:
    for _ in range(2):
        assert (await identity.link(operator, "mia", NUMBER)).moved == 0


async def test_a_link_that_exists_is_not_replaced(identity: IdentityService, operator: Actor, mia: User) -> None:
    await identity.create(operator, "tom", PASSWORD, Role.MEMBER)
    await identity.link(operator, "mia", NUMBER)
    with pytest.raises(AlreadyExists):
        await identity.link(operator, "mia", "42")
    with pytest.raises(AlreadyExists):
        await identity.link(operator, "tom", NUMBER)


async def test_an_account_that_nobody_claimed_yet_is_not_taken_for_a_discord_account(
    identity: IdentityService, operator: Actor, storage: FakeStorage, mia: User
) -> None:
    unclaimed = (await identity.create_claimable(operator, "imported", Role.MEMBER)).user
    await identity.link(operator, "imported", NUMBER)
    with pytest.raises(AlreadyExists):
        await identity.link(operator, "mia", NUMBER)
    assert storage.tables.users[unclaimed.id].disabled_at is None


async def test_an_account_from_discord_that_was_claimed_is_not_taken_away(
    keyhall: Keyhall, identity: IdentityService, operator: Actor, mia: User
) -> None:
    visitor = await identity.from_discord(event())
    claims = keyhall.services.claims
    link = await claims.issue(operator, visitor.username)
    await claims.claim(link.token.reveal(), PASSWORD, Client(source=Source.WEB))
    with pytest.raises(AlreadyExists):
        await identity.link(operator, "mia", NUMBER)


async def test_unlinking_leaves_the_credentials_with_the_account(
    keyhall: Keyhall, identity: IdentityService, operator: Actor, mia: User
) -> None:
    await identity.link(operator, "mia", NUMBER)
    actor = await identity.from_discord(event())
    view = (await keyhall.credentials.add(actor, provider="openai", label="main", secret=SECRET)).view
    assert (await identity.unlink(operator, "mia")).discord_id is None
    with pytest.raises(NotFound):
        await identity.unlink(operator, "mia")
    visitor = await identity.from_discord(event())
    assert visitor.user_id != mia.id
    with pytest.raises(NotFound):
        await keyhall.credentials.get(visitor, view.id)


async def test_an_account_without_a_password_cannot_be_unlinked(identity: IdentityService, operator: Actor) -> None:
    await identity.from_discord(event())
    with pytest.raises(InvalidInput):
        await identity.unlink(operator, f"discord:{NUMBER}")


@pytest.mark.parametrize("number", ["", "0", "-1", "1.0", "x", "٣", "18446744073709551616"])
async def test_a_malformed_discord_id_is_refused(
    identity: IdentityService, operator: Actor, mia: User, number: str
) -> None:
    with pytest.raises(InvalidInput):
        await identity.link(operator, "mia", number)
    with pytest.raises(InvalidInput):
        await identity.from_discord(event(number))


# ---------------------------------------------------------------------------------------------------------------------
# The operator
# ---------------------------------------------------------------------------------------------------------------------


async def test_the_operator_acts_for_a_user_or_a_guild_and_is_recorded_without_a_subject(
    identity: IdentityService, mia: User
) -> None:
    for_user = await identity.operator_for(username=" MIA ")
    assert (for_user.user_id, for_user.subject_id, for_user.role) == (mia.id, None, Role.OWNER)
    for_guild = await identity.operator_for(guild_id=GUILD.guild_id)
    assert for_guild.guild == GuildContext(guild_id=GUILD.guild_id, manages_guild=True)
    assert await identity.operator_for() == await identity.operator()
    with pytest.raises(NotFound):
        await identity.operator_for(username="nobody")


@pytest.mark.parametrize(
    "name",
    [
        "discord\uff1a123456789012345678",
        "a\uff20b",
        "a\uff0fb",
        "owner\U0001d159",
        "owner\U00013430",
        "owner\U00016fe4",
        "owner\u0378",
        "\U0001d159",
        "--",
        "...",
    ],
)
async def test_a_name_that_stands_for_another_or_for_nothing_is_refused(keyhall: Keyhall, name: str) -> None:
    identity = keyhall.services.identity
    with pytest.raises(InvalidInput, match="username"):
        await identity.create(await identity.operator(), name, PASSWORD, Role.MEMBER)
