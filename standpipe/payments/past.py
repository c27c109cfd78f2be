"""Top-ups of a made-up past, booked as if the sandbox had told of them: for towns that nobody lives in."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.models import Meter
from standpipe.payments.models import TopUp, TopUpEvent
from standpipe.payments.rails.port import PaymentStatus, PaymentTruth
from standpipe.payments.settle import apply_truth
from standpipe.platform.ids import new_id


async def book_past(session: AsyncSession, meter: Meter, *, customer_id: str, pay_minor: int, at: datetime) -> None:
    """A top-up that was paid in full at an instant: dues are taken, the rest is granted to the meter."""
    top_up = TopUp(
        id=new_id("top"),
        customer_id=customer_id,
        meter_id=meter.id,
        rail="sandbox",
        pay_minor=pay_minor,
        currency=meter.currency,
        idempotency_key=new_id("seed"),
        request_hash="seed",
        status="CREATED",
        created_at=at,
        updated_at=at,
    )
    session.add(top_up)
    await session.flush()
    await session.refresh(top_up)
    session.add(TopUpEvent(top_up_id=top_up.id, status="CREATED", at=at))
    truth = PaymentTruth(
        rail_ref=f"sch_seed{top_up.id[4:]}",
        reference=top_up.id,
        status=PaymentStatus.SUCCEEDED,
        currency=meter.currency,
        requested_minor=pay_minor,
        captured_minor=pay_minor,
        refunded_minor=0,
    )
    await apply_truth(session, top_up, truth, at)
