"""People at a meter, by their own hand: they claim it by a code, and they say that they have moved out."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing import supply_terms
from standpipe.households.models import Household, HouseholdRole
from standpipe.households.people import hold_customer
from standpipe.meters.access import require_meter
from standpipe.meters.claims import use_code
from standpipe.meters.commands import lock_meter
from standpipe.meters.sharing import join, lock_household, others_in, read_label
from standpipe.outbox.facts import AccessNews, publish
from standpipe.platform.errors import InvalidInputError, MeterBlockedError, NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase

MOVE_OUT_WITHIN = timedelta(days=7)
"""Time within which a household may still say that it has left: older corrections are for the office."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A meter claimed. ``joined``: others were there already, and the claimer is an owner beside them."""

    meter_id: str
    joined: bool


async def claim(
    session: AsyncSession, *, customer_id: str, serial: str, code: str, label: str | None, now: datetime
) -> Claimed:
    """Claim a meter by a code that is read (``claim_codes.read_code``) and a try that is counted (``count_claim``).

    Where nobody lives, the claimer's household moves in today, and what was before it is hidden; else the claimer joins
    as an owner, and those who are there are told. ``label`` is for a meter that was nobody's.
    Raises InvalidInputError for a code and a serial that do not go together, MeterBlockedError out of service.
    """
    name = None if label is None else read_label(label)
    await hold_customer(session, customer_id)
    meter = await use_code(session, customer_id=customer_id, serial=serial, code=code)
    if meter.closed_at is not None:
        raise MeterBlockedError(phrase("This meter is out of service."))
    today = now.astimezone(ZoneInfo(meter.time_zone)).date()
    if meter.household_id is not None and await _is_forgotten(session, meter.household_id):
        # Whoever comes now is a new household, and what was before is not theirs to see.
        await supply_terms.leave(session, meter, by=customer_id, day=today, now=now)
    joined, household_id = meter.household_id is not None, meter.household_id
    if household_id is None:
        household = Household(id=new_id("hh"), utility_id=meter.utility_id, name=name or meter.serial)
        session.add(household)
        await session.flush()
        household_id = household.id
        meter.label = name or meter.serial
        await supply_terms.settle_in(session, meter, household, by=customer_id, day=today, now=now)
    await lock_household(session, household_id)
    await join(
        session,
        household_id=household_id,
        customer_id=customer_id,
        role=HouseholdRole.OWNER,
        meter_id=meter.id,
        how="CLAIMED",
    )
    return Claimed(meter.id, joined)


async def _is_forgotten(session: AsyncSession, household_id: str) -> bool:
    """Tell whether a household's last member was forgotten: its name went too. One that the office made has a name."""
    household = await session.get_one(Household, household_id)
    return not household.name and not await others_in(session, household_id, "")


async def move_out(
    session: AsyncSession, *, customer_id: str, meter_id: str, day: date, now: datetime
) -> supply_terms.Closing:
    """An owner's household leaves a meter: ``day`` is the first that is not theirs. Returns the closing account.

    Raises NotFoundError, ForbiddenError for others than owners, InvalidInputError for a day to come, or one more than
    MOVE_OUT_WITHIN ago, or before they came.
    """
    # Before the lock, which strangers must not get; and again under both locks, for another owner may be first.
    await require_meter(session, customer_id=customer_id, meter_id=meter_id)
    meter = await lock_meter(session, meter_id)
    if meter.household_id is None:
        raise NotFoundError("No such meter.")
    await lock_household(session, meter.household_id)
    await require_meter(session, customer_id=customer_id, meter_id=meter_id, role=HouseholdRole.OWNER)
    today = now.astimezone(ZoneInfo(meter.time_zone)).date()
    if not today - MOVE_OUT_WITHIN <= day <= today:
        days = MOVE_OUT_WITHIN.days
        raise InvalidInputError(
            phrase("The day is today, or one of the last {days}; the office can do others.", days=days), ("day",)
        )
    others, label = await others_in(session, meter.household_id, customer_id), meter.label
    closing = await supply_terms.leave(session, meter, by=customer_id, day=day, now=now)
    if others:
        await publish(session, AccessNews(new_id("acc"), meter.id, label, "MOVED_OUT", others))
    return closing
