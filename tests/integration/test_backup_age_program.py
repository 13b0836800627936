"""The program `age` and Keyhall read each other's files: a backup never depends on Keyhall being there."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest

from app.domain.secrets import SecretText
from app.infrastructure.backup.age import CHUNK, EncryptingWriter, decrypted
from app.infrastructure.backup.age_keys import Passphrase, Recipient, identities
from app.infrastructure.clock import SystemRandomness
from tests.support.terminal import typed
from tests.support.tools import require_tool

SIZES = [0, 1, CHUNK, CHUNK + 1, 1_000_000]
PHRASE = "correct horse battery staple"


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    path = tmp_path / "identity.txt"
    subprocess.run([require_tool("age-keygen"), "-o", path], check=True, capture_output=True)
    return path


def encrypted(plain: bytes, *recipients: Recipient) -> bytes:
    file = io.BytesIO()
    writer = EncryptingWriter(file, recipients, SystemRandomness())
    writer.write(plain)
    writer.finish()
    return file.getvalue()


@pytest.mark.parametrize("size", SIZES)
def test_age_and_keyhall_read_each_others_files_for_a_recipient(identity: Path, size: int) -> None:
    ours, plain = identities(identity.read_text()), os.urandom(size)
    age = require_tool("age")
    opened = subprocess.run(
        [age, "-d", "-i", identity], input=encrypted(plain, ours[0].recipient), capture_output=True, check=True
    )
    assert opened.stdout == plain
    made = subprocess.run([age, "-r", str(ours[0].recipient)], input=plain, capture_output=True, check=True)
    assert b"".join(decrypted(io.BytesIO(made.stdout), ours)) == plain


def test_age_and_keyhall_read_each_others_files_for_a_passphrase(tmp_path: Path) -> None:
    age, plain, phrase = require_tool("age"), os.urandom(CHUNK + 1), Passphrase(SecretText(PHRASE))
    file = tmp_path / "file"
    file.write_bytes(encrypted(plain, phrase))
    assert typed([age, "-d", file], PHRASE) == plain
    file.write_bytes(plain)
    theirs = tmp_path / "theirs"
    typed([age, "-p", "-o", theirs, file], PHRASE, PHRASE)
    with theirs.open("rb") as opened:
        assert b"".join(decrypted(opened, [phrase])) == plain


def test_age_refuses_what_was_changed_in_a_file_of_ours(identity: Path) -> None:
    file = bytearray(encrypted(b"content" * 100, identities(identity.read_text())[0].recipient))
    file[-30] ^= 1
    opened = subprocess.run(
        [require_tool("age"), "-d", "-i", identity], input=bytes(file), capture_output=True, check=False
    )
    assert opened.returncode != 0
