"""Standard objects as meters spell them: TLV, SenML, plain text, and what each means."""

import json
import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standpipe.meter_gateway.lwm2m import objects, senml, tlv, water
from standpipe.meter_gateway.lwm2m.water import Observations
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters.reports import Condition, ConditionKind, Measure, MeasureKind, RegisterReading

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def entry(resource: int, value: bytes) -> bytes:
    head = bytes((0b1110_0000 | len(value),)) if len(value) < 8 else bytes((0b1110_1000,))
    return head + resource.to_bytes(2, "big") + (bytes((len(value),)) if len(value) >= 8 else b"") + value


def facts(payload: bytes, content_format: int, path: str) -> Observations:
    return water.observations_of(objects.decode(payload, content_format, path), NOW)


def test_a_water_meter_in_tlv_and_in_both_kinds_of_senml() -> None:
    measured_s = int((NOW - timedelta(minutes=5)).timestamp())
    tlv_payload = b"".join(
        (
            entry(1, struct.pack(">d", 12.345)),
            entry(3, b"cold"),
            entry(8, struct.pack(">f", 0.0005)),
            entry(9, b"\x00"),
            entry(10, b"\x01"),
            entry(11, b"\x01"),
            entry(12, b"\x00"),
            entry(13, b"\x01"),
            entry(5518, struct.pack(">i", measured_s)),
        )
    )
    told: dict[int, Any] = {1: 12.345, 8: 0.0005, 9: False, 10: True, 11: True, 12: False, 13: True, 5518: measured_s}
    records = [
        {"n": str(resource), ("vb" if isinstance(value, bool) else "v"): value} for resource, value in told.items()
    ]
    records[0]["bn"] = "/3424/0/"
    labels = {"bn": -2, "n": 0, "v": 2, "vb": 4}
    packs = [
        (tlv_payload, tlv.CONTENT_FORMAT, "/3424/0"),
        (bytes((0b0000_1000, 0, len(tlv_payload))) + tlv_payload, tlv.CONTENT_FORMAT, "/3424"),
        (json.dumps(records).encode(), senml.JSON_FORMAT, "/"),
        (cbor2.dumps([{labels[k]: v for k, v in record.items()} for record in records]), senml.CBOR_FORMAT, "/"),
    ]
    for payload, content_format, path in packs:
        seen = facts(payload, content_format, path)
        assert seen.readings == (RegisterReading(NOW - timedelta(minutes=5), 12_345_000),)
        assert {(condition.kind, condition.is_raised) for condition in seen.conditions} == {
            (ConditionKind.LEAK_SUSPECTED, False),
            (ConditionKind.LEAK, True),
            (ConditionKind.REVERSE_FLOW, True),
            (ConditionKind.BLOCKED, False),
            (ConditionKind.TAMPER, True),
        }
        assert seen.measures == (Measure(MeasureKind.MAX_FLOW_ML_PER_H, NOW, 1_800_000),)


@pytest.mark.parametrize(
    ("path", "payload", "expected"),
    [
        ("/3/0/9", b"87", Observations(battery_percent=87)),
        ("/3411/0/1", b"12", Observations(battery_percent=12)),
        (
            "/3411/0/6",
            b"1",
            Observations(conditions=(Condition(ConditionKind.LOW_BATTERY, NOW, is_raised=True),)),
        ),
        ("/3424/0/1", b"12.345", Observations(readings=(RegisterReading(NOW, 12_345_000),))),
        ("/3424/0/13", b"0", Observations(conditions=(Condition(ConditionKind.TAMPER, NOW, is_raised=False),))),
        ("/3425/0/2", b"100", Observations(measures=(Measure(MeasureKind.VALVE_PERCENT, NOW, 100),))),
        ("/4/0/2", b"-107", Observations(measures=(Measure(MeasureKind.SIGNAL_DBM, NOW, -107),))),
        ("/10272/0/6013", b"1", Observations(conditions=(Condition(ConditionKind.LEAK, NOW, is_raised=True),))),
        (
            "/10273/0/6013",
            b"1",
            Observations(conditions=(Condition(ConditionKind.REVERSE_FLOW, NOW, is_raised=True),)),
        ),
        (
            "/10274/0/6013",
            b"1",
            Observations(conditions=(Condition(ConditionKind.EMPTY_PIPE, NOW, is_raised=True),)),
        ),
        ("/10275/0/6013", b"1", Observations(conditions=(Condition(ConditionKind.TAMPER, NOW, is_raised=True),))),
    ],
)
def test_single_resources_in_plain_text(path: str, payload: bytes, expected: Observations) -> None:
    assert facts(payload, objects.PLAIN_TEXT, path) == expected


@pytest.mark.parametrize(
    ("path", "payload"),
    [
        ("/3424/0/1", b""),
        ("/3424/0/1", b"NaN"),
        ("/3424/0/1", b"1,5"),
        ("/3424/0/1", b"-1"),
        ("/3424/0/1", b"1e99"),
        ("/3424/0/1", "٣".encode()),
        ("/3424/0", b"1"),
        ("/9999/0/1", b"1"),
        ("/3424/0/1", b"1" * 5_000),
    ],
)
def test_plain_text_that_is_no_number_of_ours_is_one_typed_error(path: str, payload: bytes) -> None:
    with pytest.raises(ParsingError):
        facts(payload, objects.PLAIN_TEXT, path)


def test_a_number_says_yes_where_a_client_writes_its_booleans_so() -> None:
    pack = cbor2.dumps([{0: "3424/0/10", 2: 1}, {0: "/3424/0/11", 2: 0}, {0: "/3424/0/12", 4: True}])
    seen = facts(pack, senml.CBOR_FORMAT, "/")
    assert [condition.is_raised for condition in seen.conditions] == [True, False, True]


def test_another_instance_is_another_meter_s() -> None:
    assert facts(cbor2.dumps([{0: "/3424/1/1", 2: 5}]), senml.CBOR_FORMAT, "/") == Observations()


@given(
    st.binary(max_size=120), st.sampled_from(sorted(objects.FORMATS)), st.sampled_from(["/", "/3424/0", "/3424/0/1"])
)
def test_m7_any_payload_is_facts_or_one_typed_error(payload: bytes, content_format: int, path: str) -> None:
    try:
        facts(payload, content_format, path)
    except ParsingError:
        return


@given(st.decimals(min_value=0, max_value=99_999, places=6))
def test_plain_text_keeps_every_millilitre(volume_m3: Decimal) -> None:
    seen = facts(f"{volume_m3:f}".encode(), objects.PLAIN_TEXT, "/3424/0/1")
    assert seen.readings[0].register_ml == int(volume_m3 * 1_000_000)
