"""A headless Chromium and a house to look at with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.support.tools import require_tool
from tests.support.web import Site, open_site, sqlite_place


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    chromium = require_tool("chromium")
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--no-default-browser-check",
    ]
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=chromium, args=flags)
        yield launched
        await launched.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with open_site(sqlite_place(tmp_path_factory.mktemp("site"))) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def empty_site(tmp_path: Path) -> AsyncIterator[Site]:
    """A house that has no owner yet."""
    async with open_site(sqlite_place(tmp_path), owner=False) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def new_site(tmp_path: Path) -> AsyncIterator[Site]:
    """A house of its own, with an owner."""
    async with open_site(sqlite_place(tmp_path)) as opened:
        yield opened
