"""A process that seals and drops rows of the audit trail is killed: every row is somewhere once, and all verifies."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.environment import process_environment
from tests.support.installs import Place
from tests.support.processes import PROJECT

PROGRAM = [sys.executable, "-m", "tests.support.seal_trail"]


def _killed(place: Place, after: float) -> int:
    """Let the program run for that long once it has begun; how many rows it has stored for certain."""
    process = subprocess.Popen(
        PROGRAM, cwd=PROJECT, env=process_environment(**place.environment), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(after)  # the moment of the kill is what differs
    process.kill()
    rest, _ = process.communicate()
    return sum(map(int, (first + rest).split()))


async def _found(place: Place) -> tuple[int, Any]:
    """How many rows there are: in the database, in sums and in files; and what verifying says."""
    contents = await place.contents()
    files = (place.data_dir / "backups" / "audit").glob("audit-*.jsonl")
    exported = {line for file in files for line in file.read_text().splitlines()[1:]}
    positions = {line.partition('"segment": ')[2].partition(', "seal"')[0] for line in exported}
    async with place.services() as services:
        report = await services.audit_verification.verify(await services.identity.operator())
    dropped = [each.segment for each in await _segments(place) if each.segment is not None and each.segment.dropped_at]
    in_files = sum(each.rows for each in dropped if each.export is not None)
    assert len(positions) >= in_files
    numbers = {each.number for each in dropped if each.export}  # of these some rows may not be deleted yet
    left = [row for row in contents.get("audit_events", ()) if not _in_dropped(row, numbers)]
    with closing(sqlite3.connect(place.data_dir.parent / "keyhall.db")) as database:
        ((sums,),) = database.execute("SELECT coalesce(sum(uses), 0) FROM usage_hours").fetchall()
    return len(left) + in_files + int(sums), report


async def _segments(place: Place) -> Any:
    async with place.services() as services:
        return await services.audit_verification.segments()


def _in_dropped(row: Any, numbers: set[int]) -> bool:
    from app.infrastructure.database.schema import audit_events

    return row[list(audit_events.c.keys()).index("segment")] in numbers


def _rounds(place: Place, moments: list[float]) -> None:
    asyncio.run(place.install())
    stored = 1  # the making of the install
    for after in moments:
        stored += _killed(place, after)
        rows, report = asyncio.run(_found(place))
        assert report.ok, report.first_bad
        assert rows >= stored  # a commit may have gone unreported
        stored = rows


def _place(directory: Path) -> Place:
    return Place(f"sqlite+aiosqlite:///{directory / 'keyhall.db'}", directory / "data")


def test_a_sealer_that_is_killed_leaves_every_row_once(tmp_path: Path) -> None:
    _rounds(_place(tmp_path), [0.3])


@pytest.mark.faults
def test_a_sealer_that_is_killed_again_and_again_leaves_every_row_once(tmp_path: Path) -> None:
    chance = random.Random(29)
    _rounds(_place(tmp_path), [chance.uniform(0, 0.6) for _ in range(40)])
