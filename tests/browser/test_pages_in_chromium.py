"""The pages as people meet them: in a browser, wide and narrow, light and dark, by mouse and by keyboard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from playwright.async_api import Browser, Error, expect

from app.domain.identity import Role
from tests.support.browsing import DESKTOP_LIGHT, LOOKS, PHONE_DARK, fits, opened, sign_in
from tests.support.samples import OWNER, PASSWORD, SECRET
from tests.support.web import Site

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


@LOOKS
async def test_from_an_empty_house_to_a_restored_credential(
    browser: Browser, empty_site: Site, look: Mapping[str, Any]
) -> None:
    site = empty_site
    async with opened(browser, look) as page:
        await page.goto(site.url)
        await expect(page).to_have_url(f"{site.url}/setup")
        await fits(page)
        await page.get_by_label("Setup token").fill(site.services.keys.setup_token().reveal())
        await page.get_by_label("Username").fill(OWNER)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Create the owner").click()
        await expect(page).to_have_url(f"{site.url}/")
        await expect(page.locator("h1")).to_have_text("No credential is stored yet: add your first.")
        await fits(page)
        await page.get_by_role("link", name="Add a credential").click()
        await fits(page)
        await page.get_by_label("Provider").fill("openai")
        await page.get_by_label("Label").fill("Summer bot")
        await page.get_by_label("Secret").fill(SECRET)
        await page.get_by_role("button", name="Store it").click()
        await expect(page.get_by_role("status")).to_have_text("Stored.")
        await page.reload()
        await expect(page.get_by_role("link", name="Summer bot")).to_be_visible()
        await fits(page)

        await page.get_by_role("link", name="Summer bot").click()
        await fits(page)
        await expect(page.get_by_text(SECRET)).to_have_count(0)
        await page.get_by_role("button", name="Reveal the secret").click()
        await expect(page.locator("#secret")).to_have_text(SECRET)
        assert SECRET not in page.url
        await fits(page)
        await page.get_by_role("link", name="Done").click()

        await page.get_by_role("button", name="Remove").click()
        await expect(page.get_by_role("status")).to_contain_text("It can be restored for seven days.")
        await expect(page.get_by_role("link", name="Summer bot")).to_have_count(0)
        await page.get_by_role("button", name="Undo").click()
        await expect(page.get_by_role("link", name="Summer bot")).to_be_visible()

        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("status")).to_have_text("You are signed out.")
        assert [each["name"] for each in await page.context.cookies()] == ["keyhall-device"]
        await page.goto(f"{site.url}/credentials")
        await expect(page).to_have_url(f"{site.url}/login?next=/credentials")


@LOOKS
async def test_a_label_of_full_length_and_a_long_secret_stay_within_the_page(
    browser: Browser, site: Site, look: Mapping[str, Any]
) -> None:
    made = await site.add("W" * 63 + str(len(look)), secret="sk-" + "0123456789abcdef" * 200, provider="w" * 32)
    async with opened(browser, look) as page:
        await sign_in(page, site)
        for path in ("/", "/credentials", f"/credentials/{made['id']}", "/credentials?show=removed", "/api/docs"):
            await page.goto(site.url + path)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        await page.goto(f"{site.url}/credentials/{made['id']}")
        await page.get_by_role("button", name="Reveal the secret").click()
        await expect(page.locator("#secret")).to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await site.request("DELETE", f"/api/v1/credentials/{made['id']}")


async def test_signing_in_needs_nothing_but_a_keyboard(browser: Browser, site: Site) -> None:
    async with opened(browser, DESKTOP_LIGHT) as page:
        await page.goto(f"{site.url}/login")
        await expect(page.get_by_label("Username")).to_be_focused()
        await page.keyboard.type(OWNER)
        await page.keyboard.press("Tab")
        await expect(page.get_by_label("Password")).to_be_focused()
        focused = page.locator(":focus-visible")
        await expect(focused).to_have_css("outline-style", "solid")
        await expect(focused).to_have_css("outline-width", "2px")
        await page.keyboard.type("not it at all")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_have_text("The username or password is wrong.")
        await expect(page.get_by_label("Password")).to_be_focused()
        await page.keyboard.type(PASSWORD)
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(f"{site.url}/")

        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
        await page.keyboard.press("Enter")
        await expect(page.locator("#content")).to_be_focused()
        visited = []
        for _ in range(8):
            await page.keyboard.press("Shift+Tab")
            visited.append(await page.evaluate("document.activeElement.textContent.trim()"))
        assert {"Sign out", "Credentials", "Hall", "Keyhall"} <= set(visited)


async def test_a_revealed_secret_hides_after_half_a_minute_and_can_be_copied_before(
    browser: Browser, site: Site
) -> None:
    made = await site.add("seen for a moment")
    async with opened(browser, DESKTOP_LIGHT, permissions=["clipboard-read", "clipboard-write"]) as page:
        await page.clock.install()
        await sign_in(page, site)
        await page.goto(f"{site.url}/credentials/{made['id']}")
        await page.get_by_role("button", name="Reveal the secret").click()
        await page.get_by_role("button", name="Copy").click()
        await expect(page.get_by_role("status")).to_have_text("Copied.")
        assert await page.evaluate("navigator.clipboard.readText()") == SECRET
        await page.clock.fast_forward(15_000)
        await expect(page.locator("#secret")).to_have_text(SECRET)
        await page.clock.fast_forward(16_000)
        await expect(page.locator("#secret")).to_have_text("•" * 8)
        assert SECRET not in await page.content()


async def test_going_back_does_not_bring_a_revealed_secret_back(browser: Browser, site: Site) -> None:
    made = await site.add("gone by")
    async with opened(browser, DESKTOP_LIGHT) as page:
        await sign_in(page, site)
        await page.goto(f"{site.url}/credentials/{made['id']}")
        await page.get_by_role("button", name="Reveal the secret").click()
        await expect(page.locator("#secret")).to_have_text(SECRET)
        await page.get_by_role("link", name="Done").click()
        await expect(page.get_by_role("heading", name="gone by")).to_be_visible()
        with pytest.raises(Error, match="ERR_CACHE_MISS"):  # the answer was not stored, so there is nothing to show
            await page.go_back()
        await expect(page.get_by_text(SECRET)).to_have_count(0)


async def test_everything_works_without_scripts(browser: Browser, site: Site) -> None:
    async with opened(browser, PHONE_DARK, java_script_enabled=False) as page:
        await sign_in(page, site)
        await page.get_by_role("link", name="Credentials").click()
        await page.get_by_role("link", name="Add a credential").click()
        await page.get_by_label("Provider").fill("openai")
        await page.get_by_label("Label").fill("No scripts")
        await page.get_by_label("Secret").fill(SECRET)
        await page.get_by_role("button", name="Store it").click()
        await page.get_by_role("link", name="No scripts").click()
        await page.get_by_role("button", name="Reveal the secret").click()
        await expect(page.locator("#secret")).to_have_text(SECRET)
        await expect(page.get_by_role("button", name="Copy")).to_be_hidden()
        await page.get_by_role("link", name="Done").click()
        await page.get_by_text("Change the label").click()
        await page.get_by_label("New label").fill("Renamed")
        await page.get_by_role("button", name="Save the label").click()
        await expect(page.get_by_role("heading", name="Renamed")).to_be_visible()
        await page.get_by_role("button", name="Remove").click()
        await page.get_by_role("link", name="Removed").click()
        await page.get_by_role("button", name="Restore Renamed").click()
        await expect(page.get_by_role("link", name="Renamed")).to_be_visible()


async def test_another_site_can_neither_frame_the_pages_nor_post_to_them(
    browser: Browser, site: Site, empty_site: Site
) -> None:
    """The other site is one on another port: same-site, so the cookie travels, but another origin."""
    made = await site.add("coveted")
    context = await browser.new_context()
    page = await context.new_page()
    await sign_in(page, site)
    await page.goto(f"{empty_site.url}/setup")
    await page.route("**/attack", lambda route: route.fulfill(content_type="text/html", body=f"""
        <iframe src="{site.url}/"></iframe>
        <form method="post" action="{site.url}/credentials/{made['id']}/remove"><input name="version" value="1"></form>
    """))  # fmt: skip
    await page.goto(f"{empty_site.url}/attack")
    framed = await page.locator("iframe").element_handle()
    assert framed is not None
    frame = await framed.content_frame()
    assert frame is not None
    assert "Keyhall" not in await frame.content()
    async with page.expect_response(f"**/credentials/{made['id']}/remove") as answered:
        await page.evaluate("document.forms[0].submit()")
    assert (await answered.value).status == 403
    assert (await site.request("GET", f"/api/v1/credentials/{made['id']}")).status == 200
    await context.close()


@LOOKS
async def test_a_claim_link_fills_the_form_and_leaves_the_address(
    browser: Browser, site: Site, look: Mapping[str, Any]
) -> None:
    identity = site.services.identity
    name = f"claimed-{look['color_scheme']}"
    made = await identity.create_claimable(await identity.operator(), name, Role.MEMBER)
    async with opened(browser, look) as page:
        await page.goto(f"{site.url}/claim#{made.token.reveal()}")
        await fits(page)
        await expect(page.get_by_label("Code of your link")).to_have_value(made.token.reveal())
        assert page.url == f"{site.url}/claim"
        await page.goto(f"{site.url}/claim#khl_another")
        await expect(page.get_by_label("Code of your link")).to_have_value("khl_another")
        assert page.url == f"{site.url}/claim"
        await page.goto(f"{site.url}/claim#{made.token.reveal()}")
        await page.get_by_label("Password").fill("password1234")
        await page.get_by_role("button", name="Set the password").click()
        await expect(page.get_by_role("alert")).to_contain_text("too easy to guess")
        await expect(page.get_by_label("Code of your link")).to_have_value(made.token.reveal())
        await fits(page)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Set the password").click()
        await expect(page.get_by_role("status")).to_contain_text("The password is set")
