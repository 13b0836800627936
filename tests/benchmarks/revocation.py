"""How long a token outlives the revocation of the key that signed it, over nine processes that are asked all the time.

A tenth process revokes, as `keyhall keys revoke` does; it also asks, so that all moments are of one clock.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import uvloop

from app.domain.identity import Client, Source
from app.domain.keys import KeyName
from tests.benchmarks.figures import Figure, Size, quantile
from tests.benchmarks.load import Asking, request
from tests.benchmarks.servers import PASSWORD
from tests.support.installs import Place
from tests.support.postgres import running_postgres

if TYPE_CHECKING:
    from pathlib import Path

PAUSE = 0.02
"""Seconds between an answer and the next request to the same process: this is as exact as the figures are, and leaves
two cores something to do besides answering."""
BETWEEN = (0.2, 1.2)
"""Seconds from the last refusal to the next token. They differ, and so meet every phase of what is looked at once a
second; meanwhile the old token goes on being shown, and must not be accepted any more."""
WITHIN = 30.0


def revocation(directory: Path, size: Size) -> list[Figure]:
    """Seconds from the revocation to the last answer 200 of any process, on both engines."""
    figures = uvloop.run(_measured("SQLite", f"sqlite+aiosqlite:///{directory}/revoked.db", directory, size))
    with running_postgres() as postgres, postgres.database() as url:
        figures += uvloop.run(_measured("PostgreSQL", url, directory, size))
    return figures


async def _measured(where: str, url: str, directory: Path, size: Size) -> list[Figure]:
    place = Place(url, directory / f"revoked-{where}").having(APP_ENV="development")
    since_call, since_return = [], []
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(place.services())
        client = Client(source=Source.WEB)
        await services.identity.create_owner("owner", PASSWORD, client)
        pair = await services.authentication.login("owner", PASSWORD, client)
        # One after the other, since they share few cores; nobody is connected to before all are there, for the first
        # would not wait so long for a request.
        ports = [await _start(stack, place) for _ in range(size.processes)]
        witnesses = [await _witness(stack, each) for each in ports]
        for _ in range(size.revocations):
            pair = await services.authentication.refresh(pair.refresh_token.reveal(), client)
            for each in witnesses:
                each.show(pair.access_token.reveal())
            async with asyncio.timeout(WITHIN):
                await asyncio.gather(*(each.accepted.wait() for each in witnesses))
            version = services.keys.primary(KeyName.JWT_SECRET_KEY).version
            operator = await services.identity.operator()
            called = time.perf_counter()
            await services.rotation.revoke(operator, KeyName.JWT_SECRET_KEY, version)
            returned = time.perf_counter()
            async with asyncio.timeout(WITHIN):
                await asyncio.gather(*(each.refused.wait() for each in witnesses))
            await asyncio.sleep(random.uniform(*BETWEEN))
            last = max(each.accepted_at for each in witnesses)
            since_call.append(last - called)
            since_return.append(max(0.0, last - returned))
        others = sum((each.others for each in witnesses), Counter())
        if others:
            raise RuntimeError(f"neither accepted nor refused: {dict(others)}; these figures would mean nothing")
    said = f"revoke to last acceptance, {where}"
    return [
        Figure(name=f"{said}: p50", unit="s", values=[quantile(since_call, 0.5)]),
        Figure(name=f"{said}: p99", unit="s", aim=1, values=[quantile(since_call, 0.99)]),
        Figure(name=f"{said}, after it returned: p99", unit="s", values=[quantile(since_return, 0.99)]),
    ]


async def _start(stack: AsyncExitStack, place: Place) -> int:
    """Start a process; the port that it serves on."""
    running = await asyncio.to_thread(stack.enter_context, place.running("web", fresh=True))
    return int((await asyncio.to_thread(running.address)).rpartition(":")[2])


async def _witness(stack: AsyncExitStack, port: int) -> Witness:
    _, witness = await asyncio.get_running_loop().create_connection(Witness, "127.0.0.1", port)
    stack.callback(witness.dismiss)
    return witness


class Witness(Asking):
    """Shows a token to one process again and again, and notes when it was last accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted = asyncio.Event()
        self.refused = asyncio.Event()
        self.accepted_at = 0.0
        self.others = Counter[str]()
        self._request: bytes | None = None
        self._asked: bytes | None = None

    def show(self, token: str) -> None:
        """Go on with this token."""
        self.accepted.clear()
        self.refused.clear()
        begins = self._request is None
        self._request = request("GET", "/api/v1/auth/me", Authorization=f"Bearer {token}").encode()
        if begins:
            self._ask_again()

    def dismiss(self) -> None:
        """Ask no more."""
        self._transport.close()

    def _ask_again(self) -> None:
        self._asked = self._request
        if self._asked is not None and not self._transport.is_closing():
            self.ask(self._asked)

    def answered(self, status: str, sent: float, received: float) -> None:
        """Note it, unless it answers a token of before."""
        asyncio.get_running_loop().call_later(PAUSE, self._ask_again)
        if self._asked is not self._request:
            return
        if status == "200":
            self.accepted_at = received
            self.accepted.set()
        elif status == "401":
            self.refused.set()
        else:
            self.others[status] += 1
