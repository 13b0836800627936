"""Every public method of every service, by every role, on their own objects and those of others."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from app.domain.errors import AppError, ReauthenticationRequired
from tests.support.access.people import ROLES, Where, World, open_world
from tests.support.access.services import OUTCOMES, ROWS, WITHOUT_ACTOR, Row

pytestmark = pytest.mark.asyncio(loop_scope="module")

WHERE_TO_ADD = "add a row to ROWS in tests/support/access/services.py (or to WITHOUT_ACTOR, with the reason)"
_OBJECTS = {
    "credential_id",
    "session_id",
    "guild_id",
    "username",
    "user_id",
    "job_id",
    "token_id",
    "invitation_id",
    "passkey_id",
}
"""Parameters that name an object of somebody."""
_NEW = {"identity.create", "identity.create_claimable", "users.create"}
"""Methods to which a name is that of somebody who is not there yet."""


def methods(services: Any) -> Iterator[tuple[str, Any]]:
    """Every public method of every service and of its public parts, by its path."""
    for each in fields(services):
        service = getattr(services, each.name)
        yield from _methods(each.name, service)
        for name, part in vars(service).items() if hasattr(service, "__dict__") else ():
            if not name.startswith("_") and type(part).__module__.startswith("app.services"):
                yield from _methods(f"{each.name}.{name}", part)


def _methods(path: str, service: Any) -> Iterator[tuple[str, Any]]:
    for name, method in inspect.getmembers(type(service), inspect.isfunction):
        if not name.startswith("_"):
            yield f"{path}.{name}", method


def acts_for_somebody(method: Any) -> bool:
    """Whether a method takes an Actor, and is no part of another one, within whose unit of work it is called."""
    parameters = inspect.signature(method).parameters
    return any(each.annotation == "Actor" for each in parameters.values()) and "uow" not in parameters


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> World:
    return await open_world()


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    found = {row.method: row for row in ROWS}
    assert len(found) == len(ROWS), "a method has two rows"
    return found


async def test_every_method_of_every_service_is_in_the_table(world: World, rows: dict[str, Row]) -> None:
    found = dict(methods(world.services))
    whole = {each.removesuffix("*") for each in WITHOUT_ACTOR if each.endswith(".*")}

    def without(path: str) -> bool:
        return path in WITHOUT_ACTOR or f"{path.rpartition('.')[0]}." in whole

    missing = [path for path in found if path not in rows and not without(path)]
    assert not missing, f"{WHERE_TO_ADD}: {missing}"
    gone = [each for each in (*rows, *WITHOUT_ACTOR) if each not in found and each.removesuffix("*") not in whole]
    assert not gone, f"no service has these any more: {gone}"
    wrong = [path for path, method in found.items() if without(path) and acts_for_somebody(method)]
    assert not wrong, f"these act for somebody, so {WHERE_TO_ADD}: {wrong}"


async def test_a_method_that_is_given_an_object_is_tried_on_that_of_another(world: World, rows: dict[str, Row]) -> None:
    for path, method in methods(world.services):
        names = set(inspect.signature(method).parameters) & _OBJECTS
        if path in rows and path not in _NEW and names and names != {"guild_id"}:
            foreign = rows[path].outcomes.keys() & {Where.FOREIGN, Where.OF_OWNER}
            assert foreign or set("".join(rows[path].outcomes.values())) <= set("NF"), f"{path}: add foreign="


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.method)
async def test_who_may(world: World, row: Row) -> None:
    wrong = []
    for where, outcomes in row.outcomes.items():
        for role, outcome in zip(ROLES, outcomes, strict=True):
            world.set(role, where)
            error = await _error(row, world)
            if not isinstance(error, OUTCOMES[outcome] or type(None)) and not (
                outcome == "A" and isinstance(error, row.passes)
            ):
                wrong.append(f"{role.value}, {where.name}: expected {outcome}, got {error!r}")
    assert not wrong, "\n".join([row.method, *wrong])


@pytest.mark.parametrize("row", [row for row in ROWS if row.allows_somebody], ids=lambda row: row.method)
async def test_whether_the_password_must_have_been_proven_lately(world: World, row: Row) -> None:
    where, outcomes = next(iter(row.outcomes.items()))
    allowed = (each for each, outcome in zip(ROLES, outcomes, strict=True) if outcome not in "FC")
    role = next(allowed, ROLES[0])
    world.set(role, where)
    stale = (world.actor.authenticated_at or world.keyhall.clock.now()) - timedelta(minutes=11)
    world.actor = replace(world.actor, authenticated_at=stale)
    error = await _error(row, world)
    assert isinstance(error, ReauthenticationRequired) is row.fresh, f"{row.method} as {role.value}: {error!r}"


async def _error(row: Row, world: World) -> AppError | None:
    """Call the method to its end; the error that it raised."""
    try:
        result = row.call(world)
        if hasattr(result, "__aenter__"):
            async with result:
                pass
        elif hasattr(result, "__aiter__"):
            async for _ in result:
                pass
        elif inspect.isawaitable(result):
            await result
    except AppError as error:
        return error
    return None
