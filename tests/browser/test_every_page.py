"""The promises of every page. The pages are those of the route table, so a new one is looked at without being named."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page

from app.domain.identity import Role
from app.web.server import _FAMILIES
from tests.support.browsing import LOOKS, opened, sign_in
from tests.support.samples import OTHER_SECRET
from tests.support.web import Site

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

LARGEST: Final = 60_000
"""Bytes that a page takes on its way in all: itself, its style, its scripts and its icon."""

GUILD: Final = "900000000000000001"


def addresses(parts: Mapping[str, str], *, signed_in: bool) -> Iterator[str]:
    """Every page, its parts filled in: a KeyError names the part that has no sample yet."""
    for family in _FAMILIES:
        for endpoint in family.endpoints:
            is_page = endpoint.method == "GET" and endpoint.media_type == "text/html"
            if is_page and endpoint.asks.wants_actor == signed_in:
                yield re.sub(r"{(\w+)(?::(?:[^{}]|{[^{}]*})*)?}", lambda part: parts[part[1]], endpoint.path)


async def furnish(site: Site) -> Mapping[str, str]:
    """Something of everything that pages show; a value for each part of an address."""
    soon = (datetime.now(UTC) + timedelta(days=12)).isoformat()
    kept = await site.add("Summer bot", expires_at=soon)
    await site.add("Work", provider="anthropic")
    gone = await site.add("Old")
    await site.request("DELETE", f"/api/v1/credentials/{gone['id']}")
    operator = await site.services.identity.operator()
    mia = await site.services.identity.create_claimable(operator, "mia", Role.MEMBER)
    guild = await site.services.identity.operator_for(guild_id=GUILD)
    await site.services.credentials.add(guild, provider="groq", label="Everybody's", secret=OTHER_SECRET)
    job = (await site.request("POST", "/api/v1/admin/keys/AES_KEY/rotate")).json
    return {
        "credential_id": str(kept["id"]),
        "user_id": mia.user.id,
        "guild_id": GUILD,
        "name": "JWT_SECRET_KEY",
        "version": "1",
        "job_id": str(job["id"]),
    }


async def violations(page: Page) -> list[str]:
    """What axe finds wrong with a page."""
    found = (await Axe().run(page)).response["violations"]
    return [
        f"{page.url}: {rule['id']}: {node['html'][:200]}: {node['failureSummary'][:300]}"
        for rule in found
        for node in rule["nodes"]
    ]


async def weight(site: Site, html: str, path: str, cookie: str) -> int:
    """Bytes of a page and of all that it asks for, as they are sent."""
    packed = {"Accept-Encoding": "gzip", "Accept": "text/html"}
    wanted = [path, *sorted(set(re.findall(r'(?:href|src)="(/static/[^"]+)"', html)))]
    answers = [await site.request("GET", each, cookie=cookie, token="", headers=packed) for each in wanted]
    return sum(len(answer.body) for answer in answers)


@LOOKS
async def test_axe_finds_nothing_wrong_with_any_page(
    browser: Browser, new_site: Site, empty_site: Site, look: Mapping[str, Any]
) -> None:
    parts = await furnish(new_site)
    found: list[str] = []
    visited: set[str] = set()
    async with opened(browser, look) as page:
        await page.goto(f"{empty_site.url}/setup")
        found += await violations(page)
        for address in addresses(parts, signed_in=False):
            await page.goto(new_site.url + address)
            if page.url not in visited:
                visited.add(page.url)
                found += await violations(page)
        await sign_in(page, new_site)
        for address in (*addresses(parts, signed_in=True), "/nowhere"):
            await page.goto(new_site.url + address)
            if page.url not in visited:
                visited.add(page.url)
                found += await violations(page)
        assert found == []
        assert len(visited) >= 20
        await page.goto(f"{new_site.url}/credentials/new")
        await page.evaluate("document.querySelector('label[for=secret]').remove()")
        assert any("label" in each for each in await violations(page)), "axe finds a field without a name"


async def test_no_page_takes_more_than_sixty_kilobytes(new_site: Site) -> None:
    parts = await furnish(new_site)
    cookie, _ = await new_site.log_in_browser()
    weights = {}
    for address in [*addresses(parts, signed_in=True), *addresses(parts, signed_in=False)]:
        html = (await new_site.page(address, cookie)).text
        weights[address] = await weight(new_site, html, address, cookie)
    assert {address: size for address, size in weights.items() if size > LARGEST} == {}
    assert max(weights.values()) > 0
