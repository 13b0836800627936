"""A process that opens the keys as a start does, and prints which they are.

With an argument it waits for a line on standard input first, so that many of them can begin at one moment.
"""

from __future__ import annotations

import asyncio
import json
import sys

from app.bootstrap.keys import open_keys
from app.domain.errors import StartupError
from app.settings import Settings


async def _main() -> None:
    async with open_keys(Settings.load(), may_create=True) as opened:
        listing = [f"{each.name}/{each.version}/{each.fingerprint}" for each in opened.keys.listing()]
        found = {"install_id": opened.keys.install_id, "fingerprints": listing, "created": opened.created}
    print(json.dumps(found), flush=True)  # noqa: T201 - what this program is for


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print("ready", flush=True)  # noqa: T201 - as above
        sys.stdin.readline()
    try:
        asyncio.run(_main())
    except StartupError as error:
        sys.exit(error.line())
