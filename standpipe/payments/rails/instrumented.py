"""Calls to providers, timed and traced by what came of them."""

import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from opentelemetry.trace import SpanKind

from standpipe.payments.rails.port import Rail, RailRefusedError, RailUnavailableError
from standpipe.platform import metrics, tracing

CALLS = ("create", "fetch", "find", "cancel", "refund", "find_refund", "fetch_refund", "unsolicited", "settlements")
_P = ParamSpec("_P")
_T = TypeVar("_T")


def instrumented(rail: Rail) -> Rail:
    """Wrap a rail so that each of its calls over the network is measured."""
    for call in CALLS:
        # On the instance: whoever asks what kind of provider it is still gets the true answer.
        setattr(rail, call, _instrument(rail.name, call, getattr(rail, call)))
    return rail


def _instrument(rail: str, call: str, ask: Callable[_P, Awaitable[_T]]) -> Callable[_P, Awaitable[_T]]:
    @wraps(ask)
    async def asked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        began_s, outcome = time.perf_counter(), "failed"
        with tracing.span(f"provider {call}", kind=SpanKind.CLIENT, rail=rail) as span:
            try:
                answer = await ask(*args, **kwargs)
                outcome = "answered"
            except RailRefusedError:
                outcome = "refused"
                raise
            except RailUnavailableError:
                outcome = "unavailable"
                raise
            finally:
                span.set_attribute("outcome", outcome)
                metrics.RAIL_CALL_S.labels(rail, call, outcome).observe(time.perf_counter() - began_s)
        return answer

    return asked
