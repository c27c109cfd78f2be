"""One trace from topUpStart over the provider's notice to the meter's confirmation and the push, in real processes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import select

from standpipe.payments.models import TopUp
from standpipe.payments.rails.mpesa import MpesaRail
from standpipe.platform import tracing
from standpipe.platform.database import Sessions
from tests.payments.test_mpesa import work
from tests.support.collector import Collector, Span, collecting
from tests.support.logs import traced
from tests.support.roles import until_answers
from tests.support.town import make_town as make_small_town
from tests.support.town import until
from tests.test_main_job import (
    Town,
    _commands,
    events_of,
    lose_the_answer_to_the_credit,
    make_town,
    wake_until_on_meter,
)

WANTED = {
    *("HTTP POST", "provider create", "inbox", "settle", "provider fetch", "outbox", "radio command"),
    *("credit confirmed", "push"),
}
BEFORE_THE_METER = ["settle", "inbox", "HTTP POST", "HTTP POST"]
"""Upwards: what queued the credit, the notice's own request, and topUpStart's."""


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as made:
        yield made


@pytest.fixture
async def town(database_url: str, sessions: Sessions, tmp_path: Path, collector: Collector) -> AsyncIterator[Town]:
    async with make_town(database_url, sessions, tmp_path, OTEL_ENDPOINT=collector.url) as made:
        yield made


async def trace_of(town: Town, top_up_id: str) -> str:
    async with town.sessions() as session:
        traceparent = (await session.get_one(TopUp, top_up_id)).traceparent
    assert traceparent is not None
    return traceparent.split("-")[1]


def named(collector: Collector, trace: str, name: str, **attributes: str) -> list[Span]:
    return [
        span
        for span in collector.of(trace).values()
        if span.name == name and attributes.items() <= span.attributes.items()
    ]


async def is_whole(collector: Collector, trace: str) -> bool:
    """Whether every parent is there."""
    spans = collector.of(trace)
    return all(span.parent in spans for span in spans.values() if span.parent)


async def has(collector: Collector, trace: str, name: str, count: int = 1, **attributes: str) -> bool:
    return len(named(collector, trace, name, **attributes)) >= count


async def is_there(collector: Collector, name: str, traces: tuple[str, ...]) -> bool:
    return any(span.name == name and span.trace in traces for span in collector.spans)


async def test_one_trace_from_the_top_up_to_the_meters_confirmation(town: Town, collector: Collector) -> None:
    await town.sign_in()
    await town.register_device()
    await town.meter.wake()
    top_up_id, intent_id = await town.start_top_up()
    trace = await trace_of(town, top_up_id)
    intent = (await town.http.post(f"{town.stripe_url}/_control/payment_intents/{intent_id}/succeed")).json()
    assert {await town.webhook(event) for event in events_of(intent)} == {200}
    await town.until_status(top_up_id, "PAID")
    await wake_until_on_meter(town, top_up_id)
    # Each process sends its spans when it gets round to it.
    for name in sorted(WANTED):
        await until(lambda name=name: has(collector, trace, name))
    await until(lambda: has(collector, trace, "HTTP POST", 10))

    await until(lambda: is_whole(collector, trace))
    spans = collector.of(trace)
    assert {span.name for span in spans.values()} >= WANTED
    assert {span.service for span in spans.values()} == {f"standpipe-{role}" for role in ("serve", "worker", "gateway")}
    roots = [span for span in spans.values() if not span.parent]
    assert [root.attributes["http.route"] for root in roots] == ["/graphql"]
    [push] = named(collector, trace, "push")
    assert _without_batches(collector.above(push)) == [
        "push",
        "outbox",
        "credit confirmed",
        "radio command",
        *BEFORE_THE_METER,
    ]
    notices = named(collector, trace, "HTTP POST", **{"http.route": "/webhooks/{rail}"})
    assert len(notices) == 9, "repeated ones too"
    # On a busy machine the meter may have fallen asleep over the first try.
    *_, sent = named(collector, trace, "radio command", carrier="coap", command="CREDIT")
    assert trace not in sent.links, "a contact serves many; the command links to it"
    await until(lambda: is_there(collector, "contact", sent.links))
    told = str([span.attributes for span in collector.spans])
    assert "254712345678" not in told
    assert town.token not in told


async def test_the_same_trace_after_every_process_was_killed(town: Town, collector: Collector) -> None:
    await town.sign_in()
    await town.register_device()
    await town.meter.wake()
    top_up_id, intent_id = await town.start_top_up()
    trace = await trace_of(town, top_up_id)
    intent = (await town.http.post(f"{town.stripe_url}/_control/payment_intents/{intent_id}/succeed")).json()

    await town.roles.kill("worker")
    assert {await town.webhook(event) for event in events_of(intent)} == {200}
    await until(lambda: has(collector, trace, "HTTP POST", 10))
    await town.roles.kill("serve")
    await town.roles.start("serve", "worker")
    await until_answers(town.http, f"{town.api}/healthz")
    await town.until_status(top_up_id, "PAID")
    await until(lambda: has(collector, trace, "inbox", 3))

    lose_the_answer_to_the_credit(town.meter)
    waking = asyncio.create_task(town.meter.wake())
    await until(lambda: _commands(town, "SENT"))
    await town.roles.kill("gateway")
    await waking
    await town.roles.start("gateway")
    await wake_until_on_meter(town, top_up_id)
    await until(lambda: has(collector, trace, "push"))
    # Each process sends its spans when it gets round to it: a parent may come after its children.
    await until(lambda: is_whole(collector, trace))

    spans = collector.of(trace)
    assert len([span for span in spans.values() if not span.parent]) == 1
    [push] = named(collector, trace, "push")
    upwards = _without_batches(collector.above(push))
    assert upwards[:3] == ["push", "outbox", "credit confirmed"]
    # Either the meter had taken it before the gateway died, or the same command went out again.
    rest = upwards[3:] if upwards[3] != "radio command" else upwards[4:]
    # The customer's app looks all the while, and may have settled it before the notice's turn came.
    assert rest in (BEFORE_THE_METER, ["settle", "HTTP POST"])


def _without_batches(names: list[str]) -> list[str]:
    """Steps are taken in batches; one alone is in the trace of its step."""
    return [name for name in names if name != "batch"]


async def test_money_without_an_order_begins_its_trace_with_the_notice(database_url: str, tmp_path: Path) -> None:
    async with make_small_town(database_url, tmp_path) as small:
        mpesa = small.rails["mpesa"]
        assert isinstance(mpesa, MpesaRail)
        await mpesa.register_urls()
        with traced() as exporter:
            params = {"account": small.home.serial, "amount": "20", "phone": "254700000099"}
            await small.http.post(f"{small.mpesa_url}/_control/paybill", params=params)
            await work(small)
            spans = spans_of(exporter)
        async with small.sessions() as session:
            [top_up] = await session.scalars(select(TopUp))
        assert top_up.traceparent is not None
        trace = top_up.traceparent.split("-")[1]
        [root] = [span for span in exporter.get_finished_spans() if trace in span.to_json() and span.parent is None]
        assert dict(root.attributes or {})["http.route"] == "/webhooks/{rail}/{tail:path}"
        assert spans["outbox"][0] == trace


def spans_of(exporter: InMemorySpanExporter) -> dict[str, tuple[str, str]]:
    """Trace and parent by name."""
    found = {}
    for span in exporter.get_finished_spans():
        assert span.context is not None
        found[span.name] = (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}" if span.parent else "")
    return found


def test_a_late_server_span_joins_the_trace_that_it_is_about() -> None:
    with traced() as exporter:
        with tracing.span("before"):
            kept = tracing.current_traceparent()
        with tracing.server_span("late", late=True) as span:
            tracing.belongs_to(kept)
            tracing.belongs_to(None)
            span.set_attribute("http.route", "/x")
            assert tracing.current_ids() is not None
        with tracing.server_span("never told", late=True):
            pass
        with pytest.raises(ValueError, match="secret"), tracing.server_span("failed", late=True):
            raise ValueError("a secret")
        spans = spans_of(exporter)
        assert kept is not None
        assert spans["late"] == (kept.split("-")[1], kept.split("-")[2])
        assert spans["never told"][1] == ""
        failed = next(span for span in exporter.get_finished_spans() if span.name == "failed")
        assert dict(failed.attributes or {}) == {"error.type": "ValueError"}
        assert "secret" not in failed.to_json()
    assert tracing.current_traceparent() is None


def test_what_is_kept_is_continued_and_rubbish_is_not() -> None:
    with traced() as exporter:
        with tracing.span("first"):
            kept = tracing.current_traceparent()
            with tracing.continue_from(kept), tracing.span("nearer"):
                pass
        with tracing.span("contact"), tracing.continue_from(kept), tracing.span("other"):
            pass
        for rubbish in ("", "00-0-0-00", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "\0" * 55):
            with tracing.continue_from(rubbish), tracing.span("rubbish"):
                pass
        spans = spans_of(exporter)
        assert kept is not None
        assert {spans[name][0] for name in ("first", "nearer", "other")} == {kept.split("-")[1]}
        assert spans["other"][1] == kept.split("-")[2]
        assert spans["rubbish"][1] == ""
        [other] = [span for span in exporter.get_finished_spans() if span.name == "other"]
        assert [f"{link.context.trace_id:032x}" for link in other.links] == [spans["contact"][0]]


def test_without_a_collector_nothing_is_kept() -> None:
    with tracing.span("a"), tracing.continue_from("00-" + "1" * 32 + "-" + "1" * 16 + "-01"):
        tracing.belongs_to(None)
        assert tracing.current_traceparent() is None
    with tracing.server_span("b", late=True) as span:
        span.set_attribute("a", 1)
    assert not tracing.is_on()
