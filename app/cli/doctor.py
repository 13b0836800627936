"""``keyhall doctor``: one line for each thing that can be wrong, with its remedy."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import typer

from app.cli.backend import backend
from app.cli.output import show_json
from app.domain.diagnosis import CheckState

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.diagnosis import Diagnosis

_SIGNS = {CheckState.OK: "✅", CheckState.WARNING: "⚠️ ", CheckState.FAILED: "❌"}


def _as_json(diagnosis: Diagnosis, runnable: Callable[[str], str]) -> dict[str, Any]:
    checks = [
        {"name": each.name, "state": each.state.value, "detail": runnable(each.detail), "remedy": runnable(each.remedy)}
        for each in diagnosis.checks
    ]
    return {"ok": diagnosis.ok, "checks": checks}


def show_diagnosis(context: typer.Context, *, as_json: bool) -> None:
    """Look everything over, and show it. Raises Exit."""
    opened = backend(context)
    diagnosis = asyncio.run(opened.diagnose())
    if as_json:
        show_json(_as_json(diagnosis, opened.runnable))
    else:
        for check in diagnosis.checks:
            typer.echo(opened.runnable(f"{_SIGNS[check.state]} {check.name}: {check.detail}"))
            if check.remedy:
                typer.echo(opened.runnable(f"   → {check.remedy}"))
    if not diagnosis.ok:
        raise typer.Exit(1)
