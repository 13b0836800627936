"""Lists that people choose from, and changes that arrive twice, as forms and buttons of Discord do."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.domain.errors import AlreadyExists, Forbidden, IdempotencyConflict, NotFound, QuotaExceeded, VersionConflict
from app.domain.identity import Actor
from tests.support.fakes import FakeClock
from tests.support.keyhall import Keyhall, member
from tests.support.samples import OTHER_SECRET, SECRET
from tests.unit.services.test_credentials import GUILD, add, manager, visitor


@pytest.fixture
def mia(clock: FakeClock) -> Actor:
    return member(clock, "mia")


@pytest.fixture
def tom(clock: FakeClock) -> Actor:
    return member(clock, "tom")


def names(found: object) -> list[str]:
    return [each.label for each in found]  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------------------------------
# Suggestions
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("work", ["Work", "old work"]),
        ("ORK", ["old work", "Work"]),
        ("git", ["ci"]),
        ("hub ci", ["ci"]),
        ("openai old", ["old work"]),
        ("work ci", []),
        ("", ["ci", "old work", "Work"]),
    ],
)
async def test_any_part_of_label_or_provider_is_found_and_beginnings_come_first(
    keyhall: Keyhall, mia: Actor, typed: str, expected: list[str]
) -> None:
    await add(keyhall, mia, label="old work")
    await add(keyhall, mia, label="Work")
    await add(keyhall, mia, label="ci", provider="github")
    assert names(await keyhall.credentials.lists.labels(mia, typed)) == expected


@pytest.mark.parametrize("own", [25, 40])
async def test_many_of_ones_own_do_not_hide_the_guilds(keyhall: Keyhall, clock: FakeClock, own: int) -> None:
    gwen = manager(clock)
    for number in range(own):
        await add(keyhall, gwen, label=f"own {number:02}")
    for number in range(3):
        await add(keyhall, gwen, label=f"shared {number}", guild_id=GUILD)
    found = await keyhall.credentials.lists.labels(gwen, "")
    assert len(found) == 25
    assert [each.label for each in found if each.shared] == ["shared 0", "shared 1", "shared 2"]


async def test_many_of_the_guilds_do_not_hide_ones_own(keyhall: Keyhall, clock: FakeClock) -> None:
    gwen = manager(clock)
    for number in range(30):
        await add(keyhall, gwen, label=f"shared {number:02}", guild_id=GUILD)
    for number in range(20):
        await add(keyhall, gwen, label=f"own {number:02}")
    found = await keyhall.credentials.lists.labels(gwen, "")
    assert len(found) == 25
    assert sum(not each.shared for each in found) == 13


# ---------------------------------------------------------------------------------------------------------------------
# Stretches
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_list_is_counted_and_goes_on_and_back(keyhall: Keyhall, mia: Actor, tom: Actor) -> None:
    for number in range(11):
        await add(keyhall, mia, label=f"n{10 - number:02}")
    await add(keyhall, tom, label="of tom")
    lists = keyhall.credentials.lists
    first = await lists.stretch(mia, size=4)
    assert (names(first.items), first.begin, first.total) == (["n00", "n01", "n02", "n03"], 0, 11)
    last = await lists.stretch(mia, begin=8, size=4)
    assert (names(last.items), last.begin, last.total) == (["n08", "n09", "n10"], 8, 11)
    for begin, expected in [(99, 8), (-5, 0), (5, 4)]:
        assert (await lists.stretch(mia, begin=begin, size=4)).begin == expected


async def test_an_empty_list_has_nothing_at_any_place(keyhall: Keyhall, mia: Actor) -> None:
    found = await keyhall.credentials.lists.stretch(mia, begin=8)
    assert (list(found.items), found.begin, found.total) == ([], 0, 0)


async def test_a_guilds_list_counts_only_what_the_actor_may_see(keyhall: Keyhall, clock: FakeClock) -> None:
    gwen = manager(clock)
    await add(keyhall, gwen, label="shared", guild_id=GUILD)
    assert (await keyhall.credentials.lists.stretch(gwen, guild_id=GUILD)).total == 1
    assert (await keyhall.credentials.lists.stretch(visitor(clock), guild_id=GUILD)).total == 0


# ---------------------------------------------------------------------------------------------------------------------
# Before anything is typed
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_check_refuses_what_adding_would_refuse(
    keyhall: Keyhall, clock: FakeClock, mia: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(keyhall, mia, label="main")
    check = keyhall.credentials.check_add
    await check(mia)
    await check(mia, provider="openai", label="another")
    with pytest.raises(AlreadyExists):
        await check(mia, provider="openai", label="MAIN")
    with pytest.raises(Forbidden):
        await check(visitor(clock), guild_id=GUILD)
    monkeypatch.setattr("app.services.credentials.service.QUOTA", 1)
    with pytest.raises(QuotaExceeded):
        await check(mia)


# ---------------------------------------------------------------------------------------------------------------------
# The same request twice
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_repeated_replacement_stores_once_and_is_a_success(
    keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    for _ in range(2):
        replaced = await keyhall.credentials.replace(
            mia, view.id, OTHER_SECRET, expected_version=1, idempotency_key="once"
        )
        assert replaced.view.version == 2
        assert replaced.new_secret
    with pytest.raises(IdempotencyConflict):
        await keyhall.credentials.replace(mia, view.id, SECRET[::-1], expected_version=2, idempotency_key="once")
    with pytest.raises(IdempotencyConflict):
        await keyhall.credentials.replace(
            mia, view.id, OTHER_SECRET, expires_at=clock.now() + timedelta(days=1), idempotency_key="once"
        )
    with pytest.raises(VersionConflict):
        await keyhall.credentials.replace(mia, view.id, SECRET[::-1], expected_version=1, idempotency_key="another")


async def test_a_repeated_removal_and_restoration_are_done_already(keyhall: Keyhall, mia: Actor, tom: Actor) -> None:
    view = await add(keyhall, mia)
    for _ in range(2):
        await keyhall.credentials.remove(mia, view.id, expected_version=1)
    with pytest.raises(NotFound):
        await keyhall.credentials.remove(mia, view.id)
    with pytest.raises(NotFound):
        await keyhall.credentials.remove(mia, view.id, expected_version=2)
    with pytest.raises(NotFound):
        await keyhall.credentials.remove(tom, view.id, expected_version=1)
    for _ in range(2):
        assert (await keyhall.credentials.restore(mia, view.id, expected_version=2)).version == 3
    with pytest.raises(NotFound):
        await keyhall.credentials.restore(mia, view.id)
    with pytest.raises(NotFound):
        await keyhall.credentials.restore(tom, view.id, expected_version=2)
