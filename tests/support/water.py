"""A meter whose readings come in, and all that a customer could see of them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from standpipe.billing.models import PeriodCharge
from standpipe.ledger.posting import wallet_balance_minor
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.platform.database import Sessions
from standpipe.readings.models import DailyUsage
from tests.support.rating import take_report
from tests.support.town import Home, make_home, make_settings, make_utility

START = datetime(2026, 3, 20, tzinfo=UTC)
LATER = datetime(2026, 6, 1, tzinfo=UTC)


async def meter(sessions: Sessions, zone: str = "Africa/Nairobi", start: datetime = START) -> tuple[Home, str]:
    utility_id, tariff_id = await make_utility(sessions, zone)
    home = await make_home(sessions, make_settings(), utility_id, tariff_id, installed_at=start, zone=zone)
    return home, tariff_id


async def take(sessions: Sessions, home: Home, readings: Sequence[tuple[datetime, int]], now: datetime = LATER) -> None:
    report = MeterReport(home.meter_id, now, tuple(RegisterReading(at, ml) for at, ml in readings))
    async with sessions.begin() as session:
        await take_report(session, report, now)


async def state(sessions: Sessions, home: Home) -> dict[str, Any]:
    """Days, charges and the wallet: all that a customer could see of it."""
    async with sessions() as session:
        days = await session.scalars(
            select(DailyUsage).where(DailyUsage.meter_id == home.meter_id, DailyUsage.volume_ml != 0)
        )
        charges = await session.scalars(select(PeriodCharge).where(PeriodCharge.meter_id == home.meter_id))
        return {
            "days": {row.day: row.volume_ml for row in days},
            "charges": {row.period_start: row.charged_minor for row in charges if row.charged_minor},
            "wallet": await wallet_balance_minor(session, home.meter_id, "KES"),
        }
