"""Arrears that a meter brings along: debts from before, put on its account by an operator, or written off."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.dues import dues_of
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, post
from standpipe.meters.commands import lock_meter
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.units import is_storable
from standpipe.utilities.operators import record

MAX_REFERENCE = 80


async def add_arrears(
    session: AsyncSession, *, operator: str, meter_id: str, amount_minor: int, reference: str, now: datetime
) -> int:
    """Put a debt on a meter; top-ups repay it by the utility's share. ``reference``: the bill it comes from, once each.

    Returns what is owed now. Raises NotFoundError, and InvalidInputError for an amount that is not above zero or a
    reference that was used before.
    """
    return await _post(session, operator, meter_id, amount_minor, "add", reference, now)


async def write_off(
    session: AsyncSession, *, operator: str, meter_id: str, amount_minor: int, reference: str, now: datetime
) -> int:
    """Owe a part of a meter's debt no more. ``reference``: the decision, once each. Returns what is owed still.

    Raises as ``add_arrears`` does, and InvalidInputError for more than is owed.
    """
    return await _post(session, operator, meter_id, amount_minor, "write-off", reference, now)


async def _post(
    session: AsyncSession, operator: str, meter_id: str, amount_minor: int, what: str, reference: str, now: datetime
) -> int:
    if amount_minor <= 0:
        raise InvalidInputError("The amount must be above zero.", ("amount",))
    if not reference.strip() or len(reference) > MAX_REFERENCE or not is_storable(reference):
        raise InvalidInputError(f"A reference has 1 to {MAX_REFERENCE} characters.", ("reference",))
    meter = await lock_meter(session, meter_id)
    owed_minor = (await dues_of(session, meter.id, now)).debt_minor
    change_minor = amount_minor if what == "add" else -amount_minor
    key = f"arrears:{meter.id}:{reference}" if what == "add" else f"write-off:{meter.id}:{reference}"
    lines = [
        Line(AccountRef(AccountKind.RECEIVABLE, meter.id, meter.currency), -change_minor),
        Line(AccountRef(AccountKind.OPENING, meter.utility_id, meter.currency), change_minor),
    ]
    if not await post(session, key=key, kind="ARREARS", lines=lines, occurred_at=now, states_fact=True):
        raise InvalidInputError(f"The reference {reference} was used for this meter already.", ("reference",))
    if owed_minor + change_minor < 0:
        raise InvalidInputError("That is more than the meter owes.", ("amount",))
    detail = {"serial": meter.serial, "amount_minor": amount_minor, "reference": reference}
    await record(session, operator=operator, action=f"arrears.{what}", subject_id=meter.id, detail=detail)
    return owed_minor + change_minor
