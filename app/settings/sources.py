"""Where settings come from: overrides, the environment and `.env`, each as NAME or as NAME_FILE."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from dotenv.parser import parse_stream
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from app.domain.secrets import SecretText
from app.settings.secret_files import read_text_file
from app.settings.values import path_in_project

ENVIRONMENT_CREDENTIALS: Final[Mapping[str, str]] = MappingProxyType(
    {
        f"{provider.upper()}_API_KEY": provider
        for provider in (
            "openai",
            "anthropic",
            "github",
            "openrouter",
            "google",
            "gemini",
            "mistral",
            "groq",
            "cohere",
            "deepseek",
            "xai",
            "together",
            "perplexity",
            "fireworks",
            "cerebras",
            "huggingface",
        )
    }
    | {"GITHUB_TOKEN": "github"}
)
"""The environment variables that hold a provider's credential, and the provider's slug."""

SECRETS: Final = frozenset(
    {
        "MASTER_KEY",
        "MASTER_KEY_PREVIOUS",
        "JWT_SECRET_KEY",
        "AES_KEY",
        "ENCRYPTION_KEY",
        "API_SECRET_KEY",
        "SECRET_KEY",
        "CREDENTIAL_ENCRYPTION_KEY",
        "DATABASE_URL",
        "DISCORD_BOT_TOKEN",
        "DISCORD_CLIENT_SECRET",
        *ENVIRONMENT_CREDENTIALS,
    }
)
"""Settings that are wrapped before any library sees them, so that no error of a library can repeat them."""

GATHERED: Final = frozenset({"environment_credentials", "secret_files"})
"""Fields that are no settings themselves but gathered from several."""


def names_of(settings_cls: type[BaseSettings]) -> tuple[str, ...]:
    """Every setting by the name that the operator writes."""
    fields = tuple(name.upper() for name in settings_cls.model_fields if name not in GATHERED)
    return fields + tuple(ENVIRONMENT_CREDENTIALS)


class SourcesRefused(Exception):
    """Faults of the sources themselves, a line per setting."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Sources(PydanticBaseSettingsSource):
    """Overrides over the environment over `.env`; each setting as NAME or as NAME_FILE."""

    def __init__(self, settings_cls: type[BaseSettings], overrides: Mapping[str, Any], env_file: Path | None) -> None:
        super().__init__(settings_cls)
        self._problems: list[str] = []
        self._secret_files: dict[str, Path] = {}
        self._names = frozenset(names_of(settings_cls))
        self._known = self._names | {f"{name}_FILE" for name in self._names}
        named = {name.upper(): value for name, value in overrides.items()}
        self._problems += [f"{name}: is not a setting" for name in named if name not in self._known]
        self._layers: tuple[Mapping[str, Any], ...] = (named, os.environ, self._dotenv(env_file))

    def __call__(self) -> dict[str, Any]:
        """The value of every setting that is set. Raises SourcesRefused."""
        fields = self.settings_cls.model_fields
        values = {name: self.get_field_value(fields[name], name)[0] for name in fields if name not in GATHERED}
        values["environment_credentials"] = self._environment_credentials()
        values["secret_files"] = self._secret_files
        if self._problems:
            raise SourcesRefused(list(dict.fromkeys(self._problems)))
        return {name: value for name, value in values.items() if value is not None}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """The value of one setting, None where it is not set; never JSON."""
        if field_name == "master_key":
            return self._wrapped("MASTER_KEY", self._find("MASTER_KEY")[0]), field_name, False
        if field_name == "master_key_file":
            return self._find("MASTER_KEY")[1], field_name, False
        return self._value(field_name.upper()), field_name, False

    def _find(self, name: str) -> tuple[Any, str | Path | None]:
        """From the strongest source that mentions the setting: its value, the path of its file, or neither."""
        for layer in self._layers:
            if name not in layer and f"{name}_FILE" not in layer:
                continue
            value, file = layer.get(name), layer.get(f"{name}_FILE") or None
            if value == "" and name != "MASTER_KEY":
                value = None
            if value is not None and file is not None:
                self._problems.append(f"{name}: is given twice, the other time as {name}_FILE")
            elif (reason := _unfit(value) or _unfit(file)) is not None:
                self._problems.append(f"{name}: {reason}")
            else:
                return value, file
            return None, None
        return None, None

    def _value(self, name: str) -> Any:
        value, file = self._find(name)
        if file is not None:
            try:
                path = path_in_project(file)
                value = read_text_file(path) or None
            except ValueError as refused:
                self._problems.append(f"{name}_FILE: {_shown(file)} {refused}")
                return None
            if name in SECRETS and value is not None:
                self._secret_files[name] = path
        return self._wrapped(name, value)

    def _wrapped(self, name: str, value: Any) -> Any:
        if name not in SECRETS or value is None or isinstance(value, SecretText):
            return value
        if isinstance(value, str):
            return SecretText(value)
        self._problems.append(f"{name}: must be text")
        return None

    def _environment_credentials(self) -> dict[str, SecretText]:
        credentials: dict[str, SecretText] = {}
        for name, provider in ENVIRONMENT_CREDENTIALS.items():
            secret = self._value(name)
            if secret is None:
                continue
            if credentials.setdefault(provider, secret) != secret:
                self._problems.append(f"{name}: another variable gives {provider} a different value; give one of them")
        return credentials

    def _dotenv(self, path: Path | None) -> dict[str, str]:
        """The assignments in `.env`, to the letter: nothing is interpolated, because a secret may hold ``${``."""
        if path is None or not path.exists():
            return {}
        try:
            text = read_text_file(path)
        except ValueError as refused:
            self._problems.append(f"{path} {refused}")
            return {}
        values: dict[str, str] = {}
        for binding in parse_stream(io.StringIO(text)):
            if binding.error:
                self._problems.append(f"{path}: line {binding.original.line} is not NAME=value")
            elif binding.key in self._known:
                if binding.key in values:
                    self._problems.append(f"{binding.key}: is given twice in {path}")
                values[binding.key] = binding.value or ""
        return values


def _unfit(value: object) -> str | None:
    """Why a text cannot be a value: what is not UTF-8 in the environment arrives as lone surrogates (PEP 383)."""
    if not isinstance(value, str):
        return None
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "is not UTF-8 text"
    return "holds a NUL character" if "\0" in value else None


def _shown(path: str | Path) -> str:
    """A path for an error, but not what is more likely a secret that was put into the wrong variable."""
    text = str(path)
    if not text.startswith(("/", "./", "../", "~")):
        return "the file in the project that it names"
    return "".join(character if character.isprintable() else "?" for character in text)
