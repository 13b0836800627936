"""Everything that the operator decides: typed, frozen, and read from the environment here and nowhere else.

Sources, strongest first: the overrides given to `Settings.load`, the environment, the file `.env` of the project.
Every ``NAME`` can also be given as ``NAME_FILE``, the path of a file that holds the value (Docker secrets). The
strongest source that mentions ``NAME`` or ``NAME_FILE`` decides about both; giving a value twice within one source is
an error. Blanks and line ends around a value are not part of it. An empty value means "not set", so an empty variable
hides what `.env` says. Only an empty ``MASTER_KEY`` stays an empty ``MASTER_KEY``, and the file of a ``NAME_FILE`` must
not be empty: a secret that got lost on the way must not look like none. Relative paths start at the project, not at the
working directory.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Self, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from app.domain.errors import ConfigInvalid
from app.domain.identity import Registration
from app.domain.keys import APPLICATION_KEYS, Environment, KeyName
from app.domain.providers import ENVIRONMENT_CREDENTIALS
from app.domain.secrets import SecretText
from app.domain.stored_secret import SecretPlace, StoredSecret
from app.settings.database_url import DatabaseUrl
from app.settings.sources import SECRETS, Sources, SourcesRefused, names_of
from app.settings.values import (
    PROJECT_ROOT,
    age_recipient,
    comma_separated,
    cron_schedule,
    discord_id,
    http_url,
    ip_network,
    keep_rule,
    lower_case,
    module_name,
    path_in_project,
    port,
    uuid,
    web_origin,
    websocket_url,
)

__all__ = ["PROJECT_ROOT", "DatabaseUrl", "Settings"]


def _database_url(value: object) -> object:
    return DatabaseUrl.parse(value.reveal()) if isinstance(value, SecretText) else value


def _default_database_url(data: dict[str, Any]) -> DatabaseUrl:
    return DatabaseUrl(path=data["data_dir"] / "keyhall.db")


def _default_backup_dir(data: dict[str, Any]) -> Path:
    directory: Path = data["data_dir"] / "backups"
    return directory


_DatabaseUrl = Annotated[InstanceOf[DatabaseUrl], BeforeValidator(_database_url)]
_PathInProject = Annotated[Path, BeforeValidator(path_in_project)]
_DiscordId = Annotated[str, BeforeValidator(discord_id)]
_DiscordIds = Annotated[frozenset[_DiscordId], BeforeValidator(comma_separated)]
_Modules = Annotated[tuple[Annotated[str, AfterValidator(module_name)], ...], BeforeValidator(comma_separated)]
_Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(ip_network)]
_Days = Annotated[int, Field(ge=1, le=36_500)]
_T = TypeVar("_T")
_ByName = Annotated[Mapping[str, _T], AfterValidator(MappingProxyType), PlainSerializer(dict)]


class Settings(BaseModel):
    """One value per setting; `load` is the way to get one. Nothing secret shows in repr, errors, JSON or pickle."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False, arbitrary_types_allowed=True
    )

    env_file: ClassVar[Path | None] = PROJECT_ROOT / ".env"

    # The install
    app_env: Annotated[Environment, BeforeValidator(lower_case)] = Environment.DEVELOPMENT
    data_dir: _PathInProject = PROJECT_ROOT / "data"
    install_id: Annotated[UUID, BeforeValidator(uuid)] | None = None
    database_url: _DatabaseUrl = Field(default_factory=_default_database_url)

    database_connections: Annotated[int, Field(ge=2, le=1000)] = 10
    """The connections of this process to a PostgreSQL server for requests, half of them for writing."""

    # Keys from outside
    master_key: SecretText | None = None
    """Empty when MASTER_KEY is empty, which is not the same as None. Never given together with `master_key_file`."""
    master_key_file: _PathInProject | None = None
    """The path in MASTER_KEY_FILE; not read here, because its permissions are judged with its content."""
    master_key_previous: SecretText | None = None
    secrets_backend: Annotated[Literal["env", "aws"], BeforeValidator(lower_case)] = "env"
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
    web_port: Annotated[int, Field(ge=0, le=65535), BeforeValidator(port)] = 8080
    public_url: Annotated[str, BeforeValidator(web_origin)] | None = None
    """The origin under which browsers reach the web; see `origin` for the default."""
    trusted_proxies: Annotated[tuple[_Network, ...], BeforeValidator(comma_separated)] = ()
    access_token_expire_minutes: Annotated[int, Field(ge=1, le=525_600)] = 30
    refresh_token_expire_days: Annotated[int, Field(ge=1, le=3650)] = 30

    # People and guilds
    registration: Annotated[Registration, BeforeValidator(lower_case)] = Registration.GUILD
    guild_allowlist: _DiscordIds = frozenset()
    env_credential_guilds: _DiscordIds = frozenset()

    # Discord
    discord_bot_token: SecretText | None = None
    discord_client_id: _DiscordId | None = None
    discord_client_secret: SecretText | None = None
    discord_api_base: Annotated[str, BeforeValidator(http_url)] | None = None
    discord_gateway_url: Annotated[str, BeforeValidator(websocket_url)] | None = None
    discord_message_content: Annotated[bool, BeforeValidator(lower_case)] = False
    shard_ids: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(comma_separated)] = ()
    shard_count: Annotated[int, Field(ge=1)] | None = None

    # Operation
    backup_dir: _PathInProject = Field(default_factory=_default_backup_dir)
    backup_schedule: Annotated[str, AfterValidator(cron_schedule)] | None = None
    backup_keep: Annotated[str, AfterValidator(keep_rule)] = "7"
    backup_recipient: Annotated[str, AfterValidator(age_recipient)] | None = None
    backup_identity_file: _PathInProject | None = None
    audit_retention_days: _Days = 400
    usage_retention_days: _Days = 90
    legacy_users_json: _PathInProject | None = None
    bot_extensions: _Modules = ()
    web_extensions: _Modules = ()
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(lower_case)] = "info"
    traces_endpoint: Annotated[str, BeforeValidator(http_url)] | None = None
    """Where a collector takes traces by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces."""
    log_format: Annotated[Literal["console", "json"], BeforeValidator(lower_case)] | None = None
    """None: console on a terminal, else JSON."""

    # Gathered
    environment_credentials: _ByName[SecretText] = Field(default_factory=dict)
    """Providers' credentials from variables such as OPENAI_API_KEY and GITHUB_TOKEN, by the provider's slug."""
    secret_files: _ByName[Path] = Field(default_factory=dict)
    """The files that secrets were read from, by the secret's setting; MASTER_KEY_FILE is not among them."""
    stored_secret: InstanceOf[StoredSecret] | None = None
    """The secret in AWS that was joined to these settings, with SECRETS_BACKEND=aws."""
    notices: tuple[str, ...] = ()
    """Warnings about what was passed over, for the log, which is not there yet while settings are read."""

    @classmethod
    def load(cls, overrides: Mapping[str, object] | None = None, *, stored: StoredSecret | None = None) -> Self:
        """Read, check and freeze the settings; ``overrides`` are named as the settings, in either case.

        ``stored`` is the secret that SECRETS_BACKEND=aws names; without it, what belongs there is missing.

        Raises ConfigInvalid, which names every offending setting with its reason and never a value.
        """
        try:
            given: dict[str, Any] = {name.lower(): value for name, value in (overrides or {}).items()}
            return cls(**Sources(cls, given, cls.env_file, stored).values())
        except SourcesRefused as refused:
            problems = refused.problems
        except ValidationError as invalid:
            problems = list(_described(invalid.errors(include_url=False, include_input=False)))
        # Raised here and not above, so that no traceback leads back to the given values.
        raise ConfigInvalid("; ".join(problems), remedy=_where_to_correct(problems, cls.env_file, stored))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Every setting by the name that the operator writes."""
        return names_of(cls)

    @property
    def outside_keys(self) -> Mapping[str, SecretText]:
        """The application keys given from outside, by name; SECRET_KEY counts as JWT_SECRET_KEY."""
        given = {name.value: getattr(self, name.value.lower()) for name in APPLICATION_KEYS}
        given[KeyName.JWT_SECRET_KEY.value] = self.jwt_secret_key or self.secret_key
        return MappingProxyType({name: key for name, key in given.items() if key is not None})

    @property
    def secret_place(self) -> SecretPlace | None:
        """Where the secret is that SECRETS_BACKEND=aws names; None with another backend."""
        if self.secrets_backend != "aws" or self.aws_secret_name is None or self.aws_region is None:
            return None
        return SecretPlace(name=self.aws_secret_name, region=self.aws_region)

    @property
    def origin(self) -> str:
        """PUBLIC_URL, or else the address that the web listens on."""
        host = f"[{self.web_host}]" if ":" in self.web_host else self.web_host
        return self.public_url or f"http://{host}:{self.web_port}"

    def secrets(self) -> Iterator[SecretText]:
        """Everything that must never show in a log; of the database's URL, the password."""
        for name in sorted(SECRETS - {"DATABASE_URL"} - ENVIRONMENT_CREDENTIALS.keys()):
            secret: SecretText | None = getattr(self, name.lower())
            if secret:
                yield secret
        yield from self.environment_credentials.values()
        if self.stored_secret is not None and self.stored_secret.previous is not None:
            yield from self.stored_secret.previous.values.values()
        if self.database_url.password is not None:
            yield self.database_url.password

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.secrets_backend == "aws" and self.secret_place is None:
            raise ValueError("SECRETS_BACKEND: aws needs AWS_SECRET_NAME and AWS_REGION")
        if self.jwt_secret_key is not None and self.secret_key is not None and self.jwt_secret_key != self.secret_key:
            raise ValueError("SECRET_KEY: is another name of JWT_SECRET_KEY and has a different value; give one")
        if self.app_env is Environment.PRODUCTION and self.public_url and not self.public_url.startswith("https://"):
            raise ValueError("PUBLIC_URL: production demands https")
        if self.backup_schedule is not None and self.backup_recipient is None:
            raise ValueError(
                "BACKUP_SCHEDULE: needs BACKUP_RECIPIENT, the public key age1… that `age-keygen` prints, to encrypt to"
            )
        if self.shard_ids and (self.shard_count is None or max(self.shard_ids) >= self.shard_count):
            raise ValueError("SHARD_IDS: needs a SHARD_COUNT that is greater than each of them")
        if len(set(self.shard_ids)) != len(self.shard_ids):
            raise ValueError("SHARD_IDS: names a shard twice")
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("Settings cannot be pickled")


def _where_to_correct(problems: Iterable[str], env_file: Path | None, stored: StoredSecret | None) -> str:
    """The remedy; ``problems`` begin with the names of their settings."""
    here = f"the environment or in {env_file or 'the .env file'}"
    in_secret = stored.current.values.keys() if stored else frozenset[str]()
    names = {problem.partition(":")[0].upper() for problem in problems}
    there = sorted(names & in_secret)
    if stored is None or not there:
        return f"correct this in {here}"
    remedy = f"put a version of the AWS secret {stored.place.name} in which {', '.join(there)} is right"
    return remedy if names <= in_secret else f"{remedy}, and correct the rest in {here}"


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
