"""Every table and every column has an answer to whether it is about a person, in an export, and erased."""

from __future__ import annotations

from app.domain.privacy import Section
from app.infrastructure.database.personal_data import NOT_PERSONAL, PERSONAL
from app.infrastructure.database.schema import metadata
from app.settings import PROJECT_ROOT

NAMES = {
    "user_id",
    "subject_id",
    "owner_id",
    "created_by",
    "requested_by",
    "address",
    "address_id",
    "device",
    "username",
    "discord_id",
}
"""Columns by which rows belong to a person, or that say something about one."""


def test_every_table_is_personal_or_has_a_reason_why_it_is_not() -> None:
    personal = [each.table.name for each in PERSONAL]
    assert sorted([*personal, *NOT_PERSONAL]) == sorted(metadata.tables)
    assert all(NOT_PERSONAL.values())


def test_a_table_that_names_people_is_not_among_the_others() -> None:
    pointing = {
        table.name
        for table in metadata.tables.values()
        if NAMES & set(table.columns.keys())
        or any(key.referred_table.name in {"users", "subjects"} for key in table.foreign_key_constraints)
    }
    assert pointing - {each.table.name for each in PERSONAL} == {"owner_claim"}


def test_every_personal_table_is_in_the_export_or_says_how_its_content_is_shown() -> None:
    for each in PERSONAL:
        assert (each.section is None) == bool(each.shown), each.table.name
        assert set(each.withheld) <= set(each.table.columns.keys()), each.table.name
        assert all(each.withheld.values()), each.table.name
        assert each.section is None or each.theirs is not None, each.table.name
    assert {each.section for each in PERSONAL} - {None} == set(Section)


def test_every_personal_table_is_erased_or_says_why_its_rows_stay() -> None:
    deleted = [each.table.name for each in PERSONAL if not each.stays]
    for each in PERSONAL:
        assert bool(each.stays) + bool(each.goes_with is not None) <= 1, each.table.name
        if not each.stays and each.goes_with is None:
            assert each.theirs is not None, each.table.name
        if each.goes_with is not None:
            assert each.goes_with.name in deleted, each.table.name
            (key,) = (found for found in each.table.foreign_key_constraints if found.referred_table is each.goes_with)
            assert key.ondelete == "CASCADE", each.table.name


def test_rows_are_deleted_before_those_that_they_point_at() -> None:
    order = [each.table.name for each in PERSONAL if not each.stays and each.goes_with is None]
    for each in PERSONAL:
        for key in each.table.foreign_key_constraints:
            target = key.referred_table.name
            if each.table.name in order and target in order:
                assert order.index(each.table.name) < order.index(target), f"{each.table.name} before {target}"


def test_no_secret_is_in_a_section() -> None:
    for each in PERSONAL:
        if each.section is not None:
            shown = [column for column in each.table.columns if column.name not in each.withheld]
            assert not [column.name for column in shown if "hash" in column.name or column.info.get("encrypted")]
            assert not [column.name for column in shown if column.type.python_type is bytes]


def test_every_personal_table_is_documented() -> None:
    text = (PROJECT_ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    missing = [each.table.name for each in PERSONAL if f"| `{each.table.name}`" not in text]
    assert missing == []
