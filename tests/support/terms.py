"""Terms for tests: short ways to write some down, and strategies that draw any."""

from datetime import date
from decimal import Decimal

from hypothesis import strategies as st

from standpipe.tariffs.pricing import WATER, Block, PriceTable
from standpipe.tariffs.terms import Allowance, Levy, Per, Proration, Season, StandingCharge, Terms

KL = 1_000_000


def table(*blocks: tuple[int | None, int | str]) -> PriceTable:
    """Blocks as (up to so many kilolitres, price in minor units)."""
    return PriceTable(
        tuple(
            Block(None if up_to is None else up_to * KL, Decimal(price), tier=tier)
            for tier, (up_to, price) in enumerate(blocks)
        )
    )


def all_year(*blocks: tuple[int | None, int | str]) -> tuple[Season, ...]:
    """One season."""
    return (Season("all year", 1, 1, table(*blocks)),)


def numbers(low: str, high: str) -> st.SearchStrategy[Decimal]:
    """As a tariff file would have them."""
    return st.decimals(Decimal(low), Decimal(high), places=3)


GROUPS = st.frozensets(st.sampled_from(["lifeline", "social", "staff"]), max_size=2)


@st.composite
def _seasons(draw: st.DrawFn, blocks: int) -> tuple[Season, ...]:
    days = draw(
        st.lists(st.tuples(st.integers(1, 12), st.integers(1, 28)), min_size=1, max_size=3, unique=True).map(sorted)
    )
    found = []
    for month, day in days:
        edges = sorted(draw(st.lists(st.integers(1, 60 * KL), min_size=blocks - 1, max_size=blocks - 1, unique=True)))
        prices = [draw(numbers("0", "9000")) for _ in range(blocks)]
        rows = zip([*edges, None], prices, strict=True)
        found.append(
            Season(
                f"{month}-{day}", month, day, PriceTable(tuple(Block(e, p, tier=t) for t, (e, p) in enumerate(rows)))
            )
        )
    return tuple(found)


@st.composite
def _levies(draw: st.DrawFn, known: list[str], blocks: int) -> tuple[Levy, ...]:
    found: list[Levy] = []
    # Two discounts of at most 30 % leave something of every price.
    for discount in [True] * draw(st.integers(0, 2)) + [False] * draw(st.integers(0, 3)):
        code = f"levy-{len(found)}"
        per_kl = None if discount or draw(st.booleans()) else draw(numbers("0.001", "500"))
        of = draw(st.frozensets(st.sampled_from(known), min_size=1)) if per_kl is None else frozenset({WATER})
        found.append(
            Levy(
                *(code, code, None if per_kl is not None else draw(numbers("0.001", "30"))),
                per_kl_minor=per_kl,
                of=of,
                tiers=draw(st.frozensets(st.integers(0, blocks - 1))),
                groups=draw(GROUPS),
                discount=discount,
            )
        )
        if not discount:
            known.append(code)
    return tuple(found)


@st.composite
def any_terms(draw: st.DrawFn) -> Terms:
    """Whatever a valid tariff file can say."""
    blocks = draw(st.integers(1, 4))
    allowance = st.builds(Allowance, st.integers(1, 70 * KL), st.booleans(), GROUPS)
    standing = tuple(
        StandingCharge(f"fixed-{number}", "Fixed", draw(numbers("0.001", "9000")), draw(st.sampled_from(Per)))
        for number in range(draw(st.integers(0, 2)))
    )
    return Terms(
        seasons=draw(_seasons(blocks)),
        blocks_per_household=draw(st.booleans()),
        allowance=draw(st.none() | allowance),
        standing=standing,
        levies=draw(_levies([WATER, *(item.code for item in standing)], blocks)),
        proration=draw(st.sampled_from(Proration)),
    )


DAYS = st.dates(date(2027, 1, 1), date(2028, 12, 31))
"""Days of a common year and of a leap year."""
