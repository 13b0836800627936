"""The pages as plain forms, without any script."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from app.domain.errors import CredentialUnreadable, StorageError
from app.domain.identity import Role
from app.web import WebOptions
from app.web.api.documentation import DOCUMENT
from tests.support.samples import ABSENT, OWNER, PASSWORD, SECRET
from tests.support.web import Answer, Site, filled, open_site, served, sqlite_place, without

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_bot_that_discord_refused_is_said_and_its_invitation_is_there_once_it_logged_in(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    stopped = "The bot stopped. Discord refused the token: set DISCORD_BOT_TOKEN. Then start Keyhall again."
    invite = "https://discord.example/oauth2/authorize?client_id=4711"
    async with open_site(sqlite_place(tmp_path_factory.mktemp("bot")), owner=False) as site:
        bot = site.services.bot_state
        assert "The bot" not in (await site.page("/setup")).text
        await bot.stopped("Discord refused the token", "set DISCORD_BOT_TOKEN")
        assert stopped in (await site.page("/setup")).text
        assert (await site.request("GET", "/readyz", token="")).json["bot"] == "stopped"
        token = site.services.keys.setup_token().reveal()
        wrong = await site.submit("/setup", "", setup_token="wrong", username=OWNER, password=PASSWORD)
        assert stopped in wrong.text
        await bot.logged_in(invite)
        shown = (await site.page("/setup")).text
        assert "The bot stopped" not in shown
        assert f'href="{invite}"' in shown
        assert (await site.submit("/setup", "", setup_token=token, username=OWNER, password=PASSWORD)).status == 303
        cookie, _ = await site.log_in_browser()
        assert f'href="{invite}"' in (await site.page("/", cookie)).text
        assert (await site.request("GET", "/readyz", token="")).json["bot"] == "logged_in"
        await bot.stopped("Discord refused the token", "set DISCORD_BOT_TOKEN")
        assert stopped in (await site.page("/", cookie)).text


async def test_a_fresh_house_leads_to_its_setup_and_afterwards_to_signing_in(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    options = WebOptions(discord_client_id="1234567890")
    async with open_site(sqlite_place(tmp_path_factory.mktemp("fresh")), options, owner=False) as site:
        assert (await site.page("/")).headers["Location"] == "/login"
        assert (await site.page("/login")).headers["Location"] == "/setup"
        form = await site.page("/setup")
        assert "setup token=" in form.text
        assert "https://discord.com/oauth2/authorize?client_id=1234567890&amp;" in form.text
        token = site.services.keys.setup_token().reveal()
        assert token not in form.text

        wrong = await site.submit("/setup", "", setup_token="wrong", username=OWNER, password=PASSWORD)
        assert wrong.status == 401
        assert "setup token is wrong" in wrong.text
        assert f'value="{OWNER}"' in wrong.text
        short = await site.submit("/setup", "", setup_token=token, username=OWNER, password="short")
        assert short.status == 422
        assert "Password must be 12 to 256 characters." in short.text
        assert f'value="{token}"' in short.text  # nobody looks it up twice for a mistake in another field

        made = await site.submit("/setup", "", setup_token=token, username=OWNER, password=PASSWORD)
        assert (made.status, made.headers["Location"]) == (303, "/")
        hall = await site.page("/", made.cookie())
        assert (hall.status, "Put the master key on paper" in hall.text) == (200, True)
        assert (await site.page("/setup")).headers["Location"] == "/login"
        again = await site.submit("/setup", "", setup_token=token, username="second", password=PASSWORD)
        assert (again.status, again.headers["Location"]) == (303, "/login?done=owner")
        assert "There is an owner already." in (await site.page("/login?done=owner")).text


async def test_a_wrong_password_shows_the_form_again_without_it(site: Site) -> None:
    answer = await site.submit("/login", "", username=OWNER, password="canary of a password", next="/credentials")
    assert answer.status == 401
    assert "The username or password is wrong." in answer.text
    assert "canary" not in answer.text
    assert 'value="/credentials"' in answer.text
    assert "Set-Cookie" not in answer.headers


async def test_too_many_attempts_are_told_on_the_page_too(site: Site) -> None:
    answers = [await site.submit("/login", "", username="besieged", password="not it") for _ in range(12)]
    assert answers[-1].status == 429
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert "Try again in" in answers[-1].text


async def test_the_hall_says_the_one_thing_to_do_and_shows_the_keys_to_those_who_may(site: Site) -> None:
    cookie, _ = await site.log_in_browser()
    page = await site.page("/", cookie)
    assert page.status == 200
    assert len(re.findall(r'<h1 class="sentence">[^<]+\.</h1>', page.text)) == 1
    for name in ("JWT_SECRET_KEY", "AES_KEY", "ENCRYPTION_KEY", "API_SECRET_KEY"):
        assert name in page.text
    assert "AUDIT_SEAL_KEY" not in page.text


def _id_of(text: str, label: str) -> str:
    found = re.search(
        rf'href="/credentials/([0-9a-f-]{{36}})">(?:(?!</a>).)*<strong>{re.escape(label)}</strong>', text, re.DOTALL
    )
    assert found, f"{label} is not on the page"
    return found[1]


async def test_a_credential_from_adding_to_restoring(site: Site) -> None:
    cookie, token = await site.log_in_browser()

    async def submit(path: str, **fields: str) -> Answer:
        return await site.submit(path, cookie, fields, form_token=token)

    form = await site.page("/credentials/new", cookie)
    key = re.search(r'name="request_key" value="([^"]+)"', form.text)
    assert key
    fields = {
        "provider": "OpenAI",
        "label": "on paper",
        "secret": SECRET,
        "expires": "2099-12-31",
        "request_key": key[1],
    }
    for _ in range(2):  # sent twice, stored once
        added = await submit("/credentials", **fields)
        assert (added.status, added.headers["Location"]) == (303, "/credentials?done=added")
    listed = await site.page("/credentials?done=added", cookie)
    assert "Stored." in listed.text
    assert listed.text.count("<strong>on paper</strong>") == 1
    assert SECRET not in listed.text
    assert re.search(r"expires <time[^>]*>31 Dec 2099</time>", listed.text)
    path = f"/credentials/{_id_of(listed.text, 'on paper')}"

    changed = await submit(f"{path}/change", label="on parchment", expires="", expires_before="2099-12-31", version="1")
    assert changed.headers["Location"] == f"{path}?done=changed"
    page = await site.page(f"{path}?done=changed", cookie)
    assert "<h1>on parchment</h1>" in page.text
    assert 'name="version" value="2"' in page.text
    assert "2099" not in page.text

    stale = await submit(f"{path}/replace", secret=SECRET[::-1], version="1")
    assert stale.status == 412
    assert "It was changed in the meantime." in stale.text
    assert SECRET[::-1] not in stale.text
    assert (await submit(f"{path}/replace", secret=SECRET[::-1], version="2")).status == 303

    revealed = await submit(f"{path}/reveal")
    assert revealed.status == 200
    assert revealed.headers["Cache-Control"] == "no-store"
    assert SECRET[::-1] in revealed.text
    assert SECRET[::-1] not in (await site.page(path, cookie)).text

    removed = await submit(f"{path}/remove", version="3")
    assert removed.headers["Location"].startswith("/credentials?done=removed&id=")
    after = await site.page(removed.headers["Location"], cookie)
    assert "Removed. It can be restored for seven days." in after.text
    assert f'action="{path}/restore"' in after.text
    assert "<strong>on parchment</strong>" not in after.text
    assert "<strong>on parchment</strong>" in (await site.page("/credentials?show=removed", cookie)).text
    gone = await site.page(path, cookie)
    assert (gone.status, f'action="{path}/restore"' in gone.text, f'action="{path}/purge"' in gone.text) == (
        200,
        True,
        True,
    )
    assert (await submit(f"{path}/restore")).headers["Location"] == "/credentials?done=restored"
    assert "<strong>on parchment</strong>" in (await site.page("/credentials", cookie)).text


async def test_relabelling_leaves_the_moment_of_expiry_alone(site: Site) -> None:
    made = await site.add("to the minute", expires_at="2099-06-01T08:15:00Z")
    cookie, token = await site.log_in_browser()
    path = f"/credentials/{made['id']}"
    page = await site.page(path, cookie)
    assert 'name="expires_before" value="2099-06-01"' in page.text
    fields = {"label": "to the minute still", "expires": "2099-06-01", "expires_before": "2099-06-01", "version": "1"}
    assert (await site.submit(f"{path}/change", cookie, fields, form_token=token)).status == 303
    after = (await site.request("GET", f"/api/v1{path}")).json
    assert (after["label"], after["expires_at"]) == ("to the minute still", "2099-06-01T08:15:00Z")


async def test_where_the_bot_is_known_the_pages_say_how_to_invite_it(site: Site) -> None:
    cookie, _ = await site.log_in_browser()
    async with served(site.services, WebOptions(discord_client_id="1234567890")) as with_bot:
        page = (await with_bot.page("/", cookie)).text
        invite = "https://discord.com/oauth2/authorize?client_id=1234567890&amp;scope=bot+applications.commands"
        assert f'href="{invite}&amp;permissions=0"' in page
    assert "discord.com/oauth2" not in (await site.page("/", cookie)).text


async def test_the_same_secret_again_is_said_to_have_changed_nothing(site: Site) -> None:
    cookie, token = await site.log_in_browser()
    path = f"/credentials/{(await site.add('unchanged'))['id']}"
    same = await site.submit(f"{path}/replace", cookie, form_token=token, secret=f" {SECRET}\r\n", version="1")
    assert same.headers["Location"] == f"{path}?done=same"
    assert "Nothing changed: that secret is in force already." in (await site.page(f"{path}?done=same", cookie)).text


async def test_a_removed_credential_is_deleted_for_good_on_the_page_of_the_removed(site: Site) -> None:
    cookie, token = await site.log_in_browser()
    path = f"/credentials/{(await site.add('for good'))['id']}"
    await site.submit(f"{path}/remove", cookie, form_token=token, version="1")
    page = await site.page("/credentials?show=removed", cookie)
    assert f'action="{path}/purge"' in page.text
    stale = await site.submit(f"{path}/purge", cookie, form_token=token, version="1")
    assert (stale.status, "for good" in stale.text) == (412, True)
    gone = await site.submit(f"{path}/purge", cookie, form_token=token, version="2")
    assert gone.headers["Location"] == "/credentials?show=removed&done=purged"
    after = await site.page(gone.headers["Location"], cookie)
    assert "Deleted for good." in after.text
    assert path not in after.text


async def test_a_form_sent_after_the_session_ended_keeps_all_but_the_secret(site: Site) -> None:
    cookie, token = await site.log_in_browser()
    made = await site.add("drafted")
    form = await site.page("/credentials/new", cookie)
    account = form.text.partition('name="account" value="')[2].partition('"')[0]
    await site.submit("/logout", cookie, form_token=token)
    forms = {
        "/credentials": ("/credentials/new", {"provider": "github", "label": "a long label", "expires": "2099-12-31"}),
        f"/credentials/{made['id']}/change": (
            f"/credentials/{made['id']}",
            {"label": "relabelled", "expires": "2099-12-30", "expires_before": "", "version": "1"},
        ),
    }
    for path, (page, typed) in forms.items():
        ended = await site.submit(path, cookie, {**typed, "secret": SECRET}, form_token=token, account=account)
        assert (ended.status, ended.headers["Location"]) == (303, f"/login?next={page}&done=ended")
        draft = ended.headers["Set-Cookie"]
        assert draft.startswith("keyhall-draft=")
        assert "HttpOnly" in draft
        assert "Max-Age=600" in draft
        kept = base64.urlsafe_b64decode(draft.partition("=")[2].partition(";")[0] + "==").decode()
        assert SECRET not in kept
        entry = await site.page(ended.headers["Location"])
        assert "Your session had ended, so nothing was changed." in entry.text
        again = await site.submit("/login", "", username=OWNER, password=PASSWORD, next=page)
        assert again.headers["Location"] == page
        both = f"{again.cookie()}; {draft.partition(';')[0]}"
        back = await site.page(page, both)
        assert f'value="{typed["label"]}"' in back.text
        assert f'value="{typed["expires"]}"' in back.text
        assert back.headers["Set-Cookie"].startswith("keyhall-draft=;") or 'draft=""' in back.headers["Set-Cookie"]
        other = await site.page(f"/credentials/{(await site.add(f'another {len(page)}'))['id']}", both)
        assert typed["label"] not in other.text
        foreign = base64.urlsafe_b64encode(kept.replace(account, ABSENT).encode()).decode().rstrip("=")
        stranger = await site.page(page, f"{again.cookie()}; keyhall-draft={foreign}")
        assert typed["label"] not in stranger.text
        out = await site.submit("/logout", both, form_token=back.form_token())
        assert "keyhall-draft" in " ".join(out.headers.getall("Set-Cookie"))
    assert (await site.request("GET", f"/api/v1/credentials/{made['id']}")).json["label"] == "drafted"


@pytest.mark.parametrize(
    "value", ["", "x", "e30", "bnVsbA", "WzFd", "eyJwYWdlIjoiL2NyZWRlbnRpYWxzL25ldyIsInR5cGVkIjpbMV19", "\u00e9"]
)
async def test_what_is_no_draft_is_ignored(site: Site, value: str) -> None:
    cookie, _ = await site.log_in_browser()
    assert (await site.page("/credentials/new", f"{cookie}; keyhall-draft={value}")).status == 200


async def test_a_key_in_the_wrong_field_is_in_no_draft(site: Site) -> None:
    cookie, token = await site.log_in_browser()
    await site.submit("/logout", cookie, form_token=token)
    ended = await site.submit("/credentials", cookie, form_token=token, label=SECRET, provider="openai", secret="x")
    draft = ended.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
    assert SECRET not in base64.urlsafe_b64decode(draft + "==").decode()
    both = {"provider": "openai", "label": "my hunter2 again", "secret": " hunter2 "}
    again = await site.submit("/credentials", cookie, both, form_token=token)
    draft = again.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
    assert "hunter2" not in base64.urlsafe_b64decode(draft + "==").decode()
    fresh, token = await site.log_in_browser()
    refused = await site.submit("/credentials", fresh, both, form_token=token)
    assert (refused.status, "hunter2" in refused.text) == (422, False)


async def test_a_change_in_another_tab_leaves_the_typed_text_and_shows_the_stored_one(site: Site) -> None:
    cookie, token = await site.log_in_browser()
    path = f"/credentials/{(await site.add('two tabs'))['id']}"
    fields = {"expires": "", "expires_before": "", "version": "1"}
    first = await site.submit(f"{path}/change", cookie, {**fields, "label": "by the first"}, form_token=token)
    assert first.status == 303
    second = await site.submit(f"{path}/change", cookie, {**fields, "label": "by the second"}, form_token=token)
    assert second.status == 412
    assert 'value="by the second"' in second.text
    assert "Now it is called by the first." in second.text
    assert 'name="version" value="2"' in second.text


async def test_what_was_refused_does_not_come_back_on_the_page(site: Site) -> None:
    cookie, token = await site.log_in_browser()
    pasted = "ghp_kanarienvogelkanarienvogel0123"
    answer = await site.submit(
        "/credentials", cookie, form_token=token, provider="github", label=pasted, secret=f"{pasted}x", expires=""
    )
    assert answer.status == 422
    assert "Label looks like a key; labels are shown unencrypted." in answer.text
    assert pasted not in answer.text
    assert 'value="github"' in answer.text
    assert 'aria-describedby="label-hint refused"' in answer.text


@pytest.mark.parametrize("expires", ["tomorrow", "2001-01-01", "31.12.2099", "9999-99-99", "2099-12-31T00:00"])
async def test_a_day_that_cannot_be_is_refused(site: Site, expires: str) -> None:
    cookie, token = await site.log_in_browser()
    fields = {"provider": "openai", "label": f"never {expires}", "secret": SECRET, "expires": expires}
    answer = await site.submit("/credentials", cookie, fields, form_token=token)
    assert answer.status == 422
    assert "Expires " in answer.text


async def test_after_ten_minutes_revealing_asks_for_the_password_first(site: Site) -> None:
    made = await site.add("behind the password")
    path = f"/credentials/{made['id']}"
    cookie, token = await site.log_in_browser()
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=11), tick=True):
        await site.services.instances.catch_up()
        asked = await site.submit(f"{path}/reveal", cookie, form_token=token)
        assert asked.status == 401
        assert "Confirm your password" in asked.text
        assert SECRET not in asked.text
        assert 'class="refused"' not in asked.text
        wrong = await site.submit(f"{path}/reveal", cookie, form_token=token, password="canary, not it")
        assert wrong.status == 401
        assert "The username or password is wrong." in wrong.text
        assert "canary" not in wrong.text
        right = await site.submit(f"{path}/reveal", cookie, form_token=token, password=PASSWORD)
        assert right.status == 200
        assert SECRET in right.text
        assert (await site.page(path, cookie)).status == 303  # the session has another cookie now
        without_it = await site.submit(f"{path}/reveal", right.cookie(), form_token=token)
        assert without_it.status == 200


async def test_a_credential_that_cannot_be_read_says_so_where_it_was_asked_for(site: Site) -> None:
    class Unreadable:
        get = staticmethod(site.services.credentials.get)
        detail = staticmethod(site.services.credentials.detail)

        async def reveal(self, *_: object) -> None:
            raise CredentialUnreadable

    made = await site.add("unreadable")
    services = replace(site.services, credentials=Unreadable())  # type: ignore[arg-type]
    cookie, token = await site.log_in_browser()
    async with served(services) as broken:
        answer = await broken.submit(f"/credentials/{made['id']}/reveal", cookie, form_token=token)
        assert answer.status == 409
        assert "This credential cannot be read: enter it again." in answer.text


async def test_markup_in_a_label_stays_text(site: Site) -> None:
    label = '"><script> alert(1) </script>{{ 7*7 }}'
    made = await site.add(label)
    cookie, _ = await site.log_in_browser()
    for path in ("/credentials", f"/credentials/{made['id']}"):
        page = (await site.page(path, cookie)).text
        assert "<script> alert" not in page
        assert "&lt;script&gt; alert(1) &lt;/script&gt;{{ 7*7 }}" in page


async def test_nobody_sees_somebody_elses_credential(site: Site) -> None:
    cookie, token = await site.log_in_browser()
    for action in ("change", "replace", "reveal", "remove", "restore"):
        fields = {"label": "x", "expires": "", "version": "1"} if action == "change" else {}
        fields |= {"secret": "x" * 20, "version": "1"} if action == "replace" else {}
        fields |= {"version": "1"} if action == "remove" else {}
        answer = await site.submit(f"/credentials/{ABSENT}/{action}", cookie, fields, form_token=token)
        assert answer.status == 404, action
        assert "There is nothing here" in answer.text
    assert (await site.page(f"/credentials/{ABSENT}", cookie)).status == 404


async def test_a_session_that_ended_leads_to_signing_in_from_every_page(site: Site) -> None:
    cookie, token = await site.log_in_browser()
    assert (await site.submit("/logout", cookie, form_token=token)).status == 303
    for path, operations in site.app[DOCUMENT].content["paths"].items():
        if "get" in operations and operations["get"]["security"] and not path.startswith("/api"):
            answer = await site.page(filled(path), cookie)
            back = "" if path == "/" else f"?next={filled(path)}"
            assert (answer.status, answer.headers["Location"]) == (303, f"/login{back}")
    answer = await site.submit(f"/credentials/{ABSENT}/remove", cookie, form_token=token, version="1")
    assert (answer.status, answer.headers["Location"]) == (303, f"/login?next=/credentials/{ABSENT}&done=ended")


HOSTILE_FORMS = {
    "twice": b"username=a&username=b&password=c",
    "bad percent": b"username=%ff%fe&password=c",
    "raw bytes": b"username=\xff&password=c",
    "no equals": b"username",
    "unknown field": b"username=a&password=b&kanarienvogel=c",
    "hundreds of fields": b"&".join(b"a%d=kanarienvogel" % number for number in range(500)),
    "NUL": b"username=a%00&password=b",
    "surrogate": b"username=%ed%a0%80&password=b",
    "nothing": b"",
    "a megabyte": b"username=" + b"kanarienvogel" * 80_000,
}


@pytest.mark.parametrize("case", HOSTILE_FORMS)
async def test_a_hostile_form_is_refused_and_nothing_of_it_is_repeated(site: Site, case: str) -> None:
    headers = {
        "Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin", "Accept": "text/html"
    }  # fmt: skip
    for path in ("/login", "/setup"):
        answer = await site.request("POST", path, token="", data=HOSTILE_FORMS[case], headers=headers)
        assert 400 <= answer.status < 500, (path, answer.status)
        assert "kanarienvogel" not in answer.text


async def test_static_files_may_be_kept_for_ever_and_change_their_name_when_they_change(site: Site) -> None:
    page = await site.page("/login")
    paths = re.findall(r'(?:href|src)="(/static/[0-9a-f]{16}/[a-z.]+)"', page.text)
    assert {path.rpartition(".")[2] for path in paths} == {"css", "js", "svg"}
    for path in paths:
        answer = await site.request("GET", path, token="")
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert (await site.request("GET", path.replace("/static/", "/static/0"), token="")).status == 404


async def test_a_page_of_the_house_in_trouble_is_a_page(site: Site) -> None:
    cookie, _ = await site.log_in_browser()
    async with served(without(site.services, StorageError(), "dashboard")) as broken:
        page = await broken.page("/", cookie)
        assert page.status == 503
        assert "The database does not answer" in page.text
        assert page.headers["Retry-After"] == "2"


async def test_a_claim_keeps_what_was_typed_except_the_password_and_leads_to_signing_in(site: Site) -> None:
    identity = site.services.identity
    made = await identity.create_claimable(await identity.operator(), "claimed-by-form", Role.MEMBER)
    token = made.token.reveal()
    form = await site.page("/claim")
    assert form.status == 200
    assert "script-src 'self'" in form.headers["Content-Security-Policy"]
    short = await site.submit("/claim", "", token=token, username="claimed-by-form", password="short")
    assert short.status == 422
    assert token in short.text
    assert 'value="claimed-by-form"' in short.text
    assert 'value="short"' not in short.text
    wrong = await site.submit("/claim", "", token="khl_wrong", username="", password=PASSWORD)
    assert wrong.status == 401
    assert "khl_wrong" not in wrong.text
    assert "ask for a new one" in wrong.text
    done = await site.submit("/claim", "", token=token, username="", password=PASSWORD)
    assert (done.status, done.headers["Location"]) == (303, "/login?done=claimed")
    assert "The password is set" in (await site.page("/login?done=claimed")).text
    assert await site.log_in("claimed-by-form")


async def test_a_program_claims_an_account_once(site: Site) -> None:
    identity = site.services.identity
    made = await identity.create_claimable(await identity.operator(), "claimed-by-program", Role.AUDITOR)
    body = {"token": made.token.reveal(), "password": PASSWORD}
    weak = await site.request("POST", "/api/v1/auth/claim", token="", json={**body, "password": "password1234"})
    assert (weak.status, weak.code) == (422, "invalid_input")
    done = await site.request("POST", "/api/v1/auth/claim", token="", json=body)
    assert (done.status, done.json["username"], done.json["role"]) == (201, "claimed-by-program", "auditor")
    again = await site.request("POST", "/api/v1/auth/claim", token="", json=body)
    unknown = await site.request("POST", "/api/v1/auth/claim", token="", json={**body, "token": "khl_unknown"})
    assert (again.status, again.code, again.json["detail"]) == (unknown.status, unknown.code, unknown.json["detail"])


async def test_an_import_that_failed_at_the_start_is_said_to_those_who_manage_users(site: Site) -> None:
    cookie, _ = await site.log_in_browser()
    assert "was not imported" not in (await site.page("/", cookie)).text
    site.services.imports.note_failure("LEGACY_USERS_JSON was not imported: users.json is empty")
    try:
        assert "LEGACY_USERS_JSON was not imported: users.json is empty" in (await site.page("/", cookie)).text
    finally:
        site.services.imports.note_failure("")
