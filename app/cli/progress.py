"""How far a long command is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ProgressBar:
    """A progress bar on standard error, where that is a terminal; nothing otherwise."""

    def __init__(self, said: str) -> None:
        self._said = said
        self._drawn: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            progress = _progress()
            progress.start()
            self._drawn = progress, progress.add_task(self._said, total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn is not None:
            self._drawn[0].stop()

    def show(self, done: int, total: int | None, said: str) -> None:
        """Draw that ``done`` of ``total`` are done; ``total`` is None while nobody has counted."""
        if self._drawn is not None:
            progress, task = self._drawn
            progress.update(task, description=said, completed=done, total=total)


def _progress() -> Progress:
    # Here, so that a start does not wait for what it never draws.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
