"""N4: an old word of the meter raises no low-balance alert, whatever wakes the rule."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from standpipe.meters.models import MeterState
from standpipe.notifications.models import Alert
from standpipe.notifications.rules import LowBalanceSignal, evaluate
from standpipe.outbox.facts import TopUpPaid
from standpipe.platform.clock import Clock
from standpipe.reactions import load_meters, react
from standpipe.readings.models import DailyUsage
from tests.support.town import Town


@pytest.mark.parametrize(("silent_for", "alerts"), [(timedelta(hours=1), 1), (timedelta(days=10), 0)])
async def test_n4_a_small_top_up_of_a_silent_meter_raises_nothing(
    town: Town, silent_for: timedelta, alerts: int
) -> None:
    now = datetime.now(UTC)
    async with town.sessions.begin() as session:
        await session.execute(
            insert(MeterState).values(
                meter_id=town.home.meter_id, last_seen_at=now, stated_at=now - silent_for, credit_remaining=0
            )
        )
        for day in range(1, 15):
            await session.execute(
                insert(DailyUsage).values(
                    meter_id=town.home.meter_id,
                    day=(now - timedelta(days=day)).date(),
                    volume_ml=300_000,
                    register_end_ml=0,
                )
            )
    async with town.sessions.begin() as session:
        fact = TopUpPaid("top_1", "top_1", town.home.meter_id, 100)
        await react(session, fact, await load_meters(session, [fact], Clock().now(), timedelta(hours=26)))
    assert await town.count(Alert) == alerts


def test_n4_credit_that_came_meanwhile_still_arms_a_threshold() -> None:
    assert evaluate(1, LowBalanceSignal(20.0, 5_000, fresh=False)).level is None
    assert evaluate(3, LowBalanceSignal(0.5, 100, fresh=False)).level == 3
