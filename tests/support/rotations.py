"""An install full of secrets, and what has to hold of it while its keys change, whoever dies meanwhile."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING

from app.domain.encrypted_columns import ENCRYPTED_COLUMNS
from app.domain.errors import KeyStateConflict
from app.domain.jobs import Job, JobState
from app.domain.keys import KeyName, KeyState
from app.domain.rotation import Step
from tests.support.environment import process_environment
from tests.support.processes import Process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.services import Services
    from tests.support.installs import Place

CHANGE_KEY = ["-m", "tests.support.change_key"]
WRITE_SECRETS = ["-m", "tests.support.write_secrets"]

GUILDS = ("900000000000000001", "900000000000000002")
CREDENTIALS = 140
REPLACED = 60
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def start(place: Place, *command: str, out: IO[str] | int = subprocess.PIPE) -> Process:
    """Start a process at a place; what it says on standard output is kept."""
    return Process(*command, env=process_environment(**place.environment), stdout=out)


@dataclass
class Ledger:
    """What was acknowledged: the secrets of every credential, the one in force last."""

    secrets: dict[str, list[str]] = field(default_factory=dict)

    def copy(self) -> Ledger:
        return Ledger({name: list(secrets) for name, secrets in self.secrets.items()})


async def fill(services: Services) -> Ledger:
    """Store some hundred secrets, of two owners, a part of them former ones."""
    ledger = Ledger()
    actors = [await services.identity.operator_for(guild_id=each) for each in GUILDS]
    for number in range(CREDENTIALS):
        actor, secret = actors[number % 2], f"sk-proj-first-{number}-4f9aTq7ZbX2mLw8vKd3Yc6Rn"
        assert actor.guild is not None
        added = await services.credentials.add(
            actor, provider="openai", label=f"number {number}", secret=secret, guild_id=actor.guild.guild_id
        )
        ledger.secrets[added.view.id] = [secret]
        if number < REPLACED:
            secret = f"sk-proj-second-{number}-Hn5sPw1JxU8eQg2Bt7Vf4Mz9"
            await services.credentials.replace(actor, added.view.id, secret)
            ledger.secrets[added.view.id].append(secret)
    return ledger


async def stored(services: Services) -> dict[str, list[str]]:
    """Every secret of every credential as it opens now, the one in force last. Raises CryptoError."""
    cipher = services.credentials._cipher
    async with services.credentials._storage.read() as uow:
        records = await uow.credentials.page(after=None, limit=10_000)
        rows = [(record, await uow.credentials.history(record.id)) for record in records]
    return {
        record.id: [*(cipher.decrypt_former(each, record.owner) for each in reversed(history)), cipher.decrypt(record)]
        for record, history in rows
    }


async def under(services: Services) -> set[int]:
    """The key versions that sealed anything; every row is looked at, and tells the truth of itself."""
    versions: set[int] = set()
    async with services.credentials._storage.read() as uow:
        for column in ENCRYPTED_COLUMNS:
            rows = await uow.encrypted_rows.all(column, after=None, limit=10_000)
            assert services.credentials._cipher.opened_by(column, rows) == [row.key_version for row in rows]
            versions |= {row.key_version for row in rows}
    return versions


async def require_fingerprints(services: Services) -> None:
    """Every fingerprint was made with the primary of API_SECRET_KEY."""
    cipher, primary = services.credentials._cipher, services.keys.primary(KeyName.API_SECRET_KEY)
    async with services.credentials._storage.read() as uow:
        records = await uow.credentials.page(after=None, limit=10_000)
    for record in records:
        assert record.fingerprint == cipher.fingerprint_with(primary, cipher.decrypt(record))


def require_one_primary(services: Services, name: KeyName) -> None:
    """The keyset's constructor sees to the rest."""
    states = [each.state for each in services.keys.ring.keysets[name]]
    assert states.count(KeyState.ACTIVE) == 1
    assert states.count(KeyState.PRE_ACTIVATION) <= 1


async def rotations(services: Services) -> Sequence[Job]:
    """The jobs there are, the latest first."""
    async with services.credentials._storage.read() as uow:
        return await uow.jobs.page(before=None, limit=100)


# ---------------------------------------------------------------------------------------------------------------------
# Time that passes
# ---------------------------------------------------------------------------------------------------------------------


async def lapse(place: Place, *, pid: int | None = None) -> None:
    """Let the leases of a dead process lapse, or everybody's, and every claim: stands in for 15 seconds."""
    await place.execute("UPDATE jobs SET lease_until = :at WHERE state = 'running'", at=_at(place))
    if pid is None:
        await place.execute("UPDATE instances SET lease_until = :at", at=_at(place))
    else:
        await place.execute("UPDATE instances SET lease_until = :at WHERE pid = :pid", at=_at(place), pid=pid)


async def expire_tokens(place: Place, services: Services) -> None:
    """Let the tokens expire that rotations of JWT_SECRET_KEY wait for: stands in for half an hour."""
    services.rotation.job._overlap = timedelta()
    await place.execute("UPDATE jobs SET run_at = :at WHERE step = 'overlap'", at=_at(place))


def _at(place: Place) -> datetime | str:
    """A moment as the engine's driver takes it."""
    return LONG_AGO if place.url.startswith("postgresql") else LONG_AGO.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# ---------------------------------------------------------------------------------------------------------------------
# A command, and the same command again
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A change of a key as a command makes it."""

    action: str
    name: KeyName

    @property
    def arguments(self) -> list[str]:
        return [self.action, self.name.value]

    async def make(self, services: Services) -> Job | None:
        """Begin it, or find what was begun, and stay until it is over or waits; None where nothing is left to do."""
        actor = await services.identity.operator()
        if self.action == "rotate":
            job = await services.rotation.rotate(actor, self.name)
        elif self.action == "rollback":
            job = await services.rotation.rollback(actor, self.name)
        else:
            try:
                job = await services.rotation.revoke(actor, self.name, 1)
            except KeyStateConflict:  # that is done already
                return None
        return await follow(services, job)


async def follow(services: Services, job: Job) -> Job:
    """Where a job stands when it is over, or waits for later."""
    async for stand in services.rotation.follow(job.id):
        job = stand
    return job


async def require_completed(place: Place, services: Services, change: Change, ledger: Ledger) -> None:
    """The change was made: nothing needs a former version, so all of them are retired, and nothing is lost."""
    waiting = [job for job in await rotations(services) if job.progress.step == Step.OVERLAP and not job.state.over]
    if waiting:
        assert 1 in services.keys.usable_materials(KeyName.JWT_SECRET_KEY), "the tokens that it signed are valid"
        await expire_tokens(place, services)
    for job in waiting:
        await follow(services, job)
    await services.keys.reload()
    jobs = await rotations(services)
    assert jobs
    assert {(job.state, job.error) for job in jobs} == {(JobState.DONE, None)}, jobs
    keyset = services.keys.ring.keysets[change.name]
    former = KeyState.COMPROMISED if change.action == "revoke" else KeyState.DEACTIVATED
    assert keyset.primary.version == max(each.version for each in keyset)
    for each in keyset:
        if each is not keyset.primary:
            assert each.state is (former if each.version == 1 else KeyState.DEACTIVATED)
            assert each.retired_at is not None
    assert await under(services) == {services.keys.ring.keysets[KeyName.AES_KEY].primary.version}
    await require_fingerprints(services)
    assert await stored(services) == ledger.secrets
