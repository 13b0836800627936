"""The Hall: one sentence that says what to do, or that nothing has to be done."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from app.domain.credentials import CredentialView
from app.domain.identity import Actor, Role, User
from app.domain.keys import APPLICATION_KEYS, KeyName, KeySchedule
from app.services.dashboard import Headline
from tests.support.fakes import EPOCH, FakeClock, FakeStorage
from tests.support.keyhall import Keyhall, member
from tests.support.samples import SECRET


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
    assert dashboard.sentence == "No credential is stored yet: add your first."
    assert (dashboard.keys, dashboard.first_run) == ([], None)


async def test_all_is_well_when_every_key_is_readable_and_lasts(keyhall: Keyhall, mia: Actor, owner: Actor) -> None:
    await add(keyhall, mia)
    assert (await keyhall.dashboard.dashboard(mia)).sentence == "Your credential is well."
    await add(keyhall, mia, "second", days=31)
    dashboard = await keyhall.dashboard.dashboard(mia)
    assert (dashboard.headline, dashboard.sentence) == (Headline.WELL, "All 2 credentials are well.")
    await add(keyhall, owner)
    assert (await keyhall.dashboard.dashboard(owner)).sentence == "Your credential and 4 application keys are well."


async def test_the_most_pressing_matter_is_the_sentence(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, mia: Actor
) -> None:
    """An unreadable credential comes before an expired one, and that before one that expires soon."""
    await add(keyhall, mia, "soon", days=30)
    dashboard = await keyhall.dashboard.dashboard(mia)
    assert (dashboard.headline, dashboard.sentence) == (
        Headline.EXPIRING,
        "1 credential expires within 30 days: replace it in time.",
    )
    await add(keyhall, mia, "tomorrow", days=1)
    keyhall.advance(clock, timedelta(days=1))
    dashboard = await keyhall.dashboard.dashboard(mia)
    assert (dashboard.headline, dashboard.sentence) == (Headline.EXPIRED, "1 credential has expired: replace it.")
    for label in ("hurt", "torn"):
        damage(storage, (await add(keyhall, mia, label)).id)
    dashboard = await keyhall.dashboard.dashboard(mia)
    assert (dashboard.headline, dashboard.sentence) == (
        Headline.UNREADABLE,
        "2 credentials cannot be read: enter them again.",
    )
    counts = dashboard.credentials
    assert (counts.live, counts.unreadable, counts.expired, counts.expiring) == (4, 2, 1, 1)


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
    assert list(ages) == list(APPLICATION_KEYS)
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
    assert (dashboard.headline, dashboard.sentence) == (
        Headline.KEY_DUE,
        "JWT_SECRET_KEY is 90 days old: its rotation is due.",
    )
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
    assert (dashboard.headline, dashboard.sentence) == (
        Headline.KEY_DUE,
        "AES_KEY is 30 days old: its rotation is due.",
    )


async def test_the_first_run_ticks_off_what_the_owner_has_done_and_then_goes_away(
    keyhall: Keyhall, storage: FakeStorage, owner: Actor
) -> None:
    async def ticks() -> tuple[bool, ...] | None:
        steps = (await keyhall.dashboard.dashboard(owner)).first_run
        return (
            None
            if steps is None
            else (
                steps.owner,
                steps.bot_invited,
                steps.discord_linked,
                steps.first_credential_stored,
                steps.first_credential_used,
            )
        )

    assert await ticks() == (True, False, False, False, False)
    await keyhall.dashboard.note_guilds(0)
    assert await ticks() == (True, False, False, False, False)
    await keyhall.dashboard.note_guilds(1)
    assert await ticks() == (True, True, False, False, False)
    async with storage.write() as uow:
        await uow.users.set_discord(owner.user_id, "1001", EPOCH)
    assert await ticks() == (True, True, True, False, False)
    await add(keyhall, owner)
    assert await ticks() == (True, True, True, True, False)
    async with keyhall.credentials.use(owner, "openai"):
        pass
    assert await ticks() is None


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
