"""`keyhall backup restore` as an operator uses it, from the worst day on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.backups import IDENTITY, back_up
from tests.support.installs import Place
from tests.support.restores import fill, secrets_of


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    path = tmp_path / "identity.txt"
    path.write_text(f"{IDENTITY}\n")
    return path


def test_a_backup_and_the_paper_bring_an_install_back_on_an_empty_machine(
    sqlite_place: Place, tmp_path: Path, identity: Path
) -> None:
    asyncio.run(fill(sqlite_place))
    before = asyncio.run(secrets_of(sqlite_place))
    asyncio.run(back_up(sqlite_place, tmp_path / "one.age"))
    (tmp_path / "words").write_text((sqlite_place.data_dir / "master.key").read_text())
    there = Place(f"sqlite+aiosqlite:///{tmp_path}/new/keyhall.db", tmp_path / "new")
    arguments = ("backup", "restore", str(tmp_path / "one.age"), "--identity-file", str(identity))

    early = there.command(*arguments, "--yes")
    assert (early.returncode, "[master_key_missing]" in early.stderr) == (78, True), early.stderr
    assert there.command("keys", "restore-master", "--file", str(tmp_path / "words")).returncode == 0
    unasked = there.command(*arguments)
    assert (unasked.returncode, "nobody can be asked" in unasked.stderr) == (1, True)

    done = there.command(*arguments, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["credentials"], report["replaced"], report["not_carried"]) == (3, None, [])
    assert there.command("credentials", "verify").returncode == 0
    assert asyncio.run(secrets_of(there)) == before

    again = there.command(*arguments, "--yes")
    assert again.returncode == 0, again.stderr
    removed = next(line for line in again.stdout.splitlines() if "rm " in line).partition("rm ")[2]
    assert Path(removed).exists()

    with there.running("worker") as running:
        running.wait_for("")
        busy = there.command(*arguments, "--yes")
    assert (busy.returncode, "[in_use] worker" in busy.stderr) == (75, True), busy.stderr
