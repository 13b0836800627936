"""Accounts, resets and invitations over REST, as documented in docs/api.md."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest

from app.domain.identity import Role
from app.infrastructure.clock import SystemClock
from app.web import WebOptions
from tests.support.samples import ABSENT, OWNER, PASSWORD
from tests.support.web import Site, served

pytestmark = pytest.mark.asyncio(loop_scope="module")
USERS = "/api/v1/admin/users"
INVITATIONS = "/api/v1/admin/invitations"
CLAIM = "/api/v1/auth/claim"
OTHER_PASSWORD = "another correct horse"


async def _user(site: Site, name: str, role: str = "member") -> Any:
    answer = await site.request("POST", USERS, json={"username": name, "role": role})
    assert answer.status == 201, answer.text
    return answer.json


async def _claimed(site: Site, name: str, role: str = "member") -> Any:
    made = await _user(site, name, role)
    token = made["claim_link"].partition("#")[2]
    answer = await site.request("POST", CLAIM, json={"token": token, "password": PASSWORD}, token="")
    assert answer.status == 201, answer.text
    return made


async def test_an_account_is_made_claimed_and_signed_in_to(site: Site) -> None:
    answer = await site.request("POST", USERS, json={"username": "mia", "role": "member"})
    assert answer.status == 201
    made = answer.json
    assert made.keys() == {
        "id", "username", "role", "discord_id", "disabled", "claimed", "created_at", "claim_link"
    }  # fmt: skip
    assert answer.headers["Location"] == f"{USERS}/{made['id']}"
    assert made["claim_link"].startswith(f"{site.url}/claim#khl_")
    one = (await site.request("GET", f"{USERS}/{made['id']}")).json
    assert one == {name: value for name, value in made.items() if name != "claim_link"}
    assert (one["claimed"], one["disabled"]) == (False, False)
    body = {"token": made["claim_link"].partition("#")[2], "password": PASSWORD}
    assert (await site.request("POST", CLAIM, json=body, token="")).json["username"] == "mia"
    await site.log_in("mia")
    assert (await site.request("POST", CLAIM, json=body, token="")).code == "invalid_token"
    assert (await site.request("GET", f"{USERS}/{made['id']}")).json["claimed"] is True


async def test_a_link_names_the_public_address(site: Site) -> None:
    async with served(site.services, WebOptions(public_url="https://keys.example.org")) as public:
        answer = await public.request(
            "POST",
            USERS,
            token=site.token,
            json={"username": "far-away", "role": "member"},
            headers={"Host": "keys.example.org"},
        )
        assert answer.json["claim_link"].startswith("https://keys.example.org/claim#khl_")


async def test_a_repeated_request_shows_no_link_again(site: Site) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"username": "twice", "role": "member"}
    first = await site.request("POST", USERS, json=body, headers=headers)
    again = await site.request("POST", USERS, json=body, headers=headers)
    assert (again.status, again.json) == (201, {**first.json, "claim_link": None})
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await site.request("POST", USERS, json={**body, "role": "admin"}, headers=headers)
    assert (other.status, other.code) == (409, "idempotency_conflict")
    headers = {"Idempotency-Key": "invited once"}
    invited = await site.request("POST", INVITATIONS, json={"role": "member"}, headers=headers)
    again = await site.request("POST", INVITATIONS, json={"role": "member"}, headers=headers)
    assert (invited.status, again.json) == (201, {**invited.json, "link": None})
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_a_role_is_changed_and_an_account_disabled_and_enabled(site: Site) -> None:
    made = await _claimed(site, "pat")
    path = f"{USERS}/{made['id']}"
    token = await site.log_in("pat")
    assert (await site.request("PATCH", path, json={"role": "admin"})).json["role"] == "admin"
    assert (await site.request("GET", USERS, token=token)).status == 200  # a right that is gained ends no session
    assert (await site.request("PATCH", path, json={"role": "auditor"})).json["role"] == "auditor"
    assert (await site.request("GET", "/api/v1/auth/me", token=token)).code == "invalid_token"
    token = await site.log_in("pat")
    disabled = await site.request("PATCH", path, json={"disabled": True})
    assert (disabled.status, disabled.json["disabled"]) == (200, True)
    assert (await site.request("GET", "/api/v1/auth/me", token=token)).code == "invalid_token"
    body = {"username": "pat", "password": PASSWORD}
    assert (await site.request("POST", "/api/v1/auth/login", json=body, token="")).code == "invalid_credentials"
    assert (await site.request("POST", f"{path}/reset")).code == "forbidden"
    assert (await site.request("PATCH", path, json={"disabled": False})).json["disabled"] is False
    await site.log_in("pat")
    for empty in ({}, {"role": None, "disabled": None}):
        assert (await site.request("PATCH", path, json=empty)).json["role"] == "auditor"


async def test_a_reset_ends_everything_and_its_link_gives_another_password(site: Site) -> None:
    made = await _claimed(site, "rita")
    token = await site.log_in("rita")
    answer = await site.request("POST", f"{USERS}/{made['id']}/reset")
    assert (answer.status, answer.json.keys()) == (200, {"link"})
    assert (await site.request("GET", "/api/v1/auth/me", token=token)).code == "invalid_token"
    login = {"username": "rita", "password": PASSWORD}
    assert (await site.request("POST", "/api/v1/auth/login", json=login, token="")).code == "invalid_credentials"
    body = {"token": answer.json["link"].partition("#")[2], "username": "rita", "password": OTHER_PASSWORD}
    assert (await site.request("POST", CLAIM, json=body, token="")).status == 201
    await site.log_in("rita", OTHER_PASSWORD)


async def test_the_last_owner_keeps_the_role(site: Site) -> None:
    owner = (await site.request("GET", "/api/v1/auth/me")).json
    path = f"{USERS}/{owner['id']}"
    for body in ({"role": "admin"}, {"disabled": True}, {"role": "member", "disabled": True}):
        answer = await site.request("PATCH", path, json=body)
        assert (answer.status, answer.code) == (409, "last_owner")
        assert "give somebody else the role of owner first" in answer.json["detail"]
    assert (await site.request("GET", path)).json["role"] == "owner"


async def test_an_admin_is_refused_what_concerns_an_owner(site: Site) -> None:
    await _claimed(site, "ada", "admin")
    member = await _claimed(site, "mel")
    token = await site.log_in("ada")
    owner = (await site.request("GET", "/api/v1/auth/me")).json["id"]
    me = (await site.request("GET", "/api/v1/auth/me", token=token)).json["id"]
    attempts: list[tuple[str, str, Any]] = [
        ("PATCH", f"{USERS}/{owner}", {"disabled": True}),
        ("PATCH", f"{USERS}/{owner}", {"role": "member"}),
        ("POST", f"{USERS}/{owner}/reset", None),
        ("PATCH", f"{USERS}/{member['id']}", {"role": "owner"}),
        ("PATCH", f"{USERS}/{me}", {"role": "owner"}),
        ("POST", USERS, {"username": "evil", "role": "owner"}),
        ("POST", INVITATIONS, {"role": "owner"}),
    ]
    for method, path, body in attempts:
        answer = await site.request(method, path, json=body, token=token)
        assert (answer.status, answer.code) == (403, "forbidden"), (method, path, body)
    assert (await site.request("POST", INVITATIONS, json={"role": "owner"})).code == "forbidden"


async def test_an_old_proof_of_the_password_changes_nothing(site: Site) -> None:
    made = await _claimed(site, "stella")
    session = (await site.request("GET", "/api/v1/auth/me")).json["session_id"]
    long_ago = SystemClock().now() - timedelta(minutes=11)
    storage = site.services.users._storage
    async with storage.write() as uow:
        await uow.sessions.prove(session, long_ago)
    for method, path, body in (
        ("POST", USERS, {"username": "nobody-yet", "role": "member"}),
        ("PATCH", f"{USERS}/{made['id']}", {"disabled": True}),
        ("POST", f"{USERS}/{made['id']}/reset", None),
        ("POST", INVITATIONS, {"role": "member"}),
        ("DELETE", f"{INVITATIONS}/{ABSENT}", None),
    ):
        answer = await site.request(method, path, json=body)
        assert (answer.status, answer.code) == (401, "reauthentication_required"), (method, path)
    assert (await site.request("GET", USERS)).status == 200
    await site.request("POST", "/api/v1/auth/reauthenticate", json={"password": PASSWORD})
    assert (await site.request("PATCH", f"{USERS}/{made['id']}", json={"disabled": True})).status == 200


async def test_an_invitation_is_listed_withdrawn_and_claimed(site: Site) -> None:
    made = await site.request("POST", INVITATIONS, json={"role": "auditor", "expires_in": 3600})
    assert made.status == 201
    assert made.json.keys() == {"id", "role", "issued_by", "created_at", "expires_at", "link"}
    listed = (await site.request("GET", INVITATIONS)).json["items"]
    assert {name: value for name, value in made.json.items() if name != "link"} in listed
    token = made.json["link"].partition("#")[2]
    without_name = await site.request("POST", CLAIM, json={"token": token, "password": PASSWORD}, token="")
    assert (without_name.status, without_name.code) == (422, "invalid_input")
    taken = {"token": token, "username": OWNER, "password": PASSWORD}
    assert (await site.request("POST", CLAIM, json=taken, token="")).code == "already_exists"
    claimed = await site.request("POST", CLAIM, json={**taken, "username": "guest"}, token="")
    assert (claimed.status, claimed.json["role"]) == (201, "auditor")
    await site.log_in("guest")
    assert (await site.request("DELETE", f"{INVITATIONS}/{made.json['id']}")).code == "not_found"
    other = (await site.request("POST", INVITATIONS, json={"role": "member"})).json
    assert (await site.request("DELETE", f"{INVITATIONS}/{other['id']}")).status == 204
    body = {"token": other["link"].partition("#")[2], "username": "too-late", "password": PASSWORD}
    assert (await site.request("POST", CLAIM, json=body, token="")).code == "invalid_token"


async def test_an_invitation_is_claimed_on_the_page(site: Site) -> None:
    link = (await site.request("POST", INVITATIONS, json={"role": "member"})).json["link"]
    fields = {"token": link, "password": PASSWORD}
    again = await site.submit("/claim", "", fields)
    assert again.status == 422
    assert "this link is an invitation" in again.text
    answer = await site.submit("/claim", "", {**fields, "username": "by-page"})
    assert (answer.status, answer.headers["Location"]) == (303, "/login?done=claimed")
    await site.log_in("by-page")


@pytest.mark.parametrize(
    "body",
    [
        {"role": "member", "expires_in": 0},
        {"role": "member", "expires_in": -1},
        {"role": "member", "expires_in": 10**9},
        {"role": "member", "expires_in": 10**15},
        {"role": "member", "expires_in": -(10**15)},
        {"role": "member", "expires_in": True},
        {"role": "member", "expires_in": "3600"},
        {"role": "member", "expires_in": 1.5},
        {"role": "root"},
        {"role": ["member"]},
        {"role": "member", "user_id": ABSENT},
    ],
)
async def test_an_unacceptable_invitation_is_refused(site: Site, body: Any) -> None:
    answer = await site.request("POST", INVITATIONS, json=body)
    assert (answer.status, answer.code) == (422, "invalid_input")


async def test_users_are_listed_by_page_name_role_and_state(site: Site) -> None:
    made = await _user(site, "listed-one", "auditor")
    await site.request("PATCH", f"{USERS}/{made['id']}", json={"disabled": True})
    for query in ("name=LISTED-", "role=auditor&name=listed", "state=disabled&name=listed"):
        found = (await site.request("GET", f"{USERS}?{query}")).json
        assert [each["username"] for each in found["items"]] == ["listed-one"], query
    assert (await site.request("GET", f"{USERS}?state=active&name=listed-one")).json["items"] == []
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await site.request("GET", f"{USERS}?limit=2{cursor}")).json
        seen += [each["id"] for each in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == len(set(seen)) > 2
    for query in ("role=root", "state=gone", "name=", "name=%00", "name=" + "x" * 2000, "limit=0", "color=red"):
        answer = await site.request("GET", f"{USERS}?{query}")
        assert (answer.status, answer.code) == (422, "invalid_input"), query


async def test_no_link_stands_in_the_log_or_the_audit_trail(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    links = [
        (await _user(site, "quiet"))["claim_link"],
        (await site.request("POST", INVITATIONS, json={"role": "member"})).json["link"],
    ]
    claimed = await _claimed(site, "quieter")
    links.append((await site.request("POST", f"{USERS}/{claimed['id']}/reset")).json["link"])
    trail = (await site.request("GET", "/api/v1/admin/audit?limit=100")).text
    for link in links:
        secret = link.partition("#")[2]
        assert secret
        assert secret not in caplog.text
        assert secret not in trail
    actions = {each["action"] for each in (await site.request("GET", "/api/v1/admin/audit?limit=100")).json["items"]}
    assert {"user.created", "user.reset", "invitation.issued"} <= actions


async def test_everybody_but_owners_and_admins_is_refused(site: Site) -> None:
    await site.services.identity.create(await site.services.identity.operator(), "aud", PASSWORD, Role.AUDITOR)
    token = await site.log_in("aud")
    for method, path in (("GET", USERS), ("GET", INVITATIONS), ("POST", f"{USERS}/{ABSENT}/reset")):
        assert (await site.request(method, path, token=token)).code == "forbidden"
