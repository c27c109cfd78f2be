"""STS tokens against public vectors: RFC 2994's, and the STS Association's tests STS 531-1 for DKGA04 with EA11."""

import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standpipe.platform.errors import InvalidInputError
from standpipe.sts.amounts import MAX_UNITS, from_field, to_field, units_of
from standpipe.sts.keypad import MEMORY, Keypad, Typed
from standpipe.sts.keys import DecoderKey, KeyTerms, derive, pan_of, tid_at
from standpipe.sts.misty1 import Misty1
from standpipe.sts.tokens import Credit, Token, TokenError, clear_credit, clear_tamper, credit, key_change

VENDING_KEY = bytes.fromhex("abababababababab949494949494949401234567")
PAN, OTHER_PAN = "600727000000000009", "000001000000000082"
TERMS = KeyTerms(pan=PAN, supply_group="123457", base_year=1993)
KEY = derive(VENDING_KEY, TERMS)


def key_of(pan: str = PAN, revision: int = 1, base_year: int = 1993, tariff: str = "01") -> DecoderKey:
    terms = replace(TERMS, pan=pan, key_revision=revision, base_year=base_year, tariff_index=tariff)
    return derive(VENDING_KEY, terms)


def tid(text: str, base_year: int = 1993) -> int:
    return tid_at(datetime.fromisoformat(text).replace(tzinfo=UTC), base_year)


@pytest.mark.parametrize(
    ("plain", "cipher"), [("0123456789abcdef", "8b1da5f56ab3d07c"), ("fedcba9876543210", "04b68240b13be95d")]
)
def test_misty1_makes_the_vectors_of_rfc_2994(plain: str, cipher: str) -> None:
    misty1 = Misty1(bytes.fromhex("00112233445566778899aabbccddeeff"))
    assert misty1.encrypt(int(plain, 16)) == int(cipher, 16)
    assert misty1.decrypt(int(cipher, 16)) == int(plain, 16)


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1))
def test_what_misty1_enciphers_it_deciphers(key: bytes, block: int) -> None:
    misty1 = Misty1(key)
    assert misty1.decrypt(misty1.encrypt(block)) == block


@pytest.mark.parametrize(
    ("kind", "pan", "revision", "base_year", "at", "digits"),
    [
        (Credit.WATER, PAN, 1, 1993, "2004-03-01T13:05", "47186281207955155808"),
        (Credit.WATER, OTHER_PAN, 1, 1993, "2004-03-01T13:25", "41136669315054818626"),
        (Credit.WATER, PAN, 4, 2014, "2014-01-01T08:05", "03477912490596695895"),
        (Credit.WATER, PAN, 5, 2035, "2035-01-01T08:05", "19640099949346431996"),
        (Credit.ELECTRICITY, PAN, 1, 1993, "2004-03-01T13:00", "59386323472137426967"),
        (Credit.GAS, PAN, 1, 1993, "2004-03-01T13:10", "52059556253782091701"),
        (Credit.GAS, PAN, 4, 2014, "2014-01-01T08:10", "06094571069413075467"),
    ],
)
def test_credit_tokens_of_sts_531_ctsa01(
    kind: Credit, pan: str, revision: int, base_year: int, at: str, digits: str
) -> None:
    key = key_of(pan, revision, base_year)
    token = credit(kind, tid=tid(at, base_year), rnd=5, amount_field=to_field(1))
    assert token.to_digits(key) == digits
    assert Token.from_digits(digits, key) == token


@pytest.mark.parametrize(
    ("at", "tenths", "digits"),
    [
        ("00:30", 256, "08844040967758161989"), ("00:35", 16_383, "41707569065487034639"),
        ("00:40", 16_384, "61826851589850099670"), ("00:45", 20_000, "72478269627942954182"),
        ("00:50", 180_223, "12311110365531155223"), ("00:55", 180_224, "68979561791500831417"),
        ("01:44", 1_818_623, "36130214068866912790"), ("01:49", 1_818_624, "49560207524955523897"),
        ("01:54", 18_201_624, "47575512827888817714"),
    ],
)  # fmt: skip
def test_amounts_of_sts_531_ctsa10(at: str, tenths: int, digits: str) -> None:
    token = credit(Credit.WATER, tid=tid(f"2004-04-01T{at}"), rnd=5, amount_field=to_field(tenths))
    assert token.to_digits(KEY) == digits


def test_management_tokens_of_sts_531_ctsa04_and_06() -> None:
    clear = clear_credit(tid=tid("2004-03-28T09:15"), rnd=5)
    assert clear.to_digits(KEY) == "59725289138639529749"
    assert clear_tamper(tid=tid("2004-03-28T10:00"), rnd=5).to_digits(KEY) == "02455019196514047304"


def test_key_change_tokens_of_sts_531_ctsa05() -> None:
    new = key_of(tariff="02")
    assert [token.to_digits(KEY) for token in key_change(new)] == [
        "34812744915211133004", "46903925208523674737", "71464563847088610152", "67904239402617643990",
    ]  # fmt: skip
    rolled = key_change(key_of(revision=4, base_year=2014, tariff="02"), rollover=True)
    assert [token.to_digits(KEY) for token in rolled[:2]] == ["56493341861242437581", "51757380361191578258"]


@given(st.integers(1, MAX_UNITS))
def test_an_amount_is_exact_to_1638_m3_and_never_rounded_down(units: int) -> None:
    said = from_field(to_field(units))
    assert said >= units
    if units <= 16_383:
        assert said == units
    assert to_field(said) == to_field(units)
    assert said == units or from_field(to_field(units) - 1) < units


@pytest.mark.parametrize("units", [0, -1, MAX_UNITS + 1])
def test_an_amount_beyond_a_token_is_refused(units: int) -> None:
    with pytest.raises(InvalidInputError):
        to_field(units)


def test_a_volume_must_be_whole_tenths_of_a_cubic_metre() -> None:
    assert units_of(1_200_000) == 12
    with pytest.raises(InvalidInputError):
        units_of(1_250_000)


@given(st.integers(0, 15), st.integers(0, 2**24 - 1), st.integers(0, 2**16 - 1))
def test_what_is_written_is_read_and_another_meter_cannot(rnd: int, minute: int, field: int) -> None:
    token = credit(Credit.WATER, tid=minute, rnd=rnd, amount_field=field)
    digits = token.to_digits(KEY)
    assert len(digits) == 20
    assert Token.from_digits(digits, KEY) == token
    assert (token.rnd, token.tid, token.field) == (rnd, minute, field)
    assert Keypad(key_of(OTHER_PAN)).enter(digits) in {Typed.REJECTED, Typed.UNSUPPORTED}


@pytest.mark.parametrize("digits", ["", "1" * 19, "1" * 21, "9" * 20, "4718628120795515580x", "４" * 20])
def test_digits_that_are_no_token_are_rejected(digits: str) -> None:
    with pytest.raises(TokenError):
        Token.from_digits(digits, KEY)
    assert Keypad(KEY).enter(digits) is Typed.REJECTED


def test_slips_of_the_finger_do_not_become_water() -> None:
    digits, chance, pad = "47186281207955155808", random.Random(7), Keypad(KEY)
    for _ in range(300):
        place = chance.randrange(20)
        slip = digits[:place] + str((int(digits[place]) + chance.randrange(1, 10)) % 10) + digits[place + 1 :]
        assert pad.enter(slip) is Typed.REJECTED
    assert pad.units == 0


def test_a_token_counts_once_in_whatever_order_and_an_old_one_never() -> None:
    pad = Keypad(KEY)
    tokens = [credit(Credit.WATER, tid=1000 + n, rnd=n % 16, amount_field=3).to_digits(KEY) for n in range(MEMORY + 1)]
    order = tokens[1:]
    random.Random(3).shuffle(order)
    for digits in order:
        assert pad.enter(f"{digits[:4]} {digits[4:8]}-{digits[8:]}") is Typed.ACCEPTED
        assert pad.enter(digits) is Typed.USED
    assert pad.units == 3 * MEMORY
    assert pad.enter(tokens[0]) is Typed.OLD
    assert pad.units == 3 * MEMORY


def test_an_expired_key_takes_nothing_more() -> None:
    expiring = derive(VENDING_KEY, replace(TERMS, key_expiry=90))
    pad = Keypad(expiring)
    last, late = ((91 << 16) - 1), 91 << 16
    assert pad.enter(credit(Credit.WATER, tid=last, rnd=1, amount_field=1).to_digits(expiring)) is Typed.ACCEPTED
    assert pad.enter(credit(Credit.WATER, tid=late, rnd=1, amount_field=1).to_digits(expiring)) is Typed.KEY_EXPIRED


def test_management_tokens_do_what_they_say_once() -> None:
    pad = Keypad(KEY, units=40, tampered=True)
    tamper, clear = clear_tamper(tid=5, rnd=1).to_digits(KEY), clear_credit(tid=6, rnd=1).to_digits(KEY)
    assert pad.enter(tamper) is Typed.ACCEPTED
    assert (pad.tampered, pad.units) == (False, 40)
    assert (pad.enter(clear), pad.enter(clear), pad.units) == (Typed.ACCEPTED, Typed.USED, 0)
    other = credit(Credit.GAS, tid=7, rnd=1, amount_field=1).to_digits(KEY)
    assert pad.enter(other) is Typed.UNSUPPORTED


@given(st.permutations(range(4)), st.booleans())
def test_a_key_changes_with_its_last_section_in_any_order(order: list[int], rollover: bool) -> None:
    pad = Keypad(KEY, tids=[77])
    new = key_of(revision=4, base_year=2014 if rollover else 1993, tariff="02")
    sections = [token.to_digits(KEY) for token in key_change(new, rollover=rollover)]
    for place in order[:3]:
        assert pad.enter(sections[place]) is Typed.KEY_SECTION
        assert pad.key == KEY
    assert pad.enter(sections[order[3]]) is Typed.KEY_CHANGED
    assert pad.key == new
    assert pad.tids == ([] if rollover else [77])
    # What was issued under the old key is another meter's now.
    assert pad.enter(credit(Credit.WATER, tid=9, rnd=1, amount_field=1).to_digits(KEY)) is Typed.REJECTED
    assert pad.enter(credit(Credit.WATER, tid=9, rnd=1, amount_field=1).to_digits(new)) is Typed.ACCEPTED


def test_terms_that_the_standard_does_not_know_are_refused() -> None:
    assert pan_of("600727", "0") == PAN
    assert pan_of("1", "8") == OTHER_PAN
    for wrong in (
        {"pan": "600727000000000008"}, {"pan": "1"}, {"supply_group": "12345x"}, {"tariff_index": "1"},
        {"base_year": 2000}, {"key_revision": 10}, {"key_type": 4}, {"key_expiry": 256},
    ):  # fmt: skip
        with pytest.raises(InvalidInputError):
            replace(TERMS, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError):
        derive(VENDING_KEY[:16], TERMS)
    with pytest.raises(ValueError, match="16 bytes"):
        Misty1(VENDING_KEY)


def test_tids_run_out_when_the_standard_says() -> None:
    assert tid("1993-01-01T00:00") == 0
    assert tid("2024-11-24T20:15") == 2**24 - 1
    for at in ("2024-11-24T20:16", "1992-12-31T23:59"):
        with pytest.raises(InvalidInputError):
            tid(at)
