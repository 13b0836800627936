"""tests/conftest.py makes promises to every other test; here it is made to keep them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from app.settings import Settings
from tests.support.environment import process_environment
from tests.support.processes import run


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.org"])
def test_no_test_reaches_another_machine(host: str) -> None:
    with pytest.raises(BaseException, match="tests reach loopback and Unix sockets only"):
        socket.create_connection((host, 80), timeout=1)


@pytest.mark.slow
@pytest.mark.parametrize(("strict", "outcome"), [("0", "1 skipped"), ("1", "1 failed")])
def test_a_skip_is_a_failure_where_every_tool_must_be_there(tmp_path: Path, strict: str, outcome: str) -> None:
    case = tmp_path / "test_case.py"
    case.write_text("from tests.support.tools import require_tool\ndef test_it(): require_tool('no-such-tool')\n")
    arguments = ["-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(case)]
    done = run("-m", "pytest", *arguments, env={**os.environ, "KEYHALL_TEST_STRICT": strict})
    assert outcome in done.stdout
    assert strict == "0" or "no-such-tool is not installed" in done.stdout


def test_a_developers_own_settings_take_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("".join(f"{name}=theirs\n" for name in Settings.names() if not name.endswith("_FILE")))
    monkeypatch.setattr(Settings, "env_file", env_file)
    for name, value in process_environment(WEB_PORT="8123").items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert settings.web_port == 8123
    assert list(settings.secrets()) == []
