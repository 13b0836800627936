"""The code of `make bench` runs, in its smallest size. What it measures then says nothing about speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.__main__ import DOCUMENT, GROUPS, filled_in, markdown
from tests.benchmarks.figures import Figure, Size
from tests.benchmarks.servers import PEER

_MARKS = {
    "reencryption": [pytest.mark.postgres],
    "backup": [pytest.mark.postgres],
    "sealing": [pytest.mark.postgres],
    "serving": [pytest.mark.skipif(not PEER.exists(), reason="only make bench installs the peer")],
}
_STARTING = {"starts", "commands", "serving", "carriers", "revocation", "backup"}
"""They start one process after the other."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "group",
    [
        pytest.param(name, marks=[*_MARKS.get(name, []), *([pytest.mark.faults] if name in _STARTING else [])])
        for name in GROUPS
    ],
)
def test_every_figure_of_a_group_is_measured(group: str, tmp_path: Path) -> None:
    figures = GROUPS[group](tmp_path, Size.smallest())
    assert figures
    assert [figure.name for figure in figures if not figure.values] == []


def test_a_figure_is_judged_by_its_median() -> None:
    most, least = Figure(name="most", aim=2, values=[1, 2, 9]), Figure(name="least", aim=2, more=True, values=[1, 1, 9])
    assert (most.met, least.met, Figure(name="no aim", values=[1]).met) == (True, False, None)


def test_the_document_has_a_place_for_the_table_of_every_group() -> None:
    table = markdown([Figure(name="reads", unit="ms", aim=50, values=[60.04, 70, 10])])
    document = filled_in(DOCUMENT.read_text(encoding="utf-8"), dict.fromkeys(GROUPS, table))
    assert document.count("\n| reads | 60.0 ms | 10.0 to 70.0 | ≤ 50 ms | **missed** |\n") == len(GROUPS)
    assert filled_in(document, dict.fromkeys(GROUPS, table)) == document
    assert "\n5 rounds.\n" in filled_in(document, {"machine": "5 rounds.\n"})
