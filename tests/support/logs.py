"""All that a process would write to its log and to its traces, kept for a test to read."""

import io
import json
import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from standpipe.platform import logs, tracing


@contextmanager
def logged(secrets: Iterable[str] = (), *, level: str = "DEBUG", format_: str = "json") -> Iterator[io.StringIO]:
    """The log as ``standpipe.wiring`` sets it up, every library's logger turned up as far as it goes."""
    root, hooks, loud = logging.getLogger(), (sys.excepthook, threading.excepthook), logging.raiseExceptions
    before, handlers = root.level, root.handlers[:]
    written = io.StringIO()
    logs.configure(level, format_, secrets, written)
    for handler in handlers:
        # pytest's own stay: they keep what a failed test shows.
        root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield written
    finally:
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(before)
        logging.getLogger("standpipe").setLevel(logging.NOTSET)
        (sys.excepthook, threading.excepthook), logging.raiseExceptions = hooks, loud


def lines(written: io.StringIO) -> list[dict[str, Any]]:
    """Each line, read."""
    return [json.loads(line) for line in written.getvalue().splitlines()]


@contextmanager
def traced() -> Iterator[InMemorySpanExporter]:
    """Every span of this process, as soon as it ends."""
    exporter = InMemorySpanExporter()
    tracing.start(exporter, "standpipe-test", at_once=True)
    try:
        yield exporter
    finally:
        tracing.stop()


def told(spans: Iterable[ReadableSpan]) -> str:
    """All that spans say."""
    return "\n".join(span.to_json() for span in spans)
