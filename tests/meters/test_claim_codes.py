"""Claim codes as people type them."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standpipe.meters.claim_codes import code_of, hash_code, new_code, read_code, show_code
from standpipe.platform.errors import InvalidInputError

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CODES = st.integers(0, 2**80 - 1).map(code_of)


@given(CODES, st.integers(0, 16), st.sampled_from(ALPHABET))
def test_one_wrong_character_is_always_seen(code: str, at: int, other: str) -> None:
    mistyped = code[:at] + other + code[at + 1 :]
    if mistyped == code:
        assert read_code(mistyped) == code
    else:
        with pytest.raises(InvalidInputError, match="mistyped"):
            read_code(mistyped)


@given(CODES, st.integers(0, 16), st.integers(0, 16))
def test_two_that_changed_places_are_always_seen(code: str, first: int, second: int) -> None:
    letters = list(code)
    letters[first], letters[second] = letters[second], letters[first]
    swapped = "".join(letters)
    if swapped == code:
        assert read_code(swapped) == code
    else:
        with pytest.raises(InvalidInputError, match="mistyped"):
            read_code(swapped)


@given(CODES)
def test_a_code_is_read_as_people_write_it(code: str) -> None:
    shown = show_code(code)
    assert [len(part) for part in shown.split("-")] == [4, 4, 4, 4, 1]
    for typed in (shown, shown.lower(), code, shown.replace("-", " "), shown.replace("0", "O").replace("1", "l")):
        assert read_code(typed) == code
    assert code not in hash_code(code)


@given(st.text(max_size=200) | st.text(ALPHABET + "-", min_size=15, max_size=22))
def test_any_text_is_a_code_or_a_clear_error(text: str) -> None:
    with suppress(InvalidInputError):
        assert len(read_code(text)) == 17


def test_codes_hold_80_bits() -> None:
    made = {new_code() for _ in range(2_000)}
    assert len(made) == 2_000
    # Every place takes every one of the 32 values.
    assert all(len({code[place] for code in made}) == 32 for place in range(16))
