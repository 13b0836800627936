"""What an install remembers outside its database: whole, strict, and never an epoch less."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.errors import ConfigInvalid, InstallMismatch
from app.infrastructure.install_file import InstallFile
from app.services.ports import RememberedInstall

INSTALL = "6f1f2d5e-93a4-4a5e-8f0c-2b7d9c1e4a60"
EPOCHS = {"AES_KEY": 3, "JWT_SECRET_KEY": 1}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "it's data"


@pytest.fixture
def record(data_dir: Path) -> InstallFile:
    return InstallFile(data_dir)


def _written(data_dir: Path, content: str | bytes) -> None:
    data_dir.mkdir(exist_ok=True)
    (data_dir / "install.json").write_bytes(content if isinstance(content, bytes) else content.encode())


def _text(**changes: object) -> str:
    return json.dumps({"format": 1, "install_id": INSTALL, "epochs": EPOCHS, **changes})


def test_without_a_file_nothing_is_remembered(record: InstallFile, data_dir: Path) -> None:
    assert record.read() is None
    data_dir.mkdir()
    assert record.read() is None


def test_what_was_remembered_is_read(record: InstallFile) -> None:
    record.remember(INSTALL, EPOCHS)
    assert record.read() == RememberedInstall(install_id=INSTALL, epochs=EPOCHS)


def test_the_file_is_for_its_owner_alone_and_people_can_read_it(record: InstallFile, data_dir: Path) -> None:
    before = os.umask(0)
    try:
        record.remember(INSTALL, EPOCHS)
    finally:
        os.umask(before)
    path = data_dir / "install.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert data_dir.stat().st_mode & 0o777 == 0o700
    assert json.loads(path.read_text()) == {"format": 1, "install_id": INSTALL, "epochs": EPOCHS}
    assert [each.name for each in data_dir.iterdir()] == ["install.json"]


def test_an_epoch_never_goes_down(record: InstallFile) -> None:
    record.remember(INSTALL, {"AES_KEY": 5})
    record.remember(INSTALL, {"AES_KEY": 2, "API_SECRET_KEY": 7})
    record.remember(INSTALL, {"AES_KEY": 6, "API_SECRET_KEY": 1})
    record.remember(INSTALL, {})
    remembered = record.read()
    assert remembered is not None
    assert remembered.epochs == {"AES_KEY": 6, "API_SECRET_KEY": 7}


def test_nothing_is_written_where_nothing_changed(
    record: InstallFile, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a start on a read-only DATA_DIR works once the install is remembered."""
    record.remember(INSTALL, EPOCHS)
    before = (data_dir / "install.json").stat()
    monkeypatch.setattr(os, "replace", None)
    monkeypatch.setattr(os, "fsync", None)
    record.remember(INSTALL, EPOCHS)
    record.remember(INSTALL, {"AES_KEY": 1})
    assert (data_dir / "install.json").stat() == before


def test_another_install_is_refused_and_both_are_named(record: InstallFile) -> None:
    record.remember(INSTALL, EPOCHS)
    with pytest.raises(InstallMismatch) as refused:
        record.remember("another-install", {"AES_KEY": 9})
    assert INSTALL in refused.value.line()
    assert "another-install" in refused.value.line()
    assert record.read() == RememberedInstall(install_id=INSTALL, epochs=EPOCHS)


DAMAGED = [
    b"",
    b"\n",
    b"{}",
    b"[]",
    b"null",
    b"\x00" * 100,
    b"\xff\xfe{}",
    b"\xef\xbb\xbf" + _text().encode(),
    b"[" * 5000,
    b'{"a":' * 5000,
    b" " * 70_000,
    _text()[:-1],
    _text() + "x",
    _text(format=0),
    _text(format=2),
    _text(format="1"),
    _text(format=True),
    _text(format=1.0),
    _text(install_id=""),
    _text(install_id=None),
    _text(install_id=["x"]),
    _text(install_id="a\nb"),
    _text(install_id="\ud800"),
    _text(epochs=[]),
    _text(epochs=None),
    _text(epochs={"AES_KEY": 0}),
    _text(epochs={"AES_KEY": -1}),
    _text(epochs={"AES_KEY": "3"}),
    _text(epochs={"AES_KEY": True}),
    _text(epochs={"AES_KEY": 3.0}),
    _text(epochs={"AES_KEY": None}),
    _text(more=1),
    '{"format": 1, "install_id": "a", "install_id": "b", "epochs": {}}',
    '{"format": 1, "install_id": "a", "epochs": {"AES_KEY": 9, "AES_KEY": 1}}',
    '{"format": 1, "install_id": "a"}',
    '{"format": 1, "install_id": "a", "epochs": {"AES_KEY": NaN}}',
    '{"format": 1, "install_id": "a", "epochs": {"AES_KEY": ' + "9" * 5000 + "}}",
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_never_nothing_and_never_overwritten_until_its_remedy_was_run(
    record: InstallFile, data_dir: Path, content: str | bytes
) -> None:
    _written(data_dir, content)
    before = (data_dir / "install.json").read_bytes()
    with pytest.raises(InstallMismatch) as refused:
        record.read()
    with pytest.raises(InstallMismatch):
        record.remember(INSTALL, EPOCHS)
    assert (data_dir / "install.json").read_bytes() == before

    (command,) = re.findall(r"`(.*?)`", refused.value.line())
    subprocess.run(["sh", "-c", command], check=True)
    assert record.read() is None
    record.remember(INSTALL, EPOCHS)
    assert record.read() == RememberedInstall(install_id=INSTALL, epochs=EPOCHS)


def test_every_truncation_is_found(record: InstallFile, data_dir: Path) -> None:
    record.remember(INSTALL, EPOCHS)
    whole = (data_dir / "install.json").read_bytes()
    for length in range(len(whole.rstrip())):
        _written(data_dir, whole[:length])
        with pytest.raises(InstallMismatch):
            record.read()


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_content_raises_anything_else(record: InstallFile, data_dir: Path, content: bytes) -> None:
    _written(data_dir, content)
    with pytest.raises(InstallMismatch):
        record.read()


def test_something_else_in_its_place_is_damage(record: InstallFile, data_dir: Path) -> None:
    (data_dir / "install.json").mkdir(parents=True)
    with pytest.raises(InstallMismatch, match="not a regular file"):
        record.read()


def test_a_link_to_nowhere_is_damage(record: InstallFile, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "install.json").symlink_to("nowhere")
    with pytest.raises(InstallMismatch):
        record.read()


def test_a_file_that_may_not_be_read_is_neither_nothing_nor_damage(
    record: InstallFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.remember(INSTALL, EPOCHS)

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigInvalid, match="Permission denied"):
        record.read()


@pytest.mark.parametrize(("function", "code"), [("fsync", errno.ENOSPC), ("replace", errno.EIO)])
def test_a_full_or_broken_disk_keeps_what_was_remembered(
    record: InstallFile, data_dir: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    record.remember(INSTALL, EPOCHS)

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as broken:
        broken.setattr(os, function, fail)
        with pytest.raises(ConfigInvalid, match=os.strerror(code)):
            record.remember(INSTALL, {"AES_KEY": 4})
    assert record.read() == RememberedInstall(install_id=INSTALL, epochs=EPOCHS)
    assert [each.name for each in data_dir.iterdir()] == ["install.json"]
    record.remember(INSTALL, {"AES_KEY": 4})
    remembered = record.read()
    assert remembered is not None
    assert remembered.epochs["AES_KEY"] == 4


def test_writers_at_once_lose_nothing(data_dir: Path) -> None:
    """Each has a file descriptor of its own, so the lock keeps threads apart as it keeps processes."""
    barrier = threading.Barrier(8)
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            barrier.wait()
            for epoch in range(1, 11):
                InstallFile(data_dir).remember(INSTALL, {"SHARED": epoch, f"KEY_{number}": epoch})
        except BaseException as failure:  # noqa: BLE001 - reported by the test
            failures.append(failure)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    remembered = InstallFile(data_dir).read()
    assert remembered is not None
    assert remembered.epochs == {"SHARED": 10} | {f"KEY_{number}": 10 for number in range(8)}


@pytest.mark.parametrize("where", ["", "below", "far/below"])
@pytest.mark.parametrize("what", ["a file", "a circle"])
def test_a_data_dir_that_is_no_directory_is_named_as_such(tmp_path: Path, where: str, what: str) -> None:
    if what == "a file":
        (tmp_path / "data").write_text("a file")
    else:
        (tmp_path / "data").symlink_to("data")
    with pytest.raises(ConfigInvalid, match="is no directory") as caught:
        InstallFile(tmp_path / "data" / where).read()
    assert "mv" not in caught.value.remedy
