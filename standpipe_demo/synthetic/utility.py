"""A synthetic utility to measure with: years of hourly readings of many meters, and all that follows from them.

Readings come by COPY and roll up in two statements; the months are then paid for and charged (``past``), and stored in
batches (``books``), so that every balance explains itself. A meter is one transaction: whole, or not there.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe import tariffs
from standpipe.billing.charges import contract_for
from standpipe.billing.statements import issue
from standpipe.households.models import Customer, Household, HouseholdRole, Membership
from standpipe.meters.models import Meter, WalletKind
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.ids import new_id
from standpipe.platform.units import local_midnight
from standpipe.readings.models import MonthlyUsage
from standpipe.readings.rollups import roll_up_first
from standpipe.readings.storage import add_partitions, cut_first, months_from, patiently
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.models import SupplyTerms, Tariff
from standpipe.tariffs.publishing import publish
from standpipe.utilities.models import Utility
from standpipe_demo.simulator.water_use import WEEKDAY, WEEKEND
from standpipe_demo.synthetic.books import keep
from standpipe_demo.synthetic.past import past_of

NAME = "Synthetic Water"
PREFIX = "GEN"
CURRENCY, ZONE = "KES", "Africa/Nairobi"
_STEP_MINOR = 10_000
_INSTANT = timedelta(microseconds=1)
_TARIFF = Path(tariffs.__file__).parent / "town" / "domestic.yaml"
_COLUMNS = ("meter_id", "read_at", "register_ml", "quality", "received_at", "counted_ml")
_SILENCE = text("UPDATE outbox_facts SET due_at = NULL WHERE id > :before AND xmin = CAST(pg_current_xact_id() AS xid)")


@dataclass(frozen=True, slots=True)
class Scale:
    """Size of the town: ``meters`` in all, each with ``months`` whole months and the running one."""

    meters: int
    months: int
    seed: int = 1
    at_once: int = 2


@dataclass(frozen=True, slots=True)
class _Hour:
    """The instant that ends an hour, and its share of a week's water in parts of a million."""

    read_at: datetime
    share_ppm: int


@dataclass(frozen=True, slots=True)
class _Place:
    utility_id: str
    tariff_id: str
    first_day: date
    hours: tuple[_Hour, ...]


async def generate(
    sessions: Sessions, scale: Scale, now: datetime, *, more: bool, progress: Callable[[int, int], None]
) -> int:
    """Make the meters that are lacking, each in a transaction of its own; returns how many were made.

    ``progress`` is told of the meters that are there and that are to be. Raises InvalidInputError where there are
    synthetic meters already and ``more`` is not asked for.
    """
    first_day = months_from(now.astimezone(ZoneInfo(ZONE)).date(), -scale.months)
    numbers = await _lacking(sessions, scale, more=more)
    since = (first_day - timedelta(days=1)).replace(day=1)
    await patiently(sessions, lambda session: cut_first(session, since))
    await patiently(sessions, lambda session: add_partitions(session, now))
    async with sessions.begin() as session:
        utility_id, tariff_id = await _utility(session, first_day)
    place = _Place(utility_id, tariff_id, first_day, _hours(first_day, now))
    done, room = scale.meters - len(numbers), asyncio.Semaphore(scale.at_once)

    async def one(number: int) -> None:
        nonlocal done
        async with room, sessions.begin() as session:
            await _live(session, place, number, scale.seed, now)
        done += 1
        progress(done, scale.meters)

    async with asyncio.TaskGroup() as group:
        for number in numbers:
            group.create_task(one(number))
    async with sessions() as session:
        sales = ("ledger_entries", "ledger_transactions", "top_ups", "payments")
        for table in ("readings", "daily_usage", "monthly_usage", *sales):
            await session.execute(text(f"ANALYZE {table}"))
        await session.commit()
    return len(numbers)


async def _lacking(sessions: Sessions, scale: Scale, *, more: bool) -> list[int]:
    wanted = {f"{PREFIX}{number:04}": number for number in range(1, scale.meters + 1)}
    async with sessions() as session:
        there = set(await session.scalars(select(Meter.serial).where(Meter.serial.like(f"{PREFIX}%"))))
    if there and not more:
        raise InvalidInputError(
            f"There are {len(there)} synthetic meters already; --more makes those that are lacking."
        )
    return [number for serial, number in wanted.items() if serial not in there]


async def _utility(session: AsyncSession, first_day: date) -> tuple[str, str]:
    found = select(Tariff.utility_id, Tariff.id).join(Utility, Utility.id == Tariff.utility_id)
    known = (await session.execute(found.where(Utility.name == NAME))).first()
    if known is not None:
        return known[0], known[1]
    utility = Utility(id=new_id("utl"), name=NAME, currency=CURRENCY, time_zone=ZONE)
    session.add(utility)
    await session.flush()
    file = read_tariff(_TARIFF.read_text(), _TARIFF.name).model_copy(update={"effective_from": first_day})
    made = await publish(session, utility_id=utility.id, utility_currency=CURRENCY, file=file, today=first_day)
    return utility.id, made.tariff_id


def _hours(first_day: date, now: datetime) -> tuple[_Hour, ...]:
    zone = ZoneInfo(ZONE)
    start = local_midnight(first_day, zone)
    hours = []
    for number in range(int((now - start) / timedelta(hours=1))):
        local = (start + timedelta(hours=number)).astimezone(zone)
        shape = WEEKEND if local.weekday() >= 5 else WEEKDAY  # noqa: PLR2004 - Saturday.
        read_at = start + timedelta(hours=number + 1)
        hours.append(_Hour(read_at, shape[local.hour] * 1_000_000 // sum(shape)))
    return tuple(hours)


async def _live(session: AsyncSession, place: _Place, number: int, seed: int, now: datetime) -> None:
    """One meter's life."""
    meter, customer_id = await _home(session, place, number)
    await _read(session, meter, place.hours, seed)
    await roll_up_first(session, meter)
    months = await session.execute(
        select(MonthlyUsage.month, MonthlyUsage.volume_ml).where(MonthlyUsage.meter_id == meter.id)
    )
    volumes_ml = {month: volume_ml for month, volume_ml in months}  # noqa: C416 - dict() does not take rows.
    past = past_of(meter, customer_id, await contract_for(session, meter), volumes_ml, now)
    await keep(session, meter, past, now)
    await issue(session, meter.id, months_from(now.astimezone(ZoneInfo(ZONE)).date(), -1), now)


async def _home(session: AsyncSession, place: _Place, number: int) -> tuple[Meter, str]:
    customer = Customer(id=new_id("cus"), phone=f"+254799{number:06}", name=f"Synthetic {number}")
    household = Household(id=new_id("hh"), utility_id=place.utility_id, name=f"Synthetic {number}")
    session.add_all([customer, household])
    await session.flush()
    meter = Meter(
        id=new_id("mtr"),
        serial=f"{PREFIX}{number:04}",
        label="Home",
        utility_id=place.utility_id,
        household_id=household.id,
        tariff_id=place.tariff_id,
        wallet_kind=WalletKind.MONEY,
        currency=CURRENCY,
        time_zone=ZONE,
        installed_at=local_midnight(place.first_day, ZoneInfo(ZONE)),
        credit_granted=0,
        last_sequence=0,
        initial_register_ml=1_000_000 * (number % 50),
    )
    session.add_all([Membership(household_id=household.id, customer_id=customer.id, role=HouseholdRole.OWNER), meter])
    await session.flush()
    terms = SupplyTerms(
        meter_id=meter.id, from_day=place.first_day, tariff_id=place.tariff_id, household_id=household.id
    )
    session.add(terms)
    await session.flush()
    return meter, customer.id


async def _read(session: AsyncSession, meter: Meter, hours: Sequence[_Hour], seed: int) -> None:
    chance = random.Random(f"{seed}:{meter.serial}")  # noqa: S311 - water use needs no cryptography.
    daily_ml, register_ml = chance.randint(150_000, 900_000), meter.initial_register_ml
    records = []
    for hour in hours:
        register_ml += daily_ml * hour.share_ppm // 1_000_000 * chance.randrange(40, 160) // 100
        records.append((meter.id, hour.read_at, register_ml, "MEASURED", hour.read_at, register_ml))
    # The session has spoken to the database before: only then has its transaction begun, and COPY is part of it.
    raw = await (await session.connection()).get_raw_connection()
    connection = raw.driver_connection
    assert connection is not None, "it is open"  # noqa: S101 - for the type checker.
    await connection.copy_records_to_table("readings", records=records, columns=_COLUMNS)
