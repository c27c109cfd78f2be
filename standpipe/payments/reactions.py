"""Reactions of this room to facts: receipts, standing orders, refunds that wait for a meter's word, forgetting."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import assert_never

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.fact_meters import Meters
from standpipe.billing.overview import MeterView, meter_view
from standpipe.billing.quotes import quote_credit
from standpipe.meters.models import WalletKind
from standpipe.outbox.facts import (
    AccessEnded,
    AccessNews,
    AutoTopUpEnded,
    ConditionChanged,
    CreditConfirmed,
    CustomerForgotten,
    Fact,
    MeterStated,
    MoneyInSuspense,
    MoneyTakenBack,
    PaymentTracesLeft,
    SecondPayment,
    TokenIssued,
    TopUpFailed,
    TopUpPaid,
    UsageRecorded,
)
from standpipe.payments import auto_top_up, forgetting
from standpipe.payments.rails.port import Rail
from standpipe.payments.receipts import credit_of, entries_of, holds_volume, issue
from standpipe.payments.refunds import meter_stated
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.tariffs.periods import BillLine

_log = structlog.get_logger(__name__)


async def standing_orders(sessions: Sessions, facts: Sequence[Fact]) -> frozenset[str]:
    """Of the meters that these facts are about, those with a standing order; for ``follow_up``."""
    meter_ids = {fact.meter_id for fact in facts if isinstance(fact, UsageRecorded | TopUpPaid | TopUpFailed)}
    return await auto_top_up.standing(sessions, meter_ids)


async def follow_up(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    fact: Fact,
    clock: Clock,
    offline_after: timedelta,
    orders: Collection[str],
) -> None:
    """Reactions that begin transactions of their own, because a provider may be called between them.

    ``orders``: meters with a standing order.
    """
    match fact:
        case UsageRecorded(meter_id) if meter_id in orders:
            async with sessions() as session:
                view = await meter_view(session, meter_id, clock.now(), offline_after=offline_after)
            if view is not None:
                signal = _auto_signal(Meters(clock.now(), offline_after, {}), view)
                await auto_top_up.consider(sessions, rails, clock, signal)
        case TopUpPaid() | TopUpFailed() if fact.meter_id in orders:
            await auto_top_up.concluded(sessions, clock, fact.meter_id)
        case MeterStated(meter_id):
            await meter_stated(sessions, meter_id, clock.now())
        case CustomerForgotten(_, phone):
            await forgetting.blank_notices(sessions, phone)
        case PaymentTracesLeft(customer_id, top_up_ids):
            await forgetting.forget_rest(sessions, rails, customer_id, top_up_ids)
        case CreditConfirmed() | MoneyTakenBack() | AutoTopUpEnded() | TokenIssued() | ConditionChanged():
            pass  # For react alone, as the rest.
        case MoneyInSuspense() | SecondPayment() | AccessNews() | AccessEnded():
            pass
        case UsageRecorded() | TopUpPaid() | TopUpFailed():
            pass
        case _:
            assert_never(fact)


def meter_of(fact: Fact) -> str | None:
    """The meter that ``on`` needs to know for a fact."""
    return fact.meter_id if isinstance(fact, TopUpPaid | MoneyTakenBack) else None


async def on(session: AsyncSession, fact: Fact, meters: Meters) -> None:
    """React in the transaction in which the facts of a batch are ticked off."""
    match fact:
        case TopUpPaid(_, payment_id, meter_id, _, posting_key) | MoneyTakenBack(_, payment_id, meter_id, posting_key):
            await _issue_receipt(session, meter_id, payment_id, posting_key, meters)
        case MoneyInSuspense() | SecondPayment():
            _call_a_person(fact)
        case AccessEnded(meter_id):
            await auto_top_up.end_without_access(session, meter_id, meters.now)
        case CustomerForgotten(customer_id, phone):
            await forgetting.forget(session, customer_id, phone)
        case UsageRecorded() | CreditConfirmed() | TopUpFailed() | AutoTopUpEnded() | TokenIssued():
            pass
        case ConditionChanged() | AccessNews() | MeterStated() | PaymentTracesLeft():
            pass
        case _:
            assert_never(fact)


def _call_a_person(fact: MoneyInSuspense | SecondPayment) -> None:
    if isinstance(fact, MoneyInSuspense):
        _log.error("money in suspense: a person must look", top_up_id=fact.top_up_id, reason=fact.reason)
    else:
        _log.error("one intention paid twice: both are credited", top_up_id=fact.top_up_id, payment_id=fact.payment_id)


async def _issue_receipt(
    session: AsyncSession, meter_id: str, payment_id: str, posting_key: str, meters: Meters
) -> None:
    """A receipt for one posting, its credit explained by tier at the use so far.

    In a transaction of its own, after the money's: the utility's receipt counter must not make payments wait.
    """
    entries = await entries_of(session, posting_key)
    if not entries:
        return
    credit_minor = credit_of(entries)
    view = meters.get(meter_id)
    bill: tuple[BillLine, ...] = ()
    overdrawn_minor = 0
    if view is not None and credit_minor > 0:
        # As a quote would have explained it before: with the wallet as it was without this credit.
        before = replace(view, ledger_minor=view.ledger_minor - credit_minor)
        quoted = quote_credit(before, credit_minor, meters.now)
        bill, overdrawn_minor = quoted.bill, quoted.overdrawn_minor
    await issue(
        session,
        payment_id=payment_id,
        posting_key=posting_key,
        entries=entries,
        bill=bill,
        bought=view.wallet_kind is WalletKind.VOLUME if view is not None else await holds_volume(session, payment_id),
        overdrawn_minor=overdrawn_minor,
        now=meters.now,
    )


def _auto_signal(meters: Meters, view: MeterView) -> auto_top_up.Signal:
    days = None if view.lasts is None else view.lasts.days_likely
    return auto_top_up.Signal(view.id, days, view.ledger_minor, meters.is_fresh(view), view.granted)
