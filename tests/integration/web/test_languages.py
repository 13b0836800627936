"""Pages in the language of their reader; the REST interface in English."""

from __future__ import annotations

import pytest

from tests.support.web import Answer, Site

pytestmark = pytest.mark.asyncio(loop_scope="module")
GERMAN = {"Accept": "text/html", "Accept-Language": "de-CH,de;q=0.9,en;q=0.8"}


async def refused(site: Site, **fields: str) -> Answer:
    return await site.submit("/login", "", fields, headers={**GERMAN, "Sec-Fetch-Site": "same-origin"})


async def test_a_page_is_in_the_language_that_the_browser_prefers(site: Site) -> None:
    page = await site.request("GET", "/login", token="", headers=GERMAN)
    assert '<html lang="de">' in page.text
    assert ">Anmelden</button>" in page.text
    assert page.headers["Vary"] == "Accept-Language, Accept-Encoding"
    assert ">Sign in</button>" in (await site.page("/login")).text


async def test_a_refusal_is_in_that_language_and_what_was_typed_stays_text(site: Site) -> None:
    wrong = await refused(site, username="<b>%(x)s {0}", password="wrong", next="/")
    assert wrong.status == 401
    assert "Benutzername oder Passwort ist falsch." in wrong.text
    assert "&lt;b&gt;%(x)s {0}" in wrong.text


async def test_an_error_page_and_a_notice_are_in_that_language(site: Site) -> None:
    cookie, _ = await site.log_in_browser()
    missing = await site.request("GET", "/credentials/none", cookie=cookie, headers=GERMAN)
    assert (missing.status, "Hier ist nichts" in missing.text) == (404, True)
    told = await site.request("GET", "/account?done=session", cookie=cookie, headers=GERMAN)
    assert "Diese Sitzung ist beendet." in told.text


async def test_problems_of_the_rest_interface_are_in_english(site: Site) -> None:
    answer = await site.request("GET", "/api/v1/auth/me", token="", headers={"Accept-Language": "de"})
    assert answer.json["title"] == "Sign in to continue"
