"""Refusals in the audit trail: each of them, and never more than a bounded number of rows."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.domain.audit import Action, AuditEvent, Result
from app.domain.errors import Forbidden, InvalidCredentials, NotFound, StorageFull, TooManyAttempts
from app.domain.identity import Client, Role, Source
from app.services import Services
from app.services.refusals import KINDS, PERIOD_SECONDS, Refusal, Refusals
from tests.support.fakes import FakeClock, FakeStorage
from tests.support.keyhall import Keyhall, member
from tests.support.samples import PASSWORD

HOME = Client(source=Source.WEB, address="192.0.2.7")


@pytest.fixture
def services(keyhall: Keyhall) -> Services:
    return keyhall.services


@pytest.fixture
def refusals(services: Services) -> Refusals:
    return services.refusals


def denied(storage: FakeStorage) -> list[AuditEvent]:
    return [each for each in storage.tables.audit if each.result is Result.DENIED]


def total(storage: FakeStorage) -> int:
    """How many refusals the rows stand for."""
    return sum(int(each.detail.get("times", 1)) for each in denied(storage))


async def test_a_flood_is_a_few_rows_and_a_sum_and_not_one_refusal_is_lost(
    refusals: Refusals, storage: FakeStorage, clock: FakeClock
) -> None:
    tom = member(clock, "tom")
    for _ in range(1000):
        await refusals.refuse(tom, Forbidden(), "GET /admin/keys")
    commits = storage.commits
    assert len(denied(storage)) == 3
    await refusals.flush()
    assert storage.commits == commits + 1
    assert len(denied(storage)) == 4
    assert total(storage) == 1000
    last = denied(storage)[-1]
    assert (last.action, last.subject_id, last.address) == (Action.ACCESS_REFUSED, tom.subject_id, tom.client.address)
    assert {**last.detail, "since": ""} == {"code": "forbidden", "where": "GET /admin/keys", "times": 997, "since": ""}
    await refusals.flush()
    assert len(denied(storage)) == 4


async def test_a_flood_from_many_addresses_is_bounded_and_hides_no_member(
    refusals: Refusals, storage: FakeStorage, clock: FakeClock
) -> None:
    for number in range(5000):
        client = Client(source=Source.WEB, address=f"198.51.{number // 256}.{number % 256}")
        await refusals.record(Refusal(who=client, action=Action.LOGIN))
    tom = member(clock, "tom")
    await refusals.refuse(tom, Forbidden(), "GET /admin/keys")
    await refusals.flush()
    assert total(storage) == 5001
    assert len(denied(storage)) <= KINDS + 2
    assert denied(storage)[KINDS].subject_id == tom.subject_id


async def test_an_error_that_two_places_refuse_with_is_recorded_once(refusals: Refusals, storage: FakeStorage) -> None:
    refusal = Forbidden()
    for where in ("the form", "the request"):
        await refusals.refuse(HOME, refusal, where)
    assert [each.detail["where"] for each in denied(storage)] == ["the form"]


async def test_refusals_of_the_next_period_have_rows_of_their_own(
    refusals: Refusals, storage: FakeStorage, clock: FakeClock
) -> None:
    for _ in range(2):
        for _ in range(3):
            await refusals.record(Refusal(who=HOME, action=Action.LOGIN))
        clock.advance(timedelta(seconds=PERIOD_SECONDS))
    assert len(denied(storage)) == 6


async def test_a_database_that_takes_no_writes_keeps_the_refusal_for_later(
    refusals: Refusals, storage: FakeStorage
) -> None:
    with storage.full():
        await refusals.record(Refusal(who=HOME, action=Action.LOGIN))
        with pytest.raises(StorageFull):
            await refusals.flush()
    await refusals.flush()
    assert total(storage) == 1


async def test_sums_are_recorded_when_the_process_ends(refusals: Refusals, storage: FakeStorage) -> None:
    async with refusals.kept():
        for _ in range(10):
            await refusals.record(Refusal(who=HOME, action=Action.LOGIN))
    assert total(storage) == 10


async def test_locked_sign_ins_and_sessions_of_somebody_else_are_in_the_trail(
    services: Services, storage: FakeStorage
) -> None:
    operator = await services.identity.operator()
    for name in ("mia", "tom"):
        await services.identity.create(operator, name, PASSWORD, Role.MEMBER)
    pairs = [await services.authentication.login(name, PASSWORD, HOME) for name in ("mia", "tom")]
    mia, tom = [await services.requests.authenticate(pair.access_token.reveal(), HOME) for pair in pairs]
    with pytest.raises(NotFound):
        await services.authentication.revoke_session(tom, mia.session_id or "")
    row = denied(storage)[-1]
    assert (row.action, row.subject_id, row.object_id) == (Action.SESSION_REVOKED, tom.subject_id, mia.session_id)
    for _ in range(10):
        with pytest.raises(InvalidCredentials):
            await services.authentication.reauthenticate(mia, "not the password")
    for _ in range(5):
        with pytest.raises(TooManyAttempts):
            await services.authentication.reauthenticate(mia, PASSWORD)
    row = denied(storage)[-1]
    assert (row.action, row.subject_id) == (Action.REAUTHENTICATED, mia.subject_id)
    assert row.detail == {"reason": "too_many_attempts"}
    await services.refusals.flush()
    assert total(storage) == 16
