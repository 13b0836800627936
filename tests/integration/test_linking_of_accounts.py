"""Linking on real engines: one Discord account that two users want, and a link that is killed in the middle."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.errors import LinkCodeRefused, LinkConflict
from app.domain.identity import Actor, Role
from app.services.discord_accounts import TicketKind
from app.services.identity import DiscordEvent
from tests.support.environment import process_environment
from tests.support.installs import Place
from tests.support.processes import run
from tests.support.samples import OTHER_SECRET, PASSWORD, SECRET

if TYPE_CHECKING:
    from app.services import Services

NUMBER = "123456789012345678"


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data", {"REGISTRATION": "open"})


async def visitor(services: Services, number: str = NUMBER) -> Actor:
    async def known() -> bool:
        return True

    return await services.identity.from_discord(
        DiscordEvent(discord_id=number, guild=None, member_of_known_guild=known)
    )


async def user(services: Services, name: str) -> Actor:
    """A user with a password, as one who has just signed in."""
    operator = await services.identity.operator()
    made = await services.identity.create(operator, name, PASSWORD, Role.MEMBER)
    actor = await services.identity.operator_for(username=name)
    return replace(actor, user_id=made.id, subject_id=made.subject_id, role=Role.MEMBER, session_id=f"session-{name}")


def proven(services: Services, actor: Actor) -> str:
    tickets = services.discord_linking._tickets
    return tickets.issue(TicketKind.PROVEN, actor.session_id or "", NUMBER)[1].reveal()


async def test_of_users_who_link_one_discord_account_at_once_one_succeeds(place: Place) -> None:
    await place.install()
    async with place.services() as services:
        for known in (True, False):
            names = [f"{'known' if known else 'new'}-{number}" for number in range(4)]
            actors = [await user(services, name) for name in names]
            if known:
                sender = await visitor(services)
                await services.credentials.add(sender, provider="openai", label="main", secret=SECRET)
            links = [services.discord_linking.link(actor, proven(services, actor)) for actor in actors]
            done = await asyncio.gather(*links, return_exceptions=True)
            failed = [each for each in done if isinstance(each, BaseException)]
            assert [type(each) for each in failed] == [LinkConflict] * 3, failed
            winner = await visitor(services)
            assert winner.username in names
            if known:
                (view,) = (await services.credentials.page(winner)).items
                assert view.label == "main"
            await services.identity.unlink(await services.identity.operator(), winner.username)


async def test_of_fifty_uses_of_one_code_at_once_one_links(place: Place) -> None:
    await place.install()
    async with place.services() as services:
        mia = await user(services, "mia")
        code = (await services.discord_linking.issue_code(mia)).code.reveal()
        links = [services.discord_linking.link_by_code(str(1000 + number), code) for number in range(50)]
        done = await asyncio.gather(*links, return_exceptions=True)
        failed = [each for each in done if isinstance(each, BaseException)]
        assert len(failed) == 49
        assert {type(each) for each in failed} == {LinkCodeRefused}
        assert await services.identity.discord_id_of(mia.user_id) is not None


async def test_a_code_ends_with_the_sessions_of_its_account(place: Place) -> None:
    await place.install()
    async with place.services() as services:
        mia, tom = await user(services, "mia"), await user(services, "tom")
        code, other = [(await services.discord_linking.issue_code(each)).code.reveal() for each in (mia, tom)]
        await services.passwords.set(await services.identity.operator(), "mia", "another brass key on a hook")
        with pytest.raises(LinkCodeRefused):
            await services.discord_linking.link_by_code(NUMBER, code)
        assert (await services.discord_linking.link_by_code(NUMBER, other)).username == "tom"


async def test_a_link_that_is_killed_happened_or_did_not(place: Place) -> None:
    await place.install()
    async with place.services() as services:
        mia = await user(services, "mia")
        sender = await visitor(services)
        for label, secret in (("main", SECRET), ("other", OTHER_SECRET)):
            view = (await services.credentials.add(sender, provider="openai", label=label, secret=secret)).view
            await services.credentials.replace(sender, view.id, f"{secret}-new")
        await services.credentials.add(mia, provider="openai", label="main", secret=OTHER_SECRET)
    before = await _state(place)
    program = ["-m", "tests.support.link_accounts", "mia", NUMBER]
    environment = process_environment(**place.environment)
    for at in range(3, 60, 5):
        killed = run(*program, str(at), env=environment)
        assert killed.returncode in {0, -signal.SIGKILL}, killed.stderr
        # One that dies after its commit, or not any more, has done all of it, as is shown below.
        if await _state(place) != before:
            break
        assert killed.returncode != 0
    assert at > 13
    async with place.services() as services:
        now = await visitor(services)
        assert now.user_id == mia.user_id
        labels = {each.label for each in (await services.credentials.page(now)).items}
        assert labels == {"main", "main 2", "other"}
        async for step in services.credentials.health.verify_all(await services.identity.operator()):
            assert step.unreadable == []


async def _state(place: Place) -> str:
    contents = await place.contents()
    kept: dict[str, Any] = {name: contents[name] for name in ("users", "api_credentials", "credential_history")}
    return json.dumps(kept, default=str)
