"""Passkeys as people meet them: in Chromium, with its virtual authenticator (CDP, domain WebAuthn)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, CDPSession, Page, expect

from tests.support.browsing import DESKTOP_LIGHT, LOOKS, PHONE_DARK, fits, opened
from tests.support.samples import OWNER, PASSWORD
from tests.support.web import Site

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


def named(site: Site) -> str:
    """The address under which browsers make passkeys for this machine."""
    return f"http://localhost:{site.url.rpartition(':')[2]}"


class Authenticator:
    """A virtual authenticator of a page, such as a phone with a fingerprint sensor."""

    def __init__(self, devtools: CDPSession, id_: str) -> None:
        self._devtools = devtools
        self._id = id_

    @classmethod
    async def plug_in(cls, page: Page, **options: Any) -> Authenticator:
        devtools = await page.context.new_cdp_session(page)
        await devtools.send("WebAuthn.enable", {"enableUI": False})
        given = {
            "protocol": "ctap2",
            "transport": "internal",
            "hasResidentKey": True,
            "hasUserVerification": True,
            "isUserVerified": True,
            "automaticPresenceSimulation": True,
            **options,
        }
        made = await devtools.send("WebAuthn.addVirtualAuthenticator", {"options": given})
        return cls(devtools, made["authenticatorId"])

    async def verifies(self, *, person: bool) -> None:
        await self._devtools.send("WebAuthn.setUserVerified", {"authenticatorId": self._id, "isUserVerified": person})

    async def credentials(self) -> list[dict[str, Any]]:
        found = await self._devtools.send("WebAuthn.getCredentials", {"authenticatorId": self._id})
        credentials: list[dict[str, Any]] = found["credentials"]
        return credentials

    async def put_back(self, credential: Mapping[str, Any], *, count: int) -> None:
        """Make it a copy of an authenticator as it was, with that counter."""
        await self._devtools.send(
            "WebAuthn.removeCredential", {"authenticatorId": self._id, "credentialId": credential["credentialId"]}
        )
        again = {**credential, "signCount": count}
        await self._devtools.send("WebAuthn.addCredential", {"authenticatorId": self._id, "credential": again})


@asynccontextmanager
async def at_home(
    browser: Browser, site: Site, look: Mapping[str, Any] = DESKTOP_LIGHT, *, offers: bool = False
) -> AsyncIterator[Page]:
    """The owner's page of their account, freshly signed in by password.

    Unless it ``offers``, the browser has no passkeys in the field for the name: the virtual authenticator would take
    every offer at once.
    """
    async with opened(browser, look) as page:
        if not offers:
            await page.add_init_script("PublicKeyCredential.isConditionalMediationAvailable = async () => false")
        await page.goto(f"{named(site)}/login?next=/account")
        await page.get_by_label("Username").fill(OWNER)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in", exact=True).click()
        await expect(page.locator("h1")).to_have_text("Account")
        yield page


async def add(page: Page, name: str) -> None:
    await page.get_by_label("Name of a new passkey").fill(name)
    await page.get_by_role("button", name="Add a passkey").click()
    await expect(page.get_by_role("status").first).to_contain_text("The passkey is added.")


async def sign_out(page: Page) -> None:
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("status")).to_have_text("You are signed out.")


async def remove(page: Page, name: str) -> None:
    await page.get_by_role("button", name=f"Remove the passkey {name}").click()
    await expect(page.get_by_role("status").first).to_contain_text("The passkey is removed.")


@LOOKS
async def test_a_passkey_is_added_signs_in_and_is_removed(
    browser: Browser, site: Site, look: Mapping[str, Any]
) -> None:
    async with at_home(browser, site, look) as page:
        authenticator = await Authenticator.plug_in(page)
        await fits(page)
        await add(page, "Phone of Olga")
        await fits(page)
        (credential,) = await authenticator.credentials()
        assert (credential["isResidentCredential"], credential["rpId"]) == (True, "localhost")
        await sign_out(page)
        await fits(page)
        await page.get_by_role("button", name="Sign in with a passkey").click()
        await expect(page).to_have_url(f"{named(site)}/")
        await page.goto(f"{named(site)}/account")
        await expect(page.locator("#passkeys li")).to_contain_text("used")
        await remove(page, "Phone of Olga")
        await expect(page.locator("#passkeys li")).to_have_count(0)
        await sign_out(page)
        await page.get_by_role("button", name="Sign in with a passkey").click()
        await expect(page.get_by_role("alert")).to_contain_text("This passkey is not accepted here")
        await fits(page)


async def test_the_field_for_the_name_offers_passkeys(browser: Browser, site: Site) -> None:
    async with at_home(browser, site, offers=True) as page:
        await Authenticator.plug_in(page)
        await add(page, "Offered")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page).to_have_url(f"{named(site)}/")  # the authenticator took the offer at once
        await page.goto(f"{named(site)}/account")
        await remove(page, "Offered")


async def test_what_goes_wrong_at_the_browser_is_said_beside_the_button(browser: Browser, site: Site) -> None:
    async with at_home(browser, site) as page:
        authenticator = await Authenticator.plug_in(page)
        problem = page.locator("#passkeys [data-problem]")
        await authenticator.verifies(person=False)
        await page.get_by_label("Name of a new passkey").fill("Nobody")
        await page.get_by_role("button", name="Add a passkey").click()
        await expect(problem).to_have_text("It was cancelled, or took too long. Try again.")
        await expect(page.get_by_role("button", name="Add a passkey")).to_be_enabled()
        await fits(page)
        await authenticator.verifies(person=True)
        await add(page, "Once")
        await page.get_by_label("Name of a new passkey").fill("Twice")
        await page.get_by_role("button", name="Add a passkey").click()
        await expect(problem).to_contain_text("holds a passkey for your account already")
        await page.reload()
        await remove(page, "Once")


async def test_a_sign_in_without_the_person_is_refused_and_can_be_repeated(browser: Browser, site: Site) -> None:
    async with at_home(browser, site) as page:
        authenticator = await Authenticator.plug_in(page)
        await add(page, "Locked")
        await sign_out(page)
        await authenticator.verifies(person=False)
        await page.get_by_role("button", name="Sign in with a passkey").click()
        await expect(page.locator("[data-problem]")).to_have_text("It was cancelled, or took too long. Try again.")
        await authenticator.verifies(person=True)
        await page.get_by_role("button", name="Sign in with a passkey").click()
        await expect(page).to_have_url(f"{named(site)}/")
        await page.goto(f"{named(site)}/account")
        await remove(page, "Locked")


async def test_a_copy_whose_counter_went_back_is_refused(browser: Browser, site: Site) -> None:
    async with at_home(browser, site) as page:
        authenticator = await Authenticator.plug_in(page)
        await add(page, "Copied")
        (credential,) = await authenticator.credentials()
        await authenticator.put_back(credential, count=100)
        await sign_out(page)
        await page.get_by_role("button", name="Sign in with a passkey").click()
        await expect(page).to_have_url(f"{named(site)}/")
        await authenticator.put_back(credential, count=50)
        await sign_out(page)
        await page.get_by_role("button", name="Sign in with a passkey").click()
        await expect(page.get_by_role("alert")).to_contain_text("This passkey seems to be a copy")
        await page.get_by_label("Username").fill(OWNER)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in", exact=True).click()
        await expect(page).to_have_url(f"{named(site)}/")
        await page.goto(f"{named(site)}/account")
        await remove(page, "Copied")


async def test_who_was_away_confirms_with_a_passkey(browser: Browser, site: Site) -> None:
    async with at_home(browser, site) as page:
        await Authenticator.plug_in(page)
        await add(page, "Confirming")
        await page.goto(f"{named(site)}/account/confirm")
        await fits(page)
        await page.get_by_role("button", name="Confirm with a passkey").click()
        await expect(page).to_have_url(f"{named(site)}/account?done=confirmed")
        await page.goto(f"{named(site)}/account/confirm")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Confirm", exact=True).click()
        await expect(page).to_have_url(f"{named(site)}/account?done=confirmed")
        await remove(page, "Confirming")


@pytest.mark.parametrize("javascript", [True, False], ids=["by address", "without JavaScript"])
async def test_where_there_are_no_passkeys_the_pages_say_so_and_work(
    browser: Browser, site: Site, *, javascript: bool
) -> None:
    base = site.url if javascript else named(site)
    async with opened(browser, PHONE_DARK, java_script_enabled=javascript) as page:
        await page.goto(f"{base}/login?next=/account")
        await expect(page.get_by_role("button", name="passkey")).to_have_count(0)
        await page.get_by_label("Username").fill(OWNER)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in", exact=True).click()
        section = page.locator("#passkeys")
        if javascript:
            await expect(section).to_contain_text(f"open {named(site)} instead")
            await fits(page)
        else:
            await expect(section).to_contain_text("Adding one needs JavaScript")
        await expect(page.get_by_role("button", name="Add a passkey")).to_have_count(0)
