"""Top-ups as customers see them: one status from payment and delivery together, and the timeline behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, and_, cast, func, or_, select
from sqlalchemy.dialects.postgresql import aggregate_order_by, distinct_on
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from standpipe.meters.models import CreditGrant
from standpipe.payments.models import Payment, TopUp, TopUpEvent
from standpipe.payments.rails.port import PaymentStatus

GUEST = "GUEST"
"""The origin of a top-up that somebody without an account began."""


class TopUpStatus(StrEnum):
    """States of a top-up for its customer."""

    CREATED = "CREATED"
    AWAITING_CUSTOMER = "AWAITING_CUSTOMER"
    PAID = "PAID"
    SENDING_TO_METER = "SENDING_TO_METER"
    ON_METER = "ON_METER"
    TOKEN_ISSUED = "TOKEN_ISSUED"  # noqa: S105 - a keypad token, no password.
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    REFUNDED = "REFUNDED"


TERMINAL = frozenset(
    {
        TopUpStatus.ON_METER,
        TopUpStatus.FAILED,
        TopUpStatus.CANCELLED,
        TopUpStatus.EXPIRED,
        TopUpStatus.REFUNDED,
    }
)
_OF_PAYMENT = {
    "CREATED": TopUpStatus.CREATED,
    PaymentStatus.PENDING: TopUpStatus.AWAITING_CUSTOMER,
    PaymentStatus.SUCCEEDED: TopUpStatus.PAID,
    PaymentStatus.FAILED: TopUpStatus.FAILED,
    PaymentStatus.CANCELLED: TopUpStatus.CANCELLED,
    PaymentStatus.EXPIRED: TopUpStatus.EXPIRED,
}


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """A step and when it was reached."""

    status: TopUpStatus
    at: datetime


@dataclass(frozen=True, slots=True)
class TopUpView:
    """A top-up for its reader; ``credit_minor`` is what was booked to the meter's wallet so far.

    ``captured_minor`` = credit + fee + emergency credit, standing charges and debt paid. ``taken_back_minor`` went back
    to the payer.
    """

    id: str
    meter_id: str
    status: TopUpStatus
    rail: str
    pay_minor: int
    credit_minor: int
    captured_minor: int
    debt_minor: int
    fee_minor: int
    fee_agreed_minor: int
    taken_back_minor: int
    origin: str
    method_id: str
    currency: str
    created_at: datetime
    updated_at: datetime
    failure_code: str | None
    failure_message: str | None
    next_action: dict[str, Any] | None
    granted: bool
    timeline: tuple[TimelineEvent, ...]

    @property
    def terminal(self) -> bool:
        """Tell whether nothing more is expected; a payment that failed may still succeed later and will then count."""
        return self.status in TERMINAL or self.nothing_to_send

    @property
    def gift(self) -> bool:
        """Tell whether somebody without an account paid it; who is nobody's business but theirs."""
        return self.origin == GUEST

    @property
    def shown(self) -> bool:
        """Tell whether it is listed, by ``SHOWN``."""
        return not self.gift or self.captured_minor > 0

    @property
    def nothing_to_send(self) -> bool:
        """Tell whether it was paid and gave the meter nothing: dues took it all, or it made no whole unit of water."""
        return self.status is TopUpStatus.PAID and not self.granted


_PAID = select(Payment.id).where(Payment.top_up_id == TopUp.id, Payment.captured_minor > 0).correlate(TopUp).exists()
SHOWN = or_(TopUp.origin != GUEST, _PAID)
"""Top-ups that the household sees. A stranger's tries are not its business, or anybody could fill its list."""
_DELIVERY = (
    select(
        CreditGrant.source_id,
        func.min(CreditGrant.sent_at).label("sent_at"),
        func.max(CreditGrant.confirmed_at).label("confirmed_at"),
        func.bool_and(CreditGrant.confirmed_at.is_not(None)).label("confirmed"),
        func.max(CreditGrant.granted_at).label("granted_at"),
        func.max(CreditGrant.token_issued_at).label("token_at"),
    )
    .where(CreditGrant.amount > CreditGrant.revoked)
    .group_by(CreditGrant.source_id)
)


# Of several payments for an order the one that was paid speaks for it, else the newest; their sums are the order's.
_LEAD = (
    select(Payment)
    .ext(distinct_on(Payment.top_up_id))
    .order_by(Payment.top_up_id, (Payment.captured_minor > 0).desc(), Payment.started_real_at.desc())
)
_SUMS = select(
    Payment.top_up_id,
    func.max(Payment.updated_at).label("paid_at"),
    *(
        cast(func.sum(column), BigInteger).label(column.key)
        for column in (
            *(Payment.captured_minor, Payment.taken_back_minor, Payment.fee_minor, Payment.debt_minor),
            *(Payment.emergency_minor, Payment.standing_minor),
        )
    ),
).group_by(Payment.top_up_id)
_STEPS = select(
    TopUpEvent.top_up_id,
    func.array_agg(aggregate_order_by(TopUpEvent.status, TopUpEvent.id)).label("statuses"),
    func.array_agg(aggregate_order_by(TopUpEvent.at, TopUpEvent.id)).label("instants"),
).group_by(TopUpEvent.top_up_id)


async def top_ups_by_id(session: AsyncSession, ids: Sequence[str]) -> dict[str, TopUpView]:
    """Views of these top-ups; one statement, however many."""
    delivery = _DELIVERY.where(CreditGrant.source_id.in_(ids)).subquery()
    steps = _STEPS.where(TopUpEvent.top_up_id.in_(ids)).subquery()
    lead = aliased(Payment, _LEAD.where(Payment.top_up_id.in_(ids)).subquery())
    sums = _SUMS.where(Payment.top_up_id.in_(ids)).subquery()
    rows = (
        await session.execute(
            select(TopUp, lead, sums, delivery, steps.c.statuses, steps.c.instants)
            .join(lead, lead.top_up_id == TopUp.id)
            .join(sums, sums.c.top_up_id == TopUp.id)
            .outerjoin(delivery, delivery.c.source_id == TopUp.id)
            .outerjoin(steps, steps.c.top_up_id == TopUp.id)
            .where(TopUp.id.in_(ids))
            .execution_options(populate_existing=True)
        )
    ).all()
    return {row[0].id: _view(row) for row in rows}


async def top_up_ids_of_meters(
    session: AsyncSession, meter_ids: Sequence[str], *, first: int, after: str | None, since: datetime | None = None
) -> dict[str, list[str]]:
    """For each meter the newest ``first`` + 1 top-ups below the cursor, newest first: one more tells of a next page.

    ``since``: those begun before it are left out. So are a guest's that brought no money (``SHOWN``).
    """
    below = and_(TopUp.id < after if after else TopUp.id.is_not(None), SHOWN)
    if since is not None:
        below = and_(below, TopUp.created_at >= since)
    ranked = (
        select(
            TopUp.id,
            TopUp.meter_id,
            func.row_number().over(partition_by=TopUp.meter_id, order_by=TopUp.id.desc()).label("place"),
        )
        .where(and_(TopUp.meter_id.in_(meter_ids), below))
        .subquery()
    )
    rows = await session.execute(
        select(ranked.c.meter_id, ranked.c.id).where(ranked.c.place <= first + 1).order_by(ranked.c.id.desc())
    )
    found: dict[str, list[str]] = {meter_id: [] for meter_id in meter_ids}
    for meter_id, top_up_id in rows:
        found[meter_id].append(top_up_id)
    return found


def _view(row: Any) -> TopUpView:
    top_up: TopUp = row[0]
    payment: Payment = row[1]
    status = _OF_PAYMENT[payment.status]
    paid = zip(row.statuses or (), row.instants or (), strict=True)
    timeline = [TimelineEvent(_OF_PAYMENT[name], at) for name, at in paid]
    steps = [(TopUpStatus.SENDING_TO_METER, row.sent_at), (TopUpStatus.TOKEN_ISSUED, row.token_at)]
    delivery = [TimelineEvent(step, at) for step, at in steps if at is not None]
    if delivery:
        status = delivery[-1].status
        timeline += sorted(delivery, key=lambda event: event.at)
    if row.confirmed:
        timeline.append(TimelineEvent(TopUpStatus.ON_METER, row.confirmed_at))
        status = TopUpStatus.ON_METER
    if row.captured_minor and row.taken_back_minor >= row.captured_minor:
        status = TopUpStatus.REFUNDED
    changes = [row.paid_at, row.sent_at, row.token_at, row.confirmed_at]
    return TopUpView(
        id=top_up.id,
        meter_id=top_up.meter_id,
        status=status,
        rail=payment.rail,
        pay_minor=top_up.pay_minor,
        credit_minor=row.captured_minor - (row.fee_minor + row.emergency_minor + row.standing_minor + row.debt_minor),
        captured_minor=row.captured_minor,
        debt_minor=row.debt_minor,
        fee_minor=row.fee_minor,
        fee_agreed_minor=top_up.fee_agreed_minor,
        taken_back_minor=row.taken_back_minor,
        origin=top_up.origin,
        method_id=top_up.method_id or payment.rail,
        currency=top_up.currency,
        created_at=top_up.created_at,
        updated_at=max(change for change in changes if change is not None),
        failure_code=payment.failure_code,
        failure_message=payment.failure_message,
        next_action=payment.next_action if status in {TopUpStatus.AWAITING_CUSTOMER, TopUpStatus.FAILED} else None,
        granted=row.granted_at is not None,
        timeline=tuple(timeline),
    )
