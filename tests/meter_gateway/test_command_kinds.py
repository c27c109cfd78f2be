"""Read now, clock, diagnostics, price table: one kind of command each, on every carrier, over real sockets."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiocoap
import pytest
from sqlalchemy import select

from standpipe.billing import price_tables
from standpipe.meters import commands
from standpipe.meters.delivery_state import OPEN
from standpipe.meters.field_models import MeterDiagnostics
from standpipe.meters.models import CommandKind, Meter, MeterCommand
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.publishing import publish
from standpipe_demo.simulator import lora_codec, meter_orders
from standpipe_demo.simulator.dlms_objects import CHARGE, CLOCK
from tests.support.dlms import TOKEN, dlms_field
from tests.support.lora import make_lora_field
from tests.support.radio import make_field
from tests.support.town import until

pytestmark = pytest.mark.calendar

CARRIERS = ("lwm2m", "dlms", "lorawan")
LONG = """
tariff: d
name: Domestic
currency: KES
basis: consumption
effective-from: {day}
proration: none
blocks:
{blocks}
"""


class Side:
    """A field of any carrier, and how its meter comes within reach."""

    def __init__(self, field: Any, meter: Any, wake: Callable[[], Any]) -> None:
        self.field, self.meter, self._wake = field, meter, wake
        self.sessions: Sessions = field.sessions
        self.meter_id: str = (field.homes[0] if hasattr(field, "homes") else field.home).meter_id

    async def order(self, kind: CommandKind, value: int = 0) -> str:
        async with self.sessions.begin() as session:
            meter = await commands.lock_meter(session, self.meter_id)
            return await commands.enqueue(session, meter, kind=kind, value=value)

    async def row(self) -> MeterCommand:
        async with self.sessions() as session:
            rows = await session.scalars(select(MeterCommand).order_by(MeterCommand.sequence.desc()).limit(1))
            return rows.one()

    async def rows(self, kind: CommandKind) -> list[MeterCommand]:
        async with self.sessions() as session:
            wanted = select(MeterCommand).where(MeterCommand.kind == kind).order_by(MeterCommand.sequence)
            return list(await session.scalars(wanted))

    async def ends(self, *, wakes: int = 14) -> MeterCommand:
        """Bring the meter within reach until its last command has ended."""
        for _ in range(wakes):
            await self._wake()
            if (row := await self.row()).status not in OPEN:
                return row
        raise AssertionError((row.kind, row.status, row.reason, row.attempts))

    async def speaks(self) -> None:
        await self._wake()

    async def state(self) -> Any:
        return await self.field.state()

    async def push(self, **more: Any) -> str:
        async with self.sessions.begin() as session:
            meter = await commands.lock_meter(session, self.meter_id)
            return await price_tables.push_table(session, meter, now=datetime.now(UTC), **more)


@asynccontextmanager
async def side(carrier: str, database_url: str, sessions: Sessions, folder: Path) -> AsyncIterator[Side]:
    if carrier == "lwm2m":
        async with make_field(database_url, sessions, folder, dtls=True) as field:
            yield Side(field, field.meter, field.meter.wake)
    elif carrier == "lorawan":
        async with make_lora_field(database_url, sessions, folder) as lora:
            yield Side(lora, lora.meter, lora.meter.wake)
    else:
        async with dlms_field(database_url, sessions, folder) as dlms:
            dlms.run_meter()

            async def idle() -> bool:
                # A push in the middle of a contact begins no other.
                server = dlms.server
                return server is not None and server.proven == 1 and not server._tasks

            async def settle() -> None:
                await dlms.until_stated()
                await until(idle)
                before = await dlms.until_stated()
                await dlms.meter.push()

                async def later() -> bool:
                    state = await dlms.state()
                    return state is not None and state.report_counter > before.report_counter

                await until(later)

            yield Side(dlms, dlms.meter, settle)


@pytest.fixture(params=CARRIERS)
async def any_side(
    request: pytest.FixtureRequest, database_url: str, sessions: Sessions, tmp_path: Path
) -> AsyncIterator[Side]:
    async with side(request.param, database_url, sessions, tmp_path) as made:
        yield made


async def test_read_now_is_confirmed_by_a_later_report_alone(any_side: Side) -> None:
    await any_side.speaks()
    before = await any_side.state()
    await any_side.order(CommandKind.READ_NOW)
    row = await any_side.ends()
    after = await any_side.state()
    assert (row.status, row.kind) == ("CONFIRMED", "READ_NOW")
    assert after.report_counter > before.report_counter
    assert (row.after_report or 0) < after.report_counter
    assert after.stated_at >= before.stated_at


async def test_what_a_meter_tells_of_itself_is_kept_with_its_instant(any_side: Side) -> None:
    await any_side.speaks()
    await any_side.order(CommandKind.DIAGNOSTICS)
    assert (await any_side.ends()).status == "CONFIRMED"
    async with any_side.sessions() as session:
        told = (await session.scalars(select(MeterDiagnostics))).one()
    assert told.battery_percent in (87, 88)
    assert told.signal_dbm in (-97, -112, -77)
    assert (told.firmware, told.resets, told.error_bits) == ("sim 1.4.2", 0, 0)
    assert told.uptime_s is not None
    assert 0 <= told.uptime_s < 60
    assert abs((datetime.now(UTC) - told.told_at).total_seconds()) < 60


async def test_a_clock_is_set_to_the_time_of_the_sending(any_side: Side) -> None:
    await any_side.order(CommandKind.CLOCK)
    async with any_side.sessions.begin() as session:
        # It has waited for a day: what was true then would be wrong now.
        row = (await session.scalars(select(MeterCommand))).one()
        row.value = int(time.time()) - 86_400
    row = await any_side.ends()
    assert row.status == "CONFIRMED"
    assert abs(row.value - time.time()) < 60
    state = await any_side.state()
    assert abs((datetime.now(UTC) - state.stated_at).total_seconds()) < 60


@pytest.mark.parametrize("carrier", ["lwm2m", "lorawan"])
async def test_a_clock_that_is_far_off_is_set_once_without_being_asked(
    carrier: str, database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    """DLMS sets it at the beginning of each contact: its meter never gets to state a wrong one."""
    async with side(carrier, database_url, sessions, tmp_path) as here:
        await here.speaks()
        here.meter.state.clock_error_s = 7_200.0
        here.meter.save() if carrier == "lwm2m" else None
        await here.speaks()
        assert (await here.ends()).status == "CONFIRMED"
        assert abs(here.meter.state.clock_error_s) < 60
        await here.speaks()
        assert [row.status for row in await here.rows(CommandKind.CLOCK)] == ["CONFIRMED"]


@pytest.mark.parametrize("carrier", ["lwm2m", "lorawan"])
async def test_a_clock_that_cannot_be_set_is_given_up_and_not_asked_for_again(
    carrier: str, database_url: str, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with side(carrier, database_url, sessions, tmp_path) as here:
        if carrier == "lwm2m":
            here.meter.cannot = {"clock"}
        else:
            monkeypatch.setattr("standpipe_demo.simulator.meter_model.set_clock", lambda *_: None)
        here.meter.state.clock_error_s = 7_200.0
        row = await here.ends()
        assert (row.kind, row.status) == ("CLOCK", "REJECTED")
        assert row.reason in ("UNSUPPORTED: the meter answered 4.04", "the meter took it and shows no effect")
        for _ in range(2):
            await here.speaks()
        assert len(await here.rows(CommandKind.CLOCK)) == 1


async def test_a_meter_that_cannot_do_it_rejects_it_with_its_reason(
    any_side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = any_side.meter
    if hasattr(meter, "objects"):
        meter.objects.read_only = {CLOCK, CHARGE}
        expected = {"CLOCK": "refused with result 3", "TARIFF": "refused with result 3"}
    elif hasattr(meter, "cannot"):
        meter.cannot = {"clock", "table", "device", "signal", "uptime", "resets"}
        expected = {"CLOCK": "4.04", "TARIFF": "4.04", "DIAGNOSTICS": "4.04"}
    else:
        monkeypatch.setattr("standpipe_demo.simulator.meter_model._is_known", lambda *_: False)
        monkeypatch.setattr(lora_codec, "open_part", lambda *_: None)
        expected = {"CLOCK": "UNSUPPORTED", "DIAGNOSTICS": "UNSUPPORTED", "TARIFF": "BAD_MAC"}
        meter.state.clock_error_s = 600.0
    for kind, reason in expected.items():
        if kind == "TARIFF":
            await any_side.push()
        else:
            await any_side.order(CommandKind(kind))
        row = await any_side.ends()
        assert (row.kind, row.status) == (kind, "REJECTED")
        assert reason in (row.reason or "")


async def test_a_price_table_is_confirmed_by_its_id_and_comes_into_force_at_its_instant(any_side: Side) -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(days=2)
    await _announce(any_side, tomorrow, 6)
    await any_side.push(from_day=tomorrow)
    row = await any_side.ends()
    assert (row.kind, row.status) == ("TARIFF", "CONFIRMED")
    assert _waiting(any_side.meter) is not None
    blocks = _blocks(any_side.meter)
    # Today's takes the place of the one that waits, and holds at once.
    await any_side.push()
    assert (await any_side.ends()).status == "CONFIRMED"
    assert len(_in_force(any_side.meter)) == 2
    assert len(blocks) == 6


async def test_a_table_that_waits_to_be_sent_gives_way_to_a_newer_one(any_side: Side) -> None:
    day = datetime.now(UTC).date() + timedelta(days=2)
    await _announce(any_side, day, 3)
    await any_side.push()
    await any_side.push(from_day=day)
    await any_side.ends()
    assert [row.status for row in await any_side.rows(CommandKind.TARIFF)] == ["SUPERSEDED", "CONFIRMED"]


async def test_a_part_of_a_table_that_is_lost_is_sent_again_and_half_a_table_prices_nothing(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with side("lorawan", database_url, sessions, tmp_path) as here:
        day = datetime.now(UTC).date() + timedelta(days=2)
        await _announce(here, day, 9)
        await here.push(from_day=day)
        meter, network = here.meter, here.field.network
        network.faults.next["loss_down"] = 1
        for _ in range(20):
            if (await here.row()).status == "CONFIRMED":
                break
            parts = meter.state.table_parts.get("chunks", {})
            count = meter.state.table_parts.get("count", 0)
            assert not parts or len(parts) < count or meter.state.waiting_table is not None
            await here.speaks()
        assert (await here.row()).status == "CONFIRMED"
        sent = [downlink.data for downlink in meter.heard]
        assert len(sent) >= 3
        assert all(len(frame) <= 51 for frame in sent)
        assert meter.state.waiting_table["id"] == (await here.row()).body["id"]


async def test_m22_a_token_meter_says_what_it_can_and_is_told_once(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with dlms_field(database_url, sessions, tmp_path, TOKEN) as field:
        here = Side(field, field.meter, lambda: None)
        for kind in (CommandKind.READ_NOW, CommandKind.DIAGNOSTICS, CommandKind.CLOCK):
            await here.order(kind)
        await here.push()
        field.run_meter()
        await field.until_statuses(
            ("READ_NOW", "CONFIRMED"), ("DIAGNOSTICS", "CONFIRMED"), ("CLOCK", "CONFIRMED"), ("TARIFF", "REJECTED")
        )
        reason = (await here.row()).reason or ""
        assert reason.startswith("UNSUPPORTED: ")
        assert reason.endswith("holds no prices")
        with pytest.raises(InvalidInputError, match="cannot be told prices"):
            await here.push()
        assert len(await here.rows(CommandKind.TARIFF)) == 1


async def test_a_diagnosis_that_answers_nothing_asked_is_left_aside(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with side("lorawan", database_url, sessions, tmp_path) as here:
        await here.order(CommandKind.DIAGNOSTICS)
        assert (await here.ends()).status == "CONFIRMED"
        # Asked again: the second command is on the air, and an answer to the first comes once more.
        meter = here.meter
        here.field.network.window_s = 0
        await here.order(CommandKind.DIAGNOSTICS)
        await here.speaks()
        assert (await here.row()).status == "SENT"
        for number in (1, 7):
            body = lora_codec.diagnostics_body(number, 88, -112, (1, 2, 3), "replayed")
            await meter._send(lora_codec.ANSWER_PORT, "diagnostics", body)
        assert (await here.row()).status != "CONFIRMED"
        async with sessions() as session:
            told = (await session.scalars(select(MeterDiagnostics))).one()
        assert told.firmware == "sim 1.4.2"


async def _announce(here: Side, day: Any, blocks: int) -> None:
    lines = "\n".join(f"  - {{up-to-kl: {number + 1}, price: {40 + number}.25}}" for number in range(blocks - 1))
    text = LONG.format(day=day, blocks=f"{lines}\n  - {{price: 99}}")
    async with here.sessions.begin() as session:
        meter = await session.get_one(Meter, here.meter_id)
        await publish(
            session,
            utility_id=meter.utility_id,
            utility_currency="KES",
            file=read_tariff(text),
            today=datetime.now(UTC).date(),
        )


def _waiting(meter: Any) -> Any:
    return meter.objects.extra.activate_at if hasattr(meter, "objects") else meter.state.waiting_table


def _blocks(meter: Any) -> Any:
    return meter.objects.extra.passive_blocks if hasattr(meter, "objects") else meter.state.waiting_table["blocks"]


def _in_force(meter: Any) -> Any:
    if hasattr(meter, "objects"):
        meter.objects.advance()
        return meter.objects.priced.blocks
    return meter.state.prices


@pytest.mark.parametrize("how", ["silent", "refuses"])
async def test_credit_does_not_wait_behind_a_clock_that_cannot_be_set(
    database_url: str, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """M: money taken and no water. What a meter never answers to goes behind its credit, and is given up."""
    async with make_field(database_url, sessions, tmp_path) as field:
        meter = field.meter
        if how == "silent":
            monkeypatch.setattr(meter_orders, "set_clock", lambda *_: None)
            meter.lose_answers_to("clock", 1_000)
        else:

            def clock(*_: Any) -> aiocoap.Message:
                return aiocoap.Message(code=aiocoap.INTERNAL_SERVER_ERROR)

            monkeypatch.setattr(meter_orders._Orders, "clock", clock)
        meter.state.clock_error_s = 7_200.0
        meter.save()
        await meter.wake()
        await meter.wake()
        assert [kind for kind, _ in await field.statuses()] == ["CLOCK"]
        await field.grant(5_000)
        await meter.wake()
        assert meter.state.credit_accepted == 5_000

        async def given_up() -> bool:
            await meter.wake()
            return dict(await field.statuses())["CLOCK"] == "REJECTED"

        await until(given_up, timeout_s=60)
        assert dict(await field.statuses())["CREDIT"] == "CONFIRMED"
