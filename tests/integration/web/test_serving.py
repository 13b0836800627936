"""The socket: bound early, listening late, drained at the end."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.infrastructure.clock import SystemClock
from app.services import deadlines
from app.web import WebOptions
from app.web.server import DRAIN_SECONDS, build_app, serving
from tests.support.samples import PASSWORD
from tests.support.web import open_site, served, sqlite_place


async def test_a_bound_socket_refuses_until_it_is_served_and_again_afterwards(tmp_path: Path) -> None:
    async with sqlite_place(tmp_path).services() as services:
        app = build_app(services, WebOptions())
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            address = sock.getsockname()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address)
            async with serving(app, sock):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert (await reader.read()).startswith(b"HTTP/1.1 200")
                writer.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address)


class _Slow:
    """Reads that take as long as the test wants them to."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cancelled = False

    async def add(self, *arguments: Any, **named: Any) -> Any:
        self.entered.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return await self._credentials.add(*arguments, **named)


async def test_what_is_in_progress_at_the_end_is_finished_and_answered(tmp_path: Path) -> None:
    async with open_site(sqlite_place(tmp_path)) as site:
        slow = _Slow(site.services.credentials)
        body = {"provider": "openai", "label": "last", "secret": "sk-the-last-one-before-the-end"}
        async with served(replace(site.services, credentials=slow)) as ending:  # type: ignore[arg-type]
            host, _, port = ending.url.removeprefix("http://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            sent = json.dumps(body).encode()
            writer.write(
                b"POST /api/v1/credentials HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s" % (site.token.encode(), len(sent), sent)
            )
            await slow.entered.wait()
            asyncio.get_running_loop().call_later(0.3, slow.go_on.set)
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 201"), answer
        assert not slow.cancelled
        stored = (await site.request("GET", "/api/v1/credentials")).json["items"]
        assert [each["label"] for each in stored] == ["last"]


async def test_idle_connections_do_not_hold_up_the_end(tmp_path: Path) -> None:
    async with sqlite_place(tmp_path).services() as services:
        loop = asyncio.get_running_loop()
        async with served(services) as site:
            assert (await site.request("GET", "/healthz")).status == 200
            host, _, port = site.url.removeprefix("http://").partition(":")
            _, writer = await asyncio.open_connection(host, int(port))
            started = loop.time()
        assert loop.time() - started < 2
        writer.close()


def test_the_drain_ends_before_the_process_must() -> None:
    assert DRAIN_SECONDS < 10


async def test_a_request_whose_client_has_gone_changes_nothing(tmp_path: Path) -> None:
    """It may have asked another process meanwhile, and what that has acknowledged must not be undone."""
    async with open_site(sqlite_place(tmp_path)) as site:
        slow = _Slow(site.services.credentials)
        async with served(replace(site.services, credentials=slow)) as other:  # type: ignore[arg-type]
            body = {"provider": "openai", "label": "given up", "secret": PASSWORD}
            asking = asyncio.create_task(other.request("POST", "/api/v1/credentials", json=body, token=site.token))
            await slow.entered.wait()
            asking.cancel()
            await asyncio.wait({asking})
            await other.request("GET", "/healthz")  # by now the other end of the connection is known here
            slow.go_on.set()
        assert not slow.cancelled
        assert (await site.request("GET", "/api/v1/credentials")).json["items"] == []


async def test_a_request_that_took_too_long_changes_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time in which the process was stopped counts: the clock goes on."""
    monkeypatch.setattr(deadlines, "REQUEST_SECONDS", 2.0)
    async with open_site(sqlite_place(tmp_path)) as site:
        slow = _Slow(site.services.credentials)
        body = {"provider": "openai", "label": "late", "secret": PASSWORD}
        async with served(replace(site.services, credentials=slow)) as other:  # type: ignore[arg-type]
            asking = asyncio.create_task(other.request("POST", "/api/v1/credentials", json=body, token=site.token))
            await slow.entered.wait()
            now = SystemClock.monotonic
            monkeypatch.setattr(SystemClock, "monotonic", lambda clock: now(clock) + 3)
            slow.go_on.set()
            answer = await asking
        assert (answer.status, answer.code) == (503, "request_expired")
        assert "Retry-After" in answer.headers
        assert (await site.request("GET", "/api/v1/credentials")).json["items"] == []


async def test_a_body_that_comes_slowly_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "REQUEST_SECONDS", 2.0)
    async with open_site(sqlite_place(tmp_path)) as site:
        host, _, port = site.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        sent = json.dumps({"provider": "openai", "label": "slow", "secret": PASSWORD}).encode()
        writer.write(
            b"POST /api/v1/credentials HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            % (site.token.encode(), len(sent))
        )
        late = SystemClock().monotonic() + 3
        while SystemClock().monotonic() < late:
            await site.request("GET", "/healthz")
        writer.write(sent)
        assert (await reader.read()).startswith(b"HTTP/1.1 201")
        writer.close()
