"""Any text whatever is a tariff, or is told what is wrong with it and where."""

import json
import re
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from standpipe.tariffs.files import TariffFile, TariffFileError, read_tariff, terms_of, to_terms
from tests.support.tariff_file import BLOCKS, GOOD

scraps = st.sampled_from(
    [
        *("tariff: a\n", "name: A\n", "currency: KES\n", "effective-from: 2027-01-01\n", "blocks:\n", "- {price: 1}\n"),
        *("  - {price: 1}\n", "  - {up-to-kl: 6, price: 2}\n", "levies:\n", "discounts:\n", "seasons:\n"),
        *("standing-charges:\n", "  - {code: x, name: X, percent: 3}\n", "allowance: {kl: 1}\n", "allowance: 2\n"),
        *("  - {code: y, name: Y, per-kl: 3, for: [a]}\n", "  - {code: z, name: Z, amount: 1, per: day}\n"),
        *(
            "&a ",
            "*a",
            "? ",
            ": ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            "\t",
            "|\n",
            "!!x ",
            "'",
            '"',
            "\\U",
            "%YAML 9\n",
            "---\n",
        ),
        *("...\n", "\0", "\ufeff", "\ud800", "null", "1e9", ".inf", "<<: ", "\u2028"),
    ]
)
texts = st.one_of(st.text(), st.lists(st.one_of(scraps, st.text(max_size=3)), max_size=30).map("".join))
numbers = st.decimals(0, 10**12, places=6, allow_nan=False, allow_infinity=False)


def lines_of(text: str) -> list[str]:
    """What is said against a text; nothing where it is a tariff. Whatever else is raised fails the test."""
    try:
        assert isinstance(read_tariff(text, "t.yaml"), TariffFile)
    except TariffFileError as error:
        return list(error.lines) or ["nothing is said"]
    return []


@given(texts)
def test_any_text_is_a_tariff_or_says_what_is_wrong_and_where(text: str) -> None:
    assert all(re.fullmatch(r"t\.yaml:[1-9][0-9]*: .+", line) for line in lines_of(text))


@given(st.text(), st.integers(0, len(GOOD)), st.integers(0, 40))
def test_a_good_file_with_a_scratch_is_one_or_the_other(scratch: str, at: int, gone: int) -> None:
    text = GOOD[:at] + scratch + GOOD[at + gone :]
    last = len(re.findall("\r\n|[\n\r\x85\u2028\u2029]", text)) + 1
    assert all(1 <= int(line.split(":")[1]) <= last for line in lines_of(text))


values = st.recursive(
    st.sampled_from(["1", "-1", "x", "water", "yes", "06-01", "2027-01-01", "null", "''", "day"]) | numbers.map(str),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(
            st.sampled_from(
                ["code", "name", "price", "up-to-kl", "percent", "per-kl", "of", "for", "kl", "blocks", "from"]
            ),
            inner,
            max_size=4,
        ).map(lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"),
    ),
    max_leaves=8,
)


@given(st.sampled_from(sorted(field.alias or name for name, field in TariffFile.model_fields.items())), values)
def test_any_value_in_any_field_is_taken_or_told_off(field: str, value: str) -> None:
    kept = "".join(part for part in re.split(r"(?m)^(?=\S)", GOOD) if not part.startswith(f"{field}:"))
    assert all(re.fullmatch(r"t\.yaml:[1-9][0-9]*: .+", line) for line in lines_of(f"{kept}{field}: {value}\n"))


@given(numbers, numbers, st.integers(1, 999_999))
def test_what_is_stored_of_a_file_is_read_again_as_it_was(first: Decimal, second: Decimal, edge: int) -> None:
    blocks = f"blocks:\n  - {{up-to-kl: {Decimal(edge) / 1000}, price: {first:f}}}\n  - {{price: {second:f}}}\n"
    file = read_tariff(GOOD.replace(BLOCKS, blocks), "t.yaml")
    stored = json.loads(json.dumps(file.model_dump(mode="json", by_alias=True)))
    again = terms_of(stored)
    assert TariffFile.model_validate(stored) == file
    assert again.seasons == to_terms(file).seasons
    assert again.seasons[0].table.blocks[0].price_minor_per_kl == first * 100
    assert again.seasons[0].table.blocks[0].up_to_ml == edge * 1000
