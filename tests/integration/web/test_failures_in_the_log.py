"""The log has the cause of every failure of the server, few lines of them, and no failure of a client."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from app.domain.errors import NotReady, StorageBusy
from app.infrastructure.clock import SystemClock, noticing_stops
from app.services.failures import ONE_LINE_EVERY_SECONDS, FailureLog
from tests.support.fakes import FakeClock
from tests.support.web import Site, open_site, sqlite_place


def _busy() -> StorageBusy:
    error = StorageBusy()
    error.add_note("the driver raised LockNotAvailableError (55P03)")
    return error


async def test_a_failed_request_leaves_its_cause_and_its_id_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def busy(*_: Any, **__: Any) -> None:
        raise _busy()

    async def not_ready(*_: Any, **__: Any) -> None:
        raise NotReady from _busy()

    async with open_site(sqlite_place(tmp_path)) as site:
        for failing, code in ((busy, "storage_busy"), (not_ready, "not_ready")):
            monkeypatch.setattr(type(site.services.credentials), "page", failing)
            caplog.clear()
            answer = await site.request("GET", "/api/v1/credentials")
            assert (answer.status, answer.code) == (503, code)
            (line,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
            assert line.levelno == logging.WARNING
            assert "GET /api/v1/credentials" in line.getMessage()
            assert "LockNotAvailableError (55P03)" in line.getMessage()
            assert line.__dict__["request_id"] == answer.headers["X-Request-Id"]
            assert "55P03" not in answer.text


async def test_an_unready_process_says_why_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def lost(*_: Any) -> bool:
        raise _busy()

    async with open_site(sqlite_place(tmp_path)) as site:
        monkeypatch.setattr(type(site.services.keys), "reload", lost)
        monkeypatch.setattr(site.services.instances, "_seen", None)  # somebody else has committed
        answers = [await site.request("GET", "/api/v1/credentials") for _ in range(3)]
        assert {each.status for each in answers} == {503}
    said = [each.getMessage() for each in caplog.records if "GET /api/v1/credentials" in each.getMessage()]
    assert said
    assert all("55P03" in each for each in said)


def test_many_failures_of_one_kind_are_few_lines_with_their_number(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    failures = FailureLog(clock)
    for _ in range(500):
        failures.note("GET /x", _busy(), "a")
    failures.note("GET /x", NotReady(), "b")
    assert len(caplog.records) == 2
    clock.advance(timedelta(seconds=ONE_LINE_EVERY_SECONDS))
    failures.note("GET /x", _busy(), "c")
    assert "499 more like this" in caplog.records[-1].getMessage()
    assert len(caplog.records) == 3


# ---------------------------------------------------------------------------------------------------------------------
# Clients that leave
# ---------------------------------------------------------------------------------------------------------------------

_BROKEN_OFF: Final = {
    "a head": b"POST /api/v1/credentials HTTP/1.1\r\nHost: localhost\r\nContent-",
    "a body without a token": b"POST /api/v1/credentials HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n{",
    "a body of chunks": b"POST /api/v1/credentials HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    "a malformed chunk": b"POST /api/v1/credentials HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\nzz\r\n",
    "a body of an unknown address": b"PUT /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n{",
    "a body that is too large": b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 500000\r\n\r\n{",
    "a body of a sign-in": b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n{",
}


async def _break_off(site: Site, sent: bytes, *, reset: bool) -> None:
    """Send it, wait until it was read and what was answered, and hang up."""
    host, _, port = site.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    await writer.drain()
    if not reset:
        writer.write_eof()
        await reader.read()
    else:
        if b"login" not in sent and b"\r\n\r\n" in sent:
            await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
    writer.close()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("what", _BROKEN_OFF)
async def test_a_client_that_hangs_up_is_no_error_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str, *, reset: bool
) -> None:
    async with open_site(sqlite_place(tmp_path)) as site:
        await _break_off(site, _BROKEN_OFF[what], reset=reset)
    said = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert [each for each in said if not each.startswith("this process was stopped")] == []  # a busy machine stops it


# ---------------------------------------------------------------------------------------------------------------------
# A process that was stopped
# ---------------------------------------------------------------------------------------------------------------------


class _Clock(SystemClock):
    """Between two looks of the process pass so many seconds."""

    def __init__(self, *passing: float) -> None:
        self._now = 0.0
        self._passing = list(passing)
        self.over = asyncio.Event()

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if not self._passing:
            self.over.set()
            await asyncio.Event().wait()
        self._now += self._passing.pop(0)


async def test_a_process_that_was_stopped_says_for_how_long(caplog: pytest.LogCaptureFixture) -> None:
    clock = _Clock(1.0, 1.2, 18.0, 1.0)
    async with noticing_stops(clock):
        await clock.over.wait()
    assert ["stopped for 17 s" in each.getMessage() for each in caplog.records] == [True]
