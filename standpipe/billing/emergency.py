"""Emergency credit: a reserve that the customer may switch on when credit runs low; the next top-up repays it first."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.overview import MeterView
from standpipe.billing.wallets import wallet_of
from standpipe.households.models import HouseholdRole
from standpipe.ledger.dues import dues_of
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, post, wallet_balance_minor
from standpipe.meters.access import require_meter
from standpipe.meters.commands import lock_meter
from standpipe.meters.credit import grant
from standpipe.platform.errors import MeterBlockedError
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase
from standpipe.utilities.models import Utility


@dataclass(frozen=True, slots=True)
class Given:
    """Emergency credit that was given."""

    amount_minor: int
    currency: str


def emergency_offer_minor(view: MeterView) -> int:
    """Return the minor units that ``activate`` would give now; 0 where it would refuse."""
    if not wallet_of(view.wallet_kind).deducts or view.dues.emergency_minor:
        return 0
    if view.ledger_minor > view.rules.emergency_threshold_minor:
        return 0
    return view.rules.emergency_credit_minor


async def activate(session: AsyncSession, *, customer_id: str, meter_id: str, now: datetime) -> "Given":
    """Give a meter its emergency credit and send it.

    Raises NotFoundError, and MeterBlockedError where there is none to have: in use already, or credit enough.
    """
    await require_meter(session, customer_id=customer_id, meter_id=meter_id, role=HouseholdRole.PAYER)
    meter = await lock_meter(session, meter_id)
    utility = await session.get_one(Utility, meter.utility_id)
    amount_minor = utility.emergency_credit_minor
    if not amount_minor or meter.closed_at is not None or not wallet_of(meter.wallet_kind).deducts:
        raise MeterBlockedError(phrase("There is no emergency credit for this meter."))
    if (await dues_of(session, meter.id, now)).emergency_minor:
        raise MeterBlockedError(phrase("The emergency credit is in use. The next top-up repays it."))
    if await wallet_balance_minor(session, meter.id, meter.currency) > utility.emergency_threshold_minor:
        raise MeterBlockedError(phrase("There is credit enough: emergency credit is for when it runs low."))
    key = new_id("emg")
    await grant(session, meter_id=meter.id, credit_key=key, source_id=key, amount_minor=amount_minor, now=now)
    lines = [
        Line(AccountRef(AccountKind.EMERGENCY, meter.id, meter.currency), -amount_minor),
        Line(AccountRef(AccountKind.WALLET, meter.id, meter.currency), amount_minor),
    ]
    # The customer's right, not a spend: the account it is owed on goes below its floor.
    await post(session, key=f"emergency:{key}", kind="EMERGENCY", lines=lines, occurred_at=now, states_fact=True)
    return Given(amount_minor, meter.currency)
