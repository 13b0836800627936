"""The section of API tokens on the page /account, as a browser without scripts uses it."""

from __future__ import annotations

import re

import pytest

from tests.support.web import Site

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_token_is_made_shown_once_and_revoked_without_scripts(site: Site) -> None:
    cookie, form_token = await site.log_in_browser()
    fields = {"form_token": form_token, "name": "backup <b>", "credentials_read": "yes", "metrics": "yes", "days": "30"}
    made = await site.submit("/account/tokens", cookie, fields)
    assert made.status == 200, made.text
    assert made.headers["Cache-Control"] == "no-store"
    [token] = re.findall(r"kh_[0-9A-Za-z]{49}", made.text)
    assert "backup <b>" not in made.text
    me = await site.request("GET", "/api/v1/auth/me", token=token)
    assert me.json["scopes"] == ["credentials:read", "metrics"]

    page = await site.page("/account", cookie)
    assert token not in page.text
    assert f"<code>{token[:9]}…</code>" in page.text
    [path] = re.findall(r'action="(/account/tokens/[0-9a-f-]{36}/revoke)"', page.text)
    revoked = await site.submit(path, cookie, {"form_token": form_token})
    assert (revoked.status, revoked.headers["Location"]) == (303, "/account?done=token")
    assert (await site.request("GET", "/api/v1/auth/me", token=token)).status == 401
    assert (await site.submit(path, cookie, {"form_token": form_token})).status == 404


async def test_a_refused_form_keeps_what_was_ticked(site: Site) -> None:
    cookie, form_token = await site.log_in_browser()
    fields = {"form_token": form_token, "name": "x" * 65, "keys_read": "yes", "days": ""}
    refused = await site.submit("/account/tokens", cookie, fields)
    assert refused.status == 422
    assert re.search(r'name="keys_read" value="yes" checked', refused.text)
    assert not re.search(r'name="metrics" value="yes" checked', refused.text)
    for fields in ({"name": "ci"}, {"name": "ci", "metrics": "yes", "days": "0"}, {"name": "ci", "all": "yes"}):
        assert (await site.submit("/account/tokens", cookie, {"form_token": form_token, **fields})).status == 422


async def test_the_form_needs_its_token(site: Site) -> None:
    cookie, _ = await site.log_in_browser()
    assert (await site.submit("/account/tokens", cookie, {"name": "ci", "metrics": "yes"})).status == 403
