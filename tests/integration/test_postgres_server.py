from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from tests.support.postgres import PostgresServer, PostgresUnavailable, running_postgres

pytestmark = pytest.mark.postgres


async def test_each_database_is_fresh(postgres_server: PostgresServer) -> None:
    host = str(postgres_server.socket_directory)
    for _ in range(2):
        name = postgres_server.create_database()
        connection = await asyncpg.connect(host=host, user="postgres", database=name)
        await connection.execute("CREATE TABLE note (id int)")
        await connection.close()
        postgres_server.drop_database(name)


def test_a_copy_holds_what_its_template_held(postgres_server: PostgresServer) -> None:
    template = postgres_server.create_database()
    postgres_server.execute("CREATE TABLE note AS SELECT 7 AS id", database=template)
    copy = postgres_server.create_database(template=template)
    assert postgres_server.execute("SELECT id FROM note", database=copy) == "7"
    postgres_server.drop_database(copy)
    postgres_server.drop_database(template)


def test_a_crash_keeps_committed_rows_and_leaves_nothing_behind() -> None:
    try:
        running = running_postgres()
        with running as server:
            server.execute("CREATE TABLE note AS SELECT 7 AS id")
            server.crash()
            server.start()
            assert server.execute("SELECT id FROM note") == "7"
            directory = server.socket_directory
    except PostgresUnavailable as unavailable:
        pytest.skip(str(unavailable))
    assert not directory.exists()


@pytest.mark.slow
def test_the_server_ends_with_a_test_run_that_is_killed(postgres_server: PostgresServer, tmp_path: Path) -> None:
    program = """
import sys
import time
from tests.support.postgres import running_postgres
with running_postgres() as server:
    print(server.socket_directory, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout is not None
        directory = Path(tests.stdout.readline().strip())
        assert (directory / ".s.PGSQL.5432").exists()
        tests.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while directory.exists():  # the watchdog is nobody's child by now: only what it removes can be seen
        assert time.monotonic() < deadline
        time.sleep(0.05)
