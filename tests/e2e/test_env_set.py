"""`keyhall env set`: an install moves up whole, under the master key that is given there, or nothing happens."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets

import pytest

from app.domain.identity import Role
from app.domain.secrets import SecretBytes
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from tests.support.installs import Place

SECRET = "sk-proj-4f9aTq7ZbX2mLw8vKd3Yc6Rn"
PASSWORD = "a brass key on a hook"


def key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def id_of(text: str) -> str:
    return MasterKeyWrapping(SecretBytes(base64.b64decode(text))).master_key_id


async def fill(place: Place) -> None:
    async with place.services() as services:
        operator = await services.identity.operator()
        await services.identity.create(operator, "mia", PASSWORD, Role.MEMBER)
        actor = await services.identity.operator_for(username="mia")
        await services.credentials.add(actor, provider="openai", label="one", secret=SECRET)


async def contents(place: Place) -> str:
    async with place.services() as services:
        actor = await services.identity.operator_for(username="mia")
        view = (await services.credentials.page(actor)).items[0]
        return (await services.credentials.reveal(actor, view.id)).reveal()


@pytest.fixture
def development(sqlite_place: Place) -> Place:
    """An install in development with a credential, under the key that its first start made."""
    there = sqlite_place.having(APP_ENV="development")
    asyncio.run(fill(there))
    return there


def test_an_install_moves_to_production_under_the_given_master_key(place: Place) -> None:
    development = place.having(APP_ENV="development")
    asyncio.run(fill(development))
    given = key()
    moving = development.having(MASTER_KEY=given)
    former = (development.data_dir / "master.key").read_text()
    done = moving.command("env", "set", "production")
    assert done.returncode == 0, done.stderr
    assert "development → production" in done.stdout
    assert id_of(given) in done.stdout
    assert given not in done.stdout + done.stderr
    for demand in ("set APP_ENV=production", "set PUBLIC_URL to the https address", "master.key alone"):
        assert demand in done.stdout

    production = moving.having(APP_ENV="production")
    assert asyncio.run(contents(production)) == SECRET
    halted = moving.command("keys", "list")
    assert (halted.returncode, "[environment_mismatch]" in halted.stderr) == (78, True)
    (development.data_dir / "master.key").unlink()
    former_key = development.having(APP_ENV="production", MASTER_KEY=former.strip())
    assert former_key.command("keys", "list").returncode == 78
    rows = asyncio.run(production.contents())["audit_events"]
    actions = [value for row in rows for value in row if value in {"install.environment_changed", "master_key.changed"}]
    assert sorted(actions) == ["install.environment_changed", "master_key.changed"]
    again = production.command("env", "set", "production")
    assert (again.returncode, "is production already" in again.stdout) == (0, True)


def test_a_dry_run_says_the_same_and_changes_nothing(development: Place) -> None:
    moving = development.having(MASTER_KEY=key())
    before = asyncio.run(development.app_config())
    done = moving.command("env", "set", "prod", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "development → would be production" in done.stdout
    assert "nothing was changed" in done.stdout
    plan = json.loads(moving.command("env", "set", "production", "--dry-run", "--json").stdout)
    assert (plan["before"], plan["after"], plan["changed"]) == ("development", "production", False)
    assert asyncio.run(development.app_config()) == before


def test_the_default_file_counts_as_given(development: Place) -> None:
    done = development.command("env", "set", "staging")
    assert done.returncode == 0, done.stderr
    assert "it is given, and stays" in done.stdout
    assert asyncio.run(contents(development.having(APP_ENV="staging"))) == SECRET
    assert development.having(APP_ENV="staging").command("env", "set", "production").returncode == 0


def test_without_any_master_key_it_halts(development: Place) -> None:
    (development.data_dir / "master.key").unlink()
    done = development.command("env", "set", "production")
    assert (done.returncode, "[master_key_missing]" in done.stderr) == (78, True)


@pytest.mark.parametrize(
    "weak", ["0" * 64, "00000000000000000000000000000000000000000000000000000000000000ff", "", "change-me"]
)
def test_a_master_key_that_production_refuses_moves_nothing(development: Place, weak: str) -> None:
    before = asyncio.run(development.app_config())
    done = development.having(MASTER_KEY=weak).command("env", "set", "production")
    assert (done.returncode, "[insecure_key]" in done.stderr) == (78, True)
    assert asyncio.run(development.app_config()) == before


def test_a_live_process_stands_in_the_way(development: Place) -> None:
    moving = development.having(MASTER_KEY=key())
    with development.running("web") as running:
        running.address()
        done = moving.command("env", "set", "production")
        assert (done.returncode, "[in_use]" in done.stderr) == (75, True)
        dry = moving.command("env", "set", "production", "--dry-run")
        assert (dry.returncode, "❌ has to end first" in dry.stdout) == (1, True)
        assert running.end() == 0
    assert moving.command("env", "set", "production").returncode == 0


@pytest.mark.parametrize("name", ["development", "test"])
def test_no_install_moves_down(development: Place, name: str) -> None:
    assert development.command("env", "set", "staging").returncode == 0
    staging = development.having(APP_ENV="staging")
    before = asyncio.run(staging.app_config())
    done = staging.command("env", "set", name)
    assert done.returncode == 1
    assert "only moves up" in done.stderr
    assert asyncio.run(staging.app_config()) == before


def test_keys_from_outside_in_test_are_replaced_with_the_printed_commands_first(sqlite_place: Place) -> None:
    given = sqlite_place.having(AES_KEY="test-only-aes-key-that-everybody-knows")
    asyncio.run(fill(given))
    moving = sqlite_place.having(MASTER_KEY=key())
    done = moving.command("env", "set", "production")
    assert (done.returncode, "[insecure_key]" in done.stderr) == (78, True)
    commands = [f"keys {each}".split() for each in re.findall(r"`[^`]*keyhall keys ([^`]+)`", done.stderr)]
    assert [each[1] for each in commands] == ["rotate", "destroy"]
    for command in commands:
        ran = sqlite_place.command(*command)
        assert ran.returncode == 0, ran.stderr
    assert moving.command("env", "set", "production").returncode == 0
    assert asyncio.run(contents(moving.having(APP_ENV="production"))) == SECRET


def test_a_sample_key_in_the_settings_is_refused(development: Place) -> None:
    done = development.having(MASTER_KEY=key(), AES_KEY="change-me").command("env", "set", "production")
    assert (done.returncode, "[insecure_key]" in done.stderr) == (78, True)


def test_without_an_install_there_is_nothing_to_move(sqlite_place: Place) -> None:
    done = sqlite_place.command("env", "set", "production")
    assert done.returncode == 1
    assert "there is no install" in done.stderr
    assert sqlite_place.command("env", "set", "moon").returncode == 2


def test_a_move_may_be_given_the_former_key_as_master_key_previous(sqlite_place: Place) -> None:
    """An install of `test` under a public master key, which production would refuse."""
    place = sqlite_place
    public = "00" * 31 + "ff"
    there = place.having(MASTER_KEY=public)
    asyncio.run(fill(there))
    given = key()
    moving = place.having(MASTER_KEY=given, MASTER_KEY_PREVIOUS=public)
    done = moving.command("env", "set", "production")
    assert done.returncode == 0, done.stderr
    assert "next: remove MASTER_KEY_PREVIOUS" in done.stdout
    assert asyncio.run(contents(place.having(MASTER_KEY=given, APP_ENV="production"))) == SECRET
