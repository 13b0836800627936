"""Credentials in a real browser: found, removed, restored, deleted for good, and changed in two tabs at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.support.browsing import DESKTOP_LIGHT, PHONE_DARK, fits, opened, sign_in
from tests.support.samples import SECRET

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from tests.support.web import Site

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def test_a_credential_is_added_found_removed_restored_and_deleted_for_good(browser: Browser, site: Site) -> None:
    async with opened(browser, PHONE_DARK) as page:
        await sign_in(page, site)
        await page.goto(f"{site.url}/credentials/new")
        await page.get_by_label("Label").fill("Winter bot")
        await page.get_by_label("Secret").fill("ghp_" + "a1B2c3D4" * 5)
        await fits(page)
        await page.get_by_role("button", name="Store it").click()
        await page.reload()
        await page.get_by_label("Label or provider").fill("github wint")
        await page.get_by_role("button", name="Search").click()
        await expect(page.get_by_role("link", name="Winter bot")).to_be_visible()
        await fits(page)
        await page.get_by_role("link", name="Winter bot").click()
        await page.get_by_text("Change the label").click()
        await fits(page)
        address = page.url
        await page.get_by_role("button", name="Remove").click()

        await page.goto(address)
        await fits(page)
        await page.get_by_role("button", name="Restore").click()
        await expect(page.get_by_role("status")).to_have_text("Restored.")
        await page.get_by_role("link", name="Winter bot").click()
        await page.get_by_role("button", name="Remove").click()
        await page.get_by_role("link", name="Removed").click()
        await page.get_by_text("Delete for good: Winter bot").click()
        await page.get_by_role("button", name="Delete it and its history").click()
        await expect(page.get_by_role("status")).to_have_text("Deleted for good.")
        answer = await page.goto(address)
        assert answer is not None
        assert answer.status == 404


async def test_of_two_tabs_the_second_keeps_its_text_and_sees_the_firsts(browser: Browser, site: Site) -> None:
    made = await site.add("in two tabs", secret=SECRET)
    async with opened(browser, DESKTOP_LIGHT) as first:
        await sign_in(first, site)
        second = await first.context.new_page()
        for tab, label in ((first, "of the first"), (second, "of the second")):
            await tab.goto(f"{site.url}/credentials/{made['id']}")
            await tab.get_by_text("Change the label").click()
            await tab.get_by_label("New label").fill(label)
        for tab in (first, second):
            await tab.get_by_role("button", name="Save the label").click()
        await expect(first.get_by_role("heading", level=1)).to_have_text("of the first")
        await expect(second.get_by_role("alert")).to_have_text("It was changed in the meantime.")
        await expect(second.get_by_label("New label")).to_have_value("of the second")
        await expect(second.get_by_text("Now it is called of the first.")).to_be_visible()
        await fits(second)
        await second.get_by_role("button", name="Save the label").click()
        await expect(second.get_by_role("heading", level=1)).to_have_text("of the second")
