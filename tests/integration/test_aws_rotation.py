"""Keys in AWS while processes run: a new version there becomes the primary, and a failure there changes nothing."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.bootstrap.keys import open_keys
from app.bootstrap.secrets import outside_source, secrets_backend
from app.bootstrap.services import open_services
from app.domain.errors import Forbidden, InsecureKey, KeyStateConflict, SecretsNotRead, SecretsUnavailable
from app.domain.identity import Actor, Client, Role, Source
from app.domain.jobs import JobKind
from app.domain.keys import KeyName, KeyState
from app.domain.secrets import SecretText
from app.services import Services, outside_secrets
from app.settings import Settings
from app.worker.loop import run_worker
from tests.support.aws import NAME, Aws, refusal, running_aws, running_moto
from tests.support.installs import Place

NAMES = ("JWT_SECRET_KEY", "AES_KEY", "ENCRYPTION_KEY", "API_SECRET_KEY")
WITHIN = 60
JWT, AES = KeyName.JWT_SECRET_KEY, KeyName.AES_KEY


@pytest.fixture(scope="module")
def moto() -> Iterator[tuple[str, int]]:
    with running_moto() as address:
        yield address


@pytest.fixture
def aws(moto: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    with running_aws(moto) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def at_aws(aws: Aws, engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data").having(**aws.settings, APP_ENV="production")


@pytest.fixture
def on_sqlite(aws: Aws, sqlite_url: str, tmp_path: Path) -> Place:
    return Place(sqlite_url, tmp_path / "data").having(**aws.settings, APP_ENV="production")


def keys(**changed: str) -> dict[str, str]:
    return {name: secrets.token_hex(32) for name in ("MASTER_KEY", *NAMES)} | changed


@asynccontextmanager
async def process(place: Place, hidden: list[SecretText] | None = None) -> AsyncIterator[Services]:
    """A process that works and follows AWS when it is told to; it is `keyhall run` without web and bot."""
    settings = place.load()
    assert settings.secret_place is not None
    stored = await secrets_backend(settings.secret_place).fetch()
    settings = Settings.load(place.environment, stored=stored)
    async with open_keys(settings, may_create=True) as opened:
        outside = outside_source(settings, opened, (hidden if hidden is not None else []).append)
        async with open_services(settings, opened, kind="run", outside=outside) as services:
            worker = asyncio.create_task(run_worker(services))
            try:
                yield services
            finally:
                worker.cancel()
                await asyncio.wait({worker})


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.02)


def primary(services: Services, name: KeyName) -> int:
    return services.keys.ring.keysets[name].primary.version


def states(services: Services, name: KeyName) -> list[KeyState]:
    return [each.state for each in services.keys.ring.keysets[name]]


def actor(role: Role) -> Actor:
    return Actor(user_id="u", subject_id=None, username="olga", role=role, client=Client(source=Source.WEB))


# ---------------------------------------------------------------------------------------------------------------------
# Application keys
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_new_version_in_aws_becomes_the_primary_in_every_process(aws: Aws, at_aws: Place) -> None:
    given = keys()
    aws.create(given)
    async with process(at_aws) as one, process(at_aws) as other:
        hidden = given | {"AES_KEY": secrets.token_hex(32)}
        aws.put(hidden)
        await one.outside_secrets.read_again()
        await until(lambda: primary(one, AES) == primary(other, AES) == 2)
        assert states(other, AES) == [KeyState.DEACTIVATED, KeyState.ACTIVE]
        assert [primary(other, KeyName(name)) for name in NAMES if name != "AES_KEY"] == [1, 1, 1]
        assert {each.owner for each in await one.key_inspection.list(actor(Role.OWNER))} == {NAME}
        with pytest.raises(KeyStateConflict, match="belongs to the AWS secret"):
            await one.key_inspection.before_change(actor(Role.OWNER), AES, "rotated")
        # The other process reads the same later, and has nothing to do.
        await other.outside_secrets.read_again()
        assert primary(other, AES) == 2


async def test_a_rollback_in_aws_makes_the_former_primary_primary_again(aws: Aws, on_sqlite: Place) -> None:
    given = keys()
    aws.create(given)
    async with process(on_sqlite) as services:
        aws.put(given | {"JWT_SECRET_KEY": secrets.token_hex(32)})
        await services.outside_secrets.read_again()
        await until(lambda: primary(services, JWT) == 2)
        aws.move_back()
        await services.outside_secrets.read_again()
        await until(lambda: primary(services, JWT) == 1)
        assert states(services, JWT) == [KeyState.ACTIVE, KeyState.DEACTIVATED]


async def test_processes_that_read_at_once_add_one_version(aws: Aws, at_aws: Place) -> None:
    given = keys()
    aws.create(given)
    async with process(at_aws) as one, process(at_aws) as other:
        aws.put(given | {"ENCRYPTION_KEY": secrets.token_hex(32)})
        await asyncio.gather(*(each.outside_secrets.read_again() for each in (one, other) * 2))
        await until(lambda: primary(one, KeyName.ENCRYPTION_KEY) == primary(other, KeyName.ENCRYPTION_KEY) == 2)
        assert len(states(one, KeyName.ENCRYPTION_KEY)) == 2


async def test_a_process_that_read_an_older_version_undoes_no_promotion(
    aws: Aws, on_sqlite: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = keys()
    aws.create(given)
    async with process(on_sqlite) as quick, process(on_sqlite) as slow:
        source = slow.outside_secrets._source
        assert source is not None
        read = source.backend.fetch

        async def late() -> Any:
            stored = await read()
            aws.put(given | {"AES_KEY": secrets.token_hex(32)})
            await quick.outside_secrets.read_again()
            await until(lambda: primary(slow, AES) == 2)
            return stored

        monkeypatch.setattr(source.backend, "fetch", late)
        await slow.outside_secrets.read_again()
        await quick.jobs.due_in()
        assert primary(slow, AES) == 2
        async with quick.keys._storage.lookup() as uow:
            assert all(job.payload.get("version") != 1 for job in await uow.jobs.unfinished_of(JobKind.KEY_ROTATION))


async def test_a_rotation_that_was_announced_before_aws_owned_the_key_is_not_in_the_way(
    aws: Aws, on_sqlite: Place
) -> None:
    given = keys()
    before = on_sqlite.having(SECRETS_BACKEND="env", **given)
    async with before.services() as services:
        operator = await services.identity.operator()
        later = services.jobs._clock.now() + timedelta(days=30)
        await services.rotation.rotate(operator, AES, at=later)
    aws.create(given)
    async with process(on_sqlite) as services:
        aws.put(given | {"AES_KEY": secrets.token_hex(32)})
        await services.outside_secrets.read_again()
        await until(lambda: primary(services, AES) == 2)
        with pytest.raises(KeyStateConflict, match="belongs to the AWS secret"):
            await services.rotation.rotate(await services.identity.operator(), AES)


async def test_a_version_that_aws_forgets_stays(aws: Aws, on_sqlite: Place) -> None:
    given = keys()
    aws.create(given)
    async with process(on_sqlite) as services:
        for version in (2, 3):
            aws.put(given | {"AES_KEY": secrets.token_hex(32)})
            await services.outside_secrets.read_again()
            await until(lambda: primary(services, AES) == version)  # noqa: B023 - waited for at once
    async with process(on_sqlite) as services:
        assert len(states(services, AES)) == 3


async def test_a_start_that_finds_a_new_version_promotes_it_by_itself(aws: Aws, on_sqlite: Place) -> None:
    given = keys()
    aws.create(given)
    async with process(on_sqlite):
        pass
    aws.put(given | {"API_SECRET_KEY": secrets.token_hex(32)})
    async with process(on_sqlite) as services:
        assert primary(services, KeyName.API_SECRET_KEY) == 1
        following = asyncio.create_task(services.outside_secrets.keep_up())
        await until(lambda: primary(services, KeyName.API_SECRET_KEY) == 2)
        following.cancel()


async def test_a_revoked_key_in_aws_halts_a_start_and_is_refused_while_running(
    aws: Aws, on_sqlite: Place, caplog: pytest.LogCaptureFixture
) -> None:
    given = keys()
    aws.create(given)
    async with process(on_sqlite) as services:
        aws.put(given | {"JWT_SECRET_KEY": secrets.token_hex(32)})
        await services.outside_secrets.read_again()
        await until(lambda: primary(services, JWT) == 2)
        await services.rotation.revoke(await services.identity.operator(), JWT, 1)
        aws.move_back()
        await services.outside_secrets.read_again()
        assert "JWT_SECRET_KEY in the AWS secret is not used now" in caplog.text
        assert primary(services, JWT) == 2
    with pytest.raises(InsecureKey, match="version 1, which is compromised"):
        async with process(on_sqlite):
            pass


# ---------------------------------------------------------------------------------------------------------------------
# The master key
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_new_master_key_in_aws_wraps_the_install_once_every_process_has_it(
    aws: Aws, at_aws: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.services.keys import master_key

    monkeypatch.setattr(master_key, "WAIT_SECONDS", 0.3)
    given = keys()
    aws.create(given)
    async with process(at_aws) as one, process(at_aws) as other:
        before = one.keys.ring.manifest.master_key_id
        aws.put(given | {"MASTER_KEY": secrets.token_hex(32)})
        await one.outside_secrets._kept_up(read=True)
        assert one.keys.ring.manifest.master_key_id == before, "the other process was not given it yet"
        await other.outside_secrets.read_again()
        for services in (one, other):  # each tells the others with its lease which master keys it has
            await services.instances._renew(services.keys._clock.monotonic())
        monkeypatch.setattr(master_key, "WAIT_SECONDS", 20.0)
        await one.outside_secrets._kept_up(read=True)
        after = one.keys.ring.manifest.master_key_id
        assert after != before
        await until(lambda: other.keys.ring.manifest.master_key_id == after)
    async with process(at_aws) as again:
        assert again.keys.ring.manifest.master_key_id == after


async def test_a_start_opens_with_the_master_key_of_the_former_version(aws: Aws, on_sqlite: Place) -> None:
    given = keys()
    aws.create(given)
    async with process(on_sqlite) as services:
        before = services.keys.ring.manifest.master_key_id
    aws.put(given | {"MASTER_KEY": secrets.token_hex(32)})
    async with process(on_sqlite) as services:
        assert services.keys.ring.manifest.master_key_id == before
        following = asyncio.create_task(services.outside_secrets.keep_up())
        await until(lambda: services.keys.ring.manifest.master_key_id != before)
        following.cancel()
    aws.put(given | {"MASTER_KEY": given["MASTER_KEY"]})


# ---------------------------------------------------------------------------------------------------------------------
# Failures, and caches
# ---------------------------------------------------------------------------------------------------------------------


def _delete(aws: Aws) -> None:
    aws.client.delete_secret(SecretId=aws.settings["AWS_SECRET_NAME"])


BREAKS: dict[str, Callable[[Aws, dict[str, str]], Any]] = {
    "denied": lambda aws, _: setattr(aws, "fault", refusal("AccessDeniedException")),
    "failing": lambda aws, _: setattr(aws, "fault", refusal("InternalServiceError", 500)),
    "broken": lambda aws, _: aws.put("{"),
    "partial": lambda aws, given: aws.put({"MASTER_KEY": given["MASTER_KEY"]}),
    "deleted": lambda aws, _: _delete(aws),
    "weak": lambda aws, given: aws.put(given | {"MASTER_KEY": "0" * 64}),
}


@pytest.mark.parametrize("cause", BREAKS)
async def test_while_aws_fails_the_present_keys_stay_in_use(
    aws: Aws, on_sqlite: Place, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = keys()
    aws.create(given)
    async with process(on_sqlite) as services:
        before = services.keys.ring
        BREAKS[cause](aws, given)
        with pytest.raises((SecretsUnavailable, InsecureKey)):
            await services.outside_secrets.read_again()
        assert await services.outside_secrets._kept_up(read=True) == pytest.approx(60)
        assert "the present secrets stay in use" in caplog.text
        with pytest.raises(SecretsNotRead):
            await services.outside_secrets.clear_caches(actor(Role.ADMIN))
        await services.keys.reload()
        assert services.keys.ring is before
        assert services.keys.primary(JWT).material.reveal() == given["JWT_SECRET_KEY"].encode()
        assert not any(value in caplog.text for value in given.values())


async def test_the_secret_is_read_again_on_schedule(
    aws: Aws, on_sqlite: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(outside_secrets, "READ_EVERY_SECONDS", 0.05)
    given = keys(DISCORD_BOT_TOKEN="one")
    aws.create(given)
    hidden: list[SecretText] = []
    async with process(on_sqlite, hidden) as services:
        following = asyncio.create_task(services.outside_secrets.keep_up())
        fresh = secrets.token_hex(32)
        aws.put(given | {"AES_KEY": fresh, "DISCORD_BOT_TOKEN": "two"})
        await until(lambda: primary(services, AES) == 2)
        aws.fault = refusal("ThrottlingException")
        await until(lambda: "the present secrets stay in use" in caplog.text)
        aws.fault = None
        following.cancel()
    assert "Loaded secrets from AWS" in caplog.messages
    assert "used from the next start on: DISCORD_BOT_TOKEN" in caplog.text
    assert fresh in [each.reveal() for each in hidden]


async def test_requests_that_come_while_aws_hangs_share_one_read_and_wait_no_longer_than_a_request_may(
    aws: Aws, on_sqlite: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside_secrets, "REQUEST_WAITS_SECONDS", 0.5)
    given = keys()
    aws.create(given)
    async with process(on_sqlite) as services:
        before = aws.requests
        aws.fault = aws.hang
        clearing = [services.outside_secrets.clear_caches(actor(Role.ADMIN)) for _ in range(5)]
        async with asyncio.timeout(10):
            answers = await asyncio.gather(*clearing, return_exceptions=True)
        assert all(isinstance(each, SecretsNotRead) for each in answers)
        assert aws.requests - before == 1
        aws.fault = None
        aws.released.set()
        aws.put(given | {"AES_KEY": secrets.token_hex(32)})
        await services.outside_secrets.read_again()
        await until(lambda: primary(services, AES) == 2)


async def test_owners_and_admins_clear_caches_and_it_is_audited(aws: Aws, on_sqlite: Place) -> None:
    given = keys()
    aws.create(given)
    async with process(on_sqlite) as services:
        for role in (Role.MEMBER, Role.AUDITOR):
            with pytest.raises(Forbidden):
                await services.outside_secrets.clear_caches(actor(role))
        aws.put(given | {"AES_KEY": secrets.token_hex(32)})
        await services.outside_secrets.clear_caches(actor(Role.ADMIN))
        await until(lambda: primary(services, AES) == 2)


async def test_clearing_says_which_keys_of_the_secret_a_start_would_refuse(aws: Aws, on_sqlite: Place) -> None:
    """They are not used, and the others of the same version are."""
    given = keys()
    aws.create(given)
    async with process(on_sqlite) as services:
        other = secrets.token_hex(32)
        aws.put(given | {"AES_KEY": "changeme", "JWT_SECRET_KEY": other})
        with pytest.raises(SecretsNotRead, match="AES_KEY in the AWS secret is not used") as refused:
            await services.outside_secrets.clear_caches(actor(Role.ADMIN))
        assert "a start would halt" in refused.value.detail
        assert "changeme" not in refused.value.detail
        assert services.keys.ring.keysets[AES].primary.version == 1
        await until(lambda: primary(services, JWT) == 2)
        aws.put(given | {"JWT_SECRET_KEY": other})
        await services.outside_secrets.clear_caches(actor(Role.ADMIN))
