"""A real PgBouncer in transaction mode, in front of the PostgreSQL of the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from tests.support.tools import require_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOBODY = 65534
_PORT = 6432


@contextmanager
def pgbouncer(url: str) -> Iterator[str]:
    """The URL of the same database through PgBouncer, which shares four connections; skips if it is not installed."""
    program = require_tool("pgbouncer")
    parsed = make_url(url)
    directory = Path(tempfile.mkdtemp(prefix="keyhall-pgbouncer-"))
    config = directory / "pgbouncer.ini"
    config.write_text(
        f"""
        [databases]
        * = host={parsed.query["host"]} user=postgres
        [pgbouncer]
        auth_type = any
        default_pool_size = 4
        listen_addr =
        listen_port = {_PORT}
        logfile = {directory}/log
        pool_mode = transaction
        unix_socket_dir = {directory}
        """.replace("        ", "")
    )
    user = None
    if os.geteuid() == 0:  # it refuses to be root
        user = _NOBODY
        for path in (directory, config):
            shutil.chown(path, _NOBODY, _NOBODY)
    process = subprocess.Popen(
        [program, "-q", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", user=user
    )
    try:
        _wait_for(directory / f".s.PGSQL.{_PORT}", process)
        query = {"host": str(directory), "port": str(_PORT), "prepared_statement_cache_size": "0"}
        yield parsed.set(query=query).render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(directory)


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while True:
        with socket.socket(socket.AF_UNIX) as asking:
            if asking.connect_ex(str(path)) == 0:
                return
        assert process.poll() is None, f"PgBouncer ended: {(path.parent / 'log').read_text()}"
        assert time.monotonic() < until
