"""A household that has moved in sees nothing of the one before."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from standpipe.customers.models import Household
from standpipe.ids import new_id
from standpipe.meters.models import Meter
from standpipe.tariffs.models import SupplyTerms
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
