"""The promises of CredentialService, on a storage in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from app.domain.audit import Action, Result
from app.domain.credentials import CredentialView, Owner, OwnerKind, PaidBy, Status
from app.domain.errors import (
    AlreadyExists,
    CredentialUnreadable,
    Forbidden,
    IdempotencyConflict,
    InvalidInput,
    NoCredential,
    NotFound,
    NotReady,
    QuotaExceeded,
    ReauthenticationRequired,
    StorageError,
    StorageFull,
    VersionConflict,
)
from app.domain.identity import Actor, GuildContext, Role, Source
from app.domain.keys import KeyName
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from tests.support.fakes import (
    EPOCH,
    FakeClock,
    FakeCredentialRepository,
    FakeKeyRepository,
    FakeRandomness,
    FakeStorage,
)
from tests.support.house import ENVIRONMENT_GUILD, ENVIRONMENT_SECRET, House, member, open_house
from tests.support.samples import OTHER_SECRET, SECRET

GUILD = "123456789012345678"
OTHER_GUILD = "876543210987654321"
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def mia(clock: FakeClock) -> Actor:
    return member(clock, "mia")


@pytest.fixture
def tom(clock: FakeClock) -> Actor:
    return member(clock, "tom")


async def add(house: House, actor: Actor, **wanted: Any) -> CredentialView:
    """Add a credential, with defaults for everything that the test does not care about."""
    request = {"provider": "openai", "label": "main", "secret": SECRET} | wanted
    return (await house.credentials.add(actor, **request)).view


def damage(storage: FakeStorage, credential_id: str) -> None:
    """Flip the last bit of a row's ciphertext."""
    record = storage.tables.credentials[credential_id]
    flipped = record.encrypted_value[:-1] + bytes([record.encrypted_value[-1] ^ 1])
    storage.tables.credentials[credential_id] = replace(record, encrypted_value=flipped)


def manager(clock: FakeClock, name: str = "gwen", guild_id: str = GUILD, source: Source = Source.DISCORD) -> Actor:
    return member(clock, name, source=source, guild=GuildContext(guild_id=guild_id, manages_guild=True))


def visitor(clock: FakeClock, name: str = "vic", guild_id: str = GUILD) -> Actor:
    return member(clock, name, source=Source.DISCORD, guild=GuildContext(guild_id=guild_id))


# ---------------------------------------------------------------------------------------------------------------------
# Adding
# ---------------------------------------------------------------------------------------------------------------------


async def test_an_added_credential_comes_back_as_a_mask(house: House, storage: FakeStorage, mia: Actor) -> None:
    added = await house.credentials.add(mia, provider=" OpenAI ", label="  main  ", secret=SECRET + "\n")
    view = added.view
    assert not added.replayed
    assert (view.provider, view.label, view.masked) == ("openai", "main", "sk-proj-••••••••0GjE")
    assert (view.version, view.status, view.owner) == (1, Status.UNCHECKED, Owner(OwnerKind.USER, mia.user_id))
    assert view == await house.credentials.get(mia, view.id)
    assert storage.trail() == [(Action.CREDENTIAL_ADDED, Result.OK)]


async def test_no_part_of_the_secret_is_in_the_row_or_the_trail(house: House, storage: FakeStorage, mia: Actor) -> None:
    view = await add(house, mia, idempotency_key="once")
    stored = storage.tables.credentials[view.id].encrypted_value + repr(storage.tables).encode()
    assert SECRET.encode() not in stored
    assert SECRET[8:20].encode() not in stored


async def test_context_binds_ciphertext_to_its_row(house: House, storage: FakeStorage, mia: Actor, tom: Actor) -> None:
    """Two rows whose ciphertexts were swapped are both unreadable, instead of each showing the other's secret."""
    one, other = await add(house, mia), await add(house, tom, secret=OTHER_SECRET)
    rows = storage.tables.credentials
    of_one, of_other = rows[one.id].encrypted_value, rows[other.id].encrypted_value
    rows[one.id] = replace(rows[one.id], encrypted_value=of_other)
    rows[other.id] = replace(rows[other.id], encrypted_value=of_one)
    assert (await house.credentials.get(mia, one.id)).status is Status.UNREADABLE
    assert (await house.credentials.get(tom, other.id)).status is Status.UNREADABLE


async def test_context_binds_ciphertext_to_its_owner(house: House, storage: FakeStorage, mia: Actor) -> None:
    view = await add(house, mia)
    row = storage.tables.credentials[view.id]
    storage.tables.credentials[view.id] = replace(row, owner=Owner(OwnerKind.USER, "user-tom"))
    tom = replace(mia, user_id="user-tom")
    assert (await house.credentials.get(tom, view.id)).status is Status.UNREADABLE


@pytest.mark.parametrize("label", [SECRET, f"key {SECRET}", "ghp_0123456789abcdefghij0123456789abcdef"])
async def test_a_label_that_looks_like_a_secret_is_refused(
    house: House, storage: FakeStorage, mia: Actor, label: str
) -> None:
    with pytest.raises(InvalidInput, match="label: looks like a secret") as refusal:
        await add(house, mia, label=label)
    assert label not in str(refusal.value)
    assert storage.tables.credentials == {}


async def test_a_label_is_taken_however_it_is_capitalised(house: House, mia: Actor, tom: Actor) -> None:
    await add(house, mia, label="Main")
    with pytest.raises(AlreadyExists):
        await add(house, mia, label="mAIN")
    await add(house, mia, provider="github", label="main")
    await add(house, tom, label="main")


async def test_the_quota_is_100_and_what_can_be_restored_counts(
    house: House, clock: FakeClock, mia: Actor, tom: Actor
) -> None:
    first = await add(house, mia, label="label 0")
    for number in range(1, 100):
        await add(house, mia, label=f"label {number}")
    await house.credentials.remove(mia, first.id)
    with pytest.raises(QuotaExceeded):
        await add(house, mia, label="one too many")
    await add(house, tom)
    house.advance(clock, timedelta(days=7, seconds=1))
    await house.housekeeping.sweep()
    await add(house, mia, label="room again")


async def test_a_secret_has_at_most_64_kib(house: House, mia: Actor) -> None:
    await add(house, mia, secret="é" * (32 * 1024))
    with pytest.raises(InvalidInput, match="secret"):
        await add(house, mia, label="larger", secret="é" * (32 * 1024) + "x")


@pytest.mark.parametrize("secret", ["", " \n\t", "a\0b", "\ud800"])
async def test_what_is_no_secret_is_refused(house: House, mia: Actor, secret: str) -> None:
    with pytest.raises(InvalidInput, match="secret"):
        await add(house, mia, secret=secret)


@pytest.mark.parametrize(
    "moment",
    [
        EPOCH,
        EPOCH - timedelta(days=1),
        (EPOCH + timedelta(days=1)).replace(tzinfo=None),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    ],
    ids=["now", "past", "naive", "after-the-year-9999", "before-the-year-1"],
)
async def test_an_expiry_lies_in_the_future_and_has_a_time_zone(house: House, mia: Actor, moment: datetime) -> None:
    with pytest.raises(InvalidInput, match="expires_at"):
        await add(house, mia, expires_at=moment)


async def test_an_auditor_stores_nothing(house: House, clock: FakeClock) -> None:
    with pytest.raises(Forbidden):
        await add(house, member(clock, "ada", role=Role.AUDITOR))


async def test_what_does_not_read_back_after_the_commit_is_an_error(
    house: House, mia: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that acknowledges and loses is noticed while the member still has the secret at hand."""
    honest = FakeCredentialRepository.add

    async def lossy(repository: FakeCredentialRepository, record: Any) -> None:
        await honest(repository, replace(record, encrypted_value=record.encrypted_value[:-1]))

    monkeypatch.setattr(FakeCredentialRepository, "add", lossy)
    with pytest.raises(StorageError, match="does not read back"):
        await add(house, mia)


async def test_a_full_disk_is_an_error_and_nothing_is_stored(house: House, storage: FakeStorage, mia: Actor) -> None:
    with storage.full(), pytest.raises(StorageFull):
        await add(house, mia)
    assert storage.tables.credentials == {}


async def test_a_process_that_has_not_confirmed_its_keys_neither_stores_nor_shows(
    house: House, clock: FakeClock, mia: Actor
) -> None:
    view = await add(house, mia)
    clock.advance(timedelta(seconds=6))
    with pytest.raises(NotReady):
        await house.credentials.get(mia, view.id)
    house.keys.lease(float("-inf"))
    with pytest.raises(NotReady):
        await add(house, mia, label="second")


async def test_only_secrets_that_cannot_be_guessed_have_a_fingerprint(house: House, mia: Actor, tom: Actor) -> None:
    one, same, other, weak = (
        await add(house, mia),
        await add(house, tom),
        await add(house, mia, label="other", secret=OTHER_SECRET),
        await add(house, mia, label="weak", secret="aaaaaaaaaaaaaaaaaaaaaaaa"),
    )
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.fingerprint is not None
    assert len(bytes.fromhex(one.fingerprint)) == 8
    assert weak.fingerprint is None


# ---------------------------------------------------------------------------------------------------------------------
# Idempotency-Key
# ---------------------------------------------------------------------------------------------------------------------


async def test_the_same_request_again_stores_nothing_and_shows_the_present_state(
    house: House, storage: FakeStorage, mia: Actor
) -> None:
    first = await add(house, mia, idempotency_key="k1")
    await house.credentials.change(mia, first.id, label="renamed")
    again = await house.credentials.add(mia, provider="openai", label="main", secret=SECRET, idempotency_key="k1")
    assert again.replayed
    assert (again.view.id, again.view.label, again.view.version) == (first.id, "renamed", 2)
    assert len(storage.tables.credentials) == 1


@pytest.mark.parametrize(
    "difference",
    [
        {"provider": "github"},
        {"label": "other"},
        {"secret": OTHER_SECRET},
        {"expires_at": EPOCH + timedelta(days=3)},
        {"guild_id": GUILD},
    ],
    ids=lambda difference: next(iter(difference)),
)
async def test_another_request_under_the_same_key_is_a_conflict(
    house: House, storage: FakeStorage, clock: FakeClock, difference: Mapping[str, Any]
) -> None:
    admin = member(clock, "ada", role=Role.ADMIN)
    await add(house, admin, idempotency_key="k1")
    with pytest.raises(IdempotencyConflict):
        await add(house, admin, idempotency_key="k1", **difference)
    assert len(storage.tables.credentials) == 1


async def test_keys_of_two_users_have_nothing_to_do_with_each_other(house: House, mia: Actor, tom: Actor) -> None:
    one = await add(house, mia, idempotency_key="k1")
    other = await add(house, tom, secret=OTHER_SECRET, idempotency_key="k1")
    assert one.id != other.id


async def test_a_key_is_remembered_for_24_hours(house: House, clock: FakeClock, mia: Actor) -> None:
    first = await add(house, mia, idempotency_key="k1")
    await house.credentials.remove(mia, first.id)
    house.advance(clock, timedelta(hours=24))
    replayed = await add(house, mia, idempotency_key="k1")
    assert (replayed.id, replayed.deleted_at) == (first.id, EPOCH)
    house.advance(clock, timedelta(seconds=1))
    assert (await add(house, mia, secret=OTHER_SECRET, idempotency_key="k1")).id != first.id


async def test_a_replay_survives_the_rotation_of_the_key_that_made_its_mac(house: House, mia: Actor) -> None:
    first = await add(house, mia, idempotency_key="k1")
    await house.rotate(KeyName.API_SECRET_KEY)
    await house.keys.reload()
    assert (await add(house, mia, idempotency_key="k1")).id == first.id


async def test_a_replay_outlives_the_expiry_that_the_request_named(house: House, clock: FakeClock, mia: Actor) -> None:
    request = {"expires_at": EPOCH + timedelta(hours=1), "idempotency_key": "k1"}
    first = await add(house, mia, **request)
    house.advance(clock, timedelta(hours=2))
    assert (await add(house, mia, **request)).id == first.id


async def test_a_replay_shows_nothing_that_went_to_another_owner_since(
    house: House, storage: FakeStorage, mia: Actor, tom: Actor
) -> None:
    await add(house, mia, idempotency_key="k1")
    async with storage.write() as uow:
        await house.transfer.move(uow, Owner(OwnerKind.USER, mia.user_id), Owner(OwnerKind.USER, tom.user_id))
    with pytest.raises(NotFound):
        await add(house, mia, idempotency_key="k1")


async def test_two_equal_requests_at_once_store_one_credential(house: House, storage: FakeStorage, mia: Actor) -> None:
    async def request() -> tuple[str, bool]:
        added = await house.credentials.add(mia, provider="openai", label="main", secret=SECRET, idempotency_key="k1")
        return added.view.id, added.replayed

    answers = await asyncio.gather(*(request() for _ in range(5)))
    assert sorted(replayed for _, replayed in answers) == [False, True, True, True, True]
    assert {credential_id for credential_id, _ in answers} == set(storage.tables.credentials)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "schlüssel", "\x7f"])
async def test_a_key_is_1_to_255_printable_ascii_characters(house: House, mia: Actor, key: str) -> None:
    with pytest.raises(InvalidInput, match="idempotency_key"):
        await add(house, mia, idempotency_key=key)
    await add(house, mia, idempotency_key="~" * 255)


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


async def test_whatever_is_not_the_actors_is_not_there_and_the_refusal_is_in_the_trail(
    house: House, storage: FakeStorage, mia: Actor, tom: Actor
) -> None:
    view = await add(house, mia)
    credentials = house.credentials
    attempts: list[tuple[Action, Callable[[], Awaitable[object]]]] = [
        (Action.CREDENTIAL_READ, lambda: credentials.get(tom, view.id)),
        (Action.CREDENTIAL_READ, lambda: credentials.versions(tom, view.id)),
        (Action.CREDENTIAL_CHANGED, lambda: credentials.change(tom, view.id, label="mine now")),
        (Action.CREDENTIAL_REPLACED, lambda: credentials.replace(tom, view.id, OTHER_SECRET)),
        (Action.CREDENTIAL_ROLLED_BACK, lambda: credentials.rollback(tom, view.id)),
        (Action.CREDENTIAL_REMOVED, lambda: credentials.remove(tom, view.id)),
        (Action.CREDENTIAL_RESTORED, lambda: credentials.restore(tom, view.id)),
        (Action.CREDENTIAL_REVEALED, lambda: credentials.reveal(tom, view.id)),
    ]
    row = storage.tables.credentials[view.id]
    storage.tables.audit.clear()
    for _, attempt in attempts:
        with pytest.raises(NotFound):
            await attempt()
    assert storage.trail() == [(action, Result.DENIED) for action, _ in attempts]
    assert {(event.subject_id, event.object_id) for event in storage.tables.audit} == {("subject-tom", view.id)}
    assert storage.tables.credentials[view.id] == row


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN, Role.AUDITOR])
async def test_no_role_opens_a_members_own_credential(house: House, clock: FakeClock, mia: Actor, role: Role) -> None:
    view = await add(house, mia)
    with pytest.raises(NotFound):
        await house.credentials.reveal(member(clock, "boss", role=role), view.id)


@pytest.mark.parametrize("unknown", [UNKNOWN_ID, "", "nonsense", "a\0b", "\ud800", "x" * 100_000])
async def test_an_unknown_id_is_not_there_and_leaves_no_row(
    house: House, storage: FakeStorage, mia: Actor, unknown: str
) -> None:
    with pytest.raises(NotFound):
        await house.credentials.get(mia, unknown)
    assert storage.trail() == []


async def test_pages_show_every_own_credential_once(house: House, mia: Actor, tom: Actor) -> None:
    expected = {(await add(house, mia, label=f"label {number}")).id for number in range(5)}
    await add(house, tom)
    seen: list[str] = []
    cursor: str | None = None
    for size in (2, 2, 1):
        page = await house.credentials.page(mia, after=cursor, limit=2)
        assert len(page.items) == size
        seen += [view.id for view in page.items]
        cursor = page.next_cursor
    assert cursor is None
    assert (set(seen), len(seen)) == (expected, 5)


@pytest.mark.parametrize("wrong", [{"after": "!"}, {"after": "\ud800"}, {"limit": 0}, {"limit": 101}])
async def test_a_page_that_cannot_be_is_refused(house: House, mia: Actor, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        await house.credentials.page(mia, **wrong)


async def test_one_unreadable_row_is_shown_as_such_and_the_others_work(
    house: House, storage: FakeStorage, mia: Actor
) -> None:
    sound, hurt = await add(house, mia), await add(house, mia, label="hurt")
    damage(storage, hurt.id)
    shown = {view.id: view for view in (await house.credentials.page(mia)).items}
    assert (shown[hurt.id].status, shown[hurt.id].masked) == (Status.UNREADABLE, "••••••••")
    assert shown[sound.id] == sound


async def test_the_trail_and_the_log_hear_once_of_an_unreadable_row(
    house: House, storage: FakeStorage, mia: Actor, caplog: pytest.LogCaptureFixture
) -> None:
    view = await add(house, mia)
    damage(storage, view.id)
    storage.tables.audit.clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await house.credentials.get(mia, view.id)
            await house.credentials.page(mia)
            await house.credentials.health.report(mia)
    assert storage.trail() == [(Action.CREDENTIAL_UNREADABLE, Result.OK)]
    assert [record.args for record in caplog.records] == [(view.id,)]


async def test_whoever_reads_a_known_unreadable_row_writes_nothing(
    house: House, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(house, mia)
    damage(storage, view.id)
    await house.credentials.get(mia, view.id)
    commits = storage.commits
    await house.credentials.page(mia)
    assert storage.commits == commits


async def test_a_row_that_opens_again_is_shown_as_before(house: House, storage: FakeStorage, mia: Actor) -> None:
    """As after a backup was put back: what had been noted about it does not outlive the damage."""
    view = await add(house, mia)
    damage(storage, view.id)
    assert (await house.credentials.get(mia, view.id)).status is Status.UNREADABLE
    damage(storage, view.id)
    assert await house.credentials.get(mia, view.id) == view


async def test_an_unreadable_row_is_shown_also_when_the_disk_is_full(
    house: House, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(house, mia)
    damage(storage, view.id)
    with storage.full():
        assert (await house.credentials.get(mia, view.id)).status is Status.UNREADABLE


async def test_entering_an_unreadable_credential_again_heals_it(house: House, storage: FakeStorage, mia: Actor) -> None:
    view = await add(house, mia)
    damage(storage, view.id)
    assert (await house.credentials.get(mia, view.id)).status is Status.UNREADABLE
    healed = await house.credentials.replace(mia, view.id, OTHER_SECRET)
    assert (healed.status, healed.version) == (Status.UNCHECKED, 2)
    assert (await house.credentials.reveal(mia, view.id)).reveal() == OTHER_SECRET
    assert [each.readable for each in (await house.credentials.versions(mia, view.id)).items] == [False]


async def test_a_process_behind_a_rotation_catches_up_before_it_calls_a_row_unreadable(
    house: House, storage: FakeStorage, clock: FakeClock, mia: Actor
) -> None:
    ahead = await open_house(storage, clock, FakeRandomness(1))
    await ahead.rotate(KeyName.AES_KEY)
    view = await add(ahead, mia)
    assert storage.tables.credentials[view.id].key_version == 2
    storage.tables.audit.clear()
    assert (await house.credentials.get(mia, view.id)).status is Status.UNCHECKED
    assert storage.trail() == []


async def test_a_process_behind_a_rotation_seals_with_the_version_that_is_primary_now(
    house: House, storage: FakeStorage, clock: FakeClock, mia: Actor
) -> None:
    ahead = await open_house(storage, clock, FakeRandomness(1))
    await ahead.rotate(KeyName.AES_KEY)
    view = await add(house, mia)
    assert storage.tables.credentials[view.id].key_version == 2


async def test_what_a_former_version_sealed_still_opens_and_a_destroyed_one_leaves_it_unreadable(
    house: House, mia: Actor
) -> None:
    view = await add(house, mia)
    await house.rotate(KeyName.AES_KEY)
    await house.keys.reload()
    assert await house.credentials.get(mia, view.id) == view
    await house.destroy_former(KeyName.AES_KEY)
    assert (await house.credentials.get(mia, view.id)).status is Status.UNREADABLE


async def test_a_credential_whose_expiry_has_passed_is_expired(house: House, clock: FakeClock, mia: Actor) -> None:
    view = await add(house, mia, expires_at=EPOCH + timedelta(hours=1))
    assert view.status is Status.UNCHECKED
    house.advance(clock, timedelta(hours=1))
    assert (await house.credentials.get(mia, view.id)).status is Status.EXPIRED


async def test_a_dead_database_is_an_error_and_never_nothing(house: House, storage: FakeStorage, mia: Actor) -> None:
    view = await add(house, mia)
    credentials = house.credentials
    with storage.dead():
        for attempt in (
            lambda: credentials.get(mia, view.id),
            lambda: credentials.page(mia),
            lambda: credentials.versions(mia, view.id),
            lambda: credentials.labels(mia, ""),
            lambda: credentials.health.report(mia),
            lambda: credentials.reveal(mia, view.id),
        ):
            with pytest.raises(StorageError):
                await attempt()


# ---------------------------------------------------------------------------------------------------------------------
# Changing
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_change_touches_only_what_is_given(house: House, mia: Actor) -> None:
    view = await add(house, mia, expires_at=EPOCH + timedelta(days=1))
    renamed = await house.credentials.change(mia, view.id, label="renamed")
    assert (renamed.label, renamed.expires_at, renamed.version) == ("renamed", view.expires_at, 2)
    timeless = await house.credentials.change(mia, view.id, expires_at=None)
    assert (timeless.label, timeless.expires_at, timeless.version) == ("renamed", None, 3)
    assert (await house.credentials.reveal(mia, view.id)).reveal() == SECRET


async def test_a_relabel_into_a_taken_label_is_refused(house: House, mia: Actor) -> None:
    await add(house, mia, label="taken")
    view = await add(house, mia)
    with pytest.raises(AlreadyExists):
        await house.credentials.change(mia, view.id, label="TAKEN")
    assert await house.credentials.get(mia, view.id) == view


async def test_a_stale_version_changes_nothing(house: House, mia: Actor) -> None:
    view = await add(house, mia)
    current = await house.credentials.change(mia, view.id, label="renamed", expected_version=1)
    credentials = house.credentials
    for attempt in (
        lambda: credentials.change(mia, view.id, label="again", expected_version=1),
        lambda: credentials.replace(mia, view.id, OTHER_SECRET, expected_version=1),
        lambda: credentials.rollback(mia, view.id, expected_version=1),
        lambda: credentials.remove(mia, view.id, expected_version=1),
    ):
        with pytest.raises(VersionConflict):
            await attempt()
    assert await credentials.get(mia, view.id) == current


async def test_of_two_changes_that_expect_the_same_version_one_wins(house: House, mia: Actor) -> None:
    view = await add(house, mia)
    outcomes = await asyncio.gather(
        *(house.credentials.change(mia, view.id, label=f"label {each}", expected_version=1) for each in "ab"),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in outcomes) == ["CredentialView", "VersionConflict"]


async def test_no_update_is_lost_when_many_come_at_once(house: House, mia: Actor) -> None:
    view = await add(house, mia)
    secrets = [f"{OTHER_SECRET}-{number}" for number in range(10)]
    await asyncio.gather(*(house.credentials.replace(mia, view.id, secret) for secret in secrets))
    assert (await house.credentials.get(mia, view.id)).version == 11
    assert [each.version for each in (await house.credentials.versions(mia, view.id)).items] == list(range(10, 0, -1))


# ---------------------------------------------------------------------------------------------------------------------
# Replacing and rolling back
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_replaced_secret_goes_to_the_history(house: House, clock: FakeClock, mia: Actor) -> None:
    view = await add(house, mia)
    house.advance(clock, timedelta(minutes=1))
    await house.credentials.change(mia, view.id, label="renamed")
    house.advance(clock, timedelta(minutes=1))
    replaced = await house.credentials.replace(mia, view.id, OTHER_SECRET)
    assert (replaced.version, replaced.masked) == (3, "sk-proj••••••••Mz9")
    (former,) = (await house.credentials.versions(mia, view.id)).items
    assert (former.version, former.masked, former.readable) == (2, "sk-proj-••••••••0GjE", True)
    assert (former.created_at, former.replaced_at) == (EPOCH, EPOCH + timedelta(minutes=2))
    house.advance(clock, timedelta(minutes=1))
    await house.credentials.replace(mia, view.id, SECRET)
    latest = (await house.credentials.versions(mia, view.id)).items[0]
    assert (latest.created_at, latest.replaced_at) == (EPOCH + timedelta(minutes=2), EPOCH + timedelta(minutes=3))


async def test_a_former_secret_is_bound_to_its_place_in_the_history(
    house: House, storage: FakeStorage, mia: Actor
) -> None:
    """The ciphertext of the history opens neither as the credential nor as another row of the history."""
    view = await add(house, mia)
    await house.credentials.replace(mia, view.id, OTHER_SECRET)
    await house.credentials.replace(mia, view.id, SECRET)
    (history_id, former), (other_id, other) = storage.tables.history.items()
    row = storage.tables.credentials[view.id]
    storage.tables.credentials[view.id] = replace(row, encrypted_value=former.encrypted_value)
    storage.tables.history[other_id] = replace(other, encrypted_value=former.encrypted_value)
    assert (await house.credentials.get(mia, view.id)).status is Status.UNREADABLE
    readable = {each.version: each.readable for each in (await house.credentials.versions(mia, view.id)).items}
    assert readable == {storage.tables.history[history_id].version: True, other.version: False}


async def test_rolling_back_puts_the_former_secret_in_force_and_keeps_the_present_one(house: House, mia: Actor) -> None:
    view = await add(house, mia)
    await house.credentials.replace(mia, view.id, OTHER_SECRET)
    back = await house.credentials.rollback(mia, view.id)
    assert (back.version, back.fingerprint) == (3, view.fingerprint)
    assert (await house.credentials.reveal(mia, view.id)).reveal() == SECRET
    assert [each.version for each in (await house.credentials.versions(mia, view.id)).items] == [2, 1]


async def test_rolling_back_to_a_version_finds_that_very_secret(house: House, mia: Actor) -> None:
    view = await add(house, mia)
    await house.credentials.replace(mia, view.id, OTHER_SECRET)
    await house.credentials.replace(mia, view.id, OTHER_SECRET + "-newer")
    await house.credentials.rollback(mia, view.id, version=1)
    assert (await house.credentials.reveal(mia, view.id)).reveal() == SECRET
    with pytest.raises(NotFound):
        await house.credentials.rollback(mia, view.id, version=99)


async def test_there_is_nothing_to_roll_back_to_before_the_first_replacement(house: House, mia: Actor) -> None:
    view = await add(house, mia)
    with pytest.raises(NotFound):
        await house.credentials.rollback(mia, view.id)


async def test_rolling_back_to_a_damaged_secret_changes_nothing(house: House, storage: FakeStorage, mia: Actor) -> None:
    view = await add(house, mia)
    current = await house.credentials.replace(mia, view.id, OTHER_SECRET)
    ((history_id, former),) = storage.tables.history.items()
    storage.tables.history[history_id] = replace(former, encrypted_value=b"\0" * 200)
    with pytest.raises(CredentialUnreadable):
        await house.credentials.rollback(mia, view.id)
    assert await house.credentials.get(mia, view.id) == current


async def test_a_new_secret_does_not_inherit_an_expiry_that_has_passed(
    house: House, clock: FakeClock, mia: Actor
) -> None:
    later = EPOCH + timedelta(days=2)
    lasting = await add(house, mia, expires_at=later)
    passed = await add(house, mia, label="passed", expires_at=EPOCH + timedelta(hours=1))
    house.advance(clock, timedelta(hours=2))
    assert (await house.credentials.replace(mia, lasting.id, OTHER_SECRET)).expires_at == later
    assert (await house.credentials.replace(mia, passed.id, OTHER_SECRET)).expires_at is None
    stated = await house.credentials.replace(mia, passed.id, OTHER_SECRET, expires_at=later)
    assert stated.expires_at == later


# ---------------------------------------------------------------------------------------------------------------------
# Removing and restoring
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_removed_credential_is_gone_for_everything_but_restoring(house: House, mia: Actor) -> None:
    view = await add(house, mia)
    await house.credentials.remove(mia, view.id)
    assert (await house.credentials.page(mia)).items == []
    assert await house.credentials.labels(mia, "") == []
    credentials = house.credentials
    for attempt in (
        lambda: credentials.get(mia, view.id),
        lambda: credentials.reveal(mia, view.id),
        lambda: credentials.remove(mia, view.id),
        lambda: credentials.replace(mia, view.id, OTHER_SECRET),
    ):
        with pytest.raises(NotFound):
            await attempt()
    with pytest.raises(NoCredential):
        async with credentials.use(mia, "openai"):
            pass
    (removed,) = (await credentials.page(mia, removed=True)).items
    assert (removed.id, removed.deleted_at) == (view.id, EPOCH)


async def test_a_removed_credential_comes_back_within_7_days(house: House, clock: FakeClock, mia: Actor) -> None:
    view = await add(house, mia)
    await house.credentials.remove(mia, view.id)
    house.advance(clock, timedelta(days=7, seconds=-1))
    restored = await house.credentials.restore(mia, view.id)
    assert (restored.deleted_at, restored.masked, restored.version) == (None, view.masked, 3)


async def test_after_7_days_a_removed_credential_is_not_there_even_before_it_is_swept(
    house: House, clock: FakeClock, mia: Actor
) -> None:
    view = await add(house, mia)
    await house.credentials.remove(mia, view.id)
    house.advance(clock, timedelta(days=7))
    with pytest.raises(NotFound):
        await house.credentials.restore(mia, view.id)
    assert (await house.credentials.page(mia, removed=True)).items == []


async def test_a_credential_is_not_restored_into_a_label_that_was_taken(house: House, mia: Actor) -> None:
    view = await add(house, mia)
    await house.credentials.remove(mia, view.id)
    await add(house, mia, label="MAIN")
    with pytest.raises(AlreadyExists):
        await house.credentials.restore(mia, view.id)


async def test_what_was_not_removed_cannot_be_restored(house: House, mia: Actor) -> None:
    view = await add(house, mia)
    with pytest.raises(NotFound):
        await house.credentials.restore(mia, view.id)


# ---------------------------------------------------------------------------------------------------------------------
# Revealing
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_secret_is_opened_only_after_its_row_in_the_trail_is_durable(
    house: House, storage: FakeStorage, mia: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = await add(house, mia)
    honest, trails = AesGcmEnvelope.decrypt, []

    def watched(*arguments: Any, **named: Any) -> bytes:
        trails.append(storage.trail())
        return honest(*arguments, **named)

    monkeypatch.setattr(AesGcmEnvelope, "decrypt", watched)
    secret = await house.credentials.reveal(mia, view.id)
    assert secret.reveal() == SECRET
    assert [trail[-1] for trail in trails] == [(Action.CREDENTIAL_REVEALED, Result.OK)]


async def test_without_its_row_in_the_trail_nothing_is_revealed(
    house: House, storage: FakeStorage, mia: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = await add(house, mia)

    def opened(*_: Any, **__: Any) -> bytes:
        raise AssertionError("decrypted without an audit row")

    monkeypatch.setattr(AesGcmEnvelope, "decrypt", opened)
    with storage.full(), pytest.raises(StorageFull):
        await house.credentials.reveal(mia, view.id)


async def test_revealing_needs_a_password_proven_within_ten_minutes(
    house: House, storage: FakeStorage, clock: FakeClock, mia: Actor
) -> None:
    view = await add(house, mia)
    house.advance(clock, timedelta(minutes=10))
    assert (await house.credentials.reveal(mia, view.id)).reveal() == SECRET
    house.advance(clock, timedelta(seconds=1))
    with pytest.raises(ReauthenticationRequired):
        await house.credentials.reveal(mia, view.id)
    assert storage.trail().count((Action.CREDENTIAL_REVEALED, Result.OK)) == 1


async def test_what_is_removed_at_the_same_moment_is_not_revealed(
    house: House, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(house, mia)
    removal, revelation = await asyncio.gather(
        house.credentials.remove(mia, view.id), house.credentials.reveal(mia, view.id), return_exceptions=True
    )
    assert removal is None
    assert isinstance(revelation, NotFound)
    assert (Action.CREDENTIAL_REVEALED, Result.OK) not in storage.trail()


async def test_discord_is_shown_no_secret(house: House, mia: Actor) -> None:
    """Not even if a session were ever carried over to Discord."""
    view = await add(house, mia)
    on_discord = replace(mia, client=replace(mia.client, source=Source.DISCORD))
    with pytest.raises(Forbidden):
        await house.credentials.reveal(on_discord, view.id)
    with pytest.raises(ReauthenticationRequired):
        await house.credentials.reveal(replace(on_discord, authenticated_at=None), view.id)


async def test_revealing_a_damaged_credential_says_so(house: House, storage: FakeStorage, mia: Actor) -> None:
    view = await add(house, mia)
    damage(storage, view.id)
    storage.tables.audit.clear()
    with pytest.raises(CredentialUnreadable):
        await house.credentials.reveal(mia, view.id)
    assert storage.trail() == [
        (Action.CREDENTIAL_REVEALED, Result.OK),
        (Action.CREDENTIAL_UNREADABLE, Result.OK),
        (Action.CREDENTIAL_REVEALED, Result.FAILED),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Guild credentials
# ---------------------------------------------------------------------------------------------------------------------


async def test_whoever_manages_a_guild_stores_and_manages_its_credentials(house: House, clock: FakeClock) -> None:
    gwen, gus = manager(clock, "gwen"), manager(clock, "gus")
    view = await add(house, gwen, guild_id=GUILD)
    assert view.owner == Owner(OwnerKind.GUILD, GUILD)
    assert [each.id for each in (await house.credentials.page(gus, guild_id=GUILD)).items] == [view.id]
    await house.credentials.change(gus, view.id, label="ours")
    await house.credentials.remove(gus, view.id)
    await house.credentials.restore(gus, view.id)


async def test_an_admin_manages_the_credentials_of_a_guild_from_the_web(house: House, clock: FakeClock) -> None:
    view = await add(house, manager(clock), guild_id=GUILD)
    admin = member(clock, "ada", role=Role.ADMIN)
    assert [each.id for each in (await house.credentials.page(admin, guild_id=GUILD)).items] == [view.id]
    await house.credentials.replace(admin, view.id, OTHER_SECRET)
    await house.credentials.remove(admin, view.id)


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN])
async def test_whoever_manages_a_guild_may_not_read_what_another_shared(
    house: House, storage: FakeStorage, clock: FakeClock, role: Role
) -> None:
    view = await add(house, manager(clock), guild_id=GUILD)
    storage.tables.audit.clear()
    with pytest.raises(NotFound):
        await house.credentials.reveal(member(clock, "boss", role=role), view.id)
    assert storage.trail() == [(Action.CREDENTIAL_REVEALED, Result.DENIED)]


async def test_the_sharer_reads_what_they_shared_on_the_web(house: House, clock: FakeClock) -> None:
    view = await add(house, manager(clock, "gwen"), guild_id=GUILD)
    assert (await house.credentials.reveal(member(clock, "gwen"), view.id)).reveal() == SECRET


async def test_members_of_a_guild_see_and_store_none_of_its_credentials(
    house: House, storage: FakeStorage, clock: FakeClock
) -> None:
    view = await add(house, manager(clock), guild_id=GUILD)
    vic = visitor(clock)
    assert (await house.credentials.page(vic, guild_id=GUILD)).items == []
    assert await house.credentials.labels(vic, "") == []
    with pytest.raises(NotFound):
        await house.credentials.get(vic, view.id)
    with pytest.raises(Forbidden):
        await add(house, vic, guild_id=GUILD, label="mine")
    assert storage.trail()[-1] == (Action.CREDENTIAL_ADDED, Result.DENIED)


async def test_no_call_crosses_guilds(house: House, clock: FakeClock) -> None:
    """Not even the owner's, and not even the sharer's: from one guild, another's credentials are not there."""
    view = await add(house, manager(clock, "gwen"), guild_id=GUILD)
    elsewhere = [
        manager(clock, "gwen", OTHER_GUILD),
        replace(manager(clock, "boss", OTHER_GUILD), role=Role.OWNER),
    ]
    for actor in elsewhere:
        assert (await house.credentials.page(actor, guild_id=GUILD)).items == []
        with pytest.raises(NotFound):
            await house.credentials.remove(actor, view.id)
        with pytest.raises(NoCredential):
            async with house.credentials.use(actor, "openai"):
                pass
        with pytest.raises(Forbidden):
            await add(house, actor, guild_id=GUILD, label="crossing")


@pytest.mark.parametrize("guild_id", ["", "nonsense", "-1", "1" * 30, "٣"])
async def test_what_is_no_guild_is_refused(house: House, clock: FakeClock, guild_id: str) -> None:
    with pytest.raises(InvalidInput, match="guild_id"):
        await add(house, member(clock, "ada", role=Role.ADMIN), guild_id=guild_id)


# ---------------------------------------------------------------------------------------------------------------------
# Using
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_use_writes_its_intent_first_and_its_outcome_after(
    house: House, storage: FakeStorage, clock: FakeClock, mia: Actor
) -> None:
    view = await add(house, mia)
    storage.tables.audit.clear()
    async with house.credentials.use(mia, "OpenAI") as credential:
        assert storage.trail() == [(Action.CREDENTIAL_USED, Result.INTENT)]
        assert (credential.reveal(), credential.id, credential.label) == (SECRET, view.id, "main")
        assert credential.paid_by is PaidBy.MEMBER
        await asyncio.sleep(0)  # what the provider takes: no unit of work is open
        house.advance(clock, timedelta(minutes=1))
    assert storage.trail()[1:] == [(Action.CREDENTIAL_USED, Result.OK)]
    used = await house.credentials.get(mia, view.id)
    assert (used.last_used_at, used.version, used.updated_at) == (EPOCH + timedelta(minutes=1), 1, EPOCH)


class ProviderDown(Exception):
    pass


async def test_a_use_that_fails_is_recorded_as_failed_and_the_error_goes_on(
    house: House, storage: FakeStorage, mia: Actor
) -> None:
    await add(house, mia)
    with pytest.raises(ProviderDown):
        async with house.credentials.use(mia, "openai"):
            raise ProviderDown(SECRET)
    failed = storage.tables.audit[-1]
    assert (failed.action, failed.result, failed.detail["error"]) == (
        Action.CREDENTIAL_USED,
        Result.FAILED,
        "ProviderDown",
    )
    assert SECRET not in repr(storage.tables.audit)


async def test_a_use_that_is_cancelled_is_recorded_as_failed(house: House, storage: FakeStorage, mia: Actor) -> None:
    await add(house, mia)

    async def hang() -> None:
        async with house.credentials.use(mia, "openai"):
            begun.set()
            await asyncio.Event().wait()

    begun = asyncio.Event()
    task = asyncio.create_task(hang())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert storage.trail()[-1] == (Action.CREDENTIAL_USED, Result.FAILED)


async def test_an_outcome_that_cannot_be_recorded_does_not_hide_what_went_wrong(
    house: House, storage: FakeStorage, mia: Actor
) -> None:
    await add(house, mia)

    async def fail_while_the_disk_fills_up() -> None:
        with ExitStack() as until_the_outcome_was_tried:
            async with house.credentials.use(mia, "openai"):
                until_the_outcome_was_tried.enter_context(storage.full())
                raise ProviderDown

    with pytest.raises(ProviderDown):
        await fail_while_the_disk_fills_up()
    assert storage.trail()[-1] == (Action.CREDENTIAL_USED, Result.INTENT)
    with storage.full(), pytest.raises(StorageFull):
        async with house.credentials.use(mia, "openai"):
            raise AssertionError("used without an intent in the audit trail")


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN])
async def test_the_environment_comes_first_for_owner_and_admins(
    house: House, storage: FakeStorage, clock: FakeClock, role: Role
) -> None:
    boss = member(clock, "boss", role=role)
    await add(house, boss, provider="envai")
    storage.tables.audit.clear()
    async with house.credentials.use(boss, "envai") as credential:
        assert (credential.reveal(), credential.paid_by) == (ENVIRONMENT_SECRET, PaidBy.ENVIRONMENT)
        assert (credential.id, credential.label) == (None, None)
    assert storage.trail() == [(Action.CREDENTIAL_USED, Result.INTENT), (Action.CREDENTIAL_USED, Result.OK)]
    async with house.credentials.use(boss, "envai", "main") as credential:
        assert credential.paid_by is PaidBy.MEMBER


async def test_the_environment_serves_members_only_in_the_guilds_that_are_listed(
    house: House, clock: FakeClock, mia: Actor
) -> None:
    async with house.credentials.use(visitor(clock, guild_id=ENVIRONMENT_GUILD), "envai") as credential:
        assert credential.paid_by is PaidBy.ENVIRONMENT
    for refused in (mia, visitor(clock), manager(clock)):
        with pytest.raises(NoCredential):
            async with house.credentials.use(refused, "envai"):
                pass


async def test_the_members_own_comes_before_the_guilds(house: House, clock: FakeClock) -> None:
    gwen = manager(clock)
    await add(house, gwen, guild_id=GUILD, secret=OTHER_SECRET)
    async with house.credentials.use(gwen, "openai") as credential:
        assert (credential.paid_by, credential.reveal()) == (PaidBy.GUILD, OTHER_SECRET)
    await add(house, gwen)
    async with house.credentials.use(gwen, "openai") as credential:
        assert (credential.paid_by, credential.reveal()) == (PaidBy.MEMBER, SECRET)


async def test_a_guilds_credential_serves_its_sharer_and_refuses_other_members(
    house: House, storage: FakeStorage, clock: FakeClock
) -> None:
    view = await add(house, manager(clock, "gwen"), guild_id=GUILD)
    async with house.credentials.use(visitor(clock, "gwen"), "openai") as credential:
        assert credential.paid_by is PaidBy.GUILD
    storage.tables.audit.clear()
    with pytest.raises(NoCredential):
        async with house.credentials.use(visitor(clock), "openai"):
            pass
    (denied,) = storage.tables.audit
    assert (denied.action, denied.result, denied.object_id) == (Action.CREDENTIAL_USED, Result.DENIED, view.id)
    with pytest.raises(NoCredential):  # outside the guild, its credential is not there
        async with house.credentials.use(member(clock, "gwen"), "openai"):
            pass


async def test_without_a_label_the_latest_is_used_and_with_one_exactly_that(
    house: House, clock: FakeClock, mia: Actor
) -> None:
    older = await add(house, mia, label="older")
    house.advance(clock, timedelta(minutes=1))
    newer = await add(house, mia, label="newer", secret=OTHER_SECRET)
    async with house.credentials.use(mia, "openai") as credential:
        assert credential.id == newer.id
    async with house.credentials.use(mia, "openai", "OLDER") as credential:
        assert credential.id == older.id
    house.advance(clock, timedelta(minutes=1))
    await house.credentials.replace(mia, older.id, SECRET + "-x")
    async with house.credentials.use(mia, "openai") as credential:
        assert credential.id == older.id
    with pytest.raises(NoCredential):
        async with house.credentials.use(mia, "openai", "missing"):
            pass


async def test_between_two_of_the_same_moment_the_choice_is_stable(house: House, mia: Actor) -> None:
    ids = [(await add(house, mia, label=f"label {number}")).id for number in range(5)]
    for _ in range(3):
        async with house.credentials.use(mia, "openai") as credential:
            assert credential.id == max(ids)


async def test_an_expired_credential_is_not_used(house: House, clock: FakeClock, mia: Actor) -> None:
    await add(house, mia, label="lasting", secret=OTHER_SECRET)
    house.advance(clock, timedelta(minutes=1))
    await add(house, mia, label="passing", expires_at=EPOCH + timedelta(hours=1))
    house.advance(clock, timedelta(hours=1))
    async with house.credentials.use(mia, "openai") as credential:
        assert credential.label == "lasting"
    with pytest.raises(NoCredential):
        async with house.credentials.use(mia, "openai", "passing"):
            pass


async def test_using_a_damaged_credential_says_so_and_takes_no_other(
    house: House, storage: FakeStorage, clock: FakeClock, mia: Actor
) -> None:
    await add(house, mia, label="sound")
    house.advance(clock, timedelta(minutes=1))
    hurt = await add(house, mia, label="hurt")
    damage(storage, hurt.id)
    with pytest.raises(CredentialUnreadable):
        async with house.credentials.use(mia, "openai"):
            pass
    assert storage.trail()[-1] == (Action.CREDENTIAL_USED, Result.FAILED)


async def test_a_credential_in_use_prints_nothing_of_its_secret(house: House, mia: Actor) -> None:
    await add(house, mia)
    async with house.credentials.use(mia, "openai") as credential:
        assert SECRET not in f"{credential} {credential!r}"


async def test_an_auditor_uses_nothing(house: House, clock: FakeClock, mia: Actor) -> None:
    await add(house, mia)
    with pytest.raises(NoCredential):
        async with house.credentials.use(replace(mia, role=Role.AUDITOR), "openai"):
            pass


# ---------------------------------------------------------------------------------------------------------------------
# Labels, health, verification
# ---------------------------------------------------------------------------------------------------------------------


async def test_labels_are_offered_by_how_they_or_their_provider_begin(house: House, mia: Actor, tom: Actor) -> None:
    await add(house, mia, label="Work")
    await add(house, mia, provider="github", label="home")
    await add(house, tom, label="workshop")
    offered = {
        text: [(each.provider, each.label) for each in await house.credentials.labels(mia, text)]
        for text in ("", " WOR", "git", "x", "{0.__class__}", "\0")
    }
    assert offered == {
        "": [("github", "home"), ("openai", "Work")],
        " WOR": [("openai", "Work")],
        "git": [("github", "home")],
        "x": [],
        "{0.__class__}": [],
        "\0": [],
    }


async def test_the_guilds_labels_follow_for_whoever_manages_it(house: House, clock: FakeClock) -> None:
    gwen = manager(clock)
    await add(house, gwen, guild_id=GUILD, label="a shared one")
    await add(house, gwen, label="b own")
    offered = await house.credentials.labels(gwen, "")
    assert [(each.label, each.shared) for each in offered] == [("b own", False), ("a shared one", True)]
    assert [each.label for each in await house.credentials.labels(gwen, "", limit=1)] == ["b own"]


async def test_health_counts_the_own_credentials_by_provider(
    house: House, storage: FakeStorage, clock: FakeClock, mia: Actor, tom: Actor
) -> None:
    await add(house, tom, provider="github")
    await add(house, mia)
    house.advance(clock, timedelta(hours=1))
    hurt = await add(house, mia, label="hurt")
    await add(house, mia, label="passing", expires_at=EPOCH + timedelta(hours=2))
    removed = await add(house, mia, label="removed")
    await house.credentials.remove(mia, removed.id)
    async with house.credentials.use(mia, "openai", "main"):
        pass
    damage(storage, hurt.id)
    house.advance(clock, timedelta(hours=1))
    report = await house.credentials.health.report(mia)
    assert not report.everybody
    (openai,) = report.providers
    assert (openai.provider, openai.total, openai.readable, openai.unreadable, openai.expired) == ("openai", 3, 2, 1, 1)
    assert (openai.oldest_update, openai.last_used) == (EPOCH, EPOCH + timedelta(hours=1))
    assert [(each.id, each.label) for each in report.unreadable] == [(hurt.id, "hurt")]


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN, Role.AUDITOR])
async def test_health_of_everybody_tells_no_label_of_others(
    house: House, storage: FakeStorage, mia: Actor, tom: Actor, role: Role
) -> None:
    hurt = await add(house, mia, label="something private")
    await add(house, tom, provider="github", label="something else")
    removed = await add(house, tom, provider="github", label="something removed")
    await house.credentials.remove(tom, removed.id)
    damage(storage, hurt.id)
    report = await house.credentials.health.report(member(house.clock, "boss", role=role))
    assert report.everybody
    assert [(each.provider, each.total, each.unreadable) for each in report.providers] == [
        ("github", 1, 0),
        ("openai", 1, 1),
    ]
    assert "something" not in repr(report)


async def test_health_counts_beyond_one_page(house: House, clock: FakeClock) -> None:
    for number in range(120):
        await add(house, member(clock, f"user{number}"))
    (openai,) = (await house.credentials.health.report(member(clock, "boss", role=Role.OWNER))).providers
    assert openai.total == 120


async def test_verification_opens_every_secret_also_former_and_removed_ones(
    house: House, storage: FakeStorage, clock: FakeClock, mia: Actor, tom: Actor
) -> None:
    mine, removed = await add(house, mia), await add(house, tom)
    await house.credentials.replace(mia, mine.id, OTHER_SECRET)
    await house.credentials.remove(tom, removed.id)
    damage(storage, removed.id)
    operator = member(clock, "operator", role=Role.OWNER, source=Source.CLI)
    verdicts = {(each.id, each.former): each.ok async for each in house.credentials.health.verify_all(operator)}
    assert verdicts == {(mine.id, None): True, (mine.id, 1): True, (removed.id, None): False}
    ((history_id, former),) = storage.tables.history.items()
    storage.tables.history[history_id] = replace(former, encrypted_value=b"")
    verdicts = {(each.id, each.former): each.ok async for each in house.credentials.health.verify_all(operator)}
    assert verdicts[mine.id, 1] is False


async def test_members_do_not_verify_what_is_others(house: House, mia: Actor) -> None:
    with pytest.raises(Forbidden):
        await anext(house.credentials.health.verify_all(mia))


# ---------------------------------------------------------------------------------------------------------------------
# Moving
# ---------------------------------------------------------------------------------------------------------------------


async def test_moved_credentials_open_for_their_new_owner_with_their_history(
    house: House, storage: FakeStorage, mia: Actor, tom: Actor
) -> None:
    view = await add(house, mia)
    await house.credentials.replace(mia, view.id, OTHER_SECRET)
    removed = await add(house, mia, label="removed")
    await house.credentials.remove(mia, removed.id)
    async with storage.write() as uow:
        moved = await house.transfer.move(uow, Owner(OwnerKind.USER, mia.user_id), Owner(OwnerKind.USER, tom.user_id))
    assert moved == 2
    assert (await house.credentials.page(mia)).items == []
    assert (await house.credentials.reveal(tom, view.id)).reveal() == OTHER_SECRET
    await house.credentials.rollback(tom, view.id)
    assert (await house.credentials.reveal(tom, view.id)).reveal() == SECRET
    assert (await house.credentials.restore(tom, removed.id)).label == "removed"


async def test_a_label_that_is_taken_at_the_new_owner_gets_a_number(
    house: House, storage: FakeStorage, mia: Actor, tom: Actor
) -> None:
    long = "long " * 12 + "long"
    for actor, label in ((mia, "Main"), (tom, "main"), (tom, "main 2"), (mia, long), (tom, long)):
        await add(house, actor, label=label)
    async with storage.write() as uow:
        await house.transfer.move(uow, Owner(OwnerKind.USER, mia.user_id), Owner(OwnerKind.USER, tom.user_id))
    labels = {view.label for view in (await house.credentials.page(tom)).items}
    assert labels == {"main", "main 2", "Main 3", long, long[:62] + " 2"}


async def test_an_unreadable_credential_moves_too_and_can_be_entered_again(
    house: House, storage: FakeStorage, mia: Actor, tom: Actor
) -> None:
    view = await add(house, mia)
    damage(storage, view.id)
    async with storage.write() as uow:
        await house.transfer.move(uow, Owner(OwnerKind.USER, mia.user_id), Owner(OwnerKind.USER, tom.user_id))
    assert (await house.credentials.get(tom, view.id)).status is Status.UNREADABLE
    assert (await house.credentials.replace(tom, view.id, OTHER_SECRET)).status is Status.UNCHECKED


async def test_a_credential_that_changes_while_it_moves_stops_the_move(
    house: House, storage: FakeStorage, mia: Actor, tom: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise one would stay behind with an account that nobody can sign in to any more."""
    view = await add(house, mia)

    async def too_late(*_: Any, **__: Any) -> bool:
        return False

    monkeypatch.setattr(FakeCredentialRepository, "move", too_late)

    async def move() -> None:
        async with storage.write() as uow:
            await house.transfer.move(uow, Owner(OwnerKind.USER, mia.user_id), Owner(OwnerKind.USER, tom.user_id))

    with pytest.raises(VersionConflict):
        await move()
    assert await house.credentials.get(mia, view.id) == view


async def test_a_unit_of_work_reads_the_manifest_under_lock_once(
    house: House, storage: FakeStorage, mia: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adding, with an Idempotency-Key and without, replacing, rolling back and moving to another owner."""
    read, units, locked = FakeKeyRepository.get_manifest, storage.units, []

    async def counted(self: FakeKeyRepository, *, share_lock: bool = False) -> str | None:
        if share_lock:
            locked.append(storage.units)
        return await read(self, share_lock=share_lock)

    monkeypatch.setattr(FakeKeyRepository, "get_manifest", counted)
    view = await add(house, mia)
    await add(house, mia, label="repeatable", idempotency_key="k")
    await house.credentials.replace(mia, view.id, OTHER_SECRET)
    await house.credentials.rollback(mia, view.id)
    async with storage.write() as uow:
        await house.transfer.move(uow, Owner(OwnerKind.USER, mia.user_id), Owner(OwnerKind.USER, "user-tom"))
    assert len(locked) == 5
    assert len(set(locked)) == 5
    assert min(locked) > units
