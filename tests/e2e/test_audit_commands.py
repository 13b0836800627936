"""``keyhall audit`` as an operator uses it: real processes and files."""

from __future__ import annotations

import asyncio
import csv
import json
import stat
from typing import TYPE_CHECKING

import pytest

from app.domain.keys import KeyName
from app.services.audit_trail.export import csv_line
from tests.support.installs import Place

if TYPE_CHECKING:
    from pathlib import Path

MEMBERS = ["id", "at", "actor", "action", "about", "result", "source", "detail"]


@pytest.fixture
def installed(sqlite_url: str, tmp_path: Path) -> Place:
    """An install whose trail is sealed."""
    place = Place(sqlite_url, tmp_path / "data")

    async def make() -> None:
        await place.install()
        async with place.services() as services:
            await services.rotation.set_schedule(
                await services.identity.operator(), KeyName.AES_KEY, rotation_days=30, automatic=False
            )
            await services.audit_sealing.seal()

    asyncio.run(make())
    return place


def test_the_trail_is_listed_verified_and_exported(installed: Place, tmp_path: Path) -> None:
    listed = json.loads(installed.command("audit", "list", "--json").stdout)
    assert [list(each) for each in listed] == [MEMBERS] * 2
    assert [each["action"] for each in listed] == ["key.scheduled", "install.created"]
    assert listed[0]["source"] == "cli"
    one = json.loads(installed.command("audit", "list", "--action", "key", "--limit", "1", "--json").stdout)
    assert one == listed[:1]

    verified = installed.command("audit", "verify", "--json")
    report = json.loads(verified.stdout)
    assert list(report) == ["ok", "sealed", "unsealed", "segments", "first_bad", "latest_seal"]
    assert (verified.returncode, report["ok"], report["sealed"], report["first_bad"]) == (0, True, 2, None)
    assert installed.command("audit", "verify", "--seal", report["latest_seal"]).returncode == 0

    file = tmp_path / "audit.jsonl"
    assert "2 rows" in installed.command("audit", "export", str(file)).stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [json.loads(line) for line in file.read_text().splitlines()] == listed[::-1]
    again = installed.command("audit", "export", str(file))
    assert again.returncode == 1
    assert "--replace" in again.stderr
    assert installed.command("audit", "export", str(file), "--replace", "--format", "csv").returncode == 0
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [row["id"] for row in rows] == ["1", "2"]
    assert installed.command("audit", "export", "-").stdout.count("\n") == 2


def test_an_edited_row_is_named_and_the_exit_code_says_so(installed: Place) -> None:
    asyncio.run(installed.execute("UPDATE audit_events SET detail = '{}' WHERE id = 2"))
    verified = installed.command("audit", "verify", "--json")
    report = json.loads(verified.stdout)
    assert (verified.returncode, report["ok"], report["first_bad"]["id"]) == (1, False, "2")
    for_people = installed.command("audit", "verify")
    assert for_people.returncode == 1
    assert "❌ row 2 was changed" in for_people.stdout


def test_reading_needs_no_key_and_verifying_does(installed: Place) -> None:
    (installed.data_dir / "master.key").unlink()
    assert installed.command("audit", "list").returncode == 0
    assert installed.command("audit", "verify").returncode == 78


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_of_an_export_is_a_formula(begin: str) -> None:
    (row,) = csv.reader([csv_line([f"{begin}cmd|' /C calc'!A0", "fine"]).decode()])
    assert row[0].startswith("'")
    assert row[1] == "fine"


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("begin", ["=", " =", "+", "-", "@", "\uff1d"])
def test_no_cell_is_one_where_another_separator_is_usual(separator: str, begin: str) -> None:
    """A spreadsheet of many countries splits a cell of ours again."""
    line = csv_line(
        [json.dumps({"reason": f"x{separator}{begin}cmd|' /C calc'!A0;y"}, ensure_ascii=False), "2026-11-30"]
    )
    for cell in next(csv.reader([line.decode()], delimiter=separator)):
        assert not cell.strip().startswith(("=", "+", "-", "@", "\uff1d")), cell
