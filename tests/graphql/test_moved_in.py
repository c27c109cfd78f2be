"""A household that has moved in sees nothing of the one before."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlalchemy import text, update

from standpipe.customers.models import Household
from standpipe.ids import new_id
from standpipe.ledger.models import LedgerTransaction
from standpipe.meters.models import Meter
from standpipe.payments.models import TopUp
from standpipe.tariffs.models import SupplyTerms
from standpipe.usage.charges import recharge
from tests.support.june import NOW, make_june, read
from tests.support.town import Town

ASK = """query($m: ID!, $from: Date!, $to: Date!) { viewer { meter(id: $m) {
    usage(from: $from, to: $to, interval: DAY) { buckets { start } }
    statement(month: $from) { statement { month } userErrors { message } }
    comparison { ownMonth { litres } }
} } }"""


async def test_g7_what_was_before_a_household_moved_in_is_not_shown(town: Town) -> None:
    zone = ZoneInfo("Africa/Nairobi")
    today = datetime.now(UTC).astimezone(zone).date()
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
            await recharge(session, await session.get_one(Meter, meter_id), date(2026, 3, 20), NOW)
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
