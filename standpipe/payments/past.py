"""Top-ups of a made-up past, booked as if the sandbox had told of them: for towns that nobody lives in."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.models import Meter
from standpipe.payments.decide import decide
from standpipe.payments.rails.port import PaymentStatus, PaymentTruth
from standpipe.payments.rows import Opening, load_meter
from standpipe.payments.schedule import polls_of
from standpipe.payments.settle import save_one
from standpipe.payments.state import Around, new_payment
from standpipe.platform.ids import new_id


async def book_past(session: AsyncSession, meter: Meter, *, customer_id: str, pay_minor: int, at: datetime) -> None:
    """A top-up that was paid in full at an instant: dues are taken, the rest is granted to the meter."""
    payment = new_payment(
        customer_id=customer_id,
        meter_id=meter.id,
        rail="sandbox",
        rail_ref=None,
        origin="CUSTOMER",
        asked_minor=pay_minor,
        currency=meter.currency,
        now=at,
    )
    truth = PaymentTruth(
        rail_ref=f"sch_seed{payment.id[4:]}",
        reference=payment.id,
        status=PaymentStatus.SUCCEEDED,
        currency=meter.currency,
        requested_minor=pay_minor,
        captured_minor=pay_minor,
        refunded_minor=0,
    )
    await session.flush()
    money = await load_meter(await session.connection(), meter.id, at)
    change = decide(payment, money, Around(), truth, at, polls_of(None))
    await save_one(session, change, at, Opening(new_id("seed"), "seed"))
