"""What a page of the list of credentials costs as the store grows, and what it costs where one person has 10,000.

A quota keeps a person's list at 100; it is lifted for the second figure by storing rows past the service.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from app.domain.credential_lists import Tab
from app.domain.credentials import QUOTA
from app.domain.identity import Actor, Client, Source
from tests.benchmarks.figures import Figure, Size, quantile
from tests.benchmarks.filled import Install
from tests.benchmarks.servers import PASSWORD
from tests.support.installs import Place

STORES = (100, 10, 1)
"""Parts of the largest store that are measured before it."""
_PART = 1_000
_CALLS = 5
"""Times fewer than single reads: a page decrypts 50 credentials."""


def lists(directory: Path, size: Size) -> list[Figure]:
    """Milliseconds of a page, p50 and p99, and the ratio of the largest store to the smallest."""
    return uvloop.run(_measured(directory, size))


async def _measured(directory: Path, size: Size) -> list[Figure]:
    figures: list[Figure] = []
    medians: list[float] = []
    async with AsyncExitStack() as stack:
        place = Place(f"sqlite+aiosqlite:///{directory / 'lists.db'}", directory / "lists")
        install = await Install.opened(stack, place)
        member = await _owner(install)
        stored = min(QUOTA, size.backup_rows)
        await _fill(install, stored, member.user_id)
        for part in STORES:
            rows = max(size.backup_rows // part, stored)
            await _fill(install, rows - stored)
            stored = rows
            pages = await _pages(install, member)
            for name, page in pages.items():
                times = await _timed(install, page, size)
                figures += _both(f"{name} of {QUOTA}, {rows:,} in the store", times)
                if name == "first page":
                    medians.append(quantile(times, 0.5))
        figures.append(Figure(name="first page, largest store / smallest", aim=1.5, values=[medians[-1] / medians[0]]))
        many = max(size.backup_rows // 10 - QUOTA, 1)
        await _fill(install, many, member.user_id, first=QUOTA)
        for name, page in (await _pages(install, member)).items():
            figures += _both(f"{name} of {many + QUOTA:,}, quota lifted", await _timed(install, page, size))
    return figures


async def _fill(install: Install, rows: int, owner_id: str | None = None, *, first: int = 0) -> None:
    """In parts, between which the process renews its lease."""
    for begin in range(0, rows, _PART):
        await _ready(install)
        await install.fill(min(_PART, rows - begin), owner_id, first=first + begin)


async def _ready(install: Install) -> None:
    """Let the process confirm its keys and renew its lease, which a loop that is always busy would keep from it."""
    await asyncio.sleep(0)
    while not install.services.keys.confirmed:  # noqa: ASYNC110 - the service announces no change of it
        await asyncio.sleep(0.05)


async def _owner(install: Install) -> Actor:
    client = Client(source=Source.WEB)
    await install.services.identity.create_owner("owner", PASSWORD, client)
    token = (await install.services.authentication.login("owner", PASSWORD, client)).access_token.reveal()
    return await install.services.requests.authenticate(token, client)


async def _pages(install: Install, member: Actor) -> dict[str, Callable[[], Awaitable[object]]]:
    find = install.services.credentials.lists.page
    await _ready(install)
    cursor = (await find(member)).next_cursor
    return {
        "first page": lambda: find(member),
        "second page": lambda: find(member, cursor=cursor),
        "filtered page": lambda: find(member, search="number 9"),
        "what needs attention": lambda: find(member, tab=Tab.ATTENTION),
    }


async def _timed(install: Install, page: Callable[[], Awaitable[object]], size: Size) -> list[float]:
    await _ready(install)
    await page()
    times = []
    for _ in range(max(size.reads // _CALLS, 1)):
        await _ready(install)
        began = time.perf_counter()
        await page()
        times.append((time.perf_counter() - began) * 1000)
    return times


def _both(name: str, times: list[float]) -> list[Figure]:
    return [
        Figure(name=f"{name}, p50", unit="ms", values=[quantile(times, 0.5)]),
        Figure(name=f"{name}, p99", unit="ms", values=[quantile(times, 0.99)]),
    ]
