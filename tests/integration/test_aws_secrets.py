"""AWS Secrets Manager, over HTTP: a version is read whole, or the failure has its type and its remedy."""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from app.bootstrap.secrets import secrets_backend
from app.domain.errors import ConfigInvalid, SecretsUnavailable, StartupError
from app.domain.stored_secret import SecretPlace, StoredSecret
from app.infrastructure import aws_secrets
from app.infrastructure.aws_secrets import AwsSecrets
from app.settings import Settings
from app.settings.sources import SECRETS
from tests.support.aws import NAME, REGION, Aws, refusal, running_aws, running_moto

NAMES = ("JWT_SECRET_KEY", "AES_KEY", "ENCRYPTION_KEY", "API_SECRET_KEY")


@pytest.fixture(scope="module")
def moto() -> Iterator[tuple[str, int]]:
    with running_moto() as address:
        yield address


@pytest.fixture
def aws(moto: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    with running_aws(moto) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(aws_secrets, "_ATTEMPTS", 2)
        yield running


def keys(**changed: Any) -> dict[str, Any]:
    return {name: secrets.token_hex(32) for name in ("MASTER_KEY", *NAMES)} | changed


def fetch(name: str = NAME, region: str = REGION) -> StoredSecret:
    return secrets_backend(SecretPlace(name=name, region=region)).fetch_before_a_loop_runs()


def refused(name: str = NAME, region: str = REGION) -> StartupError:
    with pytest.raises(StartupError) as halted:
        fetch(name, region)
    assert halted.value.remedy
    return halted.value


# ---------------------------------------------------------------------------------------------------------------------
# What is read
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [str.upper, str.lower, str.title])
def test_fields_are_the_settings_names_in_either_case(aws: Aws, case: Any) -> None:
    given = keys(DATABASE_URL="postgresql+asyncpg://u:p@h/d", OPENAI_API_KEY="sk-x")
    version = aws.create({case(name): value for name, value in given.items()})
    stored = fetch()
    assert stored.current.id == version
    assert {name: value.reveal() for name, value in stored.current.values.items()} == given
    assert stored.previous is None


def test_the_former_version_is_read_too(aws: Aws) -> None:
    before = keys()
    aws.create(before)
    aws.put({**before, "AES_KEY": secrets.token_hex(32)})
    stored = fetch()
    assert stored.previous is not None
    assert {name: value.reveal() for name, value in stored.former_keys.items()} == {"AES_KEY": before["AES_KEY"]}


def test_a_former_version_that_cannot_be_read_is_passed_over_with_a_notice(aws: Aws) -> None:
    aws.create("not JSON")
    aws.put(keys())
    stored = fetch()
    assert stored.previous is None
    assert any("AWSPREVIOUS is passed over" in notice for notice in stored.notices)


def test_fields_of_others_are_passed_over_with_a_notice(aws: Aws) -> None:
    aws.create({**keys(), "host": "db", "sk-live-looks like a secret!": "x"})
    stored = fetch()
    assert set(stored.current.values) == {"MASTER_KEY", *NAMES}
    assert stored.notices == (f"the AWS secret {NAME} has fields that are no settings: host, another",)


def test_a_master_key_alone_is_whole(aws: Aws) -> None:
    aws.create({"MASTER_KEY": secrets.token_hex(32)})
    assert not fetch().current.keys


def test_64_kib_are_read(aws: Aws) -> None:
    given = keys()
    given["filler"] = "x" * (65_536 - len(json.dumps({**given, "filler": ""})))
    aws.create(given)
    assert fetch().current.keys


async def test_the_event_loop_goes_on_meanwhile(aws: Aws) -> None:
    aws.create(keys())
    backend = secrets_backend(SecretPlace(name=NAME, region=REGION))
    assert (await backend.fetch()).current.keys


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[" * 60_000, "is not JSON"),
        ("[]", "is not a JSON object"),
        ('"text"', "is not a JSON object"),
        ("{}", "holds none of Keyhall's settings"),
        ('{"unknown": "x"}', "holds none of Keyhall's settings"),
        (json.dumps({"AES_KEY": "a" * 64}), "holds no JWT_SECRET_KEY, ENCRYPTION_KEY, API_SECRET_KEY"),
        (json.dumps(keys(AES_KEY="")), "holds no AES_KEY"),
        (json.dumps(keys(AES_KEY=None)), "its AES_KEY is no text"),
        (json.dumps(keys(AES_KEY=7)), "its AES_KEY is no text"),
        (json.dumps(keys(AES_KEY={"a": "b"})), "its AES_KEY is no text"),
        (json.dumps({"seeds": {"secret_key": "x"}}), "holds none"),
    ],
)
def test_a_secret_that_is_broken_or_partial_is_unavailable(aws: Aws, content: str, said: str) -> None:
    if content:
        aws.create(content)
    else:
        aws.create(" ")
    error = refused()
    assert isinstance(error, SecretsUnavailable)
    assert said in error.happened


def test_a_key_that_the_former_version_had_is_missing(aws: Aws) -> None:
    before = keys()
    aws.create(before)
    del before["MASTER_KEY"]
    aws.put(before)
    assert "holds no MASTER_KEY" in refused().happened


def test_binary_is_unavailable(aws: Aws) -> None:
    aws.client.create_secret(Name=NAME, SecretBinary=b"\x00\x01")
    assert "is binary" in refused().happened


def test_one_name_with_two_values_is_given_twice(aws: Aws) -> None:
    one, other = secrets.token_hex(32), secrets.token_hex(32)
    aws.create({**keys(AES_KEY=one), "aes_key": other})
    error = refused()
    assert isinstance(error, ConfigInvalid)
    assert "AES_KEY is given twice" in error.happened
    assert one not in error.line()
    aws.put({**keys(AES_KEY=one), "aes_key": one})
    assert fetch().current.values["AES_KEY"].reveal() == one


def test_a_setting_that_is_no_secret_does_not_belong_there(aws: Aws) -> None:
    aws.create(keys(web_port="80"))
    error = refused()
    assert isinstance(error, ConfigInvalid)
    assert "WEB_PORT" in error.happened


def test_another_region_or_name_is_named(aws: Aws) -> None:
    aws.create(keys())
    assert "there is no secret keyhall/other" in refused("keyhall/other").happened
    assert "in us-east-1" in refused(region="us-east-1").happened
    assert isinstance(refused(region="no such region!"), ConfigInvalid)
    assert isinstance(refused(name=""), ConfigInvalid)


def test_a_secret_that_is_marked_for_deletion_names_the_command_that_restores_it(aws: Aws) -> None:
    aws.create(keys())
    aws.client.delete_secret(SecretId=NAME)
    error = refused()
    assert isinstance(error, SecretsUnavailable)
    assert f"`aws secretsmanager restore-secret --secret-id {NAME} --region {REGION}`" in error.remedy


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("AccessDeniedException", 400, "secretsmanager:GetSecretValue"),
        ("UnrecognizedClientException", 400, "secretsmanager:GetSecretValue"),
        ("ExpiredTokenException", 400, "secretsmanager:GetSecretValue"),
        ("DecryptionFailure", 400, "kms:Decrypt"),
        ("ThrottlingException", 400, "quota"),
        ("InternalServiceError", 500, "get-secret-value"),
        ("SomethingNew", 418, "get-secret-value"),
    ],
)
def test_what_aws_refuses_has_its_remedy(aws: Aws, code: str, status: int, said: str) -> None:
    aws.create(keys())
    aws.fault = refusal(code, status)
    error = refused()
    assert isinstance(error, SecretsUnavailable)
    assert code in error.happened
    assert said in error.remedy


def test_throttling_is_waited_out(aws: Aws) -> None:
    aws.create(keys())
    answers = iter([refusal("ThrottlingException")])

    def once(body: bytes) -> Any:
        aws.fault = None
        return next(answers)(body)

    aws.fault = once
    assert fetch().current.keys
    assert aws.requests >= 3


@pytest.mark.parametrize("body", [b"<html>", b"", b"{}", b"[]", b'{"SecretString": 1, "VersionId": 2}', b"\xff\xfe"])
def test_an_answer_that_is_no_answer_is_unavailable(aws: Aws, body: bytes) -> None:
    aws.create(keys())
    aws.fault = lambda _: (200, {"Content-Type": "application/x-amz-json-1.1"}, body)
    assert isinstance(refused(), SecretsUnavailable)


def test_an_aws_that_hangs_is_given_up_at_the_deadline(aws: Aws) -> None:
    aws.create(keys())
    aws.fault = aws.hang
    began = time.monotonic()
    backend = AwsSecrets(SecretPlace(name=NAME, region=REGION), SECRETS, deadline=0.3)
    with pytest.raises(SecretsUnavailable, match="did not answer within"):
        backend.fetch_before_a_loop_runs()
    assert time.monotonic() - began < 3
    assert all(each.daemon for each in threading.enumerate() if each.name == "AWS Secrets Manager")


async def test_a_running_process_gives_up_at_the_deadline_too(aws: Aws) -> None:
    aws.create(keys())
    aws.fault = aws.hang
    with pytest.raises(SecretsUnavailable, match="did not answer within"):
        await AwsSecrets(SecretPlace(name=NAME, region=REGION), SECRETS, deadline=0.3).fetch()


def test_an_aws_that_is_not_there_is_unavailable(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:9")
    error = refused()
    assert isinstance(error, SecretsUnavailable)
    assert "cannot be reached" in error.happened
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", "no address")
    assert isinstance(refused(), ConfigInvalid)


def test_without_credentials_it_is_said_how_to_give_some(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    assert "give this process a role" in refused().remedy


def test_nothing_of_a_secret_shows(aws: Aws, caplog: pytest.LogCaptureFixture) -> None:
    given = keys()
    aws.create(given)
    from app.infrastructure.logging import configure_logging

    configure_logging("debug")
    with caplog.at_level(logging.DEBUG):
        stored = fetch()
    shown = repr(stored) + caplog.text
    assert not any(value in shown for value in given.values())


# ---------------------------------------------------------------------------------------------------------------------
# Joined to the settings
# ---------------------------------------------------------------------------------------------------------------------


def load(stored: StoredSecret, **overrides: str) -> Settings:
    settings = {"SECRETS_BACKEND": "aws", "AWS_REGION": REGION, "AWS_SECRET_NAME": NAME, **overrides}
    return Settings.load(settings, stored=stored)


def test_values_of_the_secret_are_settings(aws: Aws) -> None:
    given = keys(DATABASE_URL="postgresql+asyncpg://u:p@h/d", OPENAI_API_KEY="sk-x1", SECRET_KEY="")
    aws.create(given)
    settings = load(fetch())
    assert settings.master_key is not None
    assert settings.master_key.reveal() == given["MASTER_KEY"]
    assert {name: key.reveal() for name, key in settings.outside_keys.items()} == {name: given[name] for name in NAMES}
    assert settings.database_url.server is not None
    assert settings.environment_credentials["openai"].reveal() == "sk-x1"


@pytest.mark.parametrize("name", ["AES_KEY", "AES_KEY_FILE", "MASTER_KEY", "MASTER_KEY_FILE"])
def test_a_value_in_the_secret_and_elsewhere_is_given_twice(aws: Aws, name: str) -> None:
    aws.create(keys())
    with pytest.raises(ConfigInvalid, match="given twice, the other time in the AWS secret"):
        load(fetch(), **{name: "/run/secrets/x"})


def test_the_remedy_for_a_wrong_value_names_the_secret_that_holds_it(aws: Aws) -> None:
    aws.create(keys(DATABASE_URL="mysql://nowhere"))
    for overrides, where in (
        ({}, r"put a version of the AWS secret keyhall/\S+ in which DATABASE_URL is right$"),
        ({"WEB_PORT": "none"}, "DATABASE_URL is right, and correct the rest in the environment"),
    ):
        with pytest.raises(ConfigInvalid) as halted:
            Settings.load({"APP_ENV": "test", **overrides}, stored=fetch())
        assert re.search(where, halted.value.remedy), halted.value.remedy


def test_aws_needs_a_name_and_a_region() -> None:
    with pytest.raises(ConfigInvalid, match="AWS_SECRET_NAME and AWS_REGION"):
        Settings.load({"SECRETS_BACKEND": "aws", "AWS_REGION": REGION})
