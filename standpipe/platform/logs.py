"""Log lines: JSON for machines or text for people, and nothing personal in either.

What keeps personal data out is an allow-list, not attention. A value is shown only under a key of ``KEYS``, and then
without what ``platform.redaction`` knows to be a number, a token or an address. An exception shows its type and place;
its message only where the type's messages are written by people who know this rule, or by machines. Other libraries
speak from WARNING up and through the same processor: at DEBUG they tell whole frames and rows.
"""

import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from standpipe.platform import tracing
from standpipe.platform.errors import SettingsError, StandpipeError
from standpipe.platform.redaction import KEPT_OUT, NUMBER, Redactor

LEVELS = {"DEBUG": logging.DEBUG, "INFO": logging.INFO, "WARNING": logging.WARNING, "ERROR": logging.ERROR}
FORMATS = ("json", "text")
KEYS = frozenset(
    {
        "account_id",
        "alarms",
        "attempt",
        "attempts",
        "by_minor",
        "carrier",
        "code",
        "command_id",
        "count",
        "customer_id",
        "delivery_id",
        "document_id",
        "downlink_id",
        "error",
        "error_id",
        "error_s",
        "event_id",
        "event_name",
        "fact_id",
        "failed",
        "generation",
        "host",
        "household_id",
        "kind",
        "meter_id",
        "month",
        "names",
        "off_s",
        "operator_id",
        "outcome",
        "path",
        "peer",
        "payment_id",
        "port",
        "rail",
        "rail_ref",
        "queue",
        "read_at",
        "reason",
        "receipt_ref",
        "refund_id",
        "refused_for_want_of_room",
        "result",
        "sequence",
        "serial",
        "size",
        "status",
        "tariff_id",
        "token_id",
        "top_up_id",
        "what",
    }
)
"""Keys that a line may have beside its event. A new one is added here by somebody who asked what may stand under it."""
_OURS = ("timestamp", "level", "event", "logger", "request_id", "trace_id", "span_id")
_QUOTING = frozenset({"error", "reason"})
"""Messages of errors, which quote what they were given."""
_REFS = frozenset({"rail_ref", "receipt_ref", "event_id"})
"""A provider's names for a payment. They are needed to find it there; M-Pesa's end in the payer's number."""
_REF = re.compile(r"[A-Za-z0-9_.:-]{1,160}")
_PEERS = frozenset({"peer", "host"})
_PEER = re.compile(r"\[?[0-9a-fA-F.:]{2,45}\]?(?::\d{1,5})?")
_LONG_NUMBER = re.compile(r"\d{9,160}")
_TELLING = (
    *(StandpipeError, OSError, TypeError, AttributeError, NameError, ImportError, RecursionError, ZeroDivisionError),
    MemoryError,
)
_TELLING_MODULES = frozenset({"sqlalchemy", "asyncpg", "httpx", "aiocoap", "OpenSSL", "websockets", "grpc"})
MAX_ITEMS = 20
MAX_FRAMES = 30
MAX_CAUSES = 5


class Redaction:
    """The processor through which every line goes last, whoever wrote it."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """The line with what it may hold."""
        exc_info = event.pop("exc_info", None)
        event.pop("stack_info", None)
        shown: EventDict = {key: event[key] for key in _OURS if key in event}
        shown["event"] = self._redactor.text(str(event.get("event", "")))
        for key, value in event.items():
            if key not in _OURS:
                shown[self._redactor.text(str(key))] = self._value(key, value)
        error = _error_of(exc_info)
        if error is not None:
            shown["exception"] = "\n".join(self._told(error, set(), 0))
        return shown

    def _value(self, key: str, value: object) -> object:
        if value is None or isinstance(value, bool):
            return value
        if key not in KEYS:
            return KEPT_OUT
        match value:
            case int() | float():
                return value
            case str():
                return self._text(key, str(value))
            case list() | tuple() | set() | frozenset():
                return [self._value(key, item) for item in list(value)[:MAX_ITEMS]]
            case _:
                return f"{KEPT_OUT} {type(value).__name__}"

    def _text(self, key: str, value: str) -> str:
        if key in _REFS and _REF.fullmatch(value):
            return _LONG_NUMBER.sub(NUMBER, value)
        if key in _PEERS and _PEER.fullmatch(value):
            return value
        return self._redactor.text(value, quotes=key in _QUOTING)

    def _told(self, error: BaseException, seen: set[int], depth: int) -> Iterable[str]:
        """Return where an error came from, its type, and its cause."""
        if id(error) in seen or depth > MAX_CAUSES:
            return
        seen.add(id(error))
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is not None:
            yield from self._told(cause, seen, depth + 1)
            yield "which led to:"
        frames = traceback.extract_tb(error.__traceback__, limit=-MAX_FRAMES)
        yield from (f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
        yield f"{type(error).__module__}.{type(error).__qualname__}: {self._message(error)}"
        if isinstance(error, BaseExceptionGroup):
            for part in error.exceptions[:MAX_CAUSES]:
                yield "of which:"
                yield from self._told(part, seen, depth + 1)

    def _message(self, error: BaseException) -> str:
        telling = isinstance(error, _TELLING) or type(error).__module__.partition(".")[0] in _TELLING_MODULES
        if not telling:
            return KEPT_OUT
        try:
            return self._redactor.text(str(error), quotes=True)
        except Exception:
            return KEPT_OUT


class _Logger(structlog.WriteLogger):
    """Writes lines, and knows what it is called."""

    def __init__(self, file: TextIO, name: str) -> None:
        super().__init__(file)
        self.name = name


def configure(level: str, format_: str, secrets: Iterable[str], file: TextIO | None = None) -> None:
    """Every log line of this process, ours or a library's, to ``file`` or standard error.

    ``secrets``: texts that no line may hold. Raises SettingsError for a level or format that does not exist.
    """
    if level.upper() not in LEVELS:
        raise SettingsError(f"STANDPIPE_LOG_LEVEL: {level} is none of {', '.join(LEVELS)}.")
    if format_ not in FORMATS:
        raise SettingsError(f"STANDPIPE_LOG_FORMAT: {format_} is none of {', '.join(FORMATS)}.")
    out, lowest = file or sys.stderr, LEVELS[level.upper()]
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_ids,
    ]
    last: list[Processor] = [Redaction(Redactor(secrets)), _renderer(format_)]
    structlog.configure(
        processors=[*before, _add_logger, *last],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=lambda *names: _Logger(out, str(names[0]) if names else "standpipe"),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    handler.addFilter(_may_speak)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("standpipe").setLevel(lowest)
    # It would print a line that cannot be formatted with all its arguments.
    logging.raiseExceptions = False
    sys.excepthook = _unhandled
    threading.excepthook = lambda args: _unhandled(args.exc_type, args.exc_value, args.exc_traceback)


def _may_speak(record: logging.LogRecord) -> bool:
    """Whatever level somebody set on a library's logger."""
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] == "standpipe"


def _add_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    ids = tracing.current_ids()
    if ids is not None:
        event["trace_id"], event["span_id"] = ids
    return event


def _add_logger(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["logger"] = getattr(logger, "name", "standpipe")
    return event


def _renderer(format_: str) -> Processor:
    if format_ == "json":
        return structlog.processors.JSONRenderer()
    return structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"], drop_missing=True)


def _error_of(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exception() if exc_info else None


def _unhandled(_kind: type[BaseException], error: BaseException | None, _trace: TracebackType | None) -> None:
    if error is not None and not isinstance(error, KeyboardInterrupt):
        structlog.get_logger("standpipe").error("unhandled", exc_info=error)
