"""Refunds, which two operators agree on, and money that waits for a person."""

from collections.abc import Sequence
from decimal import Decimal

from sqlalchemy import select

from standpipe.operations.operation import Desk, operation
from standpipe.payments import refunds, suspense_work
from standpipe.payments.models import Payment, Refund, SuspenseItem
from standpipe.payments.refund_states import RefundState
from standpipe.platform.errors import NotFoundError
from standpipe.platform.units import to_minor
from standpipe.utilities.operators import ANYBODY, MONEY

MAX_LISTED = 200


@operation("refunds.request", may=MONEY)
async def request(desk: Desk, payment_id: str, amount: Decimal, *, reason: str, key: str) -> str:
    """Ask for a refund (``amount`` in major units); somebody else must approve it. Returns its id.

    ``payment_id``: a top-up's own id is its first payment's.

    The same key again is the same request. Raises NotFoundError, InvalidInputError.
    """
    payment = await desk.session.get(Payment, payment_id)
    if payment is None:
        raise NotFoundError(f"There is no payment {payment_id}.")
    return await refunds.request_refund(
        desk.session,
        desk.rails,
        operator=desk.by,
        payment_id=payment_id,
        amount_minor=to_minor(amount, payment.currency),
        reason=reason,
        request_key=key,
        now=desk.now,
    )


@operation("refunds.approve", may=MONEY)
async def approve(desk: Desk, refund_id: str) -> RefundState:
    """Approve what another operator asked for; returns where it stands then.

    Raises NotFoundError, InvalidInputError.
    """
    return await refunds.approve_refund(desk.session, operator=desk.by, refund_id=refund_id, now=desk.now)


@operation("refunds.refuse", may=MONEY)
async def refuse(desk: Desk, refund_id: str) -> None:
    """Turn a request down. Raises NotFoundError, InvalidInputError."""
    await refunds.reject_refund(desk.session, operator=desk.by, refund_id=refund_id, now=desk.now)


@operation("refunds.list", may=ANYBODY, reads=True)
async def list_refunds(desk: Desk) -> Sequence[Refund]:
    """Read the newest refunds, newest first."""
    return (await desk.session.scalars(select(Refund).order_by(Refund.id.desc()).limit(MAX_LISTED))).all()


@operation("suspense.list", may=ANYBODY, reads=True)
async def list_suspense(desk: Desk) -> Sequence[SuspenseItem]:
    """Read what waits for a person, oldest first."""
    return await suspense_work.open_items(desk.session)


@operation("suspense.assign", may=MONEY)
async def assign(desk: Desk, item_id: str, serial: str, *, note: str) -> str:
    """Credit an item to a meter; returns the top-up that it became. Raises NotFoundError, InvalidInputError."""
    return await suspense_work.assign(
        desk.session, operator=desk.by, item_id=item_id, serial=serial, note=note, now=desk.now
    )


@operation("suspense.returned", may=MONEY)
async def note_returned(desk: Desk, item_id: str, *, note: str) -> None:
    """Note that an item was given back by hand, in the rail's own portal. Raises NotFoundError, InvalidInputError."""
    await suspense_work.note_returned(desk.session, operator=desk.by, item_id=item_id, note=note, now=desk.now)
