"""No secret passes the log, no value forges a line, and no object makes logging fail."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn
from urllib.parse import quote, quote_plus, urlencode

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.secrets import SecretBytes, SecretText
from app.infrastructure.logging import configure_logging, get_logger
from app.infrastructure.redaction import REDACTED, Redactor

CANARY = "c4n4ry/+ä-5f0e9d-Kq7Lw2Zx9Vt4Bn6M/+ü"
FORMATS: tuple[Literal["console", "json"], ...] = ("console", "json")


def fail(error: BaseException) -> NoReturn:
    raise error


class Log:
    """What was written, and the ways to write it."""

    def __init__(self, form: Literal["console", "json"], level: str = "debug") -> None:
        self.stream = io.StringIO()
        self.redactor = configure_logging(level, form, self.stream)
        self.structured = get_logger("tests.structured")
        self.standard = logging.getLogger("tests.standard")

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def everything(self) -> str:
        """The output as it is and, for JSON, as a reader decodes it: neither may hold what must not show."""
        decoded = [repr(record) for record in self.records] if self.text.startswith("{") else []
        return "\n".join([self.text, *decoded])


def _nothing(_record: logging.LogRecord) -> bool:
    return False


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    names = [name for name, logger in logging.Logger.manager.loggerDict.items() if isinstance(logger, logging.Logger)]
    levels = {name: logging.getLogger(name).level for name in names}
    for handler in handlers:  # pytest's own, which fail on what is tried here
        handler.addFilter(_nothing)
    yield
    for handler in handlers:
        handler.removeFilter(_nothing)
    root.handlers[:], root.level = handlers, level
    for name in [name for name in logging.Logger.manager.loggerDict if name not in levels]:
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, former in levels.items():
        logging.getLogger(name).setLevel(former)
    structlog.configure(**config)
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def log() -> Log:
    return Log("json")


@pytest.fixture(params=FORMATS)
def either(request: pytest.FixtureRequest) -> Log:
    return Log(request.param)


# ---------------------------------------------------------------------------------------------------------------------
# Registered secrets, in every form
# ---------------------------------------------------------------------------------------------------------------------

FORMS: dict[str, Callable[[str], str]] = {
    "raw": lambda secret: secret,
    "repr": repr,
    "JSON": json.dumps,
    "JSON in JSON": lambda secret: json.dumps({"a": secret}, ensure_ascii=False),
    "URL path": quote,
    "URL component": lambda secret: quote(secret, safe=""),
    "URL form": quote_plus,
    "URL query": lambda secret: urlencode({"x": secret}),
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64url": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode().rstrip("="),
    "base64 after one byte": lambda secret: base64.b64encode(b"u" + secret.encode() + b"z").decode(),
    "base64 after two bytes": lambda secret: base64.b64encode(b"u:" + secret.encode() + b"z").decode(),
    "hex": lambda secret: secret.encode().hex(),
    "HEX": lambda secret: secret.encode().hex().upper(),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("registered", [CANARY, SecretText(CANARY), SecretBytes(CANARY.encode())])
def test_a_registered_secret_shows_in_no_form(name: str, registered: SecretText | SecretBytes | str) -> None:
    for form in FORMATS:
        log = Log(form)
        log.redactor.add(registered)
        shown = FORMS[name](CANARY)
        log.structured.info(f"before {shown} after", value=shown, nested={"deep": [(shown, 1)]})
        log.standard.warning("before %s after", shown)
        assert shown[8:-8] not in log.everything()
        assert log.text.count("before ") == log.text.count(" after") == 2


@given(
    secret=st.text(st.characters(codec="utf-8"), min_size=8, max_size=80),
    name=st.sampled_from(sorted(FORMS)),
    around=st.tuples(st.text(" ,;:=()", max_size=3), st.text(" ,;:=()", max_size=3)),
)
@example(secret="00000000", name="raw", around=("", ""))
def test_any_registered_secret_is_taken_out_of_any_text(secret: str, name: str, around: tuple[str, str]) -> None:
    redactor = Redactor()
    redactor.add(secret)
    shown = FORMS[name](secret)
    found = redactor.text(f"{around[0]}{shown}{around[1]}")
    assert REDACTED in found
    assert shown not in found


def test_key_material_shows_in_no_form() -> None:
    material = secrets.token_bytes(32)
    forms = (material.hex(), base64.b64encode(material).decode(), repr(material), quote(material), str(material)[2:-1])
    for form in FORMATS:
        log = Log(form)
        log.redactor.add(SecretBytes(material))
        for shown in forms:
            log.standard.error("value %s", shown)
        assert not [shown for shown in forms if shown in log.everything()]
        assert log.text.count(REDACTED) == len(forms)


def test_bytes_are_never_shown(either: Log) -> None:
    either.structured.info("value", a=b"canary-bytes", b=bytearray(b"canary-bytes"), c=memoryview(b"canary-bytes"))
    assert "canary" not in either.text
    assert either.text.count("<12 bytes>") == 3


def test_a_secret_type_hides_itself(either: Log) -> None:
    either.structured.info("value", value=SecretText(CANARY), many=[SecretBytes(CANARY.encode())])
    either.standard.info("%s %r", SecretText(CANARY), SecretText(CANARY))
    assert CANARY not in either.everything()
    assert "<SecretText hidden>" in either.text


def test_a_longer_secret_leaves_nothing_of_itself_beside_a_shorter_one(log: Log) -> None:
    log.redactor.add("abcdefgh")
    log.redactor.add("abcdefgh-and-more")
    log.standard.info("x abcdefgh-and-more y abcdefgh z")
    assert log.records[0]["event"] == f"x {REDACTED} y {REDACTED} z"


def test_short_values_are_not_registered(log: Log) -> None:
    for value in ("", "a", "keyhall"):
        log.redactor.add(value)
    log.standard.info("keyhall is ready")
    assert log.records[0]["event"] == "keyhall is ready"


def test_a_secret_in_the_name_of_a_value_does_not_show(either: Log) -> None:
    either.redactor.add("canary-0123456789")
    either.structured.info("event", **{"canary-0123456789": 1}, nested={"canary-0123456789": 2})
    assert "canary" not in either.text


def test_a_secret_that_the_cut_would_split_does_not_show(log: Log) -> None:
    secret = secrets.token_hex(3000)
    log.redactor.add(secret)
    log.standard.info("x" * 16_000 + secret + "y" * 100_000)
    (record,) = log.records
    assert secret[:16] not in record["event"]
    assert len(record["event"]) < 17_000


# ---------------------------------------------------------------------------------------------------------------------
# What only looks like a secret
# ---------------------------------------------------------------------------------------------------------------------

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
BODY = "QyXw9vT3bZ8nLk2mPq7rSf4dGh6jWc1e"
LOOKS_LIKE_A_SECRET = [
    f"sk-{BODY}",
    f"sk-proj-{BODY}",
    f"sk-ant-api03-{BODY}",
    f"sk_live_{BODY}",
    f"ghp_{BODY}",
    f"github_pat_{BODY}",
    f"glpat-{BODY}",
    f"xoxb-{BODY}",
    "AKIAIOSFODNN7EXAMPLE",
    f"AIza{BODY}",
    f"gsk_{BODY}",
    JWT,
    "gAAAAABh" + BODY * 2 + "==",
    f"kh_{BODY}",
    f"khr_{BODY}",
    f"khs_{BODY}",
    f"AGE-SECRET-KEY-1{BODY.upper()}",
    f"MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.{BODY}",
    f"-----BEGIN PRIVATE KEY-----\n{BODY}\n-----END PRIVATE KEY-----",
    f"-----BEGIN RSA PRIVATE KEY-----\\n{BODY}\\n",
]
CARRIES_A_SECRET = [
    f"Bearer {BODY}",
    f"authorization: bearer {BODY}",
    f"Authorization: Basic {BODY}",
    f"'Authorization': 'Bot {BODY}', 'Host': 'discord.com'",
    f"('Authorization', '{BODY}')",
    f"(b'authorization', b'{BODY}')",
    f"Cookie: session={BODY}; other={BODY}",
    f"Set-Cookie: __Host-session={BODY}; Path=/",
    f"X-Api-Key: {BODY}",
    f"password={BODY}",
    f"password = '{BODY} {BODY}'",
    f"PASSWORD={BODY},{BODY}",
    f"new_password={BODY}",
    f"secret={BODY}&next=1",
    f"token={BODY}",
    f"refresh_token={BODY}",
    f"api_key={BODY}",
    f"api-key={BODY}",
    f"apikey={BODY}",
    f"JWT_SECRET_KEY={BODY}",
    f"MASTER_KEY={BODY}",
    f"client_secret='{BODY}'",
    f'{{"password": "{BODY}"}}',
    f"{{'token': '{BODY}'}}",
    json.dumps({"body": json.dumps({"secret": BODY})}),
    json.dumps({"password": f'{BODY}"{BODY}'}),
    f"postgresql+asyncpg://user:{BODY}@db.example/keyhall",
    f"https://discord.com/api/v10/webhooks/123456789012345678/{BODY}/messages/@original",
    f"/api/v10/interactions/123456789012345678/{BODY}/callback",
    f"GET /callback?code={BODY}&state={BODY}",
]


@pytest.mark.parametrize("text", LOOKS_LIKE_A_SECRET + CARRIES_A_SECRET)
def test_what_has_the_form_of_a_secret_is_taken_out(text: str, either: Log) -> None:
    either.standard.info("it was %s", text)
    either.structured.info("it was", value=text, many=[text])
    try:
        fail(RuntimeError(text))
    except RuntimeError:
        either.standard.exception("failed")
    shown = either.everything()
    assert BODY not in shown
    assert BODY.upper() not in shown
    assert text not in shown
    assert either.text.count(REDACTED) >= 4
    assert "it was" in shown


@pytest.mark.parametrize("around", [" {} ", "({})", "<{}>", '"{}"', "'{}',", "a={}&b", "/{}/", "{}\n{}"])
@pytest.mark.parametrize("text", LOOKS_LIKE_A_SECRET[:-2])
def test_a_secret_is_recognised_wherever_it_stands(text: str, around: str) -> None:
    assert text not in Redactor().text(around.format(text, text))


@pytest.mark.parametrize(
    "text",
    [
        "GET /api/v1/credentials/0198c0de-0000-7000-8000-000000000001 200",
        "JWT_SECRET_KEY version 3 is the primary",
        "the token has expired",
        "invalid token: signature",
        "took up epoch 3 of keyset/AES_KEY",
        "fingerprint=9f86d081884c7d65 key_version=3 token_type=at+jwt secret_name=keyhall",
        "http://127.0.0.1:8080/credentials and https://example.org/a@b",
        "NEW INSTALL 0198c0de-0000-7000-8000-000000000001 at /var/lib/keyhall/keyhall.db",
        "risk-management-department-of-the-house",
        "password=None token=null secret=False",
        "app.infrastructure.database.repositories.credentials",
    ],
)
def test_what_people_need_to_read_stays(text: str, log: Log) -> None:
    log.standard.info(text)
    assert log.records[0]["event"] == text


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "new_password",
        "passphrase",
        "secret",
        "client_secret",
        "token",
        "refresh_token",
        "accessToken",
        "otp",
        "api_key",
        "apikey",
        "X-Api-Key",
        "private_key",
        "MASTER_KEY",
        "Authorization",
        "cookie",
        "Set-Cookie",
        "secrets",
    ],
)
def test_the_name_of_a_value_can_tell_that_it_is_secret(name: str, either: Log) -> None:
    plain = "nothing-special"
    either.structured.info("event", **{name: plain}, nested={name: [plain]}, headers=[(name, plain)])
    either.standard.info("event", extra={name: plain})
    assert plain not in either.text
    assert either.text.count(REDACTED) == 4


def test_counts_and_flags_are_no_secrets(log: Log) -> None:
    log.structured.info("used", tokens=120, has_secret=True, password=None, token_version=3, secret_name="keyhall")
    record = log.records[0]
    assert record["tokens"] == 120
    assert record["has_secret"] is True
    assert record["password"] is None
    assert (record["token_version"], record["secret_name"]) == (3, "keyhall")


@given(st.text(max_size=300))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    redactor = Redactor()
    once = redactor.text(f"token={text} Bearer {text}")
    assert redactor.text(once) == once


@pytest.mark.parametrize(
    "unit",
    [
        "eyJ",
        "-eyJ",
        "token ",
        "token\\",
        "password",
        "://a:",
        '\\"',
        "a.b-",
        'token="\\',
        "authorization ",
        "bearer ",
        "-----BEGIN PRIVATE KEY-----",
        "webhooks/1",
        "a",
        "=",
        "sk-",
        "-",
        "api_",
        "'",
        "token='a\\",
    ],
)
def test_no_text_takes_long_to_look_through(unit: str) -> None:
    """16 KiB of whatever repeats: a pattern that backtracks without bounds would take minutes."""
    redactor = Redactor()
    start = time.process_time()
    redactor.text((unit * 16_384)[:16_384])
    assert time.process_time() - start < 2


# ---------------------------------------------------------------------------------------------------------------------
# Tracebacks
# ---------------------------------------------------------------------------------------------------------------------


def test_a_traceback_shows_no_secret_of_any_exception_in_the_chain(either: Log) -> None:
    either.redactor.add(CANARY)
    try:
        try:
            fail(KeyError(CANARY))
        except KeyError as error:
            error.add_note(f"note {CANARY}")
            raise ValueError(f"with {CANARY}") from error
    except ValueError:
        either.standard.exception("failed with %s", CANARY)
        either.structured.exception("failed", value=CANARY)
    assert CANARY not in either.everything()
    assert either.text.count("Traceback (most recent call last)") == 4
    assert "ValueError" in either.text


def test_a_traceback_shows_no_local_variable(either: Log) -> None:
    def with_a_local() -> None:
        local = "canary-" + "in-a-local"
        raise ValueError(len(local))

    try:
        with_a_local()
    except ValueError:
        either.standard.exception("failed")
        either.structured.error("failed", exc_info=True, stack_info=True)
    assert "canary-in-a-local" not in either.text
    assert "ValueError: 17" in either.text


def test_the_end_of_a_very_long_traceback_stays(log: Log) -> None:
    try:
        fail(ValueError("x" * 300_000 + " the reason"))
    except ValueError:
        log.standard.exception("failed")
    (record,) = log.records
    assert record["exception"].endswith(" the reason")
    assert len(record["exception"]) <= 65_536


# ---------------------------------------------------------------------------------------------------------------------
# One record stays one record
# ---------------------------------------------------------------------------------------------------------------------

FORGERY = "2026-01-01T00:00:00.000+00:00 [critical ] forged"
CONTROLS = [
    "\n",
    "\r",
    "\r\n",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x85",
    "\u2028",
    "\u2029",
    "\x1b[2K\x1b[1A",
    "\x9b2K",
    "\x08",
    "\0",
]


@pytest.mark.parametrize("control", [*CONTROLS, "\u202e", "\u200b", "\x7f", "\ud800"])
def test_no_value_forges_a_line(control: str, either: Log) -> None:
    text = f"innocent{control}{FORGERY}"
    either.structured.info(text, value=text, **{f"name{control}": 1}, nested={text: [text]})
    either.standard.info("%s", text)
    logging.getLogger(f"name{control}x").info("event")
    lines = either.text.removesuffix("\n").split("\n")
    assert len(lines) == 3
    assert not [line for line in lines if not line.isprintable()]
    assert not [line for line in lines if line.startswith(FORGERY)]


@pytest.mark.parametrize("control", CONTROLS)
def test_no_exception_forges_a_line(control: str, either: Log) -> None:
    try:
        fail(ValueError(f"innocent{control}{FORGERY}"))
    except ValueError:
        either.standard.exception("failed")
        either.structured.exception("failed")
    lines = either.text.removesuffix("\n").split("\n")
    assert len([line for line in lines if not line.startswith(" ")]) == 2
    assert not [line for line in lines if not line.isprintable()]


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text() | st.lists(st.text()), max_size=3))
def test_any_text_is_one_line_of_json(event: str, values: dict[str, Any]) -> None:
    log = Log("json")
    log.structured.info(event, value=values)
    assert log.text.count("\n") == 1
    assert log.records[0].keys() == {"timestamp", "level", "logger", "event", "value"}


def test_what_the_record_states_cannot_be_overridden(log: Log) -> None:
    log.structured.warning("event", timestamp="never", level="debug", logger="somebody")
    log.standard.warning("event", extra={"level": "debug", "timestamp": "never", "event": "forged"})
    for record in log.records:
        assert record["level"] == "warning"
        assert record["event"] == "event"
        assert record["logger"].startswith("tests.")
        assert record["timestamp"].startswith("20")


# ---------------------------------------------------------------------------------------------------------------------
# Logging never fails
# ---------------------------------------------------------------------------------------------------------------------


class Hostile:
    """Raises whatever it is asked."""

    def __repr__(self) -> str:
        raise RuntimeError("canary in a repr")

    __str__ = __repr__


class HostileMapping(Mapping[str, object]):
    def __bool__(self) -> bool:
        return True  # logging itself asks a lone argument whether it is empty

    def __getitem__(self, key: str) -> object:
        raise RuntimeError

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError

    def __repr__(self) -> str:
        raise RuntimeError


class HostileError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("canary in an exception")


def cycle() -> list[object]:
    itself: list[object] = []
    itself.append(itself)
    return itself


ODD: list[object] = [
    Hostile(),
    HostileMapping(),
    HostileError(),
    [Hostile()],
    {"a": Hostile(), Hostile(): 1, 1: 2, None: 3},
    cycle(),
    float("nan"),
    float("inf"),
    1 << 70,
    10**6000,
    "\ud800",
    "x" * 1_000_000,
    list(range(10_000)),
    object,
    {1, 2},
    frozenset({"a"}),
    lambda: None,
]


@pytest.mark.parametrize("odd", ODD, ids=[type(odd).__name__ for odd in ODD])
def test_an_odd_value_does_not_cost_the_line(odd: object, either: Log) -> None:
    either.structured.info("structured", value=odd, name=(odd, odd))
    either.structured.info("positional %s", odd)
    either.standard.info("standard %s", odd)
    either.standard.info("extra", extra={"value": odd})
    assert either.text.count("\n") == 4
    for event in ("structured", "positional", "standard", "extra"):
        assert event in either.text
    assert "canary" not in either.text
    assert len(either.text) < 300_000


def test_arguments_that_do_not_fit_do_not_cost_the_message(either: Log) -> None:
    either.standard.info("count %d of %s", "one")
    either.standard.info("nothing to fill", "in")
    either.structured.info("count %d", "one")
    assert either.text.count("arguments that do not fit") == 3


def test_an_exception_that_cannot_be_shown_does_not_cost_the_line(either: Log) -> None:
    try:
        fail(HostileError())
    except HostileError:
        either.standard.exception("failed")
    assert "HostileError" in either.text
    assert "canary" not in either.text


def test_a_message_that_is_no_text_is_logged_as_what_it_is(log: Log) -> None:
    log.standard.info({"password": "canary"})
    log.standard.info(Hostile())
    log.standard.info(None)
    assert len(log.records) == 3
    assert "canary" not in log.text


def test_a_stream_that_is_gone_ends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    log = Log("json")
    log.stream.close()
    log.standard.error("password is %s", CANARY)
    captured = capfd.readouterr()
    assert captured.err + captured.out == "", "the standard handler would have printed the raw record here"


def test_a_stream_that_knows_ascii_only_gets_every_line() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    configure_logging("info", "console", stream)
    logging.getLogger("tests").info("schlüssel \N{KEY}")
    assert b"schl\\xfcssel \\U0001f511" in raw.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# Every logger, one handler
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["asyncio", "aiohttp.server", "discord.client", "sqlalchemy.engine", "alembic.runtime.migration", "anything"],
)
def test_the_libraries_write_through_the_same_handler(name: str, log: Log) -> None:
    logging.getLogger(name).warning("token=%s", BODY)
    assert [(record["logger"], record["level"], record["event"]) for record in log.records] == [
        (name, "warning", f"token={REDACTED}")
    ]


@pytest.mark.parametrize("name", ["aiosqlite", "asyncpg", "discord.gateway", "discord.http", "asyncio"])
def test_libraries_that_repeat_what_they_are_given_stay_quiet_at_debug(name: str, log: Log) -> None:
    logging.getLogger(name).debug("executing %s", BODY)
    assert log.text == ""
    logging.getLogger(name).info("connected")
    assert log.records[0]["event"] == "connected"


def test_sql_statements_stay_out_of_the_log(log: Log) -> None:
    logging.getLogger("sqlalchemy.engine.Engine").info("SELECT %s", BODY)
    assert log.text == ""


def test_the_access_log_of_aiohttp_is_off(log: Log) -> None:
    logging.getLogger("aiohttp.access").critical("GET /callback?code=x")
    assert log.text == ""


def test_an_unhandled_error_of_the_event_loop_is_redacted(log: Log) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": f"token={BODY}", "exception": ValueError(f"password={BODY}")}
        )

    asyncio.run(main())
    (record,) = [record for record in log.records if record["level"] == "error"]
    assert record["logger"] == "asyncio"
    assert BODY not in log.text


@pytest.mark.parametrize(
    ("level", "written"),
    [("debug", 5), ("info", 4), ("warning", 3), ("error", 2), ("critical", 1), ("ERROR", 2)],
)
def test_levels_mean_the_same_on_both_ways(level: str, written: int) -> None:
    log = Log("json", level)
    names = ["debug", "info", "warning", "error", "critical"]
    for name in names:
        getattr(log.structured, name)("structured")
        getattr(log.standard, name)("standard")
    expected = [name for name in names[-written:] for _ in range(2)]
    assert [record["level"] for record in log.records] == expected


def test_a_level_between_two_has_the_name_of_the_lower(log: Log) -> None:
    log.standard.log(35, "event")
    log.standard.log(99, "event")
    assert [record["level"] for record in log.records] == ["warning", "critical"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="log level"):
        configure_logging("loud", "json", io.StringIO())


def test_what_is_bound_to_the_request_is_on_every_line(log: Log) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        log.structured.info("structured", a=1)
        log.standard.info("standard", extra={"a": 1})
    assert [(record["request_id"], record["a"]) for record in log.records] == [("r-1", 1), ("r-1", 1)]


def test_without_a_format_a_terminal_gets_the_console_and_all_else_json() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, expected in ((io.StringIO(), "{"), (Terminal(), "\x1b[")):
        configure_logging("info", None, stream)
        logging.getLogger("tests").info("event")
        assert stream.getvalue().startswith(expected)


def test_a_second_configuration_replaces_the_first_and_can_keep_its_secrets() -> None:
    first, second = io.StringIO(), io.StringIO()
    redactor = configure_logging("info", "json", first)
    redactor.add(CANARY)
    assert configure_logging("info", "json", second, redactor=redactor) is redactor
    logging.getLogger("tests").info("event %s", CANARY)
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["event"] == f"event {REDACTED}"


def test_import_configures_nothing() -> None:
    script = (
        "import logging, structlog, app.infrastructure.logging as it; it.get_logger('x')\n"
        "assert not logging.getLogger().handlers and not structlog.is_configured()"
    )
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], env=os.environ, check=True)
