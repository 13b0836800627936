"""Sign-in over a real database: what ends a session, what limits a guesser, and who the first owner is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import jwt
import pytest

from app.domain.attempts import PER_ACCOUNT_AND_NETWORK
from app.domain.errors import (
    AlreadyExists,
    Forbidden,
    InvalidCredentials,
    InvalidInput,
    InvalidToken,
    NotFound,
    NotReady,
    ReauthenticationRequired,
    SetupClosed,
    TooManyAttempts,
)
from app.domain.identity import Actor, Client, GuildContext, Role, Source, User
from app.domain.keys import KeyName
from app.services import Services
from app.services.identity import DiscordEvent
from tests.support.installs import Place
from tests.support.samples import PASSWORD

WEB = Client(source=Source.WEB, address="192.0.2.7", device="a test")


@pytest.fixture
async def services(engine_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    place = await Place(engine_url, tmp_path / "data").install()
    async with place.services() as opened:
        yield opened


@pytest.fixture
async def alice(services: Services) -> User:
    return await services.identity.create_owner("Alice", PASSWORD, WEB)


async def _signed_in(services: Services) -> Actor:
    pair = await services.authentication.login("alice", PASSWORD, WEB)
    return await services.requests.authenticate(pair.access_token.reveal(), WEB)


# ---------------------------------------------------------------------------------------------------------------------
# The first owner
# ---------------------------------------------------------------------------------------------------------------------


async def test_two_simultaneous_claims_make_one_owner(services: Services) -> None:
    token = services.keys.setup_token().reveal()
    claims = [services.identity.setup(token, name, PASSWORD, WEB) for name in ("alice", "mallory")]
    results = await asyncio.gather(*claims, return_exceptions=True)
    assert {type(each) for each in results} == {User, SetupClosed}
    assert await services.identity.owner_ever_existed()


async def test_a_wrong_setup_token_claims_nothing(services: Services) -> None:
    with pytest.raises(InvalidToken):
        await services.identity.setup("khs_wrong", "mallory", PASSWORD, WEB)
    assert not await services.identity.owner_ever_existed()


@pytest.mark.parametrize("password", ["short", "password1234", "qwerty123456", "x" * 257, "a\0bcdefghijklmnop"])
async def test_a_weak_or_malformed_password_is_refused(services: Services, password: str) -> None:
    token = services.keys.setup_token().reveal()
    with pytest.raises(InvalidInput):
        await services.identity.setup(token, "alice", password, WEB)
    assert not await services.identity.owner_ever_existed()


async def test_long_unicode_passwords_count_to_their_last_character(services: Services) -> None:
    long = "Fünf 🔑 hängen im Flur, und einer passt ins alte Schloß. " * 4
    await services.identity.create_owner("alice", long, WEB)
    await services.authentication.login("alice", long, WEB)
    with pytest.raises(InvalidCredentials):
        await services.authentication.login("alice", long[:-1] + "x", WEB)


# ---------------------------------------------------------------------------------------------------------------------
# Tokens
# ---------------------------------------------------------------------------------------------------------------------


async def test_an_access_token_carries_what_the_contract_says(services: Services, alice: User) -> None:
    pair = await services.authentication.login("ALICE", PASSWORD, WEB)
    token = pair.access_token.reveal()
    header = jwt.get_unverified_header(token)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert header == {"alg": "HS256", "kid": "jwt-1", "typ": "at+jwt"}
    assert set(claims) == {"sub", "role", "sid", "token_version", "iss", "aud", "exp", "iat", "jti"}
    assert claims["sub"] == alice.id
    assert claims["exp"] - claims["iat"] == pair.expires_in == 1800


async def test_a_refresh_token_works_once_and_its_reuse_ends_the_family(services: Services, alice: User) -> None:
    first = await services.authentication.login("alice", PASSWORD, WEB)
    second = await services.authentication.refresh(first.refresh_token.reveal(), WEB)
    assert (await services.requests.authenticate(second.access_token.reveal(), WEB)).user_id == alice.id
    with pytest.raises(InvalidToken):
        await services.authentication.refresh(first.refresh_token.reveal(), WEB)
    for token in (first.access_token, second.access_token):
        with pytest.raises(InvalidToken):
            await services.requests.authenticate(token.reveal(), WEB)
    with pytest.raises(InvalidToken):
        await services.authentication.refresh(second.refresh_token.reveal(), WEB)


@pytest.mark.slow
async def test_one_of_many_simultaneous_refreshes_wins(services: Services, alice: User) -> None:
    for _ in range(20):  # a deadlock between the losers needs some luck
        pair = await services.authentication.login("alice", PASSWORD, WEB)
        tries = [services.authentication.refresh(pair.refresh_token.reveal(), WEB) for _ in range(10)]
        results = await asyncio.gather(*tries, return_exceptions=True)
        assert [type(each) for each in results if isinstance(each, BaseException)] == [InvalidToken] * 9


async def test_logout_ends_access_and_refresh_at_once_and_may_be_repeated(services: Services, alice: User) -> None:
    pair = await services.authentication.login("alice", PASSWORD, WEB)
    await services.authentication.logout(pair.refresh_token.reveal(), WEB)
    await services.authentication.logout(pair.refresh_token.reveal(), WEB)
    await services.authentication.logout("khr_unknown", WEB)
    with pytest.raises(InvalidToken):
        await services.requests.authenticate(pair.access_token.reveal(), WEB)


async def test_a_session_can_be_revoked_by_its_user_only(services: Services, alice: User) -> None:
    mine = await _signed_in(services)
    operator = await services.identity.operator()
    await services.identity.create(operator, "bob", PASSWORD, Role.MEMBER)
    pair = await services.authentication.login("bob", PASSWORD, WEB)
    bob = await services.requests.authenticate(pair.access_token.reveal(), WEB)
    assert mine.session_id is not None
    with pytest.raises(NotFound):
        await services.authentication.revoke_session(bob, mine.session_id)
    assert [each.id for each in (await services.authentication.sessions(mine)).items] == [mine.session_id]
    await services.authentication.revoke_session(mine, mine.session_id)
    assert (await services.authentication.sessions(mine)).items == []


async def test_sessions_come_in_pages_newest_first(services: Services, alice: User) -> None:
    ids = [(await _signed_in(services)).session_id for _ in range(3)]
    actor = await _signed_in(services)
    first = await services.authentication.sessions(actor, limit=2)
    second = await services.authentication.sessions(actor, after=first.next_cursor, limit=2)
    assert [each.id for each in (*first.items, *second.items)] == [actor.session_id, *reversed(ids)]
    assert second.next_cursor is None
    with pytest.raises(InvalidInput):
        await services.authentication.sessions(actor, limit=0)


async def test_a_browser_session_ends_with_its_sign_out(services: Services, alice: User) -> None:
    browser = await services.authentication.login_browser("alice", PASSWORD, WEB)
    actor = await services.requests.authenticate_browser(browser.cookie.reveal(), WEB)
    assert actor.user_id == alice.id
    await services.authentication.end_session(actor)
    with pytest.raises(InvalidToken):
        await services.requests.authenticate_browser(browser.cookie.reveal(), WEB)


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 100_000, "\ud800.\ud800.\ud800", "eyJ.eyJ.sig", "' OR 1=1 --"])
async def test_forged_tokens_are_refused_whatever_they_are(services: Services, token: str) -> None:
    with pytest.raises(InvalidToken):
        await services.requests.authenticate(token, WEB)
    with pytest.raises(InvalidToken):
        await services.requests.authenticate_browser(f"khc_{token}", WEB)


async def test_a_password_must_be_fresh_to_reveal(services: Services, alice: User) -> None:
    actor = await _signed_in(services)
    added = await services.credentials.add(actor, provider="openai", label="main", secret="sk-" + "a1B2c3D4" * 6)
    assert (await services.credentials.reveal(actor, added.view.id)).reveal() == "sk-" + "a1B2c3D4" * 6
    stale = Actor(
        user_id=actor.user_id,
        subject_id=actor.subject_id,
        username=actor.username,
        role=actor.role,
        client=WEB,
        session_id=actor.session_id,
    )
    with pytest.raises(ReauthenticationRequired):
        await services.credentials.reveal(stale, added.view.id)
    with pytest.raises(InvalidCredentials):
        await services.authentication.reauthenticate(actor, "not the password")
    await services.authentication.reauthenticate(actor, PASSWORD)


# ---------------------------------------------------------------------------------------------------------------------
# Limits
# ---------------------------------------------------------------------------------------------------------------------


async def test_guessing_is_limited_exactly_and_alike_for_known_and_unknown_users(
    services: Services, alice: User
) -> None:
    for name in ("alice", "nobody"):
        tries = [
            services.authentication.login(name, f"wrong password {n}", WEB) for n in range(2 * PER_ACCOUNT_AND_NETWORK)
        ]
        results = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(each, InvalidCredentials) for each in results) == PER_ACCOUNT_AND_NETWORK
        assert sum(isinstance(each, TooManyAttempts) for each in results) == PER_ACCOUNT_AND_NETWORK
    with pytest.raises(TooManyAttempts) as limited:  # the right password does not help either
        await services.authentication.login("alice", PASSWORD, WEB)
    assert 0 < limited.value.retry_after <= 900


async def test_whoever_knows_the_password_is_never_limited_also_all_at_once(services: Services, alice: User) -> None:
    sign_ins = [services.authentication.login("alice", PASSWORD, WEB) for _ in range(4 * PER_ACCOUNT_AND_NETWORK)]
    await asyncio.gather(*sign_ins)
    with pytest.raises(InvalidCredentials):
        await services.authentication.login("alice", "not the password", WEB)


# ---------------------------------------------------------------------------------------------------------------------
# The fence
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_process_whose_lease_lapsed_signs_and_stores_nothing_until_it_renewed(
    services: Services, alice: User
) -> None:
    actor = await _signed_in(services)
    services.keys.lease(float("-inf"))
    assert not services.instances.serving()
    with pytest.raises(NotReady):
        services.keys.primary(KeyName.JWT_SECRET_KEY)
    with pytest.raises(NotReady):
        await services.credentials.add(actor, provider="openai", label="main", secret="sk-" + "a1B2c3D4" * 6)
    await services.instances.catch_up()
    await services.credentials.add(actor, provider="openai", label="main", secret="sk-" + "a1B2c3D4" * 6)
    assert services.instances.id in {each.id for each in await services.instances.live()}


# ---------------------------------------------------------------------------------------------------------------------
# Discord users
# ---------------------------------------------------------------------------------------------------------------------


def _event(number: str, *, member: bool = True) -> DiscordEvent:
    async def member_of_known_guild() -> bool:
        return member

    guild = GuildContext(guild_id="900")
    return DiscordEvent(discord_id=number, guild=guild, member_of_known_guild=member_of_known_guild)


async def test_a_member_becomes_one_user_at_first_use_however_often(services: Services) -> None:
    actors = await asyncio.gather(*(services.identity.from_discord(_event("41")) for _ in range(5)))
    assert {each.user_id for each in actors} == {actors[0].user_id}
    assert actors[0].username == "discord:41"
    assert actors[0].role is Role.MEMBER


async def test_a_stranger_does_not_become_a_user(services: Services) -> None:
    with pytest.raises(Forbidden):
        await services.identity.from_discord(_event("42", member=False))


async def test_linking_moves_credentials_and_seals_them_for_their_new_owner(services: Services, alice: User) -> None:
    web = await _signed_in(services)
    await services.credentials.add(web, provider="openai", label="main", secret="sk-web-" + "a1B2c3D4" * 6)
    visitor = await services.identity.from_discord(_event("43"))
    await services.credentials.add(visitor, provider="openai", label="main", secret="sk-bot-" + "a1B2c3D4" * 6)
    operator = await services.identity.operator()
    linked = await services.identity.link(operator, "alice", "43")
    assert linked.moved == 1
    actor = await services.identity.from_discord(_event("43"))
    assert actor.user_id == alice.id
    page = await services.credentials.page(web)
    assert sorted(each.label for each in page.items) == ["main", "main 2"]
    moved = next(each for each in page.items if each.label == "main 2")
    assert (await services.credentials.reveal(web, moved.id)).reveal() == "sk-bot-" + "a1B2c3D4" * 6
    with pytest.raises(AlreadyExists):
        await services.identity.link(operator, "alice", "44")
    await services.identity.unlink(operator, "alice")
    assert (await services.identity.from_discord(_event("45"))).user_id != alice.id


async def test_signing_in_and_out_writes_no_stored_secret_anew(engine_url: str, tmp_path: Path) -> None:
    place = await Place(engine_url, tmp_path / "data").install()
    async with place.services() as services:
        await services.identity.create_owner("alice", PASSWORD, WEB)
        owner = await _signed_in(services)
        await services.credentials.add(owner, provider="openai", label="main", secret="sk-" + "a1B2c3D4" * 6)
    rows = ("api_credentials", "credential_history", "app_config", "users")
    before = {table: (await place.contents())[table] for table in rows}
    for _ in range(3):
        async with place.services() as services:  # a start of its own each time
            for _ in range(5):
                pair = await services.authentication.login("alice", PASSWORD, WEB)
                await services.authentication.logout(pair.refresh_token.reveal(), WEB)
    assert {table: (await place.contents())[table] for table in rows} == before


async def test_linking_hands_over_what_was_shared_with_a_guild(services: Services, alice: User) -> None:
    manager = GuildContext(guild_id="900", manages_guild=True)
    visitor = replace(await services.identity.from_discord(_event("46")), guild=manager)
    added = await services.credentials.add(
        visitor, provider="openai", label="ours", secret="sk-" + "a1B2c3D4" * 6, guild_id="900"
    )
    await services.identity.link(await services.identity.operator(), "alice", "46")
    with pytest.raises(Forbidden):  # admitted before the link, stored after it: it would belong to nobody
        await services.credentials.add(visitor, provider="openai", label="late", secret="sk-" + "a1B2c3D4" * 6)
    secret = await services.credentials.reveal(await _signed_in(services), added.view.id)
    assert secret.reveal() == "sk-" + "a1B2c3D4" * 6


async def test_a_guild_that_is_not_the_actors_shows_nothing_not_even_a_cursor(services: Services, alice: User) -> None:
    operator = await services.identity.operator_for(guild_id="900")
    for label in ("one", "two"):
        await services.credentials.add(
            operator, provider="openai", label=label, secret="sk-" + "a1B2c3D4" * 6, guild_id="900"
        )
    stranger = await services.identity.from_discord(_event("47"))
    page = await services.credentials.page(stranger, guild_id="900", limit=1)
    assert (page.items, page.next_cursor) == ([], None)


async def test_a_name_is_the_same_however_its_accents_are_encoded(services: Services) -> None:
    await services.identity.create_owner("Jos\u00e9", PASSWORD, WEB)
    await services.authentication.login("jose\u0301", PASSWORD, WEB)


@pytest.mark.slow
async def test_the_keeper_survives_a_bug(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = asyncio.Event()

    async def fail() -> bool:
        failed.set()
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(services.keys, "reload", fail)
        services.keys.lease(float("-inf"))
        async with asyncio.timeout(60):
            await failed.wait()
    async with asyncio.timeout(60):
        while not services.keys.leased:  # noqa: ASYNC110 - the keeper has no event for a lease
            await asyncio.sleep(0.05)


async def test_keys_that_are_damaged_while_running_are_served_no_longer(engine_url: str, tmp_path: Path) -> None:
    place = Place(engine_url, tmp_path / "data")
    async with place.services() as services:
        await place.execute("UPDATE app_config SET value = '{}' WHERE key = 'manifest'")
        services.keys.lease(float("-inf"))
        with pytest.raises(NotReady):
            await services.instances.catch_up()
        assert not services.instances.serving()


# ---------------------------------------------------------------------------------------------------------------------
# Limits, in several processes
# ---------------------------------------------------------------------------------------------------------------------


async def _refused(services: Services) -> bool:
    try:
        await services.authentication.login("alice", PASSWORD, WEB)
    except TooManyAttempts:
        return True
    return False


async def test_processes_share_their_counters_and_an_unlock(engine_url: str, tmp_path: Path) -> None:
    place = await Place(engine_url, tmp_path / "data").install()
    async with place.services() as one, place.services() as other:
        await one.identity.create_owner("Alice", PASSWORD, WEB)
        for number in range(PER_ACCOUNT_AND_NETWORK):
            services = one if number % 2 else other
            with pytest.raises(InvalidCredentials):
                await services.authentication.login("alice", "not the password", WEB)
        for services in (one, other):
            with pytest.raises(TooManyAttempts):
                await services.authentication.login("alice", PASSWORD, WEB)
        await other.authentication.unlock(await other.identity.operator(), "alice")
        await other.authentication.login("alice", PASSWORD, WEB)
        async with asyncio.timeout(60):
            while await _refused(one):  # for a second the other process goes by the refusal that it remembers
                pass


async def test_many_sign_ins_at_once_in_two_processes_all_get_in(engine_url: str, tmp_path: Path) -> None:
    place = await Place(engine_url, tmp_path / "data").install()
    async with place.services() as one, place.services() as other:
        await one.identity.create_owner("Alice", PASSWORD, WEB)
        sign_ins = [each.authentication.login("alice", PASSWORD, WEB) for each in (one, other) for _ in range(20)]
        await asyncio.gather(*sign_ins)
