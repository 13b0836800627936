"""docs/asvs.md has every line of levels 1 and 2 of the OWASP ASVS 5.0.0, and names tests that exist."""

from __future__ import annotations

import re
from typing import Final

from app.settings import PROJECT_ROOT

_PAGE: Final = PROJECT_ROOT / "docs/asvs.md"
_LINES: Final = (
    "1.1:2 1.2:9 1.3:11 1.4:3 1.5:2 2.1:3 2.2:3 2.3:4 2.4:1 3.2:2 3.3:4 3.4:6 3.5:5 3.7:2 4.1:3 4.2:1 4.3:2 4.4:4 "
    "5.1:1 5.2:3 5.3:2 5.4:3 6.1:3 6.2:12 6.3:4 6.4:4 6.5:5 6.6:3 6.8:4 7.1:3 7.2:4 7.3:2 7.4:5 7.5:2 7.6:2 8.1:2 "
    "8.2:3 8.3:1 8.4:1 9.1:3 9.2:4 10.1:2 10.2:2 10.3:4 10.4:11 10.5:5 10.6:2 10.7:3 11.1:2 11.2:3 11.3:3 11.4:4 "
    "11.5:1 11.6:1 12.1:3 12.2:2 12.3:4 13.1:1 13.2:5 13.3:2 13.4:5 14.1:2 14.2:4 14.3:3 15.1:3 15.2:3 15.3:7 16.1:1 "
    "16.2:5 16.3:4 16.4:3 16.5:3 17.1:1 17.2:4 17.3:2"
)
"""Sections, each with the number of its lines of levels 1 and 2, which stand before those of level 3."""


def _rows() -> list[list[str]]:
    lines = _PAGE.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if re.match(r"\| \d", line)]


def test_every_line_of_levels_1_and_2_stands_once_in_the_table() -> None:
    sections = (entry.split(":") for entry in _LINES.split())
    expected = [f"{section}.{number + 1}" for section, count in sections for number in range(int(count))]
    assert [row[0] for row in _rows()] == expected
    assert [sum(row[1] == level for row in _rows()) for level in "12"] == [70, 183]


def test_the_tests_that_prove_a_line_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", _PAGE.read_text(encoding="utf-8"))
    assert len(named) > 100
    missing = [
        f"{path}::{test}"
        for path, test in named
        if not (PROJECT_ROOT / path).is_file()
        or (test and f"def {test}(" not in (PROJECT_ROOT / path).read_text(encoding="utf-8"))
    ]
    assert missing == []


def test_a_line_without_a_proof_says_why() -> None:
    reasons = ("n/a", "**not met**", "**in part**", "left to", "the proxy", "the same", "Python", "the database's own")
    assert [row[0] for row in _rows() if row[3] == "—" and not any(each in row[2] for each in reasons)] == []
