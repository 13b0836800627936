"""The Hall: one sentence that says what to do, or that nothing has to be done."""

from __future__ import annotations

from dataclasses import astuple, replace
from datetime import timedelta

import pytest

from app.domain.audit import Action
from app.domain.credentials import CredentialView, Status
from app.domain.errors import Forbidden
from app.domain.identity import Actor, Role, User
from app.domain.keys import APPLICATION_KEYS, KeyName, KeySchedule
from app.services.audit import OPERATOR, AuditTrail
from app.services.credentials import Usage, overview
from app.services.dashboard import Headline
from tests.support.fakes import EPOCH, FakeClock, FakeStorage
from tests.support.keyhall import Keyhall, member
from tests.support.samples import OTHER_SECRET, SECRET


@pytest.fixture
def mia(clock: FakeClock) -> Actor:
    return member(clock, "mia")


@pytest.fixture
def owner(clock: FakeClock, storage: FakeStorage) -> Actor:
    actor = member(clock, "olga", role=Role.OWNER)
    storage.tables.users[actor.user_id] = User(
        id=actor.user_id, subject_id="subject-olga", username="olga", role=Role.OWNER, created_at=EPOCH
    )
    return actor


async def add(keyhall: Keyhall, actor: Actor, label: str = "main", days: int | None = None) -> CredentialView:
    expires_at = None if days is None else keyhall.clock.now() + timedelta(days=days)
    added = await keyhall.credentials.add(actor, provider="openai", label=label, secret=SECRET, expires_at=expires_at)
    return added.view


def damage(storage: FakeStorage, credential_id: str) -> None:
    record = storage.tables.credentials[credential_id]
    storage.tables.credentials[credential_id] = replace(record, encrypted_value=record.encrypted_value[:-1])


async def test_an_empty_hall_asks_for_the_first_credential(keyhall: Keyhall, mia: Actor) -> None:
    dashboard = await keyhall.dashboard.dashboard(mia)
    assert (dashboard.username, dashboard.role, dashboard.headline) == ("mia", Role.MEMBER, Headline.EMPTY)
    assert (dashboard.keys, dashboard.first_run) == ([], None)


async def test_all_is_well_when_every_key_is_readable_and_lasts(keyhall: Keyhall, mia: Actor, owner: Actor) -> None:
    await add(keyhall, mia)
    await add(keyhall, mia, "second", days=31)
    dashboard = await keyhall.dashboard.dashboard(mia)
    assert (dashboard.headline, dashboard.credentials.live, dashboard.expiring) == (Headline.WELL, 2, [])
    await add(keyhall, owner)
    assert (await keyhall.dashboard.dashboard(owner)).headline is Headline.WELL


async def test_the_most_pressing_matter_is_the_sentence(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, mia: Actor
) -> None:
    """An unreadable credential comes before an expired one, and so on down to one that expires soon."""

    async def headline() -> Headline:
        return (await keyhall.dashboard.dashboard(mia)).headline

    await add(keyhall, mia, "soon", days=30)
    assert await headline() is Headline.EXPIRING
    refused = await add(keyhall, mia, "turned away")
    async with storage.write() as uow:
        await uow.credentials.set_status(refused.id, Status.REFUSED, clock.now())
    assert await headline() is Headline.REFUSED
    await add(keyhall, mia, "tomorrow", days=1)
    keyhall.advance(clock, timedelta(days=1))
    assert await headline() is Headline.EXPIRED
    for label in ("hurt", "torn"):
        damage(storage, (await add(keyhall, mia, label)).id)
    assert await headline() is Headline.UNREADABLE
    counts = (await keyhall.dashboard.dashboard(mia)).credentials
    assert (counts.live, counts.unreadable, counts.refused, counts.expired, counts.expiring) == (5, 2, 1, 1, 1)


async def test_what_is_due_within_thirty_days_is_named_with_its_date(
    keyhall: Keyhall, clock: FakeClock, mia: Actor, owner: Actor
) -> None:
    soon = await add(keyhall, owner, "soon", days=70)
    await add(keyhall, owner, "later", days=91)
    await add(keyhall, mia, "somebody else's", days=70)
    keyhall.advance(clock, timedelta(days=60))
    dashboard = await keyhall.dashboard.dashboard(owner)
    assert [(each.id, each.label, each.expires_at) for each in dashboard.expiring] == [
        (soon.id, "soon", EPOCH + timedelta(days=70))
    ]
    assert [(key.due_at, key.due, key.due_soon) for key in dashboard.keys] == [
        (EPOCH + timedelta(days=90), False, True)
    ] * len(APPLICATION_KEYS)


async def test_uses_are_counted_day_by_day_whatever_became_of_the_secret(
    keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    async def use(times: int) -> None:
        for _ in range(times):
            async with keyhall.credentials.use(mia, "openai"):
                pass

    async def usage() -> Usage:
        return (await keyhall.dashboard.dashboard(mia)).usage

    first = await add(keyhall, mia)
    await use(3)
    keyhall.advance(clock, timedelta(days=29))
    await use(2)
    shown = await usage()
    assert (len(shown.days), shown.total, shown.most, shown.complete) == (30, 5, 3, True)
    assert (shown.days[0].begin, shown.days[0].uses) == (EPOCH.replace(hour=0), 3)
    await keyhall.credentials.replace(mia, first.id, OTHER_SECRET)
    assert (await usage()).total == 5, "a replaced secret is unused, and its uses count for the credential"
    keyhall.advance(clock, timedelta(days=1))
    assert [each.uses for each in (await usage()).days if each.uses] == [2]
    with pytest.raises(RuntimeError):
        async with keyhall.credentials.use(mia, "openai"):
            raise RuntimeError
    assert (await usage()).days[-1].uses == 1, "a use that failed was one"


async def test_of_very_many_uses_the_latest_are_counted_and_that_is_said(
    keyhall: Keyhall, monkeypatch: pytest.MonkeyPatch, clock: FakeClock, mia: Actor
) -> None:
    monkeypatch.setattr(overview, "_MOST_USES", 2)
    await add(keyhall, mia)
    found = []
    for _ in range(3):
        async with keyhall.credentials.use(mia, "openai"):
            pass
        usage = (await keyhall.dashboard.dashboard(mia)).usage
        found.append((usage.total, usage.complete))
    assert found == [(1, True), (2, False), (2, False)]


async def test_removed_credentials_and_those_of_others_do_not_count(
    keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    await add(keyhall, member(clock, "tom"))
    removed = await add(keyhall, mia)
    await keyhall.credentials.remove(mia, removed.id)
    assert (await keyhall.dashboard.dashboard(mia)).credentials.live == 0


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN, Role.AUDITOR])
async def test_application_keys_are_shown_with_their_age_and_due_date(
    keyhall: Keyhall, clock: FakeClock, role: Role
) -> None:
    keyhall.advance(clock, timedelta(days=10, hours=5))
    await keyhall.rotate(KeyName.AES_KEY)
    await keyhall.keys.reload()
    dashboard = await keyhall.dashboard.dashboard(member(clock, "boss", role=role))
    ages = {key.name: key for key in dashboard.keys}
    assert set(ages) == set(APPLICATION_KEYS)
    assert dashboard.keys[-1].name is KeyName.AES_KEY, "by the date on which they are due"
    jwt, aes = ages[KeyName.JWT_SECRET_KEY], ages[KeyName.AES_KEY]
    assert (jwt.version, jwt.since, jwt.age_days, jwt.due_at) == (1, EPOCH, 10, EPOCH + timedelta(days=90))
    assert (aes.version, aes.age_days) == (2, 0)
    assert aes.due_at == EPOCH + timedelta(days=100, hours=5)
    assert aes.fingerprint == keyhall.keys.ring.keysets[KeyName.AES_KEY].primary.fingerprint


async def test_a_key_is_due_on_the_day_and_says_so_to_those_who_see_keys(
    keyhall: Keyhall, clock: FakeClock, mia: Actor, owner: Actor
) -> None:
    await add(keyhall, mia)
    await add(keyhall, owner)
    keyhall.advance(clock, timedelta(days=90, seconds=-1))
    assert (await keyhall.dashboard.dashboard(owner)).headline is Headline.WELL
    keyhall.advance(clock, timedelta(seconds=1))
    dashboard = await keyhall.dashboard.dashboard(owner)
    assert dashboard.headline is Headline.KEY_DUE
    assert dashboard.longest_due == dashboard.keys[0]
    assert dashboard.keys[0].age_days == 90
    assert all(key.due for key in dashboard.keys)
    assert (await keyhall.dashboard.dashboard(mia)).headline is Headline.WELL


async def test_each_key_is_due_by_its_own_schedule_and_the_others_by_the_setting(
    keyhall: Keyhall, clock: FakeClock, owner: Actor
) -> None:
    await add(keyhall, owner)
    async with keyhall.storage.write() as uow:
        await uow.schedules.put(KeySchedule(name=KeyName.AES_KEY, rotation_days=30), EPOCH)
        await uow.schedules.put(KeySchedule(name=KeyName.JWT_SECRET_KEY, rotation_days=365), EPOCH)
    keyhall.advance(clock, timedelta(days=30))
    dashboard = await keyhall.dashboard.dashboard(owner)
    lasts = {key.name: (key.due_at - EPOCH).days for key in dashboard.keys}
    assert [lasts[name] for name in APPLICATION_KEYS] == [365, 30, 90, 90]
    assert [key.name for key in dashboard.keys if key.due] == [KeyName.AES_KEY]
    assert dashboard.headline is Headline.KEY_DUE
    assert dashboard.longest_due is not None
    assert (dashboard.longest_due.name, dashboard.longest_due.age_days) == (KeyName.AES_KEY, 30)


async def test_the_first_run_ticks_off_what_the_owner_has_done_and_then_goes_away(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, owner: Actor
) -> None:
    async def ticks() -> tuple[bool, ...] | None:
        steps = (await keyhall.dashboard.dashboard(owner)).first_run
        return None if steps is None else astuple(steps)

    assert await ticks() == (False, False, False, False, False)
    await keyhall.dashboard.note_guilds(0)
    assert await ticks() == (False, False, False, False, False)
    await keyhall.dashboard.note_guilds(1)
    assert await ticks() == (True, False, False, False, False)
    async with storage.write() as uow:
        await uow.users.set_discord(owner.user_id, "1001", EPOCH)
    assert await ticks() == (True, True, False, False, False)
    for master_key_id in ("of another install", keyhall.keys.ring.manifest.master_key_id):
        assert await ticks() == (True, True, False, False, False)
        async with storage.write() as uow:
            await AuditTrail(clock).record(
                uow, OPERATOR, Action.MASTER_KEY_PRINTED, about=("master_key", master_key_id)
            )
    assert await ticks() == (True, True, True, False, False)
    added = await add(keyhall, owner)
    assert await ticks() == (True, True, True, True, False)
    async with keyhall.credentials.use(owner, "openai"):
        pass
    assert await ticks() is None
    await keyhall.credentials.replace(owner, added.id, OTHER_SECRET)
    assert await ticks() is None, "it does not come back with a secret that was not used yet"


async def test_the_owner_hides_the_steps_of_the_first_run(keyhall: Keyhall, mia: Actor, owner: Actor) -> None:
    with pytest.raises(Forbidden):
        await keyhall.dashboard.hide_first_run(mia)
    assert (await keyhall.dashboard.dashboard(owner)).first_run is not None
    await keyhall.dashboard.hide_first_run(owner)
    assert (await keyhall.dashboard.dashboard(owner)).first_run is None


async def test_a_process_is_ready_when_database_keys_and_lease_are(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    assert await keyhall.dashboard.readiness() == {"database": True, "keys": True, "lease": True}
    with storage.dead():
        assert await keyhall.dashboard.readiness() == {"database": False, "keys": True, "lease": True}
    keyhall.keys.lease(clock.monotonic())
    assert await keyhall.dashboard.readiness() == {"database": True, "keys": True, "lease": False}
    clock.advance(timedelta(seconds=5))
    assert await keyhall.dashboard.readiness() == {"database": True, "keys": False, "lease": False}


async def test_everybody_is_shown_rotations_that_are_announced_the_next_one_first(
    keyhall: Keyhall, clock: FakeClock, mia: Actor, owner: Actor
) -> None:
    dates = {KeyName.AES_KEY: clock.now() + timedelta(days=9), KeyName.JWT_SECRET_KEY: clock.now() + timedelta(days=2)}
    for name, at in dates.items():
        await keyhall.rotation.rotate(owner, name, at=at)
    await keyhall.rotation.rotate(owner, KeyName.API_SECRET_KEY)
    for reader in (mia, owner):
        shown = (await keyhall.dashboard.dashboard(reader)).announcements
        assert list(shown) == sorted(dates.items(), key=lambda each: each[1])
    keyhall.advance(clock, timedelta(days=2))
    assert [name for name, _ in (await keyhall.dashboard.dashboard(mia)).announcements] == [KeyName.AES_KEY]
    await keyhall.rotation.cancel(replace(owner, authenticated_at=clock.now()), KeyName.AES_KEY)
    assert (await keyhall.dashboard.dashboard(mia)).announcements == []
