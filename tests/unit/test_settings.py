"""What the operator writes and what Keyhall understands: sources, precedence, types, no secret in any answer."""

from __future__ import annotations

import copy
import dataclasses
import ipaddress
import json
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from app.domain.errors import ConfigInvalid
from app.domain.identity import Registration
from app.domain.keys import Environment
from app.domain.secrets import SecretText
from app.settings import PROJECT_ROOT, Settings
from app.settings.secret_files import check_secret_file_modes
from app.settings.sources import Sources

SECRET_SETTINGS = (
    "MASTER_KEY",
    "MASTER_KEY_PREVIOUS",
    "JWT_SECRET_KEY",
    "AES_KEY",
    "ENCRYPTION_KEY",
    "API_SECRET_KEY",
    "SECRET_KEY",
    "CREDENTIAL_ENCRYPTION_KEY",
    "DISCORD_BOT_TOKEN",
    "DISCORD_CLIENT_SECRET",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GITHUB_TOKEN",
)
CANARY = "canary-4f1d9a77c0de5eed"


@pytest.fixture
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a `.env` that does not exist yet."""
    path = tmp_path / "dotenv"
    monkeypatch.setattr(Settings, "env_file", path)
    return path


def test_a_link_to_a_file_that_is_not_there_is_no_empty_file(dotenv: Path) -> None:
    """`ln -s env/.env.dev .env` before `make keys-generate ENV=dev`."""
    dotenv.symlink_to("env.dev")
    assert f"{dotenv} cannot be read: No such file or directory" in problem()


def problem(overrides: dict[str, object] | None = None) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        Settings.load(overrides)
    assert caught.value.exit_code == 78
    return caught.value.line()


# ---------------------------------------------------------------------------------------------------------------------
# Defaults and types
# ---------------------------------------------------------------------------------------------------------------------


def test_without_any_setting_the_defaults_of_the_contract_hold() -> None:
    settings = Settings.load()
    assert settings.app_env is Environment.DEVELOPMENT
    assert settings.data_dir == PROJECT_ROOT / "data"
    assert settings.database_url.reveal() == f"sqlite+aiosqlite:///{PROJECT_ROOT}/data/keyhall.db"
    assert (settings.web_host, settings.web_port, settings.public_url) == ("127.0.0.1", 8080, None)
    assert settings.origin == "http://127.0.0.1:8080"
    assert (settings.access_token_expire_minutes, settings.refresh_token_expire_days) == (30, 30)
    assert settings.key_rotation_days == 90
    assert settings.registration is Registration.GUILD
    assert (settings.audit_retention_days, settings.usage_retention_days) == (400, 90)
    assert settings.discord_message_content is False
    assert (settings.log_level, settings.log_format, settings.secrets_backend) == ("info", None, "env")
    assert settings.master_key is None
    assert not settings.outside_keys
    assert not settings.environment_credentials
    assert not list(settings.secrets())


def test_the_defaults_do_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.load().data_dir == PROJECT_ROOT / "data"
    assert Settings.load({"DATA_DIR": "elsewhere"}).data_dir == PROJECT_ROOT / "elsewhere"


def test_the_default_database_and_backups_follow_the_data_directory(tmp_path: Path) -> None:
    odd = tmp_path / "we?ird %20 #dir"
    settings = Settings.load({"DATA_DIR": str(odd)})
    assert settings.database_url.path == odd / "keyhall.db"
    assert settings.database_url.name == str(odd / "keyhall.db")
    assert settings.backup_dir == odd / "backups"


def test_every_setting_arrives_in_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    written = {
        "APP_ENV": " Production ",
        "INSTALL_ID": "0198c0de-0000-7000-8000-000000000001",
        "DATABASE_CONNECTIONS": "24",
        "PUBLIC_URL": "https://Keyhall.Example.org:443/",
        "TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8,, 2001:db8::/32",
        "WEB_PORT": "0",
        "REGISTRATION": "OPEN",
        "GUILD_ALLOWLIST": "81384788765712384 , 42",
        "ENV_CREDENTIAL_GUILDS": "7",
        "SHARD_IDS": "0,2",
        "SHARD_COUNT": "3",
        "DISCORD_CLIENT_ID": "123",
        "DISCORD_MESSAGE_CONTENT": "True",
        "DISCORD_API_BASE": "http://127.0.0.1:9000/api/v10/",
        "DISCORD_GATEWAY_URL": "ws://127.0.0.1:9001",
        "BOT_EXTENSIONS": "one.two,three",
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": "json",
        "TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces",
        "LEGACY_USERS_JSON": "old/users.json",
        "BACKUP_IDENTITY_FILE": "/etc/keyhall/identity",
    }
    for name, value in written.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert settings.app_env is Environment.PRODUCTION
    assert settings.install_id == UUID(written["INSTALL_ID"])
    assert settings.database_connections == 24
    assert settings.public_url == settings.origin == "https://keyhall.example.org"
    assert settings.trusted_proxies == (
        ipaddress.ip_network("127.0.0.1/32"),
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("2001:db8::/32"),
    )
    assert settings.web_port == 0
    assert settings.registration is Registration.OPEN
    assert settings.guild_allowlist == {"81384788765712384", "42"}
    assert settings.env_credential_guilds == {"7"}
    assert (settings.shard_ids, settings.shard_count) == ((0, 2), 3)
    assert settings.discord_client_id == "123"
    assert settings.discord_message_content is True
    assert settings.discord_api_base == "http://127.0.0.1:9000/api/v10"
    assert settings.discord_gateway_url == "ws://127.0.0.1:9001"
    assert settings.bot_extensions == ("one.two", "three")
    assert (settings.log_level, settings.log_format) == ("debug", "json")
    assert settings.legacy_users_json == PROJECT_ROOT / "old/users.json"
    assert settings.backup_identity_file == Path("/etc/keyhall/identity")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APP_ENV", "prod"),
        ("INSTALL_ID", "not-a-uuid"),
        ("DATABASE_URL", "mysql://localhost/keyhall"),
        ("DATABASE_URL", "keyhall.db"),
        ("DATABASE_URL", "sqlite+aiosqlite://"),
        ("DATABASE_URL", "sqlite+aiosqlite:///:memory:"),
        ("DATABASE_URL", "sqlite+aiosqlite://data/keyhall.db"),
        ("DATABASE_URL", "postgresql+asyncpg://user@host"),
        ("DATABASE_URL", "postgresql+asyncpg://user@host:port/keyhall"),
        ("DATABASE_URL", "postgresql+psycopg://user@host/keyhall"),
        ("WEB_HOST", "two hosts"),
        ("WEB_PORT", "65536"),
        ("DATABASE_CONNECTIONS", "1"),
        ("WEB_PORT", "-1"),
        ("WEB_PORT", "http"),
        ("PUBLIC_URL", "keyhall.example.org"),
        ("PUBLIC_URL", "ftp://keyhall.example.org"),
        ("PUBLIC_URL", "https://keyhall.example.org/path"),
        ("PUBLIC_URL", "https://keyhall.example.org?query"),
        ("PUBLIC_URL", "https://user@keyhall.example.org"),
        ("PUBLIC_URL", "https://keyhall.example.org:port"),
        ("PUBLIC_URL", "https://[::1"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "localhost"),
        ("ACCESS_TOKEN_EXPIRE_MINUTES", "0"),
        ("ACCESS_TOKEN_EXPIRE_MINUTES", "9" * 5000),
        ("REFRESH_TOKEN_EXPIRE_DAYS", "0"),
        ("KEY_ROTATION_DAYS", "0"),
        ("KEY_ROTATION_DAYS", "3651"),
        ("REGISTRATION", "everybody"),
        ("GUILD_ALLOWLIST", "1,-2"),
        ("ENV_CREDENTIAL_GUILDS", "guild"),
        ("SHARD_IDS", "-1"),
        ("SHARD_IDS", "0"),  # without SHARD_COUNT
        ("SHARD_COUNT", "0"),
        ("DISCORD_MESSAGE_CONTENT", "perhaps"),
        ("DISCORD_API_BASE", "localhost:9000"),
        ("DISCORD_GATEWAY_URL", "http://127.0.0.1"),
        ("AUDIT_RETENTION_DAYS", "0"),
        ("USAGE_RETENTION_DAYS", "many"),
        ("BACKUP_KEEP", "0"),
        ("BACKUP_KEEP", "7 days"),
        ("BACKUP_SCHEDULE", "sometimes"),
        ("BACKUP_SCHEDULE", "hourly"),  # without BACKUP_RECIPIENT
        ("BACKUP_RECIPIENT", "age1mistyped"),
        ("BACKUP_RECIPIENT", f"AGE-SECRET-KEY-1{'Q' * 58}"),
        ("BOT_EXTENSIONS", "os; import sys"),
        ("WEB_EXTENSIONS", ".relative"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("TRACES_ENDPOINT", "localhost:4318"),
        ("TRACES_ENDPOINT", "https://user:password@collector/v1/traces"),
        ("SECRETS_BACKEND", "vault"),
        ("DATA_DIR", "~nobody-has-this-name/data"),
        ("DATA_DIR", "data\udcff"),
    ],
)
def test_a_malformed_value_is_named_and_not_repeated(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    line = problem()
    assert line.startswith(f"keyhall: halted [config_invalid] {name}: ")
    assert len(line) < 400
    assert len(value) < 5 or value not in line


def test_every_offending_setting_is_named_at_once() -> None:
    line = problem({"WEB_PORT": "x", "REGISTRATION": "x", "TRUSTED_PROXIES": "10.0.0.0/8,x", "DATA_DIR": "~nobody-x"})
    for expected in ("WEB_PORT: ", "REGISTRATION: ", "TRUSTED_PROXIES: entry 2 ", "DATA_DIR: "):
        assert expected in line
    assert "DATABASE_URL" not in line, "a default that could not be made is no error of the operator"


def test_production_demands_https_of_a_public_url_that_is_given() -> None:
    assert "PUBLIC_URL: production demands https" in problem(
        {"APP_ENV": "production", "PUBLIC_URL": "http://a.example"}
    )
    assert Settings.load({"APP_ENV": "production", "PUBLIC_URL": "https://a.example"}).origin == "https://a.example"
    assert Settings.load({"APP_ENV": "production"}).public_url is None


def test_an_ipv6_address_is_bracketed_in_the_origin() -> None:
    assert Settings.load({"WEB_HOST": "::1", "WEB_PORT": 8443}).origin == "http://[::1]:8443"
    assert Settings.load({"PUBLIC_URL": "https://[2001:db8::1]:8443"}).origin == "https://[2001:db8::1]:8443"


def test_a_public_url_is_written_as_browsers_send_it() -> None:
    assert Settings.load({"PUBLIC_URL": "https://schlüssel.example"}).origin == "https://xn--schlssel-95a.example"
    assert Settings.load({"PUBLIC_URL": "http://a.example:80"}).origin == "http://a.example"
    assert Settings.load({"PUBLIC_URL": "http://a.example:443"}).origin == "http://a.example:443"


def test_aws_needs_to_be_told_where_the_secret_is() -> None:
    assert "needs AWS_SECRET_NAME and AWS_REGION" in problem({"SECRETS_BACKEND": "aws"})


def test_shards_fit_the_shard_count() -> None:
    assert "SHARD_IDS" in problem({"SHARD_IDS": "0,3", "SHARD_COUNT": "3"})
    assert "SHARD_IDS" in problem({"SHARD_IDS": "1,1", "SHARD_COUNT": "3"})


def test_an_unknown_override_is_a_mistake_and_an_unknown_variable_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYHALL_SOMETHING_ELSE", "1")
    Settings.load()
    assert "WEB_PROT: is not a setting" in problem({"web_prot": 80})
    assert "ENVIRONMENT_CREDENTIALS: is not a setting" in problem({"environment_credentials": {}})


def test_names_in_lower_case_are_other_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("web_port", "9")
    assert Settings.load().web_port == 8080


# ---------------------------------------------------------------------------------------------------------------------
# The database's URL
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_url", "used", "shown"),
    [
        ("sqlite:////srv/k.db", "sqlite+aiosqlite:////srv/k.db", "/srv/k.db"),
        ("sqlite+aiosqlite:////srv/k.db", "sqlite+aiosqlite:////srv/k.db", "/srv/k.db"),
        ("postgres://u:p%40w@h:1/d", "postgresql+asyncpg://u:p%40w@h:1/d", "h:1/d"),
        ("postgresql://u@h/d", "postgresql+asyncpg://u@h/d", "h/d"),
        ("postgresql+asyncpg://u:p@[::1]:1/d", "postgresql+asyncpg://u:p@[::1]:1/d", "::1:1/d"),
        ("postgresql+asyncpg:///d", "postgresql+asyncpg:///d", "localhost/d"),
        ("postgresql+asyncpg://u@/d?host=/srv/x", "postgresql+asyncpg://u@/d?host=/srv/x", "/srv/x/d"),
        ("postgres://h/d?sslmode=require", "postgresql+asyncpg://h/d?ssl=require", "h/d"),
    ],
)
def test_a_database_url_gets_the_driver_that_keyhall_uses(given_url: str, used: str, shown: str) -> None:
    settings = Settings.load({"DATABASE_URL": given_url})
    assert settings.database_url.reveal().replace("%2F", "/") == used
    assert settings.database_url.name == shown
    assert (settings.database_url.path is None) == used.startswith("postgresql")


def test_a_relative_database_lies_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.load({"DATABASE_URL": "sqlite:///here/k.db"}).database_url.path == PROJECT_ROOT / "here/k.db"


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://h/d?ssl=nonsense", "ssl (or sslmode) that is none of disable, allow, prefer, require"),
        ("postgresql://h/d?sslmode=nonsense", "ssl (or sslmode) that is none of disable, allow, prefer, require"),
        ("postgresql://h/d?ssl=require&ssl=disable", "ssl (or sslmode) that is none of"),
        ("postgresql://h/d?command_timeout=1", "not known: command_timeout; known are sslmode, host, port, ssl"),
        ("postgresql://h/d?sslmode=require&channel_binding=require", "not known: channel_binding; known are"),
        ("postgresql://h/d?channel_binding=require", "prepared_statement_cache_size: leave it out"),
        ("postgresql://h/d?pgbouncer=true&connection_limit=1", "connection_limit; known are"),
        ("postgresql://h/d?target_session_attrs=any", "leave it out"),
        ("postgresql://h/d?sslrootcert=/nowhere/ca.pem", "sslrootcert that names no readable file"),
        ("postgresql://h/d?sslrootcert=/etc/passwd", "sslrootcert that names no readable file"),
        ("postgresql://h/d?sslrootcert=system&sslmode=disable", "sslrootcert twice, or beside ssl=disable"),
        ("postgresql://h/d?prepared_statement_cache_size=many", "prepared_statement_cache_size that is not a whole"),
        ("sqlite:////srv/k.db?timeout=5", "takes no parameters after the path"),
    ],
)
def test_a_parameter_of_a_database_url_that_cannot_be_used_is_named(url: str, named: str) -> None:
    assert named in problem({"DATABASE_URL": url})


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{CANARY}@h:port/d",
        f"mysql://u:{CANARY}@h/d",
        f"{CANARY}",
        f"postgresql://u:{CANARY}@h/d?ssl={CANARY}",
        f"postgresql://u:{CANARY}@h/d?command_timeout={CANARY}",
        f"sqlite:////srv/k.db?key={CANARY}",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///:memory:",
        "sqlite+aiosqlite:///keyhall.db?mode=memory",
    ],
)
def test_the_password_of_a_refused_url_is_not_repeated(url: str) -> None:
    assert CANARY not in problem({"DATABASE_URL": url})


# ---------------------------------------------------------------------------------------------------------------------
# NAME_FILE
# ---------------------------------------------------------------------------------------------------------------------


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _directory(path: Path) -> Path:
    path.mkdir()
    return path


def _huge(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(2 << 20)
    return path


def _dangling(path: Path) -> Path:
    path.symlink_to(path.with_name("nowhere"))
    return path


NOT_SMALL_FILES: dict[str, Callable[[Path], Path]] = {
    "a FIFO": _fifo,
    "a device": lambda _: Path("/dev/zero"),
    "a directory": _directory,
    "a huge file": _huge,
    "a link to nothing": _dangling,
}


@pytest.mark.parametrize("kind", NOT_SMALL_FILES)
@pytest.mark.timeout(30)
def test_no_setting_is_read_from_anything_but_a_small_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one start, so that each setting is named and none of them stops the start from naming the others."""
    path = NOT_SMALL_FILES[kind](tmp_path / "given")
    names = [name for name in Settings.names() if name not in {"MASTER_KEY", "MASTER_KEY_FILE"}]
    for name in names:
        monkeypatch.setenv(f"{name}_FILE", str(path))
    message = problem({})
    assert [name for name in names if f"{name}_FILE: {path} cannot be read" not in message] == []


def test_a_file_gives_the_value_without_blanks_and_line_breaks_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(f"\ufeff {CANARY} x \r\n\n".encode())
    monkeypatch.setenv("JWT_SECRET_KEY_FILE", str(path))
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(path))
    (tmp_path / "port").write_text("9000\n")
    monkeypatch.setenv("WEB_PORT_FILE", str(tmp_path / "port"))
    settings = Settings.load()
    assert settings.outside_keys["JWT_SECRET_KEY"].reveal() == f"{CANARY} x"
    assert settings.environment_credentials["openai"].reveal() == f"{CANARY} x"
    assert settings.web_port == 9000
    assert settings.secret_files == {"JWT_SECRET_KEY": path, "OPENAI_API_KEY": path}


@pytest.mark.parametrize("name", [name for name in Settings.names() if name != "MASTER_KEY_FILE"])
def test_every_setting_can_be_given_as_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "absent"))
    if name == "MASTER_KEY":
        assert Settings.load().master_key_file == tmp_path / "absent"
    else:
        assert f"{name}_FILE: {tmp_path}/absent cannot be read: No such file or directory" in problem()


def test_the_master_keys_file_is_named_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_KEY_FILE", str(tmp_path / "absent"))
    settings = Settings.load()
    assert settings.master_key_file == tmp_path / "absent"
    assert settings.master_key is None


@pytest.mark.parametrize("name", [*SECRET_SETTINGS, "WEB_PORT", "DATABASE_URL"])
def test_value_and_file_in_one_source_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv(f"{name}_FILE", str(path))
    assert f"{name}: is given twice" in problem()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a\0b", "holds a NUL"),
        (b"a\nb", "holds a line break"),
        (b"x" * (2 << 20), "cannot be read: it is longer than 1 MiB"),
    ],
)
def test_an_unusable_file_is_named_with_the_reason(
    content: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    monkeypatch.setenv("AES_KEY_FILE", str(path))
    assert f"AES_KEY_FILE: {path} {reason}" in problem()


def test_a_directory_in_place_of_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AES_KEY_FILE", str(tmp_path))
    assert f"AES_KEY_FILE: {tmp_path} cannot be read: Is a directory" in problem()


@pytest.mark.parametrize("name", [name for name in Settings.names() if name not in {"MASTER_KEY", "MASTER_KEY_FILE"}])
def test_an_empty_file_is_a_value_that_got_lost(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in ("", "\n", "\ufeff", " \r\n"):
        (tmp_path / "empty").write_text(content)
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "empty"))
        assert f"{name}_FILE: {tmp_path}/empty is empty" in problem()


# ---------------------------------------------------------------------------------------------------------------------
# Accidents on a value's way here
# ---------------------------------------------------------------------------------------------------------------------

ANY_NAME = [name for name in Settings.names() if name != "MASTER_KEY_FILE"]


@pytest.mark.parametrize(
    ("name", "quotes", "way"),
    [
        *((name, '""', "environment") for name in ANY_NAME),
        *(("DISCORD_BOT_TOKEN", quotes, way) for quotes in ("''", "``", "“”") for way in ("environment", "file")),
    ],
)
def test_quotes_that_became_part_of_a_value_are_named(
    name: str, quotes: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = f"{quotes[0]}{CANARY}{quotes[1]}"
    if way == "environment":
        monkeypatch.setenv(name, value)
    else:
        (tmp_path / "given").write_text(value + "\n")
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "given"))
    line = problem()
    assert name in line
    assert "is in quotes" in line
    assert CANARY not in line


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        *((name, "\x1b") for name in ANY_NAME),
        *(("DATA_DIR", each) for each in ("\x07", "\x7f", "\x85", "\u2028", "\n")),
    ],
)
def test_control_characters_inside_a_value_are_refused(name: str, inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, f"{CANARY}{inside}x")
    line = problem()
    assert f"{name}: holds a line break or another control character" in line
    assert CANARY not in line


@pytest.mark.parametrize("mode", [0o400, 0o444, 0o644])
@pytest.mark.parametrize("end", ["", "\n"])
def test_docker_secrets_of_older_software_are_read_under_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, end: str
) -> None:
    """As `echo -n … | docker secret create secret_key -` makes them, and as an editor does."""
    jwt, fernet = "9f2c" * 15 + "a1b3", "h3ZpQ8k2mV7xL0sD4fGbNwYcT1rEuJ6aOiPq5zXKvMg="
    for name, value in (("secret_key", jwt), ("credential_encryption_key", fernet)):
        path = tmp_path / name
        path.write_text(f"{value}{end}")
        path.chmod(mode)
        monkeypatch.setenv(f"{name.upper()}_FILE", str(path))
    settings = Settings.load()
    assert settings.outside_keys["JWT_SECRET_KEY"].reveal() == jwt
    assert settings.credential_encryption_key is not None
    assert settings.credential_encryption_key.reveal() == fernet
    check_secret_file_modes(settings.secret_files)


@pytest.mark.parametrize("name", ["DATA_DIR", "BACKUP_DIR", "LEGACY_USERS_JSON", "BACKUP_IDENTITY_FILE"])
@pytest.mark.parametrize("around", ["{}\r", " {}", "{} ", "{}\r\n", "\t{}\n", "\u00a0{}"])
def test_a_path_has_no_blanks_around_it(name: str, around: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, around.format("/srv/keyhall data"))
    assert getattr(Settings.load(), name.lower()) == Path("/srv/keyhall data")


def test_the_path_of_a_file_has_no_blanks_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "port").write_text("  9000 \r\n")
    monkeypatch.setenv("WEB_PORT_FILE", f" {tmp_path / 'port'}\r")
    assert Settings.load().web_port == 9000


@pytest.mark.parametrize("value", ["tcp://10.96.0.12:80", "tcp://[fd00::1]:8080", "udp://10.0.0.1:53"])
def test_the_address_that_kubernetes_sets_in_place_of_the_port_is_named(value: str) -> None:
    line = problem({"WEB_PORT": value})
    assert "WEB_PORT: is the address that Kubernetes sets for a service named web" in line
    assert "enableServiceLinks" in line


PLACEHOLDERS = [
    "XXX",
    "xxxxxxxxxxxxxxxx",
    "YOUR_TOKEN_HERE",
    "your-discord-bot-token",
    "your_openai_api_key",
    "YOUR API KEY",
    "<token>",
    "{{ token }}",
    "${DISCORD_TOKEN}",
    "[insert token]",
    "sk-...",
    "sk-…",
    "sk-xxxxxxxxxxxxxxxxxxxxxxxx",
    "ghp_XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
    "sk-proj-your-key-here",
    "changeme",
    "CHANGE_ME",
    "replace-me",
    "placeholder",
    "paste your token here",
    "put-your-key-here",
    "TODO",
    "none",
    "null",
    "my_api_key",
    "example-key",
    "dummy_token",
    "********",
    "...",
]
REAL = [
    "MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs",
    "sk-proj-Zk2hT9vQ1mXr7LwB4nC8yD5sF0gJ3aE6",
    "sk-ant-api03-9fJ2kQ7xLmN4vB8cR1tY6wZ3",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "gsk_a1B2c3D4e5F6g7H8i9J0",
    "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY",
    "canary-4f1d9a77c0de5eed",
    "hunter2hunter2",
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("DISCORD_BOT_TOKEN", value) for value in PLACEHOLDERS),
        *(
            (name, "XXX")
            for name in SECRET_SETTINGS
            if name in {"DISCORD_CLIENT_SECRET", "OPENAI_API_KEY", "GITHUB_TOKEN"}
        ),
    ],
)
def test_a_placeholder_for_an_issued_secret_is_passed_over_and_named(name: str, value: str) -> None:
    settings = Settings.load({name: value})
    assert list(settings.secrets()) == []
    assert [notice for notice in settings.notices if name in notice]


@pytest.mark.parametrize("value", REAL)
def test_a_real_token_is_no_placeholder(value: str) -> None:
    settings = Settings.load({"OPENAI_API_KEY": value})
    assert settings.environment_credentials["openai"].reveal() == value
    assert settings.notices == ()


def test_a_secret_in_place_of_a_path_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AES_KEY_FILE", CANARY)
    line = problem()
    assert "AES_KEY_FILE" in line
    assert CANARY not in line


# ---------------------------------------------------------------------------------------------------------------------
# Precedence and .env
# ---------------------------------------------------------------------------------------------------------------------


def test_overrides_win_over_the_environment_over_dotenv(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv.write_text("WEB_PORT=1\nWEB_HOST=a\nLOG_LEVEL=error\n")
    monkeypatch.setenv("WEB_PORT", "2")
    monkeypatch.setenv("WEB_HOST", "b")
    settings = Settings.load({"web_port": 3})
    assert (settings.web_port, settings.web_host, settings.log_level) == (3, "b", "error")


@pytest.mark.parametrize("name", ["AES_KEY", "MASTER_KEY"])
def test_the_environment_wins_as_a_pair(
    name: str, dotenv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("from the file")
    dotenv.write_text(f"{name}_FILE={tmp_path / 'file'}")
    monkeypatch.setenv(name, "from the environment")
    settings = Settings.load()
    assert getattr(settings, name.lower()).reveal() == "from the environment"
    assert settings.master_key_file is None

    dotenv.write_text(f"{name}=from dotenv")
    monkeypatch.delenv(name)
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "file"))
    settings = Settings.load()
    if name == "MASTER_KEY":
        assert settings.master_key is None
        assert settings.master_key_file == tmp_path / "file"
    else:
        assert getattr(settings, name.lower()).reveal() == "from the file"


@pytest.mark.parametrize("name", ["DISCORD_BOT_TOKEN", "WEB_PORT", "PUBLIC_URL", "OPENAI_API_KEY", "DATABASE_URL"])
def test_an_empty_variable_is_not_set_and_hides_dotenv(
    name: str, dotenv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dotenv.write_text(f"{name}=9999")
    monkeypatch.setenv(name, "")
    assert Settings.load() == Settings.load({name: None})
    assert Settings.load().web_port == 8080
    assert Settings.load().discord_bot_token is None


def test_an_empty_master_key_is_not_the_same_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_KEY", "")
    settings = Settings.load()
    assert settings.master_key is not None
    assert settings.master_key.reveal() == ""


def test_an_empty_master_key_does_not_fall_back_to_dotenv(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv.write_text(f"MASTER_KEY={'ab' * 32}")
    monkeypatch.setenv("MASTER_KEY", "")
    assert Settings.load().master_key == SecretText("")


def test_an_empty_file_variable_beside_a_value_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AES_KEY", CANARY)
    monkeypatch.setenv("AES_KEY_FILE", "")
    assert Settings.load().aes_key == SecretText(CANARY)


def test_dotenv_keeps_secrets_to_the_letter(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    dotenv.write_bytes(
        "\ufeff# a comment\n\nexport AES_KEY='a${HOME}$b#c'\nJWT_SECRET_KEY=a${HOME}$b#c # comment\n"
        'DISCORD_BOT_TOKEN="über"\n'.encode()
    )
    settings = Settings.load()
    assert settings.aes_key == SecretText("a${HOME}$b#c")
    assert settings.jwt_secret_key == SecretText("a${HOME}$b#c")
    assert settings.discord_bot_token == SecretText("über")


def test_a_name_twice_in_dotenv_is_refused_unless_keyhall_does_not_know_it(dotenv: Path) -> None:
    dotenv.write_text("OTHER=1\nOTHER=2\n")
    Settings.load()
    dotenv.write_text("WEB_PORT=1\nWEB_PORT=1\n")
    assert f"WEB_PORT: is given twice in {dotenv}" in problem()


def test_a_malformed_line_of_dotenv_is_numbered_and_not_repeated(dotenv: Path) -> None:
    dotenv.write_text(f"WEB_PORT=1\nAES_KEY='{CANARY}\n")
    line = problem()
    assert f"{dotenv}: line 2 is not NAME=value" in line
    assert CANARY not in line


def test_an_unreadable_dotenv_is_refused_and_an_absent_one_is_not(dotenv: Path) -> None:
    Settings.load()
    dotenv.mkdir()
    assert f"{dotenv} cannot be read: Is a directory" in problem()
    dotenv.rmdir()
    dotenv.write_bytes(b"AES_KEY=\xff")
    assert "AES_KEY: is not UTF-8 text" in problem()
    dotenv.write_bytes(b"# f\xfcr andere\nOTHER=\xff\nWEB_PORT=9000")
    assert Settings.load().web_port == 9000


FOREIGN_LINES = [
    "; a comment of another tool",
    "; AES_KEY=disabled",
    "// AES_KEY: disabled",
    "source .venv/bin/activate",
    "set -a",
    "[section]",
    "if true; then",
    "OTHER NAME: value",
    "compose: value with blanks",
    "- item of a list",
    "alias ll='ls -l",
]


@pytest.mark.parametrize("line", FOREIGN_LINES)
def test_a_line_of_another_tool_is_passed_over_with_one_warning(dotenv: Path, line: str) -> None:
    dotenv.write_text(f"{line}\nWEB_PORT=9000\n{line}\nLOG_LEVEL=error\n")
    settings = Settings.load()
    assert (settings.web_port, settings.log_level) == (9000, "error")
    assert len(settings.notices) <= 1


def test_the_warning_numbers_the_lines_and_does_not_repeat_them(dotenv: Path) -> None:
    dotenv.write_text("source x\nWEB_PORT=9000\nPASSWORD: hunter2 x\n")
    assert Settings.load().notices == (
        f"{dotenv}: passed over what is not NAME=value and names no setting (line 1, 3)",
    )


@pytest.mark.parametrize(
    "line",
    ["AES_KEY: value", "AES_KEY value", "set AES_KEY value", "- AES_KEY: x", '"AES_KEY": "x",', "export WEB_PORT 80"],
)
def test_a_line_that_may_be_meant_for_a_setting_is_refused(dotenv: Path, line: str) -> None:
    dotenv.write_text(f"OTHER=1\n{line}\n")
    assert f"{dotenv}: line 2 is not NAME=value" in problem()


def test_dotenv_is_that_of_the_project() -> None:
    """Asked of a process of its own, because every test here replaces it."""
    script = "from app.settings import Settings; print(Settings.env_file)"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == PROJECT_ROOT / ".env"


# ---------------------------------------------------------------------------------------------------------------------
# Aliases and credentials
# ---------------------------------------------------------------------------------------------------------------------


def test_secret_key_is_another_name_of_jwt_secret_key() -> None:
    assert Settings.load({"SECRET_KEY": CANARY}).outside_keys == {"JWT_SECRET_KEY": SecretText(CANARY)}
    both = Settings.load({"SECRET_KEY": CANARY, "JWT_SECRET_KEY": CANARY})
    assert both.outside_keys == {"JWT_SECRET_KEY": SecretText(CANARY)}
    line = problem({"SECRET_KEY": CANARY, "JWT_SECRET_KEY": CANARY + "x"})
    assert "SECRET_KEY" in line
    assert "JWT_SECRET_KEY" in line
    assert CANARY not in line


def test_outside_keys_are_the_application_keys_that_were_given() -> None:
    given_keys = {name: f"{name} value" for name in ("AES_KEY", "ENCRYPTION_KEY", "API_SECRET_KEY", "JWT_SECRET_KEY")}
    settings = Settings.load({**given_keys, "CREDENTIAL_ENCRYPTION_KEY": "opens legacy rows"})
    assert {name: key.reveal() for name, key in settings.outside_keys.items()} == given_keys


def test_providers_credentials_are_found_by_slug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "one")
    monkeypatch.setenv("GITHUB_TOKEN", "two")
    monkeypatch.setenv("SOMEBODY_ELSES_API_KEY", "three")
    credentials = Settings.load().environment_credentials
    assert {slug: secret.reveal() for slug, secret in credentials.items()} == {"openai": "one", "github": "two"}


def test_two_variables_for_one_provider_must_agree() -> None:
    same = Settings.load({"GITHUB_TOKEN": CANARY, "GITHUB_API_KEY": CANARY})
    assert same.environment_credentials == {"github": SecretText(CANARY)}
    line = problem({"GITHUB_TOKEN": CANARY, "GITHUB_API_KEY": CANARY + "x"})
    assert "GITHUB_TOKEN: another variable gives github a different value" in line
    assert CANARY not in line


# ---------------------------------------------------------------------------------------------------------------------
# Nothing secret shows, nothing changes
# ---------------------------------------------------------------------------------------------------------------------


def settings_full_of_canaries(**more: object) -> Settings:
    secrets = {name: f"{CANARY}-{name}" for name in SECRET_SETTINGS if name != "SECRET_KEY"}
    url = f"postgresql://user:{CANARY}@db.example/keyhall"
    return Settings.load({**secrets, "SECRET_KEY": secrets["JWT_SECRET_KEY"], "DATABASE_URL": url, **more})


def test_no_secret_shows_in_any_text_form() -> None:
    settings = settings_full_of_canaries()
    dump = settings.model_dump()
    shown = [
        repr(settings),
        str(settings),
        f"{settings}",
        repr(dump),
        json.dumps(dump, default=str),
        repr(vars(settings)),
    ]
    shown += [
        repr(list(settings)),
        repr(settings.outside_keys),
        repr(list(settings.secrets())),
        repr(copy.copy(settings)),
    ]
    shown.append(settings.database_url.name)
    assert not [text for text in shown if CANARY in text]


def test_settings_are_neither_pickled_nor_written_as_json() -> None:
    settings = settings_full_of_canaries()
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(settings)
    with pytest.raises(PydanticSerializationError) as caught:
        settings.model_dump_json()
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("broken", [{"WEB_PORT": "x"}, {"SECRETS_BACKEND": "aws"}, {"DATABASE_URL": "mysql://h/d"}])
def test_no_secret_shows_when_another_setting_is_wrong(broken: dict[str, object]) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        settings_full_of_canaries(**broken)
    shown = "".join(traceback.format_exception(caught.value))
    assert CANARY not in shown + caught.value.line() + repr(caught.value.args)
    assert caught.value.__context__ is None, "no way back to what pydantic was given"


def test_what_pydantic_itself_raises_holds_no_secret() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(jwt_secret_key=SecretText(CANARY), secrets_backend="aws", web_port=1)
    assert CANARY not in str(caught.value) + repr(caught.value.errors()) + repr(caught.value)


def test_what_pydantic_itself_is_given_is_wrapped_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET_KEY", CANARY)
    monkeypatch.setenv("SECRETS_BACKEND", "aws")
    with pytest.raises(ValidationError) as caught:
        Settings(**Sources(Settings, {}, None).values())
    assert CANARY not in str(caught.value) + repr(caught.value.errors()) + repr(caught.value)


def test_every_secret_is_handed_to_the_redaction_of_logs() -> None:
    settings = settings_full_of_canaries()
    values = {secret.reveal() for secret in settings.secrets()}
    assert values == {CANARY} | {f"{CANARY}-{name}" for name in SECRET_SETTINGS if name != "SECRET_KEY"}


def test_settings_are_frozen() -> None:
    settings = Settings.load({"OPENAI_API_KEY": "one"})
    with pytest.raises(ValidationError):
        settings.web_port = 1  # type: ignore[misc]
    assert isinstance(settings.environment_credentials, MappingProxyType)
    assert not dataclasses.is_dataclass(settings)


def test_import_reads_nothing_and_makes_nothing(tmp_path: Path) -> None:
    """With an environment that `load` would refuse, importing succeeds."""
    script = "import app.settings as s; assert not [v for v in vars(s).values() if isinstance(v, s.Settings)]"
    environment = {**os.environ, "WEB_PORT": "x", "AES_KEY_FILE": str(tmp_path / "absent")}
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT_ROOT, env=environment, check=True)


# ---------------------------------------------------------------------------------------------------------------------
# Any text at all
# ---------------------------------------------------------------------------------------------------------------------

ENVIRONMENT_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)


def refusal() -> str | None:
    try:
        Settings.load()
    except ConfigInvalid as invalid:
        return str(invalid)
    return None


@given(st.dictionaries(st.sampled_from(Settings.names()), ENVIRONMENT_TEXT, max_size=6))
def test_any_text_is_understood_or_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        reason = refusal()
    assert reason is None or any(f"{name}: " in reason for name in values)


@given(
    st.sampled_from(SECRET_SETTINGS),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=60),
)
def test_a_secret_is_kept_to_the_letter_but_for_blanks_around_it(name: str, value: str) -> None:
    given, value = f" {CANARY}{value}\n", f"{CANARY}{value}".strip().strip("\ufeff").strip()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, given)
        settings = Settings.load()
    assert [secret.reveal() for secret in settings.secrets()] == [value]


@given(st.sampled_from(SECRET_SETTINGS), st.text(min_size=12, max_size=40), st.sampled_from(Settings.names()))
def test_no_error_repeats_a_secret(name: str, value: str, broken: str) -> None:
    canary = f"{CANARY}{value}"
    with pytest.raises(ConfigInvalid) as caught:
        Settings.load({name: canary, broken: "\0", "WEB_PORT": "x"})
    assert CANARY not in "".join(traceback.format_exception(caught.value)) + caught.value.line()


@given(st.lists(st.integers(min_value=1, max_value=(1 << 64) - 1)), st.text(" \t,", max_size=3))
def test_lists_survive_blanks_and_doubled_commas(ids: list[int], noise: str) -> None:
    written = f"{noise},{noise}".join(str(number) for number in ids) + noise
    assert Settings.load({"GUILD_ALLOWLIST": written}).guild_allowlist == {str(number) for number in ids}


@given(st.binary(max_size=200))
def test_any_bytes_in_dotenv_are_understood_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("dotenv") / "file"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settings, "env_file", path)
        reason = refusal()
    assert reason is None or str(path) in reason or any(name in reason for name in Settings.names())
