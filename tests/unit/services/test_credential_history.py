"""Former secrets, ages and expiries, on a storage in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.domain.audit import Action, Result
from app.domain.credentials import HISTORY_KEPT, Concern, CredentialView, Status
from app.domain.errors import (
    CredentialUnreadable,
    InvalidInput,
    NotFound,
    StorageFull,
    VersionConflict,
)
from app.domain.identity import Actor, Role, Source
from app.domain.keys import KeyName
from app.services.credentials import HistoryView
from tests.support.fakes import EPOCH, FakeClock, FakeStorage
from tests.support.keyhall import Keyhall, member
from tests.support.samples import OTHER_SECRET, SECRET

DAY = timedelta(days=1)


@pytest.fixture
def mia(clock: FakeClock) -> Actor:
    """Her session never grows stale: nothing here is about that."""
    return replace(member(clock, "mia"), authenticated_at=EPOCH + timedelta(days=1000))


def numbered(number: int) -> str:
    return f"{OTHER_SECRET}-{number:03}"


async def add(keyhall: Keyhall, actor: Actor, **wanted: Any) -> CredentialView:
    request = {"provider": "openai", "label": "main", "secret": SECRET} | wanted
    return (await keyhall.credentials.add(actor, **request)).view


async def revealed(keyhall: Keyhall, actor: Actor, credential_id: str) -> str:
    return (await keyhall.credentials.reveal(actor, credential_id)).reveal()


async def versions(keyhall: Keyhall, actor: Actor, credential_id: str) -> list[HistoryView]:
    return list((await keyhall.credentials.versions(actor, credential_id, limit=100)).items)


def kept(keyhall: Keyhall, storage: FakeStorage, credential_id: str) -> set[str]:
    """Every secret that is present or in the history, as plaintext."""
    cipher = keyhall.credentials._cipher
    record = storage.tables.credentials[credential_id]
    former = [each for each in storage.tables.history.values() if each.credential_id == credential_id]
    return {cipher.decrypt(record), *(cipher.decrypt_former(each, record.owner) for each in former)}


def damage(storage: FakeStorage, credential_id: str) -> None:
    record = storage.tables.credentials[credential_id]
    storage.tables.credentials[credential_id] = replace(record, encrypted_value=b"\0" * 200)


# ---------------------------------------------------------------------------------------------------------------------
# How much is kept
# ---------------------------------------------------------------------------------------------------------------------


async def test_the_20_latest_former_secrets_are_kept(keyhall: Keyhall, storage: FakeStorage, mia: Actor) -> None:
    view, other = await add(keyhall, mia), await add(keyhall, mia, label="other")
    await keyhall.credentials.replace(mia, other.id, OTHER_SECRET)
    for number in range(25):
        await keyhall.credentials.replace(mia, view.id, numbered(number))
    assert [each.version for each in await versions(keyhall, mia, view.id)] == list(range(25, 5, -1))
    assert kept(keyhall, storage, view.id) == {numbered(number) for number in range(4, 25)}
    assert len(await versions(keyhall, mia, other.id)) == 1


async def test_the_oldest_goes_in_the_unit_of_work_of_the_replacement(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    for number in range(HISTORY_KEPT):
        await keyhall.credentials.replace(mia, view.id, numbered(number))
    commits = storage.commits
    with storage.full(), pytest.raises(StorageFull):
        await keyhall.credentials.replace(mia, view.id, "one too many")
    assert SECRET in kept(keyhall, storage, view.id)
    await keyhall.credentials.replace(mia, view.id, "one too many")
    assert storage.commits == commits + 1
    assert SECRET not in kept(keyhall, storage, view.id)


async def test_rolling_back_and_forth_drives_no_secret_out(keyhall: Keyhall, storage: FakeStorage, mia: Actor) -> None:
    view = await add(keyhall, mia)
    for number in range(HISTORY_KEPT):
        await keyhall.credentials.replace(mia, view.id, numbered(number))
    everything = kept(keyhall, storage, view.id)
    for _ in range(30):
        await keyhall.credentials.rollback(mia, view.id)
        assert kept(keyhall, storage, view.id) == everything
        assert len(await versions(keyhall, mia, view.id)) == HISTORY_KEPT


async def test_the_latest_of_the_history_stays_for_it_tells_the_age(
    keyhall: Keyhall, clock: FakeClock, storage: FakeStorage, mia: Actor
) -> None:
    """Also where another row holds the same secret."""
    view = await add(keyhall, mia)
    for number in range(HISTORY_KEPT):
        await keyhall.credentials.replace(mia, view.id, numbered(number))
    keyhall.advance(clock, 10 * DAY)
    again = (await keyhall.credentials.replace(mia, view.id, numbered(HISTORY_KEPT - 2))).view
    latest = (await versions(keyhall, mia, view.id))[0]
    assert (latest.version, latest.replaced_at, again.secret_age_days) == (again.version - 1, clock.now(), 0)


async def test_a_damaged_row_of_the_history_makes_room_in_its_turn(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    for number in range(HISTORY_KEPT):
        await keyhall.credentials.replace(mia, view.id, numbered(number))
    oldest = min(storage.tables.history.values(), key=lambda each: each.version)
    storage.tables.history[oldest.id] = replace(oldest, encrypted_value=b"")
    await keyhall.credentials.replace(mia, view.id, "one too many")
    assert oldest.id not in storage.tables.history
    assert len(storage.tables.history) == HISTORY_KEPT


# ---------------------------------------------------------------------------------------------------------------------
# Rolling back
# ---------------------------------------------------------------------------------------------------------------------


async def test_rolling_back_twice_ends_where_it_began(keyhall: Keyhall, mia: Actor) -> None:
    view = await add(keyhall, mia)
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    found = []
    for _ in range(4):
        await keyhall.credentials.rollback(mia, view.id)
        found.append(await revealed(keyhall, mia, view.id))
    assert found == [SECRET, OTHER_SECRET, SECRET, OTHER_SECRET]


async def test_rolling_back_to_a_version_twice_gets_the_same_secret(keyhall: Keyhall, mia: Actor) -> None:
    view = await add(keyhall, mia)
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    await keyhall.credentials.replace(mia, view.id, numbered(1))
    for _ in range(2):
        await keyhall.credentials.rollback(mia, view.id, version=1)
        assert await revealed(keyhall, mia, view.id) == SECRET


async def test_a_rollback_that_expects_another_version_changes_nothing(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    current = (await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)).view
    for stale in (1, 3):
        with pytest.raises(VersionConflict):
            await keyhall.credentials.rollback(mia, view.id, expected_version=stale)
    assert await keyhall.credentials.get(mia, view.id) == current
    assert len(storage.tables.history) == 1
    back = (await keyhall.credentials.rollback(mia, view.id, expected_version=2)).view
    assert (back.version, await revealed(keyhall, mia, view.id)) == (3, SECRET)


async def test_a_replayed_rollback_that_expects_a_version_goes_back_once(keyhall: Keyhall, mia: Actor) -> None:
    view = await add(keyhall, mia)
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    outcomes = await asyncio.gather(
        *(keyhall.credentials.rollback(mia, view.id, expected_version=2) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(each, VersionConflict) for each in outcomes) == 4
    assert await revealed(keyhall, mia, view.id) == SECRET


async def test_what_cannot_be_rolled_back_to_is_refused_and_nothing_changes(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    current = (await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)).view
    trail = storage.trail()
    with pytest.raises(InvalidInput, match="version: is in force already"):
        await keyhall.credentials.rollback(mia, view.id, version=2)
    for unknown in (0, -1, 3, 10**30):
        with pytest.raises(NotFound):
            await keyhall.credentials.rollback(mia, view.id, version=unknown)
    assert await keyhall.credentials.get(mia, view.id) == current
    assert (storage.trail(), len(storage.tables.history)) == (trail, 1)


async def test_a_removed_credential_is_not_rolled_back_and_keeps_its_history(keyhall: Keyhall, mia: Actor) -> None:
    view = await add(keyhall, mia)
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    await keyhall.credentials.remove(mia, view.id)
    attempts: list[Callable[[], Awaitable[Any]]] = [
        lambda: keyhall.credentials.rollback(mia, view.id),
        lambda: keyhall.credentials.rollback(mia, view.id, version=1),
        lambda: keyhall.credentials.versions(mia, view.id),
    ]
    for attempt in attempts:
        with pytest.raises(NotFound):
            await attempt()
    await keyhall.credentials.restore(mia, view.id)
    await keyhall.credentials.rollback(mia, view.id)
    assert await revealed(keyhall, mia, view.id) == SECRET


async def test_a_rollback_keeps_an_expiry_unless_it_has_passed(keyhall: Keyhall, clock: FakeClock, mia: Actor) -> None:
    view = await add(keyhall, mia)
    later = EPOCH + 2 * DAY
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET, expires_at=later)
    assert (await keyhall.credentials.rollback(mia, view.id)).view.expires_at == later
    keyhall.advance(clock, 3 * DAY)
    assert (await keyhall.credentials.get(mia, view.id)).status is Status.EXPIRED
    back = (await keyhall.credentials.rollback(mia, view.id)).view
    assert (back.expires_at, back.status, back.concern) == (None, Status.UNCHECKED, None)


async def test_a_rollback_takes_up_a_rotation_that_this_process_has_not_noticed(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    await keyhall.rotate(KeyName.AES_KEY)
    await keyhall.credentials.rollback(mia, view.id)
    assert storage.tables.credentials[view.id].key_version == 2
    assert {each.version: each.key_version for each in storage.tables.history.values()} == {1: 1, 2: 2}


async def test_whatever_comes_at_once_loses_no_secret_that_was_acknowledged(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    replacing = [keyhall.credentials.replace(mia, view.id, numbered(number)) for number in range(12)]
    rolling = [keyhall.credentials.rollback(mia, view.id) for _ in range(8)]
    outcomes = await asyncio.gather(
        *(each for pair in zip(replacing, rolling, strict=False) for each in pair),
        *replacing[len(rolling) :],
        return_exceptions=True,
    )
    refused = [each for each in outcomes if isinstance(each, BaseException)]
    assert [type(each) for each in refused] in ([], [NotFound])  # a rollback that came before every replacement
    assert kept(keyhall, storage, view.id) == {SECRET, *(numbered(number) for number in range(12))}
    done = storage.trail()
    assert done.count((Action.CREDENTIAL_REPLACED, Result.OK)) == 12
    assert done.count((Action.CREDENTIAL_ROLLED_BACK, Result.OK)) == 8 - len(refused)
    assert (await keyhall.credentials.get(mia, view.id)).version == 21 - len(refused)


# ---------------------------------------------------------------------------------------------------------------------
# Times
# ---------------------------------------------------------------------------------------------------------------------


async def test_the_times_of_the_history_follow_on_each_other(keyhall: Keyhall, clock: FakeClock, mia: Actor) -> None:
    """Replacements and rollbacks begin a time in force; relabelling, removing, restoring and using do not."""
    view = await add(keyhall, mia)
    keyhall.advance(clock, DAY)
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    keyhall.advance(clock, DAY)
    await keyhall.credentials.change(mia, view.id, label="renamed")
    await keyhall.credentials.remove(mia, view.id)
    await keyhall.credentials.restore(mia, view.id)
    keyhall.advance(clock, DAY)
    await keyhall.credentials.rollback(mia, view.id)
    keyhall.advance(clock, DAY)
    await keyhall.credentials.replace(mia, view.id, numbered(1))
    history = await versions(keyhall, mia, view.id)
    times = [((each.created_at - EPOCH).days, (each.replaced_at - EPOCH).days) for each in history]
    assert times == [(3, 4), (1, 3), (0, 1)]


async def test_a_secret_that_did_not_open_when_it_was_replaced_keeps_its_time_and_nothing_else(
    keyhall: Keyhall, clock: FakeClock, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    keyhall.advance(clock, 200 * DAY)
    damage(storage, view.id)
    healed = (await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)).view
    assert (healed.secret_age_days, healed.concern) == (0, None)
    (lost,) = await versions(keyhall, mia, view.id)
    assert (lost.masked, lost.readable, lost.created_at, lost.replaced_at) == ("•" * 8, False, EPOCH, clock.now())
    for version in (None, 1):
        with pytest.raises(CredentialUnreadable):
            await keyhall.credentials.rollback(mia, view.id, version=version)
    operator = member(clock, "operator", role=Role.OWNER, source=Source.CLI)
    verified = keyhall.credentials.health.verify_all(operator)
    assert not [each async for step in verified for each in step.unreadable]


# ---------------------------------------------------------------------------------------------------------------------
# Ages
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_secret_ages_from_its_creation_its_last_replacement_or_its_last_rollback(
    keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    async def age() -> int:
        (listed,) = (await keyhall.credentials.page(mia)).items
        assert listed == await keyhall.credentials.get(mia, view.id)
        return listed.secret_age_days

    view = await add(keyhall, mia)
    assert view.secret_age_days == 0
    keyhall.advance(clock, 3 * DAY - timedelta(seconds=1))
    assert await age() == 2
    keyhall.advance(clock, timedelta(seconds=1))
    assert await age() == 3
    assert (await keyhall.credentials.change(mia, view.id, label="renamed")).secret_age_days == 3
    assert (await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)).view.secret_age_days == 0
    keyhall.advance(clock, 5 * DAY)
    assert await age() == 5
    assert (await keyhall.credentials.rollback(mia, view.id)).view.secret_age_days == 0
    clock.advance(-DAY)  # a clock that was set back makes nothing younger than new
    keyhall.keys.confirm(clock.monotonic())
    assert await age() == 0


async def test_a_list_reads_once_however_many_credentials_it_shows(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    for number in range(30):
        view = await add(keyhall, mia, label=f"label {number}")
        await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    units = storage.units
    assert len((await keyhall.credentials.page(mia)).items) == 30
    assert storage.units == units + 1


@pytest.mark.parametrize(
    ("expires_in", "after", "concern"),
    [
        (None, 180 * DAY, None),
        (None, 180 * DAY + timedelta(seconds=1), Concern.AGED),
        (31 * DAY, timedelta(0), None),
        (31 * DAY, DAY, Concern.EXPIRING),
        (31 * DAY, 31 * DAY - timedelta(seconds=1), Concern.EXPIRING),
        (31 * DAY, 31 * DAY, Concern.EXPIRED),
        (190 * DAY, 181 * DAY, Concern.EXPIRING),
        (190 * DAY, 200 * DAY, Concern.EXPIRED),
        (365 * DAY, 181 * DAY, Concern.AGED),
    ],
    ids=str,
)
async def test_the_clock_says_when_a_secret_should_be_replaced(  # noqa: PLR0917 - three fixtures and a table
    keyhall: Keyhall,
    clock: FakeClock,
    mia: Actor,
    expires_in: timedelta | None,
    after: timedelta,
    concern: Concern | None,
) -> None:
    view = await add(keyhall, mia, expires_at=None if expires_in is None else EPOCH + expires_in)
    keyhall.advance(clock, after)
    assert (await keyhall.credentials.get(mia, view.id)).concern is concern


async def test_health_counts_the_aged_by_provider(keyhall: Keyhall, clock: FakeClock, mia: Actor) -> None:
    await add(keyhall, mia, label="old")
    renewed = await add(keyhall, mia, label="renewed")
    await add(keyhall, mia, provider="github")
    keyhall.advance(clock, 181 * DAY)
    await keyhall.credentials.replace(mia, renewed.id, OTHER_SECRET)
    await add(keyhall, mia, label="new")
    report = await keyhall.credentials.health.report(mia)
    assert [(each.provider, each.total, each.aged) for each in report.providers] == [("github", 1, 1), ("openai", 3, 1)]
