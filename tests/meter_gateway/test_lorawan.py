"""LoRaWAN over real sockets: gRPC down, HTTP events up, PostgreSQL, and meters whose frames are their own."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from standpipe.meter_gateway.lorawan.tables import LoraDevice, LoraDownlink
from standpipe.meters.field_models import MeterCondition
from standpipe.meters.models import CommandKind, CreditGrant
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.readings.models import Reading
from standpipe_demo.simulator import lora_codec
from standpipe_demo.simulator.fake_chirpstack import Faults
from standpipe_demo.simulator.lora_meter import LoraMeter
from tests.support.lora import LoraField, dev_eui_of, make_lora_field
from tests.support.rating import rate_due
from tests.support.town import until


@pytest.fixture
async def field(database_url: str, sessions: Sessions, tmp_path: Path) -> AsyncIterator[LoraField]:
    async with make_lora_field(database_url, sessions, tmp_path) as made:
        yield made


@pytest.mark.parametrize("as_json", [True, False])
async def test_a_waking_tells_hours_and_state_takes_the_credit_and_confirms_it(
    database_url: str, sessions: Sessions, tmp_path: Path, as_json: bool
) -> None:
    async with make_lora_field(database_url, sessions, tmp_path, as_json=as_json, credit_remaining=100) as field:
        await field.grant(5_000)
        field.meter.alarms = lora_codec.LEAK | lora_codec.TAMPER
        await field.confirmed()
        state = await field.state()
        assert state is not None
        assert state.credit_accepted == field.meter.state.credit_accepted == 5_000
        assert (state.valve, state.battery_percent) == ("OPEN", 88)
        await rate_due(sessions)
        async with sessions() as session:
            readings = (await session.scalars(select(Reading).order_by(Reading.read_at))).all()
            grant = (await session.scalars(select(CreditGrant))).one()
            device = (await session.scalars(select(LoraDevice))).one()
            raised = set(await session.scalars(select(MeterCondition.kind).where(MeterCondition.is_raised)))
        assert len([reading for reading in readings if reading.read_at.minute == 0]) >= 5
        assert {reading.quality for reading in readings} == {"MEASURED"}
        assert grant.confirmed_at is not None
        assert device.alarms == ["leak", "tamper"]
        assert raised == {"LEAK", "TAMPER"}
        assert {status for _, status in field.network.posted} == {204}


async def test_a_class_a_meter_is_sent_nothing_before_it_speaks(field: LoraField) -> None:
    await field.meter.wake()
    await field.grant(5_000)
    await field.order(CommandKind.THRESHOLD, 750)
    # A command to a meter that always listens would have gone out by the time that this one is asked for.
    await field.meter.wake()
    assert [method for method, _ in field.network.asked][:2] == ["FlushQueue", "Enqueue"]
    await field.confirmed()
    assert await field.statuses() == [("CREDIT", "CONFIRMED"), ("THRESHOLD", "CONFIRMED")]
    assert field.meter.state.threshold_minor == 750


async def test_a_class_c_meter_is_sent_to_at_once(database_url: str, sessions: Sessions, tmp_path: Path) -> None:
    async with make_lora_field(database_url, sessions, tmp_path, device_class="C") as field:
        await field.grant(5_000)
        await until(lambda: _last_is(field, "CONFIRMED"))
        assert field.meter.state.credit_accepted == 5_000


async def test_nothing_overtakes_a_command_whose_fate_is_open(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with make_lora_field(database_url, sessions, tmp_path, homes=2, device_class="C") as field:
        field.network.faults.next["loss_down"] = 1
        await field.order(CommandKind.VALVE, 1)
        await until(lambda: _downlink_is(field, "TX"))
        item = field.network.devices[dev_eui_of(0)].queue[0].id
        assert await field.post("ack", _event(dev_eui_of(0), queueItemId=item)) == 204
        assert await field.statuses() == [("VALVE", "UNKNOWN")]
        # Were the threshold sent now and taken, the meter's word on it would pass for its word on the valve.
        await field.order(CommandKind.THRESHOLD, 750)
        await field.grant(5_000, home=1)
        await until(lambda: _last_is(field, "CONFIRMED", home=1))
        assert await field.statuses() == [("VALVE", "UNKNOWN"), ("THRESHOLD", "QUEUED")]
        await field.meter.wake()
        await until(lambda: _last_is(field, "CONFIRMED"))
        assert await field.statuses() == [("VALVE", "CONFIRMED"), ("THRESHOLD", "CONFIRMED")]
        assert (field.meter.state.valve, field.meter.state.threshold_minor) == (1, 750)


async def test_m1_every_answer_lost_credits_once_and_the_same_number_goes_out_again(field: LoraField) -> None:
    await field.grant(5_000)
    await _waits_at_network(field)
    # The status that brings the command down is heard; the answer with the new total is lost on the air.
    await _wake_losing_answers(field)
    assert field.meter.state.credit_accepted == 5_000
    assert await field.statuses() != [("CREDIT", "CONFIRMED")]
    await field.confirmed()
    assert field.meter.state.credit_accepted == 5_000
    assert {_sequence(downlink.data) for downlink in field.meter.heard} == {1}


async def test_m1_a_downlink_lost_on_the_air_is_sent_again_with_the_same_number(field: LoraField) -> None:
    field.network.faults.next["loss_down"] = 2
    await field.grant(5_000)
    await field.confirmed(wakes=10)
    assert (await field.downlinks()).count("LOST") == 2
    assert {_sequence(downlink.data) for downlink in field.meter.heard} == {1}
    assert await field.statuses() == [("CREDIT", "CONFIRMED")]


async def test_m1_a_downlink_lost_on_the_air_and_its_news_lost_too(field: LoraField) -> None:
    field.network.mute = {"ack"}
    field.network.faults.next["loss_down"] = 1
    await field.grant(5_000)
    await field.confirmed(wakes=10)
    async with field.sessions() as session:
        first = (await session.scalars(select(LoraDownlink).order_by(LoraDownlink.id).limit(1))).one()
    assert (first.state, first.reason) == ("LOST", "the meter has not taken it")


async def test_m1_an_uplink_posted_twice_counts_once(field: LoraField) -> None:
    await field.grant(5_000)
    await _waits_at_network(field)
    field.network.window_s = 0
    field.network.mute = {"txack"}
    field.network.faults.next["duplicate"] = 1
    frame = field.meter.status_frame()
    await field.network.uplink(field.meter.config.dev_eui, lora_codec.STATUS_PORT, frame, ack=False)
    assert [name for name, _ in field.network.posted][-2:] == ["up", "up"]
    async with field.sessions() as session:
        assert (await session.scalars(select(LoraDownlink.uplinks))).one() == 1


async def test_m1_duplicated_and_reordered_events_credit_once(field: LoraField) -> None:
    field.network.faults.duplicate = 0.5
    field.network.faults.reorder = 0.4
    for number in range(3):
        await field.grant(1_000, f"k{number}")
        await field.confirmed(wakes=12)
    assert field.meter.state.credit_accepted == 3_000
    async with field.sessions() as session:
        assert all(grant.confirmed_at for grant in await session.scalars(select(CreditGrant)))


@pytest.mark.parametrize("device_class", ["A", "C"])
async def test_m1_everything_at_once_ends_at_what_was_granted(
    database_url: str, sessions: Sessions, tmp_path: Path, device_class: str
) -> None:
    """Loss both ways, of news too, duplicates, disorder, joins, a gateway that dies: one credit for each grant."""
    chance = random.Random(device_class)
    async with make_lora_field(database_url, sessions, tmp_path, device_class=device_class) as field:
        faults = field.network.faults
        faults.loss_up = faults.loss_down = faults.loss_event = 0.25
        faults.duplicate, faults.reorder = 0.2, 0.2
        for number in range(5):
            await field.grant(1_000, f"k{number}")
            await field.meter.wake()
            field.network.lose_answers = chance.randrange(2)
            match chance.randrange(4):
                case 0:
                    await field.meter.reboot()
                case 1:
                    await field.stop()
                    await field.start()
                case 2:
                    field.network.devices[field.meter.config.dev_eui].queue.clear()
                case _:
                    await field.order(CommandKind.THRESHOLD, 100 * number)
            await field.meter.wake()
        field.network.faults = Faults()
        await field.hurry()
        await field.confirmed(wakes=15)
        assert field.meter.state.credit_accepted == 5_000
        async with sessions() as session:
            assert all(grant.confirmed_at for grant in await session.scalars(select(CreditGrant)))


async def test_m2_the_answer_to_enqueue_is_lost_one_credit(field: LoraField) -> None:
    field.network.lose_answers = 1
    await field.grant(5_000)
    await field.confirmed()
    assert field.meter.state.credit_accepted == 5_000
    assert {_sequence(downlink.data) for downlink in field.meter.heard} == {1}


async def test_m2_gateway_killed_between_enqueue_and_its_answer(field: LoraField) -> None:
    field.network.slow_answers = asyncio.Event()
    field.network.window_s = 0
    await field.grant(5_000)
    await field.meter.wake()
    await until(lambda: _enqueued(field, 1))
    await field.stop()
    assert await field.downlinks() == ["SENDING"]
    assert await field.statuses() == [("CREDIT", "SENT")]
    field.network.slow_answers.set()
    # The lease of the one that died is over.
    await field.hurry()
    await field.start()
    await until(lambda: _enqueued(field, 2))
    field.network.window_s = 0.3
    await field.confirmed()
    assert field.meter.state.credit_accepted == 5_000
    assert {_sequence(downlink.data) for downlink in field.meter.heard} == {1}


async def test_m2_news_of_an_item_that_comes_before_the_answer_that_names_it(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with make_lora_field(database_url, sessions, tmp_path, device_class="C") as field:
        field.network.slow_answers = asyncio.Event()
        field.network.faults.next["loss_down"] = 1
        await field.grant(5_000)
        await until(lambda: _downlink_is(field, "TX"))
        field.network.slow_answers.set()
        await field.confirmed()
        assert field.meter.state.credit_accepted == 5_000


async def test_m3_a_join_flushes_the_network_and_the_command_goes_out_again(field: LoraField) -> None:
    await field.grant(5_000)
    await _waits_at_network(field)
    await field.meter.reboot()
    assert await field.downlinks() == ["LOST"]
    assert await field.statuses() == [("CREDIT", "UNKNOWN")]
    await field.confirmed()
    assert field.meter.state.credit_accepted == 5_000
    await field.grant(700, "k2")
    await field.confirmed()
    assert field.meter.state.credit_accepted == 5_700


async def test_m3_a_meter_that_lost_its_memory_is_not_believed_and_not_credited_anew(field: LoraField) -> None:
    await field.grant(5_000)
    await field.confirmed()
    for _ in range(3):
        await field.meter.wake()
    before = await field.state()
    await field.meter.reboot(remembers=False)
    await field.grant(700, "k2")
    await field.meter.wake()
    after = await field.state()
    assert before is not None
    assert after is not None
    assert (after.report_counter, after.credit_accepted) == (before.report_counter, 5_000)
    assert (await field.statuses())[-1] == ("CREDIT", "QUEUED")


async def test_m4_one_meters_frames_and_key_are_worth_nothing_as_anothers(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with make_lora_field(database_url, sessions, tmp_path, homes=2) as field:
        await field.grant(5_000, home=1)
        first, second = field.meters
        # A's own frame, told by the network as B's; B's serial and A's DevEUI; another key on B's radio.
        await field.network.uplink(second.config.dev_eui, lora_codec.STATUS_PORT, first.status_frame(), ack=False)
        thief = LoraMeter(
            replace(second.config, serial=first.config.serial),
            store_dir=tmp_path / "thief",
            network=field.network,
            clock=Clock(),
        )
        await thief.wake()
        forger = LoraMeter(
            second.config, store_dir=tmp_path / "forger", network=field.network, clock=Clock(), key_hex=bytes(31).hex()
        )
        await forger.wake()
        assert await field.state(home=1) is None
        assert await field.statuses(home=1) == [("CREDIT", "QUEUED")]
        await second.wake()
        await field.confirmed(home=1)


async def test_m4_an_acknowledgement_told_of_anothers_item_changes_nothing(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with make_lora_field(database_url, sessions, tmp_path, homes=2) as field:
        await field.grant(5_000)
        await _waits_at_network(field)
        item = field.network.devices[dev_eui_of(0)].queue[0].id
        assert await field.post("ack", _event(dev_eui_of(1), queueItemId=item, acknowledged=True)) == 204
        assert await field.statuses() == [("CREDIT", "SENT")]
        # The same device in an application that is not its own is no device of ours.
        other = json.dumps(
            {"deviceInfo": {"devEui": dev_eui_of(0), "applicationId": "x"}, "queueItemId": item, "acknowledged": True}
        )
        assert await field.post("ack", other.encode()) == 204
        assert await field.statuses() == [("CREDIT", "SENT")]


async def test_m5_a_replayed_uplink_is_refused_also_after_a_restart(field: LoraField) -> None:
    old = field.meter.status_frame()
    dev_eui = field.meter.config.dev_eui
    await field.network.uplink(dev_eui, lora_codec.STATUS_PORT, old, ack=False)
    await field.grant(5_000)
    await field.confirmed()
    before = await field.state()
    await field.stop()
    await field.start()
    await field.network.uplink(dev_eui, lora_codec.STATUS_PORT, old, ack=False)
    after = await field.state()
    assert before is not None
    assert after is not None
    assert (after.report_counter, after.last_seen_at) == (before.report_counter, before.last_seen_at)
    assert after.credit_accepted == 5_000


async def test_m6_news_of_an_old_item_does_not_complete_a_new_command(field: LoraField) -> None:
    await field.grant(5_000)
    await _waits_at_network(field)
    old = field.network.devices[field.meter.config.dev_eui].queue[0].id
    await field.grant(700, "k2")
    await until(lambda: _replaced(field, old))
    await field.at_network()
    assert await field.post("ack", _event(field.meter.config.dev_eui, queueItemId=old, acknowledged=True)) == 204
    # Nor does news of an item that nobody here has heard of.
    nobodys = _event(field.meter.config.dev_eui, queueItemId="11111111-2222", acknowledged=True)
    assert await field.post("ack", nobodys) == 204
    assert await field.statuses() == [("CREDIT", "SUPERSEDED"), ("CREDIT", "SENT")]


async def test_m10_a_close_that_waits_at_the_network_is_replaced_by_the_top_up(field: LoraField) -> None:
    await field.order(CommandKind.VALVE, 1)
    await _waits_at_network(field)
    close = field.network.devices[field.meter.config.dev_eui].queue[0].id
    await field.grant(5_000)
    await until(lambda: _replaced(field, close))
    await field.confirmed()
    assert await field.statuses() == [("VALVE", "SUPERSEDED"), ("CREDIT", "CONFIRMED")]
    assert field.meter.state.valve == 0
    assert {downlink.data[0] & 15 for downlink in field.meter.heard} == {1}


async def test_m13_the_radios_acknowledgement_is_not_delivery(field: LoraField) -> None:
    await field.meter.wake()
    await field.grant(5_000)
    await _waits_at_network(field)
    field.meter.keeps_silent = True
    for _ in range(2):
        await field.meter.wake()
    await until(lambda: _last_is(field, "ACKNOWLEDGED"))
    async with field.sessions() as session:
        assert (await session.scalars(select(CreditGrant.confirmed_at))).one() is None
    assert await field.downlinks() == ["ACK"]
    field.meter.keeps_silent = False
    await field.confirmed()


async def test_m13_a_network_that_waited_in_vain_makes_it_unknown_and_the_meter_decides(field: LoraField) -> None:
    await field.grant(5_000)
    await _waits_at_network(field)
    item = field.network.devices[field.meter.config.dev_eui].queue[0].id
    # A missing field is its default: no acknowledgement.
    assert await field.post("ack", _event(field.meter.config.dev_eui, queueItemId=item)) == 204
    assert await field.statuses() == [("CREDIT", "UNKNOWN")]
    await field.confirmed()


async def test_a_queue_that_somebody_flushed_is_filled_again(field: LoraField) -> None:
    await field.grant(5_000)
    await _waits_at_network(field)
    field.network.devices[field.meter.config.dev_eui].queue.clear()
    await field.confirmed()
    assert "GetQueue" in {method for method, _ in field.network.asked}
    assert (await field.downlinks())[0] == "LOST"


async def test_an_order_past_its_deadline_is_dropped_by_the_network_and_not_sent_again(field: LoraField) -> None:
    await field.meter.wake()
    await field.order(CommandKind.VALVE, 1, deadline_s=2)
    await _waits_at_network(field)
    item = field.network.devices[field.meter.config.dev_eui].queue[0]
    assert item.expires_at is not None
    expires_at = item.expires_at
    await until(lambda: _past(expires_at))
    await field.meter.wake()
    await field.meter.wake()
    assert await field.statuses() == [("VALVE", "EXPIRED")]
    assert field.meter.heard == []


async def test_a_network_server_that_is_down_is_asked_again(field: LoraField) -> None:
    field.network.down = True
    await field.grant(5_000)
    await field.meter.wake()
    await until(lambda: _asked(field, 2))
    assert await field.statuses() == [("CREDIT", "SENT")]
    field.network.down = False
    await field.hurry()
    await field.at_network()
    await field.confirmed()
    assert field.meter.state.credit_accepted == 5_000


async def test_a_command_that_the_meter_refuses_waits_for_a_person(field: LoraField) -> None:
    await field.order(CommandKind.VALVE, 7)
    for _ in range(4):
        await field.meter.wake()
    assert await field.statuses() == [("VALVE", "REJECTED")]


async def test_a_wrong_clock_is_marked_and_loses_no_volume(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with make_lora_field(database_url, sessions, tmp_path) as field:
        fast = LoraMeter(
            field.meter.config,
            store_dir=tmp_path / "meters",
            network=field.network,
            clock=Clock(),
            clock_error=timedelta(days=400),
        )
        await fast.wake()
        await rate_due(sessions)
        async with sessions() as session:
            rows = (await session.scalars(select(Reading).order_by(Reading.read_at))).all()
        # Its hours and its first statement; from then on its clock may have been set.
        assert {row.reason for row in rows[:6]} == {"CLOCK_WRONG"}
        assert {row.quality for row in rows} == {"MEASURED"}
        assert rows[-1].register_ml == fast.state.register_ml


def _event(dev_eui: str, **fields: object) -> bytes:
    application_id = "6d1b5b62-6b0e-4c0c-9d5e-1f2a3b4c5d6e"
    return json.dumps({"deviceInfo": {"devEui": dev_eui, "applicationId": application_id}, **fields}).encode()


def _sequence(frame: bytes) -> int:
    return int.from_bytes(frame[1:5], "big")


async def _waits_at_network(field: LoraField) -> None:
    """One uplink, after which the command waits in the network's queue: its receive window has passed."""
    field.network.window_s = 0
    frame = field.meter.status_frame()
    await field.network.uplink(field.meter.config.dev_eui, lora_codec.STATUS_PORT, frame, ack=False)
    await field.at_network()
    field.network.window_s = 0.3


async def _wake_losing_answers(field: LoraField) -> None:
    """The first frame of a waking is heard, and all that follow it are lost."""
    network, uplink = field.network, field.network.uplink

    async def heard_once(*args: object, **more: object) -> object:
        answer = await uplink(*args, **more)  # type: ignore[arg-type]
        network.faults.loss_up = 1.0
        return answer

    network.uplink = heard_once  # type: ignore[assignment,method-assign]
    await field.meter.wake()
    network.uplink, network.faults.loss_up = uplink, 0.0  # type: ignore[method-assign]


async def _last_is(field: LoraField, status: str, *, home: int = 0) -> bool:
    return (await field.statuses(home))[-1][1] == status


async def _downlink_is(field: LoraField, state: str) -> bool:
    return await field.downlinks() == [state]


async def _enqueued(field: LoraField, times: int) -> bool:
    return [method for method, _ in field.network.asked].count("Enqueue") >= times


async def _asked(field: LoraField, times: int) -> bool:
    return len(field.network.asked) >= times


async def _replaced(field: LoraField, item_id: str) -> bool:
    queue = field.network.devices[field.meter.config.dev_eui].queue
    return bool(queue) and queue[0].id != item_id


async def _past(at: datetime) -> bool:
    return datetime.now(UTC) > at
