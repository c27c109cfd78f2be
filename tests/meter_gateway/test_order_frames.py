"""Frames of price tables and diagnostics, against the pages' vectors and the simulated meter's own reading of them."""

from decimal import Decimal
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standpipe.meter_gateway.lorawan.frames import DR0_BYTES, FrameKey
from standpipe.meter_gateway.lorawan.orders import LoraDiagnostics, LoraTablesHeld, TablePart
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meter_gateway.prepaid_tables import TableFrame, TablesHeldFrame
from standpipe.meters.price_tables import MAX_BLOCKS, MeterTable
from standpipe.platform.errors import InvalidInputError
from standpipe_demo.simulator import lora_codec, meter_prices

KEY, DEV_EUI, SERIAL = bytes(range(32)), "70b3d57ed0061001", "KW1015"
FRAME_KEY = FrameKey(KEY, bytes.fromhex(DEV_EUI), SERIAL)
TABLE = MeterTable(((6_000_000, Decimal("5345.5")), (None, Decimal(9510))), 1_790_000_000)
BODY = bytes.fromhex("6ab13b8002809bee02e0b6f7f4130080abdcb623")
prices = st.decimals(0, 10**6, places=6)
tables = st.builds(
    lambda bounds, costs, last, at: MeterTable(
        (*zip(sorted(bounds), costs, strict=False), (None, last))[: len(bounds) + 1], at
    ),
    st.sets(st.integers(1, 10**12), max_size=12),
    st.lists(prices, min_size=12, max_size=12),
    prices,
    st.integers(0, 2**32 - 1),
)


def test_the_pages_vectors() -> None:
    assert TABLE.to_bytes() == BODY
    assert TABLE.id == "380eeb23fd505640"
    frame = TableFrame(4, "KES", BODY).to_bytes(KEY, SERIAL)
    assert frame == bytes.fromhex("010b000000044b4553") + BODY + bytes.fromhex("0eb397ced87f66b50e0347df6ad15068")
    part = TablePart.next_of(BODY, 4, "KES", 0).to_bytes(FRAME_KEY)
    assert part == bytes.fromhex("1b000000044b455301") + BODY + bytes.fromhex("22b221d7562dd300")


@given(tables)
def test_a_table_reaches_the_meter_exactly_whole_or_in_parts(table: MeterTable) -> None:
    raw = table.to_bytes()
    opened = meter_prices.open_table(TableFrame(7, "KES", raw).to_bytes(KEY, SERIAL), KEY, SERIAL)
    assert opened == (7, "KES", raw)
    state = SimpleNamespace(table_parts={}, table_id="", waiting_table=None)
    held = 0
    whole = None
    while whole is None:
        frame = TablePart.next_of(raw, 7, "KES", held).to_bytes(FRAME_KEY)
        assert len(frame) <= DR0_BYTES
        part = lora_codec.open_part(frame, KEY, DEV_EUI, SERIAL)
        assert part is not None
        whole = meter_prices.take_part(state, 7, *part[2:])
        sequence, held = meter_prices.parts_held(state)
        assert sequence == 7
    assert whole == raw
    meter_prices.take_table(state, whole)
    assert state.waiting_table["id"] == table.id == MeterTable.from_body(table.to_body()).id
    assert state.waiting_table["from"] == table.active_from_s
    assert [(bound, Decimal(price)) for bound, price in state.waiting_table["blocks"]] == list(table.blocks)


@given(st.binary(max_size=60))
def test_m7_garbage_is_no_table_and_no_answer(raw: bytes) -> None:
    state = SimpleNamespace(table_parts={}, waiting_table=None)
    try:
        meter_prices.take_table(state, raw)
    except meter_prices.TableError:
        assert state.waiting_table is None
    for reads in (LoraDiagnostics.from_bytes, LoraTablesHeld.from_bytes):
        with pytest.raises(ParsingError):
            reads(raw, FRAME_KEY)
    with pytest.raises(ParsingError):
        TablesHeldFrame.from_bytes(raw, KEY, SERIAL)


def test_what_the_meter_says_is_read_as_it_said_it() -> None:
    state = SimpleNamespace(table_id="11" * 8, waiting_table={"id": "22" * 8})
    held = TablesHeldFrame.from_bytes(meter_prices.held_frame(9, state, KEY, SERIAL), KEY, SERIAL)
    assert (held.report_counter, held.in_force.hex(), held.waiting.hex()) == (9, "11" * 8, "22" * 8)
    body = lora_codec.diagnostics_body(5, 88, -112, (86_400, 3, 0b101), "sim 1.4.2")
    frame = body + lora_codec.sign("diagnostics", body, KEY, DEV_EUI, SERIAL)
    told = LoraDiagnostics.from_bytes(frame, FRAME_KEY)
    assert told == LoraDiagnostics(5, 88, -112, 86_400, 3, 0b101, "sim 1.4.2")
    assert told.to_bytes(FRAME_KEY) == frame
    body = lora_codec.tables_body(9, 5, 0b11, meter_prices.held_ids(state))
    frame = body + lora_codec.sign("tables-held", body, KEY, DEV_EUI, SERIAL)
    assert LoraTablesHeld.from_bytes(frame, FRAME_KEY).to_bytes(FRAME_KEY) == frame
    with pytest.raises(ParsingError):
        LoraTablesHeld.from_bytes(frame, FrameKey(KEY, bytes(8), SERIAL))
    for place in range(len(frame)):
        broken = bytearray(frame)
        broken[place] ^= 1
        with pytest.raises(ParsingError):
            LoraTablesHeld.from_bytes(bytes(broken), FRAME_KEY)


def test_what_no_meter_can_hold_exactly_is_refused() -> None:
    too_fine = MeterTable(((None, Decimal("0.0000001")),), 0)
    too_many = MeterTable(tuple((n or None, Decimal(1)) for n in range(MAX_BLOCKS + 1)), 0)
    for table in (too_fine, too_many, MeterTable((), 0), MeterTable(((None, Decimal(1)),), 2**32)):
        with pytest.raises(InvalidInputError):
            table.to_bytes()
    with pytest.raises(ValueError, match="too long"):
        TablePart.next_of(bytes(34 * 15 + 1), 1, "KES", 0)
    assert TablePart.next_of(bytes(34 * 15), 1, "KES", 0b1).index == 1
