"""Exports and erasures over the real services, on both engines."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.audit import Action
from app.domain.errors import AppError, InvalidToken, LastOwner, NoCredential, NotFound
from app.domain.identity import Actor, Client, GuildContext, Role, Source
from app.domain.imports import Entry
from app.domain.imports import Source as ImportSource
from app.domain.privacy import Person
from app.domain.secrets import SecretText
from app.services.audit_trail import AuditQuery
from tests.support.backups import back_up
from tests.support.fakes import FakeClock
from tests.support.installs import Place
from tests.support.restores import restore
from tests.support.samples import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.services import Services

NAME = "mia-canary-7f3a91"
SECRETS = [f"sk-proj-canary{number}-4f9aTq7ZbX2mLw8vKd3Yc6Rn" for number in range(4)]
HOME, OFFICE = (Client(source=Source.WEB, address=each, device="Canary/1.0") for each in ("203.0.113.77", "192.0.2.1"))
GUILD = GuildContext(guild_id="900000000000000001", manages_guild=True)


@pytest.fixture
async def place(engine_url: str, tmp_path: Path) -> Place:
    return await Place(engine_url, tmp_path / "data").install()


async def _member(services: Services, name: str = NAME, client: Client = HOME) -> Actor:
    await services.identity.create(await services.identity.operator(), name, PASSWORD, Role.MEMBER)
    return await _signed_in(services, name, client)


async def _signed_in(services: Services, name: str = NAME, client: Client = HOME) -> Actor:
    pair = await services.authentication.login(name, PASSWORD, client)
    return await services.requests.authenticate(pair.access_token.reveal(), client)


async def _furnished(services: Services) -> Actor:
    """A member with some of everything, and another one who uses one of their two addresses."""
    mia = await _member(services)
    main = await services.credentials.add(mia, provider="openai", label="canary-main", secret=SECRETS[0])
    await services.credentials.replace(mia, main.view.id, SECRETS[1], idempotency_key="canary-key")
    gone = await services.credentials.add(mia, provider="github", label="canary-gone", secret=SECRETS[2])
    await services.credentials.remove(mia, gone.view.id)
    sharing = replace(mia, guild=GUILD)
    await services.credentials.add(
        sharing, provider="groq", label="canary-all", secret=SECRETS[3], guild_id=GUILD.guild_id
    )
    async with services.credentials.use(mia, "openai"):
        pass
    await _signed_in(services, NAME, OFFICE)
    await services.identity.create(await services.identity.operator(), "bob", PASSWORD, Role.MEMBER)
    bob = await _signed_in(services, "bob", OFFICE)
    await services.credentials.add(bob, provider="openai", label="kept", secret=f"{SECRETS[0]}bob")
    return mia


async def _sealed_and_verified(services: Services) -> bool:
    while await services.audit_sealing.seal():
        pass
    return (await services.audit_verification.verify(await services.identity.operator())).ok


async def _trail(services: Services) -> str:
    found: list[Mapping[str, Any]] = []
    async for rows in services.audit.all(await services.identity.operator(), AuditQuery()):
        found += [each.as_members() for each in rows]
    return json.dumps(found, default=str)


async def test_an_export_reads_every_table(place: Place) -> None:
    async with place.services() as services:
        mia = await _furnished(services)
        export = await services.personal_data.of_oneself(mia)
        for section in ("sessions", "requests", "credentials", "audit"):
            assert export[section], section
        assert {each["label"] for each in export["credentials"]} == {"canary-main", "canary-gone", "canary-all"}
        assert {each["address"] for each in export["sessions"]} == {HOME.address, OFFICE.address}
        assert export["account"]["username"] == NAME
        text = json.dumps(export, default=str)
        assert not [each for each in (*SECRETS, PASSWORD, "$argon2", "bob") if each in text]


async def test_nothing_of_a_person_is_left_and_the_trail_verifies(place: Place) -> None:
    async with place.services() as services:
        mia = await _furnished(services)
        assert await _sealed_and_verified(services)
        before = await _trail(services)
        assert NAME in before
        await services.erasure.of_oneself(mia, PASSWORD)
        assert await _sealed_and_verified(services)
        after = await _trail(services)
        for trace in (NAME, HOME.address, "canary-"):
            assert str(trace) not in after
        assert str(OFFICE.address) in after, "it is the address of somebody else, too"
        assert mia.subject_id is not None
        assert mia.subject_id in after
        with pytest.raises(InvalidToken):
            await services.erasure.of_oneself(mia, PASSWORD)
        bob = await _signed_in(services, "bob", OFFICE)
        async with services.credentials.use(bob, "openai") as credential:
            assert credential.reveal() == f"{SECRETS[0]}bob"
    found = await place.contents()
    for trace in (NAME, str(HOME.address), "canary-"):
        assert [(table, row) for table, rows in found.items() for row in rows if trace in repr(row)] == [], trace
    named = {table: [row for row in rows if mia.user_id in repr(row)] for table, rows in found.items()}
    assert {table for table, rows in named.items() if rows} == {"audit_events", "erasures"}


async def test_an_erasure_is_all_or_nothing_and_repeats(place: Place) -> None:
    async with place.services() as services:
        mia = await _furnished(services)
    before = await place.contents()
    async with place.keys() as opened:
        storage = opened.storage
        assert mia.subject_id is not None
        person, now = Person(mia.user_id, mia.subject_id), FakeClock().now()

        async def killed() -> None:
            async with storage.write() as uow:
                await uow.personal_data.erase(person, now)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await killed()
        assert (await place.contents())["api_credentials"] == before["api_credentials"]
        async with storage.write() as uow:
            assert (await uow.personal_data.erase(person, now)).total > 0
        async with storage.write() as uow:
            assert (await uow.personal_data.erase(person, now)).total == 0


async def test_of_two_owners_who_erase_themselves_at_once_one_is_left(place: Place) -> None:
    async with place.services() as services, place.services() as others:
        await services.identity.create_owner("olga", PASSWORD, HOME)
        await services.identity.create(await services.identity.operator(), "otto", PASSWORD, Role.ADMIN)
        await place.execute("UPDATE users SET role = 'owner'")
        olga, otto = await _signed_in(services, "olga"), await _signed_in(others, "otto", OFFICE)
        results = await asyncio.gather(
            services.erasure.of_oneself(olga, PASSWORD),
            others.erasure.of_oneself(otto, PASSWORD),
            return_exceptions=True,
        )
        assert sorted(isinstance(each, LastOwner) for each in results) == [False, True], results
    assert len((await place.contents())["users"]) == 1


async def test_an_erasure_among_uses_changes_sign_ins_and_another_erasure(place: Place) -> None:
    """Everybody else is served or refused; what was under way is gone after the next sweep."""
    async with place.services() as services, place.services() as others:
        mia = await _furnished(services)
        operator = await services.identity.operator()

        async def use(number: int) -> None:
            async with others.credentials.use(mia, "openai"):
                await asyncio.sleep(0)
            await others.credentials.add(mia, provider="mistral", label=f"late {number}", secret=SECRETS[0])

        async def sign_in() -> None:
            await others.authentication.login(NAME, PASSWORD, HOME)

        results = await asyncio.gather(
            *(use(number) for number in range(6)),
            *(sign_in() for _ in range(4)),
            services.erasure.of_user(operator, NAME, confirm=NAME),
            others.erasure.of_user(operator, NAME, confirm=NAME),
            *(sign_in() for _ in range(4)),
            *(use(number) for number in range(6, 12)),
            return_exceptions=True,
        )
        unexpected = [each for each in results if isinstance(each, BaseException) and not isinstance(each, AppError)]
        assert unexpected == []
        erased = [each for each in results[10:12] if not isinstance(each, BaseException)]
        assert len(erased) == 1, results[10:12]
        await services.housekeeping.sweep()
        with pytest.raises((NoCredential, NotFound)):
            async with services.credentials.use(mia, "openai"):
                pass
    found = await place.contents()
    assert NAME not in repr(found)
    assert [row for row in found["api_credentials"] if mia.user_id in row] == []


async def test_a_restore_of_an_older_backup_erases_again(place: Place, tmp_path: Path) -> None:
    async with place.services() as services:
        mia = await _furnished(services)
    await back_up(place, tmp_path / "one.age")
    async with place.services() as services:
        await services.erasure.of_oneself(await _signed_in(services), PASSWORD)
    report = await restore(place, tmp_path / "one.age")
    assert (report.carried.erased, report.carried.lost, report.users) == (1, [], 1)
    found = await place.contents()
    assert NAME not in repr(found)
    assert "canary-" not in repr(found)
    assert [row[0] for row in found["erasures"]] == [mia.user_id]
    assert any(Action.BACKUP_RESTORED.value in row and '"erased":1' in repr(row) for row in found["audit_events"])
    async with place.services() as services:
        assert await _sealed_and_verified(services)
        bob = await _signed_in(services, "bob", OFFICE)
        async with services.credentials.use(bob, "openai"):
            pass
        again = await services.imports.run(await services.identity.operator(), _legacy())
        assert (again.users, again.credentials) == (0, 0)
    # A backup from after the erasure remembers it, and so does the database restored from it.
    await back_up(place, tmp_path / "two.age")
    assert (await restore(place, tmp_path / "two.age")).carried.erased == 0
    assert [row[0] for row in (await place.contents())["erasures"]] == [mia.user_id]


async def test_an_import_does_not_bring_an_erased_person_back(place: Place) -> None:
    async with place.services() as services:
        operator = await services.identity.operator()
        first = await services.imports.run(operator, _legacy())
        assert (first.users, first.credentials) == (1, 1)
        await services.erasure.of_user(operator, NAME, confirm=NAME)
        again = await services.imports.run(operator, _legacy())
        assert (again.users, again.credentials, again.already_done) == (0, 0, 0)
        assert {each.why for each in again.skipped} == {
            "belongs to a person who was erased here, so nothing of it is imported"
        }
        await _member(services)  # another person of that name gets nothing of it either
        assert (await services.imports.run(operator, _legacy())).credentials == 0
    assert len((await place.contents())["api_credentials"]) == 0


def _legacy() -> ImportSource:
    entry = Entry(
        where="users.json: openai", holder=NAME, provider="openai", name="openai", value=SecretText(SECRETS[0])
    )
    return ImportSource(kind="users.json", holders={NAME: "users.json"}, entries=[entry])
