"""`make recover`: the worst day, timed. A backup and the words on paper bring an install back on an empty machine.

Each step is a command as an operator types it; the machine has no database, no DATA_DIR and no settings but
DATABASE_URL. Every credential is opened by `keyhall credentials verify` at the end, on either engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from app.domain.keys import Environment
from app.infrastructure.paper import from_words_or_text, words
from tests.benchmarks.filled import Install
from tests.support.backups import IDENTITY, back_up
from tests.support.installs import Place
from tests.support.postgres import running_postgres

PER = 100_000
AT_ONCE = 2_000


@dataclass(frozen=True)
class Recovery:
    """Seconds of each step on one engine, for so many credentials."""

    engine: str
    credentials: int
    key: float
    restore: float
    verify: float

    @property
    def whole(self) -> float:
        """Seconds of all steps."""
        return self.key + self.restore + self.verify

    def line(self) -> str:
        """One line for people."""
        scaled = self.whole * PER / self.credentials
        return (
            f"{self.engine}: master key {self.key:.1f} s, restore {self.restore:.1f} s, every credential verified "
            f"{self.verify:.1f} s; {scaled:.1f} s per {PER:,} credentials"
        )


async def _prepare(place: Place, backup: Path, credentials: int) -> None:
    async with AsyncExitStack() as stack:
        install = await Install.opened(stack, place)
        for start in range(0, credentials, AT_ONCE):
            await install.services.keys.reload()  # filling takes the loop's time, which confirms the keys otherwise
            await install.fill(min(AT_ONCE, credentials - start))
    await back_up(place, backup)


def _words(place: Place) -> str:
    """The words on the page of the master key."""
    text = (place.data_dir / "master.key").read_text()
    return " ".join(words(from_words_or_text(text, Environment.TEST)))


def _timed(place: Place, *arguments: str) -> tuple[float, str]:
    began = time.monotonic()
    done = place.command(*arguments, within=3600)
    if done.returncode != 0:
        raise SystemExit(f"keyhall {' '.join(arguments[:2])} ended with {done.returncode}: {done.stderr}")
    return time.monotonic() - began, done.stdout


def recover(place: Place, backup: Path, paper: Path, identity: Path, credentials: int) -> Recovery:
    """Bring the install back at an empty place; every credential must open."""
    key, _ = _timed(place, "keys", "restore-master", "--file", str(paper))
    arguments = ("backup", "restore", str(backup), "--identity-file", str(identity), "--yes", "--json")
    restore, said = _timed(place, *arguments)
    report = json.loads(said)
    assert (report["credentials"], report["unreadable"]) == (credentials, []), report
    verify, said = _timed(place, "credentials", "verify")
    assert re.search(rf"\b{credentials}\b", said.replace(",", "")), said
    engine = "PostgreSQL" if place.url.startswith("postgresql") else "SQLite"
    return Recovery(engine=engine, credentials=credentials, key=key, restore=restore, verify=verify)


def measure(credentials: int, directory: Path, postgres: str) -> list[Recovery]:
    """A backup of an install on SQLite, recovered on PostgreSQL and on SQLite."""
    place = Place(f"sqlite+aiosqlite:///{directory}/first/keyhall.db", directory / "first")
    backup, paper, identity = directory / "keyhall.age", directory / "words.txt", directory / "identity.txt"
    asyncio.run(_prepare(place, backup, credentials))
    paper.write_text(_words(place))
    identity.write_text(IDENTITY)
    shutil.rmtree(place.data_dir)  # the machine is gone
    found = []
    for name, url in (("other", postgres), ("same", f"sqlite+aiosqlite:///{directory}/same/keyhall.db")):
        found.append(recover(Place(url, directory / name), backup, paper, identity, credentials))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="make recover", description=__doc__)
    parser.add_argument("--credentials", type=int, default=PER)
    credentials = parser.parse_args().credentials
    with (
        tempfile.TemporaryDirectory(prefix="keyhall-recover-") as directory,
        running_postgres() as server,
        server.database() as url,
    ):
        for each in measure(credentials, Path(directory), url):
            print(each.line())  # noqa: T201 - what this program is for


if __name__ == "__main__":
    main()
