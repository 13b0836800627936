"""Pages in a real browser: how they are looked at, and what holds for every one of them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, expect

from tests.support.samples import OWNER, PASSWORD
from tests.support.web import Site

DESKTOP_LIGHT = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}
PHONE_DARK = {
    "viewport": {"width": 360, "height": 740},
    "color_scheme": "dark",
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
LOOKS = pytest.mark.parametrize("look", [DESKTOP_LIGHT, PHONE_DARK], ids=["desktop, light", "phone, dark"])


@asynccontextmanager
async def opened(browser: Browser, look: Mapping[str, Any], **more: Any) -> AsyncIterator[Page]:
    """A page whose console stays empty, but for the statuses that answers are meant to have."""
    context = await browser.new_context(**{**look, **more}, reduced_motion="reduce")
    page = await context.new_page()
    said: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # The script of a link focuses the next field, before or after Chromium looks for the one that autofocus names.
        harmless = r"Failed to load resource: .* status of 4\d\d|Autofocus processing was blocked because"
        if not re.match(harmless, message.text):
            said.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.set_default_timeout(10_000)
    try:
        yield page
        assert said == []
    finally:
        await context.close()


async def fits(page: Page) -> None:
    """Nothing sticks out to the side, there is one main heading, and every field has its label."""
    await page.wait_for_load_state()  # a page that has only just begun has no root to measure
    await expect(page.locator("h1")).to_have_count(1)
    await expect(page.locator("main")).to_have_count(1)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # A box within its label needs no id.
    for field in await page.locator(
        "input:not([type=hidden], [disabled], label input):visible, textarea:visible"
    ).all():
        name = await field.get_attribute("id")
        await expect(page.locator(f'label[for="{name}"]')).to_be_visible()
    for control in await page.locator("button:visible, .button:visible").all():
        box = await control.bounding_box()
        assert box is not None
        assert box["height"] >= 24, "too small to be hit (WCAG 2.2, 2.5.8)"


async def sign_in(page: Page, site: Site, username: str = OWNER, password: str = PASSWORD) -> None:
    """Sign in by the form."""
    await page.goto(f"{site.url}/login")
    await page.get_by_label("Username").fill(username)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(page).to_have_url(f"{site.url}/")
