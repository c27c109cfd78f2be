"""Suspense worked off by a person: placed on a meter, or noted as given back. Each leaves its trace in the audit."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, post
from standpipe.meters.models import Meter
from standpipe.payments.decide import capture
from standpipe.payments.models import Payment, SuspenseItem
from standpipe.payments.rows import Opening, load_meter
from standpipe.payments.settle import save_one
from standpipe.payments.state import new_payment
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.utilities.operators import record


async def open_items(session: AsyncSession) -> Sequence[SuspenseItem]:
    """List the items that wait for a person, oldest first."""
    rows = await session.scalars(
        select(SuspenseItem).where(SuspenseItem.status == "OPEN").order_by(SuspenseItem.opened_at, SuspenseItem.id)
    )
    return rows.all()


async def assign(session: AsyncSession, *, operator: str, item_id: str, serial: str, note: str, now: datetime) -> str:
    """Credit an item to a meter; returns the top-up's id.

    Raises NotFoundError, and InvalidInputError for one that is resolved, an unknown or closed meter, another currency.
    """
    item = await _open_item(session, item_id, lock=False)
    meter = await session.scalar(select(Meter).where(Meter.serial == serial))
    if meter is None or meter.closed_at is not None:
        raise InvalidInputError(f"No meter in service has the serial {serial}.", ("serial",))
    if meter.currency != item.currency:
        raise InvalidInputError(f"This meter takes {meter.currency}; the money is {item.currency}.", ("serial",))
    # The meter before the item, as whoever settles does.
    money = await load_meter(await session.connection(), meter.id, now)
    item = await _open_item(session, item_id)
    item_rail, currency, amount_minor, key = item.rail, item.currency, item.amount_minor, item.id
    taken = await session.scalar(select(Payment.id).where(Payment.rail == item_rail, Payment.rail_ref == item.rail_ref))
    # A payment of its own, so that a refund or a dispute at the provider still finds it. A statement's line may speak
    # of one that another top-up has already: then it stands on its own.
    payment = new_payment(
        meter_id=meter.id,
        rail=item_rail,
        rail_ref=item.rail_ref if taken is None else f"suspense:{key}",
        origin="SUSPENSE",
        asked_minor=amount_minor,
        currency=currency,
        now=now,
    )
    account = AccountRef(AccountKind.SUSPENSE, item_rail, currency)
    change = capture(payment, money, amount_minor, now, account)
    await save_one(session, change, now, Opening(f"suspense:{key}"))
    item.status, item.resolved_at, item.resolved_by, item.payment_id = "ASSIGNED", now, operator, payment.id
    detail = {"serial": serial, "amount_minor": item.amount_minor, "currency": item.currency, "note": note}
    await record(session, operator=operator, action="suspense.assign", subject_id=item.id, detail=detail)
    return payment.id


async def note_returned(session: AsyncSession, *, operator: str, item_id: str, note: str, now: datetime) -> None:
    """Note that an item was given back at the provider by hand. Raises NotFoundError, InvalidInputError."""
    item = await _open_item(session, item_id)
    if not note.strip():
        raise InvalidInputError("Say how and where it was given back.", ("note",))
    lines = [
        Line(AccountRef(AccountKind.SUSPENSE, item.rail, item.currency), -item.amount_minor),
        Line(AccountRef(AccountKind.CLEARING, item.rail, item.currency), item.amount_minor),
    ]
    await post(session, key=f"suspense:{item.id}:returned", kind="SUSPENSE_RETURNED", lines=lines, occurred_at=now)
    item.status, item.resolved_at, item.resolved_by = "RETURNED", now, operator
    detail = {"amount_minor": item.amount_minor, "currency": item.currency, "note": note}
    await record(session, operator=operator, action="suspense.return", subject_id=item.id, detail=detail)


async def _open_item(session: AsyncSession, item_id: str, *, lock: bool = True) -> SuspenseItem:
    item = await session.get(SuspenseItem, item_id, with_for_update=lock or None, populate_existing=True)
    if item is None:
        raise NotFoundError(f"There is no suspense item {item_id}.")
    if item.status != "OPEN":
        raise InvalidInputError(f"This item was {item.status.lower()} by {item.resolved_by} already.")
    return item
