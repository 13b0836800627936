"""From the address that a new server prints to the first stored credential."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.support.browsing import DESKTOP_LIGHT, LOOKS, PHONE_DARK, fits, opened, sign_in
from tests.support.samples import OWNER, PASSWORD, SECRET
from tests.support.web import Site

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


class Effort:
    """The pages on which somebody typed, and how many fields they filled in."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.pages: set[str] = set()
        self.fields = 0

    async def fill(self, label: str, text: str) -> None:
        await self._page.get_by_label(label).fill(text)
        self.pages.add(self._page.url)
        self.fields += 1


@LOOKS
async def test_the_first_credential_takes_two_pages_and_six_fields(
    browser: Browser, empty_site: Site, look: Mapping[str, Any]
) -> None:
    site = empty_site
    token = site.services.keys.setup_token().reveal()
    asked: list[str] = []
    async with opened(browser, look) as page:
        page.on("request", lambda request: asked.append(request.url))
        effort = Effort(page)
        await page.goto(f"{site.url}/setup#{token}")
        await expect(page.get_by_label("Setup token")).to_have_value(token)
        await expect(page.get_by_label("Username")).to_be_focused()
        assert page.url == f"{site.url}/setup"
        await page.get_by_role("link", name="Skip to the content").focus()
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(f"{site.url}/setup#content")
        await expect(page.get_by_label("Setup token")).to_have_value(token)
        assert await page.evaluate("history.length") <= 3, "the address with the token is replaced, not left behind"
        await effort.fill("Username", OWNER)
        await effort.fill("Password", "password1234")
        await page.get_by_role("button", name="Create the owner").click()
        await expect(page.get_by_role("alert")).to_contain_text("too easy to guess")
        await expect(page.get_by_label("Setup token")).to_have_value(token)
        await expect(page.get_by_label("Username")).to_have_value(OWNER)
        await expect(page.get_by_label("Password")).to_have_value("")
        await expect(page.get_by_label("Password")).to_be_focused()
        await fits(page)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Create the owner").click()

        await expect(page).to_have_url(f"{site.url}/")
        await fits(page)
        steps = page.get_by_role("region", name="First run")
        await steps.get_by_role("link", name="Store a credential").click()
        await effort.fill("Provider", "openai")
        await effort.fill("Label", "Summer bot")
        await effort.fill("Secret", SECRET)
        await page.get_by_role("button", name="Store it").click()
        await expect(page.get_by_role("status")).to_contain_text("Stored.")
        assert len(effort.pages) <= 2
        assert effort.fields <= 6
        assert not any(token in url for url in asked), "the token is in no address that the server sees"

        await page.goto(site.url)
        await expect(steps.get_by_role("link", name="Store a credential")).to_have_count(0)
        await steps.get_by_text("1 step is done").click()
        await expect(steps.get_by_text("Store a credential")).to_be_visible()
        await steps.get_by_role("button", name="Hide this list").click()
        await expect(page.get_by_role("status").first).to_contain_text("not shown any more")
        await expect(steps).to_have_count(0)


async def test_without_scripts_the_printed_address_is_pasted_and_the_rest_is_the_same(
    browser: Browser, empty_site: Site
) -> None:
    site = empty_site
    async with opened(browser, PHONE_DARK, java_script_enabled=False) as page:
        printed = f"{site.url}/setup#{site.services.keys.setup_token().reveal()}"
        await page.goto(printed)
        await page.get_by_label("Setup token").fill(printed)
        await page.get_by_label("Username").fill(OWNER)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Create the owner").click()
        await expect(page).to_have_url(f"{site.url}/")
        await page.get_by_role("region", name="First run").get_by_role("link", name="Store a credential").click()
        await page.get_by_label("Provider").fill("openai")
        await page.get_by_label("Label").fill("Summer bot")
        await page.get_by_label("Secret").fill(SECRET)
        await page.get_by_role("button", name="Store it").click()
        await expect(page.get_by_role("link", name="Summer bot")).to_be_visible()


async def test_the_first_run_needs_nothing_but_a_keyboard(browser: Browser, empty_site: Site) -> None:
    site = empty_site
    async with opened(browser, DESKTOP_LIGHT) as page:

        async def tab_to(name: str) -> None:
            for _ in range(40):
                if name in await page.evaluate(
                    "document.activeElement.matches('a, button') ? document.activeElement.textContent : ''"
                ):
                    await expect(page.locator(":focus-visible")).to_have_css("outline-style", "solid")
                    return
                await page.keyboard.press("Tab")
            raise AssertionError(f"{name} is not reached")

        await page.goto(f"{site.url}/setup#{site.services.keys.setup_token().reveal()}")
        await expect(page.get_by_label("Username")).to_be_focused()
        await page.keyboard.type(OWNER)
        await page.keyboard.press("Tab")
        await page.keyboard.type(PASSWORD)
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(f"{site.url}/")
        await tab_to("Get a code for Discord")
        await tab_to("Store a credential")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(f"{site.url}/credentials/new")
        for label, text in (("Label", "Summer bot"), ("Secret", SECRET)):  # which shows whose it is
            field = page.get_by_label(label, exact=True)
            while not await field.evaluate("each => each === document.activeElement"):
                await page.keyboard.press("Tab")
            await page.keyboard.type(text)
        await tab_to("Store it")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("link", name="Summer bot")).to_be_visible()


async def test_in_forced_colours_what_is_drawn_takes_the_colours_of_the_reader(
    browser: Browser, new_site: Site
) -> None:
    async with opened(browser, DESKTOP_LIGHT, forced_colors="active") as page:
        await sign_in(page, new_site)
        text = await page.evaluate("getComputedStyle(document.body).color")
        assert await page.locator(".bitting").first.evaluate("each => getComputedStyle(each).stroke") == text
        assert await page.locator(".timeline .whole").first.evaluate("each => getComputedStyle(each).stroke") == text
        assert await page.locator(".tick").first.evaluate("each => getComputedStyle(each).borderTopColor") == text
        assert await page.locator(".timeline .spent").first.evaluate("each => getComputedStyle(each).stroke") != text


async def test_what_a_finger_presses_is_forty_four_pixels_high(browser: Browser, new_site: Site) -> None:
    async with opened(browser, PHONE_DARK) as page:
        await sign_in(page, new_site)
        for path in ("/", "/credentials", "/account"):
            await page.goto(new_site.url + path)
            heights = (
                await page.locator("main")
                .locator("button:visible, .button:visible, summary:visible")
                .evaluate_all("all => all.map(each => [each.textContent.trim(), each.getBoundingClientRect().height])")
            )
            assert heights
            assert [each for each in heights if each[1] < 44] == []
