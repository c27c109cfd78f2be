"""APDUs, ciphering and totals of DLMS: the standard's own worked examples, and rules that must hold for any number."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standpipe.meter_gateway.delivery import CommandRefusedError
from standpipe.meter_gateway.dlms import acse as dlms_acse
from standpipe.meter_gateway.dlms import apdu as dlms_apdu
from standpipe.meter_gateway.dlms import security as dlms_security
from standpipe.meter_gateway.dlms import totals as dlms_totals
from standpipe.meter_gateway.dlms import values as dlms_values
from standpipe.meter_gateway.dlms.acse import AssociationRequest, AssociationResponse, Mechanism
from standpipe.meter_gateway.dlms.apdu import Attribute, ExceptionResponse, Response
from standpipe.meter_gateway.dlms.axdr import NULL, Data, Tag, octets, structure
from standpipe.meter_gateway.dlms.meters import OnTheAir
from standpipe.meter_gateway.dlms.profiles.profile import FOLDER, Alarm, Column, load_profiles, read_profile
from standpipe.meter_gateway.dlms.security import GlobalKeys
from standpipe.meter_gateway.dlms.tariff import unit_charge
from standpipe.meter_gateway.dlms.totals import MoneyRegisters, MoneyScale, Seen, concluded
from standpipe.meter_gateway.dlms.values import VolumeScale
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters.models import CommandKind
from standpipe.meters.reports import ValveState
from standpipe.platform.errors import SettingsError
from standpipe.tariffs.pricing import Block, PriceTable

# Green Book, examples of clause 9.2.7: keys, titles and counters.
KEYS = GlobalKeys(bytes(range(16)), bytes(range(0xD0, 0xE0)))
CLIENT, METER = bytes.fromhex("4D4D4D0000000001"), bytes.fromhex("4D4D4D0000BC614E")
GET_CLOCK = bytes.fromhex("C0010000080000010000FF0200")
GLO_GET_CLOCK = bytes.fromhex("C81E3001234567411312FF935A47566827C467BC7D825C3BE4A77C3FCC056B6B")


def test_ciphering_is_the_green_books() -> None:
    assert dlms_security.seal_apdu(KEYS, METER, 0x01234567, GET_CLOCK) == GLO_GET_CLOCK
    opened = dlms_security.unseal_apdu(KEYS, METER, GLO_GET_CLOCK)
    assert (opened.apdu, opened.counter) == (GET_CLOCK, 0x01234567)


def test_the_proofs_of_hls_are_the_green_books() -> None:
    assert dlms_security.gmac(KEYS, CLIENT, 1, b"P6wRJ21F").hex() == "10000000011a52fe7dd3e72748973c1e28"
    assert dlms_security.gmac(KEYS, METER, 0x01234567, b"K56iVagY").hex() == "1001234567fe1466afb3dbcd4f9389e2b7"


@given(st.integers(0, len(GLO_GET_CLOCK) * 8 - 1))
def test_m7_a_ciphered_frame_with_one_bit_altered_is_refused(bit: int) -> None:
    frame = bytearray(GLO_GET_CLOCK)
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ParsingError):
        dlms_security.unseal_apdu(KEYS, METER, bytes(frame))


def test_m4_a_frame_is_only_its_senders() -> None:
    with pytest.raises(ParsingError):
        dlms_security.unseal_apdu(KEYS, CLIENT, GLO_GET_CLOCK)
    with pytest.raises(ParsingError):
        dlms_security.unseal_apdu(GlobalKeys(KEYS.encryption, bytes(16)), METER, GLO_GET_CLOCK)
    # The right ciphertext under another service's tag.
    with pytest.raises(ParsingError, match="inside than outside"):
        dlms_security.unseal_apdu(KEYS, METER, b"\xc9" + GLO_GET_CLOCK[1:])


def test_an_lls_association_is_the_green_books() -> None:
    """Green Book, clause 11: AARQ with the password 12345678, but for what we propose in the conformance block."""
    request = AssociationRequest(
        Mechanism.LLS, ciphered=False, initiate=dlms_acse.initiate_request(1200), secret=b"12345678"
    )
    assert request.to_bytes().hex() == (
        "6036a1090607608574050801018a0207808b0760857405080201ac0a80083132333435363738be10040e"
        "01000000065f1f040000129d04b0"
    )


def test_an_association_response_is_read() -> None:
    """Green Book, clause 11: AARE of a successful association with the highest level of security."""
    raw = bytes.fromhex(
        "6142a109060760857405080101a203020100a305a10302010e88020780890760857405080205aa0a8008503677524a323146"
        "be10040e0800065f1f040000501f01f40007"
    )
    answer = AssociationResponse.from_bytes(raw)
    assert (answer.accepted, answer.diagnostic, answer.mechanism, answer.challenge) == (True, 14, 5, b"P6wRJ21F")
    assert dlms_acse.max_pdu_of(answer.initiate) == 500
    for end in range(len(raw)):
        with pytest.raises(ParsingError):
            AssociationResponse.from_bytes(raw[:end])


def test_services_are_laid_out_as_they_should() -> None:
    clock = Attribute(8, "0.0.1.0.0.255", 2)
    assert dlms_apdu.get_request(0, clock) == bytes.fromhex("C001C0") + GET_CLOCK[3:]
    assert dlms_apdu.get_next_request(1, 2).hex() == "c002c100000002"
    assert dlms_apdu.set_request(1, clock, octets(b"ab")).hex() == "c101c100080000010000ff020009026162"
    listed = dlms_apdu.get_list_request(1, (clock, clock))
    assert listed == bytes.fromhex("C003C102") + 2 * GET_CLOCK[3:]
    enter = dlms_apdu.action_request(1, Attribute(115, "0.0.19.40.0.255", 1), octets(b"\1"))
    assert enter.hex() == "c301c1007300001328" + "00ff" + "01" + "01" + "090101"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("c401c1001155", Response(0xC4, 1, 0, Data(Tag.UNSIGNED, 0x55))),
        ("c401c10103", Response(0xC4, 1, 3)),
        ("c401c10100", Response(0xC4, 1, 250)),
        ("c501c100", Response(0xC5, 1, 0)),
        ("c701c100", Response(0xC7, 1, 0)),
        ("c701c10000", Response(0xC7, 1, 0)),
        ("c701c1000100020216000400", Response(0xC7, 1, 0, structure(Data(Tag.ENUM, 0), Data(Tag.BIT_STRING, "")))),
        ("c701c1000101 0b".replace(" ", ""), Response(0xC7, 1, 11)),
        ("d80106", ExceptionResponse(1, 6)),
        ("c403c102001105 0103".replace(" ", ""), Response(0xC4, 1, 0, NULL, listed=(Data(Tag.UNSIGNED, 5), 3))),
    ],
)
def test_answers_are_read(raw: str, expected: object) -> None:
    assert dlms_apdu.parse_answer(bytes.fromhex(raw)) == expected


@given(st.binary(max_size=80))
def test_m7_any_bytes_are_an_answer_or_a_parsing_error(raw: bytes) -> None:
    for head in (b"", b"\xc4", b"\xc4\x01\xc1\x00", b"\xc4\x02\xc1", b"\xc7\x01", b"\x0f", b"\x61", b"\xdb\x08"):
        for parse in (dlms_apdu.parse_answer, dlms_apdu.parse_notification, AssociationResponse.from_bytes):
            try:
                parse(head + raw)
            except ParsingError:
                continue
        for read in (dlms_security.title_of, lambda octets_: dlms_security.unseal_apdu(KEYS, METER, octets_)):
            try:
                read(head + raw)
            except ParsingError:
                continue


def test_a_notification_is_read() -> None:
    raw = bytes.fromhex("0f0000000100") + structure(octets(b"SPW1"), Data(Tag.LONG64_UNSIGNED, 5)).to_bytes()
    notice = dlms_apdu.parse_notification(raw)
    assert (notice.invoke_id, notice.sent_at, notice.body.items[1].integer) == (1, None, 5)


# Totals. A meter of ours: what it holds, what it deducted, what it had before us.
_units = st.integers(0, 2**30)


@given(_units, _units, st.integers(-(2**30), 2**30), st.integers(0, 2**20), st.integers(0, 2**20))
def test_setting_the_amount_for_a_total_makes_it_the_total_whatever_was_deducted_before(
    credit: int, paid: int, accepted: int, more: int, water: int
) -> None:
    scale = MoneyScale.of("KES", -2)
    start = MoneyRegisters(credit, paid, 0)
    base = dlms_totals.base_for(start, accepted, scale)
    assert dlms_totals.accepted_minor(start, base, scale) == accepted
    now = MoneyRegisters(credit - water, paid + water, 0)
    assert dlms_totals.accepted_minor(now, base, scale) == accepted
    amount = dlms_totals.amount_for(accepted + more, now, base, scale)
    if amount is None:
        return
    # Said once or ten times, the meter then holds the total and no more.
    after = MoneyRegisters(amount, now.paid_units, 0)
    assert dlms_totals.accepted_minor(after, base, scale) == accepted + more
    assert dlms_totals.amount_for(accepted + more, after, base, scale) == amount


def test_units_that_are_coarser_or_finer_than_ours() -> None:
    whole, fine = MoneyScale.of("KES", 0), MoneyScale.of("KES", -3)
    assert (whole.to_units(500), whole.to_units(550), whole.to_minor(5)) == (5, None, 500)
    assert (fine.to_units(5), fine.to_minor(59)) == (50, 5)
    assert dlms_totals.amount_for(10**12, MoneyRegisters(0, 0, 0), 0, fine) is None
    with pytest.raises(ParsingError):
        MoneyScale.of("KES", 100)


def test_registers_that_went_back() -> None:
    assert dlms_totals.went_back(MoneyRegisters(0, 4, 0), 5)
    assert not dlms_totals.went_back(MoneyRegisters(0, 5, 0), 5)
    assert not dlms_totals.went_back(MoneyRegisters(0, 0, 0), None)


def test_commands_are_concluded_by_what_shows_and_in_order() -> None:
    credit = OnTheAir(5, CommandKind.CREDIT, 1_000)
    close, threshold = OnTheAir(6, CommandKind.VALVE, 1), OnTheAir(7, CommandKind.THRESHOLD, 50)
    seen = Seen(1_000, ValveState.CLOSED, ready_to_open=False, threshold_minor=50)
    assert concluded(4, (credit, close, threshold), seen) == 7
    # Credit shows in the total alone: its answer is worth nothing.
    poor = Seen(999, ValveState.CLOSED, ready_to_open=False, threshold_minor=50, answered=frozenset({5, 6, 7}))
    assert concluded(4, (credit, close, threshold), poor) == 4
    # A later one does not speak for an earlier one.
    opened = Seen(1_000, ValveState.OPEN, ready_to_open=False, threshold_minor=50)
    assert concluded(4, (credit, close, threshold), opened) == 5
    blind = Seen(1_000, ValveState.UNKNOWN, ready_to_open=False, threshold_minor=None)
    assert concluded(5, (close,), blind) == 5
    waiting = Seen(1_000, ValveState.CLOSED, ready_to_open=True, threshold_minor=None)
    assert concluded(5, (OnTheAir(6, CommandKind.VALVE, 0),), waiting) == 6
    assert concluded(5, (OnTheAir(6, CommandKind.AT_ZERO, 0),), waiting) == 5


# Values by profile.
def test_volumes_in_every_unit_that_meters_use() -> None:
    assert VolumeScale.of(-3, 13).to_ml(Data(Tag.DOUBLE_LONG_UNSIGNED, 12_345)) == 12_345_000
    assert VolumeScale.of(0, 19).to_ml(Data(Tag.LONG64_UNSIGNED, 7)) == 7_000
    assert VolumeScale.of(-9, 14).to_ml(Data(Tag.DOUBLE_LONG, 1_999)) == 1
    for wrong in ((Data(Tag.DOUBLE_LONG, -1)), Data(Tag.FLOAT64, 1.0), octets(b"1"), Data(Tag.LONG64, 2**62)):
        with pytest.raises(ParsingError):
            VolumeScale.of(-3, 13).to_ml(wrong)
    for scaler, unit in ((-3, 30), (99, 13)):
        with pytest.raises(ParsingError):
            VolumeScale.of(scaler, unit)


def test_a_row_by_its_columns() -> None:
    profile = load_profiles()["dlms-prepaid-v1"]
    clock = octets(bytes.fromhex("07ea0503ff0c1e00ffff4cff"))  # 2026-05-03 12:30:00, deviation −180.
    row = (clock, Data(Tag.DOUBLE_LONG_UNSIGNED, 0b1001), Data(Tag.LONG64_UNSIGNED, 5))
    told = dlms_values.told_by(
        row,
        (Column.CLOCK, Column.ALARMS, Column.VOLUME),
        scale=VolumeScale.of(-6, 13),
        alarms=profile.alarms,
        assumed_deviation_min=0,
        arrived_at=datetime.now(UTC),
    )
    assert told.alarms == {Alarm.BATTERY_LOW, Alarm.EMPTY_PIPE}
    assert told.reading is not None
    assert told.reading.read_at == datetime(2026, 5, 3, 9, 30, tzinfo=UTC)
    assert told.reading.empty_pipe


def test_a_price_table_as_class_113_holds_it() -> None:
    profile = load_profiles()["dlms-prepaid-v1"]
    table = PriceTable((Block(6_000_000, Decimal(5_000)), Block(None, Decimal(9_000))))
    rows = unit_charge(table, profile, "KES").items[2].items
    assert [row.items[0].octets.hex() for row in rows] == ["00001770", "ffffffff"]
    assert [row.items[1].integer for row in rows] == [5_000, 9_000]
    for price in ("40000", "1.5"):
        with pytest.raises(CommandRefusedError):
            unit_charge(PriceTable((Block(None, Decimal(price)),)), profile, "KES")


# Profiles.
def test_every_profile_of_the_folder_is_sound_and_named_as_its_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(load_profiles())


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        ('obis = "8.0.1.0.0.255"', 'obis = "8.0.1"', 'obis = "8.0.1"', "volume.obis: an OBIS code is six numbers"),
        ('obis = "8.0.1.0.0.255"', 'obis = "8.0.1.0.0.256"', "8.0.1.0.0.256", "volume.obis"),
        ("client = 1\n", "clent = 1\n", "clent", "association.clent"),
        ("ciphered = true", "ciphered = false", "method", "safe only under HLS_GMAC"),
        ('charge = "0.0.19.20.0.255"\n', "", "method", "needs account and charge"),
        ('method = "SET_AMOUNT"', 'method = "TOKEN"', "method", "needs the statement"),
        ('"HLS_GMAC"', '"NONE"', "mechanism", "anybody could be this meter"),
        ('["clock", "alarms", "volume"]', '["clock", "clock", "volume"]', "clock", "needs one clock"),
        ("class_id = 3", "class_id = 3\nscaler = -3", "scaler", "both or not at all"),
        ('name = "dlms-prepaid-v1"', 'name = "another"', "name", "the file must be called by it"),
        ("max_days = 31", "max_days = 3100", "max_days", "load_profile.max_days"),
    ],
)
def test_a_mistake_in_a_profile_is_named_with_its_line(old: str, new: str, line: str, why: str) -> None:
    text = (FOLDER / "dlms-prepaid-v1.toml").read_text()
    wrong = text.replace(old, new, 1)
    assert wrong != text
    with pytest.raises(SettingsError) as raised:
        read_profile(wrong, "dlms-prepaid-v1.toml")
    lines = wrong.splitlines()
    message = next(one for one in raised.value.lines if why in one)
    number = int(message.split(":")[1])
    assert line in lines[number - 1]


def test_what_is_no_toml_is_told_too() -> None:
    with pytest.raises(SettingsError, match="line 2"):
        read_profile("name = 1\nname = ]", "x.toml")
