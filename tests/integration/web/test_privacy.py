"""Export and erasure over HTTP and on the page, on both engines where the database is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.identity import Role
from tests.support.installs import Place
from tests.support.samples import OWNER, PASSWORD, SECRET
from tests.support.web import Site, open_site

ROUTES = (("GET", "/api/v1/privacy/export"), ("POST", "/api/v1/privacy/erase"))


@pytest.fixture
async def site(engine_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(Place(engine_url, tmp_path / "data")) as opened:
        yield opened


async def _mia(site: Site, *, secret: str | None = SECRET) -> str:
    operator = await site.services.identity.operator()
    await site.services.identity.create(operator, "mia", PASSWORD, Role.MEMBER)
    token = await site.log_in("mia")
    if secret is not None:
        body = {"provider": "openai", "label": "main", "secret": secret}
        assert (await site.request("POST", "/api/v1/credentials", token=token, json=body)).status == 201
    return token


async def _stale(url: str) -> None:
    """Every session's last proof of a password lies long back."""
    await Place(url, Path()).execute("UPDATE sessions SET authenticated_at = '2020-01-01T00:00:00.000000Z'")


async def test_the_export_is_a_file_that_nobody_stores_and_holds_no_secret(site: Site) -> None:
    token = await _mia(site)
    answer = await site.request("GET", "/api/v1/privacy/export", token=token)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="keyhall-export.json"'
    found = answer.json
    assert found["account"]["username"] == "mia"
    assert [each["label"] for each in found["credentials"]] == ["main"]
    assert found["complete"] is True
    assert SECRET not in answer.text
    assert PASSWORD not in answer.text
    assert OWNER not in answer.text


async def test_the_export_asks_for_the_password_once_it_is_old(site: Site, engine_url: str) -> None:
    token = await _mia(site, secret=None)
    await _stale(engine_url)
    answer = await site.request("GET", "/api/v1/privacy/export", token=token)
    assert (answer.status, answer.code) == (401, "reauthentication_required")


async def test_an_erased_account_is_gone_everywhere_at_once(site: Site) -> None:
    token = await _mia(site)
    refused = await site.request("POST", "/api/v1/privacy/erase", token=token, json={"password": "another horse x"})
    assert (refused.status, refused.code) == (401, "invalid_credentials")
    without = await site.request("POST", "/api/v1/privacy/erase", token=token, json={})
    assert (without.status, without.code) == (401, "reauthentication_required")
    assert (await site.request("GET", "/api/v1/auth/me", token=token)).status == 200
    answer = await site.request("POST", "/api/v1/privacy/erase", token=token, json={"password": PASSWORD})
    assert (answer.status, answer.body) == (204, b"")
    for method, path in (("GET", "/api/v1/auth/me"), ("GET", "/api/v1/credentials"), *ROUTES):
        body = {"password": PASSWORD} if method == "POST" else None
        again = await site.request(method, path, token=token, json=body)
        assert (again.status, again.code) == (401, "invalid_token"), path
    login = {"username": "mia", "password": PASSWORD}
    assert (await site.request("POST", "/api/v1/auth/login", json=login, token="")).code == "invalid_credentials"


async def test_the_last_owner_stays(site: Site) -> None:
    answer = await site.request("POST", "/api/v1/privacy/erase", json={"password": PASSWORD})
    assert (answer.status, answer.code) == (409, "last_owner")
    assert (await site.request("GET", "/api/v1/auth/me")).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"password": PASSWORD, "user_id": "another"}, 422),
        ({"password": 7}, 422),
        ({"password": ["x"]}, 422),
        ({"password": "x" * 100_000}, 422),
        ([], 422),
        ({"password": "nul\0" + PASSWORD}, 401),
    ],
)
async def test_hostile_bodies_erase_nobody(site: Site, body: Any, status: int) -> None:
    token = await _mia(site, secret=None)
    answer = await site.request("POST", "/api/v1/privacy/erase", token=token, json=body)
    assert answer.status in {status, 422}, answer.text
    assert (await site.request("GET", "/api/v1/auth/me", token=token)).status == 200


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_strangers_get_nothing(site: Site, method: str, path: str) -> None:
    answer = await site.request(method, path, token="", json={} if method == "POST" else None)
    assert (answer.status, answer.code) == (401, "invalid_token")


async def test_on_the_page_the_export_is_downloaded_and_the_account_erased(site: Site, engine_url: str) -> None:
    await _mia(site)
    signed_in = await site.submit("/login", "", username="mia", password=PASSWORD, next="/privacy")
    assert signed_in.headers["Location"] == "/privacy"
    cookie = signed_in.cookie()
    page = await site.page("/privacy", cookie)
    assert "Erase everything about me" in page.text
    form = page.form_token()
    exported = await site.submit("/privacy/export", cookie, form_token=form)
    assert exported.json["account"]["username"] == "mia"
    await _stale(engine_url)
    asked = await site.submit("/privacy/export", cookie, form_token=form)
    assert asked.status == 401
    assert 'id="export-password"' in asked.text
    wrong = await site.submit("/privacy/erase", cookie, form_token=form, password="another horse battery")
    assert wrong.status == 401
    assert "wrong" in wrong.text
    gone = await site.submit("/privacy/erase", cookie, form_token=form, password=PASSWORD)
    assert (gone.status, gone.headers["Location"]) == (303, "/login?done=erased")
    assert any('=""' in each for each in gone.headers.getall("Set-Cookie")), "the cookie is deleted"
    assert (await site.page("/privacy", cookie)).status == 303
    assert "is erased" in (await site.page("/login?done=erased")).text


async def test_without_a_password_the_page_leads_to_another_proof_and_back(site: Site, engine_url: str) -> None:
    await _mia(site)
    signed_in = await site.submit("/login", "", username="mia", password=PASSWORD, next="/privacy")
    cookie = signed_in.cookie()
    form = (await site.page("/privacy", cookie)).form_token()
    await Place(engine_url, Path()).execute("UPDATE users SET password_hash = NULL WHERE username = 'mia'")
    await _stale(engine_url)
    await site.services.instances.catch_up()
    for path in ("/privacy/export", "/privacy/erase"):
        led = await site.submit(path, cookie, form_token=form)
        assert (led.status, led.headers["Location"]) == (303, "/account/confirm?next=/privacy")
    assert 'href="/privacy"' in (await site.page("/account/confirm?next=/privacy", cookie)).text
    assert "for ten minutes" in (await site.page("/privacy?done=confirmed", cookie)).text


async def test_the_page_says_why_the_last_owner_cannot_be_erased(site: Site) -> None:
    cookie, form = await site.log_in_browser()
    assert "You are the last owner." in (await site.page("/privacy", cookie)).text
    refused = await site.submit("/privacy/erase", cookie, form_token=form, password=PASSWORD)
    assert refused.status == 409
    forged = await site.submit("/privacy/erase", cookie, form_token="0" * 64, password=PASSWORD)
    assert forged.status == 403
