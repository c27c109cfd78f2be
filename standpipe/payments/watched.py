"""Calls to providers, timed and traced by what came of them."""

import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from opentelemetry.trace import SpanKind

from standpipe.payments.provider import Provider, ProviderRefusedError, ProviderUnavailableError
from standpipe.platform import metrics, tracing

CALLS = ("create", "fetch", "find", "cancel", "refund", "find_refund", "fetch_refund", "unsolicited", "settlements")
_P = ParamSpec("_P")
_T = TypeVar("_T")


def watched(provider: Provider) -> Provider:
    """The same provider, each of whose calls over the network is measured from now on."""
    for call in CALLS:
        # On the instance: whoever asks what kind of provider it is still gets the true answer.
        setattr(provider, call, _watch(provider.name, call, getattr(provider, call)))
    return provider


def _watch(provider: str, call: str, ask: Callable[_P, Awaitable[_T]]) -> Callable[_P, Awaitable[_T]]:
    @wraps(ask)
    async def asked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        began_s, outcome = time.perf_counter(), "failed"
        with tracing.span(f"provider {call}", kind=SpanKind.CLIENT, provider=provider) as span:
            try:
                answer = await ask(*args, **kwargs)
                outcome = "answered"
            except ProviderRefusedError:
                outcome = "refused"
                raise
            except ProviderUnavailableError:
                outcome = "unavailable"
                raise
            finally:
                span.set_attribute("outcome", outcome)
                metrics.PROVIDER_CALL_S.labels(provider, call, outcome).observe(time.perf_counter() - began_s)
        return answer

    return asked
