"""The pages of application keys: what each role is shown, the forms that change a key, and the events of a rotation."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
import time_machine

from app.domain.identity import Role
from app.domain.keys import APPLICATION_KEYS, KeyName, KeyState
from app.web import event_stream
from app.web.event_stream import STREAMS, STREAMS_PER_USER
from app.web.server import DRAIN_SECONDS
from app.worker.loop import run_worker
from tests.support.samples import ABSENT, OWNER, PASSWORD
from tests.support.web import Answer, Site, open_site, sqlite_place

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS = "/admin/keys"
AES = f"{KEYS}/AES_KEY"
WITHIN = 30
PEOPLE = {Role.ADMIN: "adam", Role.AUDITOR: "audrey", Role.MEMBER: "mia"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with open_site(sqlite_place(tmp_path_factory.mktemp("site"))) as opened:
        identity = opened.services.identity
        for role, name in PEOPLE.items():
            await identity.create(await identity.operator(), name, PASSWORD, role)
        yield opened


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams look and judge often, so that nobody waits for seconds."""
    for name in ("LOOK_EVERY_SECONDS", "IDENTIFY_EVERY_SECONDS"):
        monkeypatch.setattr(event_stream, name, 0.05)
    monkeypatch.setattr("app.services.rotation.watching.LOOK_EVERY_SECONDS", 0.0)


@asynccontextmanager
async def working(site: Site) -> AsyncIterator[None]:
    """A worker beside the web, as `keyhall run` has one."""
    worker = asyncio.create_task(run_worker(site.services))
    try:
        yield
    finally:
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker


async def in_a_browser(site: Site, name: str = OWNER) -> tuple[str, str]:
    """A new session: its cookie, and its form token."""
    answer = await site.submit("/login", "", username=name, password=PASSWORD)
    return answer.cookie(), (await site.page("/account", answer.cookie())).form_token()


async def prove_long_ago(site: Site, cookie: str) -> None:
    me = (await site.request("GET", "/api/v1/auth/me", cookie=cookie)).json
    async with site.services.passkeys._storage.write() as uow:
        await uow.sessions.prove(me["session_id"], datetime(2026, 1, 1, tzinfo=UTC))


async def rotated(site: Site, name: str, cookie: str, token: str, **fields: str) -> Answer:
    """The answer to the form of a rotation, as its page has it now."""
    primary = site.services.keys.ring.keysets[KeyName(name)].primary.version
    return await site.submit(f"{KEYS}/{name}/rotate", cookie, fields, form_token=token, primary=str(primary))


def job_of(answer: Answer) -> str:
    """The page of the job that a form leads to."""
    assert answer.status == 303, answer.text
    assert re.fullmatch(rf"{KEYS}/jobs/[0-9a-f-]{{36}}", answer.headers["Location"]), answer.headers["Location"]
    return answer.headers["Location"]


def shown(page: Answer) -> str:
    """The text of a page."""
    return re.sub(r"<[^>]*>", "", page.text)


async def completed(site: Site, page: str) -> None:
    async with working(site):
        async for _ in site.services.jobs.follow(page.rpartition("/")[2], site.services.rotation.job.carry_on):
            pass


# ---------------------------------------------------------------------------------------------------------------------
# What is shown
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN, Role.AUDITOR])
async def test_keys_are_shown_with_age_and_processes_and_only_owners_are_offered_changes(
    site: Site, role: Role
) -> None:
    cookie, _ = await in_a_browser(site, PEOPLE.get(role, OWNER))
    page = await site.page(KEYS, cookie)
    assert page.status == 200
    assert f'<a href="{KEYS}" aria-current="page">Keys</a>' in page.text
    for name in APPLICATION_KEYS:
        keyset = site.services.keys.ring.keysets[name]
        assert f'href="{KEYS}/{name}"' in page.text
        assert keyset.primary.fingerprint in page.text
        one = await site.page(f"{KEYS}/{name}", cookie)
        for version in keyset:
            assert version.fingerprint in one.text
        assert "has loaded it" in one.text
        for page_ in (page, one):
            assert (f'href="{KEYS}/{name}/rotate"' in page_.text) is (role is Role.OWNER)
        assert ("<form" in one.text.partition("<main")[2]) is (role is Role.OWNER)
    assert "has loaded every key" in page.text
    assert str((await site.services.instances.live())[0]) in page.text


async def test_names_and_versions_that_are_none_are_not_found(site: Site) -> None:
    cookie, token = await in_a_browser(site)
    paths = (f"{KEYS}/AUDIT_SEAL_KEY", f"{KEYS}/aes_key", f"{AES}/versions/99/revoke", f"{AES}/versions/0/revoke")
    for path in (*paths, f"{AES}/versions/{'9' * 400}/retire", f"{KEYS}/jobs/{ABSENT}", f"{KEYS}/jobs/1"):
        assert (await site.page(path, cookie)).status == 404, path
        fields = {"form_token": token, "confirmation": "AES_KEY"}
        assert (await site.submit(path, cookie, fields)).status in {404, 405}, path


# ---------------------------------------------------------------------------------------------------------------------
# Changes
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_rotation_is_asked_for_with_its_reason_and_leads_to_its_page(site: Site) -> None:
    cookie, token = await in_a_browser(site)
    asked = await site.page(f"{AES}/rotate", cookie)
    assert "Every stored secret is encrypted again" in asked.text
    begun = job_of(await rotated(site, "AES_KEY", cookie, token, reason="the yearly one"))
    waiting = await site.page(begun, cookie)
    assert "It waits for a worker." in waiting.text
    assert "Safe to close this page" in waiting.text
    assert "rotation.js" in waiting.text
    assert "It is being changed." in (await site.page(KEYS, cookie)).text
    before = site.services.keys.ring.keysets[KeyName.AES_KEY].primary
    await completed(site, begun)
    done = await site.page(begun, cookie)
    after = site.services.keys.ring.keysets[KeyName.AES_KEY].primary
    assert "Done." in done.text
    assert done.text.index(before.fingerprint) < done.text.index(after.fingerprint)
    assert ("rotation.js" in done.text, "Safe to close" in done.text, "going" in done.text) == (False, False, False)
    trail = await site.request("GET", "/api/v1/admin/audit?action=key.rotation_requested")
    assert trail.json["items"][0]["detail"].get("reason") == "the yearly one", trail.text


async def test_a_change_takes_a_proof_first_and_its_page_has_the_reason_again(site: Site) -> None:
    cookie, token = await in_a_browser(site)
    await prove_long_ago(site, cookie)
    path = f"{KEYS}/API_SECRET_KEY/rotate"
    away = await rotated(site, "API_SECRET_KEY", cookie, token, reason="leaver")
    assert (away.status, away.headers["Location"]) == (303, f"/account/confirm?next={path}")
    kept = f"{cookie}; {away.cookie()}"
    asked = await site.page(f"/account/confirm?next={path}", kept)
    assert f'name="next" value="{path}"' in asked.text
    wrong = await site.submit("/account/confirm", kept, form_token=token, password="wrong", next=path)
    assert (wrong.status, f'name="next" value="{path}"' in wrong.text) == (401, True)
    right = await site.submit("/account/confirm", kept, form_token=token, password=PASSWORD, next=path)
    assert (right.status, right.headers["Location"]) == (303, f"{path}?done=confirmed")
    back = await site.page(f"{path}?done=confirmed", f"{right.cookie()}; {away.cookie()}")
    assert 'value="leaver"' in back.text
    assert "It is confirmed" in back.text


async def test_a_proof_leads_to_no_other_site(site: Site) -> None:
    cookie, token = await in_a_browser(site)
    for elsewhere in ("//evil.example", "https://evil.example", "/\\evil", "javascript:x", "/a?b", ""):
        answer = await site.submit("/account/confirm", cookie, form_token=token, password=PASSWORD, next=elsewhere)
        assert answer.headers["Location"] == "/?done=confirmed", elsewhere
        cookie = answer.cookie()
    assert 'name="next" value="/account"' in (await site.page("/account/confirm", cookie)).text


async def test_a_version_is_revoked_by_typing_the_name_of_its_key(site: Site) -> None:
    cookie, token = await in_a_browser(site)
    name = KeyName.ENCRYPTION_KEY
    path = f"{KEYS}/{name}/versions/1/revoke"
    assert "This cannot be undone." in (await site.page(path, cookie)).text
    for typed in ("", "AES_KEY", "encryption_key"):
        refused = await site.submit(path, cookie, form_token=token, confirmation=typed, reason="leaked")
        assert (refused.status, "nothing was revoked" in refused.text) == (422, True)
        assert 'value="leaked"' in refused.text
    assert site.services.keys.ring.keysets[name].primary.version == 1
    begun = job_of(await site.submit(path, cookie, form_token=token, confirmation=f" {name} ", reason="leaked"))
    states = {each.version: each.state for each in site.services.keys.ring.keysets[name]}
    assert states == {1: KeyState.COMPROMISED, 2: KeyState.ACTIVE}
    await completed(site, begun)
    page = await site.page(f"{KEYS}/{name}", cookie)
    assert "compromised" in page.text
    assert f"{KEYS}/{name}/versions/1/revoke" not in page.text
    assert f"{KEYS}/{name}/rollback" not in page.text
    for way in ("revoke", "retire"):  # nothing is offered that would be refused
        asked = await site.page(f"{KEYS}/{name}/versions/1/{way}", cookie)
        assert (asked.status, "<form" in asked.text.partition("<main")[2]) == (409, False), way
    again = await site.submit(path, cookie, form_token=token, confirmation=name.value)
    assert (again.status, "compromised" in again.text) == (409, True)


async def test_rolling_back_and_retiring_say_why_they_cannot_be(site: Site) -> None:
    cookie, token = await in_a_browser(site)
    path = f"{KEYS}/JWT_SECRET_KEY"
    page = await site.page(f"{path}/rollback", cookie)
    assert "There is no former version" in page.text
    assert "<form" not in page.text.partition("<main")[2]
    none = {"primary": "1", "former": "1"}
    assert (await site.submit(f"{path}/rollback", cookie, none, form_token=token)).status == 409
    refused = await site.submit(f"{path}/versions/1/retire", cookie, form_token=token)
    assert (refused.status, "only a version out of use is retired" in refused.text) == (409, True)
    begun = job_of(await rotated(site, "JWT_SECRET_KEY", cookie, token))
    async with working(site), listening(site, begun, cookie) as response:
        while (await event(response))["step"] != "overlap":
            pass
    overlap = await site.page(begun, cookie)
    assert "They retire after" in overlap.text
    assert "A change is being completed." in (await site.page(KEYS, cookie)).text
    assert begun in (await site.page(path, cookie)).text
    back = await site.page(f"{path}/rollback", cookie)
    assert "Make version 1 primary" in back.text
    stale = {"form_token": token, "primary": "1", "former": "2"}
    for wrong in ({}, {"primary": "2"}, {"former": "1"}, {"primary": "x"}):
        refused = await site.submit(f"{path}/rollback", cookie, {**stale, **wrong})
        assert refused.status in {409, 422}, wrong
    assert "version 2 is primary now" in (await site.submit(f"{path}/rollback", cookie, stale)).text
    right = {"form_token": token, "primary": "2", "former": "1"}
    job_of(await site.submit(f"{path}/rollback", cookie, right))


# ---------------------------------------------------------------------------------------------------------------------
# Schedule and announcement
# ---------------------------------------------------------------------------------------------------------------------


async def test_the_schedule_is_changed_and_a_wrong_one_keeps_what_was_chosen(site: Site) -> None:
    cookie, token = await in_a_browser(site)
    for days in ("", "soon", "0", "3651", "1e3", "9" * 5000):
        refused = await site.submit(f"{AES}/schedule", cookie, form_token=token, days=days, automatic="yes")
        assert refused.status == 422, days
    changed = await site.submit(f"{AES}/schedule", cookie, form_token=token, days="365", automatic="yes")
    assert (changed.status, changed.headers["Location"]) == (303, f"{AES}?done=scheduled")
    page = await site.page(f"{AES}?done=scheduled", cookie)
    assert "The schedule is changed." in page.text
    assert '<option value="365" selected>' in page.text
    assert 'value="yes" checked' in page.text
    assert "Keyhall rotates it on that day." in (await site.page(KEYS, cookie)).text
    assert "rotation is due" not in (await site.page(KEYS, cookie)).text
    await site.submit(f"{AES}/schedule", cookie, form_token=token, days="1")
    with time_machine.travel(datetime.now(UTC) + timedelta(days=2), tick=True):
        await site.services.instances.catch_up()
        assert (await site.page(KEYS, cookie)).text.count("rotation is due") == 1
        assert f'<a class="button" href="{AES}/rotate">' in (await site.page(AES, cookie)).text
    await site.services.instances.catch_up()


async def test_an_announced_rotation_is_shown_to_everybody_until_it_is_cancelled(site: Site) -> None:
    cookie, token = await in_a_browser(site)
    member, _ = await in_a_browser(site, PEOPLE[Role.MEMBER])
    day = datetime.now(UTC) + timedelta(days=9)
    for at in ("2026-01-01", "tomorrow", "", "2027-02-30", "9999-12-31", "2027-03-31T25:00"):
        refused = await site.submit(f"{AES}/announce", cookie, form_token=token, at=at, reason="planned")
        assert (refused.status, 'value="planned"' in refused.text) == (422, True), at
    notice = f"AES_KEY is rotated on {day:%-d %b %Y}, 00:00 UTC."
    assert notice not in shown(await site.page("/", member))
    done = await site.submit(f"{AES}/announce", cookie, form_token=token, at=f"{day:%Y-%m-%d}", reason="planned")
    assert done.headers["Location"] == f"{AES}?done=announced"
    for reader in (member, cookie):
        assert notice in shown(await site.page("/", reader))
    assert "begins now instead" in (await site.page(f"{AES}/rotate", cookie)).text
    job = await site.request("GET", "/api/v1/admin/jobs?limit=1")
    waits = await site.page(f"{KEYS}/jobs/{job.json['items'][0]['id']}", cookie)
    assert "It waits for its date." in waits.text
    assert "rotation.js" not in waits.text
    cancelled = await site.submit(f"{AES}/cancel", cookie, form_token=token)
    assert cancelled.headers["Location"] == f"{AES}?done=cancelled"
    assert notice not in shown(await site.page("/", member))
    assert (await site.submit(f"{AES}/cancel", cookie, form_token=token)).status == 409


# ---------------------------------------------------------------------------------------------------------------------
# Events
# ---------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(site: Site, page: str, cookie: str) -> AsyncIterator[aiohttp.ClientResponse]:
    headers = {"Cookie": cookie, "Accept": "text/event-stream"}
    async with asyncio.timeout(WITHIN), site.client.get(f"{site.url}{page}/events", headers=headers) as response:
        yield response


async def event(response: aiohttp.ClientResponse) -> dict[str, object]:
    """The data of the next event."""
    while line := await response.content.readline():
        if line.startswith(b"data: "):
            found: dict[str, object] = json.loads(line[6:])
            assert await response.content.readline() == b"\n"
            return found
    raise EOFError


async def none_open(site: Site) -> None:
    async with asyncio.timeout(WITHIN):
        while site.app[STREAMS].open:  # noqa: ASYNC110 - nothing says when a connection was noticed to be gone
            await asyncio.sleep(0)


@pytest_asyncio.fixture(loop_scope="module")
async def waiting(site: Site) -> AsyncIterator[tuple[str, str]]:
    """The page of a rotation that no worker begins, and the cookie of an owner."""
    cookie, token = await in_a_browser(site)
    yield job_of(await rotated(site, "API_SECRET_KEY", cookie, token)), cookie
    await none_open(site)


async def test_events_tell_what_changes_until_the_end(site: Site) -> None:
    cookie, token = await in_a_browser(site)
    await site.add("streamed")
    page = job_of(await rotated(site, "AES_KEY", cookie, token))
    async with listening(site, page, cookie) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-store, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert "Content-Encoding" not in response.headers
        first = await event(response)
        assert (first["state"], first["over"], first["processes"]) == ("waiting", False, [])
        async with working(site):
            last = first
            while not last["over"]:
                last = await event(response)
        assert (last["state"], last["step"], last["error"]) == ("done", "done", None)
        assert last["done"] == last["total"] != 0
        assert await response.content.read() == b"", "the stream ends with the job"
    await none_open(site)
    route = f"{KEYS}/jobs/{{job_id}}/events"
    lines = [each for each in (await site.request("GET", "/metrics")).text.splitlines() if f'route="{route}"' in each]
    assert any(each.startswith("keyhall_http_requests_total") for each in lines)
    assert not any("seconds" in each for each in lines), "a stream lasts for as long as somebody watches"


async def test_who_is_not_signed_in_or_may_not_see_keys_gets_no_stream(site: Site, waiting: tuple[str, str]) -> None:
    page, _ = waiting
    path = f"{page}/events"
    assert (await site.request("GET", path, token="")).code == "invalid_token"
    member, _ = await in_a_browser(site, PEOPLE[Role.MEMBER])
    assert (await site.request("GET", path, cookie=member)).code == "forbidden"
    made = await site.request("POST", "/api/v1/auth/tokens", json={"name": "ci", "scopes": ["keys:read"]})
    assert (await site.request("GET", path, token=made.json["token"])).code == "forbidden"
    await site.services.rotation.watch_ages()
    jobs = (await site.request("GET", "/api/v1/admin/jobs")).json["items"]
    other = next(each["id"] for each in jobs if each["kind"] != "key.rotation")
    for absent in (ABSENT, other):
        assert (await site.request("GET", f"{KEYS}/jobs/{absent}/events")).code == "not_found"
    head = await site.request("HEAD", path)
    assert (head.status, head.body) == (200, b"")


async def test_a_stream_ends_with_its_session(site: Site, waiting: tuple[str, str]) -> None:
    page, _ = waiting
    cookie, token = await in_a_browser(site)
    async with listening(site, page, cookie) as response:
        await event(response)
        assert (await site.submit("/logout", cookie, form_token=token)).status == 303
        assert await response.content.read() == b""
    assert 1.0 + 2.0 <= 5.0, "the constants of the module, which this test makes shorter"


async def test_a_stream_ends_when_its_reader_may_not_see_keys_any_more(site: Site, waiting: tuple[str, str]) -> None:
    page, _ = waiting
    identity = site.services.identity
    user = await identity.create(await identity.operator(), "demoted", PASSWORD, Role.AUDITOR)
    cookie, _ = await in_a_browser(site, "demoted")
    async with listening(site, page, cookie) as response:
        await event(response)
        answer = await site.request("PATCH", f"/api/v1/admin/users/{user.id}", json={"role": "member"})
        assert answer.status == 200, answer.text
        assert await response.content.read() == b""


async def test_a_reader_who_leaves_frees_a_place_and_nobody_takes_more_than_a_few(
    site: Site, waiting: tuple[str, str]
) -> None:
    page, cookie = waiting
    other, _ = await in_a_browser(site, PEOPLE[Role.AUDITOR])
    async with asyncio.timeout(WITHIN):
        streams = [
            await site.client.get(f"{site.url}{page}/events", headers={"Cookie": cookie})
            for _ in range(STREAMS_PER_USER)
        ]
        for each in streams:
            await event(each)
        refused = await site.request("GET", f"{page}/events", cookie=cookie)
        assert (refused.status, refused.code) == (429, "too_many_attempts")
        async with listening(site, page, other) as theirs:
            assert (await event(theirs))["state"] == "waiting"
        for each in streams:
            each.close()
    await none_open(site)
    async with listening(site, page, cookie) as response:
        assert (await event(response))["state"] == "waiting"


async def test_a_stream_without_news_is_kept_open(
    site: Site, waiting: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.0)
    page, cookie = waiting
    async with listening(site, page, cookie) as response:
        await event(response)
        assert await response.content.readline() == b":\n"


async def test_a_process_that_is_asked_to_end_does_not_wait_for_its_streams(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as client:
        async with open_site(sqlite_place(tmp_path)) as site:
            cookie, token = await in_a_browser(site)
            page = job_of(await rotated(site, "AES_KEY", cookie, token))
            response = await client.get(f"{site.url}{page}/events", headers={"Cookie": cookie})
            await event(response)
            began = time.monotonic()
        assert time.monotonic() - began < DRAIN_SECONDS
        assert await response.content.read() == b""
