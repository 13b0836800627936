from __future__ import annotations

import time
import uuid
from datetime import timedelta

import pytest
import time_machine

from app.infrastructure.clock import SystemClock, SystemRandomness


def test_now_is_aware_and_in_utc() -> None:
    now = SystemClock().now()
    assert now.utcoffset() == timedelta(0)


def test_monotonic_does_not_follow_the_time_of_day() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    with time_machine.travel("2001-01-01T00:00:00Z"):
        assert clock.now().year == 2001
        assert before <= clock.monotonic() < before + 3600


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts while asleep")
def test_monotonic_counts_while_the_machine_sleeps() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= SystemClock().monotonic() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_ids_are_uuids_of_version_7_that_sort_by_time() -> None:
    randomness = SystemRandomness()
    ids = []
    for moment in ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.001Z", "2199-01-01T00:00:00Z"):
        with time_machine.travel(moment, tick=False):
            ids.append(randomness.new_id())
    assert ids == sorted(ids)
    for text in ids:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 7, uuid.RFC_4122)


def test_ids_and_tokens_do_not_repeat() -> None:
    randomness = SystemRandomness()
    assert len({randomness.new_id() for _ in range(10_000)}) == 10_000
    assert len({randomness.token_bytes(16) for _ in range(10_000)}) == 10_000
    assert len(randomness.token_bytes(32)) == 32
