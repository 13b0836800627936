"""SECRETS_BACKEND=aws, process by process: what AWS says is what a start takes, and a start without it halts."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.aws import NAME, Aws, refusal, running_aws, running_moto
from tests.support.installs import Place, Running, client_of, sign_in, sign_up

PASSWORD = "a brass key on a hook"
NAMES = ("JWT_SECRET_KEY", "AES_KEY", "ENCRYPTION_KEY", "API_SECRET_KEY")


@pytest.fixture(scope="module")
def moto() -> Iterator[tuple[str, int]]:
    with running_moto() as address:
        yield address


@pytest.fixture
def aws(moto: tuple[str, int]) -> Iterator[Aws]:
    with running_aws(moto) as running:
        yield running


@pytest.fixture
def at_aws(aws: Aws, sqlite_place: Place) -> Place:
    """A place whose secrets are in AWS, and production: nothing is made there that was not given."""
    return sqlite_place.having(**aws.environment, **aws.settings, APP_ENV="production", LOG_FORMAT="json")


def keys(**changed: Any) -> dict[str, Any]:
    return {name: secrets.token_hex(32) for name in ("MASTER_KEY", *NAMES)} | changed


def primaries(place: Place) -> dict[str, dict[str, Any]]:
    done = place.command("keys", "list", "--json")
    assert done.returncode == 0, done.stderr
    return {each["name"]: each for each in json.loads(done.stdout) if each["primary"]}


def states(place: Place, name: str) -> list[str]:
    done = place.command("keys", "list", "--json")
    return [each["state"] for each in json.loads(done.stdout) if each["name"] == name]


def started(running: Running) -> None:
    running.address()


def test_a_first_start_adopts_what_aws_holds(aws: Aws, at_aws: Place) -> None:
    given = keys()
    version = aws.create(given)
    with at_aws.running("web") as running:
        started(running)
        lines = [json.loads(line) for line in running.lines if line.startswith("{")]
        assert running.end() == 0
    loaded = [line for line in lines if line["event"] == "Loaded secrets from AWS"]
    assert [(line["aws_name"], line["aws_version"]) for line in loaded] == [(NAME, version)]
    assert not any(value in "".join(running.lines) for value in given.values())
    assert {each["origin"] for each in primaries(at_aws).values()} == {"adopted"}
    assert not (at_aws.data_dir / "master.key").exists()


def test_a_first_start_takes_the_former_version_for_deactivated(aws: Aws, at_aws: Place) -> None:
    before = keys()
    aws.create(before)
    aws.put({**before, "JWT_SECRET_KEY": secrets.token_hex(32)})
    with at_aws.running("web") as running:
        started(running)
    assert states(at_aws, "JWT_SECRET_KEY") == ["deactivated", "active"]
    assert states(at_aws, "AES_KEY") == ["active"]


@pytest.mark.parametrize("fault", ["denied", "partial", "broken", "deleted", "absent", "given twice", "throttled"])
def test_without_what_aws_should_give_a_start_halts_and_makes_nothing(aws: Aws, at_aws: Place, fault: str) -> None:
    place, slug, code = at_aws, "secrets_unavailable", 69
    given = keys()
    if fault != "absent":
        aws.create(given)
    match fault:
        case "denied":
            aws.fault = refusal("AccessDeniedException")
        case "throttled":
            aws.fault = refusal("ThrottlingException")
        case "partial":
            aws.put({name: value for name, value in given.items() if name != "AES_KEY"})
        case "broken":
            aws.put("{")
        case "deleted":
            aws.client.delete_secret(SecretId=NAME)
        case "given twice":
            place, slug, code = at_aws.having(AES_KEY=given["AES_KEY"]), "config_invalid", 78
        case _:
            pass
    done = place.command("web")
    assert done.returncode == code
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"keyhall: halted [{slug}] ")
    assert not any(value in done.stderr + done.stdout for value in given.values())
    assert not place.data_dir.exists()


def test_a_later_start_does_not_fall_back_to_what_is_stored(aws: Aws, at_aws: Place) -> None:
    aws.create(keys())
    with at_aws.running("web") as running:
        started(running)
    aws.fault = refusal("AccessDeniedException")
    done = at_aws.command("web")
    assert (done.returncode, "[secrets_unavailable]" in done.stderr) == (69, True)
    assert "secretsmanager:GetSecretValue" in done.stderr


def test_what_aws_owns_is_not_rotated_here_and_the_commands_are_named(aws: Aws, at_aws: Place) -> None:
    given = keys()
    aws.create(given)
    with at_aws.running("web") as running:
        started(running)
    for command in (["rotate", "AES_KEY"], ["rollback", "AES_KEY"], ["revoke", "AES_KEY", "1", "--yes"]):
        done = at_aws.command("keys", *command)
        assert done.returncode == 1, done.stderr
        assert f"AES_KEY belongs to the AWS secret {NAME}" in done.stderr
    assert "belongs to the AWS secret" in at_aws.command("keys", "rotate", "AES_KEY", "--dry-run").stderr
    done = at_aws.command("keys", "rotate-master", "--yes")
    assert (done.returncode, "generate MASTER_KEY --into secret.json`" in done.stderr) == (1, True)
    done = at_aws.command("keys", "import", "AES_KEY", stdin=secrets.token_hex(32))
    assert "aws secretsmanager put-secret-value" in done.stderr
    done = at_aws.command("keys", "schedule", "AES_KEY", "--automatic")
    assert "aws secretsmanager put-secret-value" in done.stderr
    assert at_aws.command("keys", "schedule", "AES_KEY", "--days", "180").returncode == 0


# ---------------------------------------------------------------------------------------------------------------------
# Seeding and changing a secret
# ---------------------------------------------------------------------------------------------------------------------


def test_a_generated_file_seeds_a_secret_and_a_key_in_it_is_replaced(
    aws: Aws, at_aws: Place, sqlite_place: Place, tmp_path: Path
) -> None:
    file = tmp_path / "secret.json"
    done = sqlite_place.command("keys", "generate", "--master", "--into", str(file))
    assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    first = json.loads(file.read_text())
    assert set(first) == {"MASTER_KEY", *NAMES}
    assert not any(value in done.stdout for value in first.values())
    aws.create(first)
    with at_aws.running("web") as running:
        started(running)
    assert "nothing was changed" in sqlite_place.command("keys", "generate", "--into", str(file)).stdout
    assert sqlite_place.command("keys", "generate", "AES_KEY", "--into", str(file)).returncode == 0
    second = json.loads(file.read_text())
    assert {name for name in first if first[name] != second[name]} == {"AES_KEY"}
    assert sqlite_place.command("keys", "generate", "master_key", "--into", str(file)).returncode == 0
    third = json.loads(file.read_text())
    assert {name for name in second if second[name] != third[name]} == {"MASTER_KEY"}


@pytest.mark.parametrize("content", ["{", "[]", "", "\x00", '{"AES_KEY": "a", "aes_key": "b"}'])
def test_a_file_that_is_no_object_of_json_is_left_alone(sqlite_place: Place, tmp_path: Path, content: str) -> None:
    file = tmp_path / "secret.json"
    file.write_text(content)
    done = sqlite_place.command("keys", "generate", "--into", str(file))
    assert done.returncode == 1
    assert file.read_text() == content


def test_fresh_keys_are_printed_for_an_environment_or_as_json(sqlite_place: Place) -> None:
    lines = sqlite_place.command("keys", "generate").stdout.split()
    assert [line.partition("=")[0] for line in lines] == list(NAMES)
    assert all(len(line.partition("=")[2]) == 64 for line in lines)
    assert list(json.loads(sqlite_place.command("keys", "generate", "aes_key", "--json").stdout)) == ["AES_KEY"]


# ---------------------------------------------------------------------------------------------------------------------
# While a process runs
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_rotation_in_aws_needs_no_restart_and_a_failure_no_end(aws: Aws, at_aws: Place) -> None:
    given = keys()
    aws.create(given)
    with at_aws.having(APP_ENV="test").running("run") as running:
        async with client_of(running.address()) as client:
            await sign_up(client, running.setup_token(), "olga", PASSWORD)
            session = await sign_in(client, "olga", PASSWORD)
            client.headers["Authorization"] = f"Bearer {session['access_token']}"
            aws.put(given | {"AES_KEY": secrets.token_hex(32)})
            async with client.post("/api/v1/admin/cache/clear") as answer:
                assert answer.status == 204
            async with asyncio.timeout(60):
                while (await primary_of(client, "AES_KEY")) != 2:  # noqa: ASYNC110 - another process's work
                    await asyncio.sleep(0.1)
            async with client.post("/api/v1/admin/keys/AES_KEY/rotate") as answer:
                assert answer.status == 409
                assert "aws secretsmanager put-secret-value" in (await answer.json())["detail"]
            aws.fault = refusal("AccessDeniedException")
            async with client.post("/api/v1/admin/cache/clear") as answer:
                assert answer.status == 503
                assert (await answer.json())["code"] == "secrets_unavailable"
            assert await primary_of(client, "AES_KEY") == 2
        assert running.end() == 0
    assert not any(value in "".join(running.lines) for value in given.values())


async def primary_of(client: aiohttp.ClientSession, name: str) -> int:
    async with client.get("/api/v1/admin/keys") as answer:
        assert answer.status == 200
        found: int = next(each["version"] for each in (await answer.json())["items"] if each["name"] == name)
        return found
