"""Files of other programs, for imports."""

from __future__ import annotations

from pathlib import Path

from app.domain.imports import LARGEST_SOURCE, ImportStopped
from app.settings.secret_files import read_small_file


def read_source(path: Path) -> bytes:
    """The content of a regular file of at most 64 MiB. Raises ImportStopped."""
    try:
        found = read_small_file(path, largest=LARGEST_SOURCE)
    except OSError as error:
        raise ImportStopped(f"{path} cannot be read: {error.strerror}") from None
    if found is None:
        raise ImportStopped(f"{path} does not exist")
    return found[0]
