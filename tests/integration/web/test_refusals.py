"""Every refusal of the web is in the audit trail, with who was refused and where, and never with what was sent."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.domain.identity import Role
from tests.support.samples import OWNER, PASSWORD, SECRET
from tests.support.web import Site, open_site, sqlite_place

CANARY = "canary-of-what-was-sent"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(sqlite_place(tmp_path)) as opened:
        yield opened


def denied(directory: Path) -> list[tuple[str, dict[str, Any], bool]]:
    """The refusals in the audit trail: action, detail, and whether the row names who was refused."""
    with closing(sqlite3.connect(directory / "keyhall.db")) as database:
        rows = database.execute(
            "SELECT action, detail, subject_id FROM audit_events WHERE result = 'denied' ORDER BY id"
        ).fetchall()
        assert CANARY not in "\n".join(database.iterdump())
    return [(action, json.loads(detail), subject is not None) for action, detail, subject in rows]


@pytest.mark.parametrize("path", ["/api/v1/admin/keys", "/api/v1/admin/jobs", "/api/v1/admin/audit"])
async def test_a_member_who_is_refused_is_in_the_trail(site: Site, tmp_path: Path, path: str) -> None:
    operator = await site.services.identity.operator()
    await site.services.identity.create(operator, "tom", PASSWORD, Role.MEMBER)
    token = await site.log_in("tom", PASSWORD)
    answer = await site.request("GET", path, token=token, headers={"X-Test": CANARY})
    assert answer.status == 403
    assert denied(tmp_path) == [("access.refused", {"code": "forbidden", "where": f"GET {path}"}, True)]


async def test_forged_tokens_late_claims_and_other_sites_are_in_the_trail(site: Site, tmp_path: Path) -> None:
    await site.request("GET", "/api/v1/auth/me", token=CANARY)
    await site.request("GET", "/api/v1/auth/me", token="", cookie=f"keyhall=khc_{CANARY}")
    await site.request("POST", "/api/v1/auth/refresh", json={"refresh_token": CANARY}, token="")
    body = {"setup_token": CANARY, "username": "mallory", "password": PASSWORD}
    await site.request("POST", "/api/v1/setup", json=body, token="")
    await site.request("POST", "/api/v1/auth/login", json={}, headers={"Sec-Fetch-Site": "cross-site"}, token="")
    codes = [detail["code"] for _, detail, _ in denied(tmp_path)]
    assert codes == ["invalid_token", "invalid_token", "invalid_token", "setup_closed", "cross_site"]
    assert not any(named for _, _, named in denied(tmp_path))


async def test_a_refused_form_is_in_the_trail_as_well_and_a_visit_without_a_session_is_not(
    site: Site, tmp_path: Path
) -> None:
    made = await site.add("main", secret=SECRET)
    assert (await site.page("/credentials")).status == 303
    assert (await site.request("GET", "/api/v1/auth/me", token="")).status == 401
    assert denied(tmp_path) == []
    cookie, token = await site.log_in_browser()
    wrong = await site.submit(f"/credentials/{made['id']}/reveal", cookie, form_token=token, password=CANARY)
    assert wrong.status == 401
    await site.submit("/login", "", username=OWNER, password=CANARY)
    assert denied(tmp_path) == [
        ("auth.reauthenticated", {"reason": "wrong"}, True),
        ("auth.login", {"reason": "wrong"}, False),
    ]
