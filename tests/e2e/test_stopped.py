"""A process that is stopped and woken up, and one that is told to end while it is busy."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.domain.instances import LEASE_SECONDS
from app.domain.keys import KeyName
from tests.support.installs import Place, client_of, sign_in, sign_up

PASSWORD = "correct horse battery staple"
WRITERS = 8


async def _status(client: aiohttp.ClientSession) -> int:
    async with client.get("/api/v1/auth/me") as answer:
        return answer.status


@pytest.mark.slow
async def test_a_process_that_slept_through_a_change_of_keys_answers_nothing_with_the_old_ones(place: Place) -> None:
    with place.running("web") as running:
        address, token = await asyncio.to_thread(running.address), await asyncio.to_thread(running.setup_token)
        async with client_of(address) as client:
            await sign_up(client, token, "alice", PASSWORD)
            await sign_in(client, "alice", PASSWORD)
            assert await _status(client) == 200
            os.kill(running.process.pid, signal.SIGSTOP)
            stopped = time.monotonic()
            await place.revoke(KeyName.JWT_SECRET_KEY)
            # Not a wait for something to happen: the lease has to lapse, and only time does that.
            await asyncio.sleep(LEASE_SECONDS + 1 - (time.monotonic() - stopped))
            asking = [asyncio.create_task(_status(client)) for _ in range(20)]
            os.kill(running.process.pid, signal.SIGCONT)
            # The token was signed by a version that is compromised: whoever lets it in has the old keys.
            assert set(await asyncio.gather(*asking)) <= {401, 503}
            async with asyncio.timeout(90):
                while await _status(client) == 503:  # until it has reloaded; every answer is a round trip
                    pass
            assert await _status(client) == 401
            del client.headers["Authorization"]
            await sign_in(client, "alice", PASSWORD)
            assert await _status(client) == 200
        assert running.end() == 0


class Stored:
    """The labels that were acknowledged; ``enough`` is set when every writer stored two on average."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.enough = asyncio.Event()

    def note(self, label: str) -> None:
        self.labels.append(label)
        if len(self.labels) == 2 * WRITERS:
            self.enough.set()


async def _store_until_refused(client: aiohttp.ClientSession, writer: int, stored: Stored) -> None:
    """Store one credential after the other; those that were acknowledged are noted."""
    for number in range(1000):
        label = f"writer {writer} number {number}"
        body = {"provider": "openai", "label": label, "secret": f"sk-{writer}-{number}-0123456789abcdefghij"}
        try:
            async with client.post("/api/v1/credentials", json=body) as answer:
                if answer.status != 201:
                    return
                await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return
        stored.note(label)


async def _all_labels(client: aiohttp.ClientSession) -> list[str]:
    labels: list[str] = []
    query: dict[str, Any] = {"limit": 100}
    while True:
        async with client.get("/api/v1/credentials", params=query) as answer:
            assert answer.status == 200, await answer.text()
            page = await answer.json()
        labels += [each["label"] for each in page["items"]]
        if page["next_cursor"] is None:
            return labels
        query["cursor"] = page["next_cursor"]


async def test_whatever_was_acknowledged_before_a_signal_under_load_is_there_afterwards(place: Place) -> None:
    stored = Stored()
    with place.running("web") as running:
        address, token = await asyncio.to_thread(running.address), await asyncio.to_thread(running.setup_token)
        async with client_of(address) as client:
            await sign_up(client, token, "alice", PASSWORD)
            await sign_in(client, "alice", PASSWORD)
            writers = [asyncio.create_task(_store_until_refused(client, each, stored)) for each in range(WRITERS)]
            async with asyncio.timeout(90):
                await stored.enough.wait()
            assert not any(each.done() for each in writers)
            assert await asyncio.to_thread(running.end, signal.SIGTERM, 10) == 0
            await asyncio.gather(*writers)
    with place.running("web") as running:
        async with client_of(await asyncio.to_thread(running.address)) as client:
            await sign_in(client, "alice", PASSWORD)
            found = await _all_labels(client)
        assert running.end() == 0
    assert len(found) == len(set(found))
    assert set(stored.labels) <= set(found)
    assert len(found) <= len(stored.labels) + WRITERS  # at most one each was stored and not acknowledged
    done = await asyncio.to_thread(place.command, "credentials", "verify")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
async def test_what_a_client_gave_up_in_a_stopped_process_does_not_undo_what_it_did_through_another(
    sqlite_url: str, tmp_path: Path
) -> None:
    """A request waits for the database; its process is stopped, and its client gives up and asks another process."""
    place = Place(sqlite_url, tmp_path / "data")
    with place.running("web") as first:
        address, token = await asyncio.to_thread(first.address), await asyncio.to_thread(first.setup_token)
        with place.running("web") as second:
            other = await asyncio.to_thread(second.address)
            async with client_of(address) as client, client_of(other) as elsewhere:
                await sign_up(client, token, "alice", PASSWORD)
                await sign_in(client, "alice", PASSWORD)
                elsewhere.headers.update(client.headers)
                body = {"provider": "openai", "label": "main", "secret": "sk-proj-4f9aTq7ZbX2mLw8vKd3Yc6Rn"}
                async with client.post("/api/v1/credentials", json=body) as answer:
                    path = f"/api/v1/credentials/{(await answer.json())['id']}"
                with closing(sqlite3.connect(tmp_path / "keyhall.db", isolation_level=None)) as database:
                    database.execute("BEGIN IMMEDIATE")
                    removing = asyncio.create_task(client.delete(path))
                    for _ in range(20):  # round trips, after which it waits for the lock
                        assert (await _asked(client, "/healthz"))[0] == 200
                    os.kill(first.process.pid, signal.SIGSTOP)
                    database.execute("ROLLBACK")
                removing.cancel()
                await asyncio.wait({removing})
                replaced = {"secret": "sk-proj-0e8bUr6YaW1nMx9uJc4Zd5So"}
                async with elsewhere.put(f"{path}/secret", json=replaced) as answer:
                    assert answer.status == 200
                os.kill(first.process.pid, signal.SIGCONT)
                for _ in range(20):  # until that process has done whatever it was about to do
                    await _asked(client, "/api/v1/credentials")
                async with elsewhere.get(path) as answer:
                    assert (answer.status, (await answer.json())["version"]) == (200, 2)


async def _asked(client: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with client.get(path) as answer:
        return answer.status, await answer.json()
