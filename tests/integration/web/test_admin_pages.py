"""The pages of administration for users and the audit trail, as a browser without scripts uses them."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from app.domain.backup import BackupRecord, Rehearsal
from app.domain.backup_plan import Keep
from app.domain.diagnosis import Check, Diagnosis, failed
from app.domain.errors import StorageBusy
from app.domain.identity import Actor, Client, GuildContext, Role, Source
from app.infrastructure.clock import SystemClock
from app.services.audit_trail import AuditReading, AuditVerification
from app.services.install_health import InstallHealth
from app.web.pages.admin import audit
from tests.support.samples import ABSENT, OWNER, PASSWORD, SECRET
from tests.support.web import Answer, Site

pytestmark = pytest.mark.asyncio(loop_scope="module")
USERS = "/admin/users"
AUDIT = "/admin/audit"
BACKUPS = "/admin/backups"
GUILD = "900000000000000011"


async def _user(site: Site, name: str, role: Role = Role.MEMBER) -> str:
    identity = site.services.identity
    return (await identity.create(await identity.operator(), name, PASSWORD, role)).id


async def _as(site: Site, name: str) -> tuple[str, str]:
    answer = await site.submit("/login", "", username=name, password=PASSWORD, next="/")
    assert answer.status == 303, answer.text
    return answer.cookie(), (await site.page("/credentials", answer.cookie())).form_token()


def _link(answer: Answer) -> str:
    assert answer.status == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    (link,) = re.findall(r'id="secret"[^>]*>([^<]+)</pre>', answer.text)
    return str(link)


def _said(answer: Answer) -> str:
    """The text of a page, without its markup."""
    return " ".join(re.sub(r"<[^>]+>", "", answer.text).split())


async def _stale(site: Site, cookie: str) -> None:
    """As if the password had been proven long ago."""
    me = (await site.request("GET", "/api/v1/auth/me", cookie=cookie)).json
    async with site.services.users._storage.write() as uow:
        await uow.sessions.prove(me["session_id"], datetime(2026, 1, 1, tzinfo=UTC))


# ---------------------------------------------------------------------------------------------------------------------
# Users
# ---------------------------------------------------------------------------------------------------------------------


async def test_users_are_found_by_name_role_and_state(site: Site) -> None:
    await _user(site, "finder-one", Role.AUDITOR)
    two = await _user(site, "finder-two")
    cookie, token = await site.log_in_browser()
    assert (await site.submit(f"{USERS}/{two}/disable", cookie, form_token=token)).status == 303

    async def found(**wanted: str) -> set[str]:
        answer = await site.page(f"{USERS}?{urlencode(wanted)}", cookie)
        assert answer.status == 200
        return set(re.findall(r"<strong>([^<]+)</strong>", answer.text))

    assert await found(name="FINDER") == {"finder-one", "finder-two"}
    assert await found(name="finder", role="auditor") == {"finder-one"}
    assert await found(name="finder", state="disabled") == {"finder-two"}
    assert await found(name="<b>") == set()
    owner = await site.page(f"{USERS}?name={OWNER}", cookie)
    assert "last seen" in owner.text
    for wrong in ({"role": "king"}, {"state": "on"}, {"cursor": "x"}, {"name": "x" * 300}, {"name": "\0"}):
        answer = await site.page(f"{USERS}?{urlencode(wrong)}", cookie)
        assert answer.status == 422
        assert 'role="alert"' in answer.text


async def test_the_list_has_pages(site: Site) -> None:
    for number in range(51):
        async with site.services.users._storage.write() as uow:
            actor = await site.services.identity.operator()
            await site.services.identity.add_claimable(uow, actor, f"crowd-{number}", Role.MEMBER)
    cookie, _ = await site.log_in_browser()
    first = await site.page(f"{USERS}?name=crowd", cookie)
    (more,) = re.findall(r'href="(/admin/users\?[^"]+cursor=[^"]+)"', first.text)
    second = await site.page(more.replace("&amp;", "&"), cookie)
    names = [re.findall(r"<strong>(crowd-\d+)</strong>", each.text) for each in (first, second)]
    assert ([len(each) for each in names], len(set(names[0] + names[1]))) == ([50, 1], 51)
    assert "From the beginning" in second.text


async def test_an_account_is_made_and_its_link_is_in_the_answer_alone(site: Site) -> None:
    cookie, token = await site.log_in_browser()
    form = await site.page(f"{USERS}/new", cookie)
    (key,) = set(re.findall(r'name="request_key" value="([^"]+)"', form.text))
    fields = {"form_token": token, "username": "page-made", "role": "auditor", "request_key": key}
    made = await site.submit(f"{USERS}/new", cookie, fields)
    link = _link(made)
    assert link.startswith(f"{site.url}/claim#khl_")
    again = await site.submit(f"{USERS}/new", cookie, fields)
    assert again.status == 200
    assert "sent twice" in again.text
    secret = link.partition("#")[2]
    (path,) = re.findall(r'href="(/admin/users/[0-9a-f-]{36})"', again.text)
    for page in (again, await site.page(path, cookie), await site.page(USERS, cookie)):
        assert secret not in page.text
    assert "has not signed in yet" in (await site.page(path, cookie)).text
    claimed = await site.submit("/claim", "", token=link, password=PASSWORD)
    assert claimed.status == 303
    assert "active" in (await site.page(path, cookie)).text
    taken = await site.submit(f"{USERS}/new", cookie, {**fields, "request_key": "another"})
    assert (taken.status, 'value="page-made"' in taken.text) == (409, True)


async def test_an_invitation_is_made_listed_and_withdrawn(site: Site) -> None:
    cookie, token = await site.log_in_browser()
    made = await site.submit(f"{USERS}/invitations", cookie, form_token=token, invited_role="auditor", days="1")
    link = _link(made)
    assert link.startswith(f"{site.url}/claim#khi_")
    listed = await site.page(f"{USERS}/new", cookie)
    assert link.partition("#")[2] not in listed.text
    (path, *_) = re.findall(r'action="(/admin/users/invitations/[0-9a-f-]{36}/withdraw)"', listed.text)
    gone = await site.submit(path, cookie, form_token=token)
    assert (gone.status, gone.headers["Location"]) == (303, f"{USERS}/new?done=withdrawn")
    assert (await site.submit(path, cookie, form_token=token)).status == 404
    assert (await site.submit("/claim", "", token=link, username="too-late", password=PASSWORD)).status == 401
    for wrong in ({"invited_role": "owner"}, {"invited_role": "king"}, {"invited_role": "member", "days": "9" * 99}):
        refused = await site.submit(f"{USERS}/invitations", cookie, {"form_token": token, **wrong})
        assert refused.status in {403, 422}
        assert 'role="alert"' in refused.text


async def test_a_user_gets_another_role_and_a_reset(site: Site) -> None:
    user_id = await _user(site, "changing")
    theirs, _ = await _as(site, "changing")
    cookie, token = await site.log_in_browser()
    one = f"{USERS}/{user_id}"
    answer = await site.submit(f"{one}/role", cookie, form_token=token, role="auditor")
    assert answer.headers["Location"] == f"{one}?done=role"
    assert "The role is changed" in (await site.page(answer.headers["Location"], cookie)).text
    assert (await site.submit(f"{one}/unlock", cookie, form_token=token)).headers["Location"] == f"{one}?done=unlocked"
    link = _link(await site.submit(f"{one}/reset", cookie, form_token=token))
    assert (await site.page("/account", theirs)).headers["Location"].startswith("/login")
    assert link.partition("#")[2] not in (await site.page(one, cookie)).text
    assert (await site.submit(f"{one}/disable", cookie, form_token=token)).status == 303
    refused = await site.submit(f"{one}/reset", cookie, form_token=token)
    assert (refused.status, "enable it first" in refused.text) == (403, True)
    assert (await site.submit(f"{one}/enable", cookie, form_token=token)).status == 303
    assert (await site.submit(f"{one}/role", cookie, form_token=token, role="x" * 9999)).status == 422


async def test_the_last_owner_stays_and_the_form_says_why(site: Site) -> None:
    cookie, token = await site.log_in_browser()
    me = (await site.request("GET", "/api/v1/auth/me", cookie=cookie)).json["id"]
    for what, fields in (("disable", {}), ("role", {"role": "member"})):
        refused = await site.submit(f"{USERS}/{me}/{what}", cookie, {"form_token": token, **fields})
        assert refused.status == 409
        _, _, section = refused.text.partition(f'aria-labelledby="{what}-heading"')
        assert "only owner who can sign in" in section.partition("</section>")[0]


async def test_an_admin_sees_an_owner_without_forms(site: Site) -> None:
    await _user(site, "page-admin", Role.ADMIN)
    cookie, token = await _as(site, "page-admin")
    owner = (await site.request("GET", "/api/v1/auth/me")).json["id"]
    page = await site.page(f"{USERS}/{owner}", cookie)
    assert "Only an owner can change this account." in page.text
    assert f"{USERS}/{owner}/" not in page.text
    assert (await site.submit(f"{USERS}/{owner}/disable", cookie, form_token=token)).status == 403
    new = await site.page(f"{USERS}/new", cookie)
    assert 'value="owner"' not in new.text


async def test_who_proved_long_ago_confirms_and_comes_back_with_what_was_typed(site: Site) -> None:
    await _user(site, "sleepy", Role.ADMIN)
    cookie, token = await _as(site, "sleepy")
    await _stale(site, cookie)
    fields = {"form_token": token, "username": "later", "role": "auditor"}
    away = await site.submit(f"{USERS}/new", cookie, fields)
    assert (away.status, away.headers["Location"]) == (303, f"/account/confirm?next={USERS}/new")
    page = await site.page(away.headers["Location"], cookie)
    assert f'name="next" value="{USERS}/new"' in page.text
    proof = {"form_token": token, "password": PASSWORD, "next": f"{USERS}/new"}
    back = await site.submit("/account/confirm", cookie, proof)
    assert (back.status, back.headers["Location"]) == (303, f"{USERS}/new?done=confirmed")
    kept = await site.page(back.headers["Location"], f"{back.cookie()}; {away.cookie()}")
    assert 'value="later"' in kept.text
    assert "It is confirmed that it is you" in kept.text
    elsewhere = await site.submit("/account/confirm", back.cookie(), {**proof, "next": "//evil.example"})
    assert elsewhere.headers["Location"] == "/?done=confirmed"


# ---------------------------------------------------------------------------------------------------------------------
# Audit trail
# ---------------------------------------------------------------------------------------------------------------------


async def test_rows_are_sentences_and_filters_find_them(site: Site) -> None:
    await _user(site, "watcher", Role.AUDITOR)
    cookie, _ = await _as(site, "watcher")
    page = await site.page(f"{AUDIT}?actor=watcher&action=auth&result=ok", cookie)
    assert "watcher signed in." in page.text
    assert "127.0.0.1" in page.text
    assert OWNER not in page.text.partition('class="rows events"')[2].partition("</ul>")[0]
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert "watcher signed in." in (await site.page(f"{AUDIT}?actor=watcher&since={today}&until={today}", cookie)).text
    assert "No row is like that." in (await site.page(f"{AUDIT}?until=2020-01-01", cookie)).text
    wrong: dict[str, str] = {
        "since": "9999-99-99",
        "until": "9999-12-31",
        "action": "NO",
        "about": "x",
        "result": "so",
        "older": "x",
        "newer": "-1",
        "actor": "x" * 300,
    }
    for name, text in wrong.items():
        answer = await site.page(f"{AUDIT}?{urlencode({name: text})}", cookie)
        assert answer.status == 422, name
        assert 'role="alert"' in answer.text
    assert (await site.page(f"{AUDIT}?unknown=1&actor=a&actor=b", cookie)).status == 200


async def test_the_trail_is_read_back_and_forth(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie, token = await site.log_in_browser()
    user_id = await _user(site, "busy")
    for _ in range(51):
        await site.submit(f"{USERS}/{user_id}/unlock", cookie, form_token=token)
    latest = await site.page(f"{AUDIT}?action=user.unlocked", cookie)
    (older,) = re.findall(r'href="([^"]+)" rel="next"', latest.text)
    assert 'rel="prev"' not in latest.text
    last = await site.page(older.replace("&amp;", "&"), cookie)
    (newer,) = re.findall(r'href="([^"]+)" rel="prev"', last.text)
    back = await site.page(newer.replace("&amp;", "&"), cookie)
    rows = [re.findall(r'class="event"', each.text) for each in (latest, last, back)]
    assert len(rows[0]) == len(rows[2]) == 50
    assert rows[1]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_the_export_is_a_file_of_what_the_filters_leave(site: Site, form: str) -> None:
    cookie, _ = await site.log_in_browser()
    answer = await site.page(f"{AUDIT}/export?format={form}&action=install", cookie)
    assert answer.status == 200
    assert answer.headers["Content-Disposition"] == f'attachment; filename="audit.{form}"'
    assert answer.headers["Cache-Control"] == "no-store"
    if form == "jsonl":
        (row,) = [json.loads(line) for line in answer.text.splitlines()]
    else:
        (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["action"], row["result"]) == ("install.created", "ok")
    none = await site.page(f"{AUDIT}/export?format={form}&until=2020-01-01", cookie)
    assert none.text.count("\n") == (form == "csv")
    for wrong in ("format=xml", "format=csv&action=NO", "since=never"):
        assert (await site.page(f"{AUDIT}/export?{wrong}", cookie)).status == 422


async def test_an_export_that_breaks_off_is_no_whole_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie, _ = await site.log_in_browser()
    whole = AuditReading.all

    async def breaks_off(*arguments: Any) -> Any:
        async for rows in whole(*arguments):
            yield rows
            raise StorageBusy

    monkeypatch.setattr(AuditReading, "all", breaks_off)
    with pytest.raises(Exception, match=r"(?i)payload|disconnected|reset"):
        await site.page(f"{AUDIT}/export", cookie)


async def test_a_verification_says_when_and_what_it_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.services.audit_sealing.seal()
    cookie, token = await site.log_in_browser()
    well = await site.submit(f"{AUDIT}/verify", cookie, form_token=token)
    assert re.search(r"Verified \d+ \w+ \d{4}, \d\d:\d\d UTC: nothing was changed", _said(well))
    monkeypatch.setattr(audit, "_VERIFY_SECONDS", 0.0)
    long = await site.submit(f"{AUDIT}/verify", cookie, form_token=token)
    assert "keyhall audit verify" in long.text
    monkeypatch.undo()
    segments = AuditVerification.segments

    async def without_the_first(verification: AuditVerification) -> Any:
        return (await segments(verification))[1:]

    monkeypatch.setattr(AuditVerification, "segments", without_the_first)
    flawed = await site.submit(f"{AUDIT}/verify", cookie, form_token=token)
    assert "something is wrong. segment 1 is missing" in _said(flawed)


# ---------------------------------------------------------------------------------------------------------------------
# Backups and health
# ---------------------------------------------------------------------------------------------------------------------


def _plan(site: Site, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    plan = replace(site.services.backups._plan, **changes)
    monkeypatch.setattr(site.services.backups, "_plan", plan)


async def test_a_place_without_a_recipient_says_what_to_set(site: Site) -> None:
    cookie, token = await site.log_in_browser()
    page = await site.page(BACKUPS, cookie)
    assert "<code>BACKUP_RECIPIENT</code>" in page.text
    assert "No backup was made yet." in page.text
    assert "<button>Make a backup now" not in page.text
    refused = await site.submit(BACKUPS, cookie, form_token=token)
    assert (refused.status, "BACKUP_RECIPIENT is not set" in refused.text) == (409, True)
    assert (await site.submit(f"{BACKUPS}/rehearse", cookie, form_token=token)).status == 404
    assert (await site.page(f"{BACKUPS}?cursor=x", cookie)).status == 422


async def test_a_backup_and_a_rehearsal_are_asked_for_and_followed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie, token = await site.log_in_browser()
    _plan(site, monkeypatch, recipient="age1" + "x" * 58)
    assert "<code>BACKUP_SCHEDULE</code>" in (await site.page(BACKUPS, cookie)).text
    _plan(site, monkeypatch, schedule="0 3 * * *", keep=Keep(number=7, age=timedelta(days=30)))
    page = await site.page(BACKUPS, cookie)
    assert "<code>BACKUP_SCHEDULE</code>" not in page.text
    assert "the latest 7, all of the last 30 days" in page.text
    begun = await site.submit(BACKUPS, cookie, form_token=token)
    assert begun.status == 303
    assert "It waits for a worker" in (await site.page(begun.headers["Location"], cookie)).text
    assert (await site.page(f"{BACKUPS}?job={ABSENT}", cookie)).status == 404
    assert (await site.page(f"{BACKUPS}?job=<b>", cookie)).status == 200
    record = BackupRecord(
        id=site.services.randomness.new_id(),
        path="/elsewhere/keyhall-1.age",
        managed=True,
        created_at=datetime(2026, 11, 1, tzinfo=UTC),
        size=1_234_567,
        sha256="0" * 64,
        credentials=3,
        unreadable=0,
        users=2,
        verified_at=datetime(2026, 11, 1, tzinfo=UTC),
        rehearsed_at=datetime(2026, 11, 2, tzinfo=UTC),
        rehearsal=Rehearsal.FAILED,
        rehearsal_note="failed: 1 unreadable",
    )
    async with site.services.backups._storage.write() as uow:
        await uow.backups.add(record)
        await uow.backups.note_rehearsal(
            record.id, datetime(2026, 11, 2, tzinfo=UTC), Rehearsal.FAILED, "failed: 1 unreadable"
        )
    listed = _said(await site.page(BACKUPS, cookie))
    for said in (
        "keyhall-1.age",
        "1.2 MB, 3 credentials, 2 users.",
        "Rehearsed 2 Nov 2026",
        "the trial failed",
        "not on",
    ):
        assert said in listed
    rehearsed = await site.submit(f"{BACKUPS}/rehearse", cookie, form_token=token)
    assert "Rehearsal." in (await site.page(rehearsed.headers["Location"], cookie)).text
    await _stale(site, cookie)
    away = await site.submit(BACKUPS, cookie, form_token=token)
    assert away.headers["Location"] == f"/account/confirm?next={BACKUPS}"
    await _user(site, "looks-on", Role.AUDITOR)
    theirs, _ = await _as(site, "looks-on")
    page = await site.page(BACKUPS, theirs)
    assert (page.status, 'action="/admin/backups' in page.text) == (200, False)


async def test_the_checks_are_lines_with_their_remedies(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie, _ = await site.log_in_browser()
    page = await site.page("/admin/health", cookie)
    over_rest = (await site.request("GET", "/api/v1/admin/health")).json
    assert over_rest["ok"] is all(each["state"] != "failed" for each in over_rest["checks"])
    names = {each["name"] for each in over_rest["checks"]}
    assert {"database", "schema", "keys", "backup", "disk", "clock", "discord", "secrets backend"} <= names
    for name in names:
        assert f"<strong>{name}</strong>" in page.text
    assert "worth a look" in page.text
    health = InstallHealth(
        examine=lambda: _found(failed("database", "<b> did not answer", "start it")), clock=SystemClock()
    )
    monkeypatch.setattr(site.services.install_health, "_examine", health._examine)
    monkeypatch.setattr(site.services.install_health, "_latest", None)
    bad = await site.page("/admin/health", cookie)
    assert "1 check found something wrong." in bad.text
    assert "&lt;b&gt; did not answer" in bad.text


async def _found(check: Check) -> Diagnosis:
    return Diagnosis((check,))


# ---------------------------------------------------------------------------------------------------------------------
# A server
# ---------------------------------------------------------------------------------------------------------------------


async def _share(site: Site, user_id: str, label: str) -> str:
    """Have somebody share a credential with the server, as they do from Discord."""
    sharer = Actor(
        user_id=user_id,
        subject_id=None,
        username="sharer",
        role=Role.MEMBER,
        client=Client(source=Source.DISCORD),
        guild=GuildContext(guild_id=GUILD, manages_guild=True),
    )
    added = await site.services.credentials.add(sharer, provider="openai", label=label, secret=SECRET, guild_id=GUILD)
    return added.view.id


async def test_a_server_shows_each_reader_what_they_may_see_and_take_away(site: Site) -> None:
    mona, nils = await _user(site, "mona"), await _user(site, "nils")
    hers, his = await _share(site, mona, "of <mona>"), await _share(site, nils, "of nils")
    path = f"/guilds/{GUILD}"
    owner, token = await site.log_in_browser()
    page = await site.page(path, owner)
    assert "of &lt;mona&gt;" in page.text
    assert "shared by nils" in page.text
    assert SECRET not in page.text
    monas, her_token = await _as(site, "mona")
    page = await site.page(path, monas)
    assert "of &lt;mona&gt;" in page.text
    assert "nils" not in page.text
    assert (
        await site.submit(f"{path}/credentials/{his}/remove", monas, form_token=her_token, version="1")
    ).status == 404
    await _user(site, "onlooker", Role.AUDITOR)
    theirs, their_token = await _as(site, "onlooker")
    page = await site.page(path, theirs)
    assert ("of nils" in page.text, "/remove" in page.text) == (True, False)
    refused = await site.submit(f"{path}/credentials/{his}/remove", theirs, form_token=their_token, version="1")
    assert refused.status == 404

    stale = await site.submit(f"{path}/credentials/{his}/remove", owner, form_token=token, version="7")
    assert (stale.status, "changed in the meantime" in stale.text) == (412, True)
    gone = await site.submit(f"{path}/credentials/{his}/remove", owner, form_token=token, version="1")
    assert gone.headers["Location"] == f"{path}?done=removed"
    assert "of nils" not in (await site.page(gone.headers["Location"], owner)).text
    own = await site.submit(f"{path}/credentials/{hers}/remove", monas, form_token=her_token, version="1")
    assert own.headers["Location"] == "/credentials?done=removed"
    assert (await site.page(path, monas)).status == 404
    assert "Nothing is shared with this server." in (await site.page(path, owner)).text
    for strange in ("0", "1" * 300, "99999999999999999999", "abc", "%00"):
        assert (await site.page(f"/guilds/{strange}", owner)).status == 404
    for wrong in ("x", "9" * 30, ""):
        answer = await site.submit(f"{path}/credentials/{his}/remove", owner, form_token=token, version=wrong)
        assert answer.status == 422
