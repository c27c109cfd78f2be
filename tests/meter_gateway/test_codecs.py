"""Frames and formats: exact where they are whole, one typed error where they are not."""

import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import cbor2
import pytest

from standpipe.meter_gateway import prepaid
from standpipe.meter_gateway.lwm2m import objects, senml, tlv, water
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters.reports import RegisterReading
from tests.support.lengths import rounds

ROUNDS = rounds(600, 3_000, "CHAOS_FRAMES")
KEY, SERIAL = bytes(range(32)), "KW1001"
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def of_tlv(payload: bytes) -> tuple[RegisterReading, ...]:
    return water.observations_of(objects.decode(payload, tlv.CONTENT_FORMAT, water.METER_PATH), NOW).readings


@pytest.mark.parametrize(
    "pack",
    [
        [{-2: "/3424/0/", -3: 1_777_000_000, 0: "1", 2: 12.345}, {0: "1", 6: 3600, 2: 12.5}],
        [{-2: "/3424/0/1", -3: 1_777_000_000, 2: 12.345}, {6: 3600, 2: 12.5}],
        [{0: "/3424/0/1", 6: 1_777_000_000, 2: 12.345}, {0: "/3424/0/1", 6: 1_777_003_600, 2: 12.5}],
        [{-2: "/3424/0/1", -3: 1_777_000_000, -5: 12, 2: 0.345}, {6: 3600, 2: 0.5}],
    ],
)
def test_senml_names_times_and_bases_however_a_client_splits_them(pack: list[Any]) -> None:
    expected = (
        RegisterReading(datetime.fromtimestamp(1_777_000_000, UTC), 12_345_000),
        RegisterReading(datetime.fromtimestamp(1_777_003_600, UTC), 12_500_000),
    )
    assert water.observations_of(senml.decode(cbor2.dumps(pack), senml.CBOR_FORMAT), NOW).readings == expected
    names = {-2: "bn", -3: "bt", -5: "bv", 0: "n", 2: "v", 6: "t"}
    text = json.dumps([{names[key]: value for key, value in record.items()} for record in pack]).encode()
    assert water.observations_of(senml.decode(text, senml.JSON_FORMAT), NOW).readings == expected


def test_senml_relative_time_counts_from_arrival() -> None:
    pack = cbor2.dumps([{0: "/3424/0/1", 6: -60, 2: 1}, {0: "/3424/0/1", 2: 2}, {0: "/3/0/9", 2: 77}])
    records = senml.decode(pack, senml.CBOR_FORMAT)
    assert water.observations_of(records, NOW).readings == (
        RegisterReading(NOW - timedelta(minutes=1), 1_000_000),
        RegisterReading(NOW, 2_000_000),
    )
    assert water.observations_of(records, NOW).battery_percent == 77


@pytest.mark.parametrize(
    "item",
    [1, {}, [1], [{2: float("nan"), 0: "/3424/0/1"}], [{0: "/3424/0/1", 2: True}], [{0: 5, 2: 1}],
     [{0: "/3424/0/1", 2: -1}], [{0: "/3424/0/1", 2: 1e30}], [{0: "/3424/0/1", 6: 1e18, 2: 1}], [{}] * 6000,
     [{0: "x" * 300, 2: 1}], [{0: "/3424/0/1", 2: "1"}], [{0: "/3424/0/1", 4: 1}]],
)  # fmt: skip
def test_senml_that_is_no_register_is_one_typed_error(item: Any) -> None:
    with pytest.raises(ParsingError):
        water.observations_of(senml.decode(cbor2.dumps(item), senml.CBOR_FORMAT), NOW)


def test_tlv_wrapped_and_bare() -> None:
    value = bytes((0b1100_1000, 1, 8)) + struct.pack(">d", 12.345)
    wrapped = bytes((0b0000_1000, 0, len(value))) + value
    for payload in (value, wrapped):
        assert of_tlv(payload) == (RegisterReading(NOW, 12_345_000),)
    short = bytes((0b1100_0100, 1)) + struct.pack(">f", 2.5)
    assert of_tlv(short) == (RegisterReading(NOW, 2_500_000),)


def test_tlv_integers() -> None:
    assert [tlv.integer(struct.pack(form, -5)) for form in (">b", ">h", ">i", ">q")] == [-5] * 4
    with pytest.raises(ParsingError):
        tlv.integer(b"123")


DECODERS: list[Callable[[bytes], object]] = [
    tlv.decode,
    of_tlv,
    lambda data: water.observations_of(senml.decode(data, senml.CBOR_FORMAT), NOW).readings,
    lambda data: water.observations_of(senml.decode(data, senml.JSON_FORMAT), NOW).readings,
    lambda data: prepaid.StatusFrame.from_bytes(data, KEY, SERIAL),
    lambda data: prepaid.CommandFrame.from_bytes(data, KEY, SERIAL),
    lambda data: prepaid.KeyFrame.from_bytes(data, KEY, SERIAL),
]
SEEDS = [
    cbor2.dumps([{-2: "/3424/0/", -3: 1_777_000_000, 0: "1", 2: 12.345}, {0: "1", 6: 3600, 2: Decimal("12.5")}]),
    b'[{"bn":"/3424/0/","bt":1777000000,"n":"1","v":12.345}]',
    bytes((0b0000_1000, 0, 11, 0b1100_1000, 1, 8)) + struct.pack(">d", 12.345),
    prepaid.CommandFrame(1, 1, 1, "KES").to_bytes(KEY, SERIAL),
    prepaid.CommandFrame(5, 1, 1, "VOL", 7).to_bytes(KEY, SERIAL),
    prepaid.StatusFrame(1, 1, 0, 0, 0, 1, 1, 1, 1, 1).to_bytes(KEY, SERIAL),
    prepaid.KeyFrame(1, bytes(16)).to_bytes(KEY, SERIAL),
]


@pytest.mark.parametrize("number", range(len(DECODERS)))
def test_m7_garbage_truncated_and_flipped_raise_nothing_but_parsing_error(number: int) -> None:
    chance = random.Random(number)
    for _ in range(ROUNDS):
        data = bytearray(chance.choice(SEEDS))
        for _ in range(chance.randint(0, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        wire = bytes(data[: chance.randint(0, len(data))]) if chance.random() < 0.5 else bytes(data)
        if chance.random() < 0.2:
            wire = chance.randbytes(chance.randint(0, 300))
        with suppress(ParsingError):
            DECODERS[number](wire)


@pytest.mark.parametrize("payload", [b"\x81" * 100_000, b"\x9f" * 50_000, b"[" * 100_000, b"\xbb" + b"\xff" * 8])
def test_m7_nesting_without_end_is_refused(payload: bytes) -> None:
    for content_format in (senml.CBOR_FORMAT, senml.JSON_FORMAT):
        with pytest.raises(ParsingError):
            senml.decode(payload, content_format)
