"""Application keys over REST: who may, what is answered, and that keys change under it without a stop.

One file: nearly every test follows jobs through the functions at the top.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from sqlalchemy import update
from sqlalchemy.ext.asyncio import create_async_engine

from app.domain.identity import REAUTHENTICATION_LASTS, Client, Role, Source
from app.domain.keys import APPLICATION_KEYS, KeyName
from app.infrastructure.database.schema import sessions
from app.services.credentials import CredentialCipher
from app.services.rotation import passes
from app.worker.loop import run_worker
from tests.support.installs import Place
from tests.support.samples import ABSENT, OWNER, PASSWORD, SECRET
from tests.support.web import Answer, Site, open_site, raw, sqlite_place

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

KEYS = "/api/v1/admin/keys"
JOBS = "/api/v1/admin/jobs"
WITHIN = 60
JOB_MEMBERS = {
    *("id", "kind", "key", "action", "state", "step", "done", "total"),
    *("note", "error", "run_at", "attempts", "created_at", "finished_at"),
}
CHANGES = (
    ("POST", f"{KEYS}/AES_KEY/rotate", None),
    ("POST", f"{KEYS}/AES_KEY/rotate", {"at": (datetime.now(UTC) + timedelta(days=1)).isoformat()}),
    ("POST", f"{KEYS}/AES_KEY/cancel", None),
    ("POST", f"{KEYS}/AES_KEY/rollback", None),
    ("PUT", f"{KEYS}/AES_KEY/schedule", {"rotation_days": 1, "automatic": True}),
    ("POST", f"{KEYS}/AES_KEY/versions/1/revoke", None),
    ("POST", f"{KEYS}/AES_KEY/versions/1/retire", None),
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where an install may come to be, on either engine."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield sqlite_place(tmp_path)
        else:
            server: PostgresServer = request.getfixturevalue("postgres_server")
            yield Place(stack.enter_context(server.database()), tmp_path / "data")


@pytest_asyncio.fixture
async def site(place: Place) -> AsyncIterator[Site]:
    """A house of its own for every test: keys change in it. No worker is there but where a test has one."""
    async with open_site(place) as opened:
        yield opened


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


async def watched(site: Site, where: str, until: Callable[[Any], bool]) -> list[Any]:
    """The job at an address, requested again after every change until it has the awaited state."""
    changes = site.services.feed.subscribe()
    stands = []
    async with asyncio.timeout(WITHIN):
        while True:
            answer = await site.request("GET", where)
            assert answer.status == 200, answer.text
            stands.append(answer.json)
            if until(stands[-1]):
                return stands
            await changes.changed(0.1)


def _over(job: Any) -> bool:
    return job["finished_at"] is not None


async def begun(site: Site, path: str, body: Any = None, *, token: str | None = None) -> Answer:
    """The answer to a change that became a job."""
    answer = await site.request("POST", path, json=body, token=token)
    assert answer.status == 202, answer.text
    assert answer.json.keys() == JOB_MEMBERS
    assert answer.headers["Location"] == f"{JOBS}/{answer.json['id']}"
    assert answer.json["kind"] == "key.rotation"
    return answer


async def key(site: Site, name: str) -> Any:
    items = (await site.request("GET", KEYS)).json["items"]
    return next(each for each in items if each["name"] == name)


async def states(site: Site, name: str) -> list[tuple[int, str, bool]]:
    return [(each["version"], each["state"], each["primary"]) for each in (await key(site, name))["versions"]]


async def everything(site: Site) -> tuple[Any, Any]:
    """The state that a refused request must not change."""
    return (await site.request("GET", KEYS)).json, (await site.request("GET", JOBS)).json


async def token_of(site: Site, role: Role) -> str:
    owner = await site.services.requests.authenticate(site.token, Client(source=Source.WEB))
    await site.services.identity.create(owner, f"some {role}".replace(" ", "-"), PASSWORD, role)
    return await site.log_in(f"some-{role}")


# -- looking -----------------------------------------------------------------------------------------------------------


async def test_keys_are_listed_with_their_versions_their_age_and_what_is_to_come(site: Site) -> None:
    listed = (await site.request("GET", KEYS)).json
    assert listed.keys() == {"items", "next_cursor"}
    assert listed["next_cursor"] is None
    assert [each["name"] for each in listed["items"]] == [name.value for name in APPLICATION_KEYS]
    for each in listed["items"]:
        assert each.keys() == {
            *("name", "purpose", "since", "age_days", "rotation_days", "automatic", "due_at", "due"),
            *("announced_at", "job_id", "version", "fingerprint", "versions"),
        }
        since, due_at = datetime.fromisoformat(each["since"]), datetime.fromisoformat(each["due_at"])
        assert (each["age_days"], each["rotation_days"], each["automatic"], each["due"]) == (0, 90, False, False)
        assert due_at - since == timedelta(days=90)
        assert (each["announced_at"], each["job_id"]) == (None, None)
        (version,) = each["versions"]
        assert (each["version"], each["fingerprint"]) == (version["version"], version["fingerprint"])
        assert version.keys() == {
            *("version", "state", "primary", "fingerprint", "origin", "created_at"),
            *("activated_at", "deactivated_at", "retired_at", "compromised_at", "destroyed_at"),
        }
        assert (version["version"], version["state"], version["primary"]) == (1, "active", True)
        primary = site.services.keys.ring.keysets[KeyName(each["name"])].primary
        assert (version["fingerprint"], version["origin"]) == (primary.fingerprint, "generated")


async def test_jobs_come_in_pages_the_latest_first_and_show_nothing_of_what_they_carry_along(site: Site) -> None:
    assert (await site.request("GET", JOBS)).json == {"items": [], "next_cursor": None}
    names = ("AES_KEY", "JWT_SECRET_KEY", "API_SECRET_KEY")
    made = [(await begun(site, f"{KEYS}/{name}/rotate")).json for name in names]
    first = (await site.request("GET", f"{JOBS}?limit=2")).json
    assert first["items"] == made[:0:-1]
    last = (await site.request("GET", f"{JOBS}?limit=2&cursor={first['next_cursor']}")).json
    assert last == {"items": made[:1], "next_cursor": None}
    for each, name in zip(made, names, strict=True):
        assert (await site.request("GET", f"{JOBS}/{each['id']}")).json == each
        assert (each["key"], each["action"], each["state"], each["attempts"]) == (name, "rotate", "waiting", 0)
    for query in ("limit=0", "limit=101", "cursor=***", "state=done"):
        assert (await site.request("GET", f"{JOBS}?{query}")).code == "invalid_input"
    for job_id in (ABSENT, "1", "AES_KEY", f"{ABSENT}%2F"):
        unknown = await site.request("GET", f"{JOBS}/{job_id}")
        assert (unknown.status, unknown.code) == (404, "not_found")


# -- rotating ----------------------------------------------------------------------------------------------------------


async def test_a_rotation_is_watched_to_its_end_while_secrets_are_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [f"/api/v1/credentials/{(await site.add(f'row {number}'))['id']}" for number in range(6)]
    go_on, batches, reencrypt = threading.Event(), itertools.count(1), CredentialCipher.reencrypt

    def held_up(self: CredentialCipher, *given: Any) -> Any:
        if next(batches) == 3:
            assert go_on.wait(WITHIN)
        return reencrypt(self, *given)

    monkeypatch.setattr(passes, "BATCH", 2)
    monkeypatch.setattr(CredentialCipher, "reencrypt", held_up)
    async with working(site):
        try:
            where = (await begun(site, f"{KEYS}/AES_KEY/rotate")).headers["Location"]
            half = (await watched(site, where, lambda job: job["done"] == 4))[-1]
            assert (half["state"], half["step"], half["total"]) == ("running", "re-encrypt", 6)
            assert (half["error"], half["finished_at"]) == (None, None)
            assert half["note"] == "re-encrypting api_credentials for version 2"
            assert await states(site, "AES_KEY") == [(1, "deactivated", False), (2, "active", True)]
            for path in paths:
                assert (await site.request("POST", f"{path}/reveal")).json == {"secret": SECRET}
        finally:
            go_on.set()
        stands = await watched(site, where, _over)
    done = stands[-1]
    assert (done["state"], done["step"], done["error"], done["done"], done["total"]) == ("done", "done", None, 6, 6)
    assert done["note"] == "version 2 is primary, 1 retired"
    assert (await key(site, "AES_KEY"))["versions"][0]["retired_at"] is not None
    for path in paths:
        assert (await site.request("POST", f"{path}/reveal")).json == {"secret": SECRET}


async def test_tokens_outlive_a_rotation_of_their_key_and_die_with_its_revocation(site: Site) -> None:
    old = site.token
    async with working(site):
        where = (await begun(site, f"{KEYS}/JWT_SECRET_KEY/rotate")).headers["Location"]
        waits = (await watched(site, where, lambda job: job["state"] == "waiting" and job["step"] == "overlap"))[-1]
        lasts = datetime.fromisoformat(waits["run_at"]) - datetime.now(UTC)
        assert timedelta(minutes=25) < lasts < timedelta(minutes=35)
        assert await states(site, "JWT_SECRET_KEY") == [(1, "deactivated", False), (2, "active", True)]
        assert (await key(site, "JWT_SECRET_KEY"))["job_id"] is None
        new = await site.log_in()
        for token in (old, new):
            assert (await site.request("GET", "/api/v1/auth/me", token=token)).json["username"] == OWNER
        early = await site.request("POST", f"{KEYS}/JWT_SECRET_KEY/versions/1/retire", token=new)
        assert (early.status, early.code) == (409, "key_state_conflict")
        await begun(site, f"{KEYS}/JWT_SECRET_KEY/versions/1/revoke", token=new)
        refused = await site.request("GET", "/api/v1/auth/me", token=old)
        assert (refused.status, refused.code) == (401, "invalid_token")
        assert (await site.request("GET", "/api/v1/auth/me", token=new)).status == 200


async def test_revoking_the_primary_replaces_it_first_and_ends_the_very_token_that_asked(site: Site) -> None:
    path = f"{KEYS}/JWT_SECRET_KEY/versions/1/revoke"
    revoked = await begun(site, path)
    assert (await site.request("GET", KEYS)).code == "invalid_token"
    site.token = await site.log_in()
    assert await states(site, "JWT_SECRET_KEY") == [(1, "compromised", False), (2, "active", True)]
    assert (await begun(site, path)).json["id"] == revoked.json["id"]
    async with working(site):
        over = (await watched(site, revoked.headers["Location"], _over))[-1]
    assert over["note"] == "version 2 is primary, 1 retired"  # a revoked version verifies nothing: no overlap
    for refused in (await site.request("POST", path), await site.request("POST", f"{KEYS}/JWT_SECRET_KEY/rollback")):
        assert (refused.status, refused.code) == (409, "key_state_conflict")


async def test_the_reason_for_a_change_stands_in_the_audit_trail(site: Site) -> None:
    async with working(site):
        rotated = await begun(site, f"{KEYS}/API_SECRET_KEY/rotate", {"reason": "a drill"})
        await watched(site, rotated.headers["Location"], lambda job: _over(job) or job["step"] == "overlap")
    await begun(site, f"{KEYS}/API_SECRET_KEY/rollback", {"reason": "it was a drill"})
    await begun(site, f"{KEYS}/API_SECRET_KEY/versions/2/revoke", {"reason": "seen in a log"})
    rows = (await site.request("GET", "/api/v1/admin/audit?action=key")).json["items"]
    reasons = {each["detail"].get("reason") for each in rows}
    assert reasons >= {"a drill", "it was a drill", "seen in a log"}
    for body in ({"reason": SECRET}, {"reason": "x" * 300}, {"reason": 7}, {"why": "x"}):
        refused = await site.request("POST", f"{KEYS}/AES_KEY/versions/99/revoke", json=body)
        assert (refused.status, refused.code) == (422, "invalid_input"), body
        assert SECRET not in refused.text


async def test_a_rollback_makes_the_former_version_primary_again(site: Site) -> None:
    await site.add("goes there and back")
    none = await site.request("POST", f"{KEYS}/AES_KEY/rollback")
    assert (none.status, none.code) == (409, "key_state_conflict")
    async with working(site):
        for path in ("rotate", "rollback"):
            answer = await begun(site, f"{KEYS}/AES_KEY/{path}")
            assert answer.json["action"] == path
            assert (await watched(site, answer.headers["Location"], _over))[-1]["state"] == "done"
    assert await states(site, "AES_KEY") == [(1, "active", True), (2, "deactivated", False)]


async def test_a_version_is_retired_only_out_of_use_and_by_a_job(site: Site) -> None:
    in_use = await site.request("POST", f"{KEYS}/AES_KEY/versions/1/retire")
    assert (in_use.status, in_use.code) == (409, "key_state_conflict")
    await begun(site, f"{KEYS}/AES_KEY/versions/1/revoke")
    answer = await begun(site, f"{KEYS}/AES_KEY/versions/1/retire")
    async with working(site):
        assert (await watched(site, answer.headers["Location"], _over))[-1]["state"] == "done"
    again = await site.request("POST", f"{KEYS}/AES_KEY/versions/1/retire")
    assert (again.status, again.code) == (409, "key_state_conflict")


async def test_a_rotation_that_fails_says_which_row_does_not_open(site: Site, place: Place) -> None:
    made = await site.add("damaged")
    await place.execute("UPDATE api_credentials SET encrypted_value = :bytes", bytes=b"\0" * 100)
    async with working(site):
        answer = await begun(site, f"{KEYS}/AES_KEY/rotate")
        failed = (await watched(site, answer.headers["Location"], _over))[-1]
    assert failed["state"] == "failed"
    assert f"api_credentials {made['id']}" in failed["error"]
    (former, primary) = (await key(site, "AES_KEY"))["versions"]
    assert (former["retired_at"], primary["primary"]) == (None, True)


async def test_an_announced_rotation_is_seen_and_called_off(site: Site) -> None:
    at = (datetime.now(UTC) + timedelta(days=7)).replace(microsecond=0)
    local = at.astimezone(tz=None).isoformat()
    job = (await begun(site, f"{KEYS}/ENCRYPTION_KEY/rotate", {"at": local})).json
    assert (datetime.fromisoformat(job["run_at"]), job["state"]) == (at, "waiting")
    standing = await key(site, "ENCRYPTION_KEY")
    assert (datetime.fromisoformat(standing["announced_at"]), standing["job_id"]) == (at, job["id"])
    called_off = await site.request("POST", f"{KEYS}/ENCRYPTION_KEY/cancel")
    assert (called_off.status, called_off.json["id"], called_off.json["state"]) == (200, job["id"], "cancelled")
    assert called_off.json["finished_at"] is not None
    standing = await key(site, "ENCRYPTION_KEY")
    assert (standing["announced_at"], standing["job_id"]) == (None, None)
    again = await site.request("POST", f"{KEYS}/ENCRYPTION_KEY/cancel")
    assert (again.status, again.code) == (409, "key_state_conflict")


async def test_rotating_now_brings_an_announced_rotation_forward_and_says_so(site: Site) -> None:
    at = datetime.now(UTC) + timedelta(days=7)
    announced = (await begun(site, f"{KEYS}/ENCRYPTION_KEY/rotate", {"at": at.isoformat()})).json
    job = (await begun(site, f"{KEYS}/ENCRYPTION_KEY/rotate", {})).json
    assert job["id"] == announced["id"]
    assert datetime.fromisoformat(job["run_at"]) < at - timedelta(days=6)
    async with working(site):
        await watched(site, f"{JOBS}/{job['id']}", _over)
    assert await states(site, "ENCRYPTION_KEY") == [(1, "deactivated", False), (2, "active", True)]


async def test_a_worker_begins_an_announced_rotation_when_its_time_has_come(site: Site) -> None:
    at = datetime.now(UTC) + timedelta(seconds=1)
    job = (await begun(site, f"{KEYS}/ENCRYPTION_KEY/rotate", {"at": at.isoformat()})).json
    assert await states(site, "ENCRYPTION_KEY") == [(1, "active", True)]
    async with working(site):
        last = (await watched(site, f"{JOBS}/{job['id']}", _over))[-1]
    assert (last["state"], last["error"]) == ("done", None)
    primary = (await key(site, "ENCRYPTION_KEY"))["versions"][-1]
    assert (primary["version"], primary["primary"]) == (2, True)
    assert datetime.fromisoformat(primary["activated_at"]) >= at - timedelta(milliseconds=100)


async def test_of_one_key_one_change_of_primary_is_on_its_way_however_many_ask_at_once(site: Site) -> None:
    answers = await asyncio.gather(*(begun(site, f"{KEYS}/AES_KEY/rotate") for _ in range(8)))
    assert len({answer.json["id"] for answer in answers}) == 1
    assert len((await site.request("GET", JOBS)).json["items"]) == 1


async def test_a_schedule_is_set_for_one_key(site: Site) -> None:
    body = {"rotation_days": 30, "automatic": True}
    answer = await site.request("PUT", f"{KEYS}/AES_KEY/schedule", json=body)
    assert answer.status == 200
    assert answer.json == await key(site, "AES_KEY")
    assert (answer.json["rotation_days"], answer.json["automatic"]) == (30, True)
    assert (await key(site, "JWT_SECRET_KEY"))["rotation_days"] == 90


# -- who may -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.ADMIN, Role.AUDITOR, Role.MEMBER])
async def test_only_the_owner_changes_keys_and_members_do_not_see_them(site: Site, role: Role) -> None:
    job = (await begun(site, f"{KEYS}/API_SECRET_KEY/rotate")).json
    token = await token_of(site, role)
    before = await everything(site)
    for method, path, body in CHANGES:
        answer = await site.request(method, path, json=body, token=token)
        assert (answer.status, answer.code) == (403, "forbidden"), path
    for path in (KEYS, JOBS, f"{JOBS}/{job['id']}", f"{JOBS}/{ABSENT}"):
        answer = await site.request("GET", path, token=token)
        if role is Role.MEMBER:
            assert (answer.status, answer.code) == (403, "forbidden"), path
        else:
            assert answer.status == (404 if ABSENT in path else 200), path
    assert await everything(site) == before


async def test_a_password_must_be_proven_lately_to_change_a_key_and_not_to_look(site: Site, place: Place) -> None:
    before = await everything(site)
    engine = create_async_engine(place.url)
    async with engine.begin() as connection:
        stale = datetime.now(UTC) - REAUTHENTICATION_LASTS - timedelta(seconds=1)
        await connection.execute(update(sessions).values(authenticated_at=stale))
    await engine.dispose()
    for method, path, body in CHANGES:
        answer = await site.request(method, path, json=body)
        assert (answer.status, answer.code) == (401, "reauthentication_required"), path
        assert 'error="insufficient_user_authentication"' in answer.headers["WWW-Authenticate"]
    assert await everything(site) == before
    proven = await site.request("POST", "/api/v1/auth/reauthenticate", json={"password": PASSWORD})
    assert proven.status == 204
    await begun(site, f"{KEYS}/AES_KEY/rotate")


async def test_a_browser_changes_keys_from_our_own_pages_alone(site: Site) -> None:
    cookie, _ = await site.log_in_browser()
    for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
        answer = await site.request("POST", f"{KEYS}/AES_KEY/rotate", cookie=cookie, headers=headers)
        assert (answer.status, answer.code) == (403, "cross_site")
    assert (await site.request("GET", JOBS)).json["items"] == []
    own = {"Sec-Fetch-Site": "same-origin"}
    assert (await site.request("POST", f"{KEYS}/AES_KEY/rotate", cookie=cookie, headers=own)).status == 202


# -- hostile -----------------------------------------------------------------------------------------------------------


async def test_what_names_no_key_or_no_version_is_not_found(site: Site) -> None:
    names = [
        "AUDIT_SEAL_KEY",
        "SECRET_KEY",
        "aes_key",
        "AES_KEYS",
        "AES_KEY%2Frotate",
        "AES_KEY%00",
        "%2e%2e%2fAES_KEY",
    ]
    names += ["AES_KEY%20", "AES%2FKEY", "AES_KEY%0a", "*", ABSENT, "x" * 4000]
    versions = ["0", "01", "-1", "+1", "1.0", "1e0", "99", "4294967295", "4294967296", "9999999999", "9" * 400]
    versions += ["%EF%BC%91", "1%2F", "1%00", "latest", "primary", ABSENT]
    paths = [f"{name}/{action}" for name in names for action in ("rotate", "cancel", "rollback", "versions/1/revoke")]
    paths += [f"AES_KEY/versions/{version}/{action}" for version in versions for action in ("revoke", "retire")]
    before = await everything(site)
    for path in paths:
        head = (
            f"POST {KEYS}/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {site.token}"
        )
        answer = (await raw(site, f"{head}\r\n\r\n".encode())).decode()
        assert answer.startswith("HTTP/1.1 404 "), path
        problem = json.loads(answer.partition("\r\n\r\n")[2])
        assert problem["code"] == "not_found", path
    schedule = {"rotation_days": 1, "automatic": True}
    assert (await site.request("PUT", f"{KEYS}/AUDIT_SEAL_KEY/schedule", json=schedule)).code == "not_found"
    assert await everything(site) == before


async def test_a_rotation_takes_no_date_that_has_passed_or_is_none(site: Site) -> None:
    now = datetime.now(UTC)
    dates: list[Any] = [(now + timedelta(days=days)).isoformat() for days in (-0.001, -36500, 3651)]
    dates += ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2030-02-30T00:00:00Z"]
    dates += ["2030-01-01T00:00:00", "2030-01-01", "tomorrow", "", "1893456000", 1893456000, True, [], {}]
    for at in dates:
        answer = await site.request("POST", f"{KEYS}/AES_KEY/rotate", json={"at": at})
        assert (answer.status, answer.code) == (422, "invalid_input"), at
        assert answer.json["detail"].startswith("at: ")
    assert (await site.request("GET", JOBS)).json["items"] == []


async def test_a_schedule_takes_whole_days_and_a_truth_value(site: Site) -> None:
    bodies: list[Any] = [
        {"rotation_days": days, "automatic": False} for days in (0, -1, 3651, 2**53, 1.5, "30", True, None)
    ]
    bodies += [{"rotation_days": 30}, {"automatic": True}, {"rotation_days": 30, "automatic": 1}, {}]
    bodies += [{"rotation_days": 30, "automatic": True, "name": "JWT_SECRET_KEY"}]
    for body in bodies:
        answer = await site.request("PUT", f"{KEYS}/AES_KEY/schedule", json=body)
        assert (answer.status, answer.code) == (422, "invalid_input"), body
    standing = await key(site, "AES_KEY")
    assert (standing["rotation_days"], standing["automatic"]) == (90, False)


async def test_ten_megabytes_are_waited_for_nowhere(site: Site) -> None:
    headers = f"Host: localhost\r\nConnection: close\r\nAuthorization: Bearer {site.token}\r\n"
    headers += "Content-Type: application/json\r\nContent-Length: 10000000\r\n\r\n"
    expected = {
        f"POST {KEYS}/AES_KEY/rotate": 413,
        f"PUT {KEYS}/AES_KEY/schedule": 413,
        f"POST {KEYS}/AES_KEY/rollback": 413,
        "POST /api/v1/admin/cache/clear": 204,
    }

    async def begin(method: str, path: str) -> bytes:
        return await raw(site, f"{method} {path} HTTP/1.1\r\n{headers}".encode() + b'{"at": "' + b"x" * 100_000)

    answers = await asyncio.gather(*(begin(*where.split()) for where in expected))
    assert [answer[:13] for answer in answers] == [f"HTTP/1.1 {status} ".encode() for status in expected.values()]
    assert (await site.request("GET", JOBS)).json["items"] == []


# -- material ----------------------------------------------------------------------------------------------------------


def spellings(value: bytes) -> set[bytes]:
    """A secret in every form in which it could slip into an answer."""
    url, plain = base64.urlsafe_b64encode(value), base64.b64encode(value)
    escaped = json.dumps(value.decode("latin-1")).encode()[1:-1]
    return {value, value.hex().encode(), value.hex().upper().encode(), plain.rstrip(b"="), url.rstrip(b"="), escaped}


def material(site: Site) -> set[bytes]:
    """Everything of the keys that must stay inside: of every version, plain and wrapped."""
    ring = site.services.keys.ring
    plain = [each.reveal() for materials in ring.materials.values() for each in materials.values()]
    wrapped = [version.wrapped for keyset in ring.keysets.values() for version in keyset if version.wrapped]
    assert len(plain) >= len(KeyName)
    return {spelling for value in (*plain, *wrapped) for spelling in spellings(value)}


async def test_no_material_is_in_any_answer_wrapped_or_not(site: Site) -> None:
    await site.add("encrypted")
    secret = material(site)
    answers: list[Answer] = []

    async def ask(method: str, path: str, body: Any = None) -> Answer:
        answers.append(await site.request(method, path, json=body))
        return answers[-1]

    async def look() -> None:
        listed = await ask("GET", JOBS)
        for path in (KEYS, "/", "/metrics", *(f"{JOBS}/{each['id']}" for each in listed.json["items"])):
            await ask("GET", path)

    async with working(site):
        for name in APPLICATION_KEYS:
            begin = await ask("POST", f"{KEYS}/{name}/rotate")
            await watched(site, begin.headers["Location"], lambda job: _over(job) or job["step"] == "overlap")
        secret |= material(site)
        for method, path, body in CHANGES:
            await ask(method, path, body)
        await look()
        for path in ("ENCRYPTION_KEY/versions/1/retire", "AES_KEY/versions/99/revoke", "AUDIT_SEAL_KEY/rotate"):
            await ask("POST", f"{KEYS}/{path}")
        await ask("POST", f"{KEYS}/JWT_SECRET_KEY/versions/2/revoke")
        site.token = await site.log_in()
        secret |= material(site)
        await look()
    assert {200, 202, 404, 409} <= {answer.status for answer in answers}
    told = b"".join(answer.body + str(answer.headers).encode() for answer in answers)
    for keyset in site.services.keys.ring.keysets.values():
        for version in keyset:
            assert (version.fingerprint.encode() in told) is not keyset.name.internal
    assert not [spelling for spelling in secret if spelling in told]
