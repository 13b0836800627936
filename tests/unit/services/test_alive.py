"""A request that was authenticated, and whose session, token or user ended before it changed anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

import pytest
import pytest_asyncio

from app.domain.errors import InvalidToken
from app.domain.identity import REAUTHENTICATION_LASTS, Actor, Client, Role, Source, operator
from app.services.alive import require_alive
from tests.support.access.people import ROLES, Person, World, open_world
from tests.support.access.services import ROWS, Row

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHANGES_NOTHING: Final = {
    "discord_sign_in.begin_link": "sends the browser to Discord",
    "passkeys.registration_options": "asks the browser for a passkey",
    "personal_data.of_oneself": "reads",
    "personal_data.of_user": "reads",
    "second_factor.pending": "reads",
}
ELSEWHERE: Final = {
    "claims.issue_reset": "within the unit of work of its caller",
    "passkeys.register": "needs an authenticator: tests/unit/services/test_passkeys.py",
    "rotation.destroy": "needs a version that may be destroyed: here it has none",
    "rotation.retire": "needs a version out of use: here it has none",
    "second_factor.confirm": "needs a secret that waits: tests/unit/services/test_second_factor.py",
}
ALSO: Final = {
    "authentication.reauthenticate",
    "authentication.unlock",
    "credentials.purge",
    "erasure.of_oneself",
    "passwords.change",
    "passwords.end_other_sessions",
    "preferences.change",
}
"""Methods that demand no fresh proof, or take a password: that of a disabled user is refused as a wrong one."""
SENSITIVE: Final = [
    row
    for row in ROWS
    if (row.method in ALSO or (row.fresh and row.allows_somebody)) and row.method not in CHANGES_NOTHING | ELSEWHERE
]

End = Callable[[World, Person], None]


def _session_revoked(world: World, person: Person) -> None:
    sessions = world.storage.tables.sessions
    sessions[person.session] = replace(sessions[person.session], revoked_at=world.keyhall.clock.now())


def _all_sessions_ended(world: World, person: Person) -> None:
    users = world.storage.tables.users
    users[person.user.id] = replace(users[person.user.id], token_version=users[person.user.id].token_version + 1)


def _user_disabled(world: World, person: Person) -> None:
    users = world.storage.tables.users
    users[person.user.id] = replace(users[person.user.id], disabled_at=world.keyhall.clock.now())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> World:
    return await open_world()


async def test_the_table_names_methods_that_are_there() -> None:
    methods = {row.method for row in ROWS}
    assert {*CHANGES_NOTHING, *ELSEWHERE, *ALSO} <= methods


@pytest.mark.parametrize("row", SENSITIVE, ids=lambda row: row.method)
async def test_an_act_that_demands_a_fresh_session_ends_with_the_session(world: World, row: Row) -> None:
    where, outcomes = next(iter(row.outcomes.items()))
    role = next(role for role, outcome in zip(ROLES, outcomes, strict=True) if outcome not in "FC")
    ends: tuple[End, ...] = (_session_revoked, _all_sessions_ended, _user_disabled)
    for end in ends[:2] if row.method in ALSO else ends:
        world.set(role, where)
        call = row.call(world)  # what it is about is prepared; nothing has run
        end(world, world.people[role])
        before = world.storage.tables.snapshot()
        with pytest.raises(InvalidToken):
            await call
        after = world.storage.tables
        assert after.credentials == before.credentials
        assert (after.users, after.api_tokens, after.factors, after.passkeys, after.jobs) == (
            before.users,
            before.api_tokens,
            before.factors,
            before.passkeys,
            before.jobs,
        )


async def _role(world: World, actor: Actor) -> Role | None:
    """The role of the actor in a unit of work; None for one who may not act."""
    async with world.storage.write() as uow:
        try:
            return (await require_alive(uow, actor, world.keyhall.clock.now())).role
        except InvalidToken:
            return None


async def test_who_may_still_act_does_so_with_the_role_of_now(world: World) -> None:
    world.set(Role.MEMBER, next(iter(ROWS[0].outcomes)))
    person = world.people[Role.MEMBER]
    users, by_session = world.storage.tables.users, world.actor
    users[person.user.id] = replace(users[person.user.id], role=Role.AUDITOR)
    program = replace(by_session, session_id=None, token_id=person.token)
    discord = replace(by_session, session_id=None, client=Client(source=Source.DISCORD))
    for actor in (by_session, program, discord):
        assert await _role(world, actor) is Role.AUDITOR
        assert await _role(world, replace(actor, user_id=world.others[Role.MEMBER].user.id)) is None
    assert await _role(world, replace(discord, discord_id="1")) is None  # linked to another account since
    assert await _role(world, replace(by_session, session_id="unknown")) is None
    assert await _role(world, operator()) is Role.OWNER
    world.storage.tables.api_tokens.clear()
    assert await _role(world, program) is None


async def test_an_expired_session_changes_nothing_though_it_was_fresh_a_moment_ago(world: World) -> None:
    world.set(Role.MEMBER, next(iter(ROWS[0].outcomes)))
    person, now = world.people[Role.MEMBER], world.keyhall.clock.now()
    sessions = world.storage.tables.sessions
    sessions[person.session] = replace(sessions[person.session], expires_at=now - timedelta(seconds=1))
    assert now - (world.actor.authenticated_at or now) < REAUTHENTICATION_LASTS
    with pytest.raises(InvalidToken):
        await world.services.second_factor.start(world.actor)
