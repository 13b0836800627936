"""Compressed answers: smaller, the same content, and nothing in them whose length could give it away."""

from __future__ import annotations

import gzip
import re

import pytest

from app.domain.errors import StorageError
from app.web.compression import takes_gzip
from tests.support.samples import ABSENT, SECRET
from tests.support.web import Answer, Site, served, without

pytestmark = pytest.mark.asyncio(loop_scope="module")

GZIP = {"Accept-Encoding": "gzip, deflate, br", "Accept": "text/html"}


async def opened(site: Site, path: str, cookie: str = "", **headers: str) -> Answer:
    return await site.request("GET", path, cookie=cookie, token="", headers=GZIP | headers)


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("", False),
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0, *", False),
        ("gzip; q=0.0", False),
        ("*", True),
        ("*;q=0", False),
        ("identity, xgzip", False),
        ("gzip;q=", False),
        ("," * 100_000 + "gzip", False),
    ],
)
async def test_gzip_is_sent_to_those_who_take_it(header: str, *, taken: bool) -> None:
    assert takes_gzip(header) is taken


async def test_a_page_is_compressed_and_is_the_same_page(site: Site) -> None:
    cookie, _ = await site.log_in_browser()
    small, plain = await opened(site, "/", cookie), await site.page("/", cookie)
    assert small.headers["Content-Encoding"] == "gzip"
    assert int(small.headers["Content-Length"]) == len(small.body) < len(plain.body) / 2
    assert "Content-Encoding" not in plain.headers
    for answer in (small, plain):
        assert answer.headers["Vary"] == "Accept-Language, Accept-Encoding"
    unmasked = re.compile(r'(name="form_token" value=)"[0-9a-f]+"')
    assert unmasked.sub("", gzip.decompress(small.body).decode()) == unmasked.sub("", plain.text)


async def test_files_are_compressed_once_and_may_be_kept_for_ever(site: Site) -> None:
    page = await site.page("/login")
    for path in re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text):
        small, plain = await opened(site, path), await site.request("GET", path, token="")
        assert gzip.decompress(small.body) == plain.body, path
        for answer in (small, plain):
            assert answer.headers["Vary"] == "Accept-Encoding"
            assert "immutable" in answer.headers["Cache-Control"]


async def test_json_is_compressed_where_that_is_worth_it_and_no_tag_names_its_bytes(site: Site) -> None:
    made = await site.add("for programs")
    described = await opened(site, "/api/openapi.json")
    assert described.headers["Content-Encoding"] == "gzip"
    one = await site.request("GET", f"/api/v1/credentials/{made['id']}", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in one.headers
    assert one.headers["ETag"] == '"1"'


async def test_an_answer_that_shows_a_secret_is_not_compressed(site: Site) -> None:
    made = await site.add("shown", secret=SECRET + "0" * 2000)
    cookie, token = await site.log_in_browser()
    shown = await site.submit(
        f"/credentials/{made['id']}/reveal", cookie, headers=GZIP | {"Sec-Fetch-Site": "same-origin"}, form_token=token
    )
    assert SECRET in shown.text
    assert "Content-Encoding" not in shown.headers


async def test_the_page_of_a_new_second_factor_is_not_compressed(site: Site) -> None:
    """It shows a secret, and is opened by GET."""
    cookie, token = await site.log_in_browser()
    assert (await site.submit("/account/factors/start", cookie, form_token=token)).status == 303
    shown = await opened(site, "/account/factors/new", cookie)
    assert "otpauth://" in shown.text
    assert shown.headers["Cache-Control"] == "no-store, no-transform"
    assert "Content-Encoding" not in shown.headers


async def test_the_token_of_forms_is_another_text_in_every_page_and_each_is_good(site: Site) -> None:
    cookie, _ = await site.log_in_browser()
    first, second = [(await site.page("/credentials", cookie)).form_token() for _ in range(2)]
    assert first[:64] != second[:64]
    assert first[64:] != second[64:]
    for token in (second, first):
        sent = await site.submit("/hide-first-run", cookie, form_token=token)
        assert sent.status == 303


# ---------------------------------------------------------------------------------------------------------------------
# Errors keep the navigation
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nowhere", "/credentials/nothing", f"/credentials/{ABSENT}"])
async def test_a_page_that_is_not_there_keeps_the_navigation_of_those_who_are_signed_in(site: Site, path: str) -> None:
    cookie, _ = await site.log_in_browser()
    found = await site.page(path, cookie)
    assert found.status == 404
    assert 'href="/credentials"' in found.text
    assert 'action="/logout"' in found.text
    for nobody in ("", "keyhall=khc_forged"):
        elsewhere = await site.page("/nowhere", nobody)
        assert elsewhere.status == 404
        assert 'action="/logout"' not in elsewhere.text


async def test_an_error_within_a_page_keeps_the_navigation_without_asking_again(site: Site) -> None:
    cookie, _ = await site.log_in_browser()
    async with served(without(site.services, StorageError(), "dashboard")) as broken:
        shown = await broken.page("/", cookie)
    assert shown.status == 503
    assert 'action="/logout"' in shown.text
    async with served(without(site.services, StorageError(), "requests")) as broken:
        shown = await broken.page("/nowhere", cookie)
    assert (shown.status, 'action="/logout"' in shown.text) == (404, False)
