"""Access to meters, and the meter that a payer means. Another household's looks like one that does not exist."""

import re

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.households.models import HouseholdRole, Membership
from standpipe.meters.commands import lock_meter
from standpipe.meters.models import Meter
from standpipe.platform.errors import ForbiddenError, NotFoundError
from standpipe.platform.language import phrase

_REFUSED = {
    HouseholdRole.PAYER: phrase("Your part in this household is to look: its owner or a payer can do this."),
    HouseholdRole.OWNER: phrase("Only an owner of this household can do this."),
}


async def require_meter(
    session: AsyncSession, *, customer_id: str, meter_id: str, role: HouseholdRole = HouseholdRole.VIEWER
) -> Meter:
    """The meter, if this customer's household has it and their role reaches ``role``.

    Raises NotFoundError for a meter that is not theirs, ForbiddenError for one of theirs where they may only look.
    """
    found = (
        await session.execute(
            select(Meter, Membership.role)
            .join(Membership, Membership.household_id == Meter.household_id)
            .where(Meter.id == meter_id, Membership.customer_id == customer_id)
        )
    ).one_or_none()
    if found is None:
        raise NotFoundError("No such meter.")
    refuse_role(found[1], role)
    meter: Meter = found[0]
    return meter


def refuse_role(own: str, needed: HouseholdRole) -> None:
    """Raise ForbiddenError where a member's own role does not reach what is needed."""
    if not HouseholdRole(own).may(needed):
        raise ForbiddenError(_REFUSED[needed])


def account_number_of(text: str) -> str:
    """A meter number as a payer typed it, made comparable: letters and digits, upper case, no leading zeros (P43).

    The column ``meters.account_number`` holds the same of every serial. Nothing is guessed: one wrong digit is
    another number.
    """
    return re.sub(r"[^A-Za-z0-9]", "", text).upper().lstrip("0")


async def find_by_account(session: AsyncSession, text: str) -> Meter | None:
    """The one meter, in service or closed, that a payer's account reference names; None for none and for several."""
    number = account_number_of(text)
    if not number:
        return None
    found = (await session.scalars(select(Meter).where(Meter.account_number == number).limit(2))).all()
    return found[0] if len(found) == 1 else None


async def locked_by_serial(session: AsyncSession, serial: str) -> Meter:
    """The meter that an operator names, locked. Raises NotFoundError."""
    found = await find_by_account(session, serial)
    if found is None:
        raise NotFoundError(f"No meter has the serial {serial}.")
    return await lock_meter(session, found.id)
