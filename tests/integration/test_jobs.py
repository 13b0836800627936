"""The queue on both engines: every job is done by one worker at a time, and by somebody in the end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, update

from app.bootstrap.services import open_services
from app.domain.errors import NotReady, StorageError
from app.domain.jobs import ATTEMPTS, JOB_LEASE, LONGEST_PAUSE, Job, JobKind, JobState, Progress, pause_after
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.database.schema import jobs as jobs_table
from app.infrastructure.database.unit_of_work import SqlStorage
from app.services.jobs import ClaimLost, JobFailed, JobRun, JobService, Later
from app.services.rotation import RotationJob
from app.worker.loop import run_worker
from tests.support.database import migrated
from tests.support.installs import Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.infrastructure.database.engine import Database

CLAIMERS = 8
JOBS = 50
TICK = timedelta(seconds=1)
"""How far the clock may move on between a statement and the look at what it did."""
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Queue:
    """The jobs of a database, as one process sees them."""

    database: Database
    storage: SqlStorage
    jobs: JobService

    async def add(
        self, number: int = 0, *, unique_key: str | None = None, step: str = "", at: datetime | None = None
    ) -> Job:
        job = self.jobs.new(JobKind.KEY_AGES, {"number": number}, unique_key=unique_key, step=step)
        async with self.storage.write() as uow:
            assert await uow.jobs.add(job, at=at)
        return job

    async def get(self, job: Job) -> Job:
        async with self.storage.read() as uow:
            found = await uow.jobs.get(job.id)
        assert found is not None
        return found

    async def claimed(self, job: Job | None = None) -> JobRun:
        run = await self.jobs.claim(None if job is None else job.id)
        assert run is not None
        return run

    async def put(self, job: Job, **values: Any) -> None:
        """Stand in for time that passes: set when a job is due, or when the claim on it lapses."""
        async with self.database.write() as connection:
            assert await connection.change(update(jobs_table).where(jobs_table.c.id == job.id).values(values)) == 1


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Queue]:
    async with migrated(url) as database:
        storage = SqlStorage(database)
        yield Queue(database, storage, JobService(storage=storage, clock=SystemClock(), randomness=SystemRandomness()))


@pytest.fixture
async def queue(engine_url: str) -> AsyncIterator[Queue]:
    async with opened(engine_url) as queue:
        yield queue


async def nothing(run: JobRun) -> None:
    """Do a job in which there is nothing to do."""


async def until(stop: asyncio.Event) -> None:
    async with asyncio.timeout(60):
        await stop.wait()


def about(moment: datetime, ahead: timedelta) -> bool:
    """Whether a moment lies that far ahead, on clocks that agree."""
    return abs(moment - datetime.now(UTC) - ahead) < TICK


# ---------------------------------------------------------------------------------------------------------------------
# Who gets what
# ---------------------------------------------------------------------------------------------------------------------


async def test_eight_claimers_do_fifty_jobs_each_exactly_once(engine_url: str) -> None:
    done: list[tuple[int, int]] = []

    async def claimer(queue: Queue, number: int) -> None:
        async def note(run: JobRun) -> None:
            done.append((number, run.job.payload["number"]))

        while run := await queue.jobs.claim():
            await queue.jobs.work(run, note)

    async with AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(opened(engine_url)) for _ in range(CLAIMERS)]
        added = [await queues[0].add(number) for number in range(JOBS)]
        await asyncio.gather(*(claimer(each, number) for number, each in enumerate(queues)))
        assert Counter(job for _, job in done) == Counter(range(JOBS))
        assert len({number for number, _ in done}) > 1, "the others never had a turn"
        for job in added:
            found = await queues[0].get(job)
            assert (found.state, found.attempts) == (JobState.DONE, 1)
            assert found.finished_at is not None


async def test_a_job_that_is_claimed_is_not_given_out_again(queue: Queue) -> None:
    job = await queue.add()
    run = await queue.claimed()
    assert run.job.id == job.id
    assert (run.job.state, run.job.attempts) == (JobState.RUNNING, 1)
    assert await queue.jobs.claim() is None
    assert await queue.jobs.claim(job.id) is None


async def test_whoever_wants_one_job_waits_until_it_is_settled_who_gets_it(queue: Queue) -> None:
    """Else it would hear that it did not get a job which still looks as if it waited."""
    job = await queue.add()
    async with queue.storage.write() as uow:
        assert await uow.jobs.claim("another", JOB_LEASE, job_id=job.id)
        wanting = asyncio.create_task(queue.jobs.claim(job.id))
        done, _ = await asyncio.wait({wanting}, timeout=0.3)
        assert not done
    assert await wanting is None
    assert (await queue.get(job)).state is JobState.RUNNING


async def test_the_job_that_has_been_due_for_longest_comes_first(queue: Queue) -> None:
    late, early = await queue.add(1), await queue.add(2)
    await queue.put(early, run_at=LONG_AGO)
    assert [(await queue.claimed()).job.id for _ in range(2)] == [early.id, late.id]


async def test_a_job_waits_for_its_date(queue: Queue) -> None:
    job = await queue.add(at=datetime.now(UTC) + timedelta(hours=1))
    assert await queue.jobs.claim() is None
    assert await queue.jobs.claim(job.id) is None
    await queue.put(job, run_at=LONG_AGO)
    assert (await queue.claimed()).job.id == job.id


async def test_bringing_a_job_forward_makes_it_due_now_and_touches_no_other(queue: Queue) -> None:
    waiting = await queue.add(1, at=datetime.now(UTC) + timedelta(hours=1))
    also_waiting = await queue.add(2, at=datetime.now(UTC) + timedelta(hours=1))
    async with queue.storage.write() as uow:
        assert await uow.jobs.bring_forward(waiting.id)
    run = await queue.claimed()
    assert run.job.id == waiting.id
    assert await queue.jobs.claim() is None
    async with queue.storage.write() as uow:
        assert not await uow.jobs.bring_forward(waiting.id), "it is not waiting any more"
    await run.release(JobState.DONE)
    async with queue.storage.write() as uow:
        assert not await uow.jobs.bring_forward(waiting.id)
    assert about((await queue.get(also_waiting)).run_at, timedelta(hours=1))


# ---------------------------------------------------------------------------------------------------------------------
# Unique keys
# ---------------------------------------------------------------------------------------------------------------------


async def test_of_one_unique_key_at_most_one_job_is_not_over(queue: Queue) -> None:
    job = await queue.add(unique_key="the/one")
    another = queue.jobs.new(JobKind.KEY_AGES, {}, unique_key="the/one")

    async def taken() -> bool:
        async with queue.storage.write() as uow:
            found = await uow.jobs.unfinished("the/one")
            return not await uow.jobs.add(another) and found is not None and found.id == job.id

    assert await taken()
    run = await queue.claimed()
    assert await taken(), "it is not over while somebody works on it"
    await run.release(JobState.FAILED, error="as an example")
    async with queue.storage.write() as uow:
        assert await uow.jobs.unfinished("the/one") is None
        assert await uow.jobs.add(another)


async def test_of_many_who_queue_one_unique_key_at_once_one_succeeds(engine_url: str) -> None:
    async def add(queue: Queue) -> bool:
        job = queue.jobs.new(JobKind.KEY_AGES, {}, unique_key="the/one")
        async with queue.storage.write() as uow:
            return await uow.jobs.add(job)

    async with AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(opened(engine_url)) for _ in range(CLAIMERS)]
        assert sum(await asyncio.gather(*(add(each) for each in queues))) == 1


async def test_a_job_that_frees_its_key_goes_on_beside_the_next(queue: Queue) -> None:
    first = await queue.add(1, unique_key="the/one")
    run = await queue.claimed(first)
    async with queue.storage.write() as uow:
        await run.free_key(uow)
    second = await queue.add(2, unique_key="the/one")
    await run.note(Progress(step="on"))
    assert (await queue.claimed()).job.id == second.id


# ---------------------------------------------------------------------------------------------------------------------
# Claims that lapse
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_claim_lasts_for_the_lease_and_holding_renews_it(queue: Queue) -> None:
    job = await queue.add()
    run = await queue.claimed()
    await queue.put(job, lease_until=datetime.now(UTC) + timedelta(seconds=5))
    await run.note(Progress(step="on", cursor={"after": "x"}, done=3, total=7, note="three of seven"))
    found = await queue.get(job)
    assert found.progress == Progress(step="on", cursor={"after": "x"}, done=3, total=7, note="three of seven")
    async with queue.database.read() as connection:
        lease = await connection.value(jobs_table.select().with_only_columns(jobs_table.c.lease_until))
    assert about(lease, JOB_LEASE)


async def test_a_claim_that_lapsed_is_taken_over_where_it_stood_and_its_former_holder_commits_nothing(
    queue: Queue,
) -> None:
    job = await queue.add()
    stopped = await queue.claimed()
    await stopped.note(Progress(step="half", cursor={"after": "x"}, done=5))
    await queue.put(job, lease_until=LONG_AGO)
    other = await queue.claimed()
    assert other.job.id == job.id
    assert other.job.attempts == 2
    assert other.progress == Progress(step="half", cursor={"after": "x"}, done=5)

    async def write() -> None:
        async with queue.storage.write() as uow:
            await uow.bot_state.put("written", "late", datetime.now(UTC))
            await stopped.hold(uow, Progress(step="late"))

    with pytest.raises(ClaimLost):
        await write()
    with pytest.raises(ClaimLost):
        await stopped.note(Progress(step="late"))
    async with queue.storage.write() as uow:
        await stopped.free_key(uow)
    await stopped.release(JobState.DONE)
    async with queue.storage.read() as uow:
        assert await uow.bot_state.get("written") is None
    found = await queue.get(job)
    assert (found.state, found.progress.step) == (JobState.RUNNING, "half")
    await other.release(JobState.DONE)
    assert (await queue.get(job)).state is JobState.DONE


async def test_of_eight_who_want_a_lapsed_claim_one_gets_it(engine_url: str) -> None:
    async with AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(opened(engine_url)) for _ in range(CLAIMERS)]
        job = await queues[0].add()
        await queues[0].claimed()
        await queues[0].put(job, lease_until=LONG_AGO)
        runs = await asyncio.gather(*(each.jobs.claim() for each in queues))
        assert sum(run is not None for run in runs) == 1


async def test_a_handler_that_lost_its_claim_ends_and_leaves_the_job_to_the_other(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    job = await queue.add()

    async def outlive_the_lease(run: JobRun) -> None:
        await queue.put(job, lease_until=LONG_AGO)
        await queue.claimed()
        await run.note(Progress(step="late"))

    with caplog.at_level(logging.WARNING):
        await queue.jobs.work(await queue.claimed(), outlive_the_lease)
    assert "was taken over" in caplog.text
    found = await queue.get(job)
    assert (found.state, found.progress.step, found.attempts) == (JobState.RUNNING, "", 2)


# ---------------------------------------------------------------------------------------------------------------------
# Ends
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_job_that_waits_on_purpose_is_due_then_and_has_failed_nothing(queue: Queue) -> None:
    job = await queue.add()

    async def later(run: JobRun) -> None:
        await run.note(Progress(step="waiting"))
        raise Later(timedelta(minutes=30))

    await queue.jobs.work(await queue.claimed(), later)
    found = await queue.get(job)
    assert (found.state, found.attempts, found.error, found.finished_at) == (JobState.WAITING, 0, None, None)
    assert found.progress.step == "waiting"
    assert about(found.run_at, timedelta(minutes=30))


async def test_a_job_that_cannot_succeed_ends_at_once_and_says_why(queue: Queue) -> None:
    job = await queue.add()

    async def fail(run: JobRun) -> None:
        raise JobFailed("two rows do not open: enter them again")

    await queue.jobs.work(await queue.claimed(), fail)
    found = await queue.get(job)
    assert (found.state, found.error) == (JobState.FAILED, "two rows do not open: enter them again")
    assert found.finished_at is not None
    assert await queue.jobs.claim() is None


async def test_a_job_with_a_bug_is_tried_again_with_growing_pauses_and_ends_failed(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    job = await queue.add()
    pauses = []

    async def stumble(run: JobRun) -> None:
        raise RuntimeError("sk-a-secret-that-nobody-may-see")

    with caplog.at_level(logging.CRITICAL):
        for attempt in range(1, ATTEMPTS):
            await queue.jobs.work(await queue.claimed(), stumble)
            found = await queue.get(job)
            assert (found.state, found.attempts, found.error) == (JobState.WAITING, attempt, "RuntimeError")
            pauses.append(found.run_at - datetime.now(UTC))
            assert about(found.run_at, pause_after(attempt)), attempt
            await queue.put(job, run_at=LONG_AGO)
        await queue.jobs.work(await queue.claimed(), stumble)
    found = await queue.get(job)
    assert (found.state, found.attempts, found.error) == (JobState.FAILED, ATTEMPTS, "RuntimeError")
    assert found.finished_at is not None
    assert [round(each.total_seconds()) for each in pauses[:6]] == [1, 2, 4, 8, 16, 32]
    assert max(pauses) <= LONGEST_PAUSE


@pytest.mark.parametrize("away", [StorageError, NotReady])
async def test_a_database_that_is_away_is_not_counted_against_a_job(queue: Queue, away: type[Exception]) -> None:
    job = await queue.add()

    async def stumble(run: JobRun) -> None:
        raise away

    for _ in range(ATTEMPTS + 1):
        await queue.jobs.work(await queue.claimed(), stumble)
        found = await queue.get(job)
        assert found.state is JobState.WAITING
        assert found.error
        await queue.put(job, run_at=LONG_AGO)

    async def bug(run: JobRun) -> None:
        raise RuntimeError

    await queue.jobs.work(await queue.claimed(), bug)
    assert (await queue.get(job)).state is JobState.WAITING, "its first failure ended it"
    await queue.put(job, run_at=LONG_AGO)
    await queue.jobs.work(await queue.claimed(), nothing)
    found = await queue.get(job)
    assert (found.state, found.error) == (JobState.DONE, None)


async def test_only_what_nobody_ever_touched_can_be_cancelled(queue: Queue) -> None:
    async def cancel(job: Job) -> bool:
        async with queue.storage.write() as uow:
            return await uow.jobs.cancel(job.id)

    untouched = await queue.add(1)
    assert await cancel(untouched)
    assert (await queue.get(untouched)).state is JobState.CANCELLED
    assert not await cancel(untouched)
    assert await queue.jobs.claim() is None

    running = await queue.add(2)
    run = await queue.claimed()
    assert not await cancel(running)
    await run.note(Progress(step="begun"))
    await run.release(JobState.WAITING)
    assert not await cancel(running), "a job that was begun is resumed"

    continued = await queue.add(3, step="promoted")
    assert not await cancel(continued), "the keys changed already, this is what has to follow"
    assert not await cancel(queue.jobs.new(JobKind.KEY_AGES, {}))


async def test_a_cancelled_job_frees_its_unique_key(queue: Queue) -> None:
    job = await queue.add(unique_key="the/one")
    async with queue.storage.write() as uow:
        assert await uow.jobs.cancel(job.id)
    await queue.add(unique_key="the/one")


async def test_a_purge_drops_what_was_over_by_then_and_nothing_else(queue: Queue) -> None:
    over, lately, waiting = [await queue.add(number) for number in range(3)]
    for job in (over, lately):
        await queue.jobs.work(await queue.claimed(job), nothing)
    await queue.put(over, finished_at=LONG_AGO)
    await queue.put(waiting, run_at=LONG_AGO)
    async with queue.storage.write() as uow:
        assert await uow.jobs.purge(datetime.now(UTC) - timedelta(days=1)) == 1
    async with queue.storage.read() as uow:
        assert await uow.jobs.get(over.id) is None
        assert {job.id for job in await uow.jobs.page(before=None, limit=10)} == {lately.id, waiting.id}


async def test_a_cancelled_worker_gives_its_claim_back_at_once(queue: Queue) -> None:
    job = await queue.add()
    begun = asyncio.Event()

    async def work_on_and_on(run: JobRun) -> None:
        await run.note(Progress(step="half"))
        begun.set()
        await asyncio.Event().wait()

    working = asyncio.create_task(queue.jobs.work(await queue.claimed(), work_on_and_on))
    await until(begun)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    found = await queue.get(job)
    assert (found.state, found.error) == (JobState.WAITING, None)
    assert (await queue.claimed()).progress.step == "half"


# ---------------------------------------------------------------------------------------------------------------------
# The worker
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_handler_that_raises_does_not_end_the_worker(
    engine_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: Counter[int] = Counter()
    done = asyncio.Event()

    async def stumble_once(_: RotationJob, run: JobRun) -> None:
        number = run.job.payload["number"]
        tried[number] += 1
        if number == 1 and tried[number] == 1:
            raise RuntimeError("a bug")
        if len(tried) == 2 and tried[1] == 2:
            done.set()

    monkeypatch.setattr(RotationJob, "carry_on", stumble_once)
    async with Place(engine_url, tmp_path / "data").services() as services:
        working = asyncio.create_task(run_worker(services))
        added = [services.jobs.new(JobKind.KEY_ROTATION, {"number": number}) for number in (1, 2)]
        async with services.jobs._storage.write() as uow:
            for job in added:
                await uow.jobs.add(job)
        await until(done)
        assert not working.done()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
    assert tried == {1: 2, 2: 1}
    assert "failed and will be tried again" in caplog.text


async def test_a_worker_that_is_told_to_end_leaves_its_job_to_the_next_at_once(
    engine_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def work_on_and_on(_: RotationJob, run: JobRun) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(RotationJob, "carry_on", work_on_and_on)
    async with Place(engine_url, tmp_path / "data").services() as services:
        job = services.jobs.new(JobKind.KEY_ROTATION, {})
        async with services.jobs._storage.write() as uow:
            await uow.jobs.add(job)
        working = asyncio.create_task(run_worker(services))
        await until(begun)
        assert await services.jobs.claim(job.id) is None
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        run = await services.jobs.claim(job.id)
        assert run is not None
        assert run.job.attempts == 1


@pytest.mark.slow
@pytest.mark.postgres
async def test_a_worker_with_nothing_to_do_costs_next_to_nothing(postgres_url: str, tmp_path: Path) -> None:
    """In the time of some renewals of its lease; looks every second, for keys and for jobs, were four times more."""
    place = await Place(postgres_url, tmp_path / "data").install()
    begun: list[str] = []
    renewed = asyncio.Semaphore(0)

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        begun.append(statement)
        if statement.startswith("UPDATE instances"):
            renewed.release()

    async with place.keys() as opened, open_services(place.load(), opened, kind="worker") as services:
        working = asyncio.create_task(run_worker(services))
        async with asyncio.timeout(90):
            due = timedelta()
            while due < timedelta(minutes=1) or not services.feed.prompt:  # until the recurring jobs are done
                due = await services.jobs.due_in() or timedelta()
            dialect = opened.database.dialect
            for engine in (dialect.writer, dialect.reader, dialect.reserved_writer):
                event.listen(engine.sync_engine, "before_cursor_execute", note)
            await renewed.acquire()  # until nothing is left of the start
            begun.clear()
            began = time.monotonic()
            for _ in range(2):
                await renewed.acquire()
            passed, sent = time.monotonic() - began, list(begun)
        working.cancel()
        await asyncio.wait({working})
    assert len(sent) / passed < 0.8, sent
    reading = ("SELECT", "UPDATE instances")
    assert [each for each in sent if not each.startswith(reading)] == []


async def test_how_long_jobs_wait_for_a_worker_by_kind(queue: Queue) -> None:
    now = datetime.now(UTC)
    async with queue.storage.write() as uow:
        assert await uow.jobs.waits() == {}
        await uow.jobs.add(queue.jobs.new(JobKind.KEY_AGES, {}), at=now - timedelta(hours=1))
        await uow.jobs.add(queue.jobs.new(JobKind.KEY_AGES, {}), at=now)
        await uow.jobs.add(queue.jobs.new(JobKind.BACKUP, {}), at=now + timedelta(hours=1))
    async with queue.storage.lookup() as uow:
        waits = await uow.jobs.waits()
    assert waits.keys() == {JobKind.KEY_AGES, JobKind.BACKUP}
    assert timedelta(hours=1) <= waits[JobKind.KEY_AGES] < timedelta(hours=2)
    assert waits[JobKind.BACKUP] == timedelta()
    run = await queue.jobs.claim()  # of the job that has waited for longest
    assert run is not None
    async with queue.storage.lookup() as uow:
        assert (await uow.jobs.waits())[JobKind.KEY_AGES] < timedelta(hours=1)
    await run.release(JobState.DONE)


async def test_the_time_until_a_job_is_due(queue: Queue) -> None:
    async with queue.storage.write() as uow:
        assert await uow.jobs.due_in() is None
        await uow.jobs.add(queue.jobs.new(JobKind.KEY_AGES, {}), at=datetime.now(UTC) + timedelta(hours=1))
    due_in = await queue.jobs.due_in()
    assert due_in is not None
    assert timedelta(minutes=59) < due_in <= timedelta(hours=1)
    async with queue.storage.write() as uow:
        await uow.jobs.add(queue.jobs.new(JobKind.KEY_AGES, {}))
    due_in = await queue.jobs.due_in()
    assert due_in is not None
    assert due_in <= timedelta()
