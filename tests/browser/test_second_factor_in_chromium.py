"""The second factor as people switch it on, sign in with it, and lose it: in a browser, wide and narrow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from app.infrastructure.clock import SystemClock
from tests.support.browsing import LOOKS, fits, opened, sign_in
from tests.support.samples import OWNER, PASSWORD
from tests.support.second_factors import Authenticator
from tests.support.web import Site

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

PICTURES = os.environ.get("KEYHALL_TEST_PICTURES")
"""A directory for pictures of the pages, for people."""


async def shown(page: Page, name: str) -> None:
    await fits(page)
    if PICTURES:
        await page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True)


async def give_code(page: Page, code: str) -> None:
    await page.locator("#otp").fill(code)
    await page.get_by_role("button", name="Sign in").click()


@LOOKS
async def test_switched_on_used_lost_and_switched_off(  # noqa: PLR0915 - one story
    browser: Browser, new_site: Site, look: Mapping[str, Any]
) -> None:
    site, kind = new_site, str(look["color_scheme"])
    async with opened(browser, look, java_script_enabled=kind == "light") as page:
        await sign_in(page, site)
        await page.goto(f"{site.url}/account")
        await shown(page, f"{kind}-off")
        await page.get_by_role("button", name="Switch it on").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Switch the second factor on")
        await expect(page.locator("svg.qr")).to_be_visible()
        background = await page.locator(".qr-code").evaluate("each => getComputedStyle(each).backgroundColor")
        assert background == "rgb(255, 255, 255)", "a camera needs the quiet zone, also on a dark page"
        await shown(page, f"{kind}-new")
        app = Authenticator.of((await page.locator("pre.revealed").inner_text()).replace(" ", "").strip())
        await page.get_by_label("Code").fill(app.wrong(SystemClock().now()))
        await page.get_by_role("button", name="Switch it on").click()
        await expect(page.get_by_role("alert")).to_contain_text("The code is wrong")
        await shown(page, f"{kind}-wrong")
        await page.get_by_label("Code").fill(app.at(SystemClock().now(), -1))
        await page.get_by_role("button", name="Switch it on").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Your recovery codes")
        codes = (await page.locator("pre.codes").inner_text()).split()
        assert len(codes) == 10
        await shown(page, f"{kind}-codes")
        await page.get_by_role("link", name="I have kept them").click()
        await expect(page.get_by_text("10 of 10 recovery codes are left.")).to_be_visible()
        await page.get_by_role("button", name="Sign out").click()

        await page.goto(f"{site.url}/credentials")
        await page.get_by_label("Username").fill(OWNER)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page).to_have_url(f"{site.url}/login/code?next=/credentials")
        assert PASSWORD not in await page.content()
        field = page.get_by_label("Code")
        await expect(field).to_be_focused()
        assert await field.get_attribute("autocomplete") == "one-time-code"
        assert await field.get_attribute("inputmode") == "numeric"
        await shown(page, f"{kind}-code")
        await give_code(page, app.wrong(SystemClock().now()))
        await expect(page.get_by_role("alert")).to_contain_text("The code is wrong or was used already")
        await give_code(page, app.at(SystemClock().now()))
        await expect(page).to_have_url(f"{site.url}/credentials")
        await page.get_by_role("button", name="Sign out").click()

        await page.goto(f"{site.url}/login")
        await page.get_by_label("Username").fill(OWNER)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_role("link", name="Use a recovery code").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Enter a recovery code")
        assert await page.get_by_label("Recovery code").get_attribute("inputmode") is None, (
            "phones would show digits alone"
        )
        await shown(page, f"{kind}-recovery")
        await give_code(page, codes[0].lower())
        await expect(page).to_have_url(f"{site.url}/")
        await page.goto(f"{site.url}/account")
        await expect(page.get_by_text("9 of 10 recovery codes are left.")).to_be_visible()
        await shown(page, f"{kind}-on")
        await page.get_by_role("button", name="Make new recovery codes").click()
        assert not set((await page.locator("pre.codes").inner_text()).split()) & set(codes)
        await page.get_by_role("link", name="I have kept them").click()
        await page.get_by_role("button", name="Switch it off").click()
        await expect(page.get_by_role("status").first).to_contain_text("The second factor is switched off.")


async def test_after_ten_minutes_a_change_asks_for_password_and_code(browser: Browser, new_site: Site) -> None:
    site = new_site
    async with opened(browser, {"viewport": {"width": 1280, "height": 800}}) as page:
        await sign_in(page, site)
        await page.goto(f"{site.url}/account")
        await page.get_by_role("button", name="Switch it on").click()
        app = Authenticator.of((await page.locator("pre.revealed").inner_text()).replace(" ", "").strip())
        await page.get_by_label("Code").fill(app.at(SystemClock().now(), -1))
        await page.get_by_role("button", name="Switch it on").click()
        await page.get_by_role("link", name="I have kept them").click()
        async with site.services.credentials._storage.write() as uow:
            actor = (await uow.users.page(after=None, limit=1))[0]
            for session in await uow.sessions.live_of(actor.id, SystemClock().now()):
                await uow.sessions.prove(session.id, actor.created_at.replace(year=2020))
        await page.get_by_role("button", name="Switch it off").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Confirm that it is you")
        await expect(page.get_by_role("alert")).to_have_count(0)
        await shown(page, "prove")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_label("Code").fill(app.wrong(SystemClock().now()))
        await page.get_by_role("button", name="Confirm", exact=True).click()
        await expect(page.get_by_role("alert")).to_contain_text("The code is wrong or was used already")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_label("Code").fill(app.at(SystemClock().now()))
        await page.get_by_role("button", name="Confirm", exact=True).click()
        await page.get_by_role("button", name="Switch it off").click()
        await expect(page.get_by_role("status").first).to_contain_text("The second factor is switched off.")
