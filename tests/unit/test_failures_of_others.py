"""docs/security.md has every case of the failures that others had, and names tests that exist."""

from __future__ import annotations

import re
from typing import Final

from app.settings import PROJECT_ROOT

_CASES: Final = 26


def _rows() -> list[list[str]]:
    page = (PROJECT_ROOT / "docs/security.md").read_text(encoding="utf-8")
    section = page.partition("## Failures of others\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| \d.*$", section, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_case_stands_once_in_the_table_with_a_test_that_exists() -> None:
    rows = _rows()
    assert [row[0] for row in rows] == [str(number + 1) for number in range(_CASES)]
    for number, _, held_by in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", held_by)
        assert named, f"case {number} names no test"
        for path, test in named:
            file = PROJECT_ROOT / path
            assert file.is_file(), f"case {number}: {path}"
            assert f"def {test}(" in file.read_text(encoding="utf-8"), f"case {number}: {path}::{test}"
