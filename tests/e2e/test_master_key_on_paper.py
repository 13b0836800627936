"""The master key to paper and back, as an operator does it: real processes, and secrets that must not show."""

from __future__ import annotations

import asyncio
import base64
import os
import pty
import re
import secrets
import shlex
import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from app.domain.errors import InvalidInput
from app.domain.keys import Environment
from app.domain.secrets import SecretBytes
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from app.infrastructure.paper import from_words_or_text, words
from tests.support.environment import process_environment
from tests.support.installs import Place
from tests.support.processes import PROJECT

Done = subprocess.CompletedProcess[str]


def _installed(place: Place) -> Place:
    return asyncio.run(place.install())


@pytest.fixture
def installed(sqlite_place: Place) -> Place:
    """An install whose master key is in the default file."""
    return _installed(sqlite_place)


def _key(place: Place) -> bytes:
    return base64.b64decode((place.data_dir / "master.key").read_text())


def _id(key: bytes) -> str:
    return MasterKeyWrapping(SecretBytes(key)).master_key_id


def _words(key: bytes) -> list[str]:
    return [*words(SecretBytes(key))]


def _lose(place: Place) -> bytes:
    """Move the key's file away; returns the key."""
    key = _key(place)
    (place.data_dir / "master.key").rename(place.data_dir.parent / "lost.key")
    return key


def _restore(place: Place, *arguments: str, stdin: str = "") -> Done:
    return place.command("keys", "restore-master", *arguments, stdin=stdin)


def _require_hidden(done: Done, key: bytes) -> None:
    """Neither the key nor two of its words after another may be in what a person sees or a log keeps."""
    said = done.stdout + done.stderr
    for shape in (base64.b64encode(key).decode().rstrip("="), key.hex()):
        assert shape not in said
    told, on_paper = re.findall(r"[a-z]+", said.lower()), _words(key)
    assert not {*pairwise(told)} & {*pairwise(on_paper)}


def _words_on(page: str) -> list[str]:
    svg = ET.fromstring(page)  # noqa: S314 - our own
    return [str(each.text) for each in svg.iter("{http://www.w3.org/2000/svg}text") if each.get("class") == "word"]


# ---------------------------------------------------------------------------------------------------------------------
# To paper
# ---------------------------------------------------------------------------------------------------------------------


def test_the_key_goes_to_paper_and_comes_back_from_it(place: Place, tmp_path: Path) -> None:
    _installed(place)
    paper = tmp_path / "it's paper.svg"
    printed = place.command("keys", "print-master", str(paper))
    assert printed.returncode == 0, printed.stderr
    assert paper.stat().st_mode & 0o777 == 0o600
    assert f"shred -u {shlex.quote(str(paper))}" in printed.stderr
    _require_hidden(printed, _key(place))
    assert _id(_key(place)) in paper.read_text()

    key = _lose(place)
    assert place.command("keys", "list").returncode == 78
    typed = "\n".join(f"{number}. {word}" for number, word in enumerate(_words_on(paper.read_text()), 1))
    checked = _restore(place, "--check", stdin=typed)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert _id(key) in checked.stdout
    assert not (place.data_dir / "master.key").exists()
    restored = _restore(place, stdin=typed)
    assert restored.returncode == 0, restored.stderr
    _require_hidden(restored, key)
    assert _key(place) == key
    assert (place.data_dir / "master.key").stat().st_mode & 0o777 == 0o600
    assert place.command("keys", "validate").returncode == 0
    again = _restore(place, stdin=typed)
    assert again.returncode == 0
    assert "was already in" in again.stdout


def test_a_printed_page_is_in_the_audit_trail_before_anybody_sees_it(installed: Place, tmp_path: Path) -> None:
    installed.command("keys", "print-master", str(tmp_path / "paper.svg"))
    rows = [(row[2], row[3], row[4], row[8]) for row in asyncio.run(installed.contents())["audit_events"]]
    assert ("master_key.printed", "ok", "cli", _id(_key(installed))) in rows


def test_standard_output_gets_the_page_and_nothing_else(installed: Place) -> None:
    printed = installed.command("keys", "print-master", "-")
    assert printed.returncode == 0
    assert _words_on(printed.stdout) == _words(_key(installed))
    assert "shred" in printed.stderr
    _require_hidden(Done([], 0, "", printed.stderr), _key(installed))


def test_a_file_that_is_there_is_overwritten_only_on_the_operators_word(installed: Place, tmp_path: Path) -> None:
    paper, other = tmp_path / "paper.svg", tmp_path / "other"
    paper.write_text("something dear")
    paper.chmod(0o644)
    refused = installed.command("keys", "print-master", str(paper))
    assert (refused.returncode, paper.read_text()) == (1, "something dear")
    assert "--force" in refused.stderr
    assert installed.command("keys", "print-master", str(paper), "--force").returncode == 0
    assert _words_on(paper.read_text()) == _words(_key(installed))
    assert paper.stat().st_mode & 0o777 == 0o600
    for path in (tmp_path / "link", tmp_path / "directory"):
        (path.symlink_to(other) if path.name == "link" else path.mkdir())
        for force in ((), ("--force",)):
            assert installed.command("keys", "print-master", str(path), *force).returncode == 1
    assert not other.exists()
    nowhere = installed.command("keys", "print-master", str(tmp_path / "nowhere" / "paper.svg"))
    assert (nowhere.returncode, "cannot be written" in nowhere.stderr) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir() if "paper" in path.name) == ["paper.svg"]


def test_nothing_is_printed_that_does_not_open_the_install(installed: Place, tmp_path: Path) -> None:
    paper = tmp_path / "paper.svg"
    other = installed.having(MASTER_KEY=secrets.token_hex(32))
    assert other.command("keys", "print-master", str(paper)).returncode == 78
    key = _lose(installed)
    assert installed.command("keys", "print-master", str(paper)).returncode == 78
    assert not paper.exists()
    # A change under way: the install is still under the previous key, and the new one's page would not open it.
    for name, value in (("master.key", secrets.token_bytes(32)), ("master.key.previous", key)):
        path = installed.data_dir / name
        path.write_bytes(base64.b64encode(value))
        path.chmod(0o600)
    refused = installed.command("keys", "print-master", str(paper))
    assert (refused.returncode, "rotate-master" in refused.stderr) == (78, True)
    assert not paper.exists()


# ---------------------------------------------------------------------------------------------------------------------
# And back
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["base64", "hex", "words"])
def test_every_shape_is_read_from_a_file(installed: Place, tmp_path: Path, shape: str) -> None:
    key = _lose(installed)
    file = tmp_path / "typed"
    text = {"base64": base64.b64encode(key).decode(), "hex": key.hex(), "words": " ".join(_words(key)).upper()}[shape]
    file.write_text(text + "\n")
    done = _restore(installed, "--file", str(file))
    assert done.returncode == 0, done.stderr
    _require_hidden(done, key)
    assert _key(installed) == key


def test_what_is_wrong_with_the_words_is_said_without_repeating_them(installed: Place) -> None:
    key = _lose(installed)
    right = _words(key)
    swapped = next(
        text
        for place in range(23)
        if right[place] != right[place + 1]
        and not _opens(text := " ".join([*right[:place], right[place + 1], right[place], *right[place + 2 :]]))
    )
    for typed, said in (
        (" ".join([*right[:6], "xyzzy", *right[7:]]), "word 7 is not on the list"),
        (swapped, "checksum"),
        (" ".join(right[:-1]), "23 were given"),
        (base64.b64encode(key).decode()[:-5], "43 characters of base64"),
    ):
        done = _restore(installed, stdin=typed)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
        assert "xyzzy" not in done.stderr
        _require_hidden(done, key)
    done = _restore(installed, stdin="")
    assert done.returncode == 2
    assert "nothing came from standard input" in " ".join(done.stderr.split())
    assert not (installed.data_dir / "master.key").exists()


def _opens(text: str) -> bool:
    try:
        from_words_or_text(text, Environment.TEST)
    except InvalidInput:
        return False
    return True


def test_another_installs_key_is_refused_and_both_ids_are_named(installed: Place) -> None:
    key, other = _lose(installed), secrets.token_bytes(32)
    for arguments in ((), ("--check",)):
        done = _restore(installed, *arguments, stdin=" ".join(_words(other)))
        assert done.returncode == 78
        assert "halted [master_key_mismatch]" in done.stderr
        assert _id(key) in done.stderr
        assert _id(other) in done.stderr
        _require_hidden(done, other)
    assert not (installed.data_dir / "master.key").exists()


def test_another_key_in_the_files_place_is_never_overwritten(installed: Place) -> None:
    key, other = _lose(installed), base64.b64encode(secrets.token_bytes(32))
    file = installed.data_dir / "master.key"
    file.write_bytes(other)
    file.chmod(0o600)
    assert _restore(installed, "--check", stdin=key.hex()).returncode == 0
    done = _restore(installed, stdin=key.hex())
    assert (done.returncode, file.read_bytes()) == (78, other)
    assert f"mv {file}" in done.stderr


def test_a_setting_that_goes_before_the_file_is_named(installed: Place) -> None:
    key = _lose(installed)
    done = _restore(installed.having(MASTER_KEY=secrets.token_hex(32)), stdin=key.hex())
    assert done.returncode == 0, done.stderr
    assert _key(installed) == key
    assert "MASTER_KEY is set" in done.stderr


@pytest.mark.parametrize(
    "content", [b"abandon " * 1_300_000, b"\xff\xfe\x00" * 40, b"\x00" * 44], ids=["10MB", "bytes", "nul"]
)
def test_what_is_no_master_key_at_all_is_refused_at_once(installed: Place, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "content"
    file.write_bytes(content)
    with file.open("rb") as stdin:
        piped = subprocess.run(
            [sys.executable, "-m", "entrypoints.cli_entrypoint", "keys", "restore-master"],
            cwd=PROJECT,
            env=process_environment(**installed.environment),
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    for done in (piped, _restore(installed, "--file", str(file))):
        assert done.returncode in {1, 2}
        assert "Traceback" not in done.stderr
        assert "abandon" not in done.stderr


def test_without_an_install_there_is_nothing_to_prove_the_key_on_so_a_backup_will(sqlite_place: Place) -> None:
    key = secrets.token_hex(32)
    done = _restore(sqlite_place, "--check", stdin=key)
    assert done.returncode == 1
    assert "there is no install yet" in done.stderr
    assert not sqlite_place.data_dir.exists()
    done = _restore(sqlite_place, stdin=key)
    assert done.returncode == 0
    assert "no install here that could prove it" in done.stdout
    assert "keyhall backup restore FILE" in done.stderr
    assert stat.S_IMODE((sqlite_place.data_dir / "master.key").stat().st_mode) == 0o600
    # Another key does not take its place.
    assert _restore(sqlite_place, stdin=secrets.token_hex(32)).returncode == 78


def test_on_a_terminal_the_words_are_asked_for_line_by_line_and_not_shown(installed: Place) -> None:
    key = _lose(installed)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "entrypoints.cli_entrypoint", "keys", "restore-master"],
        cwd=PROJECT,
        env=process_environment(**installed.environment),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,  # away from the terminal of whoever runs the tests
    )
    os.close(theirs)
    on_paper = _words(key)
    shown = ""
    for row in [*(on_paper[first : first + 4] for first in range(0, 24, 4)), []]:
        prompts = shown.count("An empty line ends: ")
        while shown.count("An empty line ends: ") == prompts:
            shown += os.read(ours, 4096).decode()
        os.write(ours, f"{' '.join(row)}\n".encode())
    shown += _rest(ours)
    assert process.wait(timeout=60) == 0, shown
    assert _key(installed) == key
    _require_hidden(Done([], 0, shown, ""), key)


def _rest(terminal: int) -> str:
    """What comes until the other side is closed, which Linux tells as EIO."""
    parts = []
    try:
        while part := os.read(terminal, 4096):
            parts.append(part)
    except OSError:
        pass
    finally:
        os.close(terminal)
    return b"".join(parts).decode()
