"""The compact frames: sizes, round trips, and that nothing but the meter's own frame is ever read."""

import hashlib
import hmac
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standpipe.meter_gateway.lorawan.frames import (
    DR0_BYTES,
    KIND_CREDIT,
    KIND_CREDIT_MARKED,
    MAX_REMAINING,
    MAX_TOTAL,
    MIN_REMAINING,
    Alarms,
    FrameKey,
    LoraCommand,
    LoraHistory,
    LoraStatus,
)
from standpipe.meter_gateway.parsing import ParsingError
from standpipe_demo.simulator import lora_codec
from tests.support.lengths import rounds

KEY = FrameKey(bytes(range(32)), bytes.fromhex("70b3d57ed0061001"), "KW1015")
STATUS = LoraStatus(
    report_counter=7,
    last_sequence=3,
    result=0,
    valve=1,
    valve_reason=1,
    alarms=Alarms(leak=True),
    battery_percent=88,
    credit_accepted=150_000,
    credit_remaining=-120,
    register_ml=52_123_456,
    meter_time_s=1_790_000_000,
)
ROUNDS = rounds(800, 4_000, "CHAOS_FRAMES")

totals = st.integers(0, MAX_TOTAL)
u32 = st.integers(0, 2**32 - 1)
statuses = st.builds(
    LoraStatus,
    report_counter=u32,
    last_sequence=u32,
    result=st.integers(0, 15),
    valve=st.integers(0, 3),
    valve_reason=st.integers(0, 15),
    alarms=st.builds(Alarms, st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    battery_percent=st.none() | st.integers(0, 100),
    credit_accepted=totals,
    credit_remaining=st.integers(MIN_REMAINING, MAX_REMAINING),
    register_ml=totals,
    meter_time_s=u32,
)
commands = st.builds(
    LoraCommand, kind=st.integers(1, 4), sequence=u32, value=totals, currency=st.text("ABCXYZ", min_size=3, max_size=3)
)


@given(statuses)
def test_every_legal_status_comes_back_and_fits_the_slowest_data_rate(status: LoraStatus) -> None:
    frame = status.to_bytes(KEY)
    assert len(frame) <= DR0_BYTES
    assert LoraStatus.from_bytes(frame, KEY) == status


@given(commands)
def test_every_command_comes_back_and_the_meter_reads_the_same(command: LoraCommand) -> None:
    frame = command.to_bytes(KEY)
    assert len(frame) <= 25
    assert LoraCommand.from_bytes(frame, KEY) == command
    opened = lora_codec.open_command(frame, KEY.key, KEY.dev_eui.hex(), KEY.serial)
    assert opened == (command.kind, command.sequence, command.value, command.currency, command.tid_mark)


@given(u32, totals, st.integers(0, 2**24 - 1))
def test_a_credit_with_a_mark_comes_back_and_the_meter_reads_the_same(sequence: int, value: int, mark: int) -> None:
    command = LoraCommand(KIND_CREDIT_MARKED, sequence, value, "VOL", mark)
    frame = command.to_bytes(KEY)
    assert len(frame) <= 29
    assert LoraCommand.from_bytes(frame, KEY) == command
    opened = lora_codec.open_command(frame, KEY.key, KEY.dev_eui.hex(), KEY.serial)
    assert opened == (KIND_CREDIT_MARKED, sequence, value, "VOL", mark)


@given(statuses, st.integers(0, 2**63 - 1))
def test_a_keypad_meters_status_says_what_was_typed(status: LoraStatus, typed_ml: int) -> None:
    told = replace(status, typed_ml=min(typed_ml, status.credit_accepted))
    frame = told.to_bytes(KEY)
    assert LoraStatus.from_bytes(frame, KEY) == told
    if max(status.credit_accepted, abs(status.credit_remaining) * 2, status.register_ml) < 2**49:
        assert len(frame) <= DR0_BYTES


@given(u32.filter(lambda at: at < 2**31), st.integers(0, 10**12), st.lists(st.integers(0, 10**8), max_size=40))
def test_hours_come_back_and_what_does_not_fit_is_left_for_the_next(at: int, first: int, steps: list[int]) -> None:
    hours = [(at, first)]
    for step in steps:
        hours.append((hours[-1][0] + 3600, hours[-1][1] + step))
    history = LoraHistory.fitting(hours)
    frame = history.to_bytes(KEY)
    assert len(frame) <= DR0_BYTES
    assert LoraHistory.from_bytes(frame, KEY) == history
    assert history.readings == hours[: len(history.readings)]
    body, told = lora_codec.history_body(hours, DR0_BYTES)
    assert (frame[:-8], len(history.readings)) == (body, told)


def test_the_largest_values_of_all_are_exactly_the_slowest_data_rate() -> None:
    largest = replace(STATUS, credit_accepted=MAX_TOTAL, credit_remaining=MIN_REMAINING, register_ml=MAX_TOTAL)
    assert len(largest.to_bytes(KEY)) == DR0_BYTES
    assert len(STATUS.to_bytes(KEY)) == 33
    assert len(LoraCommand(KIND_CREDIT, 3, 150_000, "KES").to_bytes(KEY)) == 19


def test_what_no_meter_has_is_not_written() -> None:
    for wrong in (
        {"credit_accepted": -1},
        {"register_ml": MAX_TOTAL + 1},
        {"credit_remaining": MAX_REMAINING + 1},
        {"result": 16},
        {"valve": 4},
    ):
        with pytest.raises(ValueError, match="outside"):
            replace(STATUS, **wrong).to_bytes(KEY)
    with pytest.raises(ValueError, match="outside"):
        LoraCommand(KIND_CREDIT, 1, -1, "KES").to_bytes(KEY)


def test_the_pages_vector() -> None:
    """docs/meters/lorawan-frames.md, computed here by hand from the page."""
    body = bytes.fromhex("18 00000007 00000003 04 12 58 6ab13b80 f0 93 09 ef 01 c0 ae ed 18".replace(" ", ""))
    message = b"standpipe/lora/status" + KEY.dev_eui + b"KW1015" + b"\x00" + body
    mac = hmac.new(KEY.key, message, hashlib.sha256).digest()[:8]
    assert STATUS.to_bytes(KEY) == body + mac
    assert (body + mac).hex() == "180000000700000003041258" + "6ab13b80f09309ef01c0aeed18" + "2c82f62d72ae2710"


def test_the_meters_own_codec_says_the_same() -> None:
    fields = (7, 3, 0, 1, 1, 150_000, -120, 52_123_456, 1_790_000_000)
    body = lora_codec.status_body(fields, lora_codec.LEAK, 88)
    frame = body + lora_codec.sign("status", body, KEY.key, KEY.dev_eui.hex(), KEY.serial)
    assert frame == STATUS.to_bytes(KEY)


@given(statuses, st.data())
@settings(max_examples=rounds(80, 300))
def test_m7_any_flipped_bit_is_refused(status: LoraStatus, data: st.DataObject) -> None:
    frame = bytearray(status.to_bytes(KEY))
    bit = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ParsingError):
        LoraStatus.from_bytes(bytes(frame), KEY)


def test_m4_a_frame_is_worth_nothing_elsewhere() -> None:
    """Under another key, radio or serial, and in another direction or kind."""
    frame = STATUS.to_bytes(KEY)
    others = (
        replace(KEY, key=bytes(32)),
        replace(KEY, dev_eui=bytes(8)),
        replace(KEY, serial="KW1016"),
    )
    for other in others:
        with pytest.raises(ParsingError):
            LoraStatus.from_bytes(frame, other)
    kinds: list[Any] = [LoraStatus, LoraHistory, LoraCommand]
    frames = {
        LoraStatus: frame,
        LoraHistory: LoraHistory(0, 5, (1, 2)).to_bytes(KEY),
        LoraCommand: LoraCommand(KIND_CREDIT, 1, 5, "KES").to_bytes(KEY),
    }
    for written in kinds:
        for read in kinds:
            if read is not written:
                with pytest.raises(ParsingError):
                    read.from_bytes(frames[written], KEY)


def test_m7_a_true_mac_under_a_wrong_body_is_refused_too() -> None:
    """What holds the key may still be broken: each rule of the page, broken one at a time."""
    body = STATUS.to_bytes(KEY)[:-8]
    wrong = {
        "version": b"\x28" + body[1:],
        "kind": b"\x1f" + body[1:],
        "spare bits": body[:9] + b"\x05" + body[10:],
        "battery": body[:11] + b"\x65" + body[12:],
        "short": body[:-1],
        "long": body + b"\x00\x00",
        "more typed than accepted": body + b"\xff\xff\xff\xff\xff\x7f",
        "varint that never ends": body[:16] + b"\xff" * 12,
        "varint with a needless byte": body[:16] + b"\x80\x00" + b"\x00\x00",
        "nothing": b"",
    }
    for broken in wrong.values():
        with pytest.raises(ParsingError):
            LoraStatus.from_bytes(broken + KEY.mac(LoraStatus.LABEL, broken), KEY)
    beyond = b"\x19" + (2**32 - 1).to_bytes(4, "big") + b"\x00\x01"
    with pytest.raises(ParsingError):
        LoraHistory.from_bytes(beyond + KEY.mac(LoraHistory.LABEL, beyond), KEY)


def test_m7_garbage_of_any_length_is_refused() -> None:
    """Some thousands in the suite, 100,000 by `make chaos`."""
    chance = random.Random(7)
    good = [STATUS.to_bytes(KEY), LoraHistory(0, 5, (1, 2)).to_bytes(KEY)]
    for _ in range(ROUNDS):
        base = bytearray(chance.choice(good)) if chance.random() < 0.5 else bytearray()
        junk = bytes(base[: chance.randrange(len(base) + 1)]) + chance.randbytes(chance.randrange(60))
        if junk in good:
            continue
        for kind in (LoraStatus, LoraHistory, LoraCommand):
            with pytest.raises(ParsingError):
                kind.from_bytes(junk, KEY)


@given(st.binary(max_size=60))
@settings(max_examples=rounds(80, 300))
def test_m7_a_signed_body_of_garbage_is_read_or_refused_and_never_more(body: bytes) -> None:
    """Under the true key, so that what lies behind the MAC is fuzzed as well."""
    kinds: list[Any] = [LoraStatus, LoraHistory, LoraCommand]
    for kind in kinds:
        for head in (b"", b"\x18", b"\x19", b"\x11"):
            frame = head + body + KEY.mac(kind.LABEL, head + body)
            try:
                read = kind.from_bytes(frame, KEY)
            except ParsingError:
                continue
            if read.__class__ is not LoraCommand:
                assert read.to_bytes(KEY) == frame
