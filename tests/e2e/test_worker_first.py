"""A worker that starts together with the process that creates the install."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.bootstrap import database as database_stage
from app.bootstrap.keys import open_keys_when_created
from app.domain.errors import NoInstall
from tests.support.installs import Place


def test_a_worker_waits_for_the_install_that_web_and_bot_create(place: Place) -> None:
    with place.running("worker") as worker:
        worker.wait_for(r"waiting for `\S*keyhall run`")
        with place.running("web") as web:
            web.wait_for("NEW INSTALL")
            web.address()
            again = place.command("keys", "validate")
            assert again.returncode == 0, again.stderr
            assert web.end() == 0
        assert worker.end() == 0
    assert not any("Traceback" in line or "no install yet" in line for line in worker.lines)


async def test_a_worker_waits_no_longer_than_the_budget_of_a_start(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_stage, "RETRY_BUDGET_SECONDS", 0.2)
    place = Place(sqlite_url, tmp_path / "data")
    with pytest.raises(NoInstall):
        async with open_keys_when_created(place.load()):
            pass
    assert not (tmp_path / "keyhall.db").exists()
    assert not place.data_dir.exists()
