"""The templates in env/ are the first thing that an operator copies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.domain.keys import Environment
from app.domain.providers import ENVIRONMENT_CREDENTIALS
from app.settings import Settings

TEMPLATES = Path(__file__).parents[2] / "env"
ENVIRONMENTS = {
    "dev": Environment.DEVELOPMENT,
    "test": Environment.TEST,
    "ci": Environment.TEST,
    "staging": Environment.STAGING,
    "production": Environment.PRODUCTION,
}


def template(name: str) -> Path:
    return TEMPLATES / f".env.{name}.example"


def settings_in(text: str) -> set[str]:
    """The settings that a template names, commented out or not; NAME_FILE gives NAME."""
    names = re.findall(r"^#?([A-Z_]+)=", text, re.MULTILINE)
    return {name if name == "BACKUP_IDENTITY_FILE" else name.removesuffix("_FILE") for name in names}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_template_names_only_settings_that_exist(name: str) -> None:
    text = template(name).read_text(encoding="utf-8")
    named = settings_in(text)
    assert named <= set(Settings.names())
    assert "APP_ENV" in named


def test_the_template_of_production_is_complete() -> None:
    """Every setting but another Discord, which is for tests, and credentials, of which one stands for all."""
    text = template("production").read_text(encoding="utf-8")
    named = settings_in(text)
    left_out = {"DISCORD_API_BASE", "DISCORD_GATEWAY_URL"} | ENVIRONMENT_CREDENTIALS.keys() - {"OPENAI_API_KEY"}
    assert set(Settings.names()) - named - {"MASTER_KEY_FILE"} == left_out


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_template_is_read_as_it_stands(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the secrets where the template expects them, nothing else has to be changed to be understood."""
    text = template(name).read_text(encoding="utf-8")
    secrets = re.findall(r"^[A-Z_]+_FILE=(/run/secrets/(\w+))$", text, re.MULTILINE)
    for path, secret in secrets:
        (tmp_path / secret).write_text("postgresql+asyncpg://keyhall@localhost/keyhall\n")  # a text that fits them all
        text = text.replace(path, str(tmp_path / secret))
    env_file = tmp_path / ".env"
    env_file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(Settings, "env_file", env_file)
    assert Settings.load().app_env is ENVIRONMENTS[name]
