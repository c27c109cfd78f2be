"""The simulated meter's inside: what it uses, deducts, obeys and remembers."""

import json
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standpipe_demo.simulator import meter_model, meter_store
from standpipe_demo.simulator.meter_frames import mac
from standpipe_demo.simulator.meter_model import (
    CLOSED,
    CREDIT,
    OPEN,
    RESTRICTED,
    THRESHOLD,
    VALVE,
    MeterConfig,
    MeterState,
    advance,
    fresh_state,
    pour,
    price_minor,
    status_frame,
    take_command,
)
from standpipe_demo.simulator.water_use import hour_ml, use_between_ml

NAIROBI = ZoneInfo("Africa/Nairobi")
START = datetime(2026, 4, 1, tzinfo=NAIROBI)
KEY = bytes(range(32))


def config(**more: Any) -> MeterConfig:
    values: dict[str, Any] = {
        "serial": "KW1",
        "endpoint": "KW1",
        "prepaid_key_hex": KEY.hex(),
        "currency": "KES",
        "time_zone": "Africa/Nairobi",
        "blocks": ((10_000_000, "5000"), (None, "10000.5")),
        "started_at": START.isoformat(),
        "credit_remaining": 10_000_000,
    }
    return MeterConfig(**(values | more))


def command(kind: int, sequence: int, value: int, *, currency: bytes = b"KES", serial: str = "KW1") -> bytes:
    body = bytes((1, kind)) + sequence.to_bytes(4, "big") + value.to_bytes(8, "big") + currency
    return body + mac(b"standpipe/prepaid/command", body, KEY, serial)


@given(st.lists(st.integers(0, 9_000_000), max_size=30))
def test_however_water_is_split_the_month_costs_its_block_price_rounded_once(volumes_ml: list[int]) -> None:
    made = config()
    state = fresh_state(made)
    for volume_ml in volumes_ml:
        pour(made, state, volume_ml)
    deducted = made.credit_remaining - state.credit_remaining
    assert deducted == price_minor(made.blocks, sum(volumes_ml))


@pytest.mark.parametrize(
    ("volume_ml", "price"),
    [(0, 0), (99, 0), (100, 1), (10_000_000, 50_000), (10_000_050, 50_001), (11_000_000, 60_001)],
)
def test_a_price_is_exact_and_rounded_half_up(volume_ml: int, price: int) -> None:
    assert price_minor(((10_000_000, "5000"), (None, "10000.5")), volume_ml) == price


def test_the_valve_closes_at_zero_and_opens_on_credit() -> None:
    made = config(credit_remaining=500, daily_litres=2_000)
    state = fresh_state(made)
    advance(made, state, START + timedelta(days=2))
    stopped_at_ml = state.register_ml
    assert (state.valve, state.valve_reason) == (CLOSED, meter_model.NO_CREDIT)
    assert state.credit_remaining <= 0
    advance(made, state, START + timedelta(days=3))
    assert state.register_ml == stopped_at_ml
    take_command(made, state, command(CREDIT, 1, 50_000))
    assert (state.valve, state.valve_reason) == (OPEN, meter_model.NORMAL)
    advance(made, state, START + timedelta(days=3, hours=6))
    assert state.register_ml > stopped_at_ml


def test_a_new_month_begins_its_tiers_anew_also_after_a_long_silence() -> None:
    evening = datetime(2026, 4, 30, 20, tzinfo=NAIROBI).isoformat()
    made = config(started_at=evening, register_ml=9_000_000, period_used_ml=9_000_000)
    state = fresh_state(made)
    advance(made, state, datetime(2026, 5, 1, 0, tzinfo=NAIROBI))
    assert state.register_ml > 9_000_000
    assert (state.period_start_register_ml, state.period_charged_minor) == (state.register_ml, 0)
    # Beyond what it simulates step by step, the months that it skips count all the same.
    state = fresh_state(made)
    advance(made, state, datetime(2026, 8, 15, tzinfo=NAIROBI))
    assert state.period_charged_minor == price_minor(made.blocks, state.register_ml - state.period_start_register_ml)
    assert state.period_start_register_ml > made.register_ml


@pytest.mark.parametrize(
    ("frame", "result"),
    [
        (command(CREDIT, 6, 5_000), meter_model.DONE),
        (command(CREDIT, 5, 5_000), meter_model.DUPLICATE),
        (command(CREDIT, 4, 5_000), meter_model.STALE),
        (command(CREDIT, 6, 5_000, currency=b"UGX"), meter_model.WRONG_CURRENCY),
        (command(9, 6, 5_000), meter_model.UNSUPPORTED),
        (command(VALVE, 6, 300), meter_model.UNSUPPORTED),
        (command(CREDIT, 6, 99), meter_model.TOTAL_TOO_LOW),
        (command(CREDIT, 6, 5_000, serial="KW2"), meter_model.BAD_MAC),
        (command(CREDIT, 6, 5_000)[:-1], meter_model.BAD_MAC),
        (b"", meter_model.BAD_MAC),
    ],
)
def test_each_command_has_its_result_and_only_a_good_one_its_effect(frame: bytes, result: int) -> None:
    made = config(last_sequence=5, credit_accepted=100, credit_remaining=40)
    state = fresh_state(made)
    take_command(made, state, frame)
    assert state.result == result
    done = result == meter_model.DONE
    assert (state.last_sequence, state.credit_accepted) == ((6, 5_000) if done else (5, 100))
    assert state.credit_remaining == (4_940 if done else 40)


def test_a_threshold_is_kept_and_a_restricted_valve_trickles() -> None:
    made = config()
    normal, trickling = fresh_state(made), fresh_state(made)
    take_command(made, trickling, command(THRESHOLD, 1, 750))
    take_command(made, trickling, command(VALVE, 2, RESTRICTED))
    assert trickling.threshold_minor == 750
    for state in (normal, trickling):
        advance(made, state, START + timedelta(days=3))
    assert 0 < trickling.register_ml < normal.register_ml / 5


def test_no_command_bytes_stop_the_meter() -> None:
    made, chance = config(), random.Random(3)
    state = fresh_state(made)
    for _ in range(2_000):
        take_command(made, state, chance.randbytes(chance.randint(0, 60)))
        assert state.result == meter_model.BAD_MAC
        assert len(status_frame(made, state)) == 57


def test_a_reading_is_kept_for_each_local_hour_and_for_ninety_days() -> None:
    kolkata = ZoneInfo("Asia/Kolkata")
    made = config(time_zone="Asia/Kolkata", started_at=datetime(2026, 1, 1, tzinfo=kolkata).isoformat())
    state = fresh_state(made)
    advance(made, state, datetime(2026, 1, 2, tzinfo=kolkata))
    assert len(state.unsent) == 24
    assert {datetime.fromtimestamp(at_s, kolkata).minute for at_s, _ in state.unsent} == {0}
    advance(made, state, datetime(2026, 3, 25, tzinfo=kolkata))
    advance(made, state, datetime(2026, 6, 20, tzinfo=kolkata))
    assert len(state.unsent) == meter_model.MAX_BUFFER == 90 * 24
    registers = [register_ml for _, register_ml in state.unsent]
    assert registers == sorted(registers)
    assert [at_s for at_s, _ in state.unsent] == sorted({at_s for at_s, _ in state.unsent})


def test_use_has_a_morning_and_an_evening_peak_and_does_not_depend_on_how_it_is_asked() -> None:
    hours = [START.astimezone(UTC) + timedelta(hours=number) for number in range(24 * 28)]
    by_hour = [0] * 24
    for hour in hours:
        if hour.astimezone(NAIROBI).weekday() < 5:
            by_hour[hour.astimezone(NAIROBI).hour] += hour_ml("KW1", hour, NAIROBI, 300)
    assert min(by_hour[6:9]) > 2 * max(by_hour[1:4])
    assert min(by_hour[18:21]) > 2 * max(by_hour[1:4])
    daily_ml = sum(hour_ml("KW1", hour, NAIROBI, 300) for hour in hours) / 28
    assert 200_000 < daily_ml < 400_000
    quarters = [hours[0] + timedelta(minutes=15 * part) for part in range(33)]
    whole = use_between_ml("KW1", quarters[0], quarters[-1], NAIROBI, 300)
    parts = sum(use_between_ml("KW1", *pair, NAIROBI, 300) for pair in pairwise(quarters))
    assert abs(whole - parts) <= 32


def test_what_is_saved_is_what_a_reboot_finds_and_a_torn_write_changes_nothing(tmp_path: Path) -> None:
    made = config()
    state = fresh_state(made)
    advance(made, state, START + timedelta(hours=5))
    take_command(made, state, command(CREDIT, 1, 7_000))
    meter_store.save(tmp_path, made, state)
    assert meter_store.load(tmp_path, made) == state
    (tmp_path / "KW1.new").write_text('{"at": "2026')
    assert meter_store.load(tmp_path, made) == state
    # The store wins over the manifest: a second start of the demo must not hand the credit out again.
    assert meter_store.load(tmp_path, config(credit_remaining=1)).credit_accepted == 7_000


def test_a_manifest_entry_makes_a_config() -> None:
    raw = json.loads(json.dumps(vars(config()) | {"comment": "for people"}))
    assert MeterConfig.from_dict(raw) == config()


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 20_000)), max_size=20))
def test_heard_twice_late_or_out_of_order_credit_adds_up_to_the_highest_total_taken(
    frames: list[tuple[int, int]],
) -> None:
    made = config(credit_remaining=0)
    state: MeterState = fresh_state(made)
    taken, last = 0, 0
    for sequence, total in frames:
        take_command(made, state, command(CREDIT, sequence, total))
        if sequence > last and total >= taken:
            taken, last = total, sequence
    assert (state.credit_accepted, state.last_sequence) == (taken, last)
    assert state.credit_remaining == taken


def test_a_meter_that_holds_volume_deducts_what_runs_and_takes_no_money() -> None:
    made = config(currency="VOL", blocks=(), credit_remaining=0)
    state = fresh_state(made)
    assert (state.valve, state.valve_reason) == (CLOSED, meter_model.NO_CREDIT)
    take_command(made, state, command(CREDIT, 1, 50_000, currency=b"KES"))
    assert (state.result, state.credit_accepted) == (meter_model.WRONG_CURRENCY, 0)
    take_command(made, state, command(CREDIT, 1, 50_000, currency=b"VOL"))
    assert (state.result, state.credit_remaining, state.valve) == (meter_model.DONE, 50_000, OPEN)
    pour(made, state, 49_999)
    assert (state.credit_remaining, state.valve) == (1, OPEN)
    pour(made, state, 5)
    assert (state.credit_remaining, state.valve) == (-4, CLOSED)
    money = config()
    priced = fresh_state(money)
    take_command(money, priced, command(CREDIT, 1, 50_000, currency=b"VOL"))
    assert (priced.result, priced.credit_accepted) == (meter_model.WRONG_CURRENCY, 0)
