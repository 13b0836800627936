"""Freed memory goes back to the system, where glibc is the C library."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest

from app.infrastructure import memory
from tests.support.processes import PROJECT

SCRIPT = """
import asyncio, pathlib, resource
from app.infrastructure.memory import give_back_freed, share_one_arena
from app.infrastructure.passwords import Argon2Passwords

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

async def hash_often():
    passwords = Argon2Passwords()
    await passwords.is_guessable("abc", context=[])
    before = resident()
    for _ in range(3):
        await passwords.hash("correct horse battery staple")
    await passwords.close()
    print(resident() - before)

share_one_arena()
asyncio.run(hash_often())
"""


class AnotherLibrary:
    """A C library that has nothing of glibc: an attempt to call anything is an AttributeError."""


@pytest.fixture
def _another_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: AnotherLibrary())
    memory._glibc.cache_clear()
    yield
    memory._glibc.cache_clear()


@pytest.mark.usefixtures("_another_library")
def test_nothing_is_done_where_another_c_library_is() -> None:
    memory.share_one_arena()
    memory.give_back_freed()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_hashes_leave_no_memory_behind() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10 * 1024 * 1024, "each took 19 MiB"
