"""The pages of administration as people meet them."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from app.domain.identity import Role
from tests.support.browsing import DESKTOP_LIGHT, PHONE_DARK, fits, opened, sign_in
from tests.support.samples import PASSWORD
from tests.support.web import Site

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def test_an_invitation_is_sent_and_claimed_on_a_phone(browser: Browser, site: Site) -> None:
    async with opened(browser, DESKTOP_LIGHT) as page, opened(browser, PHONE_DARK) as phone:
        await sign_in(page, site)
        await page.get_by_role("link", name="Administration").click()
        await page.get_by_role("link", name="Users", exact=True).click()
        await fits(page)
        await page.get_by_role("link", name="Add somebody").click()
        await fits(page)
        await page.get_by_label("Role that they get").select_option("auditor")
        await page.get_by_role("button", name="Make an invitation").click()
        await expect(page.get_by_role("heading", name="An invitation")).to_be_visible()
        await fits(page)
        link = await page.locator("#secret").inner_text()
        assert link.partition("#")[2] not in page.url
        await page.get_by_role("link", name="Done").click()
        await expect(page.get_by_role("button", name="Withdraw")).to_have_count(1)

        await phone.goto(link)
        await expect(phone.get_by_label("Code of your link")).to_have_value(link.partition("#")[2])
        await phone.get_by_label("Username").fill("invited")
        await phone.get_by_label("Password").fill(PASSWORD)
        await phone.get_by_role("button", name="Set the password").click()
        await phone.get_by_label("Username").fill("invited")
        await phone.get_by_label("Password").fill(PASSWORD)
        await phone.get_by_role("button", name="Sign in").click()
        await phone.get_by_role("link", name="Administration").click()
        await phone.get_by_role("link", name="Audit trail").click()
        await expect(phone).to_have_url(f"{site.url}/admin/audit")
        await fits(phone)

        await page.goto(f"{site.url}/admin/users")
        await page.get_by_label("Part of the name").fill("invit")
        await page.get_by_role("button", name="Search").click()
        await page.get_by_role("link", name="invited").click()
        await expect(page.get_by_text("active")).to_be_visible()
        await fits(page)
        await page.get_by_role("button", name="Disable the account").click()
        await expect(page.get_by_role("status")).to_contain_text("The account is disabled")
        await phone.reload()
        await expect(phone).to_have_url(f"{site.url}/login?next=/admin/audit")


async def test_an_auditor_filters_verifies_and_exports_on_a_phone(browser: Browser, site: Site, tmp_path: Path) -> None:
    identity = site.services.identity
    await identity.create(await identity.operator(), "auditor-page", PASSWORD, Role.AUDITOR)
    await site.services.audit_sealing.seal()
    async with opened(browser, PHONE_DARK, accept_downloads=True) as page:
        await sign_in(page, site, "auditor-page")
        await page.get_by_role("link", name="Administration").click()
        await expect(page.get_by_role("link", name="Users", exact=True)).to_have_count(0)
        await page.get_by_role("link", name="Audit trail").click()
        await page.get_by_label("Who").fill("auditor-page")
        await page.get_by_label("Action").select_option("auth")
        await page.get_by_role("button", name="Show", exact=True).click()
        await expect(page.get_by_text("auditor-page signed in.")).to_have_count(1)
        await expect(page.get_by_label("Action")).to_have_value("auth")
        await fits(page)
        async with page.expect_download() as download:
            await page.get_by_role("link", name="As a spreadsheet (CSV)").click()
        file = tmp_path / "audit.csv"
        await (await download.value).save_as(file)
        head, row = file.read_text().splitlines()
        assert head.startswith("id,at,actor,action")
        assert ",auditor-page,auth.login," in row
        await page.get_by_role("button", name="Verify now").click()
        await expect(page.get_by_role("status")).to_contain_text("nothing was changed")
        await fits(page)
        for name in ("Backups", "Health"):
            await page.get_by_role("link", name=name).click()
            await expect(page.get_by_role("heading", name=name)).to_be_visible()
            await fits(page)
