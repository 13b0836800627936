"""Linking an account with a Discord account: from the web by a ticket, from Discord by a code."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest

from app.domain.attempts import PER_OWN, WINDOW
from app.domain.audit import Action, Result
from app.domain.errors import (
    Forbidden,
    InvalidInput,
    LinkCodeRefused,
    LinkConflict,
    NoOtherWayIn,
    NotFound,
    ReauthenticationRequired,
    TicketRefused,
    TooManyAttempts,
)
from app.domain.identity import Actor, Client, GuildContext, Role, Source, User
from app.domain.second_factor import TotpFactor
from app.services.discord_accounts import DiscordLinking, TicketKind
from app.services.identity import DiscordEvent
from tests.support.fakes import FakeClock, FakeRandomness, FakeStorage
from tests.support.keyhall import Keyhall, open_keyhall
from tests.support.samples import OTHER_SECRET, PASSWORD, SECRET

NUMBER = "123456789012345678"
GUILD = "900000000000000009"
WEB = Client(source=Source.WEB)


@pytest.fixture
def storage(clock: FakeClock) -> FakeStorage:
    return FakeStorage(clock)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def keyhall(storage: FakeStorage, clock: FakeClock) -> Keyhall:
    return await open_keyhall(storage, clock, FakeRandomness())


@pytest.fixture
def linking(keyhall: Keyhall) -> DiscordLinking:
    return keyhall.services.discord_linking


@pytest.fixture
async def mia(keyhall: Keyhall) -> Actor:
    return await member(keyhall, "mia")


async def member(keyhall: Keyhall, name: str, role: Role = Role.MEMBER) -> Actor:
    """A user with a password, freshly signed in on the web."""
    identity = keyhall.services.identity
    user = await identity.create(await identity.operator(), name, PASSWORD, role)
    await keyhall.services.authentication.login_browser(name, PASSWORD, WEB)
    async with keyhall.storage.lookup() as uow:
        (session,) = await uow.sessions.live_of(user.id, keyhall.clock.now())
    return as_actor(user, keyhall, session.id)


def as_actor(user: User, keyhall: Keyhall, session_id: str | None) -> Actor:
    return Actor(
        user_id=user.id,
        subject_id=user.subject_id,
        username=user.username,
        role=user.role,
        client=WEB,
        session_id=session_id,
        authenticated_at=keyhall.clock.now(),
    )


async def visitor(keyhall: Keyhall, number: str = NUMBER, guild: GuildContext | None = None) -> Actor:
    """The sender of an interaction, who has an account afterwards."""

    async def known() -> bool:
        return True

    event = DiscordEvent(discord_id=number, guild=guild, member_of_known_guild=known)
    return await keyhall.services.identity.from_discord(event)


def proven(keyhall: Keyhall, actor: Actor, number: str = NUMBER) -> str:
    """The ticket of a browser that came back from Discord."""
    tickets = keyhall.services.discord_linking._tickets
    return tickets.issue(TicketKind.PROVEN, actor.session_id or "", number)[1].reveal()


async def code_of(linking: DiscordLinking, actor: Actor) -> str:
    return (await linking.issue_code(actor)).code.reveal()


# ---------------------------------------------------------------------------------------------------------------------
# What moves
# ---------------------------------------------------------------------------------------------------------------------


async def test_the_offer_names_what_moves_and_the_link_moves_exactly_that(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor, storage: FakeStorage
) -> None:
    here = GuildContext(guild_id=GUILD, manages_guild=True)
    sender = await visitor(keyhall, guild=here)
    credentials = keyhall.credentials
    main = (await credentials.add(sender, provider="openai", label="main", secret=SECRET)).view
    gone = (await credentials.add(sender, provider="groq", label="old", secret=OTHER_SECRET)).view
    await credentials.remove(sender, gone.id)
    shared = (await credentials.add(sender, provider="github", label="team", secret=SECRET, guild_id=GUILD)).view
    await credentials.add(mia, provider="openai", label="MAIN", secret=OTHER_SECRET)
    code = await code_of(linking, mia)

    offers = [await linking.offer_by_code(NUMBER, code), await linking.offer(mia, proven(keyhall, mia))]
    for offer in offers:
        (moving,) = offer.credentials
        assert (moving.view.id, moving.view.label, moving.label) == (main.id, "main", "main 2")
        assert SECRET not in repr(offer)
        assert moving.view.masked == main.masked
        assert (offer.username, offer.discord_id, offer.linked) == ("mia", NUMBER, False)
        assert (offer.removed, offer.shares) == (1, [(GUILD, 1)])

    linked = await linking.link_by_code(NUMBER, code)
    assert linked.moved.count == 2
    (renamed,) = linked.moved.renamed
    assert (renamed.provider, renamed.label, renamed.new_label) == ("openai", "main", "main 2")
    now = await visitor(keyhall, guild=here)
    assert now.user_id == mia.user_id
    assert (await credentials.get(now, main.id)).label == "main 2"
    assert (await credentials.reveal(mia, main.id)).reveal() == SECRET
    assert storage.tables.credentials[shared.id].created_by == mia.user_id
    assert storage.tables.users[sender.user_id].disabled_at is not None
    linked_rows = [each for each in storage.tables.audit if each.action is Action.USER_LINKED]
    assert [(each.object_id, each.source, dict(each.detail)) for each in linked_rows] == [
        (mia.user_id, Source.DISCORD, {"moved": 2, "renamed": 1})
    ]


async def test_both_directions_do_the_same(keyhall: Keyhall, linking: DiscordLinking, mia: Actor) -> None:
    sender = await visitor(keyhall)
    view = (await keyhall.credentials.add(sender, provider="openai", label="main", secret=SECRET)).view
    linked = await linking.link(mia, proven(keyhall, mia))
    assert (linked.username, linked.moved.count, linked.moved.renamed) == ("mia", 1, [])
    assert (await visitor(keyhall)).user_id == mia.user_id
    assert (await keyhall.credentials.reveal(mia, view.id)).reveal() == SECRET


async def test_a_discord_user_without_an_account_is_linked_and_gets_none(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor, storage: FakeStorage
) -> None:
    offer = await linking.offer_by_code(NUMBER, await code_of(linking, mia))
    assert (offer.credentials, offer.removed, offer.shares) == ([], 0, [])
    assert (await linking.link_by_code(NUMBER, await code_of(linking, mia))).moved.count == 0
    assert len(storage.tables.users) == 1
    assert (await visitor(keyhall)).user_id == mia.user_id


# ---------------------------------------------------------------------------------------------------------------------
# Who may not
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_disabled_discord_user_does_not_come_back_as_another(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor, clock: FakeClock
) -> None:
    sender = await visitor(keyhall)
    async with keyhall.storage.write() as uow:
        await uow.users.disable(sender.user_id, clock.now())
    code = await code_of(linking, mia)
    for attempt in (linking.offer_by_code, linking.link_by_code):
        with pytest.raises(Forbidden):
            await attempt(NUMBER, code)
    with pytest.raises(Forbidden):
        await linking.link(mia, proven(keyhall, mia))


async def test_a_code_of_an_account_that_was_disabled_links_nothing(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor, clock: FakeClock
) -> None:
    code = await code_of(linking, mia)
    async with keyhall.storage.write() as uow:
        await uow.users.disable(mia.user_id, clock.now())
    with pytest.raises(Forbidden):
        await linking.link_by_code(NUMBER, code)


async def test_rights_of_the_discord_account_are_not_lost(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor, storage: FakeStorage
) -> None:
    sender = await visitor(keyhall)
    storage.tables.users[sender.user_id] = replace(storage.tables.users[sender.user_id], role=Role.OWNER)
    with pytest.raises(LinkConflict):
        await linking.link_by_code(NUMBER, await code_of(linking, mia))
    boss = await member(keyhall, "boss", Role.OWNER)
    assert (await linking.link(boss, proven(keyhall, boss))).username == "boss"


async def test_a_second_factor_of_the_discord_account_is_not_gone_around(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor
) -> None:
    """Otherwise a stolen Discord account alone would move its keys to an account of the thief."""
    sender = await visitor(keyhall)
    factor = TotpFactor(
        id="f", user_id=sender.user_id, encrypted_secret=b"x", key_version=1, created_at=keyhall.clock.now()
    )
    async with keyhall.storage.write() as uow:
        assert await uow.factors.start(factor)
    code = await code_of(linking, mia)
    assert (await linking.offer_by_code(NUMBER, code)).username == "mia"  # it was never confirmed
    async with keyhall.storage.write() as uow:
        assert await uow.factors.confirm("f", 1, keyhall.clock.now())
    for attempt in (linking.offer_by_code, linking.link_by_code):
        with pytest.raises(LinkConflict, match="second factor"):
            await attempt(NUMBER, code)
    with pytest.raises(LinkConflict):
        await linking.link(mia, proven(keyhall, mia))


async def test_what_is_linked_already_is_not_linked_elsewhere(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor
) -> None:
    tom = await member(keyhall, "tom")
    await linking.link(mia, proven(keyhall, mia))
    with pytest.raises(LinkConflict):
        await linking.offer(tom, proven(keyhall, tom))
    with pytest.raises(LinkConflict):
        await linking.link_by_code(NUMBER, await code_of(linking, tom))
    with pytest.raises(LinkConflict):
        await linking.link(mia, proven(keyhall, mia, "42"))
    assert (await linking.offer(mia, proven(keyhall, mia))).linked


# ---------------------------------------------------------------------------------------------------------------------
# Tickets
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_ticket_works_once_in_its_session_for_ten_minutes(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor, clock: FakeClock
) -> None:
    tom, ticket = await member(keyhall, "tom"), proven(keyhall, mia)
    for other in (tom, replace(mia, session_id="another"), replace(mia, session_id=None)):
        with pytest.raises(TicketRefused):
            await linking.offer(other, ticket)
        with pytest.raises(TicketRefused):
            await linking.link(other, ticket)
    await linking.link(mia, ticket)
    await linking.unlink(mia)
    with pytest.raises(TicketRefused):
        await linking.link(mia, ticket)
    late = proven(keyhall, mia)
    keyhall.advance(clock, timedelta(minutes=10))
    with pytest.raises(TicketRefused):
        await linking.offer(mia, late)


@pytest.mark.parametrize("kind", [TicketKind.SIGN_IN, TicketKind.LINK])
async def test_a_ticket_of_another_step_proves_nothing(linking: DiscordLinking, mia: Actor, kind: TicketKind) -> None:
    text = linking._tickets.issue(kind, mia.session_id or "", NUMBER)[1].reveal()
    with pytest.raises(TicketRefused):
        await linking.link(mia, text)


async def test_a_ticket_that_was_refused_for_another_reason_still_works(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor
) -> None:
    ticket = proven(keyhall, mia)
    stale = replace(mia, authenticated_at=keyhall.clock.now() - timedelta(minutes=11))
    with pytest.raises(ReauthenticationRequired):
        await linking.link(stale, ticket)
    assert (await linking.link(mia, ticket)).username == "mia"


# ---------------------------------------------------------------------------------------------------------------------
# Codes
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_code_is_read_as_people_type_it(linking: DiscordLinking, mia: Actor) -> None:
    code = await code_of(linking, mia)
    assert len(code.replace("-", "")) == 10
    for typed in (code, code.lower(), f" {code.replace('-', ' ')} ", code.replace("0", "o").replace("1", "l")):
        assert (await linking.offer_by_code(NUMBER, typed)).username == "mia"


async def test_the_database_holds_no_code_and_no_plain_hash_of_one(
    linking: DiscordLinking, mia: Actor, storage: FakeStorage
) -> None:

    code = await code_of(linking, mia)
    (digest,) = storage.tables.links
    bare = code.replace("-", "")
    assert digest not in {hashlib.sha256(each.encode()).digest() for each in (code, bare)}
    assert bare not in repr(storage.tables)
    assert code not in repr(storage.tables)


async def test_a_code_works_once_for_ten_minutes_and_until_there_is_another(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor, clock: FakeClock
) -> None:
    former, code = await code_of(linking, mia), await code_of(linking, mia)
    with pytest.raises(LinkCodeRefused):
        await linking.offer_by_code(NUMBER, former)
    await linking.link_by_code(NUMBER, code)
    await linking.unlink(mia)
    with pytest.raises(LinkCodeRefused):
        await linking.link_by_code(NUMBER, code)
    code = await code_of(linking, mia)
    keyhall.advance(clock, timedelta(minutes=10))
    with pytest.raises(LinkCodeRefused):
        await linking.link_by_code(NUMBER, code)


@pytest.mark.parametrize(
    "typed", ["", "x", "0" * 9, "0" * 11, "U" * 10, "\0" * 10, "\ud800" * 10, "\u0660" * 10, "9" * 10_000]
)
async def test_what_can_be_no_code_is_refused(linking: DiscordLinking, typed: str) -> None:
    for attempt in (linking.offer_by_code, linking.link_by_code):
        with pytest.raises(LinkCodeRefused):
            await attempt(NUMBER, typed)


@pytest.mark.parametrize("number", ["", "0", "x", "18446744073709551616"])
async def test_a_malformed_discord_id_links_nothing(linking: DiscordLinking, mia: Actor, number: str) -> None:
    with pytest.raises(InvalidInput):
        await linking.link_by_code(number, await code_of(linking, mia))


async def test_wrong_codes_are_limited_for_each_discord_account_also_before_a_right_one(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor, storage: FakeStorage, clock: FakeClock
) -> None:
    code = await code_of(linking, mia)
    for guess in range(PER_OWN):
        with pytest.raises(LinkCodeRefused):
            await linking.offer_by_code(NUMBER, f"{guess:010}")
    for attempt in (linking.offer_by_code, linking.link_by_code):
        with pytest.raises(TooManyAttempts):
            await attempt(NUMBER, code)
    assert (await linking.offer_by_code("42", code)).username == "mia"
    denied = [each for each in storage.tables.audit if each.result is Result.DENIED]
    assert {each.action for each in denied} == {Action.USER_LINKED}
    assert code.replace("-", "") not in repr(denied)
    keyhall.advance(clock, WINDOW + timedelta(minutes=1))
    another = await code_of(linking, replace(mia, authenticated_at=clock.now()))
    assert (await linking.offer_by_code(NUMBER, another)).username == "mia"


async def test_of_fifty_uses_of_one_code_at_once_one_links(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor, storage: FakeStorage
) -> None:
    code = await code_of(linking, mia)
    numbers = [str(1000 + number) for number in range(50)]
    done = await asyncio.gather(*(linking.link_by_code(each, code) for each in numbers), return_exceptions=True)
    failed = [each for each in done if isinstance(each, BaseException)]
    assert len(failed) == 49
    assert {type(each) for each in failed} == {LinkCodeRefused}
    assert storage.tables.users[mia.user_id].discord_id in numbers


async def test_a_code_ends_with_the_session_that_may_have_made_it(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor
) -> None:
    authentication = keyhall.services.authentication
    program = await authentication.login("mia", PASSWORD, WEB)
    code = await code_of(linking, mia)
    await authentication.logout(program.refresh_token.reveal(), WEB)
    with pytest.raises(LinkCodeRefused):
        await linking.offer_by_code(NUMBER, code)
    code = await code_of(linking, mia)
    await authentication.end_session(mia)
    with pytest.raises(LinkCodeRefused):
        await linking.link_by_code(NUMBER, code)


# ---------------------------------------------------------------------------------------------------------------------
# Apart again
# ---------------------------------------------------------------------------------------------------------------------


async def test_unlinking_ends_the_other_sessions_and_leaves_the_credentials(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor, storage: FakeStorage
) -> None:
    with pytest.raises(NotFound):
        await linking.unlink(mia)
    await linking.link(mia, proven(keyhall, mia))
    await keyhall.services.authentication.login("mia", PASSWORD, WEB)
    view = (await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET)).view
    await linking.unlink(mia)
    assert storage.tables.users[mia.user_id].discord_id is None
    assert (await keyhall.credentials.get(mia, view.id)).label == "main"
    alive = [each.id for each in storage.tables.sessions.values() if each.revoked_at is None]
    assert alive == [mia.session_id]


async def test_the_only_way_in_is_not_unlinked(keyhall: Keyhall, linking: DiscordLinking, storage: FakeStorage) -> None:
    sender = await visitor(keyhall)
    browser = await keyhall.services.authentication.begin_browser(storage.tables.users[sender.user_id], WEB)
    with pytest.raises(NoOtherWayIn):
        await linking.unlink(await keyhall.services.requests.authenticate_browser(browser.cookie.reveal(), WEB))
    assert storage.tables.users[sender.user_id].discord_id == NUMBER


@pytest.mark.parametrize("act", ["issue_code", "unlink"])
async def test_a_password_that_was_proven_long_ago_is_not_enough(
    keyhall: Keyhall, linking: DiscordLinking, mia: Actor, act: str
) -> None:
    stale = replace(mia, authenticated_at=keyhall.clock.now() - timedelta(minutes=11))
    with pytest.raises(ReauthenticationRequired):
        await getattr(linking, act)(stale)
