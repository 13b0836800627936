"""Everything that the operator decides: typed, frozen, and read from the environment here and nowhere else.

Sources, strongest first: the overrides given to `Settings.load`, the environment, the file `.env` of the project.
Every ``NAME`` can also be given as ``NAME_FILE``, the path of a file that holds the value (Docker secrets). The
strongest source that mentions ``NAME`` or ``NAME_FILE`` decides about both; giving a value twice within one source is
an error. An empty value means "not set", so an empty variable hides what `.env` says. Only an empty ``MASTER_KEY``
stays an empty ``MASTER_KEY``: a master key that got lost on the way must not look like none. Relative paths start at
the project, whatever the working directory.
"""

from __future__ import annotations

import io
import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, NoReturn, Self, TypeVar
from urllib.parse import quote, urlsplit
from uuid import UUID

from dotenv.parser import parse_stream
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.domain.errors import ConfigInvalid, InvalidInput
from app.domain.identity import Registration, snowflake
from app.domain.keys import APPLICATION_KEYS, Environment, KeyName
from app.domain.secrets import SecretText

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails
    from sqlalchemy.engine import URL

PROJECT_ROOT: Final = Path(__file__).resolve().parents[2]

_ENVIRONMENT_CREDENTIALS: Final[Mapping[str, str]] = MappingProxyType(
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

_SECRETS: Final = frozenset(
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
        *_ENVIRONMENT_CREDENTIALS,
    }
)
"""What is wrapped before anything else sees it, so that no error of a library can repeat it."""

_GATHERED: Final = frozenset({"environment_credentials", "secret_files"})
"""Fields that are no settings themselves but gathered from several."""

_LONGEST_FILE: Final = 1 << 20
_DRIVERS: Final = MappingProxyType(
    {
        "sqlite": "sqlite+aiosqlite",
        "sqlite+aiosqlite": "sqlite+aiosqlite",
        "postgres": "postgresql+asyncpg",
        "postgresql": "postgresql+asyncpg",
        "postgresql+asyncpg": "postgresql+asyncpg",
    }
)
_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


# ---------------------------------------------------------------------------------------------------------------------
# From text to values. A ValueError says why; it never repeats the value.
# ---------------------------------------------------------------------------------------------------------------------


def _word(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _listed(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(entry for part in value.split(",") if (entry := part.strip()))


def _project_path(value: object) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError("must be a path")  # noqa: TRY004 - pydantic reports a ValueError
    try:
        return PROJECT_ROOT / Path(value).expanduser()
    except RuntimeError:
        raise ValueError("starts with '~', and this user has no home directory") from None


def _network(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        raise ValueError("must be an IP address or a network such as 10.0.0.0/8 without host bits") from None


def _discord_id(value: object) -> str:
    try:
        return snowflake(value.strip() if isinstance(value, str) else value)
    except InvalidInput as refused:
        raise ValueError(refused.reason) from None


def _uuid(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return UUID(value.strip())
    except ValueError:
        raise ValueError("must be a UUID") from None


def _module(value: str) -> str:
    if not _MODULE.fullmatch(value):
        raise ValueError("must be the dotted name of a module")
    return value


def _url(value: object, *schemes: str, origin: bool) -> str:
    """A URL without user, query and fragment; an ``origin`` has no path either and is written as browsers send it."""
    reason = f"must be a URL such as {schemes[-1]}://example.com" + ("" if origin else "/path")
    text = value.strip() if isinstance(value, str) else ""
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").encode("idna").decode()
        port = parts.port
    except ValueError:
        raise ValueError(reason) from None
    if parts.scheme not in schemes or not host or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(reason)
    if not text.isprintable() or " " in text:
        raise ValueError(reason)
    if origin and parts.path not in {"", "/"}:
        raise ValueError(f"{reason}: scheme, host and port, without a path")
    netloc = f"[{host}]" if ":" in host else host
    if port is not None and port != {"http": 80, "https": 443}.get(parts.scheme):
        netloc += f":{port}"
    return f"{parts.scheme}://{netloc}" + ("" if origin else parts.path.rstrip("/"))


def _origin(value: object) -> str:
    return _url(value, "http", "https", origin=True)


def _http_url(value: object) -> str:
    return _url(value, "http", "https", origin=False)


def _websocket_url(value: object) -> str:
    return _url(value, "ws", "wss", origin=False)


_DATABASE_PARAMETERS: Final = frozenset({"host", "port", "ssl", "prepared_statement_cache_size"})
"""What may follow the question mark in a PostgreSQL URL; asyncpg would stumble over any other name."""


def _parse_database_url(text: str) -> URL:
    # Imported here: commands that never open a database do not pay for SQLAlchemy.
    from sqlalchemy.engine import make_url  # noqa: PLC0415
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError("must be a URL such as postgresql+asyncpg://user:password@host/database") from None


def _database_url(value: SecretText) -> SecretText:
    url = _parse_database_url(value.reveal())
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise ValueError("must begin with sqlite+aiosqlite:// or postgresql+asyncpg://")
    url = url.set(drivername=driver)
    if driver == "sqlite+aiosqlite":
        if url.host:
            raise ValueError("needs three slashes before a path in the project, four before an absolute path")
        if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
            raise ValueError("must name a file: a database in memory would lose every key")
        url = url.set(database=str(PROJECT_ROOT / url.database))
    else:
        if not url.database:
            raise ValueError("must name the database, as in postgresql+asyncpg://host/database")
        if "sslmode" in url.query:  # libpq's name for what asyncpg calls ssl
            url = url.update_query_dict({"ssl": url.query["sslmode"]}).difference_update_query(["sslmode"])
        if unknown := sorted(set(url.query) - _DATABASE_PARAMETERS):
            raise ValueError(f"has a parameter that is not known: {unknown[0][:40]}")
    return SecretText(url.render_as_string(hide_password=False))


def _default_database_url(data: dict[str, Any]) -> SecretText:
    return SecretText(f"sqlite+aiosqlite:///{quote(str(data['data_dir'] / 'keyhall.db'), safe='/ ')}")


def _default_backup_dir(data: dict[str, Any]) -> Path:
    directory: Path = data["data_dir"] / "backups"
    return directory


_PathInProject = Annotated[Path, BeforeValidator(_project_path)]
_DiscordId = Annotated[str, BeforeValidator(_discord_id)]
_DiscordIds = Annotated[frozenset[_DiscordId], BeforeValidator(_listed)]
_Modules = Annotated[tuple[Annotated[str, AfterValidator(_module)], ...], BeforeValidator(_listed)]
_Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(_network)]
_Days = Annotated[int, Field(ge=1, le=36_500)]
_T = TypeVar("_T")
_ByName = Annotated[Mapping[str, _T], AfterValidator(MappingProxyType), PlainSerializer(dict)]


class Settings(BaseSettings):
    """One value per setting; `load` is the way to get one. Nothing secret shows in repr, errors, JSON or pickle."""

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True, validate_default=False)

    env_file: ClassVar[Path | None] = PROJECT_ROOT / ".env"

    # The install
    app_env: Annotated[Environment, BeforeValidator(_word)] = Environment.DEVELOPMENT
    data_dir: _PathInProject = PROJECT_ROOT / "data"
    install_id: Annotated[UUID, BeforeValidator(_uuid)] | None = None
    database_url: Annotated[SecretText, AfterValidator(_database_url)] = Field(default_factory=_default_database_url)
    """With the driver that Keyhall uses and, for SQLite, an absolute path. Secret because of the password in it."""

    # Keys from outside
    master_key: SecretText | None = None
    """Empty when MASTER_KEY is empty, which is not the same as None. Never given together with `master_key_file`."""
    master_key_file: _PathInProject | None = None
    """What MASTER_KEY_FILE names; not read here, because its permissions are judged with its content."""
    master_key_previous: SecretText | None = None
    secrets_backend: Annotated[Literal["env", "aws"], BeforeValidator(_word)] = "env"
    aws_region: str | None = None
    aws_secret_name: str | None = None
    jwt_secret_key: SecretText | None = None
    aes_key: SecretText | None = None
    encryption_key: SecretText | None = None
    api_secret_key: SecretText | None = None
    secret_key: SecretText | None = None
    credential_encryption_key: SecretText | None = None
    key_rotation_days: Annotated[int, Field(ge=1, le=3650)] = 90

    # Web
    web_host: Annotated[str, Field(pattern=r"^[0-9A-Za-z.:_%-]+$")] = "127.0.0.1"
    web_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    public_url: Annotated[str, BeforeValidator(_origin)] | None = None
    """The origin under which browsers reach the web; see `origin` for the default."""
    trusted_proxies: Annotated[tuple[_Network, ...], BeforeValidator(_listed)] = ()
    access_token_expire_minutes: Annotated[int, Field(ge=1, le=525_600)] = 30
    refresh_token_expire_days: Annotated[int, Field(ge=1, le=3650)] = 30

    # People and guilds
    registration: Annotated[Registration, BeforeValidator(_word)] = Registration.GUILD
    guild_allowlist: _DiscordIds = frozenset()
    env_credential_guilds: _DiscordIds = frozenset()

    # Discord
    discord_bot_token: SecretText | None = None
    discord_client_id: _DiscordId | None = None
    discord_client_secret: SecretText | None = None
    discord_api_base: Annotated[str, BeforeValidator(_http_url)] | None = None
    discord_gateway_url: Annotated[str, BeforeValidator(_websocket_url)] | None = None
    discord_message_content: Annotated[bool, BeforeValidator(_word)] = False
    shard_ids: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_listed)] = ()
    shard_count: Annotated[int, Field(ge=1)] | None = None

    # Operation
    backup_dir: _PathInProject = Field(default_factory=_default_backup_dir)
    backup_schedule: str | None = None
    backup_keep: Annotated[int, Field(ge=1)] = 7
    backup_recipient: str | None = None
    backup_identity_file: _PathInProject | None = None
    audit_retention_days: _Days = 400
    usage_retention_days: _Days = 90
    legacy_users_json: _PathInProject | None = None
    bot_extensions: _Modules = ()
    web_extensions: _Modules = ()
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_word)] = "info"
    log_format: Annotated[Literal["console", "json"], BeforeValidator(_word)] | None = None
    """None: console on a terminal, else JSON."""

    # Gathered
    environment_credentials: _ByName[SecretText] = Field(default_factory=dict)
    """Providers' credentials from variables such as OPENAI_API_KEY and GITHUB_TOKEN, by the provider's slug."""
    secret_files: _ByName[Path] = Field(default_factory=dict)
    """The files that secrets were read from, by the secret's setting; MASTER_KEY_FILE is not among them."""

    @classmethod
    def load(cls, overrides: Mapping[str, object] | None = None) -> Self:
        """Read, check and freeze the settings; ``overrides`` are named as the settings, in either case.

        Raises ConfigInvalid, which names every offending setting with its reason and never a value.
        """
        try:
            given: dict[str, Any] = {name.lower(): value for name, value in (overrides or {}).items()}
            return cls(**given)
        except _Refused as refused:
            problems = refused.problems
        except ValidationError as invalid:
            problems = list(_described(invalid.errors(include_url=False, include_input=False)))
        # Raised here and not above, so that no traceback leads back to what was given.
        raise ConfigInvalid(
            "; ".join(problems), remedy=f"correct this in the environment or in {cls.env_file or 'the .env file'}"
        )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Every setting by the name that the operator writes."""
        fields = tuple(name.upper() for name in cls.model_fields if name not in _GATHERED)
        return fields + tuple(_ENVIRONMENT_CREDENTIALS)

    @property
    def outside_keys(self) -> Mapping[str, SecretText]:
        """The application keys given from outside, by name; SECRET_KEY counts as JWT_SECRET_KEY."""
        given = {name.value: getattr(self, name.value.lower()) for name in APPLICATION_KEYS}
        given[KeyName.JWT_SECRET_KEY.value] = self.jwt_secret_key or self.secret_key
        return MappingProxyType({name: key for name, key in given.items() if key is not None})

    @property
    def origin(self) -> str:
        """PUBLIC_URL, or else the address that the web listens on."""
        host = f"[{self.web_host}]" if ":" in self.web_host else self.web_host
        return self.public_url or f"http://{host}:{self.web_port}"

    @property
    def database_path(self) -> Path | None:
        """The file of the embedded database; None with PostgreSQL."""
        text = self.database_url.reveal()
        return Path(_parse_database_url(text).database or "") if text.startswith("sqlite") else None

    @property
    def database_name_for_people(self) -> str:
        """Which database this is, without user and password: an absolute path, or host and database."""
        if self.database_path is not None:
            return str(self.database_path)
        url = _parse_database_url(self.database_url.reveal())
        host = url.host or ",".join(url.normalized_query.get("host", ())) or "localhost"
        return f"{host}:{url.port}/{url.database}" if url.port else f"{host}/{url.database}"

    def secrets(self) -> Iterator[SecretText]:
        """Everything that must never show in a log; of the database's URL, the password."""
        for name in sorted(_SECRETS - {"DATABASE_URL"} - _ENVIRONMENT_CREDENTIALS.keys()):
            secret: SecretText | None = getattr(self, name.lower())
            if secret:
                yield secret
        yield from self.environment_credentials.values()
        if self.database_path is None and (password := _parse_database_url(self.database_url.reveal()).password):
            yield SecretText(str(password))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """One source of our own: see the module's docstring for its rules, which the built-in ones cannot keep."""
        return (_Sources(settings_cls, init_settings(), cls.env_file),)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.secrets_backend == "aws":
            raise ValueError("SECRETS_BACKEND: aws is not available in this release, only env is")
        if self.jwt_secret_key is not None and self.secret_key is not None and self.jwt_secret_key != self.secret_key:
            raise ValueError("SECRET_KEY: is another name of JWT_SECRET_KEY and has a different value; give one")
        if self.app_env is Environment.PRODUCTION and self.public_url and not self.public_url.startswith("https://"):
            raise ValueError("PUBLIC_URL: production demands https")
        if self.shard_ids and (self.shard_count is None or max(self.shard_ids) >= self.shard_count):
            raise ValueError("SHARD_IDS: needs a SHARD_COUNT that is greater than each of them")
        if len(set(self.shard_ids)) != len(self.shard_ids):
            raise ValueError("SHARD_IDS: names a shard twice")
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("Settings cannot be pickled")


# ---------------------------------------------------------------------------------------------------------------------
# Sources
# ---------------------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """What is wrong with the sources themselves, a line per setting."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class _Sources(PydanticBaseSettingsSource):
    """Overrides over the environment over `.env`; each setting as NAME or as NAME_FILE."""

    def __init__(self, settings_cls: type[BaseSettings], overrides: Mapping[str, Any], env_file: Path | None) -> None:
        super().__init__(settings_cls)
        self._problems: list[str] = []
        self._secret_files: dict[str, Path] = {}
        self._names = frozenset(Settings.names())
        self._known = self._names | {f"{name}_FILE" for name in self._names}
        named = {name.upper(): value for name, value in overrides.items()}
        self._problems += [f"{name}: is not a setting" for name in named if name not in self._known]
        self._layers: tuple[Mapping[str, Any], ...] = (named, os.environ, self._dotenv(env_file))

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        values = {name: self.get_field_value(fields[name], name)[0] for name in fields if name not in _GATHERED}
        values["environment_credentials"] = self._environment_credentials()
        values["secret_files"] = self._secret_files
        if self._problems:
            raise _Refused(list(dict.fromkeys(self._problems)))
        return {name: value for name, value in values.items() if value is not None}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """The value of one setting, None where it is not set; never JSON."""
        if field_name == "master_key":
            return self._wrapped("MASTER_KEY", self._find("MASTER_KEY")[0]), field_name, False
        if field_name == "master_key_file":
            return self._find("MASTER_KEY")[1], field_name, False
        return self._value(field_name.upper()), field_name, False

    def _find(self, name: str) -> tuple[Any, str | Path | None]:
        """What the strongest source says that mentions the setting: its value, the path of its file, or neither."""
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
                path = _project_path(file)
                value = _read(path) or None
            except ValueError as refused:
                self._problems.append(f"{name}_FILE: {_shown(file)} {refused}")
                return None
            if name in _SECRETS and value is not None:
                self._secret_files[name] = path
        return self._wrapped(name, value)

    def _wrapped(self, name: str, value: Any) -> Any:
        if name not in _SECRETS or value is None or isinstance(value, SecretText):
            return value
        if isinstance(value, str):
            return SecretText(value)
        self._problems.append(f"{name}: must be text")
        return None

    def _environment_credentials(self) -> dict[str, SecretText]:
        credentials: dict[str, SecretText] = {}
        for name, provider in _ENVIRONMENT_CREDENTIALS.items():
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
            text = _read(path)
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


def _read(path: Path) -> str:
    """A text file without the line break at its end. Raises ValueError with the reason, which repeats nothing."""
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_FILE + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(content) > _LONGEST_FILE:
        raise ValueError("is longer than 1 MiB")
    try:
        text = content.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


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


def _described(errors: list[ErrorDetails]) -> Iterator[str]:
    for error in errors:
        if error["type"] == "default_factory_not_called":  # another error of this list is the cause
            continue
        reason = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"].removeprefix("Input ")
        if not error["loc"]:
            yield reason
            continue
        name, *inside = error["loc"]
        entry = next((f"entry {place + 1} " for place in inside if isinstance(place, int)), "")
        yield f"{str(name).upper()}: {entry}{reason}"
