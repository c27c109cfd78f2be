"""The library's real tariffs give the figures that their publishers, or their published tables, give.

Each expected figure is either printed in a source (named beside it) or worked out here from the published table, by
multiplying and adding, never with the engine. The edge of a block belongs to the lower block.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from importlib.resources import files

import pytest

from standpipe.platform.units import ML_PER_KILOLITRE, currency_exponent, period_of, to_minor
from standpipe.tariffs.files import TariffFile, read_tariff, to_terms
from standpipe.tariffs.periods import Priced, Segment, Supply, price_standing, price_use, segments_of
from tests.support.tariffs import version

D = Decimal
LIBRARY = files("standpipe.tariffs") / "library"
CODES = sorted(path.name.removesuffix(".yaml") for path in LIBRARY.iterdir())


def published(code: str) -> TariffFile:
    return read_tariff((LIBRARY / f"{code}.yaml").read_text("utf-8"), f"{code}.yaml")


def month_of(code: str, month: date, groups: Sequence[str] = ()) -> tuple[Segment, ...]:
    file = published(code)
    supply = Supply(date(2000, 1, 1), "trf", groups=frozenset(groups))
    return segments_of(month, [supply], {"trf": [version(to_terms(file), file.effective_from)]})


def water(code: str, month: date, kl: str, groups: Sequence[str] = ()) -> Priced:
    """A month's water and what comes upon it."""
    segments = month_of(code, month, groups)
    assert len(segments) == 1
    return price_use(segments, [int(D(kl) * ML_PER_KILOLITRE)])


def standing(code: str, month: date, groups: Sequence[str] = ()) -> Priced:
    """A month's standing charges, at its end."""
    return price_standing(month_of(code, month, groups), period_of(month)[1] - timedelta(days=1))


def minor(code: str, amount: str | D) -> int:
    """An amount of a bill in the tariff's minor units, half up."""
    exponent = D(1).scaleb(-currency_exponent(published(code).currency))
    return to_minor(D(amount).quantize(exponent, "ROUND_HALF_UP"), published(code).currency)


def test_there_are_five_of_as_many_countries() -> None:
    assert CODES == ["cape-town", "castelo-branco", "essbio-cachapoal", "nairobi", "singapore"]
    assert len({published(code).currency for code in CODES}) == 5


@pytest.mark.parametrize("code", CODES)
def test_each_is_valid_and_says_where_its_figures_are_from(code: str) -> None:
    file = published(code)
    assert file.tariff == code
    assert "http" in file.source
    assert to_terms(file).seasons


MARCH = date(2024, 3, 1)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        ("0", "0"),
        ("3", D(3) * 45),
        ("6", D(6) * 45),
        ("7", D(6) * 45 + D(1) * 67),
        ("10", "538"),  # Printed: "10,000 litres … Sh538 previously", allafrica.com/stories/202603030025.html.
        ("20", D(6) * 45 + D(14) * 67),
        ("50", D(6) * 45 + D(14) * 67 + D(30) * 70),
        ("100", D(6) * 45 + D(14) * 67 + D(30) * 70 + D(50) * 76),
        ("300", D(6) * 45 + D(14) * 67 + D(30) * 70 + D(50) * 76 + D(200) * 78),
        ("301.5", D(6) * 45 + D(14) * 67 + D(30) * 70 + D(50) * 76 + D(200) * 78 + D("1.5") * 80),
    ],
)
def test_nairobi(kl: str, expected: str | D) -> None:
    assert water("nairobi", MARCH, kl).total_minor == minor("nairobi", expected)


SINGAPORE_LOW = D("1.21") + D("1.21") * 50 / 100 + D("0.92")
SINGAPORE_HIGH = D("1.52") + D("1.52") * 65 / 100 + D("1.18")


def test_singapores_parts_come_to_the_published_price_per_cubic_metre() -> None:
    """Printed, before tax: S$2.74 up to 40 m³, S$3.69 above (channelnewsasia.com, 27 September 2023)."""
    assert minor("singapore", SINGAPORE_LOW) == 274
    assert minor("singapore", SINGAPORE_HIGH) == 369
    accounts = water("singapore", MARCH, "1").accounts
    assert sum(amount for code, amount in accounts.items() if code != "gst") == 274


def test_singapores_worked_bill() -> None:
    """14.5 m³: 17.55 water, 8.77 tax, 13.34 fee; 39.66 before GST (limkimtong.wordpress.com, 25 February 2017).

    The page rounds line by line and comes to 42.44 with GST; 39.6575 × 1.07 is 42.43.
    """
    bill = water("singapore", MARCH, "14.5")
    assert bill.total_minor == minor("singapore", (D("17.545") + D("8.7725") + D("13.34")) * D("1.07")) == 4243
    assert [(line.code, line.amount_minor) for line in bill.lines] == [
        ("water", 1755),
        ("conservation-1", 877),
        ("waterborne-1", 1334),
        ("gst", 277),
    ]
    assert sum(line.amount_minor for line in bill.lines if line.code != "gst") == minor("singapore", "39.66")


@pytest.mark.parametrize(
    ("kl", "before_gst"),
    [
        ("15", SINGAPORE_LOW * 15),
        ("40", SINGAPORE_LOW * 40),
        ("40.001", SINGAPORE_LOW * 40 + SINGAPORE_HIGH * D("0.001")),
        ("60", SINGAPORE_LOW * 40 + SINGAPORE_HIGH * 20),
    ],
)
def test_singapore(kl: str, before_gst: D) -> None:
    assert water("singapore", MARCH, kl).total_minor == minor("singapore", before_gst * D("1.07"))


@pytest.mark.parametrize(
    ("kl", "anybody", "indigent"),
    [
        ("6", D(6) * D("21.19"), D(0)),
        ("10.5", D(6) * D("21.19") + D("4.5") * D("34.43"), D(0)),
        ("11", D(6) * D("21.19") + D("4.5") * D("34.43") + D("0.5") * D("52.39"), D("0.5") * D("52.39")),
        ("35", D(6) * D("21.19") + D("4.5") * D("34.43") + D("24.5") * D("52.39"), D("24.5") * D("52.39")),
        (
            "36",
            D(6) * D("21.19") + D("4.5") * D("34.43") + D("24.5") * D("52.39") + D(300),
            D("24.5") * D("52.39") + D(300),
        ),
    ],
)
def test_cape_towns_free_water_is_for_who_is_registered(kl: str, anybody: D, indigent: D) -> None:
    vat = D("1.15")
    assert water("cape-town", MARCH, kl).total_minor == minor("cape-town", anybody * vat)
    assert water("cape-town", MARCH, kl, ["indigent"]).total_minor == minor("cape-town", indigent * vat)
    assert water("cape-town", MARCH, kl, ["pensioner"]).total_minor == minor("cape-town", anybody * vat)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        ("5", D(5) * (D("0.59") + D("0.557") + D("0.36"))),
        ("6", D(5) * (D("0.59") + D("0.557") + D("0.36")) + (D("0.70") + D("0.67") + D("0.36"))),
        ("15", D(5) * (D("0.59") + D("0.557")) + D(10) * (D("0.70") + D("0.67")) + D(15) * D("0.36")),
        (
            "25",
            D(5) * (D("0.59") + D("0.557"))
            + D(10) * (D("0.70") + D("0.67"))
            + D(10) * (D("1.50") + D("1.10"))
            + D(25) * D("0.36"),
        ),
        (
            "27",
            D(5) * (D("0.59") + D("0.557"))
            + D(10) * (D("0.70") + D("0.67"))
            + D(10) * (D("1.50") + D("1.10"))
            + D(2) * (D("2.75") + D("2.20"))
            + D(27) * D("0.36"),
        ),
    ],
)
def test_castelo_branco(kl: str, expected: D) -> None:
    assert water("castelo-branco", date(2025, 4, 1), kl).total_minor == minor("castelo-branco", expected)


def test_castelo_brancos_days_and_its_social_tariff() -> None:
    """Printed beside the price of a day: €3.50, €3.75, €2.87 for thirty; the social tariff pays the last only."""
    april, may = date(2025, 4, 1), date(2025, 5, 1)
    code = "castelo-branco"
    bill = standing(code, april)
    assert [line.amount_minor for line in bill.lines] == [350, 375, 287]
    assert bill.total_minor == minor(code, D(30) * (D("0.1167") + D("0.1250") + D("0.0957"))) == 1012
    assert standing(code, may).total_minor == minor(code, D(31) * (D("0.1167") + D("0.1250") + D("0.0957")))
    assert standing(code, april, ["social"]).total_minor == minor(code, D(30) * D("0.0957")) == 287


@pytest.mark.parametrize(
    ("month", "kl", "expected"),
    [
        (date(2022, 10, 1), "15", D(15) * (D("666.41") + D("784.02"))),
        (date(2022, 10, 1), "60", D(60) * (D("666.41") + D("784.02"))),
        (date(2022, 11, 1), "41", D(41) * (D("666.41") + D("784.02"))),
        (date(2022, 12, 1), "40", D(40) * (D("664.85") + D("784.02"))),
        (date(2022, 12, 1), "41", D(40) * D("664.85") + D("1526.66") + D(41) * D("784.02")),
        (date(2023, 3, 1), "60", D(40) * D("664.85") + D(20) * D("1526.66") + D(60) * D("784.02")),
        (date(2023, 4, 1), "60", D(60) * (D("666.41") + D("784.02"))),
    ],
)
def test_essbios_summer_and_winter_in_pesos_without_cents(month: date, kl: str, expected: D) -> None:
    code = "essbio-cachapoal"
    assert currency_exponent("CLP") == 0
    assert water(code, month, kl).total_minor == minor(code, expected)
    assert standing(code, month).total_minor == 785
