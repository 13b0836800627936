"""The list of a person's credentials in the repositories, on both engines and in the fake."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from app.domain.credential_lists import ListFilter, Need, Tab, need, place_of
from app.domain.credentials import Owner, OwnerKind, Status
from tests.support.database import ALICE, NOW, credential

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.credentials import CredentialRecord
    from app.services.ports import Storage

GUILD = Owner(OwnerKind.GUILD, "900000000000000001")
BOB = Owner(OwnerKind.USER, "user-bob")
HERS = ListFilter(user_id=ALICE.id, now=NOW, restorable_since=NOW - timedelta(days=7))


def stored() -> Sequence[CredentialRecord]:
    """In the order of the list, but for those at the end, which are not Alice's live ones."""
    return [
        replace(credential("u", label="zz"), status=Status.UNREADABLE, expires_at=NOW),
        replace(credential("r", label="y"), status=Status.REFUSED),
        replace(credential("e", label="Z"), expires_at=NOW),
        replace(credential("f", label="a"), expires_at=NOW + timedelta(days=30)),
        replace(credential("w1", label="Ä_b"), expires_at=NOW + timedelta(days=30, seconds=1)),
        replace(credential("w2", label="ä_b"), provider="github", expires_at=None),
        replace(credential("s", label="é", owner=GUILD), expires_at=None),
        replace(credential("gone", label="gone", owner=GUILD), deleted_at=NOW, expires_at=NOW),
        replace(credential("lost", label="lost"), deleted_at=NOW - timedelta(days=7)),
        replace(credential("b", label="b", owner=BOB), created_by=BOB.id),
        replace(credential("of-bob", label="c", owner=GUILD), created_by=BOB.id),
    ]


async def test_live_unreadable_rows_of_all_owners_are_found_page_by_page(storage: Storage) -> None:
    lost = {"b", "s", "u", "w1", "gone"}
    async with storage.write() as unit:
        for record in stored():
            await unit.credentials.add(replace(record, status=Status.UNREADABLE if record.id in lost else Status.VALID))
        first = await unit.credentials.unreadable(after=None, limit=2)
        rest = await unit.credentials.unreadable(after=first[-1].id, limit=9)
    assert ([each.id for each in first], [each.id for each in rest]) == (["b", "s"], ["u", "w1"])


async def test_the_list_orders_filters_and_turns_as_the_domain_says(storage: Storage) -> None:
    async with storage.write() as unit:
        for record in reversed(stored()):
            await unit.credentials.add(record)
    hers = stored()[:7]
    assert [need(each, NOW) for each in hers[:5]] == list(Need)
    places = [place_of(each, NOW) for each in hers]
    assert places == sorted(places)

    async def ids(tab: Tab = Tab.ALL, wanted: ListFilter = HERS, place: int | None = None, back: bool = False) -> str:  # noqa: FBT001, FBT002
        async with storage.read() as unit:
            at = None if place is None else places[place]
            rows = await unit.credentials.listed(wanted, tab, place=at, backwards=back, limit=9 if place is None else 2)
        return " ".join(each.id for each in rows)

    assert await ids() == "u r e f w1 w2 s"
    assert (await ids(Tab.ATTENTION), await ids(Tab.SHARED), await ids(Tab.REMOVED)) == ("u r e f", "s", "gone")
    assert [await ids(place=place) for place in (0, 2, 4, 6)] == ["r e", "f w1", "w2 s", ""]
    assert [await ids(place=place, back=True) for place in (0, 1, 2, 6)] == ["", "u", "u r", "w1 w2"]
    assert await ids(back=True) == await ids()
    for words, expected in ((["ä_"], "w1 w2"), (["_", "hub"], "w2"), (["%"], ""), (["\\"], ""), (["open", "z"], "u e")):
        assert await ids(wanted=replace(HERS, words=words)) == expected
    async with storage.read() as unit:
        assert await unit.credentials.tab_counts(HERS) == (7, 4, 1, 1)
        assert await unit.credentials.tab_counts(replace(HERS, words=["o"])) == (6, 4, 1, 1)
        assert await unit.credentials.tab_counts(replace(HERS, user_id="nobody")) == (0, 0, 0, 0)
