"""What people type and paste: names and labels, secrets, times."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from app.domain.credentials import label_name, secret_value
from app.domain.errors import InvalidInput
from app.domain.text import line
from app.domain.times import BEGIN_OF_DAY, END_OF_DAY, day_or_time, rfc3339

KEY = "sk-proj-4f9aC1xQ7mZr2LtW8vNb3KdYp6Hs0GjE"
PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIKuHzkCbmc\n-----END PRIVATE KEY-----\n"


# ---------------------------------------------------------------------------------------------------------------------
# Names and labels
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "\U0001fa77 pink heart",  # Unicode 15: younger than the table of Python 3.11
        "\U0001fae9 tired face",  # Unicode 16
        "\U0001f469\u200d\U0001f4bb laptop",
        "\u2764\ufe0f",
        "\u2764\ufe0f\u200d\U0001f525",
        "1\ufe0f\u20e3 first",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "\U0001f1e9\U0001f1ea",
        "\U0001f44d\U0001f3fd",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian: its spelling needs the joiner
        "\u0d28\u0d4d\u200d",  # Malayalam
        "\ufeffmain",  # the mark with which a file of Windows begins
    ],
)
def test_a_label_is_what_people_see(text: str) -> None:
    assert label_name(text) == text.removeprefix("\ufeff")


@pytest.mark.parametrize(
    "hidden",
    [
        *("\u00ad", "\u034f", "\u115f", "\u17b4", "\u180e", "\u200b", "\u200c", "\u200d", "\u200e", "\u2060", "\u2063"),
        *("\u2800", "\u3164", "\ufe0f", "\uffa0", "\U000e0041", "\U000e0100", "\u2028", "\u202e", "\u2066", "\ufeff"),
        *("\u00a0", "\u1680", "\u2003", "\u202f", "\u3000"),  # blanks that look like a space, or like nothing
        *("\ufdd0", "\uffff", "\U0001fffe", "\ue000", "\x07", "\x1b"),
    ],
)
def test_what_nobody_sees_or_no_version_of_unicode_assigns_is_refused_in_a_line(hidden: str) -> None:
    for text in (f"ma{hidden}in", f"main{hidden}x"):
        with pytest.raises(InvalidInput, match="must not hold") as refusal:
            line(text, "label", longest=64)
        assert text not in str(refusal.value)
    with pytest.raises(InvalidInput):
        line(hidden, "label", longest=64)


# ---------------------------------------------------------------------------------------------------------------------
# Secrets
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", ["\u200b", "\ufeff", " \r\n", "\t", "\u00a0", "\u2060\n", "\u200e", "\u00ad"])
def test_what_copying_leaves_around_a_secret_is_dropped(around: str) -> None:
    assert secret_value(around + KEY + around) == KEY


@pytest.mark.parametrize(
    "wrong",
    [
        "sk-proj-4f9a\u200bC1xQ7mZr2LtW8vNb3KdYp6Hs0GjE",
        "sk-proj-4f9a\u00adC1xQ7mZr2LtW8vNb3KdYp6Hs0GjE",
        "sk-proj-4f9a\ufeffC1xQ7mZr2LtW8vNb3KdYp6Hs0GjE",
        "sk-proj-\u2022\u2022\u2022\u2022\u2022\u2022\u2022\u20221234",
        "sk-proj-****1234",
        "sk-...1234",
        "ghp_a1b2\u2026Zz9Q",
        "********",
        f"OPENAI_API_KEY={KEY}",
        f"export OPENAI_API_KEY='{KEY}'",
        f"OPENAI_API_KEY: {KEY}",
        "GITHUB_TOKEN=anything",
        f'"{KEY}"',
        f"'{KEY}'",
        f"`{KEY}`",
        f"\u201c{KEY}\u201d",
        f"<{KEY}>",
        f"Bearer {KEY}",
        f"Authorization: Bearer {KEY}",
        f"x-api-key: {KEY}",
    ],
)
def test_a_secret_that_would_fail_at_every_use_is_refused_and_not_repeated(wrong: str) -> None:
    with pytest.raises(InvalidInput, match=r"secret: (holds|is a mask|must be the key alone)") as refusal:
        secret_value(wrong)
    assert KEY[8:20] not in str(refusal.value)
    assert wrong not in str(refusal.value)


@pytest.mark.parametrize(
    "right",
    [
        PEM,
        '{"type": "service_account", "project_id": "x", "private_key": "-----BEGIN PRIVATE KEY-----\\n"}',
        '{\n  "type": "service_account"\n}',
        "correct horse battery staple",
        'he said "no"',
        '"quoted" password',
        "'",
        '""',
        "pass=word",
        "key=value&other=value",
        "Server=db;User Id=app;Password=x",
        "token ring network of 1984",
        "Basic income is great",
        "bearer",
        "a***b",
        "wait...what",
        "\u00e9\u00e8 \U0001f511",
        "xxxxxxxxxxxxxxxxxxxx",
        "\U0001f469\u200d\U0001f4bb\u2764\ufe0f",
        "https://hooks.example.org/?key=1",
        "user:pass@example.org",
        "A" * 64 * 1024,
    ],
)
def test_passwords_of_other_systems_stay_possible(right: str) -> None:
    assert secret_value(right) == right


@pytest.mark.parametrize("way", [PEM, PEM.replace("\n", "\r\n"), PEM.replace("\n", "\r"), PEM.rstrip(), f"\n{PEM}\n\n"])
def test_a_pem_key_is_the_same_bytes_by_every_way(way: str) -> None:
    """A page sends CRLF, a terminal LF, and Discord drops the last line end, which OpenSSL and OpenSSH demand."""
    assert secret_value(way) == PEM


# ---------------------------------------------------------------------------------------------------------------------
# Times
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-03-01T12:00:00Z", datetime(2027, 3, 1, 12, tzinfo=UTC)),
        ("2027-03-01t12:00:00z", datetime(2027, 3, 1, 12, tzinfo=UTC)),
        ("2027-03-01T12:00:00.5+02:00", datetime(2027, 3, 1, 10, 0, 0, 500_000, tzinfo=UTC)),
        ("2027-03-01T12:00:00.123456789Z", datetime(2027, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)),
        (f"2027-03-01T12:00:00.{'9' * 40}-00:00", datetime(2027, 3, 1, 12, 0, 0, 999_999, tzinfo=UTC)),
        ("2028-12-31T23:59:60Z", datetime(2029, 1, 1, tzinfo=UTC)),
        ("2029-01-01T01:59:60.5+02:00", datetime(2029, 1, 1, tzinfo=UTC)),
    ],
)
def test_rfc_3339_to_the_letter(text: str, moment: datetime) -> None:
    assert rfc3339(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2027-03-01",
        "2027-03-01T12:00:00",
        "2027-03-01 12:00:00Z",
        "2027-03-01T12:00Z",
        "2027-03-01T12:00:00.Z",
        "2027-03-01T24:00:00Z",
        "2027-03-01T12:00:60Z",
        "2027-03-01T12:00:61Z",
        "2027-02-29T12:00:00Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-01:00",
        "9999-12-31T23:59:60Z",
        "\u0662\u0660\u0662\u0667-03-01T12:00:00Z",
        "20270301T120000Z",
        "2027-W09-1T12:00:00Z",
    ],
)
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a time|is not a time that exists"):
        rfc3339(text)


def test_what_expires_on_a_day_expires_at_its_end_and_what_begins_begins_with_it() -> None:
    assert day_or_time(" 2027-03-01 ", END_OF_DAY) == datetime(2027, 3, 1, 23, 59, 59, tzinfo=UTC)
    assert day_or_time("2027-03-01", BEGIN_OF_DAY) == datetime(2027, 3, 1, tzinfo=UTC)
    for text in ("2027-03-01T12:00:00Z", "2027-03-01T12:00:00", "2027-03-01 12:00:00", "2027-03-01T14:00:00+02:00"):
        assert day_or_time(text, END_OF_DAY) == datetime(2027, 3, 1, 12, tzinfo=UTC)
    for text in ("1.3.2027", "20270301", "2027-3-1", "tomorrow", "2027-02-30", "2027-03-01T12:00", ""):
        with pytest.raises(ValueError):
            day_or_time(text, END_OF_DAY)
