"""Where settings come from: overrides, the environment and `.env`, each as NAME or as NAME_FILE."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dotenv.parser import parse_stream
from pydantic import BaseModel, BeforeValidator

from app.domain.key_shapes import looks_like_key
from app.domain.placeholders import is_placeholder
from app.domain.providers import ENVIRONMENT_CREDENTIALS
from app.domain.secrets import SecretText
from app.domain.stored_secret import StoredSecret
from app.settings.secret_files import read_text_file
from app.settings.values import comma_separated, own_text, path_in_project

_WORD: Final = re.compile(r"[A-Z][A-Z0-9_]*")

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

_ISSUED: Final = frozenset({"DISCORD_BOT_TOKEN", "DISCORD_CLIENT_SECRET", *ENVIRONMENT_CREDENTIALS})
"""Secrets that a provider issues. A placeholder for one counts as not set; a placeholder for a key halts the start."""

GATHERED: Final = frozenset({"environment_credentials", "secret_files", "stored_secret", "notices"})
"""Fields that are no settings themselves but gathered from several."""


def names_of(settings_cls: type[BaseModel]) -> tuple[str, ...]:
    """Every setting by the name that the operator writes."""
    fields = tuple(name.upper() for name in settings_cls.model_fields if name not in GATHERED)
    return fields + tuple(ENVIRONMENT_CREDENTIALS)


class SourcesRefused(Exception):
    """Faults of the sources themselves, a line per setting."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Sources:
    """Overrides over the environment over `.env`; each setting as NAME or as NAME_FILE.

    A value in the ``stored`` secret comes from there alone: given elsewhere too, it is given twice.
    """

    def __init__(
        self,
        settings_cls: type[BaseModel],
        overrides: Mapping[str, Any],
        env_file: Path | None,
        stored: StoredSecret | None = None,
    ) -> None:
        self._fields = tuple(name for name in settings_cls.model_fields if name not in GATHERED)
        self._problems: list[str] = []
        self._notices: list[str] = []
        self._secret_files: dict[str, Path] = {}
        self._names = frozenset(names_of(settings_cls))
        self._known = self._names | {f"{name}_FILE" for name in self._names}
        comma = BeforeValidator(comma_separated)
        self._lists = {name.upper() for name, field in settings_cls.model_fields.items() if comma in field.metadata}
        named = {name.upper(): value for name, value in overrides.items()}
        self._problems += [f"{name}: is not a setting" for name in named if name not in self._known]
        self._stored = stored
        self._layers: tuple[Mapping[str, Any], ...] = (named, os.environ, self._dotenv(env_file))

    def values(self) -> dict[str, Any]:
        """The value of every setting that is set; never JSON. Raises SourcesRefused."""
        values = {name: self._of(name) for name in self._fields}
        values["environment_credentials"] = self._environment_credentials()
        values["secret_files"] = self._secret_files
        values["stored_secret"] = self._stored
        values["notices"] = tuple(self._notices) + (self._stored.notices if self._stored else ())
        if self._problems:
            raise SourcesRefused(list(dict.fromkeys(self._problems)))
        return {name: value for name, value in values.items() if value is not None}

    def _of(self, field: str) -> Any:
        if field == "master_key":
            return self._wrapped("MASTER_KEY", self._find("MASTER_KEY")[0])
        if field == "master_key_file":
            return self._find("MASTER_KEY")[1]
        return self._value(field.upper())

    def _find(self, name: str) -> tuple[Any, str | Path | None]:
        """The value of a setting, the path of its file, or neither."""
        value, file = self._in_layers(name)
        stored = self._stored.current.values.get(name) if self._stored else None
        if stored is None:
            return value, file
        if value is not None or file is not None:
            self._problems.append(f"{name}: is given twice, the other time in the AWS secret; keep one of them")
            return None, None
        return self._cleaned(name, stored.reveal()), None

    def _in_layers(self, name: str) -> tuple[Any, str | Path | None]:
        """From the strongest source that mentions the setting: its value, the path of its file, or neither."""
        for layer in self._layers:
            if name not in layer and f"{name}_FILE" not in layer:
                continue
            value, file = self._cleaned(name, layer.get(name)), self._cleaned(f"{name}_FILE", layer.get(f"{name}_FILE"))
            if value == "" and name != "MASTER_KEY":
                value = None
            if value is not None and file:
                self._problems.append(f"{name}: is given twice, the other time as {name}_FILE")
                return None, None
            return value, file or None
        return None, None

    def _cleaned(self, name: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return own_text(value, several=name in self._lists)
        except ValueError as refused:
            self._problems.append(f"{name}: {refused}")
            return None

    def _value(self, name: str) -> Any:
        value, file = self._find(name)
        if file is not None:
            try:
                path = path_in_project(file)
                value = own_text(read_text_file(path), several=name in self._lists)
            except ValueError as refused:
                self._problems.append(f"{name}_FILE: {_shown(file)} {refused}")
                return None
            if not value:
                self._problems.append(f"{name}_FILE: {_shown(file)} is empty: the value for it got lost on the way")
                return None
            if name in SECRETS:
                self._secret_files[name] = path
        if name in _ISSUED and isinstance(value, str) and is_placeholder(value):
            self._notices.append(
                f"{name} holds a placeholder and is passed over: put the real value there, or remove it"
            )
            return None
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
        if path is None or not os.path.lexists(path):  # a link to a file that is not there is an error
            return {}
        try:
            text = read_text_file(path)
        except ValueError as refused:
            self._problems.append(f"{path} {refused}")
            return {}
        values: dict[str, str] = {}
        passed_over: list[int] = []
        for binding in parse_stream(io.StringIO(text)):
            if binding.error and self._may_concern_us(binding.original.string):
                self._problems.append(f"{path}: line {binding.original.line} is not NAME=value")
            elif binding.error:
                passed_over.append(binding.original.line)
            elif binding.key in self._known:
                if binding.key in values:
                    self._problems.append(f"{binding.key}: is given twice in {path}")
                values[binding.key] = binding.value or ""
        if passed_over:
            lines = ", ".join(map(str, passed_over[:5])) + (", …" if len(passed_over) > 5 else "")
            self._notices.append(f"{path}: passed over what is not NAME=value and names no setting (line {lines})")
        return values

    def _may_concern_us(self, line: str) -> bool:
        """Whether a line that is not NAME=value may have been meant for one of our settings; a comment is not."""
        return not line.lstrip().startswith((";", "//")) and any(word in self._known for word in _WORD.findall(line))


def _shown(path: str | Path) -> str:
    """A path for an error, but not what is more likely a secret that was put into the wrong variable."""
    text = str(path)
    if not text.startswith(("/", "./", "../", "~")) or looks_like_key(text):
        return "the file in the project that it names"
    return "".join(character if character.isprintable() else "?" for character in text)
