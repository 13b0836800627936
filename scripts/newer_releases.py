"""Make a package source in which every locked package has a newer release: ``newer_releases.py DIRECTORY``.

The releases are empty wheels of version 9999. An installation that resolves a dependency would select them. `.ci/run`
gives pip this directory and so proves that `make setup` installs exactly the lock.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from zipfile import ZipFile

LOCK = Path(__file__).parents[1] / "requirements" / "dev.txt"
VERSION = "9999"


def main(directory: Path) -> None:
    """Write one wheel per package that the lock names."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==", LOCK.read_text(encoding="utf-8"), re.MULTILINE):
        distribution = re.sub(r"[-_.]+", "_", name).lower()
        info = f"{distribution}-{VERSION}.dist-info"
        with ZipFile(directory / f"{distribution}-{VERSION}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {VERSION}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
