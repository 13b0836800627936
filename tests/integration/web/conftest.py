"""One served house per module: tests of the web do not depend on what others left in it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.web import Site, open_site, sqlite_place


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with open_site(sqlite_place(tmp_path_factory.mktemp("site"))) as opened:
        yield opened
