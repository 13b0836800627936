"""Passkeys in the database: the promises of the repository, and processes that act at once, on both engines."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.errors import InvalidCredentials, PasskeyRefused, QuotaExceeded, UniqueViolation
from app.domain.identity import Actor, Client, Role, Source
from app.domain.passkeys import PASSKEYS_MOST, Passkey, RelyingParty
from app.infrastructure.database.errors import ConstraintBroken
from tests.support.authenticator import Authenticator
from tests.support.backups import back_up
from tests.support.database import NOW, user
from tests.support.installs import Place
from tests.support.restores import restore
from tests.support.samples import PASSWORD

if TYPE_CHECKING:
    from app.services import Services
    from app.services.ports import Storage

LATER = NOW + timedelta(hours=1)
ORIGIN = "https://keys.example.org"
PARTY = RelyingParty(id="keys.example.org", origins=(ORIGIN,))
WEB = Client(source=Source.WEB, address="192.0.2.9")


def passkey(id_: str, *, user_id: str = "user-alice", sign_count: int = 0) -> Passkey:
    return Passkey(
        id=id_,
        user_id=user_id,
        name="Laptop ü",
        credential_id=b"\x00\xff" + id_.encode(),
        public_key=b"\xa5key",
        sign_count=sign_count,
        transports=("hybrid", "internal"),
        created_at=NOW,
    )


# ---------------------------------------------------------------------------------------------------------------------
# The repository
# ---------------------------------------------------------------------------------------------------------------------


async def test_passkeys_are_found_by_id_credential_and_user(storage: Storage) -> None:
    first, second = passkey("a"), replace(passkey("b"), transports=(), synced=True, last_used_at=LATER)
    async with storage.write() as uow:
        await uow.users.add(user())
        await uow.users.add(user("Bob"))
        for each in (second, first, passkey("c", user_id="user-bob")):
            assert await uow.passkeys.add(each, most=2)
    async with storage.read() as uow:
        assert await uow.passkeys.get("a") == await uow.passkeys.by_credential(first.credential_id) == first
        assert await uow.passkeys.of("user-alice") == [first, second]
        assert (await uow.passkeys.get("x"), await uow.passkeys.by_credential(b"x")) == (None, None)
        assert await uow.passkeys.of("nobody") == []


async def test_a_user_has_so_many_and_a_key_one_user(storage: Storage) -> None:
    async with storage.write() as uow:
        await uow.users.add(user())
        await uow.users.add(user("Bob"))
        assert await uow.passkeys.add(passkey("a"), most=1)
        assert not await uow.passkeys.add(passkey("b"), most=1)
    again = replace(passkey("a", user_id="user-bob"), id="another")
    for refused, error in ((again, UniqueViolation), (passkey("z", user_id="nobody"), ConstraintBroken)):
        with pytest.raises(error):
            async with storage.write() as uow:
                await uow.passkeys.add(refused, most=1)
    async with storage.read() as uow:
        assert [await uow.passkeys.of(each) for each in ("user-alice", "user-bob")] == [[passkey("a")], []]


@pytest.mark.parametrize(
    ("stored", "given", "rises"),
    [(0, 0, True), (0, 1, True), (1, 1, False), (1, 0, False), (2, 1, False), (1, 2**32 - 1, True)],
)
async def test_a_use_is_recorded_where_the_counter_rises(
    storage: Storage, stored: int, given: int, *, rises: bool
) -> None:
    one = passkey("a", sign_count=stored)
    async with storage.write() as uow:
        await uow.users.add(user())
        await uow.passkeys.add(one, most=1)
        assert await uow.passkeys.use("a", given, LATER, synced=True) is rises is one.counts_on(given)
        assert not await uow.passkeys.use("unknown", 9, LATER, synced=True)
    async with storage.read() as uow:
        used = replace(one, sign_count=given, last_used_at=LATER, synced=True)
        assert await uow.passkeys.get("a") == (used if rises else one)


async def test_passkeys_are_removed_one_by_one_or_all(storage: Storage) -> None:
    async with storage.write() as uow:
        await uow.users.add(user())
        await uow.users.add(user("Bob"))
        for each in ("a", "b", "c"):
            await uow.passkeys.add(passkey(each), most=9)
        await uow.passkeys.add(passkey("d", user_id="user-bob"), most=9)
        assert [await uow.passkeys.remove(each) for each in ("a", "a", "x")] == [True, False, False]
        assert [await uow.passkeys.clear(each) for each in ("user-alice", "user-alice", "nobody")] == [2, 0, 0]
    async with storage.read() as uow:
        assert [each.id for each in await uow.passkeys.of("user-bob")] == ["d"]


# ---------------------------------------------------------------------------------------------------------------------
# Two processes
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def place(engine_url: str, tmp_path: Path) -> Place:
    return await Place(engine_url, tmp_path / "data").install()


async def signed_in(services: Services, *, new: bool = True) -> Actor:
    if new:
        await services.identity.create(await services.identity.operator(), "mia", PASSWORD, Role.MEMBER)
    pair = await services.authentication.login("mia", PASSWORD, WEB)
    return await services.requests.authenticate(pair.access_token.reveal(), WEB)


async def added(services: Services, actor: Actor) -> Authenticator:
    authenticator = Authenticator(ORIGIN)
    answer = authenticator.create(await services.passkeys.registration_options(actor, PARTY))
    await services.passkeys.register(actor, "laptop", answer, PARTY)
    return authenticator


def outcomes(results: list[Any]) -> dict[str, int]:
    kinds = [type(each).__name__ for each in results]
    return {kind: kinds.count(kind) for kind in kinds}


@pytest.mark.parametrize("counting", [1, 0], ids=["with a counter", "without a counter"])
async def test_of_simultaneous_uses_of_one_answer_one_succeeds(place: Place, counting: int) -> None:
    async with place.services() as one, place.services() as other:
        authenticator = await added(one, await signed_in(one))
        authenticator.counting = counting
        answer = authenticator.get(await other.passkeys.login_options(PARTY))
        used = [each.passkeys.login(answer, WEB, PARTY) for each in (one, other) for _ in range(10)]
        results = await asyncio.gather(*used, return_exceptions=True)
        assert outcomes(results) == {"TokenPair": 1, InvalidCredentials.__name__: 19}
    contents = await place.contents()
    assert len(contents["spent_tickets"]) == 2
    assert sum("passkey.used" in row for row in contents["audit_events"]) == 1
    assert not any("copied" in row for row in contents["audit_events"])


async def test_of_simultaneous_answers_to_one_registration_one_is_stored(place: Place) -> None:
    async with place.services() as one, place.services() as other:
        mia = await signed_in(one)
        options = await one.passkeys.registration_options(mia, PARTY)
        results = await asyncio.gather(
            *(
                each.passkeys.register(mia, "laptop", Authenticator(ORIGIN).create(options), PARTY)
                for each in (one, other, one, other)
            ),
            return_exceptions=True,
        )
        assert outcomes(results) == {"AddedPasskey": 1, PasskeyRefused.__name__: 3}


async def test_simultaneous_passkeys_keep_to_the_limit(place: Place) -> None:
    async with place.services() as one, place.services() as other:
        mia = await signed_in(one)
        answers = [
            Authenticator(ORIGIN).create(await one.passkeys.registration_options(mia, PARTY))
            for _ in range(PASSKEYS_MOST + 3)
        ]
        results = await asyncio.gather(
            *(
                (one, other)[number % 2].passkeys.register(mia, "key", answer, PARTY)
                for number, answer in enumerate(answers)
            ),
            return_exceptions=True,
        )
        assert outcomes(results) == {"AddedPasskey": PASSKEYS_MOST, QuotaExceeded.__name__: 3}
    assert len((await place.contents())["passkeys"]) == PASSKEYS_MOST


async def test_what_is_stored_signs_nobody_in(place: Place) -> None:
    async with place.services() as services:
        mia = await signed_in(services)
        authenticator = await added(services, mia)
        answer = authenticator.get(await services.passkeys.login_options(PARTY))
        await services.passkeys.login(answer, WEB, PARTY)
        again = await signed_in(services, new=False)
        async with services.passkeys._storage.write() as uow:
            assert await uow.passkeys.clear(again.user_id) == 1
        with pytest.raises(InvalidCredentials):
            await services.passkeys.login(authenticator.get(await services.passkeys.login_options(PARTY)), WEB, PARTY)
    stored = repr(await place.contents())
    assert answer["response"]["signature"] not in stored


async def test_a_restored_backup_keeps_passkeys(place: Place, tmp_path: Path) -> None:
    async with place.services() as services:
        authenticator = await added(services, await signed_in(services))
    await back_up(place, tmp_path / "one.age")
    await restore(place, tmp_path / "one.age")
    async with place.services() as services:
        answer = authenticator.get(await services.passkeys.login_options(PARTY))
        pair = await services.passkeys.login(answer, WEB, PARTY)
        mia = await services.requests.authenticate(pair.access_token.reveal(), WEB)
        assert [each.name for each in (await services.passkeys.page(mia)).items] == ["laptop"]
