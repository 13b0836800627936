"""The command ``keyhall``: hands the CLI what it may open; whatever is raised becomes a line and an exit code."""

from __future__ import annotations

import base64
import os
import sys
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from app.cli import build_cli
from app.domain.errors import AppError, KeyhallError, StartupError
from app.domain.keys import MATERIAL_BYTES, KeyName
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from app.domain.master_key import RestoredMasterKey
    from app.domain.schema import SchemaState
    from app.domain.secrets import SecretText
    from app.services import Services
    from app.services.keys import KeyManagementService
    from app.services.keys.master_key import MasterKeyChange
    from app.services.keys.reset import KeyReset


class _Opener:
    """What the CLI may open. Imports happen where they are needed: `keyhall keys list` does not pay for discord."""

    @cached_property
    def _settings(self) -> Settings:
        return Settings.load()

    def _quietly(self) -> Settings:
        from app.bootstrap import log_to_stderr  # noqa: PLC0415

        # A command's output is its answer: the log speaks up only when something is wrong.
        level = self._settings.log_level if self._settings.log_level in {"error", "critical"} else "warning"
        log_to_stderr(self._settings, level)
        return self._settings

    @asynccontextmanager
    async def keys(self) -> AsyncIterator[KeyManagementService]:
        from app.bootstrap import open_keys  # noqa: PLC0415

        async with open_keys(self._quietly(), may_create=False) as opened:
            yield opened.keys

    @asynccontextmanager
    async def unverified_keys(self) -> AsyncIterator[KeyManagementService]:
        from app.bootstrap import open_unverified_keys  # noqa: PLC0415

        async with open_unverified_keys(self._quietly()) as keys:
            yield keys

    @asynccontextmanager
    async def services(self, *, importing: KeyName | None = None) -> AsyncIterator[Services]:
        from app.bootstrap import open_keys, open_services  # noqa: PLC0415

        settings = self._quietly()
        async with (
            open_keys(settings, may_create=False, importing=importing) as opened,
            open_services(settings, opened, kind="cli") as services,
        ):
            yield services

    async def schema(self, *, upgrade: bool) -> SchemaState:
        from app.bootstrap import schema_state  # noqa: PLC0415

        return await schema_state(self._quietly(), upgrade_first=upgrade)

    def new_master_key(self) -> str:
        from app.infrastructure.clock import SystemRandomness  # noqa: PLC0415

        return base64.b64encode(SystemRandomness().token_bytes(MATERIAL_BYTES)).decode()

    def write_master_key(self) -> Path:
        from app.bootstrap import write_master_key  # noqa: PLC0415

        return write_master_key(self._settings)

    async def master_key_page(self) -> str:
        from app.bootstrap import master_key_page  # noqa: PLC0415

        return await master_key_page(self._quietly())

    @asynccontextmanager
    async def master_key_change(self) -> AsyncIterator[MasterKeyChange]:
        from app.bootstrap import open_master_key_change  # noqa: PLC0415

        async with open_master_key_change(self._quietly()) as change:
            yield change

    @asynccontextmanager
    async def key_reset(self) -> AsyncIterator[KeyReset]:
        from app.bootstrap import open_key_reset  # noqa: PLC0415

        async with open_key_reset(self._quietly()) as reset:
            yield reset

    async def restore_master_key(self, given: SecretText, *, write: bool) -> RestoredMasterKey:
        from app.bootstrap import restore_master_key  # noqa: PLC0415

        return await restore_master_key(self._quietly(), given, write=write)

    def run(self, *, web: bool, bot: bool, worker: bool, sync: bool = False) -> None:
        from entrypoints.process import Components, run  # noqa: PLC0415

        run(self._settings, Components(web=web, bot=bot, worker=worker, sync=sync))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    try:
        build_cli(_Opener())(arguments)
    except StartupError as error:
        _fail(error.line(), error.exit_code)
    except AppError as error:
        _fail(f"keyhall: {error.detail}", 1)
    except KeyhallError as error:
        _fail(f"keyhall: {error}", 1)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(line: str, code: int) -> None:
    print(line, file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
