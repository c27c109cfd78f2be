"""Traces: one id from a request through the rows that wait for somebody, to the meter's own confirmation.

A row that waits keeps the W3C ``traceparent`` of what wrote it (``TracedMixin``); whoever works the row goes on from
there. Without an exporter every function here does nothing, and costs about as much. Attributes hold kinds and
outcomes, never what a person is called or can be reached by; exceptions are told by their type alone, for their
messages quote what they were given.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

EXPORT_EVERY_MS = 1_000
"""Short, so that a process which is killed takes few spans with it."""
_CAME_FROM = otel_context.create_key("standpipe-came-from")
_PROPAGATOR = TraceContextTextMapPropagator()
_NO_SPAN = nullcontext(INVALID_SPAN)


@dataclass
class _State:
    provider: TracerProvider | None = None
    tracer: trace.Tracer | None = None


@dataclass
class _Late:
    """A server's span that is not begun before it is known whose trace it belongs to."""

    name: str
    attributes: dict[str, Any]
    stack: ExitStack
    began_ns: int = field(default_factory=time.time_ns)
    opened: Span | None = None

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute of a span, begun or not."""
        self.attributes[key] = value
        if self.opened is not None:
            self.opened.set_attribute(key, value)


_state = _State()
_late: ContextVar[_Late | None] = ContextVar("late", default=None)


def start(exporter: SpanExporter, service: str, *, sample_ratio: float = 1.0, at_once: bool = False) -> None:
    """Send spans to ``exporter`` from now on; ``sample_ratio`` of the traces that begin here, and all that go on here.

    ``at_once``: each span when it ends, for tests; otherwise in the background.
    """
    stop()
    provider = TracerProvider(
        resource=Resource.create({"service.name": service}),
        sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
        shutdown_on_exit=False,
    )
    if at_once:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    else:
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_EVERY_MS))
    _state.provider, _state.tracer = provider, provider.get_tracer("standpipe")


def stop() -> None:
    """Send what waits, and trace no more. May block for the exporter's time-out."""
    if _state.provider is not None:
        _state.provider.shutdown()
    _state.provider = _state.tracer = None


def is_on() -> bool:
    """Tell whether anybody wants spans."""
    return _state.tracer is not None


def span(name: str, *, kind: SpanKind = SpanKind.INTERNAL, **attributes: Any) -> AbstractContextManager[Span]:
    """A step, below the one under way. An exception marks it failed with its type, and goes on."""
    return _NO_SPAN if _state.tracer is None else _span(name, kind, attributes, None)


def continue_from(traceparent: str | None) -> AbstractContextManager[Any]:
    """Within, steps belong to the trace that a row has kept.

    A step under way of the same trace stays their parent, as it is the nearer one. One of another trace (a contact
    with a meter serves many) is linked to.
    """
    return _NO_SPAN if _state.tracer is None or traceparent is None else _continued(traceparent)


def current_traceparent() -> str | None:
    """Return what a row keeps of the step under way; None where there is none."""
    at = _current()
    if at is None:
        return None
    return f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}"


def current_ids() -> tuple[str, str] | None:
    """Trace and span for a log line."""
    at = _current()
    return None if at is None else (f"{at.trace_id:032x}", f"{at.span_id:016x}")


def server_span(name: str, *, late: bool = False, **attributes: Any) -> AbstractContextManager[Any]:
    """A request that we answer: a trace of its own, for strangers do not choose our ids.

    A ``late`` one waits for ``belongs_to`` and begins then, with the time at which it came.
    """
    if _state.tracer is None:
        return _NO_SPAN
    return _waiting(name, attributes) if late else _span(name, SpanKind.SERVER, attributes, None)


def belongs_to(traceparent: str | None) -> None:
    """The late server's span under way belongs to this trace; None: it begins one."""
    late = _late.get()
    if late is not None and late.opened is None:
        late.stack.enter_context(continue_from(traceparent))
        late.opened = late.stack.enter_context(_span(late.name, SpanKind.SERVER, late.attributes, late.began_ns))


@contextmanager
def _span(name: str, kind: SpanKind, attributes: dict[str, Any], began_ns: int | None) -> Iterator[Span]:
    tracer = _state.tracer
    if tracer is None:
        yield INVALID_SPAN
        return
    came_from = otel_context.get_value(_CAME_FROM)
    first = isinstance(came_from, SpanContext) and trace.get_current_span().get_span_context().is_remote
    with tracer.start_as_current_span(
        name,
        kind=kind,
        attributes=attributes,
        links=[Link(came_from)] if first and isinstance(came_from, SpanContext) else None,
        start_time=began_ns,
        record_exception=False,
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except Exception as error:
            opened.set_attribute("error.type", type(error).__name__)
            opened.set_status(Status(StatusCode.ERROR))
            raise


@contextmanager
def _continued(traceparent: str) -> Iterator[None]:
    kept = _PROPAGATOR.extract({"traceparent": traceparent}, context=otel_context.Context())
    theirs, here = trace.get_current_span(kept).get_span_context(), _current()
    if not theirs.is_valid or (here is not None and here.trace_id == theirs.trace_id):
        yield
        return
    token = otel_context.attach(otel_context.set_value(_CAME_FROM, here, kept))
    try:
        yield
    finally:
        otel_context.detach(token)


@contextmanager
def _waiting(name: str, attributes: dict[str, Any]) -> Iterator[_Late]:
    with ExitStack() as stack:
        late = _Late(name, attributes, stack)
        token = _late.set(late)
        try:
            yield late
        finally:
            belongs_to(None)
            _late.reset(token)


def _current() -> SpanContext | None:
    if _state.tracer is None:
        return None
    at = trace.get_current_span().get_span_context()
    return at if at.is_valid else None
