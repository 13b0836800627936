"""A database that dies while requests come in: every answer says so, and it is over when the database is back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest

from tests.support import pace
from tests.support.database_proxy import proxied
from tests.support.installs import Place, client_of, sign_in, sign_up
from tests.support.postgres import PostgresServer

PASSWORD = "correct horse battery staple"
RECOVERS_WITHIN = 5.0
GIVES_UP_WITHIN = 5.0
ENDS_WITHIN = 10.0


async def _me(client: aiohttp.ClientSession) -> tuple[int, str, str | None]:
    async with client.get("/api/v1/auth/me") as answer:
        body = await answer.json()
        return answer.status, body.get("code", ""), answer.headers.get("Retry-After")


@pytest.mark.postgres
async def test_a_server_that_crashes_is_told_of_and_comes_back(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    place = Place(postgres_url, tmp_path / "data")
    with place.running("web") as running:
        address, token = await asyncio.to_thread(running.address), await asyncio.to_thread(running.setup_token)
        async with client_of(address) as client:
            await sign_up(client, token, "alice", PASSWORD)
            await sign_in(client, "alice", PASSWORD)
            credential = {"provider": "openai", "label": "main", "secret": "sk-proj-" + "aB3dE6gH9jK2mN5p" * 3}
            async with client.post("/api/v1/credentials", json=credential) as answer:
                assert answer.status == 201
            await asyncio.to_thread(postgres_server.crash)
            try:
                answers = [await _me(client) for _ in range(5)]
            finally:
                await asyncio.to_thread(postgres_server.start)
            assert {status for status, _, _ in answers} == {503}
            assert {code for _, code, _ in answers} <= {"storage_unavailable", "not_ready"}
            assert all(retry_after for _, _, retry_after in answers)
            began = time.monotonic()
            while (await _me(client))[0] != 200:  # every answer is a round trip
                assert pace.within(time.monotonic() - began, RECOVERS_WITHIN)
            async with client.get("/api/v1/credentials") as answer:
                assert [each["label"] for each in (await answer.json())["items"]] == ["main"]
        assert running.end() == 0


async def _asked(client: aiohttp.ClientSession, path: str) -> tuple[int, float]:
    """The status, and the seconds that it took."""
    began = time.monotonic()
    async with client.get(path) as answer:
        return answer.status, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.postgres
async def test_a_server_that_falls_silent_is_given_up_in_time_and_does_not_delay_the_end(
    postgres_url: str, tmp_path: Path
) -> None:
    wire = tmp_path / "wire"
    wire.mkdir()
    async with proxied(postgres_url, wire) as (url, proxy):
        place = Place(url, tmp_path / "data")
        with place.running("run") as running:
            address, token = await asyncio.to_thread(running.address), await asyncio.to_thread(running.setup_token)
            async with client_of(address) as client:
                await sign_up(client, token, "alice", PASSWORD)
                await sign_in(client, "alice", PASSWORD)
                assert (await _me(client))[0] == 200
                proxy.fall_silent()
                paths = ["/api/v1/auth/me", "/api/v1/credentials", "/readyz"]
                answers = await asyncio.gather(*(_asked(client, path) for path in paths for _ in range(8)))
                assert {status for status, _ in answers} == {503}
                assert pace.within(max(took for _, took in answers), GIVES_UP_WITHIN + 1)
                # And while requests wait for the database.
                asking = [asyncio.create_task(_asked(client, "/api/v1/credentials")) for _ in range(8)]
                began = time.monotonic()
                assert await asyncio.to_thread(running.end) == 0
                assert pace.within(time.monotonic() - began, ENDS_WITHIN)
                await asyncio.gather(*asking, return_exceptions=True)
