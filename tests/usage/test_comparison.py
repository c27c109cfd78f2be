"""How a household's use compares: with itself, and with others without telling on any."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from standpipe.billing import comparison
from standpipe.meters.models import Meter
from standpipe.platform.units import local_midnight
from standpipe.tariffs.models import SupplyTerms
from tests.support.june import APRIL, JUNE, MAY, NOW, STATEMENT, ZONE, add_home, read
from tests.support.town import Home, Town, make_utility


@pytest.fixture(autouse=True)
def unremembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "REMEMBER_S", 0.0)


COMPARISON = (
    "query($i: ID!) { node(id: $i) { ... on Meter { comparison { days thisPeriod { litres } "
    "lastPeriod { litres } month ownMonth { litres } similar { litres } similarHouseholds } } } }"
)


async def compared(june: Town) -> dict[str, Any]:
    answer = await june.gql(COMPARISON, i=june.home.meter_id)
    assert "errors" not in answer, answer
    found: dict[str, Any] = answer["data"]["node"]["comparison"]
    return found


async def may_of(june: Town, volume_ml: int, home: Home, days: int = 31) -> None:
    """A reading at the end of each day of May, and the volume on the last."""
    first = local_midnight(MAY, ZONE)
    ends = [(first + timedelta(days=number), 0) for number in range(1, days)]
    await read(june, (first, 0), *ends, (first + timedelta(days=days), volume_ml), home=home)


async def test_a_household_sees_its_own_two_periods_day_for_day(june: Town) -> None:
    first, second = local_midnight(MAY, ZONE), local_midnight(JUNE, ZONE)
    await read(
        june,
        (first + timedelta(days=10), 3_000_000),
        (first + timedelta(days=14), 4_000_000),
        (first + timedelta(days=20), 9_000_000),
        (second + timedelta(days=14), 11_000_000),
        (second + timedelta(days=14, hours=5), 11_500_000),
    )
    found = await compared(june)
    # Fourteen whole days of June against fourteen of May; today's water is not whole yet.
    assert (found["days"], found["thisPeriod"]["litres"], found["lastPeriod"]["litres"]) == (14, "2000", "4000")
    assert (found["month"], found["ownMonth"]["litres"]) == ("2026-05-01", "9000")


async def test_under_eleven_nobody_is_compared(june: Town) -> None:
    await may_of(june, 5_000_000, june.home)
    for _ in range(9):
        await may_of(june, 7_000_000, await add_home(june))
    found = await compared(june)
    assert (found["similar"], found["similarHouseholds"]) == (None, 0)
    await may_of(june, 7_049_000, await add_home(june))
    found = await compared(june)
    assert (found["similar"]["litres"], found["similarHouseholds"]) == ("7000", 11)


async def test_only_the_median_is_told_and_rounded(june: Town) -> None:
    for number in range(11):
        home = june.home if number == 0 else await add_home(june)
        await may_of(june, 4_000_000 + number * 1_000_000 + 50_000, home)
    found = await compared(june)
    # The sixth of eleven is 9,050 litres: rounded half up to whole hundreds.
    assert (found["similar"]["litres"], found["ownMonth"]["litres"]) == ("9100", "4050")


async def test_the_groups_median_is_reckoned_once_in_ten_minutes(june: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "REMEMBER_S", 600.0)
    homes = [june.home, *[await add_home(june) for _ in range(10)]]
    for home in homes:
        await may_of(june, 5_000_000, home)
    told = await compared(june)
    for home in homes[1:]:
        await read(june, (NOW, 900_000_000), home=home)
        async with june.sessions.begin() as session:
            await session.execute(update(Meter).where(Meter.id == home.meter_id).values(closed_at=NOW))
    assert (await compared(june))["similarHouseholds"] == told["similarHouseholds"] == 11


async def test_who_is_not_alike_does_not_count(june: Town) -> None:
    await may_of(june, 5_000_000, june.home)
    for _ in range(10):
        await may_of(june, 5_000_000, await add_home(june))
    assert (await compared(june))["similarHouseholds"] == 11
    others = [await add_home(june) for _ in range(5)]
    for home in others:
        await may_of(june, 90_000_000, home, days=24 if home is others[0] else 31)
    utility_id, tariff_id = await make_utility(june.sessions)
    async with june.sessions.begin() as session:
        for home, change in (
            (others[1], {"closed_at": NOW}),
            (others[2], {"utility_id": utility_id}),
            (others[3], {"tariff_id": tariff_id}),
        ):
            await session.execute(update(Meter).where(Meter.id == home.meter_id).values(**change))
        session.add(SupplyTerms(meter_id=others[4].meter_id, from_day=APRIL, tariff_id=june.tariff_id, households=4))
    assert (await compared(june))["similarHouseholds"] == 11


async def test_g7_anothers_statement_and_comparison_are_absent(june: Town) -> None:
    other = await add_home(june)
    for query in (STATEMENT, COMPARISON):
        answer = await june.gql(query, i=other.meter_id, **({"m": str(JUNE)} if query is STATEMENT else {}))
        assert answer["data"]["node"] is None
        assert "errors" not in answer
