"""A town in the middle of June 2026, whose first household has been there since March."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from standpipe.billing.models import Statement
from standpipe.billing.statements import issue
from standpipe.meters.reports import MeterReport, RegisterReading
from tests.support.rating import take_report
from tests.support.town import SETTLED, ZONE, Home, Town, make_home, make_town, settled

NOW = SETTLED
INSTALLED = datetime(2026, 3, 20, tzinfo=UTC)
APRIL, MAY, JUNE = date(2026, 4, 1), date(2026, 5, 1), date(2026, 6, 1)
STATEMENT = (
    "query($i: ID!, $m: Date!) { node(id: $i) { ... on Meter { statement(month: $m) { statement { month number "
    "opening { amount } closing { amount } accounts { code opening { amount } closing { amount } } "
    "movements { at code label paid { amount } credit { amount } } volume { litres } charges { code label amount "
    "{ amount } } chargesTotal { amount } standingCharges { code label amount { amount } } adjustments { month was "
    "{ amount } now { amount } difference { amount } lines { code amount { amount } } } pdf } "
    "userErrors { code field } } } } }"
)


@asynccontextmanager
async def make_june(database_url: str, folder: Path) -> AsyncIterator[Town]:
    """The town's clock starts at NOW."""
    async with make_town(database_url, folder, **settled()) as made:
        made.home = await add_home(made)
        yield made


async def add_home(june: Town, installed_at: datetime = INSTALLED) -> Home:
    return await make_home(
        *(june.sessions, june.settings, june.utility_id, june.tariff_id),
        installed_at=installed_at,
        zone=str(ZONE),
    )


async def read(june: Town, *readings: tuple[datetime, int], home: Home | None = None) -> None:
    told = tuple(RegisterReading(at, ml) for at, ml in readings)
    async with june.sessions.begin() as session:
        report = MeterReport((home or june.home).meter_id, NOW, told)
        await take_report(session, report, NOW)


async def close(june: Town, month: date, home: Home | None = None) -> Statement | None:
    async with june.sessions.begin() as session:
        return await issue(session, (home or june.home).meter_id, month, NOW)


async def asked(june: Town, month: date | str, **more: str) -> dict[str, Any]:
    answer = await june.gql(STATEMENT, more.get("token"), i=more.get("meter_id", june.home.meter_id), m=str(month))
    assert "errors" not in answer, answer
    payload: dict[str, Any] = answer["data"]["node"]["statement"]
    return payload


async def statement(june: Town, month: date) -> dict[str, Any]:
    payload = await asked(june, month)
    assert payload["userErrors"] == [], payload
    found: dict[str, Any] = payload["statement"]
    adds_up(found)
    return found


def minor(amount: dict[str, str]) -> int:
    return int(Decimal(amount["amount"]) * 100)


def adds_up(found: dict[str, Any]) -> None:
    """What stands in the type's own description."""
    moved = sum(minor(item["credit"]) for item in found["movements"])
    adjusted = sum(minor(item["difference"]) for item in found["adjustments"])
    assert minor(found["opening"]) + moved - minor(found["chargesTotal"]) - adjusted == minor(found["closing"])
    assert sum(minor(item["amount"]) for item in found["charges"]) == minor(found["chargesTotal"])
    for item in found["adjustments"]:
        assert minor(item["now"]) - minor(item["was"]) == minor(item["difference"])
        assert sum(minor(line["amount"]) for line in item["lines"]) == minor(item["now"])
