"""Groups of commands that are imported when one of them is typed: neither ``--help`` nor a start waits for them."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cache
from importlib import import_module
from typing import Any

from typer.core import TyperGroup
from typer.main import get_group


def imported_when_used(module: str) -> type[TyperGroup]:
    """A group whose commands are those of ``group`` in that module."""

    @cache
    def commands() -> MutableMapping[str, Any]:
        found = get_group(import_module(module).group).commands
        for command in found.values():  # else lists cut a line where the terminal ends
            command.short_help = (command.help or "").partition("\n\n")[0]
        return found

    class Group(TyperGroup):
        @property
        def commands(self) -> MutableMapping[str, Any]:
            return commands()

        @commands.setter
        def commands(self, registered: MutableMapping[str, Any]) -> None:
            """Nothing is registered before the module is imported."""

    return Group
