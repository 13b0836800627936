"""Lists that people choose from, and changes that arrive twice, as forms and buttons of Discord do."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta

import pytest

from app.domain.credential_lists import Tab
from app.domain.credentials import Status
from app.domain.errors import (
    AlreadyExists,
    Forbidden,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    VersionConflict,
)
from app.domain.identity import Actor
from app.services.credentials import CredentialList
from tests.support.fakes import FakeClock, FakeStorage
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
# The list that answers
# ---------------------------------------------------------------------------------------------------------------------


async def test_the_list_is_in_the_order_of_need_and_its_pages_lead_both_ways(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, mia: Actor, tom: Actor
) -> None:
    for label in ("b", "A", "c", "d", "e", "f"):
        expires = {"c": timedelta(hours=1), "d": timedelta(days=29)}.get(label, timedelta(days=90))
        await add(keyhall, mia, label=label, expires_at=clock.now() + expires)
    await add(keyhall, tom, label="another person's")
    async with storage.write() as uow:
        stored = {each.label: each.id for each in await uow.credentials.page(after=None, limit=9)}
        await uow.credentials.set_status(stored["f"], Status.REFUSED, clock.now())
        await uow.credentials.set_status(stored["e"], Status.UNREADABLE, clock.now())
    damaged = replace(storage.tables.credentials[stored["e"]], encrypted_value=b"damaged")
    storage.tables.credentials[stored["e"]] = damaged
    keyhall.advance(clock, timedelta(hours=2))

    async def page(cursor: str | None = None, tab: Tab = Tab.ALL) -> CredentialList:
        return await keyhall.credentials.lists.page(mia, tab=tab, cursor=cursor, limit=2)

    first = await page()
    assert (names(first.items), first.previous_cursor) == (["e", "f"], None)
    assert first.counts == (6, 4, 0, 0)
    second = await page(first.next_cursor)
    third = await page(second.next_cursor)
    assert (names(second.items), names(third.items), third.next_cursor) == (["c", "d"], ["A", "b"], None)
    back = await page(third.previous_cursor)
    assert (names(back.items), names((await page(back.previous_cursor)).items)) == (["c", "d"], ["e", "f"])
    assert (await page(back.previous_cursor)).previous_cursor is None
    assert names((await page((await page(tab=Tab.ATTENTION)).next_cursor, Tab.ATTENTION)).items) == ["c", "d"]


async def test_a_page_whose_credentials_are_gone_begins_again(keyhall: Keyhall, mia: Actor) -> None:
    *_, last = [await add(keyhall, mia, label=label) for label in ("a", "b", "c")]
    cursor = (await keyhall.credentials.lists.page(mia, limit=2)).next_cursor
    await keyhall.credentials.remove(mia, last.id)
    found = await keyhall.credentials.lists.page(mia, cursor=cursor, limit=2)
    assert (names(found.items), found.counts.removed) == (["a", "b"], 1)
    assert names((await keyhall.credentials.lists.page(mia, tab=Tab.REMOVED)).items) == ["c"]


async def test_what_was_shared_with_a_server_is_in_the_sharers_list_alone(keyhall: Keyhall, clock: FakeClock) -> None:
    gwen = manager(clock)
    await add(keyhall, gwen, label="shared", guild_id=GUILD)
    found = await keyhall.credentials.lists.page(gwen, tab=Tab.SHARED)
    assert (names(found.items), found.counts) == (["shared"], (1, 0, 1, 0))
    other = await keyhall.credentials.lists.page(visitor(clock), tab=Tab.SHARED)
    assert (list(other.items), other.counts) == ([], (0, 0, 0, 0))


@pytest.mark.parametrize(
    ("search", "expected"),
    [("GROSS", ["Groß"]), ("main openai", ["Main"]), ("100%", ["100%"]), ("_", []), ("\\", []), ("  ", None)],
)
async def test_a_search_is_words_in_any_capitals_and_no_pattern(
    keyhall: Keyhall, mia: Actor, search: str, expected: list[str] | None
) -> None:
    for label in ("Groß", "Main", "100%"):
        await add(keyhall, mia, label=label)
    found = await keyhall.credentials.lists.page(mia, search=search)
    assert names(found.items) == (["100%", "Groß", "Main"] if expected is None else expected)
    assert found.counts.all == len(found.items)


@pytest.mark.parametrize(
    "search",
    [SECRET, "x" * 101, "a\0b", "\ud800", "a b c d e f g h i"],
    ids=["key", "long", "NUL", "surrogate", "words"],
)
async def test_a_search_that_is_none_is_refused(keyhall: Keyhall, mia: Actor, search: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await keyhall.credentials.lists.page(mia, search=search)
    assert search not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", ">", ">5" + "0" * 36 + "x", ">4no id" + "x" * 40, "<4{id}a\0b", ">4{id}" + "x" * 500]
)
async def test_a_cursor_that_was_not_given_out_is_refused(keyhall: Keyhall, mia: Actor, text: str) -> None:
    text = text.replace("{id}", "018f0000-0000-7000-8000-000000000000")
    for cursor in (text, base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")):
        with pytest.raises(InvalidInput):
            await keyhall.credentials.lists.page(mia, cursor=cursor)


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
