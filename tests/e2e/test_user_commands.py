"""`keyhall users` for accounts that exist, and for people who are invited: real processes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import InvalidCredentials, InvalidToken
from app.domain.identity import Client, Source, User
from tests.support.installs import Place
from tests.support.samples import PASSWORD

WEB = Client(source=Source.WEB, address="192.0.2.7")
OTHER_PASSWORD = "another correct horse"


@pytest.fixture
def place(sqlite_url: str, tmp_path: Path) -> Place:
    installed = asyncio.run(Place(sqlite_url, tmp_path / "data", {"PUBLIC_URL": "https://keys.example.org"}).install())
    _succeeded(installed, "users", "create-owner", "alice", stdin=PASSWORD)
    return installed


def _succeeded(place: Place, *arguments: str, stdin: str = "") -> str:
    done = place.command(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _listed(place: Place, *arguments: str) -> list[Any]:
    found: list[Any] = json.loads(_succeeded(place, *arguments, "--json"))
    return found


async def _log_in(place: Place, name: str, password: str = PASSWORD) -> None:
    async with place.services() as services:
        await services.authentication.login(name, password, WEB)


async def _claim(place: Place, link: str, password: str, name: str | None = None) -> User:
    async with place.services() as services:
        return await services.claims.claim(link, password, WEB, username=name)


def test_an_account_is_given_a_role_disabled_enabled_and_reset(place: Place) -> None:
    _succeeded(place, "users", "create", "bob", "--password-stdin", stdin=PASSWORD)
    assert "bob has the role admin" in _succeeded(place, "users", "set-role", "Bob", "admin")
    assert json.loads(_succeeded(place, "users", "disable", "bob", "--json"))["disabled"] is True
    assert [each["username"] for each in _listed(place, "users", "list", "--disabled")] == ["bob"]
    with pytest.raises(InvalidCredentials):
        asyncio.run(_log_in(place, "bob"))
    refused = place.command("users", "reset", "bob")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "enable it first" in refused.stderr
    assert "bob may sign in" in _succeeded(place, "users", "enable", "bob")
    asyncio.run(_log_in(place, "bob"))
    link = _succeeded(place, "users", "reset", "bob").removesuffix("\n")
    assert link.startswith("https://keys.example.org/claim#khl_")
    with pytest.raises(InvalidCredentials):
        asyncio.run(_log_in(place, "bob"))
    assert asyncio.run(_claim(place, link, OTHER_PASSWORD)).username == "bob"
    asyncio.run(_log_in(place, "bob", OTHER_PASSWORD))
    assert [each["username"] for each in _listed(place, "users", "list", "--name", "BO", "--role", "admin")] == ["bob"]


def test_the_last_owner_is_kept_and_another_one_may_follow(place: Place) -> None:
    for arguments in (("set-role", "alice", "admin"), ("disable", "alice")):
        refused = place.command("users", *arguments)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "give somebody else the role of owner first" in refused.stderr
    _succeeded(place, "users", "create", "bob", "--password-stdin", stdin=PASSWORD)
    _succeeded(place, "users", "set-role", "bob", "owner")
    _succeeded(place, "users", "set-role", "alice", "member")
    assert [each["username"] for each in _listed(place, "users", "list", "--role", "owner")] == ["bob"]
    assert place.command("users", "set-role", "bob", "king").returncode == 2
    assert place.command("users", "disable", "nobody").returncode == 1


def test_somebody_is_invited(place: Place) -> None:
    link = _succeeded(place, "users", "invite", "--role", "auditor", "--expires-in", "12h").removesuffix("\n")
    assert link.startswith("https://keys.example.org/claim#khi_")
    withdrawn = json.loads(_succeeded(place, "users", "invite", "--json"))
    assert {each["role"] for each in _listed(place, "users", "invitations")} == {"auditor", "member"}
    _succeeded(place, "users", "withdraw", withdrawn["id"])
    assert place.command("users", "withdraw", withdrawn["id"]).returncode == 1
    with pytest.raises(InvalidToken):
        asyncio.run(_claim(place, withdrawn["link"], PASSWORD, "eve"))
    assert asyncio.run(_claim(place, link, PASSWORD, "carol")).role.value == "auditor"
    assert _listed(place, "users", "invitations") == []
    for arguments in (("--expires-in", "soon"), ("--expires-in", "-1d"), ("--role", "king")):
        assert place.command("users", "invite", *arguments).returncode == 2
    for arguments in (("--expires-in", "31d"), ("--expires-in", "0"), ("--role", "owner")):
        refused = place.command("users", "invite", *arguments)
        assert (refused.returncode, refused.stdout) == (1, "")
