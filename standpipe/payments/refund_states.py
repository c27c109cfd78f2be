"""Where a refund stands, and what the provider's word about one does to its row.

REQUESTED (by one operator) → approved by another: AWAITING_METER (the meter has to prove that it does not hold the
credit) → READY → SENT (the provider has it) → DONE. Or DENIED (the meter held the credit after all, or nobody
approved), or FAILED (the provider could not pay it back; the credit is restored). A refund that was DONE can still
fail: the bank sends it back.
"""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.payments.booking import release_hold
from standpipe.payments.models import Refund, TopUp
from standpipe.payments.rails.port import RefundStatus, RefundTruth


class RefundState(StrEnum):
    """See the module."""

    REQUESTED = "REQUESTED"
    AWAITING_METER = "AWAITING_METER"
    READY = "READY"
    SENT = "SENT"
    DONE = "DONE"
    DENIED = "DENIED"
    FAILED = "FAILED"


AT_PROVIDER = {RefundState.SENT: RefundStatus.PENDING, RefundState.DONE: RefundStatus.SUCCEEDED}
"""States of refunds that the provider has, and how we last knew them there."""
CLAIMING = frozenset({RefundState.REQUESTED, RefundState.AWAITING_METER, RefundState.READY, RefundState.SENT})
"""States in which a refund lays claim to money that is not counted as refunded yet (P37)."""
_ENDS = {RefundStatus.SUCCEEDED: RefundState.DONE, RefundStatus.FAILED: RefundState.FAILED}


async def apply_refund(session: AsyncSession, top_up: TopUp, truth: RefundTruth, now: datetime) -> None:
    """Move the row of one refund of a locked top-up; one made in the provider's dashboard has none (P38).

    The money is booked before, from the payment's totals; here only what was held and not used is given back.
    """
    refund = await session.scalar(
        select(Refund)
        .where(Refund.top_up_id == top_up.id, Refund.rail_ref == truth.rail_ref)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    state = _ENDS.get(truth.status)
    if refund is None or state is None or refund.status == state:
        return
    if state is RefundState.FAILED and refund.status != RefundState.DONE:
        await release_hold(session, top_up, refund.amount_minor, refund.id, now)
    refund.status, refund.failure_code, refund.updated_at = state, truth.failure_code, now
    refund.due_at = None


async def claimed_minor(session: AsyncSession, top_up_id: str) -> int:
    """What refunds under way lay claim to, of money that is not counted as refunded yet."""
    total = await session.scalar(
        select(func.coalesce(func.sum(Refund.amount_minor), 0)).where(
            Refund.top_up_id == top_up_id, or_(*(Refund.status == state for state in CLAIMING))
        )
    )
    return int(total or 0)
