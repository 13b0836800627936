"""The page of a credential: facts, and actions where the fact is; and the form that recognises a provider."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest

from tests.support.samples import OTHER_SECRET, OWNER, SECRET
from tests.support.web import Site, open_site, sqlite_place

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPENAI = "sk-proj-" + "a1B2c3D4" * 5
GITHUB = "ghp_" + "a1B2c3D4" * 5


async def test_a_former_secret_is_put_back_from_the_history(site: Site) -> None:
    path = f"/credentials/{(await site.add('with a past'))['id']}"
    cookie, token = await site.log_in_browser()
    assert "The secret was not replaced yet." in (await site.page(path, cookie)).text
    await site.request("PUT", f"/api/v1{path}/secret", json={"secret": OTHER_SECRET})
    shown = await site.page(path, cookie)
    assert 'name="former" value="1"' in shown.text
    assert SECRET not in shown.text
    back = await site.submit(f"{path}/rollback", cookie, form_token=token, former="1", version="2")
    assert back.headers["Location"] == f"{path}?done=put_back"
    assert "Put back." in (await site.page(f"{path}?done=put_back", cookie)).text
    assert (await site.request("POST", f"/api/v1{path}/reveal")).json["secret"] == SECRET

    stale = await site.submit(f"{path}/rollback", cookie, form_token=token, former="2", version="2")
    assert (stale.status, 'name="version" value="3"' in stale.text) == (412, True)
    for former in ("", "x", "9" * 30, "-1"):
        wrong = await site.submit(f"{path}/rollback", cookie, form_token=token, former=former, version="3")
        assert wrong.status == 422
    missing = await site.submit(f"{path}/rollback", cookie, form_token=token, former="77", version="3")
    assert missing.status == 404


async def test_a_conflict_keeps_the_typed_text_and_shows_the_other_one_beside_it(site: Site) -> None:
    made = await site.add("first name", expires_at="2099-06-01T08:15:00Z")
    path = f"/credentials/{made['id']}"
    cookie, token = await site.log_in_browser()
    changed = {"label": "their name", "expires_at": "2098-01-02T00:00:00Z"}
    assert (await site.request("PATCH", f"/api/v1{path}", json=changed)).status == 200

    label = await site.submit(f"{path}/change", cookie, form_token=token, label="<i>mine", version="1")
    assert label.status == 412
    assert 'value="&lt;i&gt;mine"' in label.text
    assert "Now it is called their name." in label.text
    fields = {"expires": "2099-07-01", "expires_before": "2099-06-01", "version": "1"}
    expiry = await site.submit(f"{path}/change", cookie, fields, form_token=token)
    assert (expiry.status, 'value="2099-07-01"' in expiry.text) == (412, True)
    assert re.search(r"Now it expires on <time[^>]*>2 Jan 2098</time>", expiry.text)
    secret = await site.submit(f"{path}/replace", cookie, form_token=token, secret=OTHER_SECRET, version="1")
    assert (secret.status, OTHER_SECRET in secret.text) == (412, False)
    assert f"It is {made['masked']} now" in secret.text

    again = re.search(r'name="version" value="(\d)"', label.text)
    assert again
    kept = await site.submit(f"{path}/change", cookie, form_token=token, label="mine", version=again[1])
    assert kept.status == 303
    after = (await site.request("GET", f"/api/v1{path}")).json
    assert (after["label"], after["expires_at"]) == ("mine", "2098-01-02T00:00:00Z")


async def test_a_removed_credential_leads_back_and_one_that_is_gone_does_not(site: Site) -> None:
    path = f"/credentials/{(await site.add('on its way out'))['id']}"
    cookie, token = await site.log_in_browser()
    await site.submit(f"{path}/remove", cookie, form_token=token, version="1")
    removed = await site.page(path, cookie)
    assert "It can be restored until" in removed.text
    assert "Reveal" not in removed.text
    await site.add("on its way out")
    taken = await site.submit(f"{path}/restore", cookie, form_token=token)
    assert (taken.status, "There is a credential of this provider with this label already." in taken.text) == (
        409,
        True,
    )
    await site.submit(f"{path}/purge", cookie, form_token=token, version="2")
    assert (await site.page(path, cookie)).status == 404


async def test_a_provider_is_recognised_and_one_that_disagrees_is_asked_about(site: Site) -> None:
    cookie, token = await site.log_in_browser()

    async def stored(label: str) -> str | None:
        found = (await site.request("GET", "/api/v1/credentials?limit=100")).json["items"]
        return next((each["provider"] for each in found if each["label"] == label), None)

    fields = {"provider": "", "label": "by its shape", "secret": f" {GITHUB}\r\n"}
    assert (await site.submit("/credentials", cookie, fields, form_token=token)).status == 303
    assert await stored("by its shape") == "github"

    unknown = await site.submit(
        "/credentials", cookie, {**fields, "label": "no shape", "secret": "pass word"}, form_token=token
    )
    assert (unknown.status, "Provider is not known by the shape of this key" in unknown.text) == (422, True)

    fields = {"provider": "GitHub", "label": "confused", "secret": OPENAI}
    asked = await site.submit("/credentials", cookie, fields, form_token=token)
    assert asked.status == 422
    assert "The key has the shape of the keys of openai." in asked.text
    assert 'name="as_typed"' in asked.text
    assert OPENAI not in asked.text
    assert await stored("confused") is None
    confirmed = await site.submit("/credentials", cookie, {**fields, "as_typed": "openai"}, form_token=token)
    assert confirmed.status == 303
    assert await stored("confused") == "github"
    agreed = await site.submit(
        "/credentials", cookie, {**fields, "provider": "chatgpt", "label": "agreed"}, form_token=token
    )
    assert agreed.status == 303
    assert await stored("agreed") == "openai"
    # The confirmation is about the shape that was shown: a key of another one is asked about again.
    other = {**fields, "label": "another key", "provider": "gitlab", "as_typed": "github"}
    assert (await site.submit("/credentials", cookie, other, form_token=token)).status == 422
    assert (
        await site.submit("/credentials", cookie, {**fields, "provider": "a b", "as_typed": "openai"}, form_token=token)
    ).status == 422


async def test_administration_names_every_unreadable_credential_and_its_owner_page_by_page(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("health")
    async with open_site(sqlite_place(directory)) as site:
        for number in range(53):
            await site.add(f"lost {number:02}", provider="groq")
        await site.add("sound")
        with closing(sqlite3.connect(directory / "keyhall.db")) as database, database:
            database.execute("UPDATE api_credentials SET encrypted_value = x'00' WHERE provider = 'groq'")
        cookie, _ = await site.log_in_browser()
        first = await site.page("/admin/credentials", cookie)
        assert "0 of 53" in first.text
        assert "1 of 1" in first.text
        assert first.text.count(f"<span>{OWNER}</span>") == 50
        following = re.search(r'rel="next" href="([^"]+)"', first.text)
        assert following
        second = await site.page(following[1], cookie)
        assert second.text.count(f"<span>{OWNER}</span>") == 3
        assert len(set(re.findall(r"<strong>(lost \d\d)</strong>", first.text + second.text))) == 53
        assert SECRET not in first.text
        assert (await site.page("/admin/credentials?cursor=x", cookie)).status == 422
