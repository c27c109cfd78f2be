"""Over each carrier: contacts are counted, a command goes out in the trace that queued it, and ends there."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from standpipe.platform import metrics, tracing
from standpipe.platform.database import Sessions
from tests.support.dlms import dlms_field
from tests.support.logs import traced
from tests.support.lora import add_device, dev_eui_of, make_lora_network
from tests.support.radio import Field
from tests.support.town import Town, until


def counted(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


async def queued(grant: Callable[[], Awaitable[object]]) -> str:
    """Grant credit under a trace of its own; its id."""
    with tracing.span("queued"):
        await grant()
        ids = tracing.current_ids()
    assert ids is not None
    return ids[0]


def names(exporter: InMemorySpanExporter, trace: str) -> dict[str, dict[str, object]]:
    """A trace's spans with their attributes."""
    spans = exporter.get_finished_spans()
    return {
        span.name: dict(span.attributes or {})
        for span in spans
        if span.context is not None and f"{span.context.trace_id:032x}" == trace
    }


async def has(exporter: InMemorySpanExporter, trace: str, name: str) -> bool:
    return name in names(exporter, trace)


async def test_two_top_ups_in_one_command_are_both_confirmed_in_their_own_traces(plain: Field) -> None:
    done = counted("standpipe_radio_contacts_total", carrier="coap", outcome="done")
    waited = counted("standpipe_credit_confirmed_seconds_count")
    with traced() as exporter:
        first = await queued(lambda: plain.grant(5_000))
        second = await queued(lambda: plain.grant(700, "k2"))
        await plain.meter.wake()
        await until(lambda: has(exporter, first, "credit confirmed"))
        await until(lambda: has(exporter, second, "radio command"))
        assert names(exporter, second)["radio command"] == {"carrier": "coap", "command": "CREDIT", "attempt": 1}
        assert "credit confirmed" in names(exporter, second)
        assert "radio command" not in names(exporter, first), "its command was superseded by the second's total"
    assert counted("standpipe_credit_confirmed_seconds_count") == waited + 2
    await until(lambda: _rose("coap", "done", done))


async def test_a_meter_that_falls_asleep_is_counted_so_and_the_next_try_is_in_the_same_trace(plain: Field) -> None:
    asleep = counted("standpipe_radio_contacts_total", carrier="coap", outcome="asleep")
    with traced() as exporter:
        trace = await queued(lambda: plain.grant(5_000))
        plain.meter.lose_answers_to("command", 1)
        await plain.meter.wake()
        await until(lambda: _rose("coap", "asleep", asleep))
        assert names(exporter, trace)["radio command"]["error.type"] == "MeterAsleepError"
        await plain.meter.wake()
        await until(lambda: has(exporter, trace, "credit confirmed"))


async def test_over_dlms(database_url: str, sessions: Sessions, tmp_path: Path) -> None:
    done = counted("standpipe_radio_contacts_total", carrier="dlms", outcome="done")
    async with dlms_field(database_url, sessions, tmp_path) as field:
        with traced() as exporter:
            trace = await queued(lambda: field.grant(5_000))
            field.run_meter()
            await field.until_statuses(("CREDIT", "CONFIRMED"))
            await until(lambda: has(exporter, trace, "radio command"))
            assert names(exporter, trace)["radio command"] == {"carrier": "dlms", "command": "CREDIT", "attempt": 1}
            assert "credit confirmed" in names(exporter, trace)
            await until(lambda: _rose("dlms", "done", done))


async def test_over_lorawan(town: Town, database_url: str, tmp_path: Path) -> None:
    done = counted("standpipe_radio_contacts_total", carrier="lorawan", outcome="done")
    await add_device(town.sessions, town.home.meter_id, dev_eui_of(0))
    async with make_lora_network(database_url, town.sessions, tmp_path, [town.home]) as field:
        await field.meter.wake()
        with traced() as exporter:
            top_up_id, _ = await town.pay_by_card("15.00")
            await town.poll()

            async def confirmed() -> bool:
                await field.meter.wake()
                return await town.status(top_up_id) == "ON_METER"

            await until(confirmed)
            commands = [span for span in exporter.get_finished_spans() if span.name == "radio command"]
            [trace] = {f"{span.context.trace_id:032x}" for span in commands if span.context is not None}
            assert names(exporter, trace).keys() >= {"HTTP POST", "settle", "radio command", "credit confirmed"}
            assert {dict(span.attributes or {})["carrier"] for span in commands} == {"lorawan"}
    assert counted("standpipe_radio_contacts_total", carrier="lorawan", outcome="done") > done


async def _rose(carrier: str, outcome: str, before: float) -> bool:
    return counted("standpipe_radio_contacts_total", carrier=carrier, outcome=outcome) > before
