"""What the OpenAPI document promises, tried by schemathesis with all its checks: as a stranger and as the owner."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.installs import Place
from tests.support.processes import PROJECT
from tests.support.web import open_site

_SUPPORT: Final = Path(__file__).parents[2] / "support"
# They end the very session that asks, or the key that signed its token.
_ENDS_THE_SESSION: Final = "/auth/logout|/revoke$"


@pytest.mark.timeout(1200)  # a thousand requests, each judged in another process
@pytest.mark.parametrize("who", ["stranger", "owner"])
async def test_every_operation_does_what_the_document_says(who: str, sqlite_url: str, tmp_path: Path) -> None:
    async with open_site(Place(sqlite_url, tmp_path / "data")) as site:
        as_owner = ["--header", f"Authorization: Bearer {site.token}", "--exclude-path-regex", _ENDS_THE_SESSION]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(_SUPPORT / "schemathesis.toml")),
            # Who is a stranger is refused before anything else is looked at, whatever was sent.
            *("run", f"{site.url}/api/openapi.json", "--checks", "all"),
            *("--phases", "coverage,fuzzing" if who == "owner" else "fuzzing"),
            *("--generation-deterministic", "--max-examples", "3", "--continue-on-failure", "--no-color"),
            *("--suppress-health-check", "all", "--exclude-tag", "Pages"),
            *(as_owner if who == "owner" else ()),
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks", "PYTHONPATH": str(PROJECT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    assert "Tested: " in output, output
