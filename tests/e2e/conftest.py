"""Places for whole processes to run at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.discord_wire import WireSimulator
from tests.support.installs import Place


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    """An empty place on either engine."""
    return Place(engine_url, tmp_path / "data")


@pytest.fixture
def sqlite_place(sqlite_url: str, tmp_path: Path) -> Place:
    """An empty place on the embedded database."""
    return Place(sqlite_url, tmp_path / "data")


@pytest.fixture
async def wire() -> AsyncIterator[WireSimulator]:
    """A Discord on loopback."""
    async with await WireSimulator.start() as simulator:
        yield simulator
