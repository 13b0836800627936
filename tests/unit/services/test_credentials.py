"""The promises of CredentialService, on a storage in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
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
from app.domain.secrets import SecretText
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.services.idempotency import RepeatableRequest
from app.services.ports import Clock
from tests.support.fakes import (
    EPOCH,
    FakeClock,
    FakeCredentialRepository,
    FakeKeyRepository,
    FakeRandomness,
    FakeStorage,
)
from tests.support.keyhall import ENVIRONMENT_GUILD, ENVIRONMENT_SECRET, Keyhall, member, open_keyhall
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


async def add(keyhall: Keyhall, actor: Actor, **wanted: Any) -> CredentialView:
    """Add a credential, with defaults for everything that the test does not care about."""
    request = {"provider": "openai", "label": "main", "secret": SECRET} | wanted
    return (await keyhall.credentials.add(actor, **request)).view


def damage(storage: FakeStorage, credential_id: str) -> None:
    """Flip the last bit of a row's ciphertext."""
    record = storage.tables.credentials[credential_id]
    flipped = record.encrypted_value[:-1] + bytes([record.encrypted_value[-1] ^ 1])
    storage.tables.credentials[credential_id] = replace(record, encrypted_value=flipped)


def manager(clock: Clock, name: str = "gwen", guild_id: str = GUILD, source: Source = Source.DISCORD) -> Actor:
    return member(clock, name, source=source, guild=GuildContext(guild_id=guild_id, manages_guild=True))


def visitor(clock: FakeClock, name: str = "vic", guild_id: str = GUILD) -> Actor:
    return member(clock, name, source=Source.DISCORD, guild=GuildContext(guild_id=guild_id))


# ---------------------------------------------------------------------------------------------------------------------
# Adding
# ---------------------------------------------------------------------------------------------------------------------


async def test_an_added_credential_comes_back_as_a_mask(keyhall: Keyhall, storage: FakeStorage, mia: Actor) -> None:
    added = await keyhall.credentials.add(mia, provider=" OpenAI ", label="  main  ", secret=SECRET + "\n")
    view = added.view
    assert not added.replayed
    assert (view.provider, view.label, view.masked) == ("openai", "main", "sk-proj-••••••••0GjE")
    assert (view.version, view.status, view.owner) == (1, Status.UNCHECKED, Owner(OwnerKind.USER, mia.user_id))
    assert view == await keyhall.credentials.get(mia, view.id)
    assert storage.trail() == [(Action.CREDENTIAL_ADDED, Result.OK)]


async def test_no_part_of_the_secret_is_in_the_row_or_the_trail(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(keyhall, mia, idempotency_key="once")
    stored = storage.tables.credentials[view.id].encrypted_value + repr(storage.tables).encode()
    assert SECRET.encode() not in stored
    assert SECRET[8:20].encode() not in stored


async def test_context_binds_ciphertext_to_its_row(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, tom: Actor
) -> None:
    """Two rows whose ciphertexts were swapped are both unreadable, instead of each showing the other's secret."""
    one, other = await add(keyhall, mia), await add(keyhall, tom, secret=OTHER_SECRET)
    rows = storage.tables.credentials
    of_one, of_other = rows[one.id].encrypted_value, rows[other.id].encrypted_value
    rows[one.id] = replace(rows[one.id], encrypted_value=of_other)
    rows[other.id] = replace(rows[other.id], encrypted_value=of_one)
    assert (await keyhall.credentials.get(mia, one.id)).status is Status.UNREADABLE
    assert (await keyhall.credentials.get(tom, other.id)).status is Status.UNREADABLE


async def test_context_binds_ciphertext_to_its_owner(keyhall: Keyhall, storage: FakeStorage, mia: Actor) -> None:
    view = await add(keyhall, mia)
    row = storage.tables.credentials[view.id]
    storage.tables.credentials[view.id] = replace(row, owner=Owner(OwnerKind.USER, "user-tom"))
    tom = replace(mia, user_id="user-tom")
    assert (await keyhall.credentials.get(tom, view.id)).status is Status.UNREADABLE


@pytest.mark.parametrize("label", [SECRET, f"key {SECRET}", "ghp_0123456789abcdefghij0123456789abcdef"])
async def test_a_label_that_looks_like_a_secret_is_refused(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, label: str
) -> None:
    with pytest.raises(InvalidInput, match="label: looks like a key") as refusal:
        await add(keyhall, mia, label=label)
    assert label not in str(refusal.value)
    assert storage.tables.credentials == {}


async def test_a_label_is_taken_however_it_is_capitalised(keyhall: Keyhall, mia: Actor, tom: Actor) -> None:
    await add(keyhall, mia, label="Main")
    with pytest.raises(AlreadyExists):
        await add(keyhall, mia, label="mAIN")
    await add(keyhall, mia, provider="github", label="main")
    await add(keyhall, tom, label="main")


async def test_the_quota_is_100_and_what_can_be_restored_counts(
    keyhall: Keyhall, clock: FakeClock, mia: Actor, tom: Actor
) -> None:
    first = await add(keyhall, mia, label="label 0")
    for number in range(1, 100):
        await add(keyhall, mia, label=f"label {number}")
    await keyhall.credentials.remove(mia, first.id)
    with pytest.raises(QuotaExceeded):
        await add(keyhall, mia, label="one too many")
    await add(keyhall, tom)
    keyhall.advance(clock, timedelta(days=7, seconds=1))
    await keyhall.housekeeping.sweep()
    await add(keyhall, mia, label="room again")


async def test_a_removed_credential_can_be_deleted_for_good_which_frees_its_place(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, tom: Actor
) -> None:
    views = [await add(keyhall, mia, label=f"label {number}") for number in range(100)]
    first = views[0]
    await keyhall.credentials.replace(mia, first.id, OTHER_SECRET)
    with pytest.raises(NotFound):  # removing comes first
        await keyhall.credentials.purge(mia, first.id)
    await keyhall.credentials.remove(mia, first.id)
    with pytest.raises(QuotaExceeded, match="delete one of those for good"):
        await add(keyhall, mia, label="one too many")
    with pytest.raises(NotFound):
        await keyhall.credentials.purge(tom, first.id)
    with pytest.raises(VersionConflict):
        await keyhall.credentials.purge(mia, first.id, expected_version=2)
    await keyhall.credentials.purge(mia, first.id, expected_version=3)
    await add(keyhall, mia, label="room again")
    assert first.id not in storage.tables.credentials
    assert not storage.tables.history
    assert storage.trail()[-2:] == [(Action.CREDENTIAL_PURGED, Result.OK), (Action.CREDENTIAL_ADDED, Result.OK)]
    with pytest.raises(NotFound):
        await keyhall.credentials.restore(mia, first.id)


async def test_a_label_never_shows_a_secret_of_its_credential_in_one_step_or_two(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    secret = "correct horse battery"
    with pytest.raises(InvalidInput, match="label: holds the secret itself"):
        await add(keyhall, mia, secret=secret, label=f"my {secret}")
    view = await add(keyhall, mia, secret=secret)
    with pytest.raises(InvalidInput, match="label: holds the secret itself"):
        await keyhall.credentials.change(mia, view.id, label=secret.upper())
    with pytest.raises(InvalidInput, match="label: holds the secret itself"):
        await keyhall.credentials.replace(mia, view.id, view.label)
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    with pytest.raises(InvalidInput, match="label: holds the secret itself"):  # it can be put back, and may still serve
        await keyhall.credentials.change(mia, view.id, label=f"old {secret}")
    assert (await keyhall.credentials.get(mia, view.id)).version == 2
    assert len(storage.tables.history) == 1


async def test_the_secret_in_force_given_again_changes_nothing(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, mia: Actor
) -> None:
    view = await add(keyhall, mia, secret=SECRET)
    keyhall.advance(clock, timedelta(days=1))
    same = await keyhall.credentials.replace(mia, view.id, f" {SECRET}\r\n", expected_version=1)
    assert (same.new_secret, same.new_expiry) == (False, False)
    assert replace(same.view, secret_age_days=0) == view
    assert storage.tables.history == {}
    assert storage.trail() == [(Action.CREDENTIAL_ADDED, Result.OK)]
    later = clock.now() + timedelta(days=9)
    dated = await keyhall.credentials.replace(mia, view.id, SECRET, expires_at=later)
    assert (dated.new_secret, dated.new_expiry, dated.view.expires_at, dated.view.version) == (False, True, later, 2)
    assert storage.trail()[-1] == (Action.CREDENTIAL_CHANGED, Result.OK)
    with pytest.raises(VersionConflict):
        await keyhall.credentials.replace(mia, view.id, SECRET, expected_version=1)


async def test_a_credential_is_stored_for_those_alone_who_can_use_it(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    """The operator at the command line acts as an owner, so the account itself decides."""
    operator = await keyhall.services.identity.operator()
    await keyhall.services.identity.create(operator, "auditor", "a password for an auditor", Role.AUDITOR)
    acting = await keyhall.services.identity.operator_for(username="auditor")
    with pytest.raises(Forbidden, match="role auditor has no credentials"):
        await add(keyhall, acting)
    assert storage.tables.credentials == {}


async def test_a_secret_has_at_most_64_kib(keyhall: Keyhall, mia: Actor) -> None:
    await add(keyhall, mia, secret="é" * (32 * 1024))
    with pytest.raises(InvalidInput, match="secret"):
        await add(keyhall, mia, label="larger", secret="é" * (32 * 1024) + "x")


@pytest.mark.parametrize("secret", ["", " \n\t", "a\0b", "\ud800"])
async def test_what_is_no_secret_is_refused(keyhall: Keyhall, mia: Actor, secret: str) -> None:
    with pytest.raises(InvalidInput, match="secret"):
        await add(keyhall, mia, secret=secret)


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
async def test_an_expiry_lies_in_the_future_and_has_a_time_zone(keyhall: Keyhall, mia: Actor, moment: datetime) -> None:
    with pytest.raises(InvalidInput, match="expires_at"):
        await add(keyhall, mia, expires_at=moment)


async def test_an_auditor_stores_nothing(keyhall: Keyhall, clock: FakeClock) -> None:
    with pytest.raises(Forbidden):
        await add(keyhall, member(clock, "ada", role=Role.AUDITOR))


async def test_what_does_not_read_back_after_the_commit_is_an_error(
    keyhall: Keyhall, mia: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that acknowledges and loses is noticed while the member still has the secret at hand."""
    honest = FakeCredentialRepository.add

    async def lossy(repository: FakeCredentialRepository, record: Any) -> None:
        await honest(repository, replace(record, encrypted_value=record.encrypted_value[:-1]))

    monkeypatch.setattr(FakeCredentialRepository, "add", lossy)
    with pytest.raises(CredentialUnreadable, match="does not read back"):
        await add(keyhall, mia)


async def test_a_full_disk_is_an_error_and_nothing_is_stored(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    with storage.full(), pytest.raises(StorageFull):
        await add(keyhall, mia)
    assert storage.tables.credentials == {}


async def test_a_process_that_has_not_confirmed_its_keys_neither_stores_nor_shows(
    keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    clock.advance(timedelta(seconds=6))
    with pytest.raises(NotReady):
        await keyhall.credentials.get(mia, view.id)
    keyhall.keys.lease(float("-inf"))
    with pytest.raises(NotReady):
        await add(keyhall, mia, label="second")


async def test_only_secrets_that_cannot_be_guessed_have_a_fingerprint(keyhall: Keyhall, mia: Actor, tom: Actor) -> None:
    one, same, other, weak = (
        await add(keyhall, mia),
        await add(keyhall, tom),
        await add(keyhall, mia, label="other", secret=OTHER_SECRET),
        await add(keyhall, mia, label="weak", secret="aaaaaaaaaaaaaaaaaaaaaaaa"),
    )
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.fingerprint is not None
    assert len(bytes.fromhex(one.fingerprint)) == 8
    assert weak.fingerprint is None


# ---------------------------------------------------------------------------------------------------------------------
# Idempotency-Key
# ---------------------------------------------------------------------------------------------------------------------


async def test_the_same_request_again_stores_nothing_and_shows_the_present_state(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    first = await add(keyhall, mia, idempotency_key="k1")
    await keyhall.credentials.change(mia, first.id, label="renamed")
    again = await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET, idempotency_key="k1")
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
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, difference: Mapping[str, Any]
) -> None:
    admin = member(clock, "ada", role=Role.ADMIN)
    await add(keyhall, admin, idempotency_key="k1")
    with pytest.raises(IdempotencyConflict):
        await add(keyhall, admin, idempotency_key="k1", **difference)
    assert len(storage.tables.credentials) == 1


async def test_keys_of_two_users_have_nothing_to_do_with_each_other(keyhall: Keyhall, mia: Actor, tom: Actor) -> None:
    one = await add(keyhall, mia, idempotency_key="k1")
    other = await add(keyhall, tom, secret=OTHER_SECRET, idempotency_key="k1")
    assert one.id != other.id


async def test_a_key_is_remembered_for_24_hours(keyhall: Keyhall, clock: FakeClock, mia: Actor) -> None:
    first = await add(keyhall, mia, idempotency_key="k1")
    await keyhall.credentials.remove(mia, first.id)
    keyhall.advance(clock, timedelta(hours=24))
    replayed = await add(keyhall, mia, idempotency_key="k1")
    assert (replayed.id, replayed.deleted_at) == (first.id, EPOCH)
    keyhall.advance(clock, timedelta(seconds=1))
    assert (await add(keyhall, mia, secret=OTHER_SECRET, idempotency_key="k1")).id != first.id


async def test_a_replay_survives_the_rotation_of_the_key_that_made_its_mac(keyhall: Keyhall, mia: Actor) -> None:
    first = await add(keyhall, mia, idempotency_key="k1")
    await keyhall.rotate(KeyName.API_SECRET_KEY)
    await keyhall.keys.reload()
    assert (await add(keyhall, mia, idempotency_key="k1")).id == first.id


async def test_a_replay_outlives_the_expiry_that_the_request_named(
    keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    request = {"expires_at": EPOCH + timedelta(hours=1), "idempotency_key": "k1"}
    first = await add(keyhall, mia, **request)
    keyhall.advance(clock, timedelta(hours=2))
    assert (await add(keyhall, mia, **request)).id == first.id


async def test_a_replay_shows_nothing_that_went_to_another_owner_since(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, tom: Actor
) -> None:
    await add(keyhall, mia, idempotency_key="k1")
    async with storage.write() as uow:
        await keyhall.transfer.move(uow, Owner(OwnerKind.USER, mia.user_id), Owner(OwnerKind.USER, tom.user_id))
    with pytest.raises(NotFound):
        await add(keyhall, mia, idempotency_key="k1")


async def test_two_equal_requests_at_once_store_one_credential(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    async def request() -> tuple[str, bool]:
        added = await keyhall.credentials.add(mia, provider="openai", label="main", secret=SECRET, idempotency_key="k1")
        return added.view.id, added.replayed

    answers = await asyncio.gather(*(request() for _ in range(5)))
    assert sorted(replayed for _, replayed in answers) == [False, True, True, True, True]
    assert {credential_id for credential_id, _ in answers} == set(storage.tables.credentials)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "schlüssel", "\x7f"])
async def test_a_key_is_1_to_255_printable_ascii_characters(keyhall: Keyhall, mia: Actor, key: str) -> None:
    with pytest.raises(InvalidInput, match="idempotency_key"):
        await add(keyhall, mia, idempotency_key=key)
    await add(keyhall, mia, idempotency_key="~" * 255)


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


async def test_whatever_is_not_the_actors_is_not_there_and_the_refusal_is_in_the_trail(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, tom: Actor
) -> None:
    view = await add(keyhall, mia)
    credentials = keyhall.credentials
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
async def test_no_role_opens_a_members_own_credential(
    keyhall: Keyhall, clock: FakeClock, mia: Actor, role: Role
) -> None:
    view = await add(keyhall, mia)
    with pytest.raises(NotFound):
        await keyhall.credentials.reveal(member(clock, "boss", role=role), view.id)


@pytest.mark.parametrize("unknown", [UNKNOWN_ID, "", "nonsense", "a\0b", "\ud800", "x" * 100_000])
async def test_an_unknown_id_is_not_there_and_leaves_no_row(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, unknown: str
) -> None:
    with pytest.raises(NotFound):
        await keyhall.credentials.get(mia, unknown)
    assert storage.trail() == []


async def test_pages_show_every_own_credential_once(keyhall: Keyhall, mia: Actor, tom: Actor) -> None:
    expected = {(await add(keyhall, mia, label=f"label {number}")).id for number in range(5)}
    await add(keyhall, tom)
    seen: list[str] = []
    cursor: str | None = None
    for size in (2, 2, 1):
        page = await keyhall.credentials.page(mia, after=cursor, limit=2)
        assert len(page.items) == size
        seen += [view.id for view in page.items]
        cursor = page.next_cursor
    assert cursor is None
    assert (set(seen), len(seen)) == (expected, 5)


@pytest.mark.parametrize("wrong", [{"after": "!"}, {"after": "\ud800"}, {"limit": 0}, {"limit": 101}])
async def test_a_page_that_cannot_be_is_refused(keyhall: Keyhall, mia: Actor, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        await keyhall.credentials.page(mia, **wrong)


async def test_one_unreadable_row_is_shown_as_such_and_the_others_work(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    sound, hurt = await add(keyhall, mia), await add(keyhall, mia, label="hurt")
    damage(storage, hurt.id)
    shown = {view.id: view for view in (await keyhall.credentials.page(mia)).items}
    assert (shown[hurt.id].status, shown[hurt.id].masked) == (Status.UNREADABLE, "••••••••")
    assert shown[sound.id] == sound


async def test_the_trail_and_the_log_hear_once_of_an_unreadable_row(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, caplog: pytest.LogCaptureFixture
) -> None:
    view = await add(keyhall, mia)
    damage(storage, view.id)
    storage.tables.audit.clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await keyhall.credentials.get(mia, view.id)
            await keyhall.credentials.page(mia)
            await keyhall.credentials.health.report(mia)
    assert storage.trail() == [(Action.CREDENTIAL_UNREADABLE, Result.OK)]
    assert [record.args for record in caplog.records] == [(view.id,)]


async def test_whoever_reads_a_known_unreadable_row_writes_nothing(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    damage(storage, view.id)
    await keyhall.credentials.get(mia, view.id)
    commits = storage.commits
    await keyhall.credentials.page(mia)
    assert storage.commits == commits


async def test_a_row_that_opens_again_is_shown_as_before(keyhall: Keyhall, storage: FakeStorage, mia: Actor) -> None:
    """As after a backup was put back: what had been noted about it does not outlive the damage."""
    view = await add(keyhall, mia)
    damage(storage, view.id)
    assert (await keyhall.credentials.get(mia, view.id)).status is Status.UNREADABLE
    damage(storage, view.id)
    assert await keyhall.credentials.get(mia, view.id) == view


async def test_an_unreadable_row_is_shown_also_when_the_disk_is_full(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    damage(storage, view.id)
    with storage.full():
        assert (await keyhall.credentials.get(mia, view.id)).status is Status.UNREADABLE


async def test_entering_an_unreadable_credential_again_heals_it(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    damage(storage, view.id)
    assert (await keyhall.credentials.get(mia, view.id)).status is Status.UNREADABLE
    healed = (await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)).view
    assert (healed.status, healed.version) == (Status.UNCHECKED, 2)
    assert (await keyhall.credentials.reveal(mia, view.id)).reveal() == OTHER_SECRET
    assert [each.readable for each in (await keyhall.credentials.versions(mia, view.id)).items] == [False]


async def test_a_process_behind_a_rotation_catches_up_before_it_calls_a_row_unreadable(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, mia: Actor
) -> None:
    ahead = await open_keyhall(storage, clock, FakeRandomness(1))
    await ahead.rotate(KeyName.AES_KEY)
    view = await add(ahead, mia)
    assert storage.tables.credentials[view.id].key_version == 2
    storage.tables.audit.clear()
    assert (await keyhall.credentials.get(mia, view.id)).status is Status.UNCHECKED
    assert storage.trail() == []


async def test_a_process_behind_a_rotation_seals_with_the_version_that_is_primary_now(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, mia: Actor
) -> None:
    ahead = await open_keyhall(storage, clock, FakeRandomness(1))
    await ahead.rotate(KeyName.AES_KEY)
    view = await add(keyhall, mia)
    assert storage.tables.credentials[view.id].key_version == 2


async def test_what_a_former_version_sealed_still_opens_and_a_destroyed_one_leaves_it_unreadable(
    keyhall: Keyhall, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    await keyhall.rotate(KeyName.AES_KEY)
    await keyhall.keys.reload()
    assert await keyhall.credentials.get(mia, view.id) == view
    await keyhall.destroy_former(KeyName.AES_KEY)
    assert (await keyhall.credentials.get(mia, view.id)).status is Status.UNREADABLE


async def test_a_credential_whose_expiry_has_passed_is_expired(keyhall: Keyhall, clock: FakeClock, mia: Actor) -> None:
    view = await add(keyhall, mia, expires_at=EPOCH + timedelta(hours=1))
    assert view.status is Status.UNCHECKED
    keyhall.advance(clock, timedelta(hours=1))
    assert (await keyhall.credentials.get(mia, view.id)).status is Status.EXPIRED


async def test_a_dead_database_is_an_error_and_never_nothing(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    credentials = keyhall.credentials
    with storage.dead():
        for attempt in (
            lambda: credentials.get(mia, view.id),
            lambda: credentials.page(mia),
            lambda: credentials.versions(mia, view.id),
            lambda: credentials.lists.labels(mia, ""),
            lambda: credentials.health.report(mia),
            lambda: credentials.reveal(mia, view.id),
        ):
            with pytest.raises(StorageError):
                await attempt()


# ---------------------------------------------------------------------------------------------------------------------
# Changing
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_change_touches_only_what_is_given(keyhall: Keyhall, mia: Actor) -> None:
    view = await add(keyhall, mia, expires_at=EPOCH + timedelta(days=1))
    renamed = await keyhall.credentials.change(mia, view.id, label="renamed")
    assert (renamed.label, renamed.expires_at, renamed.version) == ("renamed", view.expires_at, 2)
    timeless = await keyhall.credentials.change(mia, view.id, expires_at=None)
    assert (timeless.label, timeless.expires_at, timeless.version) == ("renamed", None, 3)
    assert (await keyhall.credentials.reveal(mia, view.id)).reveal() == SECRET


async def test_a_relabel_into_a_taken_label_is_refused(keyhall: Keyhall, mia: Actor) -> None:
    await add(keyhall, mia, label="taken")
    view = await add(keyhall, mia)
    with pytest.raises(AlreadyExists):
        await keyhall.credentials.change(mia, view.id, label="TAKEN")
    assert await keyhall.credentials.get(mia, view.id) == view


async def test_a_stale_version_changes_nothing(keyhall: Keyhall, mia: Actor) -> None:
    view = await add(keyhall, mia)
    current = await keyhall.credentials.change(mia, view.id, label="renamed", expected_version=1)
    credentials = keyhall.credentials
    for attempt in (
        lambda: credentials.change(mia, view.id, label="again", expected_version=1),
        lambda: credentials.replace(mia, view.id, OTHER_SECRET, expected_version=1),
        lambda: credentials.rollback(mia, view.id, expected_version=1),
        lambda: credentials.remove(mia, view.id, expected_version=1),
    ):
        with pytest.raises(VersionConflict):
            await attempt()
    assert await credentials.get(mia, view.id) == current


async def test_of_two_changes_that_expect_the_same_version_one_wins(keyhall: Keyhall, mia: Actor) -> None:
    view = await add(keyhall, mia)
    outcomes = await asyncio.gather(
        *(keyhall.credentials.change(mia, view.id, label=f"label {each}", expected_version=1) for each in "ab"),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in outcomes) == ["CredentialView", "VersionConflict"]


async def test_no_update_is_lost_when_many_come_at_once(keyhall: Keyhall, mia: Actor) -> None:
    view = await add(keyhall, mia)
    secrets = [f"{OTHER_SECRET}-{number}" for number in range(10)]
    await asyncio.gather(*(keyhall.credentials.replace(mia, view.id, secret) for secret in secrets))
    assert (await keyhall.credentials.get(mia, view.id)).version == 11
    assert [each.version for each in (await keyhall.credentials.versions(mia, view.id)).items] == list(range(10, 0, -1))


# ---------------------------------------------------------------------------------------------------------------------
# Replacing and rolling back
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_replaced_secret_goes_to_the_history(keyhall: Keyhall, clock: FakeClock, mia: Actor) -> None:
    view = await add(keyhall, mia)
    keyhall.advance(clock, timedelta(minutes=1))
    await keyhall.credentials.change(mia, view.id, label="renamed")
    keyhall.advance(clock, timedelta(minutes=1))
    replaced = (await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)).view
    assert (replaced.version, replaced.masked) == (3, "sk-proj••••••••Mz9")
    (former,) = (await keyhall.credentials.versions(mia, view.id)).items
    assert (former.version, former.masked, former.readable) == (2, "sk-proj-••••••••0GjE", True)
    assert (former.created_at, former.replaced_at) == (EPOCH, EPOCH + timedelta(minutes=2))
    keyhall.advance(clock, timedelta(minutes=1))
    await keyhall.credentials.replace(mia, view.id, SECRET)
    latest = (await keyhall.credentials.versions(mia, view.id)).items[0]
    assert (latest.created_at, latest.replaced_at) == (EPOCH + timedelta(minutes=2), EPOCH + timedelta(minutes=3))


async def test_a_former_secret_is_bound_to_its_place_in_the_history(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    """The ciphertext of the history opens neither as the credential nor as another row of the history."""
    view = await add(keyhall, mia)
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    await keyhall.credentials.replace(mia, view.id, SECRET)
    (history_id, former), (other_id, other) = storage.tables.history.items()
    row = storage.tables.credentials[view.id]
    storage.tables.credentials[view.id] = replace(row, encrypted_value=former.encrypted_value)
    storage.tables.history[other_id] = replace(other, encrypted_value=former.encrypted_value)
    assert (await keyhall.credentials.get(mia, view.id)).status is Status.UNREADABLE
    readable = {each.version: each.readable for each in (await keyhall.credentials.versions(mia, view.id)).items}
    assert readable == {storage.tables.history[history_id].version: True, other.version: False}


async def test_rolling_back_puts_the_former_secret_in_force_and_keeps_the_present_one(
    keyhall: Keyhall, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    back = (await keyhall.credentials.rollback(mia, view.id)).view
    assert (back.version, back.fingerprint) == (3, view.fingerprint)
    assert (await keyhall.credentials.reveal(mia, view.id)).reveal() == SECRET
    assert [each.version for each in (await keyhall.credentials.versions(mia, view.id)).items] == [2, 1]


async def test_rolling_back_to_a_version_finds_that_very_secret(keyhall: Keyhall, mia: Actor) -> None:
    view = await add(keyhall, mia)
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET + "-newer")
    await keyhall.credentials.rollback(mia, view.id, version=1)
    assert (await keyhall.credentials.reveal(mia, view.id)).reveal() == SECRET
    with pytest.raises(NotFound):
        await keyhall.credentials.rollback(mia, view.id, version=99)


async def test_there_is_nothing_to_roll_back_to_before_the_first_replacement(keyhall: Keyhall, mia: Actor) -> None:
    view = await add(keyhall, mia)
    with pytest.raises(NotFound):
        await keyhall.credentials.rollback(mia, view.id)


async def test_rolling_back_to_a_damaged_secret_changes_nothing(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    current = (await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)).view
    ((history_id, former),) = storage.tables.history.items()
    storage.tables.history[history_id] = replace(former, encrypted_value=b"\0" * 200)
    with pytest.raises(CredentialUnreadable):
        await keyhall.credentials.rollback(mia, view.id)
    assert await keyhall.credentials.get(mia, view.id) == current


async def test_a_new_secret_does_not_inherit_an_expiry_that_has_passed(
    keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    later = EPOCH + timedelta(days=2)
    lasting = await add(keyhall, mia, expires_at=later)
    passed = await add(keyhall, mia, label="passed", expires_at=EPOCH + timedelta(hours=1))
    keyhall.advance(clock, timedelta(hours=2))
    assert (await keyhall.credentials.replace(mia, lasting.id, OTHER_SECRET)).view.expires_at == later
    assert (await keyhall.credentials.replace(mia, passed.id, OTHER_SECRET)).view.expires_at is None
    stated = (await keyhall.credentials.replace(mia, passed.id, OTHER_SECRET, expires_at=later)).view
    assert stated.expires_at == later


# ---------------------------------------------------------------------------------------------------------------------
# Removing and restoring
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_removed_credential_is_gone_for_everything_but_restoring(keyhall: Keyhall, mia: Actor) -> None:
    view = await add(keyhall, mia)
    await keyhall.credentials.remove(mia, view.id)
    assert (await keyhall.credentials.page(mia)).items == []
    assert await keyhall.credentials.lists.labels(mia, "") == []
    credentials = keyhall.credentials
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


async def test_a_removed_credential_comes_back_within_7_days(keyhall: Keyhall, clock: FakeClock, mia: Actor) -> None:
    view = await add(keyhall, mia)
    await keyhall.credentials.remove(mia, view.id)
    keyhall.advance(clock, timedelta(days=7, seconds=-1))
    restored = await keyhall.credentials.restore(mia, view.id)
    assert (restored.deleted_at, restored.masked, restored.version) == (None, view.masked, 3)


async def test_after_7_days_a_removed_credential_is_not_there_even_before_it_is_swept(
    keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    await keyhall.credentials.remove(mia, view.id)
    keyhall.advance(clock, timedelta(days=7))
    with pytest.raises(NotFound):
        await keyhall.credentials.restore(mia, view.id)
    assert (await keyhall.credentials.page(mia, removed=True)).items == []


async def test_a_credential_is_not_restored_into_a_label_that_was_taken(keyhall: Keyhall, mia: Actor) -> None:
    view = await add(keyhall, mia)
    await keyhall.credentials.remove(mia, view.id)
    await add(keyhall, mia, label="MAIN")
    with pytest.raises(AlreadyExists):
        await keyhall.credentials.restore(mia, view.id)


async def test_what_was_not_removed_cannot_be_restored(keyhall: Keyhall, mia: Actor) -> None:
    view = await add(keyhall, mia)
    with pytest.raises(NotFound):
        await keyhall.credentials.restore(mia, view.id)


# ---------------------------------------------------------------------------------------------------------------------
# Revealing
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_secret_is_opened_only_after_its_row_in_the_trail_is_durable(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = await add(keyhall, mia)
    honest, trails = AesGcmEnvelope.decrypt, []

    def watched(*arguments: Any, **named: Any) -> bytes:
        trails.append(storage.trail())
        return honest(*arguments, **named)

    monkeypatch.setattr(AesGcmEnvelope, "decrypt", watched)
    secret = await keyhall.credentials.reveal(mia, view.id)
    assert secret.reveal() == SECRET
    assert [trail[-1] for trail in trails] == [(Action.CREDENTIAL_REVEALED, Result.OK)]


async def test_without_its_row_in_the_trail_nothing_is_revealed(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = await add(keyhall, mia)

    def opened(*_: Any, **__: Any) -> bytes:
        raise AssertionError("decrypted without an audit row")

    monkeypatch.setattr(AesGcmEnvelope, "decrypt", opened)
    with storage.full(), pytest.raises(StorageFull):
        await keyhall.credentials.reveal(mia, view.id)


async def test_revealing_needs_a_password_proven_within_ten_minutes(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    keyhall.advance(clock, timedelta(minutes=10))
    assert (await keyhall.credentials.reveal(mia, view.id)).reveal() == SECRET
    keyhall.advance(clock, timedelta(seconds=1))
    with pytest.raises(ReauthenticationRequired):
        await keyhall.credentials.reveal(mia, view.id)
    assert storage.trail().count((Action.CREDENTIAL_REVEALED, Result.OK)) == 1


async def test_what_is_removed_at_the_same_moment_is_not_revealed(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    removal, revelation = await asyncio.gather(
        keyhall.credentials.remove(mia, view.id), keyhall.credentials.reveal(mia, view.id), return_exceptions=True
    )
    assert removal is None
    assert isinstance(revelation, NotFound)
    assert (Action.CREDENTIAL_REVEALED, Result.OK) not in storage.trail()


async def test_discord_is_shown_no_secret(keyhall: Keyhall, mia: Actor) -> None:
    """Not even if a session were ever carried over to Discord."""
    view = await add(keyhall, mia)
    on_discord = replace(mia, client=replace(mia.client, source=Source.DISCORD))
    with pytest.raises(Forbidden):
        await keyhall.credentials.reveal(on_discord, view.id)
    with pytest.raises(ReauthenticationRequired):
        await keyhall.credentials.reveal(replace(on_discord, authenticated_at=None), view.id)


async def test_revealing_a_damaged_credential_says_so(keyhall: Keyhall, storage: FakeStorage, mia: Actor) -> None:
    view = await add(keyhall, mia)
    damage(storage, view.id)
    storage.tables.audit.clear()
    with pytest.raises(CredentialUnreadable):
        await keyhall.credentials.reveal(mia, view.id)
    assert storage.trail() == [
        (Action.CREDENTIAL_REVEALED, Result.OK),
        (Action.CREDENTIAL_UNREADABLE, Result.OK),
        (Action.CREDENTIAL_REVEALED, Result.FAILED),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Guild credentials
# ---------------------------------------------------------------------------------------------------------------------


async def test_whoever_manages_a_guild_stores_and_manages_its_credentials(keyhall: Keyhall, clock: FakeClock) -> None:
    gwen, gus = manager(clock, "gwen"), manager(clock, "gus")
    view = await add(keyhall, gwen, guild_id=GUILD)
    assert view.owner == Owner(OwnerKind.GUILD, GUILD)
    assert [each.id for each in (await keyhall.credentials.page(gus, guild_id=GUILD)).items] == [view.id]
    await keyhall.credentials.change(gus, view.id, label="ours")
    await keyhall.credentials.remove(gus, view.id)
    await keyhall.credentials.restore(gus, view.id)


async def test_an_admin_manages_the_credentials_of_a_guild_from_the_web(keyhall: Keyhall, clock: FakeClock) -> None:
    view = await add(keyhall, manager(clock), guild_id=GUILD)
    admin = member(clock, "ada", role=Role.ADMIN)
    assert [each.id for each in (await keyhall.credentials.page(admin, guild_id=GUILD)).items] == [view.id]
    await keyhall.credentials.replace(admin, view.id, OTHER_SECRET)
    await keyhall.credentials.remove(admin, view.id)


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN])
async def test_whoever_manages_a_guild_may_not_read_what_another_shared(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, role: Role
) -> None:
    view = await add(keyhall, manager(clock), guild_id=GUILD)
    storage.tables.audit.clear()
    with pytest.raises(NotFound):
        await keyhall.credentials.reveal(member(clock, "boss", role=role), view.id)
    assert storage.trail() == [(Action.CREDENTIAL_REVEALED, Result.DENIED)]


async def test_the_sharer_reads_what_they_shared_on_the_web(keyhall: Keyhall, clock: FakeClock) -> None:
    view = await add(keyhall, manager(clock, "gwen"), guild_id=GUILD)
    assert (await keyhall.credentials.reveal(member(clock, "gwen"), view.id)).reveal() == SECRET


async def test_members_of_a_guild_see_and_store_none_of_its_credentials(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    view = await add(keyhall, manager(clock), guild_id=GUILD)
    vic = visitor(clock)
    assert (await keyhall.credentials.page(vic, guild_id=GUILD)).items == []
    assert await keyhall.credentials.lists.labels(vic, "") == []
    with pytest.raises(NotFound):
        await keyhall.credentials.get(vic, view.id)
    with pytest.raises(Forbidden):
        await add(keyhall, vic, guild_id=GUILD, label="mine")
    assert storage.trail()[-1] == (Action.CREDENTIAL_ADDED, Result.DENIED)


async def test_no_call_crosses_guilds(keyhall: Keyhall, clock: FakeClock) -> None:
    """Not even the owner's, and not even the sharer's: from one guild, another's credentials are not there."""
    view = await add(keyhall, manager(clock, "gwen"), guild_id=GUILD)
    elsewhere = [
        manager(clock, "gwen", OTHER_GUILD),
        replace(manager(clock, "boss", OTHER_GUILD), role=Role.OWNER),
    ]
    for actor in elsewhere:
        assert (await keyhall.credentials.page(actor, guild_id=GUILD)).items == []
        with pytest.raises(NotFound):
            await keyhall.credentials.remove(actor, view.id)
        with pytest.raises(NoCredential):
            async with keyhall.credentials.use(actor, "openai"):
                pass
        with pytest.raises(Forbidden):
            await add(keyhall, actor, guild_id=GUILD, label="crossing")


@pytest.mark.parametrize("guild_id", ["", "nonsense", "-1", "1" * 30, "٣"])
async def test_what_is_no_guild_is_refused(keyhall: Keyhall, clock: FakeClock, guild_id: str) -> None:
    with pytest.raises(InvalidInput, match="guild_id"):
        await add(keyhall, member(clock, "ada", role=Role.ADMIN), guild_id=guild_id)


# ---------------------------------------------------------------------------------------------------------------------
# Using
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_use_writes_its_intent_first_and_its_outcome_after(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, mia: Actor
) -> None:
    view = await add(keyhall, mia)
    storage.tables.audit.clear()
    async with keyhall.credentials.use(mia, "OpenAI") as credential:
        assert storage.trail() == [(Action.CREDENTIAL_USED, Result.INTENT)]
        assert (credential.reveal(), credential.id, credential.label) == (SECRET, view.id, "main")
        assert credential.paid_by is PaidBy.MEMBER
        await asyncio.sleep(0)  # what the provider takes: no unit of work is open
        keyhall.advance(clock, timedelta(minutes=1))
    assert storage.trail()[1:] == [(Action.CREDENTIAL_USED, Result.OK)]
    used = await keyhall.credentials.get(mia, view.id)
    assert (used.last_used_at, used.version, used.updated_at) == (EPOCH + timedelta(minutes=1), 1, EPOCH)


class ProviderDown(Exception):
    pass


async def test_a_use_that_fails_is_recorded_as_failed_and_the_error_goes_on(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    await add(keyhall, mia)
    with pytest.raises(ProviderDown):
        async with keyhall.credentials.use(mia, "openai"):
            raise ProviderDown(SECRET)
    failed = storage.tables.audit[-1]
    assert (failed.action, failed.result, failed.detail["error"]) == (
        Action.CREDENTIAL_USED,
        Result.FAILED,
        "ProviderDown",
    )
    assert SECRET not in repr(storage.tables.audit)


async def test_a_use_that_is_cancelled_is_recorded_as_failed(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    await add(keyhall, mia)

    async def hang() -> None:
        async with keyhall.credentials.use(mia, "openai"):
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
    keyhall: Keyhall, storage: FakeStorage, mia: Actor
) -> None:
    await add(keyhall, mia)

    async def fail_while_the_disk_fills_up() -> None:
        with ExitStack() as until_the_outcome_was_tried:
            async with keyhall.credentials.use(mia, "openai"):
                until_the_outcome_was_tried.enter_context(storage.full())
                raise ProviderDown

    with pytest.raises(ProviderDown):
        await fail_while_the_disk_fills_up()
    assert storage.trail()[-1] == (Action.CREDENTIAL_USED, Result.INTENT)
    with storage.full(), pytest.raises(StorageFull):
        async with keyhall.credentials.use(mia, "openai"):
            raise AssertionError("used without an intent in the audit trail")


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN])
async def test_the_environment_comes_first_for_owner_and_admins(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, role: Role
) -> None:
    boss = member(clock, "boss", role=role)
    await add(keyhall, boss, provider="envai")
    storage.tables.audit.clear()
    async with keyhall.credentials.use(boss, "envai") as credential:
        assert (credential.reveal(), credential.paid_by) == (ENVIRONMENT_SECRET, PaidBy.ENVIRONMENT)
        assert (credential.id, credential.label) == (None, None)
    assert storage.trail() == [(Action.CREDENTIAL_USED, Result.INTENT), (Action.CREDENTIAL_USED, Result.OK)]
    async with keyhall.credentials.use(boss, "envai", "main") as credential:
        assert credential.paid_by is PaidBy.MEMBER


async def test_the_environment_serves_members_only_in_the_guilds_that_are_listed(
    keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    async with keyhall.credentials.use(visitor(clock, guild_id=ENVIRONMENT_GUILD), "envai") as credential:
        assert credential.paid_by is PaidBy.ENVIRONMENT
    for refused in (mia, visitor(clock), manager(clock)):
        with pytest.raises(NoCredential):
            async with keyhall.credentials.use(refused, "envai"):
                pass


async def test_the_members_own_comes_before_the_guilds(keyhall: Keyhall, clock: FakeClock) -> None:
    gwen = manager(clock)
    await add(keyhall, gwen, guild_id=GUILD, secret=OTHER_SECRET)
    async with keyhall.credentials.use(gwen, "openai") as credential:
        assert (credential.paid_by, credential.reveal()) == (PaidBy.GUILD, OTHER_SECRET)
    await add(keyhall, gwen)
    async with keyhall.credentials.use(gwen, "openai") as credential:
        assert (credential.paid_by, credential.reveal()) == (PaidBy.MEMBER, SECRET)


async def test_a_guilds_credential_serves_its_sharer_and_refuses_other_members(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    view = await add(keyhall, manager(clock, "gwen"), guild_id=GUILD)
    async with keyhall.credentials.use(visitor(clock, "gwen"), "openai") as credential:
        assert credential.paid_by is PaidBy.GUILD
    storage.tables.audit.clear()
    with pytest.raises(NoCredential):
        async with keyhall.credentials.use(visitor(clock), "openai"):
            pass
    (denied,) = storage.tables.audit
    assert (denied.action, denied.result, denied.object_id) == (Action.CREDENTIAL_USED, Result.DENIED, view.id)
    with pytest.raises(NoCredential):  # outside the guild, its credential is not there
        async with keyhall.credentials.use(member(clock, "gwen"), "openai"):
            pass


async def test_without_a_label_the_latest_is_used_and_with_one_exactly_that(
    keyhall: Keyhall, clock: FakeClock, mia: Actor
) -> None:
    older = await add(keyhall, mia, label="older")
    keyhall.advance(clock, timedelta(minutes=1))
    newer = await add(keyhall, mia, label="newer", secret=OTHER_SECRET)
    async with keyhall.credentials.use(mia, "openai") as credential:
        assert credential.id == newer.id
    async with keyhall.credentials.use(mia, "openai", "OLDER") as credential:
        assert credential.id == older.id
    keyhall.advance(clock, timedelta(minutes=1))
    await keyhall.credentials.replace(mia, older.id, SECRET + "-x")
    async with keyhall.credentials.use(mia, "openai") as credential:
        assert credential.id == older.id
    with pytest.raises(NoCredential):
        async with keyhall.credentials.use(mia, "openai", "missing"):
            pass


async def test_between_two_of_the_same_moment_the_choice_is_stable(keyhall: Keyhall, mia: Actor) -> None:
    ids = [(await add(keyhall, mia, label=f"label {number}")).id for number in range(5)]
    for _ in range(3):
        async with keyhall.credentials.use(mia, "openai") as credential:
            assert credential.id == max(ids)


async def test_an_expired_credential_is_not_used(keyhall: Keyhall, clock: FakeClock, mia: Actor) -> None:
    await add(keyhall, mia, label="lasting", secret=OTHER_SECRET)
    keyhall.advance(clock, timedelta(minutes=1))
    await add(keyhall, mia, label="passing", expires_at=EPOCH + timedelta(hours=1))
    keyhall.advance(clock, timedelta(hours=1))
    async with keyhall.credentials.use(mia, "openai") as credential:
        assert credential.label == "lasting"
    with pytest.raises(NoCredential):
        async with keyhall.credentials.use(mia, "openai", "passing"):
            pass


async def test_using_a_damaged_credential_says_so_and_takes_no_other(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, mia: Actor
) -> None:
    await add(keyhall, mia, label="sound")
    keyhall.advance(clock, timedelta(minutes=1))
    hurt = await add(keyhall, mia, label="hurt")
    damage(storage, hurt.id)
    with pytest.raises(CredentialUnreadable):
        async with keyhall.credentials.use(mia, "openai"):
            pass
    assert storage.trail()[-1] == (Action.CREDENTIAL_USED, Result.FAILED)


async def test_a_credential_in_use_prints_nothing_of_its_secret(keyhall: Keyhall, mia: Actor) -> None:
    await add(keyhall, mia)
    async with keyhall.credentials.use(mia, "openai") as credential:
        assert SECRET not in f"{credential} {credential!r}"


async def test_an_auditor_uses_nothing(keyhall: Keyhall, clock: FakeClock, mia: Actor) -> None:
    await add(keyhall, mia)
    with pytest.raises(NoCredential):
        async with keyhall.credentials.use(replace(mia, role=Role.AUDITOR), "openai"):
            pass


# ---------------------------------------------------------------------------------------------------------------------
# Labels, health, verification
# ---------------------------------------------------------------------------------------------------------------------


async def test_labels_are_offered_by_how_they_or_their_provider_begin(keyhall: Keyhall, mia: Actor, tom: Actor) -> None:
    await add(keyhall, mia, label="Work")
    await add(keyhall, mia, provider="github", label="home")
    await add(keyhall, tom, label="workshop")
    offered = {
        text: [(each.provider, each.label) for each in await keyhall.credentials.lists.labels(mia, text)]
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


async def test_the_guilds_labels_follow_for_whoever_manages_it(keyhall: Keyhall, clock: FakeClock) -> None:
    gwen = manager(clock)
    await add(keyhall, gwen, guild_id=GUILD, label="a shared one")
    await add(keyhall, gwen, label="b own")
    offered = await keyhall.credentials.lists.labels(gwen, "")
    assert [(each.label, each.shared) for each in offered] == [("b own", False), ("a shared one", True)]
    assert [each.label for each in await keyhall.credentials.lists.labels(gwen, "", limit=1)] == ["b own"]


async def test_health_counts_the_own_credentials_by_provider(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, mia: Actor, tom: Actor
) -> None:
    await add(keyhall, tom, provider="github")
    await add(keyhall, mia)
    keyhall.advance(clock, timedelta(hours=1))
    hurt = await add(keyhall, mia, label="hurt")
    await add(keyhall, mia, label="passing", expires_at=EPOCH + timedelta(hours=2))
    removed = await add(keyhall, mia, label="removed")
    await keyhall.credentials.remove(mia, removed.id)
    async with keyhall.credentials.use(mia, "openai", "main"):
        pass
    damage(storage, hurt.id)
    keyhall.advance(clock, timedelta(hours=1))
    report = await keyhall.credentials.health.report(mia)
    assert not report.everybody
    (openai,) = report.providers
    assert (openai.provider, openai.total, openai.readable, openai.unreadable, openai.expired) == ("openai", 3, 2, 1, 1)
    assert (openai.oldest_update, openai.last_used) == (EPOCH, EPOCH + timedelta(hours=1))
    assert [(each.id, each.label) for each in report.unreadable] == [(hurt.id, "hurt")]


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN, Role.AUDITOR])
async def test_health_of_everybody_names_what_is_unreadable_and_no_other_label(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, tom: Actor, role: Role
) -> None:
    operator = await keyhall.services.identity.operator()
    nell = await keyhall.services.identity.create(operator, "nell", "a password for nell", Role.MEMBER)
    hurt = await add(keyhall, replace(mia, user_id=nell.id), label="the damaged one")
    shared = await add(keyhall, manager(keyhall.clock), label="the server's", guild_id=GUILD)
    damage(storage, shared.id)
    await add(keyhall, tom, provider="github", label="something else")
    removed = await add(keyhall, tom, provider="github", label="something removed")
    await keyhall.credentials.remove(tom, removed.id)
    damage(storage, hurt.id)
    report = await keyhall.credentials.health.report(member(keyhall.clock, "boss", role=role))
    assert report.everybody
    assert [(each.provider, each.total, each.unreadable) for each in report.providers] == [
        ("github", 1, 0),
        ("openai", 2, 2),
    ]
    assert [(each.id, each.label, each.username, each.owner) for each in report.unreadable] == [
        (hurt.id, "the damaged one", "nell", Owner(OwnerKind.USER, nell.id)),
        (shared.id, "the server's", None, Owner(OwnerKind.GUILD, GUILD)),
    ]
    assert "something" not in repr(report)


async def test_health_counts_beyond_one_page(keyhall: Keyhall, clock: FakeClock) -> None:
    for number in range(120):
        await add(keyhall, member(clock, f"user{number}"))
    (openai,) = (await keyhall.credentials.health.report(member(clock, "boss", role=Role.OWNER))).providers
    assert openai.total == 120


async def test_verification_opens_every_secret_also_former_and_removed_ones(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, mia: Actor, tom: Actor
) -> None:
    mine, removed = await add(keyhall, mia), await add(keyhall, tom)
    await keyhall.credentials.replace(mia, mine.id, OTHER_SECRET)
    await keyhall.credentials.remove(tom, removed.id)
    damage(storage, removed.id)
    operator = member(clock, "operator", role=Role.OWNER, source=Source.CLI)
    assert await verified(keyhall, operator) == (3, [(removed.id, None)])
    ((history_id, former),) = storage.tables.history.items()
    storage.tables.history[history_id] = replace(former, encrypted_value=b"")
    assert await verified(keyhall, operator) == (3, [(removed.id, None), (mine.id, 1)])


async def verified(keyhall: Keyhall, operator: Actor) -> tuple[int, list[tuple[str, int | None]]]:
    """How many secrets there are, and which of them do not decrypt."""
    steps = [each async for each in keyhall.credentials.health.verify_all(operator)]
    assert steps[-1].done == steps[-1].total
    return steps[-1].done, [(each.id, each.former) for step in steps for each in step.unreadable]


async def test_those_who_ask_for_everybodys_health_during_a_check_share_the_next(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, mia: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurt = await add(keyhall, mia)
    boss = member(clock, "boss", role=Role.OWNER)
    checks: list[int] = []
    check = keyhall.credentials.health._check_everybody

    async def counted() -> Any:
        checks.append(1)
        return await check()

    monkeypatch.setattr(keyhall.credentials.health, "_check_everybody", counted)
    asked = [asyncio.create_task(keyhall.credentials.health.report(boss)) for _ in range(5)]
    await asyncio.sleep(0)  # the first check has begun
    damage(storage, hurt.id)
    reports = await asyncio.gather(*asked)
    assert len(checks) == 2
    assert all(report.providers[0].unreadable == 1 for report in reports[1:])
    await keyhall.credentials.replace(mia, hurt.id, OTHER_SECRET)
    assert (await keyhall.credentials.health.report(boss)).providers[0].unreadable == 0


async def test_a_long_check_lets_the_event_loop_go_on(
    keyhall: Keyhall, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.credentials.health._SLICE", 10)
    for number in range(60):
        await add(keyhall, member(clock, f"user{number}"))
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(take_turns())
    await keyhall.credentials.health.report(member(clock, "boss", role=Role.OWNER))
    others.cancel()
    assert turns >= 6


async def test_members_do_not_verify_what_is_others(keyhall: Keyhall, mia: Actor) -> None:
    with pytest.raises(Forbidden):
        await anext(keyhall.credentials.health.verify_all(mia))


# ---------------------------------------------------------------------------------------------------------------------
# Moving
# ---------------------------------------------------------------------------------------------------------------------


async def test_moved_credentials_open_for_their_new_owner_with_their_history(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, tom: Actor
) -> None:
    view = await add(keyhall, mia)
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    removed = await add(keyhall, mia, label="removed")
    await keyhall.credentials.remove(mia, removed.id)
    async with storage.write() as uow:
        moved = await keyhall.transfer.move(uow, Owner(OwnerKind.USER, mia.user_id), Owner(OwnerKind.USER, tom.user_id))
    assert moved.count == 2
    assert (await keyhall.credentials.page(mia)).items == []
    assert (await keyhall.credentials.reveal(tom, view.id)).reveal() == OTHER_SECRET
    await keyhall.credentials.rollback(tom, view.id)
    assert (await keyhall.credentials.reveal(tom, view.id)).reveal() == SECRET
    assert (await keyhall.credentials.restore(tom, removed.id)).label == "removed"


async def test_a_label_that_is_taken_at_the_new_owner_gets_a_number(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, tom: Actor
) -> None:
    long = "long " * 12 + "long"
    for actor, label in ((mia, "Main"), (tom, "main"), (tom, "main 2"), (mia, long), (tom, long)):
        await add(keyhall, actor, label=label)
    async with storage.write() as uow:
        await keyhall.transfer.move(uow, Owner(OwnerKind.USER, mia.user_id), Owner(OwnerKind.USER, tom.user_id))
    labels = {view.label for view in (await keyhall.credentials.page(tom)).items}
    assert labels == {"main", "main 2", "Main 3", long, long[:62] + " 2"}


async def test_an_unreadable_credential_moves_too_and_can_be_entered_again(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, tom: Actor
) -> None:
    view = await add(keyhall, mia)
    damage(storage, view.id)
    async with storage.write() as uow:
        await keyhall.transfer.move(uow, Owner(OwnerKind.USER, mia.user_id), Owner(OwnerKind.USER, tom.user_id))
    assert (await keyhall.credentials.get(tom, view.id)).status is Status.UNREADABLE
    assert (await keyhall.credentials.replace(tom, view.id, OTHER_SECRET)).view.status is Status.UNCHECKED


async def test_a_credential_that_changes_while_it_moves_stops_the_move(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, tom: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise one would stay behind with an account that nobody can sign in to any more."""
    view = await add(keyhall, mia)

    async def too_late(*_: Any, **__: Any) -> bool:
        return False

    monkeypatch.setattr(FakeCredentialRepository, "move", too_late)

    async def move() -> None:
        async with storage.write() as uow:
            await keyhall.transfer.move(uow, Owner(OwnerKind.USER, mia.user_id), Owner(OwnerKind.USER, tom.user_id))

    with pytest.raises(VersionConflict):
        await move()
    assert await keyhall.credentials.get(mia, view.id) == view


async def test_a_unit_of_work_reads_the_manifest_under_lock_once(
    keyhall: Keyhall, storage: FakeStorage, mia: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adding, with an Idempotency-Key and without, replacing, rolling back and moving to another owner."""
    read, units, locked = FakeKeyRepository.get_manifest, storage.units, []

    async def counted(self: FakeKeyRepository, *, share_lock: bool = False) -> str | None:
        if share_lock:
            locked.append(storage.units)
        return await read(self, share_lock=share_lock)

    monkeypatch.setattr(FakeKeyRepository, "get_manifest", counted)
    view = await add(keyhall, mia)
    await add(keyhall, mia, label="repeatable", idempotency_key="k")
    await keyhall.credentials.replace(mia, view.id, OTHER_SECRET)
    await keyhall.credentials.rollback(mia, view.id)
    async with storage.write() as uow:
        await keyhall.transfer.move(uow, Owner(OwnerKind.USER, mia.user_id), Owner(OwnerKind.USER, "user-tom"))
    assert len(locked) == 5
    assert len(set(locked)) == 5
    assert min(locked) > units


def test_a_repeatable_request_shows_nothing_of_its_secret() -> None:
    request = RepeatableRequest(user_id="user-mia", key="k1", texts=("credentials.add", SecretText(SECRET)))
    assert SECRET not in repr(request) + str(asdict(request))
