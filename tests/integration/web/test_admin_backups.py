"""Backups over REST: owners and admins ask for one, a worker makes it, the list shows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.worker.loop import run_worker
from tests.support.backups import RECIPIENT, verified
from tests.support.installs import Place
from tests.support.web import Site, open_site, sqlite_place

BACKUPS = "/api/v1/admin/backups"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return sqlite_place(tmp_path).having(BACKUP_RECIPIENT=RECIPIENT)


@pytest_asyncio.fixture
async def site(place: Place) -> AsyncIterator[Site]:
    async with open_site(place) as opened:
        yield opened


async def _over(site: Site, path: str) -> Any:
    """The job, once it is over."""
    async with asyncio.timeout(60):
        while True:
            job = (await site.request("GET", path)).json
            if job["finished_at"] is not None:
                return job
            await asyncio.sleep(0.05)


async def test_a_backup_is_asked_for_made_and_listed(site: Site, place: Place) -> None:
    begun = await site.request("POST", BACKUPS)
    assert (begun.status, begun.json["kind"], begun.json["state"]) == (202, "backup", "waiting")
    assert (await site.request("POST", BACKUPS)).json["id"] == begun.json["id"]
    working = asyncio.create_task(run_worker(site.services))
    job = await _over(site, begun.headers["Location"])
    working.cancel()
    await asyncio.wait({working})
    listed = (await site.request("GET", BACKUPS)).json
    (backup,) = listed["items"]
    assert listed["next_cursor"] is None
    assert (backup["managed"], backup["present"], backup["rehearsal"]) == (True, True, None)
    assert Path(backup["file"]).name in job["note"]
    assert backup["verified_at"].endswith("Z")
    file = Path(backup["file"])
    assert (await verified(place, file)).ok
    await asyncio.to_thread(file.unlink)
    assert [each["present"] for each in (await site.request("GET", BACKUPS)).json["items"]] == [False]
    page = await site.request("GET", "/")
    assert "Last verified backup" in page.text
    assert "0 days ago" in page.text


async def test_strangers_and_members_see_none_and_get_none(site: Site) -> None:
    for method in ("GET", "POST"):
        assert (await site.request(method, BACKUPS, token="")).status == 401


async def test_without_a_recipient_the_answer_names_the_setting(tmp_path: Path) -> None:
    async with open_site(sqlite_place(tmp_path)) as site:
        answer = await site.request("POST", BACKUPS)
        assert (answer.status, answer.code) == (409, "not_configured")
        assert "BACKUP_RECIPIENT" in answer.json["detail"]
