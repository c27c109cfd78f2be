"""Tariff files: what is wrong is said with its line; what is right is taken to the last digit."""

import re
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from standpipe.tariffs.files import TariffFile, TariffFileError, read_tariff, to_terms
from standpipe.tariffs.terms import Proration
from tests.support.tariff_file import BLOCKS, GOOD


def mistakes(text: str) -> list[str]:
    with pytest.raises(TariffFileError) as caught:
        read_tariff(text, "t.yaml")
    return list(caught.value.lines)


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def with_price(price: str) -> str:
    return changed("130.00", price)


def test_a_good_file() -> None:
    file = read_tariff(GOOD, "t.yaml")
    assert (file.tariff, file.customer_class, file.effective_from) == ("domestic", "domestic", date(2027, 1, 1))
    terms = to_terms(file)
    assert [block.price_minor_per_kl for block in terms.seasons[0].table.blocks] == [5000, 9500, 13000]
    assert [block.up_to_ml for block in terms.seasons[0].table.blocks] == [6_000_000, 20_000_000, None]
    assert terms.standing[0].amount_minor == 15000
    assert terms.proration is Proration.DAYS


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (changed("currency: KES\n", ""), 1, "currency: this is missing"),
        (changed("price: 95.00", "prise: 95.00"), 7, "blocks.2.prise: there is no such field"),
        (changed("price: 95.00", "prise: 95.00"), 7, "blocks.2.price: this is missing"),
        (changed("KES", "KSH"), 3, "ISO 4217"),
        (changed("KES", "kes"), 3, "ISO 4217"),
        (changed("tariff: domestic", "tariff: Domestic"), 1, "a code is small letters"),
        (changed("code: rent", "code: water"), 11, "this code is taken"),
        (changed("code: vat", "code: rent"), 13, "this code is taken"),
        (changed("code: vat", "code: utility"), 13, "this code is taken"),
        (changed("2027-01-01", "9999-12-31"), 4, "effective-from: a day lies before the year 2200"),
        (changed("of: [rent]", "of: [rents]"), 16, "rents: no such code before this line"),
        (changed("of: [rent]", "blocks: [4]"), 16, "blocks are numbered from 1 to 3"),
        (changed("of: [rent]", "of: rent"), 16, "a list is needed here"),
        (changed("of: [rent]", "of: []"), 16, "an empty list says nothing"),
        (changed("[lifeline]", "[]"), 9, "an empty list says nothing"),
        (changed("    percent: 16\n", ""), 13, "give either percent or per-kl"),
        (changed("percent: 16", "percent: 16\n    per-kl: 5"), 13, "give either percent or per-kl"),
        (changed("percent: 16", "per-kl: 16"), 16, "of goes with percent"),
        (changed("percent: 16", "percent: 0"), 15, "this must be more than 0"),
        (changed("percent: 16", "percent: 1001"), 15, "this must not be above 1000"),
        (changed("per: month", "per: week"), 11, "one of these is needed here: 'day' or 'month'"),
        (changed("amount: 150", "amount: [150]"), 11, "a number is needed here"),
        (changed("up-to-kl: 20", "up-to-kl: 6"), 7, "blocks must rise"),
        (changed("up-to-kl: 20", "up-to-kl: 5.9"), 7, "blocks must rise"),
        (changed("up-to-kl: 20", "up-to-kl: 6.0000005"), 7, "six digits after it at most"),
        (changed("up-to-kl: 20, ", ""), 7, "only the last block is open-ended"),
        (changed("{price: 130.00}", "{up-to-kl: 30, price: 130.00}"), 8, "the last block is open-ended"),
        (changed("2027-01-01", "2027-02-30"), 4, "effective-from: the calendar has no such day"),
        (changed("name: Domestic", 'name: "Dom\u202eestic"'), 2, "name: a name is one line of visible letters"),
        (changed("2027-01-01", "01/02/2027"), 4, "a day is written as year-month-day"),
        (changed("2027-01-01", "20270101"), 4, "a day is written as year-month-day"),
        (changed("2027-01-01", "86400"), 4, "a day is written as year-month-day"),
        (changed("2027-01-01", "2027-01-01T00:00:00"), 4, "a day is written as year-month-day"),
        (changed("allowance: {kl: 2,", "allowance: {kl: 2, per-household: maybe,"), 9, "yes or no is needed here"),
        (changed("allowance: {kl: 2, for: [lifeline]}", "allowance: 2"), 9, "fields are needed here"),
        (changed("name: Domestic", "name: ''"), 2, "this is empty"),
        (changed("name: Domestic", f"name: {'x' * 121}"), 2, "at most 120 characters"),
        (changed("name: Domestic", 'name: "a\\0b"'), 2, "a character that no text has"),
        (changed("name: Domestic", 'name: "\\ud800"'), 2, "a character that no text has"),
        (changed("name: Domestic", 'name: "\\UFFFFFFFF"'), 2, "a character that no text has"),
        (changed("name: Domestic", "name: a\0b"), 2, "a character that no text has"),
        (changed("name: Domestic", "name: !!str x"), 2, "tags (!) are not taken"),
        (changed("name: Domestic", "name:"), 2, "a text is needed here"),
        (changed("name: Domestic", "tariff: other"), 2, "tariff stands here twice"),
        (changed("{price: 130.00}", "{price: 130.00, price: 131.00}"), 8, "price stands here twice"),
        (changed("name: Domestic", "[a, b]: Domestic"), 2, "the name of a field is a plain word"),
        (changed("name: Domestic", "name: Domestic\nunit-litres: 0.0001"), 3, "at most millilitres"),
        (changed("blocks:\n", "blocks:\n\t- {price: 1}\n"), 6, "'\\t'"),
        (changed("name: Domestic", "name: Domestic: x"), 2, "mapping values are not allowed here"),
        (changed("[lifeline]}", "[lifeline}"), 9, "expected ',' or ']'"),
        (GOOD + "---\ntariff: other\n", 17, "one file holds one tariff"),
        ("", 1, "the file is empty"),
        ("\n# Nothing.\n", 1, "the file is empty"),
        ("\n\n- tariff\n", 3, "a tariff is a list of `name: value` lines"),
        ("domestic", 1, "a tariff is a list of `name: value` lines"),
        ("[" * 100_000, 1, "a tariff is a list of `name: value` lines"),
        (GOOD + "x: " + "[" * 100_000, 17, "this is nested too deeply"),
        (GOOD + "x: " + "{a: " * 50_000, 17, "this is nested too deeply"),
        (GOOD + "#" * 300_000, 1, "at most 256 kB"),
    ],
)
def test_a_mistake_is_said_with_its_line(text: str, line: int, says: str) -> None:
    found = mistakes(text)
    assert all(re.match(r"t\.yaml:[1-9][0-9]*: .", item) for item in found)
    assert [item for item in found if item.startswith(f"t.yaml:{line}: ") and says in item], found


def test_every_mistake_is_said_at_once() -> None:
    text = changed("KES", "KSH").replace("130.00", "-1").replace("per: month", "per: week")
    assert [int(item.split(":")[1]) for item in mistakes(text)] == [3, 8, 11]


@pytest.mark.parametrize(
    "price",
    [
        *("1e3", "1E3", "1.0e+2", ".nan", "NaN", ".inf", "-.inf", "Infinity", "true", "yes", "2027-01-01", "0x10"),
        *("0o17", "1_000", '"1,000"', "12:30", "١٢", "1.", ".5", "+5", "KES 5", "1" * 14, "0." + "1" * 7, "1" * 5_000),
    ],
)
def test_what_is_no_plain_number_is_no_price(price: str) -> None:
    (only,) = mistakes(with_price(price))
    assert only.startswith("t.yaml:8: blocks.3.price: a number is written with digits and a point")


def test_a_price_is_not_below_zero_nor_nothing() -> None:
    assert mistakes(with_price("-0.01")) == ["t.yaml:8: blocks.3.price: this must not be below 0"]
    assert mistakes(with_price("")) == ["t.yaml:8: blocks.3.price: a number is needed here"]
    assert mistakes(with_price("1,000")) == ["t.yaml:8: blocks.3.000: there is no such field"]


@pytest.mark.parametrize("price", ["0.1", "0.3", "1.005", "0.000001", "0.700000", "999999999999.999999", "0"])
def test_a_number_never_passes_through_a_float(price: str) -> None:
    file = read_tariff(with_price(price), "t.yaml")
    assert str(file.blocks[-1].price) == price
    assert to_terms(file).seasons[0].table.blocks[-1].price_minor_per_kl == Decimal(price) * 100


@pytest.mark.parametrize(("currency", "minor"), [("UGX", "12.5"), ("KES", "1250"), ("KWD", "12500")])
def test_minor_units_are_the_currencys_own(currency: str, minor: str) -> None:
    file = read_tariff(with_price("12.5").replace("KES", currency), "t.yaml")
    assert to_terms(file).seasons[0].table.blocks[-1].price_minor_per_kl == Decimal(minor)


def test_an_alias_is_refused_where_it_stands() -> None:
    text = changed("  - {up-to-kl: 6, price: 50.00}", "  - &a {up-to-kl: 6, price: 50.00}\n  - *a")
    assert mistakes(text) == ["t.yaml:7: write it out; aliases (*) are not taken"]
    assert mistakes(changed("name: Domestic", "<<: *a")) == ["t.yaml:2: write it out; aliases (*) are not taken"]


def test_a_billion_laughs_are_not_even_begun() -> None:
    rows = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert mistakes("\n".join(rows)) == ["t.yaml:2: write it out; aliases (*) are not taken"]
    # In the name of a field, which used to be printed in full.
    bombs = ", ".join(["&b0 [x]", *(f"&b{n} [{', '.join([f'*b{n - 1}'] * 9)}]" for n in range(1, 10))])
    assert mistakes(f"? [{bombs}]\n: 1\n") == ["t.yaml:1: the name of a field is a plain word"]


def test_a_name_that_is_no_name_stays_on_one_line_of_the_message() -> None:
    (only,) = mistakes(GOOD + f'"a\\n\\e[31m{"b" * 500}": 1\n')
    assert only == f"t.yaml:17: a\ufffd\ufffd[31m{'b' * 53}…: there is no such field"


SEASONS = """\
seasons:
  - {name: wet, from: 11-01, blocks: [{price: 1}]}
  - {name: dry, from: 06-01, blocks: [{up-to-kl: 5, price: 1}, {price: 2}]}
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("from: 06-01", "from: 11-01", "t.yaml:7: another season begins on this day"),
        ("from: 06-01", "from: 02-29", "t.yaml:7: seasons.2.from: a season begins on a day that every year has"),
        ("from: 06-01", "from: 13-01", "t.yaml:7: seasons.2.from: "),
        ("from: 06-01", "from: June", "t.yaml:7: seasons.2.from: a season begins on a day of the year"),
        ("[{price: 1}]", "[]", "t.yaml:6: there must be a block"),
        ("name: wet, ", "", "t.yaml:6: seasons.1.name: this is missing"),
        ("up-to-kl: 5, ", "", "t.yaml:7: only the last block is open-ended"),
    ],
)
def test_mistakes_in_seasons(old: str, new: str, says: str) -> None:
    good = changed(BLOCKS, SEASONS)
    assert [season.name for season in to_terms(read_tariff(good, "t.yaml")).seasons] == ["dry", "wet"]
    assert good.count(old) == 1
    assert [item for item in mistakes(good.replace(old, new)) if item.startswith(says)]


def test_blocks_and_seasons_are_one_or_the_other() -> None:
    assert mistakes(GOOD + SEASONS) == ["t.yaml:5: give either blocks or seasons"]
    assert "t.yaml:1: give either blocks or seasons" in mistakes(changed(BLOCKS, ""))


@pytest.mark.parametrize("kind", ["levies", "discounts"])
def test_what_names_blocks_needs_them_in_every_season(kind: str) -> None:
    entry = "{code: x, name: X, percent: 1, blocks: [2]}"
    text = changed(BLOCKS, SEASONS).replace(
        "levies:\n", f"{kind}:\n  - {entry}\n{'levies:' if kind != 'levies' else ''}\n"
    )
    assert mistakes(text) == ["t.yaml:5: levies that name blocks need seasons with the same number of blocks"]


def discounts(*entries: str) -> str:
    return GOOD + "discounts:\n" + "".join(f"  - {{{entry}}}\n" for entry in entries)


@pytest.mark.parametrize(
    "entries",
    [
        ("code: a, name: A, per-kl: 50.01",),
        ("code: a, name: A, percent: 60, for: [x]", "code: b, name: B, percent: 41, for: [y]"),
        ("code: a, name: A, percent: 101, of: [rent], for: [x]",),
        # A mix that no six of the groups show.
        (
            *(f"code: c{n}, name: C, percent: 1, for: [g{n}]" for n in range(6)),
            *("code: a, name: A, percent: 60, for: [y]", "code: b, name: B, percent: 41, for: [z]"),
        ),
    ],
)
def test_nobody_is_paid_for_using_water(entries: tuple[str, ...]) -> None:
    assert mistakes(discounts(*entries)) == [
        "t.yaml:17: discounts come to more than the price, or than what a levy is of"
    ]


def test_nobody_is_paid_for_a_charge_that_only_others_have() -> None:
    text = (
        changed("per: month}", "per: month, for: [shops]}")
        + "discounts:\n  - {code: a, name: A, percent: 101, of: [rent]}\n"
    )
    assert mistakes(text) == ["t.yaml:17: discounts come to more than the price, or than what a levy is of"]


def test_no_levy_is_below_zero_because_it_is_of_a_discount_alone() -> None:
    text = changed("of: [rent]", "of: [a]") + "discounts:\n  - {code: a, name: A, percent: 5}\n"
    assert mistakes(text) == ["t.yaml:17: discounts come to more than the price, or than what a levy is of"]
    read_tariff(text.replace("of: [a]", "of: [water, a]"), "t.yaml")


def test_discounts_may_take_all_of_a_price() -> None:
    read_tariff(discounts("code: a, name: A, percent: 100, of: [water, rent], for: [x]"), "t.yaml")


def test_more_groups_than_can_be_tried_are_refused() -> None:
    text = discounts(*(f"code: c{n}, name: C, percent: 1, for: [g{n}]" for n in range(9)))
    assert mistakes(text) == ["t.yaml:17: a tariff names at most 8 groups"]


def test_levies_upon_levies_stay_exact_or_are_refused() -> None:
    def tower(height: int, percent: str) -> str:
        rows = [
            f"  - {{code: l{n}, name: L, percent: {percent}, of: [{'water' if n == 0 else f'l{n - 1}'}]}}\n"
            for n in range(height)
        ]
        return GOOD + "".join(rows)

    read_tariff(tower(3, "7.123456"), "t.yaml")
    for text in (tower(4, "7.123456"), tower(15, "1000")):
        assert mistakes(text) == ["t.yaml:12: levies upon levies make a price too large, or of too many digits"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            changed("of: [rent]", "for: [" + ", ".join("abcdefghijklmnopqrstu") + "]"),
            "t.yaml:16: levies.1.for: at most 20",
        ),
        (
            GOOD + "".join(f"  - {{code: l{n}, name: L, percent: 1}}\n" for n in range(20)),
            "t.yaml:12: levies: at most 20",
        ),
        (changed(BLOCKS, "blocks:\n" + "  - {price: 1}\n" * 51), "t.yaml:5: blocks: at most 50"),
    ],
)
def test_a_price_list_is_not_endless(text: str, says: str) -> None:
    assert [item for item in mistakes(text) if item.startswith(says)]


# The page for who writes tariffs shows what is so.

PAGE = re.findall(r"(?s)```[a-z]+\n(.*?)```", (Path(__file__).parents[2] / "docs" / "tariffs.md").read_text("utf-8"))


def test_the_pages_example_says_all_that_a_tariff_can_say() -> None:
    file = read_tariff(PAGE[0], "domestic.yaml")
    said = {name for name in TariffFile.model_fields if name in file.model_fields_set}
    assert set(TariffFile.model_fields) - said == {"basis", "seasons", "unit_litres"}


def test_the_pages_mistakes_are_what_is_said() -> None:
    wrong = [number for number, block in enumerate(PAGE) if block.startswith("tariff:")]
    assert len(wrong) == 2
    for number in wrong:
        assert "\n".join(lines_of_named(PAGE[number])) == PAGE[number + 1].strip()
    mended = PAGE[wrong[1]].replace("up-to-kl: 20, ", "").replace("  - {up-to-kl: 6, price: 95.00}\n", "")
    mended = mended.replace("of: [meter-rent]", "of: [water]").replace("blocks:\n", "blocks:\n\n")
    assert "\n".join(lines_of_named(mended)) == PAGE[-1].strip()


def lines_of_named(text: str) -> list[str]:
    with pytest.raises(TariffFileError) as caught:
        read_tariff(text, "domestic.yaml")
    return list(caught.value.lines)
