"""`make bench`: how fast Keyhall is, as ratios against a floor measured in the same run. docs/performance.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.measures import Figure, serving, starts
from tests.benchmarks.reencryption import reencryption
from tests.benchmarks.revocation import revocation
from tests.support.environment import forget_settings

GROUPS: dict[str, Callable[[Path, int], list[Figure]]] = {
    "starts": starts,
    "serving": serving,
    "reencryption": reencryption,
    "revocation": revocation,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of everything; the storm gets three fifths (default 5)")
    parser.add_argument("--only", choices=GROUPS, action="append", metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    forget_settings()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="keyhall-bench-") as name:
        place, rounds = Path(name), arguments.rounds
        figures = [each for group in arguments.only or GROUPS for each in GROUPS[group](place, rounds)]
    seconds = time.perf_counter() - began
    if arguments.json:
        print(json.dumps({"seconds": round(seconds, 1), "figures": [_item(figure) for figure in figures]}, indent=2))  # noqa: T201
        return
    console = Console()
    console.print(_table(figures))
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    console.print(
        f"{seconds:.0f} s, Python {platform.python_version()}, {os.cpu_count()} cores, load averages at the end {load}"
    )


def _item(figure: Figure) -> dict[str, object]:
    return {
        "name": figure.name,
        "unit": figure.unit,
        "median": figure.median,
        "min": min(figure.values),
        "max": max(figure.values),
        "rounds": len(figure.values),
        "aim": figure.aim,
        "met": figure.met,
    }


def _table(figures: list[Figure]) -> Table:
    table = Table("what", "unit", title="Keyhall, measured against floors of the same run")
    for heading in ("median", "min", "max", "aim", ""):
        table.add_column(heading, justify="right")
    for figure in figures:
        digits = 0 if figure.unit == "/s" else 1 if figure.unit in {"ms", "MB"} else 2
        numbers = (f"{value:,.{digits}f}" for value in (figure.median, min(figure.values), max(figure.values)))
        aim = "" if figure.aim is None else f"{'≥' if figure.more else '≤'} {figure.aim:g}"
        table.add_row(figure.name, figure.unit, *numbers, aim, {None: "", True: "met", False: "missed"}[figure.met])
    return table


if __name__ == "__main__":
    main()
