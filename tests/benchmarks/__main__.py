"""`make bench`: how fast Keyhall is, as ratios against floors measured in the same run. docs/performance.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.backups import backups
from tests.benchmarks.carriers import carriers
from tests.benchmarks.dashboards import dashboards
from tests.benchmarks.durable_use import durable_use
from tests.benchmarks.figures import Figure, Size
from tests.benchmarks.lists import lists
from tests.benchmarks.readers import readers
from tests.benchmarks.reads import reads
from tests.benchmarks.reencryption import reencryption
from tests.benchmarks.revocation import revocation
from tests.benchmarks.sealing import sealing
from tests.benchmarks.serving import serving
from tests.benchmarks.starts import commands, starts
from tests.support.environment import forget_settings
from tests.support.processes import PROJECT

GROUPS: dict[str, Callable[[Path, Size], list[Figure]]] = {
    "starts": starts,
    "commands": commands,
    "serving": serving,
    "carriers": carriers,
    "reads": reads,
    "reencryption": reencryption,
    "use": durable_use,
    "dashboard": dashboards,
    "list": lists,
    "readers": readers,
    "revocation": revocation,
    "sealing": sealing,
    "backup": backups,
}
DOCUMENT = PROJECT / "docs" / "performance.md"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of everything; the storm gets three fifths (default 5)")
    parser.add_argument("--only", choices=GROUPS, action="append", metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON instead of a table")
    form.add_argument("--markdown", action="store_true", help="print tables as in docs/performance.md")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/performance.md too")
    arguments = parser.parse_args()
    forget_settings()
    began = time.perf_counter()
    size = Size.of(arguments.rounds)
    measured: dict[str, list[Figure]] = {}
    failed = False
    with tempfile.TemporaryDirectory(prefix="keyhall-bench-") as name:
        for group in arguments.only or GROUPS:
            place, since = Path(name) / group, time.perf_counter()
            place.mkdir()
            try:
                measured[group] = GROUPS[group](place, size)
            except Exception:  # noqa: BLE001 - it is printed, and the figures of the other groups still mean something
                failed = True
                traceback.print_exc()
            print(f"{group}: {time.perf_counter() - since:.0f} s", file=sys.stderr, flush=True)  # noqa: T201
    seconds = time.perf_counter() - began
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, load averages at the end {load}"
    tables = {group: markdown(figures) for group, figures in measured.items()}
    if arguments.write:
        rounds = f"{size.rounds} rounds, {size.storms} of the storm, {size.revocations} of the revocations"
        said = {"machine": f"{rounds}; {machine}.\n"} if set(tables) == set(GROUPS) else {}
        DOCUMENT.write_text(filled_in(DOCUMENT.read_text(encoding="utf-8"), tables | said), encoding="utf-8")
    figures = [figure for group in measured.values() for figure in group]
    if arguments.json:
        print(json.dumps({"seconds": round(seconds, 1), "figures": [_item(figure) for figure in figures]}, indent=2))  # noqa: T201
    elif arguments.markdown:
        print("\n".join([*tables.values(), f"{seconds:.0f} s, {machine}"]))  # noqa: T201
    else:
        console = Console()
        console.print(_table(figures))
        console.print(f"{seconds:.0f} s, {machine}")
    if failed:
        sys.exit(1)


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
        numbers = (figure.shown(value) for value in (figure.median, min(figure.values), max(figure.values)))
        table.add_row(figure.name, figure.unit, *numbers, figure.wanted, _judged(figure))
    return table


def markdown(figures: list[Figure]) -> str:
    """The table of a group."""
    lines = ["| what | median | min to max | aim | |", "|---|---|---|---|---|"]
    for figure in figures:
        unit = figure.unit if figure.unit in {"", "/s"} else f" {figure.unit}"
        few, many = figure.shown(min(figure.values)), figure.shown(max(figure.values))
        spread = "one value" if len(figure.values) == 1 else f"{few} to {many}"
        judged = _judged(figure).replace("missed", "**missed**")
        cells = (figure.name, f"{figure.shown(figure.median)}{unit}", spread, figure.wanted, judged)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def filled_in(document: str, texts: Mapping[str, str]) -> str:
    """The document with these texts, each in its place."""
    for name, text in texts.items():
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, found, after = document.partition(begin)
        if not found:
            raise RuntimeError(f"{DOCUMENT.name} has no place for {name}")
        document = before + begin + "\n" + text + "\n" + end + after.partition(end)[2]
    return document


def _judged(figure: Figure) -> str:
    return {None: "", True: "met", False: "missed"}[figure.met]


if __name__ == "__main__":
    main()
