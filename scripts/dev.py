"""`make dev-up` and `make dev-down`: `keyhall run` in the background of a developer's machine.

The process holds a lock on its pid file while it runs, so a stale pid, or a pid that now belongs to another program, is
never mistaken for it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from app.domain.errors import ConfigInvalid
from app.infrastructure.invocation import runnable
from app.infrastructure.private_files import create, make_directory, owner_for
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PID_FILE = ROOT / "data" / "dev.pid"
LOG_FILE = ROOT / "data" / "dev.log"
START_SECONDS = 90  # a start waits up to 60 for a database
STOP_SECONDS = 15  # a clean shutdown takes up to 10


def main(command: str) -> int:
    """Run ``up`` or ``down``; the result is the exit code."""
    make_directory(PID_FILE.parent)
    with os.fdopen(opened(PID_FILE, os.O_RDWR), "r+") as pid_file:
        return {"up": up, "down": down}[command](pid_file.fileno())


def up(pid_file: int) -> int:
    """Start Keyhall and wait until it is ready, or print its log if it exits."""
    try:
        settings = Settings.load()
    except ConfigInvalid as halt:
        print(runnable(halt.line()), file=sys.stderr)
        return halt.exit_code
    if not lock(pid_file):
        print(f"Keyhall is already running: {settings.origin} (process {read_pid(pid_file)}, log {shown(LOG_FILE)})")
        return 0
    with os.fdopen(opened(LOG_FILE, os.O_WRONLY | os.O_TRUNC), "w") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("keyhall"), "run"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[pid_file],
            start_new_session=True,
        )
    os.ftruncate(pid_file, 0)
    os.pwrite(pid_file, str(process.pid).encode(), 0)
    for _ in seconds(START_SECONDS):
        if process.poll() is not None:
            print(LOG_FILE.read_text(encoding="utf-8"), end="", file=sys.stderr)
            return process.returncode
        if is_ready(settings):
            print(f"Keyhall is running: {settings.origin} (process {process.pid}, log {shown(LOG_FILE)})")
            return 0
    print(f"Keyhall is still not ready; see {shown(LOG_FILE)}, or stop it: make dev-down", file=sys.stderr)
    return 1


def down(pid_file: int) -> int:
    """Stop the process that ``up`` started, and wait until it has exited."""
    if lock(pid_file):
        print("Keyhall is not running.")
        return 0
    pid = read_pid(pid_file)
    os.kill(pid, signal.SIGTERM)
    for _ in seconds(STOP_SECONDS):
        if lock(pid_file):
            print("Keyhall has stopped.")
            return 0
    print(f"Process {pid} is still stopping; see {shown(LOG_FILE)}", file=sys.stderr)
    return 1


def opened(path: Path, flags: int) -> int:
    """Open a file of mode 0600, made if need be; it has the owner of its directory."""
    with suppress(FileExistsError):
        os.close(create(path, owner=owner_for(path)))
    return os.open(path, flags)


def lock(pid_file: int) -> bool:
    """Take the lock of the pid file; False if a running Keyhall holds it."""
    try:
        fcntl.flock(pid_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_pid(pid_file: int) -> int:
    """Return the process that holds the lock."""
    return int(os.pread(pid_file, 20, 0))


def is_ready(settings: Settings) -> bool:
    """Ask the web itself; every answer except success means that it is not ready."""
    web = HTTPConnection(settings.web_host, settings.web_port, timeout=5)
    try:
        web.request("GET", "/readyz")
        return web.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        web.close()


def seconds(limit: int) -> Iterator[None]:
    """Yield several times a second until the limit has passed."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        yield
        time.sleep(0.2)


def shown(path: Path) -> str:
    """Return the path relative to the project."""
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
