"""AWS Secrets Manager: one JSON secret, read off the event loop and within a deadline.

Every failure is SecretsUnavailable, or ConfigInvalid where a setting is wrong, with a remedy; nothing of an answer is
repeated. Credentials and the endpoint are found as in every program of AWS: its standard variables and files, the role
of the machine, container or service account, ``AWS_ENDPOINT_URL`` or ``AWS_ENDPOINT_URL_SECRETS_MANAGER``.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from typing import Any, Final

from app.domain.errors import ConfigInvalid, SecretsUnavailable, StartupError
from app.domain.secrets import SecretText
from app.domain.stored_secret import SecretPlace, SecretVersion, StoredSecret
from app.settings.values import without_blanks

CONNECT_SECONDS: Final = 3.0
READ_SECONDS: Final = 5.0
DEADLINE_SECONDS: Final = 20.0
"""For both stages and every repetition together."""
_ATTEMPTS: Final = 4
_LARGEST: Final = 65_536
"""Bytes: what AWS stores at most."""
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")

_DENIED: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_THROTTLED: Final = frozenset(
    {"LimitExceededException", "RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"}
)
_ENCRYPTED: Final = frozenset({"DecryptionFailure", "DecryptionFailureException", "EncryptionFailure"})


class AwsSecrets:
    """Implements ``SecretsBackend``. ``wanted`` are the names of the settings that may be in the secret."""

    def __init__(
        self,
        place: SecretPlace,
        wanted: Collection[str],
        *,
        other_settings: Collection[str] = (),
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        self._place = place
        self._wanted = frozenset(wanted)
        self._others = frozenset(other_settings)
        self._deadline = deadline

    async def fetch(self) -> StoredSecret:
        """AWSCURRENT and AWSPREVIOUS, in a thread. Raises SecretsUnavailable, ConfigInvalid."""
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.wrap_future(self._begun())
        except TimeoutError:
            raise self._late() from None

    def fetch_before_a_loop_runs(self) -> StoredSecret:
        """The same for a start, which has nothing else to do. Raises SecretsUnavailable, ConfigInvalid."""
        try:
            return self._begun().result(self._deadline)
        except LateError:
            raise self._late() from None

    def _begun(self) -> Future[StoredSecret]:
        """The answer of a thread of its own: one that never ends keeps neither an executor nor the process busy."""
        answer: Future[StoredSecret] = Future()

        def work() -> None:
            try:
                found = self._fetch()
            except BaseException as error:  # noqa: BLE001 - it is the caller's, in the other thread
                outcome: StoredSecret | BaseException = error
            else:
                outcome = found
            if answer.set_running_or_notify_cancel():
                if isinstance(outcome, BaseException):
                    answer.set_exception(outcome)
                else:
                    answer.set_result(outcome)

        threading.Thread(target=work, name="AWS Secrets Manager", daemon=True).start()
        return answer

    def _late(self) -> SecretsUnavailable:
        return SecretsUnavailable(
            f"AWS Secrets Manager did not answer within {self._deadline:.0f} seconds for {self._place.name}",
            remedy=f"check the network to it with {self._look()}: port 443 outbound, a VPC endpoint, a proxy",
        )

    def _look(self) -> str:
        return f"`aws secretsmanager get-secret-value {self._place.arguments} --query VersionId`"

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _fetch(self) -> StoredSecret:
        try:
            client = self._client()
            answer, before = self._stage(client, "AWSCURRENT"), self._stage(client, "AWSPREVIOUS")
        except Exception as error:  # noqa: BLE001 - boto3 has errors of many families, and builtin ones for bad settings
            raise self._translated(error) from None
        if answer is None:
            raise self._not_there()
        notices: list[str] = []
        current = self._version(answer, notices)
        previous = None
        if before is not None and before.get("VersionId") != current.id:
            try:
                previous = self._version(before, [])
            except StartupError as error:
                notices.append(f"AWSPREVIOUS is passed over: {error.happened}")
        stored = StoredSecret(place=self._place, current=current, previous=previous, notices=tuple(notices))
        if not current.values:
            raise self._partial("holds none of Keyhall's settings")
        if stored.lost:
            raise self._partial(f"is partial: it holds no {', '.join(stored.lost)}")
        return stored

    def _client(self) -> Any:
        import boto3  # noqa: PLC0415 - half a second, for starts that use it alone
        from botocore.config import Config  # noqa: PLC0415

        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        )
        # A session of its own: the default one is shared, and not safe to make clients from in threads.
        return boto3.session.Session().client("secretsmanager", region_name=self._place.region, config=config)

    def _stage(self, client: Any, stage: str) -> dict[str, Any] | None:
        """The answer for a stage, None where the secret or the stage is not there."""
        from botocore.exceptions import ClientError  # noqa: PLC0415

        try:
            answer: dict[str, Any] = client.get_secret_value(SecretId=self._place.name, VersionStage=stage)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == "ResourceNotFoundException":
                return None
            raise
        return answer

    def _version(self, answer: dict[str, Any], notices: list[str]) -> SecretVersion:
        text, version = answer.get("SecretString"), answer.get("VersionId")
        if not isinstance(text, str) or not isinstance(version, str):
            raise self._unreadable("is binary, not text")
        if len(text) > _LARGEST or len(text.encode(errors="surrogatepass")) > _LARGEST:
            raise self._unreadable("is longer than 64 KiB")
        try:
            members = json.loads(text, object_pairs_hook=_Members)
        except (ValueError, RecursionError):
            raise self._unreadable("is not JSON") from None
        if not isinstance(members, _Members):
            raise self._unreadable("is not a JSON object")
        return SecretVersion(id=version, values=self._values(members.pairs, notices))

    def _values(self, pairs: Sequence[tuple[str, Any]], notices: list[str]) -> dict[str, SecretText]:
        values: dict[str, SecretText] = {}
        unknown: list[str] = []
        for field, value in pairs:
            name = field.upper()
            if name in self._others:
                raise ConfigInvalid(
                    f"{name} is in the AWS secret {self._place.name} and is no secret",
                    remedy=f"set {name} in the environment or in .env, and take it out of the secret",
                )
            if name not in self._wanted:
                unknown.append(field if _NAME.fullmatch(field) else "another")
                continue
            if not isinstance(value, str):
                raise self._partial(f"is partial: its {name} is no text")
            value = without_blanks(value)  # noqa: PLW2901 - a line end of a file is no part of a key
            if not value:
                continue  # as not given: a key that is missing is named as such
            if values.setdefault(name, SecretText(value)) != SecretText(value):
                raise ConfigInvalid(
                    f"{name} is given twice in the AWS secret {self._place.name}, with different values",
                    remedy=f"keep one field for {name} in the secret, in capitals or in small letters",
                )
        if unknown:
            named = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
            notices.append(f"the AWS secret {self._place.name} has fields that are no settings: {named}")
        return values

    # -- errors --------------------------------------------------------------------------------------------------------

    def _partial(self, what: str) -> SecretsUnavailable:
        return SecretsUnavailable(
            f"the AWS secret {self._place.name} {what}",
            remedy="put a whole version: `keyhall keys generate --into secret.json` fills in what a file with its JSON "
            f"lacks, `aws secretsmanager put-secret-value {self._place.arguments} --secret-string file://secret.json` "
            "stores it; or go back to the version before",
        )

    def _unreadable(self, what: str) -> SecretsUnavailable:
        return SecretsUnavailable(
            f"the AWS secret {self._place.name} {what}",
            remedy="store one JSON object with the settings' names as fields: "
            f"`aws secretsmanager put-secret-value {self._place.arguments} --secret-string file://secret.json`",
        )

    def _not_there(self) -> SecretsUnavailable:
        return SecretsUnavailable(
            f"there is no secret {self._place.name} in {self._place.region}, or it was deleted",
            remedy="correct AWS_SECRET_NAME or AWS_REGION, or create it: `keyhall keys generate --master --into "
            f"secret.json`, `aws secretsmanager create-secret --name {self._place.arguments.partition(' ')[2]} "
            "--secret-string file://secret.json`",
        )

    def _translated(self, error: Exception) -> StartupError:
        from botocore import exceptions as boto  # noqa: PLC0415

        place = self._place
        if isinstance(error, boto.ClientError):
            return self._refused(str(error.response.get("Error", {}).get("Code", "unknown")))
        if (wrong := self._wrong_setting(error)) is not None:
            return wrong
        happened = f"AWS Secrets Manager did not give {place.name} ({type(error).__name__})"
        remedy = f"see what {self._look()} says"
        if isinstance(error, _credentials_errors()):
            happened = f"no credentials of AWS were found to read {place.name} ({type(error).__name__})"
            remedy = (
                "give this process a role (instance profile, task role, service account), or the variables "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        elif isinstance(error, (boto.HTTPClientError, boto.ConnectionError)):
            happened = f"AWS Secrets Manager in {place.region} cannot be reached ({type(error).__name__})"
            remedy = f"check AWS_REGION, and the network to it with {self._look()}: port 443 outbound, a VPC endpoint"
        return SecretsUnavailable(happened, remedy=remedy)

    @staticmethod
    def _wrong_setting(error: Exception) -> ConfigInvalid | None:
        from botocore import exceptions as boto  # noqa: PLC0415

        if isinstance(error, (boto.InvalidRegionError, boto.NoRegionError)):
            return ConfigInvalid("AWS_REGION is no region of AWS", remedy="set AWS_REGION, such as eu-central-1")
        if isinstance(error, boto.ParamValidationError):
            return ConfigInvalid("AWS_SECRET_NAME is no name of a secret", remedy="correct AWS_SECRET_NAME")
        if type(error) is ValueError:  # of botocore, which has no type for it; its kinds come from broken answers
            return ConfigInvalid(
                "AWS_ENDPOINT_URL or AWS_ENDPOINT_URL_SECRETS_MANAGER is no address", remedy="correct or remove it"
            )
        return None

    def _refused(self, code: str) -> SecretsUnavailable:
        place = self._place
        if code in _DENIED:
            return SecretsUnavailable(
                f"AWS denied reading the secret {place.name} ({code})",
                remedy=f"allow secretsmanager:GetSecretValue on it to the role of this process, and kms:Decrypt where "
                f"it has a key of its own; see what {self._look()} says",
            )
        if code in _THROTTLED:
            return SecretsUnavailable(
                f"AWS throttled reading the secret {place.name} ({code}), {_ATTEMPTS} times",
                remedy="start again in a minute; if that stays, ask AWS for a higher quota",
            )
        if code == "InvalidRequestException":
            return SecretsUnavailable(
                f"the AWS secret {place.name} is marked for deletion ({code})",
                remedy=f"run `aws secretsmanager restore-secret {place.arguments}`",
            )
        if code in _ENCRYPTED:
            return SecretsUnavailable(
                f"AWS cannot decrypt the secret {place.name} ({code})",
                remedy="enable its KMS key, and allow kms:Decrypt with it to the role of this process",
            )
        return SecretsUnavailable(
            f"AWS Secrets Manager refused to give {place.name} ({code})", remedy=f"see what {self._look()} says"
        )


def _credentials_errors() -> tuple[type[Exception], ...]:
    from botocore import exceptions as boto  # noqa: PLC0415

    return (
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.TokenRetrievalError,
        boto.SSOError,
        boto.ProfileNotFound,
        boto.MetadataRetrievalError,
    )


class _Members:
    """An object of JSON whose fields may stand there twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs
