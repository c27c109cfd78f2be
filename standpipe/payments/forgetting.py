"""Forgetting in this room. Money stays booked under the pseudonym; what names people goes.

In steps, each harmless when repeated: notices that hold the number (in batches, for the inbox is long), the customer's
own rows, and then what had to wait: the words of payments that the provider has not answered yet, which must be said
again as they were, and the customer's cards there.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import phonenumbers
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    LargeBinary,
    Text,
    and_,
    any_,
    case,
    delete,
    func,
    literal,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.outbox.facts import PaymentTracesLeft, publish
from standpipe.payments.book_models import SettlementEntry
from standpipe.payments.models import AsyncResult, Payment, RailEvent, RequestKey, SuspenseItem, TopUp
from standpipe.payments.rails.port import PaymentStatus, Rail
from standpipe.payments.rails.registry import rail_of
from standpipe.payments.vend_models import AutoTopUp, CardSetup, PaymentCustomer, SavedMethod, VoucherTry
from standpipe.platform.database import Sessions
from standpipe.platform.errors import NotYetError

BATCH = 5_000
GONE = "forgotten:"
_UNDECIDED = (
    select(Payment.id)
    .where(
        Payment.top_up_id == TopUp.id,
        Payment.status.in_(["CREATED", PaymentStatus.PENDING]),
        Payment.due_at.is_not(None),
    )
    .correlate(TopUp)
    .exists()
)
"""The provider may yet be asked for it in the words of before; once the payment poller has given up, it is not."""


def digits_of(phone: str) -> str:
    """Return the digits common to every spelling of a number (+254712…, 254712…, 0712…): without the country's.

    Where another number in a notice holds the same digits, a notice that was worked off loses its body for nothing.
    """
    try:
        return str(phonenumbers.parse(phone, None).national_number)
    except phonenumbers.NumberParseException:
        return phone.lstrip("+")


async def blank_notices(sessions: Sessions, phone: str) -> None:
    """Empty the bodies of notices that hold the number and were worked off."""
    await _blank(sessions, _holds(RailEvent.body, digits_of(phone)))


async def forget(session: AsyncSession, customer_id: str, phone: str) -> None:
    """Forget a customer's own rows, and their number in what others wrote. What has to wait is published as a fact."""
    await session.execute(delete(RequestKey).where(RequestKey.customer_id == customer_id))
    await session.execute(delete(VoucherTry).where(VoucherTry.customer_id == customer_id))
    await session.execute(delete(CardSetup).where(CardSetup.customer_id == customer_id))
    await session.execute(delete(AutoTopUp).where(AutoTopUp.customer_id == customer_id))
    mine = select(TopUp.id).where(or_(TopUp.customer_id == customer_id, TopUp.phone == phone)).order_by(TopUp.id)
    await _forget_number(session, digits_of(phone))
    await publish(session, PaymentTracesLeft(customer_id, list(await session.scalars(mine))))


async def forget_rest(
    sessions: Sessions, rails: Mapping[str, Rail], customer_id: str, top_up_ids: Sequence[str]
) -> None:
    """Forget what had to wait. ``top_up_ids``: the customer's, and others' that their phone paid or was to pay.

    Raises NotYetError while a payment is undecided, and RailUnavailableError: it is to be called again.
    """
    # Theirs once more by the customer: an order that was being written while the account went is not in the list.
    mine = or_(_among(TopUp.id, top_up_ids), TopUp.customer_id == customer_id)
    decided = and_(mine, not_(_UNDECIDED))
    async with sessions.begin() as session:
        await _forget_payers(session, decided, customer_id)
        columns = (Payment.id, Payment.rail_ref, Payment.alias_ref, Payment.receipt_ref, Payment.account_reference)
        theirs = select(*columns).join(TopUp, TopUp.id == Payment.top_up_id).where(decided)
        refs = {ref for row in await session.execute(theirs) for ref in row if ref}
        undecided = await session.scalar(select(TopUp.id).where(mine, _UNDECIDED).limit(1))
    if refs:
        # Notices about these payments name their payer in the provider's own words.
        names = (RailEvent.rail_ref, RailEvent.reference, RailEvent.receipt_ref)
        about = or_(*(_among(name, refs) for name in names))
        await _blank(sessions, about)
        async with sessions.begin() as session:
            unread = await session.scalar(select(RailEvent.id).where(about, RailEvent.due_at.is_not(None)).limit(1))
            if unread is not None:
                # It may wait for an answer about its receipt: taken from it, the question would be put again and again.
                raise NotYetError(f"notice {unread} about their payments is not worked off yet")
            receipts = select(RailEvent.receipt_ref).where(about, RailEvent.receipt_ref.is_not(None))
            asked = refs | {ref for ref in await session.scalars(receipts) if ref is not None}
            # What rails answered about them later, by what was asked about.
            subject = func.split_part(AsyncResult.topic, ":", 2)
            told = delete(AsyncResult).where(AsyncResult.body.is_not(None), _among(subject, asked))
            questions = set(await session.scalars(told.returning(AsyncResult.conversation_id)))
        if questions:
            await _blank(sessions, _among(RailEvent.answer_to, questions))
    if undecided is not None:
        raise NotYetError(f"{undecided} is not decided yet")
    await _forget_at_providers(sessions, rails, customer_id)


async def _forget_payers(session: AsyncSession, decided: ColumnElement[bool], customer_id: str) -> None:
    """Forget the payers of these top-ups; what was paid, and what became of it, stays."""
    named = or_(TopUp.phone.is_not(None), TopUp.customer_id == customer_id)
    await session.execute(
        update(Payment)
        .where(Payment.top_up_id.in_(select(TopUp.id).where(decided, named)))
        .values(
            next_action=None,
            payer_ref=case(
                (Payment.top_up_id.in_(select(TopUp.id).where(TopUp.customer_id == customer_id)), None),
                else_=Payment.payer_ref,
            ),
        )
    )
    await session.execute(update(TopUp).where(decided, TopUp.phone.is_not(None)).values(phone=None))
    await session.execute(
        update(TopUp)
        .where(decided, TopUp.customer_id == customer_id)
        .values(
            return_url=None,
            # Made from what was ordered, of which a phone number could be found out by trying all.
            request_hash="",
            idempotency_key=literal(GONE) + TopUp.id,
        )
    )
    await session.execute(
        update(SuspenseItem)
        .where(
            SuspenseItem.payment_id.in_(select(Payment.id).join(TopUp, TopUp.id == Payment.top_up_id).where(decided)),
            SuspenseItem.status != "OPEN",
        )
        .values(payer=None, account_reference=None)
    )


async def _forget_number(session: AsyncSession, digits: str) -> None:
    """The number where payers or providers wrote it. Money that waits for a person keeps the words it came with."""
    await session.execute(delete(AsyncResult).where(AsyncResult.body.is_not(None), _holds(AsyncResult.body, digits)))
    await session.execute(
        update(RailEvent).where(RailEvent.due_at.is_(None), RailEvent.reference.contains(digits)).values(reference=None)
    )
    await session.execute(
        update(SettlementEntry).where(SettlementEntry.description.contains(digits)).values(description="")
    )
    typed = or_(SuspenseItem.account_reference.contains(digits), SuspenseItem.reason.contains(digits))
    await session.execute(
        update(SuspenseItem)
        .where(SuspenseItem.status != "OPEN", typed)
        .values(account_reference=None, payer=None, reason="no meter has the number that was given")
    )


async def _forget_at_providers(sessions: Sessions, rails: Mapping[str, Rail], customer_id: str) -> None:
    async with sessions() as session:
        cards = await session.scalars(
            select(SavedMethod).where(
                SavedMethod.customer_id == customer_id, not_(SavedMethod.rail_ref.startswith(GONE))
            )
        )
        known = await session.scalars(select(PaymentCustomer).where(PaymentCustomer.customer_id == customer_id))
        waiting = [(row.rail, row.id, row.rail_ref) for row in cards]
        names = [(row.rail, row.rail_ref) for row in known]
    for rail, card_id, ref in waiting:
        vault = rail_of(rails, rail).vault
        if vault is not None:
            await vault.forget_card(ref)
        # The row stays, empty: top-ups that it paid point to it.
        empty: dict[str, Any] = {"rail_ref": f"{GONE}{card_id}", "brand": "", "last4": "", "expires": None}
        async with sessions.begin() as session:
            await session.execute(update(SavedMethod).where(SavedMethod.id == card_id).values(usable=False, **empty))
    for rail, ref in names:
        vault = rail_of(rails, rail).vault
        if vault is not None:
            await vault.forget_customer(ref)
        same = (PaymentCustomer.rail == rail, PaymentCustomer.rail_ref == ref)
        async with sessions.begin() as session:
            await session.execute(delete(PaymentCustomer).where(*same))


async def _blank(sessions: Sessions, which: ColumnElement[bool]) -> None:
    """Empty the bodies of these notices, as far as they were worked off, in short transactions."""
    async with sessions() as session:
        last = await session.scalar(select(func.max(RailEvent.id))) or 0
    for first in range(1, last + 1, BATCH):
        batch = RailEvent.id.between(first, first + BATCH - 1)
        async with sessions.begin() as session:
            await session.execute(update(RailEvent).where(batch, RailEvent.due_at.is_(None), which).values(body=b""))


def _among(column: Any, values: Collection[str]) -> ColumnElement[bool]:
    """``IN``, in one parameter however many there are."""
    found: ColumnElement[bool] = column == any_(literal(list(values), ARRAY(Text())))
    return found


def _holds(body: Any, digits: str) -> ColumnElement[bool]:
    found: ColumnElement[int] = func.pg_catalog.position(body, literal(digits.encode(), LargeBinary))
    return found > 0
