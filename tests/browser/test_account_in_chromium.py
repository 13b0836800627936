"""The page of one's own account as people meet it, wide and narrow, light and dark."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from app.domain.identity import Role
from tests.support.browsing import DESKTOP_LIGHT, LOOKS, fits, opened, sign_in
from tests.support.samples import NEW_PASSWORD, PASSWORD
from tests.support.web import Site

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def _change(page: Page, password: str, new: str) -> None:
    await page.get_by_label("Present password").fill(password)
    await page.get_by_label("New password").fill(new)
    await page.get_by_role("button", name="Change the password").click()


@LOOKS
async def test_a_member_changes_the_password_and_ends_sessions(
    browser: Browser, site: Site, look: Mapping[str, Any]
) -> None:
    name = f"mover-{look['color_scheme']}"
    identity = site.services.identity
    await identity.create(await identity.operator(), name, PASSWORD, Role.MEMBER)
    async with opened(browser, look) as page, opened(browser, look) as elsewhere:
        await sign_in(elsewhere, site, name)
        await site.log_in(name)
        await sign_in(page, site, name)
        await page.get_by_role("link", name="Account").click()
        await expect(page).to_have_url(f"{site.url}/account")
        await fits(page)
        await expect(page.get_by_role("listitem")).to_have_count(3)
        await expect(page.get_by_text("this session")).to_have_count(1)

        await _change(page, PASSWORD, "password1234")
        await expect(page.get_by_role("alert")).to_contain_text("New password is too easy to guess")
        await expect(page.get_by_label("New password")).to_be_focused()
        await fits(page)
        await _change(page, "not the password", NEW_PASSWORD)
        await expect(page.get_by_role("alert")).to_contain_text("password is wrong")

        await page.get_by_role("button", name="End the session of").first.click()
        await expect(page.get_by_role("status")).to_have_text("That session has ended.")
        await expect(page.get_by_role("listitem")).to_have_count(2)

        await _change(page, PASSWORD, NEW_PASSWORD)
        await expect(page.get_by_role("status")).to_have_text(
            "Your password is changed. Every other session has ended."
        )
        await fits(page)
        await expect(page.get_by_role("listitem")).to_have_count(1)
        await expect(page.get_by_role("button", name="End every other session")).to_have_count(0)

        await elsewhere.goto(f"{site.url}/account")
        await expect(elsewhere).to_have_url(f"{site.url}/login?next=/account")
        await elsewhere.get_by_label("Username").fill(name)
        await elsewhere.get_by_label("Password").fill(NEW_PASSWORD)
        await elsewhere.get_by_role("button", name="Sign in").click()
        await expect(elsewhere).to_have_url(f"{site.url}/account")
        await page.reload()
        await page.get_by_role("button", name="End every other session").click()
        await expect(page.get_by_role("status")).to_have_text("Every other session has ended.")
        await elsewhere.reload()
        await expect(elsewhere).to_have_url(f"{site.url}/login?next=/account")


async def test_a_form_that_is_sent_after_its_session_ended_leads_back_to_it(browser: Browser, site: Site) -> None:
    identity = site.services.identity
    await identity.create(await identity.operator(), "late", PASSWORD, Role.MEMBER)
    look = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}
    async with opened(browser, look) as page:
        await sign_in(page, site, "late")
        await page.goto(f"{site.url}/account")
        await site.services.passwords.set(await identity.operator(), "late", f"{NEW_PASSWORD} again")
        await _change(page, PASSWORD, NEW_PASSWORD)
        await expect(page).to_have_url(f"{site.url}/login?next=/account&done=ended")
        await page.get_by_label("Username").fill("late")
        await page.get_by_label("Password").fill(f"{NEW_PASSWORD} again")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page).to_have_url(f"{site.url}/account")
        await _change(page, f"{NEW_PASSWORD} again", NEW_PASSWORD)
        await expect(page.get_by_role("status")).to_contain_text("Your password is changed.")


async def test_times_are_in_the_zone_of_the_browser_until_the_account_names_one(browser: Browser, site: Site) -> None:
    identity = site.services.identity
    await identity.create(await identity.operator(), "traveller", PASSWORD, Role.MEMBER)
    async with opened(browser, DESKTOP_LIGHT, timezone_id="Asia/Kolkata", locale="de-DE") as page:
        await page.goto(f"{site.url}/login")
        await page.get_by_label("Benutzername").fill("traveller")
        await page.get_by_label("Passwort").fill(PASSWORD)
        await page.get_by_role("button", name="Anmelden", exact=True).click()
        await page.get_by_role("link", name="Konto").click()
        await fits(page)
        last_used = page.locator(".sessions time").last
        await expect(last_used).to_have_attribute("title", re.compile(r"\d{4}, \d\d:\d\d (GMT\+5:30|IST)$"))
        await expect(last_used).to_have_text(re.compile(r"^vor \d+ \w+$"))
        assert await page.locator("#time-zones option").count() > 100
        await page.get_by_label("Sprache", exact=True).select_option("English")
        await page.get_by_label("Zeitzone").fill("Asia/Tokyo")
        await page.get_by_role("button", name="Sprache und Zeit speichern").click()
        await expect(page.get_by_role("status").first).to_have_text("The language and the time zone are saved.")
        await expect(last_used).to_have_attribute("title", re.compile(r"\d{4}, \d\d:\d\d JST$"))


async def test_a_token_for_a_program_is_made_shown_once_used_and_revoked(browser: Browser, site: Site) -> None:
    identity = site.services.identity
    await identity.create(await identity.operator(), "programmer", PASSWORD, Role.MEMBER)
    async with opened(browser, DESKTOP_LIGHT) as page:
        await sign_in(page, site, "programmer")
        await page.goto(f"{site.url}/account")
        await page.get_by_label("Name of the token").fill("nightly job")
        await page.get_by_role("button", name="Make a token").click()
        await expect(page.get_by_role("alert")).to_be_visible()  # without a right it could do nothing
        await expect(page.get_by_label("Name of the token")).to_have_value("nightly job")

        await page.get_by_label("list your credentials, without their secrets").check()
        await page.get_by_role("button", name="Make a token").click()
        token = await page.locator("#secret").inner_text()
        assert token.startswith("kh_")
        assert (await site.request("GET", "/api/v1/credentials", token=token)).status == 200
        assert (await site.request("POST", "/api/v1/credentials", token=token, json={})).status == 403

        await page.get_by_role("link", name="Done").click()
        await expect(page.get_by_text("nightly job", exact=True)).to_be_visible()
        assert token not in await page.content()
        await page.get_by_role("button", name="Revoke the token nightly job").click()
        await expect(page.get_by_role("status").first).to_have_text("That token is revoked.")
        assert (await site.request("GET", "/api/v1/credentials", token=token)).status == 401
