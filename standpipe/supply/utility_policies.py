"""Rules of a utility for all its meters, or for a class of customers; set by an operator, with its trace."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.units import MAX_MINOR
from standpipe.supply.zero_credit_lookup import look_again
from standpipe.supply.zero_credit_rules import cut_off_of, friendly_of
from standpipe.tariffs.models import CustomerClass
from standpipe.utilities.models import Utility
from standpipe.utilities.operators import record

MAX_PERCENT = 100


@dataclass(frozen=True, slots=True)
class UtilityRules:
    """A change of ``utilities.models.Utility``'s columns of the same names; None leaves what was.

    ``friendly`` is the whole of the friendly hours, {} for none; ``debt_weekly_cap_minor`` below zero means no cap.
    """

    cut_off: str | None = None
    friendly: dict[str, Any] | None = None
    guaranteed_ml: int | None = None
    emergency_credit_minor: int | None = None
    emergency_threshold_minor: int | None = None
    debt_share_percent: int | None = None
    debt_weekly_cap_minor: int | None = None


async def utility_of(session: AsyncSession, utility_id: str) -> Utility:
    """The utility's row, locked. Raises NotFoundError."""
    utility = await session.get(Utility, utility_id, with_for_update={"key_share": True}, populate_existing=True)
    if utility is None:
        raise NotFoundError(f"There is no utility {utility_id}.")
    return utility


async def set_rules(session: AsyncSession, *, operator: str, utility_id: str, change: UtilityRules) -> None:
    """Change what a utility rules; its meters are told. Raises NotFoundError, InvalidInputError."""
    utility = await utility_of(session, utility_id)
    wanted = {name: value for name, value in asdict(change).items() if value is not None}
    if not wanted:
        raise InvalidInputError("Say what is to change.")
    _check(change)
    if change.friendly is not None:
        wanted["friendly"] = change.friendly if friendly_of(change.friendly) else None
    if change.debt_weekly_cap_minor is not None and change.debt_weekly_cap_minor < 0:
        wanted["debt_weekly_cap_minor"] = None
    before = {name: getattr(utility, name) for name in wanted}
    for name, value in wanted.items():
        setattr(utility, name, value)
    await session.flush()
    if {"cut_off", "friendly", "guaranteed_ml"} & wanted.keys():
        await look_again(session, utility.id)
    detail = {"before": before, "after": wanted}
    await record(session, operator=operator, action="supply.utility", subject_id=utility.id, detail=detail)


async def set_class(
    session: AsyncSession, *, operator: str, utility_id: str, code: str, name: str, cut_off: str
) -> None:
    """Make a class of customers, or change it; ``cut_off`` "" is as the utility rules.

    Raises NotFoundError, InvalidInputError.
    """
    utility = await utility_of(session, utility_id)
    if not code.strip() or not name.strip():
        raise InvalidInputError("A class needs a code and a name.")
    values = {"name": name.strip(), "cut_off": cut_off_of(cut_off) if cut_off else None}
    await session.execute(
        insert(CustomerClass)
        .values(utility_id=utility.id, code=code.strip(), **values)
        .on_conflict_do_update(index_elements=["utility_id", "code"], set_=values)
    )
    await look_again(session, utility.id)
    detail = {"code": code.strip(), **values}
    await record(session, operator=operator, action="supply.class", subject_id=utility.id, detail=detail)


async def release(
    session: AsyncSession, *, operator: str, utility_id: str, reason: str, until: datetime | None, now: datetime
) -> None:
    """Water for all, whatever the credit (fire): no meter of a utility cuts off until an instant, or until it is ended.

    Meters that have cut off for want of credit open; valves that were shut by an order stay as ordered.
    Raises NotFoundError, InvalidInputError.
    """
    utility = await utility_of(session, utility_id)
    if not reason.strip():
        raise InvalidInputError("A release needs a reason.", ("reason",))
    if until is not None and until <= now:
        raise InvalidInputError("A release ends in future.", ("until",))
    utility.released_reason, utility.released_until = reason.strip(), until
    await session.flush()
    await look_again(session, utility.id)
    detail = {"reason": reason.strip(), "until": until.isoformat() if until else None}
    await record(session, operator=operator, action="supply.release", subject_id=utility.id, detail=detail)


async def end_release(session: AsyncSession, *, operator: str, utility_id: str) -> None:
    """Back to what the policies say. Raises NotFoundError, and InvalidInputError where there is no release."""
    utility = await utility_of(session, utility_id)
    if utility.released_reason is None:
        raise InvalidInputError("There is no release to end.")
    detail = {"reason": utility.released_reason}
    utility.released_reason = utility.released_until = None
    await session.flush()
    await look_again(session, utility.id)
    await record(session, operator=operator, action="supply.release-end", subject_id=utility.id, detail=detail)


def _check(change: UtilityRules) -> None:
    if change.cut_off is not None:
        cut_off_of(change.cut_off)
    for name in ("guaranteed_ml", "emergency_credit_minor", "emergency_threshold_minor"):
        value = getattr(change, name)
        if value is not None and not 0 <= value <= MAX_MINOR:
            raise InvalidInputError(f"{name} cannot be {value}.", (name,))
    if change.debt_share_percent is not None and not 0 <= change.debt_share_percent <= MAX_PERCENT:
        raise InvalidInputError("The debt share is 0 to 100 percent.", ("debt_share_percent",))
