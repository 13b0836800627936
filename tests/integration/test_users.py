"""Roles and invitations under concurrency, on both engines."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from app.domain.errors import AppError, Forbidden, InvalidToken, LastOwner
from app.domain.identity import Client, Role, Source
from app.services.imports.users_json import users_json
from tests.support.installs import Place
from tests.support.samples import PASSWORD, SECRET

WEB = Client(source=Source.WEB, address="192.0.2.9")


@pytest.fixture
async def place(engine_url: str, tmp_path: Path) -> Place:
    return await Place(engine_url, tmp_path / "data").install()


@pytest.mark.parametrize("change", [{"role": Role.MEMBER}, {"disabled": True}], ids=["demote", "disable"])
async def test_of_owners_who_turn_on_each_other_at_once_one_is_left(place: Place, change: dict[str, object]) -> None:
    """Two processes, three owners, each against the next, again and again."""
    async with place.services() as one, place.services() as other:
        operator = await one.identity.operator()
        names = [f"owner-{number}" for number in range(3)]
        for name in names:
            await one.identity.create(operator, name, PASSWORD, Role.OWNER)
        for _ in range(4):
            users = [await one.users.named(operator, name) for name in names]
            for user in users:
                await one.users.change(operator, user.id, role=Role.OWNER, disabled=False)
            actors = []
            for name in names:
                pair = await one.authentication.login(name, PASSWORD, WEB)
                actors.append(await one.requests.authenticate(pair.access_token.reveal(), WEB))
            results = await asyncio.gather(
                *(
                    services.users.change(actor, target.id, **change)  # type: ignore[arg-type]
                    for services, actor, target in zip(
                        (one, other, one), actors, (users[1], users[2], users[0]), strict=True
                    )
                ),
                return_exceptions=True,
            )
            refused = [each for each in results if isinstance(each, BaseException)]
            assert refused, "not all three may go"
            assert {type(each) for each in refused} <= {LastOwner, Forbidden, InvalidToken}
            page = await one.users.page(operator)
            left = [each for each in page.items if each.role is Role.OWNER and each.disabled_at is None]
            assert left


async def test_the_last_two_owners_cannot_both_step_down(place: Place) -> None:
    async with place.services() as one, place.services() as other:
        operator = await one.identity.operator()
        users = [await one.identity.create(operator, name, PASSWORD, Role.OWNER) for name in ("olga", "otto")]
        results = await asyncio.gather(
            *(
                services.users.change(operator, user.id, role=Role.ADMIN)
                for services, user in zip((one, other), users, strict=True)
            ),
            return_exceptions=True,
        )
        assert sorted(type(each).__name__ for each in results) == ["LastOwner", "User"]


async def test_of_twenty_simultaneous_claims_of_an_invitation_one_succeeds(place: Place) -> None:
    async with place.services() as one, place.services() as other:
        invited = await one.users.invite(await one.identity.operator(), Role.MEMBER)
        assert invited.token
        token = invited.token.reveal()

        async def claim(number: int) -> str:
            client = Client(source=Source.WEB, address=f"192.0.2.{number % 5}")
            services = (one, other)[number % 2]
            try:
                return (await services.claims.claim(token, PASSWORD, client, username=f"guest{number:02}x")).username
            except AppError as error:
                return type(error).__name__

        results = await asyncio.gather(*(claim(number) for number in range(20)))
        (won,) = {*results} - {"InvalidToken"}
        assert results.count(won) == 1
        users = (await one.users.page(await one.identity.operator())).items
        assert [each.username for each in users] == [won]
        contents = await place.contents()
        assert token not in repr(contents)


async def test_an_account_from_another_program_is_claimed_and_signed_in_to(place: Place) -> None:
    """Import, claim link, sign-in; and the imported secret is there."""
    content = json.dumps({"anna": {"api_keys": {"openai": SECRET}}}).encode()
    async with place.services() as services:
        operator = await services.identity.operator()
        source = users_json(content, "users.json")
        report = await services.imports.run(operator, source)
        (link,) = report.claim_links
        user = await services.claims.claim(link.token.reveal(), PASSWORD, WEB)
        assert (user.username, user.role) == ("anna", Role.MEMBER)
        pair = await services.authentication.login("anna", PASSWORD, WEB)
        actor = await services.requests.authenticate(pair.access_token.reveal(), WEB)
        (stored,) = (await services.credentials.page(actor)).items
        assert stored.provider == "openai"
        assert (await services.credentials.reveal(actor, stored.id)).reveal() == SECRET
        again = await services.imports.run(operator, users_json(content, "users.json"))
        assert (again.users, again.credentials, list(again.claim_links)) == (0, 0, [])
