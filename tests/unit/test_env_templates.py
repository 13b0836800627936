"""The templates in env/ are the first thing that an operator copies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.domain.keys import Environment
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


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_template_names_only_settings_that_exist(name: str) -> None:
    text = template(name).read_text(encoding="utf-8")
    named = {line.removesuffix("_FILE") for line in re.findall(r"^#?([A-Z_]+)=", text, re.MULTILINE)}
    assert named <= set(Settings.names())
    assert "APP_ENV" in named


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
