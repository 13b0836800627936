"""When backups are made, and which are kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from app.domain.backup_plan import Keep
from app.services.backup.service import following
from app.settings.values import cron_schedule

NOW = datetime(2026, 11, 30, 12, 34, 56, tzinfo=UTC)


@dataclass(frozen=True)
class Made:
    created_at: datetime


def days_old(*ages: float) -> list[Made]:
    return [Made(NOW - timedelta(days=age)) for age in ages]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("hourly", datetime(2026, 11, 30, 13, 0, tzinfo=UTC)),
        ("Daily", datetime(2026, 12, 1, 3, 0, tzinfo=UTC)),
        ("weekly", datetime(2026, 12, 6, 3, 0, tzinfo=UTC)),
        ("*/15 * * * *", datetime(2026, 11, 30, 12, 45, tzinfo=UTC)),
        ("30 4 1 * *", datetime(2026, 12, 1, 4, 30, tzinfo=UTC)),
        ("0 0 29 2 *", datetime(2028, 2, 29, tzinfo=UTC)),
        ("0 5 * * mon-fri", datetime(2026, 12, 1, 5, 0, tzinfo=UTC)),
    ],
)
def test_a_schedule_names_moments_in_utc(text: str, first: datetime) -> None:
    schedule = cron_schedule(text)
    assert following(schedule, NOW) == first
    assert following(schedule, first) > first


@pytest.mark.parametrize(
    "text",
    ["", "yearly", "* * * *", "* * * * * *", "61 * * * *", "* * * * 8", "0 0 30 2 *", "@daily", "x" * 9999],
)  # fmt: skip
def test_a_schedule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|is no|names a day"):
        cron_schedule(text)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("3", [0, 1, 2]),
        ("30d", [0, 1, 2, 29]),
        ("2,3d", [0, 1, 2]),
        ("4, 1D", [0, 1, 2, 29]),
        ("1d,1", [0, 1]),
        ("100", [0, 1, 2, 29, 31]),
    ],
)
def test_a_backup_is_kept_while_one_rule_keeps_it(rule: str, kept: list[int]) -> None:
    backups = days_old(0, 1, 2, 29, 31)
    surplus = Keep.parse(rule).surplus(backups, NOW)
    assert [each for each in backups if each not in surplus] == days_old(*kept)


@pytest.mark.parametrize(
    "text", ["", "0", "0d", "-1", "7,7", "1d,2d", "7,", "7 30d", "30days", "\u0667", "99999", "1.5"]
)
def test_a_rule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        Keep.parse(text)
