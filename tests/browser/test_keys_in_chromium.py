"""A rotation as an owner meets it: asked for, watched while it goes on, and the same without script."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from playwright.async_api import Browser, Page, Route, expect

from app.web import event_stream
from app.worker.loop import run_worker
from tests.support.browsing import DESKTOP_LIGHT, PHONE_DARK, fits, opened, sign_in
from tests.support.samples import NEW_PASSWORD, OWNER
from tests.support.web import Site

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


@asynccontextmanager
async def working(site: Site) -> AsyncIterator[None]:
    """The worker of the house."""
    worker = asyncio.create_task(run_worker(site.services))
    try:
        yield
    finally:
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker


async def rotate(page: Page, site: Site, name: str) -> None:
    """From the Hall to the page of the rotation."""
    await page.goto(site.url)
    await page.get_by_role("link", name="Administration").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Application keys")
    await fits(page)
    await page.get_by_role("link", name=name, exact=True).click()
    await fits(page)
    await page.get_by_role("link", name="Rotate now").click()
    await fits(page)
    await page.get_by_label("Reason").fill("once a year")
    await page.get_by_role("button", name=f"Rotate {name}").click()
    await expect(page).to_have_url(re.compile("/admin/keys/jobs/[0-9a-f-]{36}$"))
    await expect(page.get_by_role("status")).to_have_text("It waits for a worker.")
    await fits(page)


async def test_an_owner_rotates_a_key_and_watches_it(
    browser: Browser, new_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "IDENTIFY_EVERY_SECONDS", 0.1)
    await new_site.add("main")
    async with opened(browser, DESKTOP_LIGHT) as page:
        await sign_in(page, new_site)
        await rotate(page, new_site, "AES_KEY")
        await expect(page.get_by_text("Safe to close this page")).to_be_visible()
        await expect(page.get_by_text("not made yet")).to_be_visible()
        await expect(page.locator("[aria-current=step]")).to_contain_text("Make the new version")
        await page.evaluate("window.neverReloaded = true")
        async with working(new_site):
            await expect(page.get_by_role("status")).to_have_text("Done.")
        await expect(page.locator("#steps .done")).to_have_count(6)
        cuts = page.locator("#cuts figure")
        await expect(cuts).to_contain_text(["version 1", "version 2"])
        await expect(cuts.nth(1)).to_contain_text("primary")
        drawn = [await cuts.nth(each).locator(".bitting").inner_html() for each in (0, 1)]
        assert drawn[0] != drawn[1]
        await expect(page.get_by_text("1 of 1 rows")).to_be_visible()
        await expect(page.get_by_text("Safe to close this page")).to_have_count(0)
        assert await page.evaluate("window.neverReloaded"), "the page was kept up to date, not loaded again"
        await fits(page)

        await rotate(page, new_site, "JWT_SECRET_KEY")
        identity = new_site.services.identity
        await new_site.services.passwords.set(await identity.operator(), OWNER, NEW_PASSWORD)  # it ends every session
        await expect(page).to_have_url(re.compile(r"/login\?next=/admin/keys/jobs/"))


async def test_a_rotation_is_watched_without_script(browser: Browser, new_site: Site) -> None:
    async with opened(browser, PHONE_DARK, java_script_enabled=False) as page:
        await sign_in(page, new_site)
        await rotate(page, new_site, "API_SECRET_KEY")
        job = page.url.rpartition("/")[2]
        async for _ in new_site.services.rotation.follow(job):
            pass
        await page.get_by_role("link", name="Reload").click()
        await expect(page.get_by_role("status")).to_have_text("Done.")
        await expect(page.get_by_role("link", name="Reload")).to_have_count(0)


async def test_a_page_that_could_not_be_read_at_the_end_is_read_again(browser: Browser, new_site: Site) -> None:
    failed = 0

    async def fail_twice(route: Route) -> None:
        nonlocal failed
        failed += 1
        await (route.fulfill(status=503) if failed <= 2 else route.continue_())

    context = await browser.new_context()
    page = await context.new_page()
    await sign_in(page, new_site)
    await rotate(page, new_site, "ENCRYPTION_KEY")
    await page.route(re.compile("/admin/keys/jobs/[0-9a-f-]{36}$"), fail_twice)
    async with working(new_site):
        await expect(page.get_by_role("status")).to_have_text("Done.", timeout=20_000)
    assert failed > 2
    await context.close()
