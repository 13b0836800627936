"""What a page of the list of credentials costs as the store grows, and what it costs where one person has 10,000.

A quota keeps a person's list at 100; it is lifted for the second figure by storing rows past the service.
"""

from __future__ import annotations

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
        member = await owner_of(install)
        stored = len(await install.fill(min(QUOTA, size.backup_rows), member.user_id))
        for part in STORES:
            rows = max(size.backup_rows // part, stored)
            stored += len(await install.fill(rows - stored))
            pages = await _pages(install, member)
            for name, page in pages.items():
                times = await timed(install, page, size)
                figures += both(f"{name} of {QUOTA}, {rows:,} in the store", times)
                if name == "first page":
                    medians.append(quantile(times, 0.5))
        figures.append(Figure(name="first page, largest store / smallest", aim=1.5, values=[medians[-1] / medians[0]]))
        many = max(size.backup_rows // 10 - QUOTA, 1)
        await install.fill(many, member.user_id, first=QUOTA)
        for name, page in (await _pages(install, member)).items():
            figures += both(f"{name} of {many + QUOTA:,}, quota lifted", await timed(install, page, size))
    return figures


async def owner_of(install: Install) -> Actor:
    """The owner of a new install, signed in."""
    client = Client(source=Source.WEB)
    await install.services.identity.create_owner("owner", PASSWORD, client)
    token = (await install.services.authentication.login("owner", PASSWORD, client)).access_token.reveal()
    return await install.services.requests.authenticate(token, client)


async def _pages(install: Install, member: Actor) -> dict[str, Callable[[], Awaitable[object]]]:
    find = install.services.credentials.lists.page
    await install.ready()
    cursor = (await find(member)).next_cursor
    return {
        "first page": lambda: find(member),
        "second page": lambda: find(member, cursor=cursor),
        "filtered page": lambda: find(member, search="number 9"),
        "what needs attention": lambda: find(member, tab=Tab.ATTENTION),
    }


async def timed(install: Install, page: Callable[[], Awaitable[object]], size: Size) -> list[float]:
    """Milliseconds of each call, after one that is not counted."""
    await install.ready()
    await page()
    times = []
    for _ in range(max(size.reads // _CALLS, 1)):
        await install.ready()
        began = time.perf_counter()
        await page()
        times.append((time.perf_counter() - began) * 1000)
    return times


def both(name: str, times: list[float]) -> list[Figure]:
    """The figures of p50 and p99."""
    return [
        Figure(name=f"{name}, p50", unit="ms", values=[quantile(times, 0.5)]),
        Figure(name=f"{name}, p99", unit="ms", values=[quantile(times, 0.99)]),
    ]
