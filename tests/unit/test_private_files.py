"""Files and directories for one user alone, where the system does not let them be made as usual."""

from __future__ import annotations

import errno
import os
import pwd
import secrets
from pathlib import Path
from typing import Any

import pytest

from app.bootstrap.database import StartupRetry
from app.domain.errors import ConfigInvalid, DatabaseUnavailable, StorageError
from app.domain.keys import Environment
from app.infrastructure import private_files
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.database.faults import fault_of, of_a_server
from app.infrastructure.invocation import command
from app.infrastructure.master_key import MasterKeys
from app.settings import DatabaseUrl


def test_a_link_in_the_place_of_a_new_directory_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns the directory above could put one there, while root makes the directory."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    make = os.mkdir

    def then_swap(name: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        make(name, mode, dir_fd=dir_fd)
        os.rmdir(name, dir_fd=dir_fd)
        os.symlink(elsewhere, name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", then_swap)
    with pytest.raises(OSError):
        private_files.make_directory(tmp_path / "data")
    assert elsewhere.stat().st_mode & 0o777 == 0o755


def test_a_user_namespace_without_the_owner_gets_its_files_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unmapped(*_: Any) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fchown", unmapped)
    found = tmp_path.stat()
    other = os.stat_result((*found[:4], found.st_uid + 1, found.st_gid + 1, *found[6:10]))
    os.close(private_files.create(tmp_path / "file", owner=other))
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


async def test_a_user_without_a_name_gets_the_halt_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nameless)
    retry = StartupRetry(DatabaseUrl.parse("sqlite+aiosqlite:////nowhere/keyhall.db"), SystemClock())

    async def step() -> None:
        error = StorageError("no")
        error.fault = fault_of(PermissionError(errno.EACCES, "no"))
        raise error

    with pytest.raises(DatabaseUnavailable, match="may not be opened"):
        await retry.run(step)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_a_connection_that_a_firewall_refuses_is_waited_for(code: int) -> None:
    fault = fault_of(PermissionError(code, "no"))
    assert fault is not None
    assert not fault.heals
    assert of_a_server(fault).heals


def test_a_command_is_printed_although_the_working_directory_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        assert "keyhall" in command() or "cli_entrypoint" in command()
    finally:
        os.chdir(tmp_path)


def test_a_master_key_in_the_setting_for_its_file_is_not_printed(tmp_path: Path) -> None:
    key = "/" + secrets.token_urlsafe(40)[:42] + "="
    keys = MasterKeys(
        data_dir=tmp_path, environment=Environment.TEST, randomness=SystemRandomness(), master_key_file=Path(key)
    )
    with pytest.raises(ConfigInvalid) as halt:
        keys.given()
    assert key not in halt.value.line()
