"""Money that nobody ordered here: a payer sends it to our paybill and types a meter's number, no app needed.

A confirmation is a hint. The provider is asked; then the money goes to the meter whose number it carries, or waits
in suspense for a person. It is never matched to a number that is only like it (P42, P43).
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum

import structlog
from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.models import LedgerTransaction
from standpipe.meters.access import find_by_account
from standpipe.meters.models import Meter
from standpipe.payments.decide import decide
from standpipe.payments.models import Payment, TopUp
from standpipe.payments.rails.port import PaymentStatus, PaymentTruth, Rail, RailUnavailableError
from standpipe.payments.rails.registry import fee_rule, rail_of
from standpipe.payments.rows import Opening, load_meter, names_around
from standpipe.payments.schedule import polls_of
from standpipe.payments.settle import lock_payment, save_one, settle
from standpipe.payments.split import FeeRule, fee_for
from standpipe.payments.state import new_payment
from standpipe.payments.suspense import hold
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions

MAX_ACCOUNT_LENGTH = 64
_log = structlog.get_logger(__name__)


class Verdict(StrEnum):
    """Verdict for a provider that asks before it takes a payer's money."""

    ACCEPT = "ACCEPT"
    UNKNOWN_ACCOUNT = "UNKNOWN_ACCOUNT"
    BAD_AMOUNT = "BAD_AMOUNT"


async def validate(
    session: AsyncSession, rail: Rail, *, account: str, amount_minor: int | None, currency: str
) -> Verdict:
    """Check that money for this account would find its meter (P41)."""
    ordered = await session.scalar(select(Payment.id).where(Payment.account_reference == account.strip().upper()))
    meter = await find_by_account(session, account[:MAX_ACCOUNT_LENGTH])
    if ordered is None and (meter is None or meter.closed_at is not None or meter.currency != currency):
        return Verdict.UNKNOWN_ACCOUNT
    methods = rail.methods(currency)
    if amount_minor is None or not any(way.minimum_minor <= amount_minor <= way.maximum_minor for way in methods):
        return Verdict.BAD_AMOUNT
    return Verdict.ACCEPT


async def take(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    clock: Clock,
    *,
    rail_name: str,
    rail_ref: str,
    account: str | None = None,
    patient: bool = True,
) -> None:
    """Work a notice of unsolicited money. ``account``: what the notice said the payer typed, for a rail whose own
    answer leaves it out; the amount is always the provider's answer. ``patient``: more tries will follow.

    Raises RailUnavailableError, RailRefusedError (there is no such payment).
    """
    rail = rail_of(rails, rail_name)
    async with sessions() as session:
        known = await _known(session, rail_name, rail_ref)
        ordered = None if known else await _ordered(session, rail_name, account)
    if known is not None:
        await settle(sessions, rails, known, clock)
        return
    truth = await rail.fetch(rail_ref)
    if ordered is not None and await _is_the_orders(sessions, rails, clock, ordered, truth, patient=patient):
        return
    async with sessions.begin() as session:
        await place(session, rails, rail, truth, clock.now(), account=account)


async def _is_the_orders(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    clock: Clock,
    payment_id: str,
    truth: PaymentTruth,
    *,
    patient: bool,
) -> bool:
    """Tell if money with a payment's account reference is what its own push to the phone collected (P44).

    It is where the rail itself says that it is as much as the push has collected, and no other money has been known by
    that yet. Else somebody typed the reference by hand: real money of its own, for the same meter (P51). While the push
    is undecided we wait for it. Raises RailUnavailableError to be asked again.
    """
    async with sessions() as session:
        payment = await session.get_one(Payment, payment_id)
    if payment.rail_ref is not None:
        await settle(sessions, rails, payment_id, clock)
    elif truth.captured_minor == payment.asked_minor:
        # The push's own answer never reached us, so this is the only name by which we can ask for its money.
        await settle(sessions, rails, payment_id, clock, rail_ref=truth.rail_ref, account=payment.account_reference)
    if await name_receipt(sessions, payment_id, truth):
        return True
    async with sessions() as session:
        payment = await session.get_one(Payment, payment_id, populate_existing=True)
    undecided = not payment.captured_minor and payment.status in {"CREATED", PaymentStatus.PENDING}
    if undecided and patient and truth.captured_minor == payment.asked_minor:
        raise RailUnavailableError(payment.rail, "the push to the phone is not decided yet")
    return False


async def name_receipt(sessions: Sessions, payment_id: str, truth: PaymentTruth) -> bool:
    """Keep the payer's receipt as a name of a payment, where the rail has confirmed that it is the same money.

    True where it is known by it now, or was before. Never where it is another amount, in another currency, or where the
    payment has a receipt of its own; the database refuses a receipt that another payment has.
    """
    async with sessions.begin() as session:
        payment = await lock_payment(session, payment_id)
        if truth.rail_ref in {payment.receipt_ref, payment.rail_ref}:
            return True
        same = (truth.captured_minor, truth.currency) == (payment.captured_minor, payment.currency)
        if payment.receipt_ref is not None or not payment.captured_minor or not same:
            return False
        if await _known(session, payment.rail, truth.rail_ref) is not None:
            return False
        payment.receipt_ref = truth.rail_ref
    return True


async def sweep(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, *, since: datetime, until: datetime
) -> int:
    """Ask every rail that takes unsolicited money what came in, and place what we have not heard of (P50).

    Returns how many payments were new to us. Raises RailUnavailableError.
    """
    found = 0
    for rail in rails.values():
        if not rail.capabilities.unsolicited:
            continue
        for truth in await rail.unsolicited(since, until):
            found += await _take_swept(sessions, rails, clock, rail, truth)
    return found


async def _take_swept(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, rail: Rail, truth: PaymentTruth
) -> bool:
    async with sessions() as session:
        known = await _known(session, rail.name, truth.rail_ref)
        ordered = await _ordered(session, rail.name, truth.account_reference)
    if known is not None:
        return False
    if ordered is not None:
        try:
            same = await _is_the_orders(sessions, rails, clock, ordered, truth, patient=True)
        except RailUnavailableError:
            # The next sweep overlaps this one and asks again.
            return False
        if same:
            return True
    async with sessions.begin() as session:
        return await place(session, rails, rail, truth, clock.now())


async def place(
    session: AsyncSession,
    rails: Mapping[str, Rail],
    rail: Rail,
    truth: PaymentTruth,
    now: datetime,
    *,
    account: str | None = None,
) -> bool:
    """Credit unsolicited money to its meter, or hold it; False where we know it already. Once, whoever comes twice."""
    if not truth.captured_minor:
        return False
    # Two workers may hear of the same money by two ways; between them a meter could appear or close.
    lock = func.pg_advisory_xact_lock(func.hashtextextended(f"unsolicited:{rail.name}:{truth.rail_ref}", 0))
    await session.execute(select(lock))
    account = truth.account_reference or account or ""
    suspense_key = f"{rail.name}:{truth.rail_ref}:unsolicited"
    known = await _known(session, rail.name, truth.rail_ref)
    held = await session.scalar(select(LedgerTransaction.id).where(LedgerTransaction.key == suspense_key))
    if known is not None or held is not None:
        return False
    meter = await _meter_for(session, rail.name, account)
    reason = _why_not(meter, truth, account)
    if meter is None or reason:
        await hold(
            session,
            key=suspense_key,
            rail=rail.name,
            truth=truth,
            amount_minor=truth.captured_minor,
            reason=reason,
            now=now,
            account_reference=account,
        )
        return True
    methods = rail.methods(truth.currency)
    rule = fee_rule(rails, methods[0].id if methods else rail.name)
    await _credit(session, rail, meter, truth, rule, now)
    return True


def _why_not(meter: Meter | None, truth: PaymentTruth, account: str) -> str:
    if meter is None:
        return f"no meter has the number {account!r}" if account else "no meter number was given"
    if meter.closed_at is not None:
        return f"meter {meter.serial} is closed"
    if meter.currency != truth.currency:
        return f"paid in {truth.currency}, meter {meter.serial} takes {meter.currency}"
    return ""


async def _known(session: AsyncSession, rail: str, rail_ref: str) -> str | None:
    """The payment that has this very money."""
    same = or_(Payment.rail_ref == rail_ref, Payment.alias_ref == rail_ref, Payment.receipt_ref == rail_ref)
    found: str | None = await session.scalar(select(Payment.id).where(Payment.rail == rail, same).limit(1))
    return found


async def _ordered(session: AsyncSession, rail: str, account: str | None) -> str | None:
    """The payment whose own account reference this is."""
    reference = (account or "").strip().upper()
    found: str | None = await session.scalar(
        select(Payment.id).where(Payment.rail == rail, Payment.account_reference == reference)
    )
    return found


async def _meter_for(session: AsyncSession, rail: str, account: str) -> Meter | None:
    """The meter that the account names, by its number or by a top-up that was begun for it."""
    ordered = await _ordered(session, rail, account)
    if ordered is not None:
        mine = select(TopUp.meter_id).join(Payment, Payment.top_up_id == TopUp.id).where(Payment.id == ordered)
        meter_id = await session.scalar(mine)
        return await session.get(Meter, meter_id)
    return await find_by_account(session, account[:MAX_ACCOUNT_LENGTH])


async def _credit(
    session: AsyncSession, rail: Rail, meter: Meter, truth: PaymentTruth, rule: FeeRule, now: datetime
) -> None:
    payment = new_payment(
        meter_id=meter.id,
        rail=rail.name,
        rail_ref=truth.rail_ref,
        receipt_ref=truth.receipt_ref or truth.rail_ref,
        origin="PAYBILL",
        asked_minor=truth.captured_minor,
        fee_agreed_minor=fee_for(rule, truth.captured_minor),
        currency=truth.currency,
        now=now,
    )
    await session.flush()
    conn = await session.connection()
    money = await load_meter(conn, meter.id, now)
    around = await names_around(conn, payment, truth)
    # This is how the rail's answer is about this payment: it is made of it.
    own = replace(truth, reference=payment.id)
    change = decide(payment, money, around, own, now, polls_of(rail))
    await save_one(session, change, now, Opening(f"paybill:{truth.rail_ref}"))
