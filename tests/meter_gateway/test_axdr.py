"""COSEM data: every type there and back, and whatever bytes come, an answer or a ParsingError."""

import random
import struct
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standpipe.meter_gateway.dlms import axdr
from standpipe.meter_gateway.dlms.axdr import Data, Tag, array, octets, structure
from standpipe.meter_gateway.dlms.cosem_time import ANY_BYTE, ANY_DEVIATION, CosemTime
from standpipe.meter_gateway.dlms.wrapper import HEADER_BYTES, Unwrapper, WrapperFrame
from standpipe.meter_gateway.parsing import ParsingError
from tests.support.lengths import rounds

FUZZ_CASES = rounds(1_000, 5_000, "CHAOS_FRAMES")

_RANGES = {
    Tag.DOUBLE_LONG: (-(2**31), 2**31 - 1),
    Tag.DOUBLE_LONG_UNSIGNED: (0, 2**32 - 1),
    Tag.INTEGER: (-128, 127),
    Tag.LONG: (-(2**15), 2**15 - 1),
    Tag.UNSIGNED: (0, 255),
    Tag.LONG_UNSIGNED: (0, 2**16 - 1),
    Tag.LONG64: (-(2**63), 2**63 - 1),
    Tag.LONG64_UNSIGNED: (0, 2**64 - 1),
    Tag.ENUM: (0, 255),
    Tag.DELTA_INTEGER: (-128, 127),
    Tag.DELTA_LONG: (-(2**15), 2**15 - 1),
    Tag.DELTA_DOUBLE_LONG: (-(2**31), 2**31 - 1),
    Tag.DELTA_UNSIGNED: (0, 255),
    Tag.DELTA_LONG_UNSIGNED: (0, 2**16 - 1),
    Tag.DELTA_DOUBLE_LONG_UNSIGNED: (0, 2**32 - 1),
}
_octet = st.integers(0, 255)
_times = st.builds(
    CosemTime,
    st.integers(0, 2**16 - 1),
    *(_octet for _ in range(7)),
    deviation_min=st.integers(-(2**15), 2**15 - 1),
    status=_octet,
)
_numbers = st.sampled_from(sorted(_RANGES)).flatmap(
    lambda tag: st.integers(*_RANGES[tag]).map(lambda value: Data(tag, value))
)
_sized = st.one_of(
    _numbers,
    st.booleans().map(lambda value: Data(Tag.BOOLEAN, value)),
    st.integers(0, 99).map(lambda value: Data(Tag.BCD, value)),
    st.floats(width=32, allow_nan=False).map(lambda value: Data(Tag.FLOAT32, value)),
    st.floats(allow_nan=False).map(lambda value: Data(Tag.FLOAT64, value)),
    st.text("01", max_size=70).map(lambda value: Data(Tag.BIT_STRING, value)),
    st.binary(max_size=300).map(octets),
    st.text(st.characters(max_codepoint=127), max_size=40).map(lambda value: Data(Tag.VISIBLE_STRING, value)),
    st.text(max_size=40).map(lambda value: Data(Tag.UTF8_STRING, value)),
    _times.map(lambda value: Data(Tag.DATE_TIME, value)),
    st.binary(min_size=5, max_size=5).map(lambda value: Data(Tag.DATE, value)),
    st.binary(min_size=4, max_size=4).map(lambda value: Data(Tag.TIME, value)),
)
_rows = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=8), _times), max_size=20).map(
    lambda rows: Data(
        Tag.COMPACT_ARRAY,
        tuple(
            structure(
                Data(Tag.DOUBLE_LONG_UNSIGNED, number),
                array(octets(raw), octets(raw[::-1])),
                Data(Tag.DATE_TIME, time),
            )
            for number, raw, time in rows
        ),
    )
)
_data = st.recursive(
    _sized | st.just(axdr.NULL) | _rows,
    lambda inner: (
        st.lists(inner, max_size=5).map(lambda items: array(*items))
        | st.lists(inner, max_size=5).map(lambda items: structure(*items))
    ),
    max_leaves=12,
)


@given(_data)
def test_what_is_encoded_is_decoded(data: Data) -> None:
    try:
        raw = data.to_bytes()
    except ValueError:
        pytest.fail("a value of its own type")
    try:
        assert axdr.decode(raw) == data
    except ParsingError as error:
        assert "too deep" in str(error)  # noqa: PT017 - deeper than we take is no mistake.


@given(st.binary(max_size=400))
@settings(max_examples=rounds(100, 500))
def test_any_bytes_are_data_or_a_parsing_error(raw: bytes) -> None:
    try:
        data = axdr.decode(raw)
    except ParsingError:
        return
    assert axdr.decode(data.to_bytes()) == data or "nan" in repr(data)


def test_m7_frames_altered_in_a_bit_a_length_or_their_end() -> None:
    """Thousands here, a hundred thousand in `make chaos`."""
    chance = random.Random(4059)
    rows = [structure(octets(CosemTime.of(datetime.now(UTC)).to_bytes()), Data(Tag.LONG64, at)) for at in range(30)]
    whole = [
        array(*rows).to_bytes(),
        Data(Tag.COMPACT_ARRAY, tuple(rows)).to_bytes(),
        structure(Data(Tag.ENUM, 3), Data(Tag.BIT_STRING, "0101")).to_bytes(),
        b"\x01" * 4_000,
        b"\x01\x84\xff\xff\xff\xff",
        b"\x13\x01\xff\xff\x00" + axdr.length(2_000) + bytes(2_000),
    ]
    for _ in range(FUZZ_CASES):
        raw = bytearray(chance.choice(whole))
        for _ in range(chance.randrange(1, 4)):
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        del raw[chance.randrange(1, len(raw) + 1) :]
        unwrapper = Unwrapper()
        try:
            for frame in unwrapper.feed(WrapperFrame(1, 16, bytes(raw[:4_000])).to_bytes()):
                axdr.decode(frame.apdu)
        except ParsingError:
            continue


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("", "cut short"),
        ("0700", "no data type"),
        ("0900ff", "after the end"),
        ("0985ffffffffff", "a length of 5"),
        ("01820fa0", "cut short"),
        ("0101" * 9 + "00", "too deep"),
        ("0184ffffffff", "unreasonable"),
        ("0dff", "above nine"),
        ("0a0180", "VISIBLE_STRING that is none"),
        ("0c01ff", "UTF8_STRING that is none"),
        ("130000", ""),
        ("130001aa", "of nothing"),
        ("13131100", "within another"),
        ("13120300 0100".replace(" ", ""), "cut short"),
        ("13110512", "cut short"),
    ],
)
def test_lies_are_told_apart(raw: str, why: str) -> None:
    if not why:
        assert axdr.decode(bytes.fromhex(raw)).items == ()
        return
    with pytest.raises(ParsingError, match=why):
        axdr.decode(bytes.fromhex(raw))


def test_a_token_gateways_status_that_other_libraries_cannot_read() -> None:
    assert axdr.decode(bytes.fromhex("020216000400")) == structure(Data(Tag.ENUM, 0), Data(Tag.BIT_STRING, ""))


def test_many_small_things_are_bounded_too() -> None:
    nested = b"\x01\x82\x4e\x20" + b"\x00" * 20_000
    with pytest.raises(ParsingError, match="more items"):
        axdr.decode(nested)
    with pytest.raises(ParsingError, match="more items"):
        axdr.decode(b"\x13\x02\x02\x01\xff\xff\x00\x11" + axdr.length(3) + b"\x01\x02\x03")


def test_values_that_do_not_fit_their_type_are_our_own_mistake() -> None:
    for wrong in (Data(Tag.INTEGER, 128), Data(Tag.DATE, b"1"), Data(Tag.COMPACT_ARRAY, (axdr.NULL, octets(b"")))):
        with pytest.raises(ValueError):
            wrong.to_bytes()


def test_types_are_asked_for_by_name() -> None:
    with pytest.raises(ParsingError):
        _ = octets(b"").integer
    with pytest.raises(ParsingError):
        _ = Data(Tag.INTEGER, 1).octets
    with pytest.raises(ParsingError):
        _ = Data(Tag.FLOAT32, 1.5).integer


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)), st.integers(-14, 14))  # noqa: DTZ001 - UTC below.
def test_an_instant_survives_its_time_zone(moment: datetime, hours: int) -> None:
    instant = moment.replace(tzinfo=UTC, microsecond=0)
    assert CosemTime.from_bytes(CosemTime.of(instant).to_bytes()).instant() == instant
    local = instant + timedelta(hours=hours)
    told = struct.pack(">HBBBBBBBhB", local.year, local.month, local.day, 255, local.hour, local.minute, local.second,
                       255, -60 * hours, 255)  # fmt: skip
    assert CosemTime.from_bytes(told).instant() == instant


def test_times_that_leave_parts_open() -> None:
    time = CosemTime(2026, 5, 3, ANY_BYTE, 12, 30)
    assert time.deviation_min == ANY_DEVIATION
    assert time.instant(-180) == datetime(2026, 5, 3, 9, 30, tzinfo=UTC)
    for vague in (CosemTime(), CosemTime(2026, 0xFE, 1, 1, 0, 0), CosemTime(2026, 1, 1, 1, 0, 0, 0, 0, 0, 1)):
        with pytest.raises(ParsingError):
            vague.instant()


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=6), st.integers(1, 50))
def test_frames_come_whole_however_the_stream_is_cut(apdus: list[bytes], step: int) -> None:
    stream = b"".join(WrapperFrame(1, 16, apdu).to_bytes() for apdu in apdus)
    unwrapper, frames = Unwrapper(), []
    for at in range(0, len(stream), step):
        frames += unwrapper.feed(stream[at : at + step])
    assert [frame.apdu for frame in frames] == apdus
    assert not unwrapper.pending


@pytest.mark.parametrize("header", ["0002 0001 0010 0001", "0001 0001 0010 0000", "0001 0001 0010 ffff"])
def test_m9_a_header_that_no_meter_sends_ends_the_stream(header: str) -> None:
    octets_ = bytes.fromhex(header.replace(" ", ""))
    assert len(octets_) == HEADER_BYTES
    with pytest.raises(ParsingError):
        Unwrapper().feed(octets_)
