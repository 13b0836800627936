"""Pages in the language of their reader; the REST interface in English."""

from __future__ import annotations

import re
from typing import Any

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


async def test_the_account_chooses_the_language_and_the_zone_of_its_pages(site: Site) -> None:
    cookie, form_token = await site.log_in_browser()
    assert "UTC" in (await site.page("/account", cookie)).text
    chosen = {"language": "de", "time_zone": "Asia/Kolkata"}
    saved = await site.submit("/account/preferences", cookie, {"form_token": form_token, **chosen})
    assert (saved.status, saved.headers["Location"]) == (303, "/account?done=preferences")
    page = await site.request("GET", "/account", cookie=cookie, headers={"Accept-Language": "en"})
    assert '<html lang="de">' in page.text
    assert '<option value="de" lang="de" selected>' in page.text
    assert re.search(r'<time datetime="[0-9T:-]+Z" title="[^"]+ IST">vor \d+ Sekunden?</time>', page.text)
    assert "data-local" not in page.text
    me = await site.request("GET", "/api/v1/auth/me")
    assert me.json.items() >= chosen.items()
    changed = await site.request("PATCH", "/api/v1/auth/me", json={"language": None})
    assert (changed.json["language"], changed.json["time_zone"]) == (None, "Asia/Kolkata")
    await site.request("PATCH", "/api/v1/auth/me", json={"time_zone": None})
    page = await site.page("/account", cookie)
    assert '<html lang="en">' in page.text
    assert re.search(
        r'<time datetime="[0-9T:-]+Z" title="[^"]+ UTC" data-local="title">\d+ seconds? ago</time>', page.text
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"language": "fr"},
        {"language": "../de"},
        {"language": ["de"]},
        {"time_zone": "Mars/Olympus"},
        {"time_zone": "../../etc/passwd"},
        {"time_zone": "posix/Europe/Berlin"},
        {"time_zone": "\x00"},
        {"time_zone": "x" * 100_000},
        {"time_zone": 1},
        {"locale": "de"},
    ],
    ids=lambda wrong: repr(wrong)[:40],
)
async def test_no_other_language_and_no_other_zone_is_stored(site: Site, wrong: dict[str, Any]) -> None:
    refused = await site.request("PATCH", "/api/v1/auth/me", json=wrong)
    assert refused.status in {413, 422}
    assert (await site.request("GET", "/api/v1/auth/me")).json["time_zone"] is None


async def test_a_refused_zone_stays_in_its_field(site: Site) -> None:
    cookie, form_token = await site.log_in_browser()
    fields = {"form_token": form_token, "language": "de", "time_zone": '"Berlin'}
    refused = await site.submit("/account/preferences", cookie, fields)
    assert refused.status == 422
    assert 'value="&#34;Berlin"' in refused.text
    assert "Time zone must be the name of a time zone, such as Europe/Berlin." in refused.text


async def test_problems_of_the_rest_interface_are_in_english(site: Site) -> None:
    answer = await site.request("GET", "/api/v1/auth/me", token="", headers={"Accept-Language": "de"})
    assert answer.json["title"] == "Sign in to continue"
