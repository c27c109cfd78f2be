"""The prepaid object's frames, against the page that defines them and against a meter that reads the same page."""

import hashlib
import hmac
import struct
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standpipe.meter_gateway import prepaid
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meter_gateway.translation import status_report_of
from standpipe.meters.reports import CommandResult, ValveReason, ValveState
from standpipe_demo.simulator.meter_frames import make_status, open_command
from tests.support.town import make_settings

KEY, SERIAL = bytes(range(32)), "KW1001"
DOCS = Path(__file__).parents[2] / "docs/lwm2m"

statuses = st.builds(
    prepaid.StatusFrame,
    report_counter=st.integers(0, 2**32 - 1),
    last_sequence=st.integers(0, 2**32 - 1),
    result=st.integers(0, 255),
    valve=st.integers(0, 255),
    valve_reason=st.integers(0, 255),
    credit_accepted=st.integers(0, 2**63 - 1),
    credit_remaining=st.integers(-(2**63), 2**63 - 1),
    register_ml=st.integers(0, 2**63 - 1),
    meter_time_s=st.integers(0, 2**32 - 1),
)


def test_a_credit_frame_byte_by_byte() -> None:
    body = bytes.fromhex("01 01 00000007 00000000000249F0 4B4553")
    mac = hmac.new(KEY, b"standpipe/prepaid/command" + b"KW1001\x00" + body, hashlib.sha256).digest()[:16]
    assert prepaid.CommandFrame(prepaid.KIND_CREDIT, 7, 150_000, "KES").to_bytes(KEY, SERIAL) == body + mac


def test_a_status_frame_byte_by_byte() -> None:
    body = struct.pack(">BBIIBBBQqQI", 1, 0x81, 3, 7, 0, 1, 1, 150_000, -250, 42_000_000, 1_777_777_777)
    mac = hmac.new(KEY, b"standpipe/prepaid/status" + b"KW1001\x00" + body, hashlib.sha256).digest()[:16]
    assert len(body + mac) == 57
    assert prepaid.StatusFrame.from_bytes(body + mac, KEY, SERIAL) == prepaid.StatusFrame(
        3, 7, 0, 1, 1, 150_000, -250, 42_000_000, 1_777_777_777
    )


@given(st.sampled_from([1, 2, 3]), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_the_simulated_meter_reads_what_the_gateway_writes(kind: int, sequence: int, value: int) -> None:
    frame = prepaid.CommandFrame(kind, sequence, value, "KES")
    wire = frame.to_bytes(KEY, SERIAL)
    assert open_command(wire, KEY, SERIAL) == (kind, sequence, value, "KES", None)
    assert prepaid.CommandFrame.from_bytes(wire, KEY, SERIAL) == frame


def test_a_marked_credit_byte_by_byte() -> None:
    body = bytes.fromhex("01 05 00000007 00000000000C3500 564F4C 00639FC0")
    mac = hmac.new(KEY, b"standpipe/prepaid/command" + b"KW1001\x00" + body, hashlib.sha256).digest()[:16]
    frame = prepaid.CommandFrame(prepaid.KIND_CREDIT_MARKED, 7, 800_000, "VOL", 6_528_960)
    assert frame.to_bytes(KEY, SERIAL) == body + mac
    assert prepaid.CommandFrame.from_bytes(body + mac, KEY, SERIAL) == frame
    assert open_command(body + mac, KEY, SERIAL) == (5, 7, 800_000, "VOL", 6_528_960)


@given(statuses, st.integers(0, 2**63 - 1))
def test_a_keypad_meter_says_what_was_typed(status: prepaid.StatusFrame, typed_ml: int) -> None:
    told = replace(status, typed_ml=min(typed_ml, status.credit_accepted))
    wire = told.to_bytes(KEY, SERIAL)
    assert len(wire) == 65
    assert prepaid.StatusFrame.from_bytes(wire, KEY, SERIAL) == told
    beyond = replace(told, typed_ml=status.credit_accepted + 1).to_bytes(KEY, SERIAL)
    with pytest.raises(ParsingError):
        prepaid.StatusFrame.from_bytes(beyond, KEY, SERIAL)


@given(statuses)
def test_the_gateway_reads_what_the_simulated_meter_writes(status: prepaid.StatusFrame) -> None:
    fields: Any = (
        status.report_counter, status.last_sequence, status.result, status.valve, status.valve_reason,
        status.credit_accepted, status.credit_remaining, status.register_ml, status.meter_time_s,
    )  # fmt: skip
    wire = make_status(fields, KEY, SERIAL)
    assert prepaid.StatusFrame.from_bytes(wire, KEY, SERIAL) == status
    assert status.to_bytes(KEY, SERIAL) == wire


@given(statuses, st.integers(0, 57 * 8 - 1))
def test_m7_any_flipped_bit_is_refused(status: prepaid.StatusFrame, bit: int) -> None:
    wire = bytearray(status.to_bytes(KEY, SERIAL))
    wire[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ParsingError):
        prepaid.StatusFrame.from_bytes(bytes(wire), KEY, SERIAL)


@given(statuses)
def test_m4_a_frame_of_another_meter_direction_or_key_is_refused(status: prepaid.StatusFrame) -> None:
    wire = status.to_bytes(KEY, SERIAL)
    for key, serial in ((KEY, "KW1002"), (bytes(32), SERIAL)):
        with pytest.raises(ParsingError):
            prepaid.StatusFrame.from_bytes(wire, key, serial)
    command = prepaid.CommandFrame(1, 1, 1, "KES").to_bytes(KEY, SERIAL)
    with pytest.raises(ParsingError):
        prepaid.StatusFrame.from_bytes(command, KEY, SERIAL)


def test_a_total_that_no_database_holds_is_refused_though_its_mac_is_good() -> None:
    for accepted, register_ml in ((2**63, 0), (0, 2**64 - 1)):
        wire = prepaid.StatusFrame(1, 1, 0, 0, 0, accepted, 0, register_ml, 0).to_bytes(KEY, SERIAL)
        with pytest.raises(ParsingError):
            prepaid.StatusFrame.from_bytes(wire, KEY, SERIAL)


def test_codes_of_the_page_in_our_words_and_unknown_ones_never_as_done() -> None:
    def said(result: int, valve: int, reason: int) -> tuple[CommandResult, ValveState, ValveReason]:
        statement = status_report_of(prepaid.StatusFrame(1, 1, result, valve, reason, 0, 0, 0, 0))
        return statement.result, statement.valve, statement.valve_reason

    assert said(0, 0, 0) == (CommandResult.DONE, ValveState.OPEN, ValveReason.NORMAL)
    assert said(1, 1, 1) == (CommandResult.DUPLICATE, ValveState.CLOSED, ValveReason.NO_CREDIT)
    assert said(2, 2, 2) == (CommandResult.BAD_MAC, ValveState.RESTRICTED, ValveReason.TAMPER)
    assert said(3, 0, 3) == (CommandResult.STALE_SEQUENCE, ValveState.OPEN, ValveReason.LEAK)
    assert said(4, 0, 4) == (CommandResult.WRONG_CURRENCY, ValveState.OPEN, ValveReason.MAINTENANCE)
    assert said(5, 0, 5) == (CommandResult.UNSUPPORTED, ValveState.OPEN, ValveReason.CUSTOMER)
    assert said(6, 0, 0) == (CommandResult.TOTAL_TOO_LOW, ValveState.OPEN, ValveReason.NORMAL)
    assert said(7, 3, 6) == (CommandResult.UNSUPPORTED, ValveState.UNKNOWN, ValveReason.UNKNOWN)


def test_the_published_object_is_the_one_that_we_speak() -> None:
    objects = ET.parse(DOCS / "42769.xml").getroot().findall("Object")  # noqa: S314 - our own file.
    assert [item.findtext("ObjectID") for item in objects] == [str(make_settings().prepaid_object_id)]
    assert objects[0].findtext("ObjectURN") == "urn:oma:lwm2m:x:42769"
    resources = {
        item.get("ID"): (item.findtext("Name"), item.findtext("Operations"), item.findtext("Type"))
        for item in objects[0].findall("Resources/Item")
    }
    rows = [line.split("|")[1:5] for line in (DOCS / "prepaid-frames.md").read_text().splitlines() if "|" in line]
    cells = [tuple(cell.strip() for cell in row) for row in rows]
    assert resources == {row[0]: row[1:] for row in cells if row[-1] in ("Opaque", "Integer", "String")}
    assert len(resources) == 11
