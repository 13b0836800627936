"""Rotation on a storage in memory: what is refused, what follows what, and what the course leaves behind."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.domain.audit import Action
from app.domain.credentials import Status
from app.domain.errors import (
    Forbidden,
    InsecureKey,
    InvalidInput,
    KeyStateConflict,
    NotFound,
    ReauthenticationRequired,
    StorageError,
)
from app.domain.identity import REAUTHENTICATION_LASTS, Actor, Role, Source
from app.domain.jobs import JOB_LEASE, Job, JobKind, JobState, Progress
from app.domain.keys import APPLICATION_KEYS, KeyName, KeyState, Origin
from app.domain.rotation import NAMED, Step
from app.domain.secrets import SecretText
from app.services.jobs import JobRun
from app.services.keys import KeyRing
from app.services.rotation import LEEWAY, Dependents, passes
from app.services.rotation.service import AGES_EVERY
from tests.support.fakes import FakeClock, FakeJobRepository, FakeRandomness, FakeStorage
from tests.support.fakes.credentials import FakeEncryptedRowRepository
from tests.support.keyhall import ROTATION_DAYS, TOKEN_LIFETIME, Keyhall, known, member, open_keyhall
from tests.support.samples import OTHER_SECRET, SECRET

AES, JWT = KeyName.AES_KEY, KeyName.JWT_SECRET_KEY
API, MESSAGES = KeyName.API_SECRET_KEY, KeyName.ENCRYPTION_KEY
OVERLAP = TOKEN_LIFETIME + LEEWAY
DAY = timedelta(days=1)
GIVEN = SecretText("Zx8kQm3vN7pRt2LwYb5Hc9Jd4Fg6Se1A")


@pytest.fixture
def operator(clock: FakeClock) -> Actor:
    return member(clock, "operator", role=Role.OWNER, source=Source.CLI)


@pytest.fixture
def mia(clock: FakeClock) -> Actor:
    """Her session never grows stale: nothing here is about that."""
    return replace(member(clock, "mia"), authenticated_at=clock.now() + timedelta(days=1000))


# ---------------------------------------------------------------------------------------------------------------------
# What a worker does, and what there is to see
# ---------------------------------------------------------------------------------------------------------------------


async def worked(keyhall: Keyhall, job: Job | None) -> Job:
    """The job after a worker has taken it once."""
    assert job is not None
    run = await keyhall.jobs.claim(job.id)
    assert run is not None
    await keyhall.jobs.work(run, keyhall.rotation.job.carry_on)
    return await stored(keyhall, job)


async def stored(keyhall: Keyhall, job: Job) -> Job:
    async with keyhall.storage.read() as uow:
        found = await uow.jobs.get(job.id)
    assert found is not None
    return found


async def rotated(keyhall: Keyhall, operator: Actor, name: KeyName) -> Job:
    return await worked(keyhall, await keyhall.rotation.rotate(operator, name))


async def later(keyhall: Keyhall, clock: FakeClock, by: timedelta) -> None:
    """Let time pass in a process that keeps its lease."""
    clock.advance(by)
    await keyhall.instances.refresh()


def states(keyhall: Keyhall, name: KeyName) -> list[KeyState]:
    """Of every version, in the order of their numbers."""
    return [each.state for each in keyhall.keys.ring.keysets[name]]


def retired(keyhall: Keyhall, name: KeyName) -> list[int]:
    return [each.version for each in keyhall.keys.ring.keysets[name] if each.retired_at is not None]


def primary(keyhall: Keyhall, name: KeyName) -> int:
    return keyhall.keys.ring.keysets[name].primary.version


def sealed_by(storage: FakeStorage) -> set[int]:
    """The versions of AES_KEY that rows name."""
    present = {each.key_version for each in storage.tables.credentials.values()}
    return present | {each.key_version for each in storage.tables.history.values()}


def damage(storage: FakeStorage, credential_id: str) -> None:
    record = storage.tables.credentials[credential_id]
    broken = record.encrypted_value[:-1] + bytes([record.encrypted_value[-1] ^ 1])
    storage.tables.credentials[credential_id] = replace(record, encrypted_value=broken)


def trail(storage: FakeStorage) -> list[tuple[Action, str | None, dict[str, str | int]]]:
    """What happened to keys, and who asked for it."""
    events = [each for each in storage.tables.audit if each.object_kind == "key"]
    return [(each.action, each.subject_id, dict(each.detail)) for each in events]


async def add(keyhall: Keyhall, actor: Actor, label: str = "main", secret: str = SECRET) -> str:
    return (await keyhall.credentials.add(actor, provider="openai", label=label, secret=secret)).view.id


async def revealed(keyhall: Keyhall, actor: Actor, credential_id: str) -> str:
    return (await keyhall.credentials.reveal(actor, credential_id)).reveal()


async def neighbour(keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, *, live: bool = True) -> Keyhall:
    """Another process on the same storage."""
    other = await open_keyhall(storage, clock, FakeRandomness(1))
    if live:
        await other.instances.refresh()
    return other


# ---------------------------------------------------------------------------------------------------------------------
# To a new primary
# ---------------------------------------------------------------------------------------------------------------------


async def test_rotating_aes_key_seals_everything_anew_and_retires_the_former_version(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor
) -> None:
    kept, removed = await add(keyhall, mia), await add(keyhall, mia, "removed", OTHER_SECRET)
    await keyhall.credentials.replace(mia, kept, OTHER_SECRET)
    await keyhall.credentials.remove(mia, removed)
    before = {key: (each.version, each.updated_at) for key, each in storage.tables.credentials.items()}
    job = await rotated(keyhall, operator, AES)
    assert (job.state, job.progress.step, job.error) == (JobState.DONE, "done", None)
    assert job.progress.note == "version 2 is primary, 1 retired"
    assert states(keyhall, AES) == [KeyState.DEACTIVATED, KeyState.ACTIVE]
    assert retired(keyhall, AES) == [1]
    assert sealed_by(storage) == {2}
    assert {key: (each.version, each.updated_at) for key, each in storage.tables.credentials.items()} == before
    assert await revealed(keyhall, mia, kept) == OTHER_SECRET
    await keyhall.credentials.rollback(mia, kept)
    assert await revealed(keyhall, mia, kept) == SECRET
    await keyhall.credentials.restore(mia, removed)
    assert await revealed(keyhall, mia, removed) == OTHER_SECRET


async def test_the_trail_tells_who_asked_and_what_followed(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor
) -> None:
    await rotated(keyhall, operator, AES)
    assert trail(storage) == [
        (Action.KEY_ROTATION_REQUESTED, operator.subject_id, {"requested": "rotate"}),
        (Action.KEY_ANNOUNCED, None, {"version": 2}),
        (Action.KEY_PROMOTED, None, {"version": 2}),
        (Action.KEY_RETIRED, None, {"version": 1}),
    ]


async def test_a_former_version_of_jwt_secret_key_verifies_until_its_last_token_has_expired(
    keyhall: Keyhall, clock: FakeClock, operator: Actor
) -> None:
    promoted_at = clock.now()
    job = await rotated(keyhall, operator, JWT)
    assert (job.state, job.progress.step) == (JobState.WAITING, "overlap")
    assert job.run_at == promoted_at + OVERLAP
    assert "verify until" in job.progress.note
    assert list(keyhall.keys.usable_materials(JWT)) == [1, 2]
    assert await keyhall.jobs.claim(job.id) is None
    await later(keyhall, clock, OVERLAP)
    job = await worked(keyhall, job)
    assert (job.state, job.progress.note) == (JobState.DONE, "version 2 is primary, 1 retired")
    assert list(keyhall.keys.usable_materials(JWT)) == [2]


async def test_former_versions_of_encryption_key_open_until_they_are_destroyed(
    keyhall: Keyhall, operator: Actor, mia: Actor
) -> None:
    mia = replace(mia, discord_id="1001")
    token = await keyhall.messages.encrypt(mia, "meet at nine")
    job = await rotated(keyhall, operator, MESSAGES)
    assert job.state is JobState.DONE
    assert "until they are destroyed" in job.progress.note
    assert states(keyhall, MESSAGES) == [KeyState.DEACTIVATED, KeyState.ACTIVE]
    assert retired(keyhall, MESSAGES) == []
    assert await keyhall.messages.decrypt(mia, token) == "meet at nine"


async def test_rotating_api_secret_key_recomputes_every_fingerprint(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor
) -> None:
    first, second = await add(keyhall, mia), await add(keyhall, mia, "other", OTHER_SECRET)
    before = {key: each.fingerprint for key, each in storage.tables.credentials.items()}
    assert (await rotated(keyhall, operator, API)).state is JobState.DONE
    material = keyhall.keys.ring.primary(API)
    for credential_id, secret in ((first, SECRET), (second, OTHER_SECRET)):
        record = storage.tables.credentials[credential_id]
        assert record.fingerprint == keyhall.cipher.fingerprint_with(material, secret)
        assert record.fingerprint != before[credential_id]
        assert record.version == 1
    assert retired(keyhall, API) == [1]


async def test_a_fingerprint_that_could_not_be_swapped_is_looked_at_again(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential_id = await add(keyhall, mia)
    during(
        keyhall, monkeypatch, "fingerprint_with", lambda: keyhall.credentials.change(mia, credential_id, label="moved")
    )
    assert (await rotated(keyhall, operator, API)).state is JobState.DONE
    record = storage.tables.credentials[credential_id]
    assert record.version == 2
    assert record.fingerprint == keyhall.cipher.fingerprint_with(keyhall.keys.ring.primary(API), SECRET)


async def test_a_credential_that_does_not_open_holds_up_no_fingerprint(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor
) -> None:
    broken, sound = await add(keyhall, mia), await add(keyhall, mia, "sound", OTHER_SECRET)
    damage(storage, broken)
    job = await rotated(keyhall, operator, API)
    assert job.state is JobState.DONE
    assert job.progress.note == f"version 2 is primary, 1 retired; 1 rows do not open: api_credentials {broken}"
    expected = keyhall.cipher.fingerprint_with(keyhall.keys.ring.primary(API), OTHER_SECRET)
    assert storage.tables.credentials[sound].fingerprint == expected


async def test_nothing_is_promoted_before_every_live_process_has_taken_it_up(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    other = await neighbour(keyhall, storage, clock)
    job = await keyhall.rotation.rotate(operator, MESSAGES)
    working = asyncio.create_task(worked(keyhall, job))
    while "waiting for test" not in (await stored(keyhall, job)).progress.note:
        assert not working.done()
    assert states(keyhall, MESSAGES) == [KeyState.ACTIVE, KeyState.PRE_ACTIVATION]
    await other.instances.refresh()
    while (await stored(keyhall, job)).progress.step != "promoted":
        assert not working.done()
    # It has promoted, and waits again: nobody may still encrypt with the former one when former things are counted.
    assert not working.done()
    await other.instances.refresh()
    assert (await working).state is JobState.DONE


async def test_a_process_whose_lease_has_lapsed_is_not_waited_for(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    await neighbour(keyhall, storage, clock)
    began = clock.now()
    assert (await rotated(keyhall, operator, MESSAGES)).state is JobState.DONE
    assert clock.now() - began >= timedelta(seconds=15)


async def test_a_version_that_an_interrupted_rotation_left_behind_is_used(keyhall: Keyhall, operator: Actor) -> None:
    async with keyhall.storage.write() as uow:
        await keyhall.keys.change(uow, JWT, lambda ring: keyhall.keys.add_version(ring, JWT))
    await rotated(keyhall, operator, JWT)
    assert states(keyhall, JWT) == [KeyState.DEACTIVATED, KeyState.ACTIVE]


async def test_a_rotation_that_is_under_way_is_what_one_gets(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor
) -> None:
    job = await keyhall.rotation.rotate(operator, AES)
    assert (await keyhall.rotation.rotate(operator, AES)).id == job.id
    assert [action for action, _, _ in trail(storage)] == [Action.KEY_ROTATION_REQUESTED]
    await worked(keyhall, job)
    assert (await keyhall.rotation.rotate(operator, AES)).id != job.id


async def test_while_former_tokens_run_out_the_key_is_rotated_again(
    keyhall: Keyhall, clock: FakeClock, operator: Actor
) -> None:
    first = await rotated(keyhall, operator, JWT)
    await later(keyhall, clock, OVERLAP / 2)
    second = await rotated(keyhall, operator, JWT)
    assert list(keyhall.keys.usable_materials(JWT)) == [1, 2, 3]
    await later(keyhall, clock, OVERLAP / 2)
    assert (await worked(keyhall, first)).state is JobState.DONE
    assert list(keyhall.keys.usable_materials(JWT)) == [1, 2, 3]
    await later(keyhall, clock, OVERLAP / 2)
    assert (await worked(keyhall, second)).state is JobState.DONE
    assert list(keyhall.keys.usable_materials(JWT)) == [3]


async def test_tokens_of_a_version_that_was_primary_for_a_moment_outlive_the_rotation_before(
    keyhall: Keyhall, clock: FakeClock, operator: Actor
) -> None:
    """Rolled back and forth, the primary is the same again: what signed in between signed a moment ago."""
    first = await rotated(keyhall, operator, JWT)
    await later(keyhall, clock, OVERLAP - timedelta(minutes=2))
    for expected in (1, 2):
        await worked(keyhall, await keyhall.rotation.rollback(operator, JWT))
        assert primary(keyhall, JWT) == expected
    await later(keyhall, clock, timedelta(minutes=2))
    await worked(keyhall, first)
    assert list(keyhall.keys.usable_materials(JWT)) == [1, 2]


# ---------------------------------------------------------------------------------------------------------------------
# Dates
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_rotation_is_announced_for_its_date(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    date = clock.now() + DAY
    job = await keyhall.rotation.rotate(operator, JWT, at=date)
    assert (job.state, job.run_at) == (JobState.WAITING, date)
    assert trail(storage) == [
        (Action.KEY_ROTATION_REQUESTED, operator.subject_id, {"requested": "rotate", "due": date.isoformat()})
    ]
    assert await keyhall.jobs.claim() is None
    standing = next(each for each in await keyhall.key_inspection.list(operator) if each.name is JWT)
    assert (standing.announced_at, standing.job) == (date, job)
    await later(keyhall, clock, DAY)
    await worked(keyhall, job)
    assert primary(keyhall, JWT) == 2


@pytest.mark.parametrize("away", [timedelta(), -DAY, timedelta(days=3651)], ids=["now", "past", "in ten years"])
async def test_a_date_lies_ahead_within_ten_years(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor, away: timedelta
) -> None:
    with pytest.raises(InvalidInput, match="at: must lie ahead"):
        await keyhall.rotation.rotate(operator, JWT, at=clock.now() + away)
    assert storage.tables.jobs == {}


async def test_an_announced_rotation_is_brought_forward_by_another_without_a_date(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    job = await keyhall.rotation.rotate(operator, JWT, at=clock.now() + DAY)
    assert (await keyhall.rotation.rotate(operator, JWT, at=clock.now() + DAY)).id == job.id
    with pytest.raises(KeyStateConflict, match="cancel that first"):
        await keyhall.rotation.rotate(operator, JWT, at=clock.now() + 2 * DAY)
    assert (await keyhall.rotation.rotate(operator, JWT)).id == job.id
    requested = Action.KEY_ROTATION_REQUESTED, operator.subject_id, {"requested": "rotate now"}
    assert trail(storage)[-1] == requested
    await worked(keyhall, job)
    assert primary(keyhall, JWT) == 2


async def test_an_announced_rotation_is_called_off(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    job = await keyhall.rotation.rotate(operator, JWT, at=clock.now() + DAY)
    cancelled = await keyhall.rotation.cancel(operator, JWT)
    assert (cancelled.id, cancelled.state) == (job.id, JobState.CANCELLED)
    assert trail(storage)[-1] == (Action.KEY_ROTATION_CANCELLED, operator.subject_id, {})
    await later(keyhall, clock, DAY)
    assert await keyhall.jobs.claim() is None
    with pytest.raises(KeyStateConflict, match="no rotation of JWT_SECRET_KEY waits"):
        await keyhall.rotation.cancel(operator, JWT)


async def test_a_rotation_that_has_begun_is_not_called_off(keyhall: Keyhall, operator: Actor) -> None:
    job = await keyhall.rotation.rotate(operator, JWT)
    assert await keyhall.jobs.claim(job.id)
    with pytest.raises(KeyStateConflict):
        await keyhall.rotation.cancel(operator, JWT)


# ---------------------------------------------------------------------------------------------------------------------
# Back, and from outside
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", APPLICATION_KEYS)
async def test_a_rollback_makes_the_former_version_primary_again(
    keyhall: Keyhall, clock: FakeClock, operator: Actor, mia: Actor, name: KeyName
) -> None:
    credential_id = await add(keyhall, mia)
    await rotated(keyhall, operator, name)
    await later(keyhall, clock, OVERLAP)
    while run := await keyhall.jobs.claim():
        await keyhall.jobs.work(run, keyhall.rotation.job.carry_on)
    job = await worked(keyhall, await keyhall.rotation.rollback(operator, name))
    assert job.state in {JobState.DONE, JobState.WAITING}
    assert job.error is None
    assert states(keyhall, name) == [KeyState.ACTIVE, KeyState.DEACTIVATED]
    assert 1 not in retired(keyhall, name)
    assert await revealed(keyhall, mia, credential_id) == SECRET


async def test_a_retired_jwt_version_is_loaded_everywhere_before_it_signs_again(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    job = await rotated(keyhall, operator, JWT)
    await later(keyhall, clock, OVERLAP)
    await worked(keyhall, job)
    other = await neighbour(keyhall, storage, clock)
    back = await keyhall.rotation.rollback(operator, JWT)
    working = asyncio.create_task(worked(keyhall, back))
    while "waiting for test" not in (await stored(keyhall, back)).progress.note:
        assert not working.done()
    await other.instances.refresh()
    assert list(other.keys.usable_materials(JWT)) == [1, 2]
    assert primary(other, JWT) == 2
    await working
    assert primary(keyhall, JWT) == 1


async def test_the_version_that_was_primary_last_is_rolled_back_to(keyhall: Keyhall, operator: Actor) -> None:
    for _ in range(3):
        await rotated(keyhall, operator, MESSAGES)
    await worked(keyhall, await keyhall.rotation.rollback(operator, MESSAGES))
    assert primary(keyhall, MESSAGES) == 3
    await worked(keyhall, await keyhall.rotation.rollback(operator, MESSAGES))
    assert primary(keyhall, MESSAGES) == 4


async def test_there_is_no_rollback_without_a_former_version(keyhall: Keyhall, operator: Actor) -> None:
    with pytest.raises(KeyStateConflict, match="no former version"):
        await keyhall.rotation.rollback(operator, AES)


@pytest.mark.parametrize("end", ["revoke", "destroy"])
async def test_there_is_no_rollback_to_what_was_revoked_or_destroyed(
    keyhall: Keyhall, operator: Actor, end: str
) -> None:
    await rotated(keyhall, operator, MESSAGES)
    await put_out_of_use(keyhall, operator, MESSAGES, end)
    with pytest.raises(KeyStateConflict, match="no former version"):
        await keyhall.rotation.rollback(operator, MESSAGES)


async def put_out_of_use(keyhall: Keyhall, operator: Actor, name: KeyName, end: str) -> None:
    """Version 1, which is deactivated."""
    if end == "revoke":
        await worked(keyhall, await keyhall.rotation.revoke(operator, name, 1))
    else:
        await keyhall.rotation.destroy(operator, name, 1, typed=name.value)


async def test_what_is_revoked_before_its_rollback_begins_does_not_become_primary(
    keyhall: Keyhall, operator: Actor
) -> None:
    await rotated(keyhall, operator, MESSAGES)
    back = await keyhall.rotation.rollback(operator, MESSAGES)
    await keyhall.rotation.revoke(operator, MESSAGES, 1)
    job = await worked(keyhall, back)
    assert (job.state, job.error) == (JobState.FAILED, "ENCRYPTION_KEY version 1 cannot become primary any more")
    assert states(keyhall, MESSAGES) == [KeyState.COMPROMISED, KeyState.ACTIVE]


async def test_what_is_revoked_in_the_middle_of_its_rollback_does_not_become_primary(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    await rotated(keyhall, operator, MESSAGES)
    other = await neighbour(keyhall, storage, clock)
    back = await keyhall.rotation.rollback(operator, MESSAGES)
    async with storage.write() as uow:  # news that the other process has not taken up: the rollback waits for it
        await keyhall.keys.change(uow, MESSAGES, lambda ring: keyhall.keys.add_version(ring, MESSAGES))
    working = asyncio.create_task(worked(keyhall, back))
    while "waiting for test" not in (await stored(keyhall, back)).progress.note:
        assert not working.done()
    await other.rotation.revoke(operator, MESSAGES, 1)
    job = await working
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert "the keys changed meanwhile" in job.error
    await keyhall.keys.reload()
    assert states(keyhall, MESSAGES)[:2] == [KeyState.COMPROMISED, KeyState.ACTIVE]


async def test_a_key_from_outside_becomes_primary_by_the_same_course(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor
) -> None:
    credential_id = await add(keyhall, mia)
    job = await worked(keyhall, await keyhall.rotation.import_(operator, AES, GIVEN))
    assert job.state is JobState.DONE
    version = keyhall.keys.ring.keysets[AES].primary
    assert (version.version, version.origin) == (2, Origin.IMPORTED)
    assert trail(storage)[0] == (Action.KEY_IMPORTED, operator.subject_id, {"version": 2})
    assert sealed_by(storage) == {2}
    assert await revealed(keyhall, mia, credential_id) == SECRET


async def test_importing_what_is_primary_changes_nothing(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor
) -> None:
    await worked(keyhall, await keyhall.rotation.import_(operator, MESSAGES, GIVEN))
    before = storage.tables.config, storage.tables.jobs
    assert await keyhall.rotation.import_(operator, MESSAGES, GIVEN) is None
    assert (storage.tables.config, storage.tables.jobs) == before


async def test_a_key_that_another_process_has_just_imported_is_not_added_twice(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    other = await neighbour(keyhall, storage, clock, live=False)
    await worked(other, await other.rotation.import_(operator, MESSAGES, GIVEN))
    assert primary(keyhall, MESSAGES) == 1  # this process has not noticed yet
    with pytest.raises(KeyStateConflict, match="another process just now: run this again"):
        await keyhall.rotation.import_(operator, MESSAGES, GIVEN)
    await keyhall.keys.reload()
    assert await keyhall.rotation.import_(operator, MESSAGES, GIVEN) is None
    assert [each.version for each in keyhall.keys.ring.keysets[MESSAGES]] == [1, 2]


async def test_importing_a_former_version_makes_it_primary_again(keyhall: Keyhall, operator: Actor) -> None:
    await worked(keyhall, await keyhall.rotation.import_(operator, MESSAGES, GIVEN))
    await rotated(keyhall, operator, MESSAGES)
    assert primary(keyhall, MESSAGES) == 3
    await worked(keyhall, await keyhall.rotation.import_(operator, MESSAGES, GIVEN))
    assert primary(keyhall, MESSAGES) == 2


@pytest.mark.parametrize(("end", "state"), [("revoke", "compromised"), ("destroy", "destroyed")])
async def test_importing_what_was_revoked_or_destroyed_is_refused(
    keyhall: Keyhall, operator: Actor, end: str, state: str
) -> None:
    await worked(keyhall, await keyhall.rotation.import_(operator, MESSAGES, GIVEN))
    await rotated(keyhall, operator, MESSAGES)
    async with keyhall.storage.write() as uow:
        kind = KeyState(state)
        now = keyhall.clock.now()
        await keyhall.keys.change(uow, MESSAGES, lambda ring: ring.keysets[MESSAGES].mark(2, kind, now))
    await keyhall.keys.reload()
    with pytest.raises(KeyStateConflict, match=f"this is ENCRYPTION_KEY version 2, which is {state}"):
        await keyhall.rotation.import_(operator, MESSAGES, GIVEN)


async def test_importing_a_weak_key_is_refused(keyhall: Keyhall, storage: FakeStorage, operator: Actor) -> None:
    with pytest.raises(InsecureKey) as refused:
        await keyhall.rotation.import_(operator, AES, SecretText("weak"))
    assert "weak" not in str(refused.value)
    assert storage.tables.jobs == {}


# ---------------------------------------------------------------------------------------------------------------------
# Two changes of one key at once
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_rotation_waits_for_a_rollback_that_is_under_way(keyhall: Keyhall, operator: Actor) -> None:
    await rotated(keyhall, operator, AES)
    back = await keyhall.rotation.rollback(operator, AES)
    assert (await keyhall.rotation.rollback(operator, AES)).id == back.id
    with pytest.raises(KeyStateConflict, match="AES_KEY is being changed already"):
        await keyhall.rotation.rotate(operator, AES)
    await worked(keyhall, back)
    await rotated(keyhall, operator, AES)
    assert primary(keyhall, AES) == 3


async def test_a_rollback_and_an_import_wait_for_a_rotation_that_is_under_way(
    keyhall: Keyhall, operator: Actor
) -> None:
    await worked(keyhall, await keyhall.rotation.import_(operator, MESSAGES, GIVEN))
    await rotated(keyhall, operator, MESSAGES)
    await keyhall.rotation.rotate(operator, MESSAGES)
    with pytest.raises(KeyStateConflict, match="being changed already"):
        await keyhall.rotation.rollback(operator, MESSAGES)
    with pytest.raises(KeyStateConflict, match="being changed already"):
        await keyhall.rotation.import_(operator, MESSAGES, GIVEN)
    with pytest.raises(KeyStateConflict, match="being changed already"):
        await keyhall.rotation.import_(operator, MESSAGES, SecretText(GIVEN.reveal()[::-1]))
    assert len(states(keyhall, MESSAGES)) == 3


async def test_who_loses_a_race_and_finds_the_winner_done_is_told_to_try_again(
    keyhall: Keyhall, operator: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def taken(*_: object, **__: object) -> bool:
        return False

    monkeypatch.setattr(FakeJobRepository, "add", taken)
    with pytest.raises(KeyStateConflict, match="try again"):
        await keyhall.rotation.rotate(operator, AES)


# ---------------------------------------------------------------------------------------------------------------------
# In the middle of a course
# ---------------------------------------------------------------------------------------------------------------------


def during(keyhall: Keyhall, monkeypatch: pytest.MonkeyPatch, method: str, act: Callable[[], Any]) -> None:
    """Have something happen once, between a course's reading of rows and its writing of them."""
    loop = asyncio.get_running_loop()
    original = getattr(keyhall.cipher, method)
    waiting = [act]

    def meanwhile(*arguments: Any) -> Any:
        result = original(*arguments)
        if waiting:
            asyncio.run_coroutine_threadsafe(waiting.pop()(), loop).result(10)
        return result

    monkeypatch.setattr(keyhall.cipher, method, meanwhile)


async def test_a_row_that_a_member_changes_meanwhile_is_found_by_the_scan(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential_id = await add(keyhall, mia)
    during(keyhall, monkeypatch, "reencrypt", lambda: keyhall.credentials.change(mia, credential_id, label="moved"))
    job = await rotated(keyhall, operator, AES)
    assert job.state is JobState.DONE
    record = storage.tables.credentials[credential_id]
    assert (record.label, record.version, record.key_version) == ("moved", 2, 2)
    assert retired(keyhall, AES) == [1]
    assert await revealed(keyhall, mia, credential_id) == SECRET


@pytest.mark.parametrize(("rows", "pages"), [(1, [1]), (2, [2, 0]), (3, [2, 1]), (4, [2, 2, 0])])
async def test_a_page_that_is_not_full_is_the_last_of_its_column(
    *, keyhall: Keyhall, operator: Actor, mia: Actor, monkeypatch: pytest.MonkeyPatch, rows: int, pages: list[int]
) -> None:
    """To look for a further row would read all those that are under the primary."""
    for number in range(rows):
        await add(keyhall, mia, label=str(number))
    monkeypatch.setattr(passes, "BATCH", 2)
    honest, seen = FakeEncryptedRowRepository.batch, []

    async def batch(*arguments: Any, **named: Any) -> Any:
        found = await honest(*arguments, **named)
        seen.append(len(found))
        return found

    async def counts(*_: Any) -> Any:
        raise AssertionError("counted by reading every row")

    monkeypatch.setattr(FakeEncryptedRowRepository, "batch", batch)
    monkeypatch.setattr(FakeEncryptedRowRepository, "counts", counts)
    job = await rotated(keyhall, operator, AES)
    assert (job.state, job.progress.done, job.progress.total) == (JobState.DONE, rows, rows)
    assert seen == [*pages, 0, 0]  # and no former secret, nor secret of a second factor


async def test_a_further_pass_says_how_many_rows_the_scan_has_counted_for_it(
    keyhall: Keyhall, operator: Actor, mia: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential_id = await add(keyhall, mia)
    for number in range(3):
        await add(keyhall, mia, label=str(number))
    noted: list[tuple[int, int | None]] = []
    honest = JobRun.hold

    async def hold(run: JobRun, uow: Any, progress: Progress | None = None) -> None:
        await honest(run, uow, progress)
        if run.progress.step == Step.REENCRYPT:
            noted.append((run.progress.done, run.progress.total))

    monkeypatch.setattr(JobRun, "hold", hold)
    during(keyhall, monkeypatch, "reencrypt", lambda: keyhall.credentials.change(mia, credential_id, label="moved"))
    assert (await rotated(keyhall, operator, AES)).state is JobState.DONE
    assert noted == [(0, None), (4, 4), (0, 1), (1, 1)]


@pytest.mark.parametrize("moment", ["reencrypt", "opened_by"])
async def test_a_secret_that_a_member_replaces_meanwhile_is_the_one_that_stays(
    *, keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    credential_id = await add(keyhall, mia)
    during(keyhall, monkeypatch, moment, lambda: keyhall.credentials.replace(mia, credential_id, OTHER_SECRET))
    assert (await rotated(keyhall, operator, AES)).state is JobState.DONE
    assert sealed_by(storage) == {2}
    assert await revealed(keyhall, mia, credential_id) == OTHER_SECRET
    await keyhall.credentials.rollback(mia, credential_id)
    assert await revealed(keyhall, mia, credential_id) == SECRET


@pytest.mark.parametrize(("name", "method"), [(AES, "opened_by"), (API, "fingerprint_with")])
async def test_a_look_at_every_row_does_not_run_after_those_that_keep_coming_in(
    *, keyhall: Keyhall, operator: Actor, mia: Actor, monkeypatch: pytest.MonkeyPatch, name: KeyName, method: str
) -> None:
    """Ids are made in the order of time: whoever writes writes behind the last row that was seen."""
    ids = itertools.count()
    monkeypatch.setattr(keyhall.randomness, "new_id", lambda: f"{next(ids):032}")
    await add(keyhall, mia)
    loop, original, looks = asyncio.get_running_loop(), getattr(keyhall.cipher, method), itertools.count(1)

    def look(*arguments: Any) -> Any:
        label = f"number {next(looks)}"
        asyncio.run_coroutine_threadsafe(add(keyhall, mia, label), loop).result(10)
        return original(*arguments)

    job = await keyhall.rotation.rotate(operator, name)
    if name is API:  # the credentials that come in have their fingerprints made the same way
        adding = keyhall.cipher.fingerprint

        def fingerprint(ring: KeyRing, secret: str) -> str | None:
            monkeypatch.setattr(keyhall.cipher, method, original)
            try:
                return adding(ring, secret)
            finally:
                monkeypatch.setattr(keyhall.cipher, method, look)

        monkeypatch.setattr(keyhall.cipher, "fingerprint", fingerprint)
    monkeypatch.setattr(keyhall.cipher, method, look)
    assert (await worked(keyhall, job)).state is JobState.DONE
    assert next(looks) <= 4  # one for each encrypted column


@pytest.mark.parametrize(
    ("name", "moment"),
    [(AES, "reencrypt"), (AES, "opened_by"), (API, "fingerprint_with")],
    ids=["rows", "scan", "marks"],
)
async def test_a_course_that_another_rotation_overtook_leaves_the_rest_to_that_one(
    *,
    keyhall: Keyhall,
    storage: FakeStorage,
    clock: FakeClock,
    operator: Actor,
    mia: Actor,
    monkeypatch: pytest.MonkeyPatch,
    name: KeyName,
    moment: str,
) -> None:
    credential_id = await add(keyhall, mia)
    other = await neighbour(keyhall, storage, clock, live=False)

    async def overtake() -> None:
        await other.keys.reload()
        await other.rotate(name)

    during(keyhall, monkeypatch, moment, overtake)
    job = await rotated(keyhall, operator, name)
    assert job.state is JobState.DONE
    assert retired(keyhall, name) == []
    assert primary(keyhall, name) == 3
    assert (await rotated(keyhall, operator, name)).state is JobState.DONE
    assert retired(keyhall, name) == [1, 2, 3]
    assert await revealed(keyhall, mia, credential_id) == SECRET


@pytest.mark.parametrize("name", [AES, API])
async def test_a_course_that_was_overtaken_while_it_slept_does_nothing_more(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor, name: KeyName
) -> None:
    await add(keyhall, mia)
    await keyhall.rotate(name)
    await keyhall.instances.refresh()
    job = await keyhall.rotation.retire(operator, name, 1)  # what is queued has version 2 in mind
    await keyhall.rotate(name)
    await keyhall.instances.refresh()
    before = storage.tables.credentials
    done = await worked(keyhall, job)
    assert (done.state, done.progress.note) == (JobState.DONE, "another rotation of this key took over")
    assert storage.tables.credentials == before


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("name", APPLICATION_KEYS)
async def test_a_course_that_dies_before_any_of_its_commits_is_resumed_by_another_process(
    *,
    keyhall: Keyhall,
    storage: FakeStorage,
    clock: FakeClock,
    operator: Actor,
    mia: Actor,
    monkeypatch: pytest.MonkeyPatch,
    name: KeyName,
) -> None:
    credential_id = await add(keyhall, mia)
    await keyhall.credentials.replace(mia, credential_id, OTHER_SECRET)
    hold = JobRun.hold
    deaths = 0
    for round_ in range(1, 50):
        left = round_

        async def dying(run: JobRun, *arguments: Any) -> None:
            nonlocal left
            left -= 1
            await hold(run, *arguments)
            if left == 0:
                raise Killed

        monkeypatch.setattr(JobRun, "hold", dying)
        began = await keyhall.rotation.rotate(operator, name)
        run = await keyhall.jobs.claim(began.id)
        assert run is not None
        try:
            await keyhall.jobs.work(run, keyhall.rotation.job.carry_on)
        except Killed:
            deaths += 1
        monkeypatch.setattr(JobRun, "hold", hold)
        died = left == 0
        await later(keyhall, clock, JOB_LEASE + OVERLAP)
        survivor = await open_keyhall(storage, clock, FakeRandomness(100 + round_))
        while again := await survivor.jobs.claim():
            await survivor.jobs.work(again, survivor.rotation.job.carry_on)
        await later(survivor, clock, OVERLAP)
        while again := await survivor.jobs.claim():
            await survivor.jobs.work(again, survivor.rotation.job.carry_on)
        assert (await stored(keyhall, began)).state is JobState.DONE
        await keyhall.instances.refresh()
        assert primary(keyhall, name) == round_ + 1, "a version more per rotation, no matter where it died"
        assert len(states(keyhall, name)) == round_ + 1
        assert retired(keyhall, name) == ([] if name is MESSAGES else list(range(1, round_ + 1)))
        assert await revealed(keyhall, mia, credential_id) == OTHER_SECRET
        if not died:
            break
    assert deaths >= 3


# ---------------------------------------------------------------------------------------------------------------------
# Rows that do not open
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_row_that_does_not_open_is_named_and_keeps_its_version_until_it_is_entered_again(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor
) -> None:
    sound, broken = await add(keyhall, mia), await add(keyhall, mia, "broken", OTHER_SECRET)
    damage(storage, broken)
    job = await rotated(keyhall, operator, AES)
    assert job.state is JobState.FAILED
    assert job.error == (
        f"1 rows do not open, so AES_KEY version 1 was not retired: api_credentials {broken} — enter them again or "
        "remove them, then run `keyhall keys retire AES_KEY 1`"
    )
    assert primary(keyhall, AES) == 2
    assert retired(keyhall, AES) == []
    assert storage.tables.credentials[sound].key_version == 2
    assert await revealed(keyhall, mia, sound) == SECRET

    await keyhall.credentials.replace(mia, broken, OTHER_SECRET)
    assert storage.tables.credentials[broken].status is Status.UNCHECKED
    job = await worked(keyhall, await keyhall.rotation.retire(operator, AES, 1))
    assert (job.state, job.error) == (JobState.DONE, None)
    assert retired(keyhall, AES) == [1]
    assert await revealed(keyhall, mia, broken) == OTHER_SECRET


async def test_what_no_failing_row_needs_is_retired_all_the_same(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor
) -> None:
    await rotated(keyhall, operator, AES)
    broken = await add(keyhall, mia)
    damage(storage, broken)
    await keyhall.rotate(AES)
    await keyhall.instances.refresh()
    job = await rotated(keyhall, operator, AES)
    assert job.state is JobState.FAILED
    assert retired(keyhall, AES) == [1, 3]


async def test_a_row_that_claims_to_be_under_the_primary_keeps_the_version_that_opens_it(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor
) -> None:
    """Nothing authenticates the column that a re-encryption goes by."""
    credential_id = await add(keyhall, mia)
    storage.tables.credentials[credential_id] = replace(storage.tables.credentials[credential_id], key_version=2)
    job = await rotated(keyhall, operator, AES)
    assert job.state is JobState.FAILED
    assert credential_id in (job.error or "")
    assert retired(keyhall, AES) == []
    assert await revealed(keyhall, mia, credential_id) == SECRET


async def test_failing_rows_are_counted_and_the_first_of_them_named(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor
) -> None:
    for number in range(NAMED + 3):
        damage(storage, await add(keyhall, mia, f"broken {number}"))
    job = await rotated(keyhall, operator, AES)
    assert job.error is not None
    assert job.error.startswith(f"{NAMED + 3} rows do not open")
    assert job.error.count("api_credentials") == NAMED


# ---------------------------------------------------------------------------------------------------------------------
# Out of use
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_primary_that_is_revoked_is_replaced_in_the_same_moment(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor
) -> None:
    job = await keyhall.rotation.revoke(operator, JWT, 1)
    assert states(keyhall, JWT) == [KeyState.COMPROMISED, KeyState.ACTIVE]
    assert list(keyhall.keys.usable_materials(JWT)) == [2]
    assert trail(storage) == [
        (Action.KEY_PROMOTED, operator.subject_id, {"version": 2}),
        (Action.KEY_REVOKED, operator.subject_id, {"version": 1}),
    ]
    assert (await worked(keyhall, job)).error is None


async def test_a_version_that_was_announced_takes_the_place_of_the_one_that_is_revoked(
    keyhall: Keyhall, operator: Actor
) -> None:
    async with keyhall.storage.write() as uow:
        await keyhall.keys.change(uow, JWT, lambda ring: keyhall.keys.add_version(ring, JWT))
    await keyhall.rotation.revoke(operator, JWT, 1)
    assert states(keyhall, JWT) == [KeyState.COMPROMISED, KeyState.ACTIVE]


async def test_what_a_revoked_aes_version_sealed_is_sealed_anew(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor
) -> None:
    credential_id = await add(keyhall, mia)
    job = await keyhall.rotation.revoke(operator, AES, 1)
    assert await revealed(keyhall, mia, credential_id) == SECRET
    assert (await worked(keyhall, job)).state is JobState.DONE
    assert sealed_by(storage) == {2}
    assert (states(keyhall, AES), retired(keyhall, AES)) == ([KeyState.COMPROMISED, KeyState.ACTIVE], [1])


async def test_a_former_version_is_revoked_without_a_new_primary(keyhall: Keyhall, operator: Actor) -> None:
    await rotated(keyhall, operator, JWT)
    await keyhall.rotation.revoke(operator, JWT, 1)
    assert states(keyhall, JWT) == [KeyState.COMPROMISED, KeyState.ACTIVE]
    assert list(keyhall.keys.usable_materials(JWT)) == [2]


async def test_a_version_is_revoked_once(keyhall: Keyhall, operator: Actor) -> None:
    await worked(keyhall, await keyhall.rotation.revoke(operator, JWT, 1))
    with pytest.raises(KeyStateConflict, match="compromised cannot become compromised"):
        await keyhall.rotation.revoke(operator, JWT, 1)
    with pytest.raises(NotFound, match="JWT_SECRET_KEY has no version 7"):
        await keyhall.rotation.revoke(operator, JWT, 7)
    assert states(keyhall, JWT) == [KeyState.COMPROMISED, KeyState.ACTIVE]


async def begun(keyhall: Keyhall, name: KeyName, job: Job) -> Job:
    """A job whose worker died right after it had made its version primary."""
    run = await keyhall.jobs.claim(job.id)
    assert run is not None
    course = keyhall.rotation.job
    while run.progress.step != Step.PROMOTED:
        await course._steps[Step(run.progress.step or Step.PREPARE)](run, name)
    await run.release(JobState.WAITING)
    return await stored(keyhall, job)


@pytest.mark.parametrize("name", [AES, API, JWT])
async def test_a_rotation_that_is_asked_for_again_after_its_promotion_is_carried_on_not_repeated(
    keyhall: Keyhall, operator: Actor, name: KeyName
) -> None:
    job = await begun(keyhall, name, await keyhall.rotation.rotate(operator, name))
    again = await keyhall.rotation.rotate(operator, name)
    assert again.id == job.id
    await worked(keyhall, again)
    assert primary(keyhall, name) == 2
    assert (await keyhall.rotation.rotate(operator, name)).id != job.id, "nothing is left of the first one to be done"


async def test_a_rotation_whose_worker_died_before_it_could_say_that_it_is_done_is_not_repeated(
    keyhall: Keyhall, operator: Actor
) -> None:
    job = await keyhall.rotation.rotate(operator, AES)
    run = await keyhall.jobs.claim(job.id)
    assert run is not None
    await keyhall.rotation.job.carry_on(run)
    await run.release(JobState.WAITING)
    again = await keyhall.rotation.rotate(operator, AES)
    assert again.id == job.id
    assert (await worked(keyhall, again)).state is JobState.DONE
    assert primary(keyhall, AES) == 2


async def test_a_rollback_that_is_asked_for_again_after_its_promotion_is_carried_on_not_undone(
    keyhall: Keyhall, operator: Actor
) -> None:
    await rotated(keyhall, operator, AES)
    job = await begun(keyhall, AES, await keyhall.rotation.rollback(operator, AES))
    again = await keyhall.rotation.rollback(operator, AES)
    assert again.id == job.id
    await worked(keyhall, again)
    assert primary(keyhall, AES) == 1


async def test_revoking_again_what_is_being_re_encrypted_is_to_wait_for_that(keyhall: Keyhall, operator: Actor) -> None:
    job = await keyhall.rotation.revoke(operator, AES, 1)
    again = await keyhall.rotation.revoke(operator, AES, 1)
    assert again.id == job.id
    await worked(keyhall, again)
    assert retired(keyhall, AES) == [1]


async def test_a_rotation_whose_version_was_replaced_since_is_not_carried_on_by_the_next(
    keyhall: Keyhall, operator: Actor
) -> None:
    job = await begun(keyhall, AES, await keyhall.rotation.rotate(operator, AES))
    await worked(keyhall, await keyhall.rotation.rollback(operator, AES))
    assert primary(keyhall, AES) == 1
    assert (await keyhall.rotation.rotate(operator, AES)).id != job.id


async def test_a_version_in_use_is_not_retired(keyhall: Keyhall, operator: Actor) -> None:
    with pytest.raises(KeyStateConflict, match="AES_KEY version 1 is active: only a version out of use is retired"):
        await keyhall.rotation.retire(operator, AES, 1)
    async with keyhall.storage.write() as uow:
        await keyhall.keys.change(uow, AES, lambda ring: keyhall.keys.add_version(ring, AES))
    await keyhall.keys.reload()
    with pytest.raises(KeyStateConflict, match="AES_KEY version 2 is pre-activation"):
        await keyhall.rotation.retire(operator, AES, 2)
    with pytest.raises(NotFound, match="AES_KEY has no version 3"):
        await keyhall.rotation.retire(operator, AES, 3)


async def test_a_version_is_retired_once(keyhall: Keyhall, operator: Actor) -> None:
    await rotated(keyhall, operator, AES)
    with pytest.raises(KeyStateConflict, match="AES_KEY version 1 is retired"):
        await keyhall.rotation.retire(operator, AES, 1)


async def test_versions_of_encryption_key_cannot_be_proved_to_be_of_no_use(keyhall: Keyhall, operator: Actor) -> None:
    await rotated(keyhall, operator, MESSAGES)
    with pytest.raises(KeyStateConflict, match="has left the database"):
        await keyhall.rotation.retire(operator, MESSAGES, 1)


async def test_a_version_of_jwt_secret_key_is_retired_when_its_tokens_have_expired(
    keyhall: Keyhall, clock: FakeClock, operator: Actor
) -> None:
    await rotated(keyhall, operator, JWT)
    until = (clock.now() + OVERLAP).isoformat(timespec="seconds")
    with pytest.raises(KeyStateConflict) as refused:
        await keyhall.rotation.retire(operator, JWT, 1)
    assert str(refused.value) == (
        f"tokens of JWT_SECRET_KEY version 1 are valid until {until}: wait, or end them now with "
        "`keyhall keys revoke JWT_SECRET_KEY 1`"
    )
    assert list(keyhall.keys.usable_materials(JWT)) == [1, 2]
    await later(keyhall, clock, OVERLAP)
    job = await keyhall.rotation.retire(operator, JWT, 1)
    await worked(keyhall, job)
    await later(keyhall, clock, OVERLAP)
    await worked(keyhall, job)
    assert retired(keyhall, JWT) == [1]


async def test_retiring_one_version_leaves_the_others(keyhall: Keyhall, operator: Actor) -> None:
    await keyhall.rotate(AES)
    await keyhall.keys.reload()
    await keyhall.rotate(AES)
    await keyhall.instances.refresh()
    assert (await worked(keyhall, await keyhall.rotation.retire(operator, AES, 2))).state is JobState.DONE
    assert retired(keyhall, AES) == [2]


async def test_destroying_forgets_the_material(keyhall: Keyhall, storage: FakeStorage, operator: Actor) -> None:
    await rotated(keyhall, operator, AES)
    needed = await keyhall.rotation.destroy(operator, AES, 1, typed=" AES_KEY\n")
    assert (needed.rows, needed.unreadable) == (0, 0)
    version = keyhall.keys.ring.keysets[AES].version(1)
    assert version is not None
    assert (version.state, version.wrapped) == (KeyState.DESTROYED, b"")
    assert list(keyhall.keys.usable_materials(AES)) == [2]
    assert trail(storage)[-1] == (Action.KEY_DESTROYED, operator.subject_id, {"version": 1})


@pytest.mark.parametrize("typed", ["", "yes", "aes_key", "AES_KEY 1"])
async def test_destroying_takes_the_name_of_the_key(keyhall: Keyhall, operator: Actor, typed: str) -> None:
    await rotated(keyhall, operator, AES)
    with pytest.raises(InvalidInput, match="confirmation: must be the name of the key, AES_KEY"):
        await keyhall.rotation.destroy(operator, AES, 1, typed=typed)
    assert states(keyhall, AES)[0] is KeyState.DEACTIVATED


async def test_what_stored_secrets_open_with_is_not_destroyed(keyhall: Keyhall, operator: Actor, mia: Actor) -> None:
    await add(keyhall, mia)
    await keyhall.rotate(AES)
    await keyhall.instances.refresh()
    with pytest.raises(
        KeyStateConflict, match=r"1 stored secrets open with AES_KEY version 1 alone: run `keyhall keys"
    ):
        await keyhall.rotation.destroy(operator, AES, 1, typed="AES_KEY")
    await worked(keyhall, await keyhall.rotation.retire(operator, AES, 1))
    await keyhall.rotation.destroy(operator, AES, 1, typed="AES_KEY")
    assert states(keyhall, AES) == [KeyState.DESTROYED, KeyState.ACTIVE]


async def test_what_comes_into_use_while_it_is_looked_at_is_not_destroyed(
    keyhall: Keyhall, operator: Actor, mia: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(keyhall, mia)
    await keyhall.rotate(AES)
    await keyhall.instances.refresh()

    async def nothing_a_moment_ago(*_: object) -> Dependents:
        return Dependents(name=AES, version=1, rows=0, unreadable=0, sentence="")

    monkeypatch.setattr(keyhall.key_inspection, "dependents", nothing_a_moment_ago)
    with pytest.raises(KeyStateConflict, match="came into use meanwhile"):
        await keyhall.rotation.destroy(operator, AES, 1, typed="AES_KEY")
    assert states(keyhall, AES) == [KeyState.DEACTIVATED, KeyState.ACTIVE]


async def test_rows_that_do_not_open_anyway_do_not_keep_a_version_from_being_destroyed(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor
) -> None:
    damage(storage, await add(keyhall, mia))
    await rotated(keyhall, operator, AES)
    needed = await keyhall.rotation.destroy(operator, AES, 1, typed="AES_KEY")
    assert (needed.rows, needed.unreadable) == (0, 1)
    assert needed.sentence == "0 stored secrets open with it alone, 1 more name it and do not open"
    assert states(keyhall, AES) == [KeyState.DESTROYED, KeyState.ACTIVE]


async def test_neither_a_primary_nor_what_is_destroyed_is_destroyed(keyhall: Keyhall, operator: Actor) -> None:
    with pytest.raises(KeyStateConflict, match="JWT_SECRET_KEY version 1 is primary: rotate the key first"):
        await keyhall.rotation.destroy(operator, JWT, 1, typed="JWT_SECRET_KEY")
    with pytest.raises(NotFound, match="has no version 2"):
        await keyhall.rotation.destroy(operator, JWT, 2, typed="JWT_SECRET_KEY")
    await keyhall.rotation.revoke(operator, JWT, 1)
    await keyhall.rotation.destroy(operator, JWT, 1, typed="JWT_SECRET_KEY")
    with pytest.raises(KeyStateConflict, match="destroyed cannot become destroyed"):
        await keyhall.rotation.destroy(operator, JWT, 1, typed="JWT_SECRET_KEY")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (AES, "1 stored secrets open with it alone"),
        (
            MESSAGES,
            "every token that /encrypt made between 2026-11-20T12:00+00:00 and now opens with it alone; ",
        ),
        (JWT, "access tokens that it signed and that have not expired"),
        (
            API,
            "0 API tokens that were not used since it was primary, and requests of the last 24 hours ",
        ),
    ],
)
async def test_what_depends_on_a_version_is_said(
    keyhall: Keyhall, operator: Actor, mia: Actor, name: KeyName, said: str
) -> None:
    await add(keyhall, mia)
    needed = await keyhall.key_inspection.dependents(operator, name, 1)
    assert needed.sentence.startswith(said)
    assert needed.rows == (name is AES)


async def test_what_depends_on_a_former_encryption_key_has_a_beginning_and_an_end(
    keyhall: Keyhall, clock: FakeClock, operator: Actor
) -> None:
    await later(keyhall, clock, timedelta(hours=2))
    await rotated(keyhall, operator, MESSAGES)
    needed = await keyhall.key_inspection.dependents(operator, MESSAGES, 1)
    assert "between 2026-11-20T12:00+00:00 and 2026-11-20T14:00+00:00 opens" in needed.sentence


# ---------------------------------------------------------------------------------------------------------------------
# Looking
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "consequence"),
    [
        (AES, 3, "every stored secret is re-encrypted, then former versions retire"),
        (API, 3, "every fingerprint is recomputed, then former versions retire that no API token needs"),
        (JWT, 0, "former versions verify for another 31 minutes, then they retire"),
        (MESSAGES, 0, "former versions keep opening what they encrypted, until they are destroyed"),
    ],
)
async def test_a_plan_says_what_would_happen_and_changes_nothing(
    *, keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor, name: KeyName, rows: int, consequence: str
) -> None:
    first = await add(keyhall, mia)
    await keyhall.credentials.replace(mia, first, OTHER_SECRET)
    await add(keyhall, mia, "other")
    await keyhall.instances.refresh()
    commits = storage.commits
    plan = await keyhall.key_inspection.plan(operator, name)
    assert (plan.name, plan.primary, plan.rows, plan.unreadable) == (name, 1, rows, [])
    assert [each.id for each in plan.processes] == [keyhall.instances.id]
    assert plan.consequence == consequence
    assert storage.commits == commits


async def test_a_plan_names_what_does_not_open(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, mia: Actor
) -> None:
    broken = await add(keyhall, mia)
    await add(keyhall, mia, "sound")
    damage(storage, broken)
    plan = await keyhall.key_inspection.plan(operator, AES)
    assert (plan.rows, plan.unreadable) == (1, [f"api_credentials {broken}"])


async def test_internal_keys_are_nobodys_business(keyhall: Keyhall, operator: Actor) -> None:
    encrypt = KeyName.AUDIT_SEAL_KEY
    for asked in (
        keyhall.rotation.rotate(operator, encrypt),
        keyhall.key_inspection.plan(operator, encrypt),
        keyhall.key_inspection.dependents(operator, encrypt, 1),
        keyhall.rotation.set_schedule(operator, encrypt, rotation_days=1, automatic=False),
    ):
        with pytest.raises(InvalidInput, match="name: must be one of"):
            await asked


async def test_standings_tell_of_every_application_key(keyhall: Keyhall, clock: FakeClock, operator: Actor) -> None:
    await later(keyhall, clock, ROTATION_DAYS * DAY)
    await rotated(keyhall, operator, AES)
    standings = {each.name: each for each in await keyhall.key_inspection.list(operator)}
    assert list(standings) == list(APPLICATION_KEYS)
    assert (standings[AES].age_days, standings[AES].due) == (0, False)
    assert [each.version for each in standings[AES].versions] == [1, 2]
    assert (standings[JWT].age_days, standings[JWT].due) == (ROTATION_DAYS, True)
    assert standings[JWT].due_at == standings[JWT].since + ROTATION_DAYS * DAY
    assert standings[JWT].job is None


# ---------------------------------------------------------------------------------------------------------------------
# The schedule
# ---------------------------------------------------------------------------------------------------------------------


async def look_at_ages(keyhall: Keyhall) -> Job | None:
    """The daily look, if it is due."""
    run = await keyhall.jobs.claim()
    if run is None:
        return None
    assert run.job.kind is JobKind.KEY_AGES
    await keyhall.jobs.work(run, keyhall.rotation.look_at_ages)
    return await stored(keyhall, run.job)


async def test_keys_that_are_due_are_warned_of_once_a_day(
    keyhall: Keyhall, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    await keyhall.rotation.watch_ages()
    await keyhall.rotation.watch_ages()
    await later(keyhall, clock, (ROTATION_DAYS - 1) * DAY)
    with caplog.at_level(logging.WARNING):
        first = await look_at_ages(keyhall)
        assert first is not None
        assert (first.state, first.run_at) == (JobState.WAITING, clock.now() + AGES_EVERY)
        assert caplog.records == []
        for day in (ROTATION_DAYS, ROTATION_DAYS + 1):
            caplog.clear()
            assert await look_at_ages(keyhall) is None
            await later(keyhall, clock, DAY)
            await keyhall.rotation.watch_ages()
            assert await look_at_ages(keyhall) is not None
            assert await look_at_ages(keyhall) is None
            assert [record.getMessage() for record in caplog.records] == [
                f"{name.value} is {day} days old: rotate it with `keyhall keys rotate {name.value}`"
                for name in APPLICATION_KEYS
            ]


async def test_a_key_is_rotated_unasked_where_that_was_wanted(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor, caplog: pytest.LogCaptureFixture
) -> None:
    standing = await keyhall.rotation.set_schedule(operator, JWT, rotation_days=7, automatic=True)
    assert (standing.rotation_days, standing.automatic, standing.due) == (7, True, False)
    assert trail(storage) == [(Action.KEY_SCHEDULED, operator.subject_id, {"rotation_days": 7, "automatic": 1})]
    await keyhall.rotation.watch_ages()
    await later(keyhall, clock, 7 * DAY)
    await look_at_ages(keyhall)
    assert caplog.records == []
    async with storage.read() as uow:
        queued = await uow.jobs.unfinished(f"key.rotation/{JWT.value}")
    assert queued is not None
    assert queued.requested_by is None
    await worked(keyhall, queued)
    assert primary(keyhall, JWT) == 2
    assert next(each for each in await keyhall.key_inspection.list(operator) if each.name is JWT).due is False


async def test_a_change_that_another_forestalled_is_refused_by_what_was_seen(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    """Somebody looks at a page; meanwhile another rotates: the form must not change another version than it named."""
    await rotated(keyhall, operator, MESSAGES)
    await later(keyhall, clock, DAY)
    await rotated(keyhall, operator, MESSAGES)
    jobs = len(storage.tables.jobs)
    with pytest.raises(KeyStateConflict, match="version 3 is primary now"):
        await keyhall.rotation.rollback(operator, MESSAGES, seen_primary=2, seen_former=1)
    with pytest.raises(KeyStateConflict, match="version 3 is primary now"):
        await keyhall.rotation.rollback(operator, MESSAGES, seen_primary=3, seen_former=1)
    with pytest.raises(KeyStateConflict, match="version 3 is primary now"):
        await keyhall.rotation.rotate(operator, MESSAGES, seen_primary=2)
    assert len(storage.tables.jobs) == jobs
    job = await keyhall.rotation.rollback(operator, MESSAGES, seen_primary=3, seen_former=2)
    await worked(keyhall, job)
    assert primary(keyhall, MESSAGES) == 2


async def test_of_several_processes_one_rotates_a_key_that_is_due(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    other = await neighbour(keyhall, storage, clock)
    await keyhall.rotation.set_schedule(operator, MESSAGES, rotation_days=7, automatic=True)
    await keyhall.rotation.watch_ages()
    await other.rotation.watch_ages()
    await later(keyhall, clock, 7 * DAY)
    await other.instances.refresh()
    runs = [await each.jobs.claim() for each in (keyhall, other)]
    assert [run is not None for run in runs] == [True, False]
    assert runs[0] is not None
    await keyhall.jobs.work(runs[0], keyhall.rotation.look_at_ages)
    rotations = [run for each in (other, keyhall) if (run := await each.jobs.claim()) is not None]
    assert [run.job.payload for run in rotations] == [{"name": MESSAGES.value, "action": "rotate"}]
    await asyncio.gather(
        other.jobs.work(rotations[0], other.rotation.job.carry_on), acknowledging(keyhall, rotations[0].job)
    )
    assert [primary(each, MESSAGES) for each in (keyhall, other)] == [2, 2]


async def acknowledging(keyhall: Keyhall, job: Job) -> None:
    """Load every change of keys until the job is over, as a process does in the background."""
    while not (await stored(keyhall, job)).state.over:
        await keyhall.instances.refresh()
        await asyncio.sleep(0)


async def test_the_list_of_keys_warns_of_those_that_are_due(
    keyhall: Keyhall, clock: FakeClock, operator: Actor
) -> None:
    await keyhall.rotation.set_schedule(operator, AES, rotation_days=180, automatic=False)
    await later(keyhall, clock, (ROTATION_DAYS - 1) * DAY)
    assert await keyhall.keys.age_warnings(ROTATION_DAYS) == []
    await later(keyhall, clock, DAY)
    assert await keyhall.keys.age_warnings(ROTATION_DAYS) == [
        f"{name} is 90 days old: rotate it with `keyhall keys rotate {name}`" for name in (JWT, MESSAGES, API)
    ]


@pytest.mark.parametrize("days", [0, -1, 3651])
async def test_a_schedule_has_bounds(keyhall: Keyhall, storage: FakeStorage, operator: Actor, days: int) -> None:
    with pytest.raises(InvalidInput, match="rotation_days: must be 1 to 3650"):
        await keyhall.rotation.set_schedule(operator, AES, rotation_days=days, automatic=False)
    assert storage.tables.schedules == {}


# ---------------------------------------------------------------------------------------------------------------------
# Who may
# ---------------------------------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Keyhall, Actor], Any]] = {
    "rotate": lambda keyhall, actor: keyhall.rotation.rotate(actor, JWT),
    "cancel": lambda keyhall, actor: keyhall.rotation.cancel(actor, JWT),
    "rollback": lambda keyhall, actor: keyhall.rotation.rollback(actor, JWT),
    "import": lambda keyhall, actor: keyhall.rotation.import_(actor, JWT, GIVEN),
    "revoke": lambda keyhall, actor: keyhall.rotation.revoke(actor, JWT, 1),
    "retire": lambda keyhall, actor: keyhall.rotation.retire(actor, JWT, 1),
    "destroy": lambda keyhall, actor: keyhall.rotation.destroy(actor, JWT, 1, typed=JWT.value),
    "schedule": lambda keyhall, actor: keyhall.rotation.set_schedule(actor, JWT, rotation_days=7, automatic=True),
}
LOOKS: dict[str, Callable[[Keyhall, Actor], Any]] = {
    "plan": lambda keyhall, actor: keyhall.key_inspection.plan(actor, JWT),
    "dependents": lambda keyhall, actor: keyhall.key_inspection.dependents(actor, JWT, 1),
    "standings": lambda keyhall, actor: keyhall.key_inspection.list(actor),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("role", [Role.ADMIN, Role.MEMBER, Role.AUDITOR])
async def test_keys_are_changed_by_owners_only(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, role: Role, change: str
) -> None:
    before = storage.tables
    with pytest.raises(Forbidden):
        await CHANGES[change](keyhall, member(clock, role=role))
    assert storage.tables is before


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_of_keys_takes_a_password_proven_lately(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, change: str
) -> None:
    owner = member(clock, role=Role.OWNER)
    await later(keyhall, clock, REAUTHENTICATION_LASTS + timedelta(seconds=1))
    before = storage.tables
    with pytest.raises(ReauthenticationRequired):
        await CHANGES[change](keyhall, owner)
    assert storage.tables is before


async def test_an_owner_on_the_web_and_the_operator_rotate(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    job = await keyhall.rotation.rotate(known(storage, member(clock, "olga", role=Role.OWNER)), JWT)
    assert job.requested_by == "subject-olga"
    await later(keyhall, clock, REAUTHENTICATION_LASTS + DAY)
    assert (await keyhall.rotation.rotate(operator, JWT)).id == job.id


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("role", Role)
async def test_keys_are_seen_by_everybody_but_members(
    keyhall: Keyhall, clock: FakeClock, role: Role, look: str
) -> None:
    actor = member(clock, role=role)
    if role is Role.MEMBER:
        with pytest.raises(Forbidden):
            await LOOKS[look](keyhall, actor)
    else:
        assert await LOOKS[look](keyhall, actor)


# ---------------------------------------------------------------------------------------------------------------------
# Seeing a job through
# ---------------------------------------------------------------------------------------------------------------------


async def seen_through(keyhall: Keyhall, job_id: str) -> list[Job]:
    return [each async for each in keyhall.rotation.follow(job_id)]


async def test_whoever_sees_a_rotation_through_works_on_it_to_its_end(keyhall: Keyhall, operator: Actor) -> None:
    job = await keyhall.rotation.rotate(operator, MESSAGES)
    seen = await seen_through(keyhall, job.id)
    assert (seen[0].state, seen[-1].state) == (JobState.WAITING, JobState.DONE)
    assert primary(keyhall, MESSAGES) == 2


async def test_whoever_sees_a_rotation_through_does_not_wait_for_its_tokens_to_expire(
    keyhall: Keyhall, operator: Actor
) -> None:
    seen = await seen_through(keyhall, (await keyhall.rotation.rotate(operator, JWT)).id)
    assert (seen[-1].state, seen[-1].progress.step) == (JobState.WAITING, "overlap")


async def test_whoever_sees_a_rotation_through_tries_again_when_the_database_was_away(
    keyhall: Keyhall, operator: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, failures = keyhall.keys.change, [StorageError()]

    async def failing_once(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return await change(*arguments)

    monkeypatch.setattr(keyhall.keys, "change", failing_once)
    seen = await seen_through(keyhall, (await keyhall.rotation.rotate(operator, MESSAGES)).id)
    assert StorageError.title in {each.error for each in seen}
    assert (seen[-1].state, seen[-1].error) == (JobState.DONE, None)
    assert primary(keyhall, MESSAGES) == 2


async def test_what_another_worker_does_is_watched(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    other = await neighbour(keyhall, storage, clock, live=False)
    job = await keyhall.rotation.rotate(operator, MESSAGES)
    run = await other.jobs.claim(job.id)
    assert run is not None
    seeing = asyncio.create_task(seen_through(keyhall, job.id))
    await asyncio.sleep(0)
    await other.jobs.work(run, other.rotation.job.carry_on)
    assert (await seeing)[-1].state is JobState.DONE


async def test_a_job_that_is_not_there_ends_the_watch(keyhall: Keyhall) -> None:
    assert await seen_through(keyhall, "nothing") == []


async def test_whoever_stops_watching_gives_the_job_back(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    await neighbour(keyhall, storage, clock)  # is waited for, so that the job cannot end
    job = await keyhall.rotation.rotate(operator, MESSAGES)
    watch = keyhall.rotation.follow(job.id)
    async for each in watch:
        if each.state is JobState.RUNNING:
            break
    await watch.aclose()  # type: ignore[attr-defined]
    given_back = await stored(keyhall, job)
    assert (given_back.state, given_back.error) == (JobState.WAITING, None)
    assert await keyhall.jobs.claim(job.id) is not None


# ---------------------------------------------------------------------------------------------------------------------
# What reviews found
# ---------------------------------------------------------------------------------------------------------------------


async def test_what_an_announced_version_made_elsewhere_opens_before_its_promotion_is_heard_of(
    keyhall: Keyhall, operator: Actor
) -> None:
    job = await keyhall.rotation.rotate(operator, JWT)
    run = await keyhall.jobs.claim(job.id)
    assert run is not None
    await keyhall.rotation.job._prepare(run, JWT)
    assert primary(keyhall, JWT) == 1
    assert list(keyhall.keys.usable_materials(JWT)) == [1, 2]


async def test_a_called_off_import_never_becomes_primary(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor
) -> None:
    given = SecretText("ab" * 32)
    await keyhall.rotation.import_(operator, AES, given)
    with pytest.raises(KeyStateConflict):
        await keyhall.rotation.cancel(operator, AES)
    async with storage.write() as uow:  # as an import that failed for good leaves it
        job = await uow.jobs.unfinished("key.rotation/AES_KEY")
        assert job is not None
        assert await uow.jobs.cancel(job.id)
    await keyhall.keys.reload()
    await rotated(keyhall, operator, AES)
    imported = keyhall.keys.ring.keysets[AES].version(2)
    assert imported is not None
    assert (imported.state, primary(keyhall, AES)) == (KeyState.PRE_ACTIVATION, 3)
    await keyhall.rotation.revoke(operator, AES, 3)
    assert primary(keyhall, AES) == 4


async def test_an_older_ring_never_takes_the_place_of_a_newer_one(keyhall: Keyhall, operator: Actor) -> None:
    older = keyhall.keys.ring
    await rotated(keyhall, operator, AES)
    keyhall.keys._use(older)
    assert primary(keyhall, AES) == 2


async def test_a_retired_version_that_is_rolled_back_to_is_loaded_everywhere_before_it_signs(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    """Another course may retire the target between the preparation of the rollback and its promotion."""
    first = await rotated(keyhall, operator, JWT)
    job = await keyhall.rotation.rollback(operator, JWT)
    run = await keyhall.jobs.claim(job.id)
    assert run is not None
    await keyhall.rotation.job._prepare(run, JWT)
    await later(keyhall, clock, OVERLAP)
    assert (await worked(keyhall, first)).state is JobState.DONE
    retired = keyhall.keys.ring.keysets[JWT].version(1)
    assert retired is not None
    assert retired.retired_at is not None
    await keyhall.rotation.job._promote(run, JWT)
    assert (primary(keyhall, JWT), list(keyhall.keys.usable_materials(JWT))) == (2, [1, 2])
    await keyhall.rotation.job._promote(run, JWT)
    assert primary(keyhall, JWT) == 1


async def test_a_rotation_queued_in_the_middle_of_an_import_leaves_nothing_of_the_import(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await keyhall.rotation.rotate(operator, AES)

    async def look_too_early(repository: FakeJobRepository, unique_key: str) -> Job | None:
        monkeypatch.undo()
        return None

    monkeypatch.setattr(FakeJobRepository, "unfinished", look_too_early)
    with pytest.raises(KeyStateConflict, match="is being changed already"):
        await keyhall.rotation.import_(operator, AES, SecretText("ab" * 32))
    await keyhall.keys.reload()
    assert states(keyhall, AES) == [KeyState.ACTIVE]
    assert Action.KEY_IMPORTED not in [action for action, _, _ in trail(storage)]
    assert (await worked(keyhall, job)).state is JobState.DONE
