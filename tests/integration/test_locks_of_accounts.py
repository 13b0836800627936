"""Changes of one account that meet, on PostgreSQL: which one waits, and what the later one then sees.

On SQLite one unit of work writes at a time.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import InvalidToken, LastOwner, NoOtherWayIn
from app.domain.identity import Actor, Client, Role, Source, User
from app.domain.passkeys import RelyingParty
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.database.engine import open_database
from app.infrastructure.database.unit_of_work import SqlUnitOfWork
from app.services.alive import require_alive
from app.settings import DatabaseUrl
from tests.support.authenticator import Authenticator
from tests.support.database import until_waiting
from tests.support.installs import Place
from tests.support.samples import PASSWORD
from tests.support.second_factors import enrol_by_the_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.infrastructure.database.engine import Connection
    from app.services import Services
    from app.services.ports import UnitOfWork

ORIGIN = "https://keys.example.org"
PARTY = RelyingParty(id="keys.example.org", origins=(ORIGIN,))
WEB = Client(source=Source.WEB, address="192.0.2.9")


@pytest.fixture
async def place(postgres_url: str, tmp_path: Path) -> Place:
    return await Place(postgres_url, tmp_path / "data").install()


@asynccontextmanager
async def another(place: Place) -> AsyncIterator[tuple[SqlUnitOfWork, Connection]]:
    """The unit of work of somebody else, which is under way."""
    async with (
        open_database(DatabaseUrl.parse(place.url), may_create=False) as database,
        database.write() as connection,
    ):
        yield SqlUnitOfWork(connection, SystemRandomness()), connection


async def mia_signed_in(services: Services) -> Actor:
    pair = await services.authentication.login("mia", PASSWORD, WEB)
    return await services.requests.authenticate(pair.access_token.reveal(), WEB)


async def new_mia(services: Services) -> Actor:
    await services.identity.create(await services.identity.operator(), "mia", PASSWORD, Role.MEMBER)
    return await mia_signed_in(services)


async def test_a_session_does_not_end_between_the_check_and_the_change(place: Place) -> None:
    async with place.services() as services:
        mia, mine = await new_mia(services), await mia_signed_in(services)
        async with another(place) as (uow, connection):
            await require_alive(uow, mia, SystemClock().now())
            revoked = asyncio.create_task(services.authentication.revoke_session(mine, mia.session_id or ""))
            await until_waiting(connection, 1, revoked)
        await revoked
        async with another(place) as (uow, _):
            with pytest.raises(InvalidToken):
                await require_alive(uow, mia, SystemClock().now())


async def test_of_two_last_ways_in_that_go_at_once_one_stays(place: Place) -> None:
    async with place.services() as one, place.services() as other:
        mia = await new_mia(one)
        await one.identity.link(await one.identity.operator(), "mia", "42")
        answer = Authenticator(ORIGIN).create(await one.passkeys.registration_options(mia, PARTY))
        passkey = (await one.passkeys.register(mia, "laptop", answer, PARTY)).passkey
        await place.execute("UPDATE users SET password_hash = NULL")
        async with another(place) as (uow, connection):
            await uow.users.locked(mia.user_id)
            removal = asyncio.create_task(one.passkeys.remove(mia, passkey.id))
            await until_waiting(connection, 1, removal)
            unlinking = asyncio.create_task(other.discord_linking.unlink(mia))
            await until_waiting(connection, 2, removal, unlinking)
        results = await asyncio.gather(removal, unlinking, return_exceptions=True)
        assert [type(each) for each in results].count(NoOtherWayIn) == 1
        contents = await place.contents()
        assert bool(contents["passkeys"]) != any("42" in row for row in contents["users"])


async def test_a_sign_in_over_a_former_session_and_the_end_of_that_do_not_wait_for_each_other(place: Place) -> None:
    """The sign-in stores a new hash of the password and ends the former session: in the order of the user's row first.

    The other one removes the second factor, which ends the former session too.
    """
    async with place.services() as one, place.services() as other:
        mia = await new_mia(one)
        await enrol_by_the_clock(one, mia)
        async with other.second_factor._storage.read() as uow:
            user = await uow.users.get(mia.user_id)
        assert user is not None
        former = await other.authentication._starts.browser(user, WEB)
        removals = []

        async def rehash(uow: UnitOfWork) -> None:
            removals.append(asyncio.create_task(one.second_factor.remove(mia)))
            async with another(place) as (_, connection):
                await until_waiting(connection, 1, *removals)
            await uow.users.rehash(user.id, "$argon2id$new", former=user.password_hash, at=SystemClock().now())

        await other.authentication._starts.browser(user, WEB, former_cookie=former.cookie.reveal(), within=rehash)
        assert (await removals[0]).others_ended == 1
    assert not (await place.contents())["totp_factors"]


async def test_a_link_by_a_code_and_the_end_of_other_sessions_do_not_wait_for_each_other(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link uses the code up and changes the account; the end of sessions deletes the account's codes."""
    async with place.services() as one, place.services() as other:
        mia = await new_mia(one)
        code = (await one.discord_linking.issue_code(mia)).code.reveal()
        honest, ends = other.discord_linking._active, []

        async def active(uow: UnitOfWork, user_id: str) -> User:
            ends.append(asyncio.create_task(one.passwords.end_other_sessions(mia)))
            async with another(place) as (_, connection):
                await until_waiting(connection, 1, *ends)
            return await honest(uow, user_id)

        monkeypatch.setattr(other.discord_linking, "_active", active)
        await other.discord_linking.link_by_code("42", code)
        await ends[0]


async def test_of_two_owners_who_demote_each_other_at_once_one_stays(place: Place) -> None:
    async with place.services() as one, place.services() as other:
        operator = await one.identity.operator()
        await one.identity.create_owner("olga", PASSWORD, WEB)
        await one.identity.create(operator, "otto", PASSWORD, Role.OWNER)
        users = [await one.users.named(operator, name) for name in ("olga", "otto")]
        async with another(place) as (uow, connection):
            await uow.users.hold_roles()
            demotions = [
                asyncio.create_task(each.users.change(operator, user.id, role=Role.MEMBER))
                for each, user in zip((one, other), users, strict=True)
            ]
            await until_waiting(connection, 2, *demotions)
        results = await asyncio.gather(*demotions, return_exceptions=True)
        assert sorted(type(each).__name__ for each in results) == [LastOwner.__name__, "User"]
