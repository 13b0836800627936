"""A credential that is read again is not decrypted again, and never shown otherwise than if it were."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, Final

import pytest

from app.domain.credentials import AGED_AFTER, SOON, Concern, CredentialView, Status
from app.domain.errors import NotReady
from app.domain.identity import Actor, User
from app.domain.keys import KeyName, Manifest
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.infrastructure.database.dialects.sqlite import Sqlite
from app.infrastructure.database.row_cache import RowCache
from app.infrastructure.database.unit_of_work import SqlStorage
from tests.support.database import migrated
from tests.support.fakes import FakeClock
from tests.support.keyhall import Keyhall, member, open_keyhall
from tests.support.samples import OTHER_SECRET, SECRET

_INSTANT: Final = timedelta(microseconds=1)


class Decryptions:
    """Counts them, in every process of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._count = 0
        honest = AesGcmEnvelope.decrypt

        def counted(*arguments: Any, **named: Any) -> bytes:
            self._count += 1
            return honest(*arguments, **named)

        monkeypatch.setattr(AesGcmEnvelope, "decrypt", counted)

    def since(self) -> int:
        """How many since the last question."""
        count, self._count = self._count, 0
        return count


@pytest.fixture
def decryptions(monkeypatch: pytest.MonkeyPatch) -> Decryptions:
    return Decryptions(monkeypatch)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def process(stack: AsyncExitStack, url: str, clock: FakeClock) -> Keyhall:
    """One more process on that database."""
    database = await stack.enter_async_context(migrated(url))
    return await open_keyhall(SqlStorage(database), clock, SystemRandomness())


@pytest.fixture
async def keyhall(stack: AsyncExitStack, sqlite_url: str, clock: FakeClock) -> Keyhall:
    return await process(stack, sqlite_url, clock)


@pytest.fixture
async def other(stack: AsyncExitStack, keyhall: Keyhall, sqlite_url: str, clock: FakeClock) -> Keyhall:
    """A second process; ``keyhall`` has made the install."""
    return await process(stack, sqlite_url, clock)


@pytest.fixture
async def mia(keyhall: Keyhall, clock: FakeClock) -> Actor:
    actor = member(clock, "mia")
    user = User(
        id=actor.user_id, subject_id=actor.subject_id or "", username="mia", role=actor.role, created_at=clock.now()
    )
    async with keyhall.storage.write() as uow:
        await uow.users.add(user)
    return actor


async def stored(keyhall: Keyhall, mia: Actor, expires_at: datetime | None = None) -> CredentialView:
    added = await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET, expires_at=expires_at)
    return added.view


async def test_a_credential_is_decrypted_once_while_nobody_commits(
    keyhall: Keyhall, mia: Actor, decryptions: Decryptions
) -> None:
    view = await stored(keyhall, mia)
    decryptions.since()
    assert [await keyhall.credentials.get(mia, view.id) for _ in range(5)] == [view] * 5
    assert decryptions.since() == 1


async def test_it_is_decrypted_again_after_a_commit_of_another_process(
    keyhall: Keyhall, other: Keyhall, mia: Actor, decryptions: Decryptions
) -> None:
    view = await stored(keyhall, mia)
    await keyhall.credentials.get(mia, view.id)
    await other.credentials.replace(mia, view.id, OTHER_SECRET)
    decryptions.since()
    shown = await keyhall.credentials.get(mia, view.id)
    assert decryptions.since() == 1
    assert shown.version == 2
    assert shown.masked.endswith(OTHER_SECRET[-3:])


async def test_a_row_that_was_tampered_with_is_noticed_by_the_next_read(
    keyhall: Keyhall, mia: Actor, tmp_path: Path
) -> None:
    view = await stored(keyhall, mia)
    await keyhall.credentials.get(mia, view.id)
    with sqlite3.connect(tmp_path / "keyhall.db") as raw:
        raw.execute("UPDATE api_credentials SET encrypted_value = encrypted_value || x'00'")
    raw.close()
    shown = await keyhall.credentials.get(mia, view.id)
    assert shown.status is Status.UNREADABLE
    assert SECRET[:4] not in shown.masked
    assert (await keyhall.credentials.get(mia, view.id)).status is Status.UNREADABLE


@pytest.fixture
def unmoved(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No commit is noticed: what holds here holds by the keys alone."""
    with monkeypatch.context() as patched:
        patched.setattr(Sqlite, "data_version", lambda _: 1)
        yield


@pytest.mark.usefixtures("unmoved")
async def test_a_view_is_not_shown_under_other_keys_than_those_that_opened_it(
    keyhall: Keyhall, mia: Actor, decryptions: Decryptions
) -> None:
    view = await stored(keyhall, mia)
    await keyhall.credentials.get(mia, view.id)
    await keyhall.rotate(KeyName.AES_KEY)
    await keyhall.keys.reload()
    decryptions.since()
    assert [await keyhall.credentials.get(mia, view.id) for _ in range(2)] == [view] * 2
    assert decryptions.since() == 1
    await keyhall.destroy_former(KeyName.AES_KEY)
    assert (await keyhall.credentials.get(mia, view.id)).status is Status.UNREADABLE
    assert (await keyhall.credentials.get(mia, view.id)).masked == "•" * 8


async def test_no_view_is_shown_while_the_keys_are_not_confirmed(
    keyhall: Keyhall, mia: Actor, clock: FakeClock
) -> None:
    view = await stored(keyhall, mia)
    await keyhall.credentials.get(mia, view.id)
    clock.advance(timedelta(minutes=1))
    with pytest.raises(NotReady):
        await keyhall.credentials.get(mia, view.id)


async def test_the_clock_changes_a_remembered_view_as_it_changes_a_fresh_one(
    keyhall: Keyhall, other: Keyhall, mia: Actor, clock: FakeClock, decryptions: Decryptions
) -> None:
    began = clock.now()
    expires_at = began + AGED_AFTER + timedelta(days=90)
    view = await stored(keyhall, mia, expires_at)
    await keyhall.credentials.get(mia, view.id)
    decryptions.since()
    turns = [timedelta(days=1), AGED_AFTER, expires_at - SOON - began, expires_at - began]
    seen = []
    for turn in turns:
        for moment in (turn - _INSTANT, turn, turn + _INSTANT):
            clock.advance(began + moment - clock.now())
            keyhall.keys.confirm(clock.monotonic())
            other.keys.confirm(clock.monotonic())
            remembered = await keyhall.credentials.get(mia, view.id)
            assert decryptions.since() == 0
            (fresh,) = (await other.credentials.page(mia)).items
            assert remembered == fresh
            decryptions.since()
            seen.append((remembered.status, remembered.secret_age_days, remembered.concern))
    plain, late = Status.UNCHECKED, Status.EXPIRED
    assert seen == [
        *((plain, 0, None), (plain, 1, None), (plain, 1, None)),
        *((plain, 179, None), (plain, 180, None), (plain, 180, Concern.AGED)),
        *((plain, 239, Concern.AGED), (plain, 240, Concern.EXPIRING), (plain, 240, Concern.EXPIRING)),
        *((plain, 269, Concern.EXPIRING), (late, 270, Concern.EXPIRED), (late, 270, Concern.EXPIRED)),
    ]


async def test_a_clock_that_steps_back_makes_a_view_young_again(keyhall: Keyhall, mia: Actor, clock: FakeClock) -> None:
    view = await stored(keyhall, mia, clock.now() + timedelta(days=1))
    keyhall.advance(clock, timedelta(days=2))
    assert (await keyhall.credentials.get(mia, view.id)).status is Status.EXPIRED
    clock.advance(timedelta(days=-2))
    assert (await keyhall.credentials.get(mia, view.id)) == view


async def test_a_view_fits_into_the_weight_of_its_row_and_holds_no_secret(keyhall: Keyhall, mia: Actor) -> None:
    view = await stored(keyhall, mia)
    await keyhall.credentials.versions(mia, view.id)  # finds the row, and shows nothing of it
    kept = await kept_row(keyhall, view.id)
    alone = list(objects(kept))
    await keyhall.credentials.get(mia, view.id)
    assert await kept_row(keyhall, view.id) is kept
    found = list(objects(kept))
    assert len(found) > len(alone)
    taken = sum(sys.getsizeof(each) for each in found)
    cache = RowCache(most_bytes=taken)
    cache.get("credential", "", 1)
    cache.put("credential", "", 1, type(kept)(kept.record))
    assert len(cache) == 0, "as it was weighed, it must not fit into what it takes now"
    assert not [each for each in found if isinstance(each, str | bytes) and SECRET in str(each)]


async def kept_row(keyhall: Keyhall, credential_id: str) -> Any:
    """What is kept for that credential; loaded as a read does it."""

    async def nothing(_: object) -> None:
        return None

    return await keyhall.storage.cached("credential", credential_id, nothing)


def objects(value: object, seen: set[int] | None = None) -> Iterator[object]:
    """Every object that a kept row holds alone, once: not the keys' manifest, which all of them share."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, Manifest | Enum | NoneType):
        return
    seen.add(id(value))
    yield value
    if is_dataclass(value):
        for field in fields(value):
            yield from objects(getattr(value, field.name), seen)
