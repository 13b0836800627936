"""Where the master key comes from, which files are trusted with it, and that it is made once and whole."""

from __future__ import annotations

import base64
import errno
import hashlib
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.domain.errors import ConfigInvalid, InsecureKey, StartupError
from app.domain.keys import Environment
from app.domain.secrets import SecretBytes, SecretText
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.install_file import InstallFile
from app.infrastructure.master_key import MasterKeys
from app.settings.secret_files import check_secret_file_modes
from tests.support.environment import process_environment
from tests.support.processes import Process
from tests.support.strace import killing, traced, watching

ROOT = Path(__file__).resolve().parents[2]
# The same in every process of the run, for they stand in the names of tests.
KEY, OTHER = hashlib.sha256(b"a master key").digest(), hashlib.sha256(b"another master key").digest()
TEXT = base64.b64encode(KEY).decode()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data directory"


def _keys(
    data_dir: Path,
    *,
    environment: Environment = Environment.PRODUCTION,
    master_key: str | None = None,
    master_key_file: Path | None = None,
    previous: str | None = None,
) -> MasterKeys:
    return MasterKeys(
        data_dir=data_dir,
        environment=environment,
        randomness=SystemRandomness(),
        master_key=None if master_key is None else SecretText(master_key),
        master_key_file=master_key_file,
        previous=None if previous is None else SecretText(previous),
    )


def _given(keys: MasterKeys) -> list[bytes]:
    return [each.reveal() for each in keys.given()]


def _file(path: Path, content: str | bytes = TEXT + "\n", mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def _default_file(data_dir: Path, content: str | bytes = TEXT + "\n", mode: int = 0o600) -> Path:
    return _file(data_dir / "master.key", content, mode)


def _run_the_remedy(halt: StartupError) -> None:
    """Do what the last line on stderr says, as an operator would: copy the command and run it in a shell."""
    (command,) = re.findall(r"`(.*?)`", halt.line())
    subprocess.run(["sh", "-c", command], check=True)


# ---------------------------------------------------------------------------------------------------------------------
# Sources
# ---------------------------------------------------------------------------------------------------------------------


def test_nothing_is_given_where_there_is_nothing(data_dir: Path) -> None:
    assert _given(_keys(data_dir)) == []
    data_dir.mkdir()
    assert _given(_keys(data_dir)) == []


@pytest.mark.parametrize("environment", Environment)
def test_an_existing_default_file_counts_as_given_in_every_environment(
    data_dir: Path, environment: Environment
) -> None:
    _default_file(data_dir)
    assert _given(_keys(data_dir, environment=environment)) == [KEY]


@pytest.mark.parametrize(
    "text", [TEXT, TEXT.rstrip("="), KEY.hex(), base64.urlsafe_b64encode(KEY).decode(), f" {TEXT}\n"]
)
def test_every_form_is_read_from_every_source(data_dir: Path, tmp_path: Path, text: str) -> None:
    assert _given(_keys(data_dir, master_key=text)) == [KEY]
    assert _given(_keys(data_dir, master_key_file=_file(tmp_path / "mounted", text))) == [KEY]
    _default_file(data_dir, text)
    assert _given(_keys(data_dir)) == [KEY]


def test_what_is_given_overrides_the_default_file_and_says_so_once(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    default = _default_file(data_dir, base64.b64encode(OTHER).decode())
    for keys in (_keys(data_dir, master_key=TEXT), _keys(data_dir, master_key_file=_file(tmp_path / "mounted"))):
        caplog.clear()
        assert _given(keys) == _given(keys) == [KEY]
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert str(default) in record.getMessage()


def test_nothing_is_said_where_there_is_nothing_to_say(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _given(_keys(data_dir, master_key=TEXT))
    _given(_keys(data_dir, master_key_file=_file(tmp_path / "mounted", mode=0o400)))
    _default_file(data_dir)
    _given(_keys(data_dir))
    assert caplog.records == []


def test_during_a_change_the_previous_key_comes_second(data_dir: Path) -> None:
    previous = base64.b64encode(OTHER).decode()
    assert _given(_keys(data_dir, master_key=TEXT, previous=previous)) == [KEY, OTHER]
    assert _given(_keys(data_dir, master_key=TEXT, previous=KEY.hex())) == [KEY]
    _default_file(data_dir)
    assert _given(_keys(data_dir, previous=previous)) == [KEY, OTHER]


def test_a_previous_key_alone_is_a_mistake(data_dir: Path) -> None:
    with pytest.raises(ConfigInvalid, match="MASTER_KEY_PREVIOUS"):
        _given(_keys(data_dir, previous=TEXT))


def test_a_key_given_twice_is_a_mistake(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="twice"):
        _given(_keys(data_dir, master_key=TEXT, master_key_file=_file(tmp_path / "mounted")))


# ---------------------------------------------------------------------------------------------------------------------
# Weak keys
# ---------------------------------------------------------------------------------------------------------------------

WEAK = ["", "   ", "changeme", "0" * 64, bytes(range(32)).hex(), TEXT[:-2], TEXT + TEXT, "not a key at all", "\ud800"]


@pytest.mark.parametrize("text", WEAK)
@pytest.mark.parametrize("environment", [each for each in Environment if each is not Environment.TEST])
def test_a_weak_key_is_refused_from_every_source_and_not_repeated(
    data_dir: Path, tmp_path: Path, text: str, environment: Environment
) -> None:
    content = text.encode("utf-8", "surrogatepass")
    _default_file(data_dir, content)
    mounted = _file(tmp_path / "mounted", content)
    for keys in (
        _keys(data_dir, environment=environment, master_key=text),
        _keys(data_dir, environment=environment, master_key_file=mounted),
        _keys(data_dir, environment=environment),
        _keys(data_dir, environment=environment, master_key=TEXT, previous=text),
    ):
        with pytest.raises(InsecureKey) as refused:
            _given(keys)
        assert not text.strip() or text not in refused.value.line()
        assert refused.value.__cause__ is None


@pytest.mark.parametrize("content", [KEY, b"\xff\xfe" + TEXT.encode("utf-16-le"), bytes(32)])
def test_raw_bytes_are_no_master_key(data_dir: Path, content: bytes) -> None:
    _default_file(data_dir, content)
    with pytest.raises(InsecureKey, match="64 hex digits"):
        _given(_keys(data_dir))


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660, 0o666, 0o601, 0o620, 0o777])
def test_a_default_file_that_is_open_to_others_is_refused_until_its_remedy_was_run(data_dir: Path, mode: int) -> None:
    _default_file(data_dir, mode=mode)
    with pytest.raises(InsecureKey, match="open to group or others") as refused:
        _given(_keys(data_dir))
    _run_the_remedy(refused.value)
    assert _given(_keys(data_dir)) == [KEY]


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_a_default_file_for_its_owner_alone_is_read(data_dir: Path, mode: int) -> None:
    _default_file(data_dir, mode=mode)
    assert _given(_keys(data_dir)) == [KEY]


@pytest.mark.parametrize("mode", [0o444, 0o644, 0o440, 0o640])
def test_a_mounted_file_that_others_may_read_only_warns(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    mounted = _file(tmp_path / "mounted", mode=mode)
    keys = _keys(data_dir, master_key_file=mounted)
    assert _given(keys) == _given(keys) == [KEY]
    (record,) = caplog.records
    assert str(mounted) in record.getMessage()
    assert TEXT not in record.getMessage()


@pytest.mark.parametrize("mode", [0o622, 0o646, 0o664, 0o666, 0o602])
def test_a_mounted_file_that_others_may_write_is_refused_until_its_remedy_was_run(
    data_dir: Path, tmp_path: Path, mode: int
) -> None:
    mounted = _file(tmp_path / "it's a mount", mode=mode)
    with pytest.raises(InsecureKey) as refused:
        _given(_keys(data_dir, master_key_file=mounted))
    _run_the_remedy(refused.value)
    assert _given(_keys(data_dir, master_key_file=mounted)) == [KEY]


def test_the_links_of_a_kubernetes_mount_are_followed(data_dir: Path, tmp_path: Path) -> None:
    _file(tmp_path / "..2026_05_04" / "master_key", mode=0o400)
    (tmp_path / "..data").symlink_to("..2026_05_04")
    (tmp_path / "master_key").symlink_to("..data/master_key")
    assert _given(_keys(data_dir, master_key_file=tmp_path / "master_key")) == [KEY]


def test_the_file_is_judged_and_not_the_link_to_it(data_dir: Path, tmp_path: Path) -> None:
    target = _file(tmp_path / "target", mode=0o644)
    data_dir.mkdir()
    (data_dir / "master.key").symlink_to(target)
    with pytest.raises(InsecureKey):
        _given(_keys(data_dir))
    target.chmod(0o600)
    assert _given(_keys(data_dir)) == [KEY]


def _missing(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)


def _directory(path: Path) -> None:
    path.mkdir(parents=True)


def _fifo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path, 0o600)


def _too_large(path: Path) -> None:
    _file(path, TEXT + "\n" * 4096)


def _dangling(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("nowhere")


def _below_a_file(path: Path) -> None:
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.write_text("a file where a directory should be")


@pytest.mark.parametrize("make", [_missing, _directory, _fifo, _too_large, _dangling, _below_a_file])
def test_a_given_file_that_cannot_be_read_is_a_mistake(
    data_dir: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "mount" / "master_key"
    make(path)
    with pytest.raises(ConfigInvalid, match="MASTER_KEY_FILE") as refused:
        _given(_keys(data_dir, master_key_file=path))
    assert str(path) in refused.value.line()


@pytest.mark.parametrize("make", [_directory, _fifo, _too_large, _dangling, _below_a_file])
def test_a_default_file_that_cannot_be_read_is_not_a_missing_one(data_dir: Path, make: Callable[[Path], None]) -> None:
    make(data_dir / "master.key")
    keys = _keys(data_dir)
    with pytest.raises(ConfigInvalid):
        _given(keys)
    with pytest.raises(ConfigInvalid):
        keys.create()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ELOOP])
def test_a_refusal_of_the_system_is_not_a_missing_file(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    _default_file(data_dir)

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    for keys in (_keys(data_dir), _keys(data_dir, master_key_file=data_dir / "master.key")):
        with pytest.raises(ConfigInvalid, match=os.strerror(code)):
            _given(keys)


def test_files_of_other_secrets_are_judged_like_a_mounted_master_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    private = _file(tmp_path / "private")
    readable = _file(tmp_path / "readable", mode=0o444)
    check_secret_file_modes({"JWT_SECRET_KEY": private, "DISCORD_BOT_TOKEN": readable, "AES_KEY": tmp_path / "gone"})
    assert [record.getMessage() for record in caplog.records] == [
        f"group or others may read {readable}, which DISCORD_BOT_TOKEN_FILE names"
    ]
    private.chmod(0o662)
    with pytest.raises(InsecureKey, match="JWT_SECRET_KEY_FILE") as refused:
        check_secret_file_modes({"JWT_SECRET_KEY": private})
    _run_the_remedy(refused.value)
    check_secret_file_modes({"JWT_SECRET_KEY": private})


# ---------------------------------------------------------------------------------------------------------------------
# Making one
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_the_file_and_its_directory_are_for_the_owner_alone_under_every_umask(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    made = _keys(data_dir).create()
    assert (data_dir / "master.key").stat().st_mode & 0o777 == 0o600
    assert data_dir.stat().st_mode & 0o077 == 0
    assert _given(_keys(data_dir)) == [made.reveal()]


def test_the_file_holds_32_random_bytes_in_base64_on_one_line(data_dir: Path) -> None:
    made = _keys(data_dir).create()
    content = (data_dir / "master.key").read_bytes()
    assert re.fullmatch(rb"[A-Za-z0-9+/]{43}=\n", content)
    assert base64.b64decode(content) == made.reveal()
    assert _keys(data_dir / "other").create() != made


def test_creating_again_reads_what_is_there(data_dir: Path) -> None:
    made = _keys(data_dir).create()
    before = (data_dir / "master.key").stat()
    assert _keys(data_dir).create() == made
    assert (data_dir / "master.key").stat() == before


def test_creating_judges_what_is_there(data_dir: Path) -> None:
    _default_file(data_dir, mode=0o644)
    with pytest.raises(InsecureKey):
        _keys(data_dir).create()
    _default_file(data_dir, "")
    with pytest.raises(InsecureKey):
        _keys(data_dir).create()
    assert (data_dir / "master.key").read_bytes() == b""


def test_nothing_else_is_left_in_the_directory(data_dir: Path) -> None:
    _keys(data_dir).create()
    assert [path.name for path in data_dir.iterdir()] == ["master.key"]


@pytest.mark.parametrize(
    ("function", "code"), [("fsync", errno.ENOSPC), ("replace", errno.EIO), ("fchmod", errno.EPERM)]
)
def test_a_full_or_broken_disk_leaves_nothing_and_a_retry_is_clean(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    data_dir.mkdir()

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as broken:
        broken.setattr(os, function, fail)
        with pytest.raises(ConfigInvalid, match=os.strerror(code)):
            _keys(data_dir).create()
    assert list(data_dir.iterdir()) == []
    assert _given(_keys(data_dir)) == []
    made = _keys(data_dir).create()
    assert _given(_keys(data_dir)) == [made.reveal()]


def test_a_disk_that_takes_half_of_the_key_leaves_nothing(data_dir: Path) -> None:
    """For real, by a limit on the size of files: the system refuses the rest of the write."""
    script = _SCRIPT.format(data_dir=str(data_dir))
    limited = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20)),
    )
    assert "ConfigInvalid" in limited.stderr
    assert list(data_dir.iterdir()) == []


def test_a_data_dir_that_cannot_be_made_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for data_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigInvalid, match=r"DATA_DIR|cannot be read"):
            _keys(data_dir).create()


# Makes the master key and remembers an install, as a first start does, once its standard input ends; prints the key.
_SCRIPT = """
import sys
from pathlib import Path
from app.domain.keys import Environment
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.install_file import InstallFile
from app.infrastructure.master_key import MasterKeys

data_dir = Path({data_dir!r})
keys = MasterKeys(data_dir=data_dir, environment=Environment.DEVELOPMENT, randomness=SystemRandomness())
sys.stdin.read()
print(keys.create().reveal().hex(), flush=True)
InstallFile(data_dir).remember("one-install", {{"AES_KEY": 1}})
"""


@pytest.mark.slow
def test_racing_processes_make_one_key(data_dir: Path) -> None:
    script = _SCRIPT.format(data_dir=str(data_dir))
    with ExitStack() as stack:
        racers = [
            stack.enter_context(Process("-c", script, env=process_environment(), stdin=subprocess.PIPE))
            for _ in range(12)
        ]
        pipes = [(racer.stdin, racer.stdout) for racer in racers]
        for stdin, _ in pipes:
            assert stdin is not None
            stdin.close()
        made = {stdout.read() for _, stdout in pipes if stdout is not None}
    assert [racer.returncode for racer in racers] == [0] * len(racers)
    assert made == {_given(_keys(data_dir))[0].hex() + "\n"}
    assert sorted(path.name for path in data_dir.iterdir()) == ["install.json", "master.key"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "call", ["/^mkdir", "openat", "flock", "fchmod", "write", "fsync", "/^rename", "/^unlink", "close"]
)
def test_killed_at_any_system_call_the_next_start_finds_all_or_nothing(data_dir: Path, call: str) -> None:
    """SIGKILL at the first, second, … such call that touches DATA_DIR, until one run gets through."""
    names = ("master.key", ".master.key.new", "install.json", ".install.json.new")
    watched = [data_dir.parent, data_dir, *(data_dir / name for name in names)]
    script = ["-c", _SCRIPT.format(data_dir=str(data_dir))]
    for number in range(1, 50):
        shutil.rmtree(data_dir, ignore_errors=True)
        run = traced(script, *watching(watched), *killing(call, number), env=process_environment())
        assert run.returncode in {0, -signal.SIGKILL}, run.stderr
        left = _given(_keys(data_dir))
        assert not run.stdout or left == [bytes.fromhex(run.stdout)], "what was acknowledged is lost"
        made = _keys(data_dir).create()
        assert left in ([], [made.reveal()])
        record = InstallFile(data_dir)
        remembered = record.read()
        assert remembered is None or remembered.install_id == "one-install"
        record.remember("one-install", {"AES_KEY": 1})
        assert sorted(path.name for path in data_dir.iterdir()) == ["install.json", "master.key"]
        if run.returncode == 0:
            assert number > 1, "nothing was killed"
            return
    pytest.fail("no run ever got through")


# ---------------------------------------------------------------------------------------------------------------------
# Changing it
# ---------------------------------------------------------------------------------------------------------------------

OTHER_TEXT = base64.b64encode(OTHER).decode()


def _previous_file(data_dir: Path, content: str | bytes = OTHER_TEXT + "\n", mode: int = 0o600) -> Path:
    return _file(data_dir / "master.key.previous", content, mode)


def test_a_change_puts_a_fresh_key_in_the_file_and_keeps_the_old_one_until_it_is_finished(data_dir: Path) -> None:
    _default_file(data_dir)
    keys = _keys(data_dir)
    new = keys.begin_change()
    assert new.reveal() != KEY
    assert _given(keys) == _given(_keys(data_dir)) == [new.reveal(), KEY]
    keys.finish_change(new)
    assert _given(keys) == _given(_keys(data_dir)) == [new.reveal()]
    assert [path.name for path in data_dir.iterdir()] == ["master.key"]


def test_a_change_that_was_begun_is_taken_up_and_not_begun_again(data_dir: Path) -> None:
    _default_file(data_dir)
    new = _keys(data_dir).begin_change()
    assert _keys(data_dir).begin_change() == new
    assert _given(_keys(data_dir)) == [new.reveal(), KEY]


def test_a_change_that_wrote_the_previous_key_and_no_more_is_begun_again(data_dir: Path) -> None:
    """Else the same key would pass for a new one, and nothing would have been changed."""
    _default_file(data_dir)
    _previous_file(data_dir, TEXT)
    assert _given(_keys(data_dir)) == [KEY]
    new = _keys(data_dir).begin_change()
    assert new.reveal() != KEY
    assert _given(_keys(data_dir)) == [new.reveal(), KEY]


def test_a_straggler_does_not_finish_the_change_of_another(data_dir: Path) -> None:
    _default_file(data_dir)
    first = _keys(data_dir).begin_change()
    _keys(data_dir).finish_change(first)
    second = _keys(data_dir).begin_change()
    _keys(data_dir).finish_change(first)
    assert _given(_keys(data_dir)) == [second.reveal(), first.reveal()]
    _keys(data_dir).finish_change(second)
    _keys(data_dir).finish_change(second)
    assert _given(_keys(data_dir)) == [second.reveal()]


@pytest.mark.usefixtures("umask")
def test_both_files_of_a_change_are_for_the_owner_alone_under_every_umask(data_dir: Path) -> None:
    _keys(data_dir).create()
    _keys(data_dir).begin_change()
    modes = {path.name: path.stat().st_mode & 0o777 for path in data_dir.iterdir()}
    assert modes == {"master.key": 0o600, "master.key.previous": 0o600}


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o666])
def test_a_previous_file_that_is_open_to_others_is_refused_until_its_remedy_was_run(data_dir: Path, mode: int) -> None:
    _default_file(data_dir)
    _previous_file(data_dir, mode=mode)
    with pytest.raises(InsecureKey):
        _keys(data_dir).begin_change()
    with pytest.raises(InsecureKey, match=r"master\.key\.previous is open to group or others") as refused:
        _given(_keys(data_dir))
    _run_the_remedy(refused.value)
    assert _given(_keys(data_dir)) == [KEY, OTHER]


def test_a_previous_file_that_holds_no_key_is_refused(data_dir: Path) -> None:
    _default_file(data_dir)
    _previous_file(data_dir, "")
    with pytest.raises(InsecureKey, match=r"master\.key\.previous"):
        _given(_keys(data_dir))


def test_a_previous_file_alone_is_a_mistake_whose_remedy_brings_it_back(data_dir: Path) -> None:
    _previous_file(data_dir)
    with pytest.raises(ConfigInvalid, match=r"master\.key\.previous") as refused:
        _given(_keys(data_dir))
    _run_the_remedy(refused.value)
    assert _given(_keys(data_dir)) == [OTHER]


def test_a_change_that_was_cut_short_is_told_once_with_its_remedy(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _default_file(data_dir)
    _previous_file(data_dir)
    keys = _keys(data_dir)
    assert _given(keys) == _given(keys) == [KEY, OTHER]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "`keyhall keys rotate-master`" in record.getMessage()


def test_the_previous_key_of_the_settings_comes_after_that_of_the_files(data_dir: Path) -> None:
    third = hashlib.sha256(b"a third master key").digest()
    _default_file(data_dir)
    _previous_file(data_dir)
    assert _given(_keys(data_dir, previous=third.hex())) == [KEY, OTHER, third]
    assert _given(_keys(data_dir, previous=OTHER.hex())) == [KEY, OTHER]


def test_a_key_from_the_settings_is_not_changed_and_looks_at_no_file(data_dir: Path, tmp_path: Path) -> None:
    _default_file(data_dir)
    _previous_file(data_dir, mode=0o666)
    mounted = _file(tmp_path / "mounted", OTHER_TEXT)
    for keys, setting in (
        (_keys(data_dir, master_key=OTHER_TEXT), "MASTER_KEY"),
        (_keys(data_dir, master_key_file=mounted), "MASTER_KEY_FILE"),
    ):
        assert (keys.in_default_file, keys.overridden_by) == (False, setting)
        assert _given(keys) == [OTHER]
        with pytest.raises(ConfigInvalid, match=f"{setting},") as refused:
            keys.begin_change()
        assert "MASTER_KEY_PREVIOUS" in refused.value.remedy
    assert (data_dir / "master.key").read_text() == TEXT + "\n"


def test_there_is_nothing_to_change_where_there_is_no_key(data_dir: Path) -> None:
    keys = _keys(data_dir)
    assert (keys.in_default_file, keys.overridden_by) == (False, None)
    with pytest.raises(ConfigInvalid, match="no master key"):
        keys.begin_change()
    keys.create()
    assert keys.in_default_file


_CHANGES_FILES = ("open", "fchmod", "fsync", "replace", "unlink", "close")


class _Refusing:
    """Functions of ``os`` of which the nth call in all raises, before it does anything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
        self.calls = 0
        self._nth = nth
        for name in _CHANGES_FILES:
            monkeypatch.setattr(os, name, self._counting(name, getattr(os, name)))

    def _counting(self, name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            self.calls += 1
            if self.calls == self._nth:
                if name == "close":  # it lets go of the descriptor also where it fails
                    function(*arguments, **options)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return function(*arguments, **options)

        return call


def test_wherever_a_change_fails_the_key_of_the_database_is_given_and_the_next_one_ends_it(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = 0
    for nth in range(1, 200):
        shutil.rmtree(data_dir, ignore_errors=True)
        _default_file(data_dir)
        database = KEY
        with monkeypatch.context() as broken:
            refusing = _Refusing(broken, nth)
            try:
                new = _keys(data_dir).begin_change()
                database = new.reveal()
                _keys(data_dir).finish_change(new)
            except ConfigInvalid as failed:
                assert os.strerror(errno.EIO) in failed.line()  # noqa: PT017 - the last round fails nowhere
                reached += 1
        assert database in _given(_keys(data_dir))
        again = _keys(data_dir).begin_change()
        assert again.reveal() != KEY
        assert database in _given(_keys(data_dir))
        _keys(data_dir).finish_change(again)
        assert _given(_keys(data_dir)) == [again.reveal()]
        assert [path.name for path in data_dir.iterdir()] == ["master.key"]
        if refusing.calls < nth:
            break
    assert reached >= 15


# Changes the master key; the file that stands for the database is rewrapped in between.
_CHANGE_SCRIPT = """
from pathlib import Path
from app.domain.keys import Environment
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.master_key import MasterKeys

database = Path({database!r})
keys = MasterKeys(data_dir=Path({data_dir!r}), environment=Environment.PRODUCTION, randomness=SystemRandomness())
new = keys.begin_change()
assert database.read_bytes() in [each.reveal() for each in keys.given()]
database.write_bytes(new.reveal())
keys.finish_change(new)
"""


@pytest.mark.slow
@pytest.mark.parametrize("call", ["openat", "flock", "fchmod", "write", "fsync", "/^rename", "/^unlink", "close"])
def test_killed_at_any_system_call_of_a_change_the_key_of_the_database_is_given(
    data_dir: Path, tmp_path: Path, call: str
) -> None:
    """SIGKILL at the first, second, … such call that touches DATA_DIR, until one run gets through."""
    names = ("master.key", ".master.key.new", "master.key.previous", ".master.key.previous.new")
    database = tmp_path / "database"
    watched = [data_dir, *(data_dir / name for name in names)]
    script = ["-c", _CHANGE_SCRIPT.format(data_dir=str(data_dir), database=str(database))]
    for number in range(1, 60):
        shutil.rmtree(data_dir, ignore_errors=True)
        _default_file(data_dir)
        database.write_bytes(KEY)
        run = traced(script, *watching(watched), *killing(call, number), env=process_environment())
        assert run.returncode in {0, -signal.SIGKILL}, run.stderr
        assert database.read_bytes() in _given(_keys(data_dir))
        new = _keys(data_dir).begin_change()
        assert database.read_bytes() in _given(_keys(data_dir))
        _keys(data_dir).finish_change(new)
        assert sorted(path.name for path in data_dir.iterdir()) == ["master.key"]
        if run.returncode == 0:
            assert number > 1, "nothing was killed"
            return
    pytest.fail("no run ever got through")


# ---------------------------------------------------------------------------------------------------------------------
# Putting one back
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("umask")
def test_a_key_is_put_where_there_is_none_for_the_owner_alone(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    assert _keys(data_dir).install(SecretBytes(KEY)) is True
    assert (data_dir / "master.key").read_text() == TEXT + "\n"
    assert (data_dir / "master.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in data_dir.iterdir()] == ["master.key"]


@pytest.mark.parametrize("text", [TEXT, KEY.hex()])
def test_a_key_that_is_there_already_is_left_as_it_is(data_dir: Path, text: str) -> None:
    _default_file(data_dir, text)
    assert _keys(data_dir).install(SecretBytes(KEY)) is False
    assert (data_dir / "master.key").read_text() == text


@pytest.mark.parametrize("content", [OTHER_TEXT, "", TEXT[:20], b"\xff" * 32])
def test_what_is_there_instead_is_never_overwritten_and_its_remedy_moves_it_away(
    data_dir: Path, content: str | bytes
) -> None:
    path = _default_file(data_dir, content)
    before = path.read_bytes()
    with pytest.raises(ConfigInvalid, match="holds something else") as refused:
        _keys(data_dir).install(SecretBytes(KEY))
    assert path.read_bytes() == before
    _run_the_remedy(refused.value)
    assert _keys(data_dir).install(SecretBytes(KEY)) is True
    assert (data_dir / "master.key.old").read_bytes() == before


def test_a_file_that_is_open_to_others_is_refused_even_with_the_same_key(data_dir: Path) -> None:
    _default_file(data_dir, mode=0o644)
    with pytest.raises(InsecureKey) as refused:
        _keys(data_dir).install(SecretBytes(KEY))
    _run_the_remedy(refused.value)
    assert _keys(data_dir).install(SecretBytes(KEY)) is False


def test_the_key_never_shows(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made = _keys(data_dir).create()
    keys = _keys(data_dir, master_key=TEXT)
    given = keys.given()
    shown = f"{keys!r} {vars(keys)!r} {given!r} {made!r} {caplog.text}"
    for secret in (made, SecretBytes(KEY)):
        for form in (secret.reveal().hex(), base64.b64encode(secret.reveal()).decode(), repr(secret.reveal())[2:-1]):
            assert form not in shown
