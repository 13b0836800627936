"""What holds for every test: none of the developer's settings, no way out to the network, no silent skip in CI, and a
fresh database of either kind for whoever asks.
"""

from __future__ import annotations

import gc
import ipaddress
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

pytest.register_assert_rewrite("tests.support")

from app.infrastructure.database import engine  # noqa: E402
from app.infrastructure.database.dialects import Timeouts  # noqa: E402
from tests.support.environment import forget_settings  # noqa: E402
from tests.support.postgres import PostgresServer, PostgresUnavailable, running_postgres  # noqa: E402
from tests.support.statement_cache import share_compiled_statements  # noqa: E402

forget_settings()
share_compiled_statements()

# On a busy machine a database that answers late is not away. Tests that are about giving up set their own timeouts.
engine.DEFAULT_TIMEOUTS = Timeouts(connect=60, busy=60, command=90, lock=60, abandoned=90)

# A run that is red is red again when it is repeated, and a busy machine makes none red.
hypothesis.settings.register_profile("keyhall", deadline=None, derandomize=True)
hypothesis.settings.load_profile("keyhall")

# ---------------------------------------------------------------------------------------------------------------------
# Sockets reach this machine only
# ---------------------------------------------------------------------------------------------------------------------


class OutsideWorld(BaseException):
    """A test tried to leave this machine. Not an ``Exception``: no retry loop may take it for a network error."""


def _is_here(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if not isinstance(name, str) or name in {"", "localhost"}:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _stay_on_this_machine(event: str, args: tuple[Any, ...]) -> None:
    """Refuse names and addresses of other machines, in this process; subprocesses are their tests' concern."""
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event in {"socket.connect", "socket.sendto"} and isinstance(args[1], tuple):  # a Unix socket has a path
        host = args[1][0]
    else:
        return
    if not _is_here(host):
        raise OutsideWorld(f"{event} to {host!r}: tests reach loopback and Unix sockets only")


sys.addaudithook(_stay_on_this_machine)

# ---------------------------------------------------------------------------------------------------------------------
# Under KEYHALL_TEST_STRICT=1, as in CI, a skip is a failure
# ---------------------------------------------------------------------------------------------------------------------

STRICT = os.environ.get("KEYHALL_TEST_STRICT") == "1"

# Beginnings of the reasons for which a test may be skipped even there.
ALLOWED_SKIPS: tuple[str, ...] = ("only root can ", "only make bench installs ")


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not STRICT or not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return
    path, line, reason = report.longrepr
    if not reason.removeprefix("Skipped: ").startswith(ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: skipped under KEYHALL_TEST_STRICT=1: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report


# ---------------------------------------------------------------------------------------------------------------------
# The garbage collector leaves pytest's own objects alone
# ---------------------------------------------------------------------------------------------------------------------


def pytest_collection_finish() -> None:
    """Keep what was collected out of garbage collections: a full one took half a second, with every thread waiting.

    A process of Keyhall has a tenth of the objects, and freezes them when it has started, too.
    """
    gc.freeze()


# ---------------------------------------------------------------------------------------------------------------------
# Databases
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server per process of the test run."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running_postgres())
        except PostgresUnavailable as unavailable:
            pytest.skip(str(unavailable))
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite database whose file does not exist yet."""
    return f"sqlite+aiosqlite:///{tmp_path / 'keyhall.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database; a test that asks for it runs on both engines."""
    fixture = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    url: str = request.getfixturevalue(fixture)
    return url
