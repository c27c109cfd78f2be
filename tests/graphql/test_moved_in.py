"""A household that has moved in sees nothing of the one before."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, text, update

from standpipe.households.models import Household
from standpipe.ledger.models import LedgerTransaction
from standpipe.meters.due import MeterDue
from standpipe.meters.models import Meter
from standpipe.payments.models import TopUp
from standpipe.platform.ids import new_id
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.models import SupplyTerms
from standpipe.tariffs.publishing import publish
from tests.support.june import NOW, ZONE, close, make_june, read
from tests.support.rating import rate
from tests.support.town import Town, make_home

pytestmark = pytest.mark.calendar

ASK = """query($m: ID!, $from: Date!, $to: Date!) { viewer { meter(id: $m) {
    usage(from: $from, to: $to, interval: DAY) { buckets { start } }
    statement(month: $from) { statement { month } userErrors { message } }
    comparison { ownMonth { litres } }
} } }"""


async def test_g7_what_was_before_a_household_moved_in_is_not_shown(town: Town) -> None:
    zone = ZoneInfo("Africa/Nairobi")
    today = town.today()
    installed, moved = today - timedelta(days=40), today - timedelta(days=5)
    before = await town.gql(ASK, m=town.home.meter_id, **{"from": str(installed), "to": str(today)})
    assert len(before["data"]["viewer"]["meter"]["usage"]["buckets"]) == 40
    assert before["data"]["viewer"]["meter"]["statement"]["statement"] is not None
    async with town.sessions.begin() as session:
        other = Household(id=new_id("hh"), utility_id=town.utility_id, name="Before")
        session.add(other)
        await session.flush()
        for day, household_id in ((installed, other.id), (moved, town.home.household_id)):
            session.add(
                SupplyTerms(
                    meter_id=town.home.meter_id, from_day=day, tariff_id=town.tariff_id, household_id=household_id,
                    groups=[],
                )
            )  # fmt: skip
        assert (await session.get_one(Meter, town.home.meter_id)).household_id == town.home.household_id
    after = (await town.gql(ASK, m=town.home.meter_id, **{"from": str(installed), "to": str(today)}))["data"]
    buckets = after["viewer"]["meter"]["usage"]["buckets"]
    assert len(buckets) == 5
    assert datetime.fromisoformat(buckets[0]["start"]).astimezone(zone).date() == moved
    assert after["viewer"]["meter"]["statement"]["statement"] is None
    gone = await town.gql(ASK, m=town.home.meter_id, **{"from": str(installed), "to": str(moved)})
    assert gone["data"]["viewer"]["meter"]["usage"]["buckets"] == []


MONEY = """query($m: ID!, $t: ID!, $month: Date!) { node(id: $t) { id } viewer { meter(id: $m) {
    topUps { nodes { id } } tariff { usedThisPeriod { litres } } comparison { thisPeriod { litres } }
    statement(month: $month) { statement { month opening { amount } closing { amount } movements { code }
    volume { litres } chargesTotal { amount } charges { label } pdf } }
} } }"""


async def test_g7_nor_is_what_those_before_paid_and_used_in_the_month_of_the_move(
    database_url: str, tmp_path: Path
) -> None:
    async with make_june(database_url, tmp_path) as town:
        meter_id, moved = town.home.meter_id, date(2026, 6, 10)
        noon = [datetime(2026, 6, day, 9, tzinfo=UTC) for day in (5, 9, 12)]
        await read(town, *zip(noon, (3_000_000, 7_000_000, 9_000_000), strict=True))
        top_up_id, _ = await town.pay_by_card("500.00")
        await town.poll()
        async with town.sessions.begin() as session:
            early = datetime(2026, 6, 4, tzinfo=UTC)
            await session.execute(update(TopUp).values(created_at=early))
            await session.execute(text("ALTER TABLE ledger_transactions DISABLE TRIGGER USER"))
            await session.execute(
                update(LedgerTransaction).where(LedgerTransaction.kind == "TOP_UP").values(occurred_at=early)
            )
            other = Household(id=new_id("hh"), utility_id=town.utility_id, name="Before")
            session.add(other)
            await session.flush()
            for day, household_id in ((date(2026, 3, 20), other.id), (moved, town.home.household_id)):
                session.add(
                    SupplyTerms(meter_id=meter_id, from_day=day, tariff_id=town.tariff_id, household_id=household_id,
                                groups=[])
                )  # fmt: skip
        async with town.sessions.begin() as session:
            await rate(session, meter_id, NOW, reprice_from=date(2026, 3, 20))
        data = (await town.gql(MONEY, m=meter_id, t=top_up_id, month="2026-06-01"))["data"]
        meter = data["viewer"]["meter"]
        assert (data["node"], meter["topUps"]["nodes"]) == (None, [])
        assert meter["tariff"]["usedThisPeriod"]["litres"] == meter["comparison"]["thisPeriod"]["litres"] == "2000"
        told = meter["statement"]["statement"]
        assert (told["month"], told["movements"], told["volume"]["litres"]) == ("2026-06-01", [], "2000")
        assert len(told["charges"]) == 1
        used, closing = Decimal(told["chargesTotal"]["amount"]), Decimal(told["closing"]["amount"])
        assert Decimal(told["opening"]["amount"]) - used == closing == Decimal(await town.wallet()) / 100
        page = await town.http.get(told["pdf"])
        assert page.status_code == 200
        # The same link without the day is another's.
        assert (await town.http.get(told["pdf"].replace(f".{moved}", ""))).status_code == 404


WHOLE_MONTHS = """
tariff: rent
name: Rent
currency: KES
basis: {basis}
effective-from: 2020-01-01
proration: none
unit-litres: 100
blocks:
  - {{price: 100}}
standing-charges:
  - {{code: meter-rent, name: Meter rent, amount: 150.00, per: month}}
"""


@pytest.mark.parametrize("basis", ["consumption", "purchase"])
async def test_a_move_noted_after_the_months_statement_is_not_told_by_half(
    database_url: str, tmp_path: Path, basis: str
) -> None:
    async with make_june(database_url, tmp_path) as town:
        async with town.sessions.begin() as session:
            file = read_tariff(WHOLE_MONTHS.format(basis=basis))
            found = await publish(
                session, utility_id=town.utility_id, utility_currency="KES", file=file, today=NOW.date()
            )
        installed = datetime(2026, 3, 20, tzinfo=UTC)
        town.home = await make_home(
            *(town.sessions, town.settings, town.utility_id, found.tariff_id), installed_at=installed,
            zone=str(ZONE), wallet_kind="VOLUME" if basis == "purchase" else "MONEY",
        )  # fmt: skip
        meter_id, moved = town.home.meter_id, date(2026, 5, 16)
        async with town.sessions.begin() as session:
            (await session.get_one(MeterDue, meter_id)).accrued_through = date(2026, 4, 30)
            await rate(session, meter_id, NOW)

        async def may() -> dict[str, Any]:
            answer = await town.gql(MONEY, m=meter_id, t=meter_id, month="2026-05-01")
            told: dict[str, Any] = answer["data"]["viewer"]["meter"]["statement"]
            return told

        await move(town, moved)
        open_month = (await may())["statement"]
        assert (open_month["month"], open_month["chargesTotal"]["amount"]) == ("2026-05-01", "0.00")
        await move(town, None)
        assert await close(town, date(2026, 5, 1)) is not None
        await move(town, moved)
        assert (await may())["statement"] is None


async def move(town: Town, day: date | None) -> None:
    """Others live there until a day; without one, always these."""
    async with town.sessions.begin() as session:
        await session.execute(delete(SupplyTerms).where(SupplyTerms.meter_id == town.home.meter_id))
        meter = await session.get_one(Meter, town.home.meter_id)
        if day is not None:
            other = Household(id=new_id("hh"), utility_id=town.utility_id, name="Before")
            session.add(other)
            await session.flush()
            for since, household_id in ((date(2026, 3, 20), other.id), (day, town.home.household_id)):
                session.add(
                    SupplyTerms(
                        meter_id=meter.id, from_day=since, tariff_id=meter.tariff_id, household_id=household_id,
                        groups=[],
                    )
                )  # fmt: skip
        await session.flush()
        await rate(session, meter.id, NOW, reprice_from=date(2026, 3, 20))
