"""One way for every log line: structlog and the standard library meet in one handler behind one redactor."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, TextIO, cast

from app.infrastructure.invocation import runnable
from app.infrastructure.plain_structlog import structlog
from app.infrastructure.redaction import MULTILINE, Redactor, as_text

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

_LEVELS: Final = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
# Below INFO these repeat their input: gateway events with the texts of modals, SQL parameters, bodies, secrets of AWS.
_QUIET: Final = {
    "boto3": logging.INFO,
    "botocore": logging.INFO,
    "aiosqlite": logging.INFO,
    "asyncpg": logging.INFO,
    "asyncio": logging.INFO,
    "discord": logging.INFO,
    "sqlalchemy": logging.WARNING,
    "alembic": logging.WARNING,
    "aiohttp.access": logging.CRITICAL + 1,  # the web's own middleware logs requests, without query strings
}

# ---------------------------------------------------------------------------------------------------------------------
# From records to lines
# ---------------------------------------------------------------------------------------------------------------------

_EXTRA: Final = structlog.stdlib.ExtraAdder()


def _level(number: int) -> str:
    return next((name for name, lowest in _LEVELS.items() if number >= lowest), "debug")


def _interpolated(template: str, arguments: object) -> str:
    try:
        return template % arguments if arguments else template
    except Exception:  # noqa: BLE001 - a wrong placeholder or an odd argument must not cost the message
        return f"{template} <arguments that do not fit>"


def _stated(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """When, how grave and by whom, as the record says; what the caller passed under these names cannot replace them."""
    record = cast("logging.LogRecord", event.pop("_record"))
    stated: EventDict = {
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": _level(record.levelno),
        "logger": record.name,
        "event": runnable(_interpolated(as_text(event.pop("event", "")), event.pop("positional_args", None))),
    }
    passed = dict(event)
    if not passed.pop("_from_structlog"):
        passed |= _EXTRA(logger, method, {"_record": record})
        for name in ("_record", "message", "asctime"):  # the latter two are left by formatters of other handlers
            passed.pop(name, None)
    for name, value in passed.items():
        stated[f"{name}_" if name in stated else name] = value
    return stated


def _indented(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Only the first line of a record starts at the margin, so no message in a traceback can pose as a record."""
    for name in MULTILINE & event.keys():
        event[name] = "\n".join(f"    {line}" for line in str(event[name]).split("\n"))
    return event


class _Formatter(structlog.stdlib.ProcessorFormatter):
    def __init__(self, redactor: Redactor, renderers: tuple[Processor, ...]) -> None:
        super().__init__(
            foreign_pre_chain=[structlog.contextvars.merge_contextvars],
            processors=[_stated, structlog.processors.format_exc_info, redactor, *renderers],
            pass_foreign_args=True,
            use_get_message=False,
        )

    def format(self, record: logging.LogRecord) -> str:
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001 - what fails to be logged must not fail what was being done
            what = f"a log record could not be formatted: {type(error).__name__}"
            substitute = logging.LogRecord(record.name, record.levelno, "", 0, what, None, None)
            return super().format(substitute)


class _Handler(logging.Handler):
    """Writes each record with one call, so that processes which share a stream do not cut into each other's lines."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record) + "\n"
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):
            # The stream is closed or its reader is gone. The standard handler would print the raw record instead.
            return


# ---------------------------------------------------------------------------------------------------------------------
# Interface
# ---------------------------------------------------------------------------------------------------------------------

_STRUCTLOG: Final[list[Processor]] = [
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    structlog.processors.StackInfoRenderer(),
    structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A structlog logger over the standard logger of that name: ``log.info("event", key=value)``."""
    return cast(
        "structlog.stdlib.BoundLogger",
        structlog.wrap_logger(
            logging.getLogger(name),
            processors=_STRUCTLOG,
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=True,
        ),
    )


def configure_logging(
    level: str,
    format: Literal["console", "json"] | None = None,  # noqa: A002 - as the setting LOG_FORMAT says
    stream: TextIO | None = None,
    *,
    redactor: Redactor | None = None,
) -> Redactor:
    """Send every logger's lines to ``stream`` (standard error by default), redacted; returns what redacts them.

    ``level`` is debug, info, warning, error or critical. ``format`` None means console on a terminal, else JSON. A
    second call replaces the first; pass the redactor of the first, or its secrets are forgotten. Raises ValueError for
    an unknown level.
    """
    number = _LEVELS.get(level.lower())
    if number is None:
        raise ValueError("the log level must be debug, info, warning, error or critical")
    stream = sys.stderr if stream is None else stream
    redactor = Redactor() if redactor is None else redactor
    terminal = stream.isatty()
    renderers: tuple[Processor, ...]
    if format == "json" or (format is None and not terminal):
        renderers = (structlog.processors.JSONRenderer(ensure_ascii=False),)
    else:
        console = structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=structlog.dev.plain_traceback)
        renderers = (_indented, console)
    handler = _Handler(stream)
    handler.setFormatter(_Formatter(redactor, renderers))

    root = logging.getLogger()
    for former in [former for former in root.handlers if isinstance(former, _Handler)]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(number)
    for name, floor in _QUIET.items():
        logging.getLogger(name).setLevel(max(number, floor))
    structlog.configure(
        processors=_STRUCTLOG,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return redactor
