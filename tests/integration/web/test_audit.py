"""The audit trail over REST: the same rows as on the command line, for those who may read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.domain.identity import Role
from tests.support.samples import PASSWORD

if TYPE_CHECKING:
    from tests.support.web import Site

pytestmark = pytest.mark.asyncio(loop_scope="module")
AUDIT = "/api/v1/admin/audit"


@pytest.mark.parametrize("role", [Role.ADMIN, Role.AUDITOR])
async def test_admins_and_auditors_read_it_page_by_page(site: Site, role: Role) -> None:
    operator = await site.services.identity.operator()
    await site.services.identity.create(operator, f"ann-{role}", PASSWORD, role)
    token = await site.log_in(f"ann-{role}")
    first = await site.request("GET", f"{AUDIT}?limit=1", token=token)
    assert first.status == 200
    (latest,) = first.json["items"]
    assert list(latest) == ["id", "at", "actor", "action", "about", "result", "source", "detail"]
    assert (latest["action"], latest["actor"], latest["source"]) == ("auth.login", f"ann-{role}", "web")
    following = await site.request("GET", f"{AUDIT}?limit=1&cursor={first.json['next_cursor']}", token=token)
    assert int(following.json["items"][0]["id"]) < int(latest["id"])


async def test_filters_are_those_of_the_command(site: Site) -> None:
    token = await site.log_in()
    found = await site.request("GET", f"{AUDIT}?action=install&since=2000-01-01T00:00:00Z", token=token)
    assert [each["action"] for each in found.json["items"]] == ["install.created"]
    assert found.json["next_cursor"] is None
    late = await site.request("GET", f"{AUDIT}?until=2000-01-01T00:00:00Z", token=token)
    assert late.json == {"items": [], "next_cursor": None}
    wrong = await site.request("GET", f"{AUDIT}?action=NO", token=token)
    assert wrong.status == 422
