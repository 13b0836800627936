"""`make keys-generate` and `make keys-validate`: placeholders become keys, everything else stays to the letter."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from dotenv.parser import parse_stream

from app.domain.keys import APPLICATION_KEYS
from app.settings import PROJECT_ROOT
from scripts import env_keys

KEYS = [name.value for name in APPLICATION_KEYS]
OWN = "0123456789abcdef" * 3 + "fedcba98765432f1"
KEPT = "b8b3a9f04c1d7e6625930fd1a7c4e2890b5d6f7a13c8e4920d7f6b5a4c3e2d1f"


@pytest.fixture(autouse=True)
def _own_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The templates of the project in a directory of the test's own."""
    for template in (PROJECT_ROOT / "env").glob(".env.*.example"):
        shutil.copy(template, tmp_path)
    monkeypatch.setattr(env_keys, "DIRECTORY", tmp_path)
    monkeypatch.delenv("FORCE", raising=False)


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / ".env.dev"


def make(monkeypatch: pytest.MonkeyPatch, command: str, env: str = "dev", *, force: str = "") -> int:
    monkeypatch.setenv("ENV", env)
    monkeypatch.setenv("FORCE", force)
    return env_keys.main(command)


def values(path: Path) -> dict[str, str]:
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    return {each.key: each.value or "" for each in parse_stream(io.StringIO(text, newline="")) if each.key}


# ---------------------------------------------------------------------------------------------------------------------
# Generate
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["dev", "ci"])
def test_a_file_is_made_from_the_template_with_keys_that_validate(
    env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(monkeypatch, "generate", env) == 0
    path = tmp_path / f".env.{env}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = values(path)
    assert len({found[name] for name in KEYS}) == len(KEYS)
    assert make(monkeypatch, "validate", env) == 0
    out, err = capsys.readouterr()
    for name in ["MASTER_KEY", *KEYS]:
        assert re.search(rf"^✅ {name} .+$", out, re.MULTILINE)
    assert not any(found[name] in out + err for name in KEYS)


def test_a_second_run_changes_nothing(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(monkeypatch, "generate")
    before = env_file.read_bytes()
    assert make(monkeypatch, "generate") == 0
    assert env_file.read_bytes() == before
    assert not env_file.with_name(".env.dev.bak").exists()


def test_only_placeholders_are_filled_and_everything_else_stays_to_the_letter(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (
        b"\xef\xbb\xbf# r\xe9sum\xe9\r\n"  # a byte order mark, and bytes that are not UTF-8
        b'export  JWT_SECRET_KEY = "REPLACE_ME"  # a comment\r\n'
        b"AES_KEY='change-me'\r\n"
        b"ENCRYPTION_KEY=\r\n"
        b"API_SECRET_KEY=" + KEPT.encode() + b"\r\n"
        b"#MASTER_KEY=REPLACE_ME\r\n"
        b"OTHER='two\nlines REPLACE_ME'\r\n"
        b"DISCORD_BOT_TOKEN=REPLACE_ME"
    )
    env_file.write_bytes(before)
    assert make(monkeypatch, "generate") == 0
    after, found = env_file.read_bytes(), values(env_file)
    for name in ("JWT_SECRET_KEY", "AES_KEY", "ENCRYPTION_KEY"):
        assert re.fullmatch(r"[0-9a-f]{64}", found[name])
    expected = (
        before.replace(b'"REPLACE_ME"', f'"{found["JWT_SECRET_KEY"]}"'.encode(), 1)
        .replace(b"change-me", found["AES_KEY"].encode())
        .replace(b"ENCRYPTION_KEY=", f"ENCRYPTION_KEY={found['ENCRYPTION_KEY']}".encode())
    )
    assert after == expected


def test_force_replaces_every_key_keeps_the_former_file_and_names_the_commands(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(monkeypatch, "generate")
    before = env_file.read_bytes()
    former = values(env_file)
    capsys.readouterr()
    assert make(monkeypatch, "generate", force="1") == 0
    found = values(env_file)
    assert all(found[name] != former[name] for name in KEYS)
    backup = env_file.with_name(".env.dev.bak")
    assert backup.read_bytes() == before
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    out = capsys.readouterr().out
    for name in KEYS:
        assert f"keys import {name} --from-settings" in out
        assert found[name] not in out


def test_a_second_force_loses_no_former_file(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file.write_text(f"MASTER_KEY={KEPT}\nAES_KEY={OWN}\n")
    contents = []
    for _ in range(3):
        contents.append(env_file.read_bytes())
        assert make(monkeypatch, "generate", force="1") == 0
    kept = {path.name: path.read_bytes() for path in env_file.parent.glob(".env.dev.bak*")}
    assert kept == {".env.dev.bak.2": contents[0], ".env.dev.bak.3": contents[1], ".env.dev.bak": contents[2]}


@pytest.mark.parametrize("force", ["", "1"])
@pytest.mark.parametrize(
    "lines",
    [
        "AES_KEY=\nAES_KEY_FILE=/run/secrets/aes\n",
        "JWT_SECRET_KEY=REPLACE_ME\nSECRET_KEY_FILE=/run/secrets/secret_key\n",
        "SECRETS_BACKEND=aws\nJWT_SECRET_KEY=REPLACE_ME\nAES_KEY=\n",
    ],
)
def test_a_key_that_a_file_or_aws_gives_is_not_given_twice(
    lines: str, force: str, env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text(lines)
    assert make(monkeypatch, "generate", force=force) == 0
    assert env_file.read_text() == lines


def test_secret_key_is_another_name_of_jwt_secret_key_and_gets_its_value(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text(f"SECRET_KEY=REPLACE_ME\nJWT_SECRET_KEY={KEPT}\n")
    make(monkeypatch, "generate")
    assert values(env_file)["SECRET_KEY"] == KEPT
    assert make(monkeypatch, "validate") == 0
    make(monkeypatch, "generate", force="1")
    found = values(env_file)
    assert found["SECRET_KEY"] == found["JWT_SECRET_KEY"] != KEPT


@pytest.mark.parametrize("value", [r'"a\"b"', r"'a\'b'", "plain text", '"unclosed'])
def test_force_replaces_a_value_in_any_quotes(value: str, env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file.write_text(f"AES_KEY={value} # comment\nWEB_PORT=1\n")
    make(monkeypatch, "generate", force="1")
    if value == '"unclosed':  # no assignment: it stays for the start to name
        assert value in env_file.read_text()
    else:
        assert re.fullmatch(r"[0-9a-f]{64}", values(env_file)["AES_KEY"])
        assert env_file.read_text().endswith(" # comment\nWEB_PORT=1\n")


@pytest.mark.parametrize("alias", ["prod", "production", " PROD "])
def test_production_may_be_typed_as_prod(alias: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make(monkeypatch, "generate", alias) == 0
    assert (tmp_path / ".env.production").exists()


@pytest.mark.parametrize("command", ["generate", "validate"])
@pytest.mark.parametrize("env", ["", "../../x", "dev.example", "/etc/passwd", "dev;id", "-n"])
def test_an_unknown_env_is_refused_and_nothing_is_written(
    env: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.parent.rglob("*"))
    assert make(monkeypatch, command, env) == 1
    assert "ENV must be one of dev, test, ci, staging, production" in capsys.readouterr().err
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_force_must_be_understood(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(monkeypatch, "generate")
    before = env_file.read_bytes()
    assert make(monkeypatch, "generate", force="0") == 0
    assert make(monkeypatch, "generate", force="maybe") == 1
    assert env_file.read_bytes() == before


def test_a_process_that_dies_while_it_writes_leaves_the_former_file(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(monkeypatch, "generate")
    before = env_file.read_bytes()

    def refuse(descriptor: int) -> None:
        raise OSError(28, os.strerror(28), str(env_file))

    monkeypatch.setattr(os, "fsync", refuse)
    assert make(monkeypatch, "generate", force="1") == 1
    assert env_file.read_bytes() == before


# ---------------------------------------------------------------------------------------------------------------------
# Validate
# ---------------------------------------------------------------------------------------------------------------------


def verdicts(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}


def test_the_public_keys_of_the_test_template_are_good_there_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(monkeypatch, "generate", "test")
    assert make(monkeypatch, "validate", "test") == 0
    text = (tmp_path / ".env.test").read_text()
    (tmp_path / ".env.staging").write_text(text.replace("APP_ENV=test", "APP_ENV=staging"))
    capsys.readouterr()
    assert make(monkeypatch, "validate", "staging") == 1
    found = verdicts(capsys)
    assert all(found[name].startswith("❌ ") for name in ["MASTER_KEY", *KEYS])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("AES_KEY=short", "5 characters: it is not 32 bytes"),
        ("AES_KEY=REPLACE_ME", "10 characters: it is a placeholder or a sample"),
        ("AES_KEY='AES-256-key-for-provider-cred!'", "30 characters: it is not 32 bytes"),
        (f"AES_KEY={KEPT}\nAES_KEY={KEPT}", "given twice in the file"),
        (f"AES_KEY={KEPT}\nAES_KEY_FILE=/x", "given twice, the other time as AES_KEY_FILE"),
        ("AES_KEY_FILE=/not/there", "cannot be read: No such file"),
        (f"AES_KEY={KEPT}\nMASTER_KEY={KEPT}", "it is MASTER_KEY too: one key, one purpose"),
        ("AES_KEY=" + "x" * 100_000, "100000 characters: it is not 32 bytes"),
    ],
)
def test_a_bad_key_is_named_with_the_reason(
    line: str, why: str, env_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    env_file.write_text(f"{line}\n")
    assert make(monkeypatch, "validate") == 1
    found = verdicts(capsys)
    assert found["AES_KEY"].startswith("❌ AES_KEY ")
    assert why in found["AES_KEY"]
    assert KEPT not in "".join(found.values())
    assert found["API_SECRET_KEY"].startswith("✅ ")


def test_a_key_in_a_docker_secret_is_judged(env_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "aes_key"
    secret.write_text(f"{KEPT}\n")
    env_file.write_text(f"AES_KEY_FILE={secret}\n")
    assert make(monkeypatch, "validate") == 0
    secret.write_text("\n")
    assert make(monkeypatch, "validate") == 1


def test_production_demands_a_master_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env.production").write_text("APP_ENV=production\n")
    assert make(monkeypatch, "validate", "prod") == 1
    assert "demands MASTER_KEY" in verdicts(capsys)["MASTER_KEY"]
    (tmp_path / ".env.production").write_text("APP_ENV=production\nSECRETS_BACKEND=aws\n")
    assert make(monkeypatch, "validate", "prod") == 0


def test_a_file_of_another_environment_is_judged_as_what_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weak = "dev-secret-key-change-me-please"
    (tmp_path / ".env.production").write_text(f"APP_ENV=test\nMASTER_KEY={KEPT}\nJWT_SECRET_KEY={weak}\n")
    assert make(monkeypatch, "validate", "production") == 1
    found = verdicts(capsys)
    assert found["APP_ENV"].startswith("❌ APP_ENV ")
    assert found["JWT_SECRET_KEY"].startswith("❌ ")


def test_a_key_beside_aws_is_bad(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    env_file.write_text(f"SECRETS_BACKEND=aws\nAES_KEY={KEPT}\n")
    assert make(monkeypatch, "validate") == 1
    assert "belongs into the secret alone" in verdicts(capsys)["AES_KEY"]


def test_a_file_that_is_not_there_names_the_command_that_makes_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(monkeypatch, "validate") == 1
    assert "make keys-generate ENV=dev" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# Through make
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["$$(touch hacked)", "dev; touch hacked", "`touch hacked`", ""])
def test_what_is_typed_as_env_reaches_no_shell(env: str) -> None:
    command = ["make", "--no-print-directory", "keys-validate", f"ENV={env}"]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ENV must be one of" in done.stderr
    assert not (PROJECT_ROOT / "hacked").exists()
