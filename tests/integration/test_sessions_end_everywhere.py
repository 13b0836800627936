"""Whatever ends sessions ends them in every other process within five seconds, on both engines (ASVS 5.0, 7.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from app.domain.errors import AppError, InvalidToken
from app.domain.identity import Actor, Client, Role, Source, User
from app.services import Services
from tests.support.installs import Place
from tests.support.samples import NEW_PASSWORD, PASSWORD

WEB: Final = Client(source=Source.WEB, address="192.0.2.7", device="a test")
SECONDS: Final = 5.0

Carrier = Callable[[], Awaitable[Actor]]
Act = Callable[[Place, Services, Actor, User], Awaitable[object]]
"""Ends the sessions of a user, in one process; the actor is another session of theirs."""


async def _change(_: Place, services: Services, actor: Actor, __: User) -> None:
    await services.passwords.change(actor, PASSWORD, NEW_PASSWORD)


async def _end_others(_: Place, services: Services, actor: Actor, __: User) -> None:
    await services.passwords.end_other_sessions(actor)


async def _set(_: Place, services: Services, __: Actor, user: User) -> None:
    await services.passwords.set(await services.identity.operator(), user.username, NEW_PASSWORD)


async def _reset(place: Place, services: Services, _: Actor, user: User) -> None:
    async with place.keys() as opened, opened.storage.write() as uow:
        made = await services.claims.issue_reset(uow, await services.identity.operator(), user)
    await services.claims.claim(made.token.reveal(), NEW_PASSWORD, WEB)


async def _disable(_: Place, services: Services, __: Actor, user: User) -> None:
    async with services.identity._storage.write() as uow:
        await uow.users.disable(user.id, user.created_at)


async def _end_each(_: Place, services: Services, actor: Actor, __: User) -> None:
    for each in (await services.authentication.sessions(actor)).items:
        if each.id != actor.session_id:
            await services.authentication.revoke_session(actor, each.id)


ACTS: Final[dict[str, Act]] = {
    "a change of the password": _change,
    "the end of all other sessions": _end_others,
    "a password that the operator sets": _set,
    "a reset": _reset,
    "an account that is disabled": _disable,
    "the end of each session": _end_each,
}


async def test_sessions_end_in_another_process_whatever_ends_them(engine_url: str, tmp_path: Path) -> None:
    place = await Place(engine_url, tmp_path / "data").install()
    async with place.services() as here, place.services() as there:
        await here.identity.create_owner("alice", PASSWORD, WEB)
        operator = await here.identity.operator()
        for number, (name, act) in enumerate(ACTS.items()):
            user = await here.identity.create(operator, f"user-{number}", PASSWORD, Role.MEMBER)
            pair = await there.authentication.login(user.username, PASSWORD, WEB)
            browser = await there.authentication.login_browser(user.username, PASSWORD, WEB)
            mine = await here.authentication.login(user.username, PASSWORD, WEB)
            actor = await here.requests.authenticate(mine.access_token.reveal(), WEB)
            carriers: list[Carrier] = [
                partial(there.requests.authenticate, pair.access_token.reveal(), WEB),
                partial(there.requests.authenticate_browser, browser.cookie.reveal(), WEB),
            ]
            for carrier in carriers:
                await carrier()  # the other process has read them, and may keep them in memory
            await act(place, here, actor, user)
            for carrier in carriers:
                await _until_refused(name, carrier)
            with pytest.raises(InvalidToken):
                await there.authentication.refresh(pair.refresh_token.reveal(), WEB)


async def _until_refused(name: str, carrier: Carrier) -> None:
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    await carrier()
                except InvalidToken:
                    return
                except AppError as other:
                    pytest.fail(f"{name}: {other!r}")
                await asyncio.sleep(0)
    except TimeoutError:
        pytest.fail(f"{name}: the session still works after {SECONDS} s")
