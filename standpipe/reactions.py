"""Who reacts to what: the one ``match`` over facts. A reaction may run twice, so each goes by a business key."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, assert_never
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.overview import MeterView, meter_view
from standpipe.billing.quotes import quote_credit
from standpipe.meters.forgetting import end_codes
from standpipe.notifications import forgetting as notifications_forgetting
from standpipe.notifications.alerts import check_low_balance, raise_once
from standpipe.notifications.complaints import alert_kind_of, follow_condition
from standpipe.notifications.models import AlertKind
from standpipe.notifications.rules import LowBalanceSignal
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
from standpipe.payments import auto_top_up
from standpipe.payments import forgetting as payments_forgetting
from standpipe.payments.guests import is_guests
from standpipe.payments.rails.port import Rail
from standpipe.payments.receipts import credit_of, issue
from standpipe.payments.refunds import meter_stated
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.tariffs.periods import BillLine
from standpipe.vending.views import grouped, token_by_id

_log = structlog.get_logger(__name__)


async def follow_up(
    sessions: Sessions, rails: Mapping[str, Rail], fact: Fact, clock: Clock, offline_after: timedelta
) -> None:
    """Reactions that begin transactions of their own, because a provider may be called between them."""
    match fact:
        case UsageRecorded(meter_id):
            async with sessions() as session:
                view = await meter_view(session, meter_id, clock.now(), offline_after=offline_after)
            if view is not None:
                await auto_top_up.consider(sessions, rails, clock, _auto_signal(view, clock.now(), offline_after))
        case TopUpPaid(top_up_id) | TopUpFailed(top_up_id):
            await auto_top_up.concluded(sessions, clock, top_up_id)
        case MeterStated(meter_id):
            await meter_stated(sessions, meter_id, clock.now())
        case CustomerForgotten(_, phone):
            await payments_forgetting.blank_notices(sessions, phone)
        case PaymentTracesLeft(customer_id, top_up_ids):
            await payments_forgetting.forget_rest(sessions, rails, customer_id, top_up_ids)
        case _:
            pass


async def react(  # noqa: C901 - one table of facts.
    session: AsyncSession, fact: Fact, clock: Clock, offline_after: timedelta
) -> None:
    """Reactions that join one transaction, in which the fact is also ticked off."""
    now = clock.now()
    match fact:
        case UsageRecorded(meter_id):
            await _check_balance(session, meter_id, now, offline_after)
        case TopUpPaid(top_up_id, meter_id, _, posting_key):
            await _issue_receipt(session, meter_id, top_up_id, posting_key, now, offline_after)
            await _check_balance(session, meter_id, now, offline_after)
        case CreditConfirmed(meter_id, accepted_minor):
            await _tell(session, meter_id, f"credit:{meter_id}:{accepted_minor}", None, now, offline_after)
        case TopUpFailed(top_up_id, meter_id):
            await _tell_failed(session, meter_id, top_up_id, now, offline_after)
        case MoneyTakenBack(top_up_id, meter_id, posting_key):
            await _issue_receipt(session, meter_id, top_up_id, posting_key, now, offline_after)
            await _tell(session, meter_id, f"taken-back:{posting_key}", "TAKEN_BACK", now, offline_after)
        case AutoTopUpEnded(auto_id, meter_id, top_up_id, outcome):
            key = f"auto:{auto_id}:{top_up_id}:{outcome}"
            await _tell(session, meter_id, key, f"AUTO_{outcome}", now, offline_after)
        case TokenIssued() | ConditionChanged():
            await _tell_of_meter(session, fact, now, offline_after)
        case MoneyInSuspense() | SecondPayment():
            _call_a_person(fact)
        case AccessNews() | AccessEnded():
            await _access_changed(session, fact, now)
        case CustomerForgotten():
            await _forget(session, fact)
        case MeterStated() | PaymentTracesLeft():
            pass  # For follow_up alone.
        case _:
            assert_never(fact)


def _call_a_person(fact: MoneyInSuspense | SecondPayment) -> None:
    if isinstance(fact, MoneyInSuspense):
        _log.error("money in suspense: a person must look", top_up_id=fact.top_up_id, reason=fact.reason)
    else:
        _log.error("one intention paid twice: both are credited", top_up_id=fact.top_up_id, sibling_id=fact.sibling_id)


async def _check_balance(session: AsyncSession, meter_id: str, now: datetime, offline_after: timedelta) -> None:
    view = await meter_view(session, meter_id, now, offline_after=offline_after)
    if view is not None and view.on_meter_as_of is not None:
        signal = _signal(view, now, offline_after)
        await check_low_balance(session, meter_id=meter_id, signal=signal, params=_params(view), now=now)


async def _tell(
    session: AsyncSession, meter_id: str, key: str, variant: str | None, now: datetime, offline_after: timedelta
) -> None:
    """News about money, to every device of the household, once per key."""
    view = await meter_view(session, meter_id, now, offline_after=offline_after)
    if view is None:
        return
    params = _params(view) | ({"variant": variant} if variant else {})
    await raise_once(session, meter_id=meter_id, kind=AlertKind.TOP_UP, business_key=key, params=params, now=now)


async def _tell_failed(
    session: AsyncSession, meter_id: str, top_up_id: str, now: datetime, offline_after: timedelta
) -> None:
    """A payment of a member's that did not go through. A stranger's is no news: anybody could ring the phones."""
    if not await is_guests(session, top_up_id):
        await _tell(session, meter_id, f"top-up-failed:{top_up_id}", "TOP_UP_FAILED", now, offline_after)


async def _forget(session: AsyncSession, fact: CustomerForgotten) -> None:
    """Each room forgets its part of a customer."""
    await end_codes(session, fact.household_ids)
    await notifications_forgetting.forget(session, fact.customer_id)
    await payments_forgetting.forget(session, fact.customer_id, fact.phone)


async def _tell_of_meter(
    session: AsyncSession, fact: TokenIssued | ConditionChanged, now: datetime, offline_after: timedelta
) -> None:
    if isinstance(fact, TokenIssued):
        await _tell_token(session, fact, now, offline_after)
    else:
        await _follow_condition(session, fact, now, offline_after)


async def _follow_condition(
    session: AsyncSession, fact: ConditionChanged, now: datetime, offline_after: timedelta
) -> None:
    """A complaint of the meter's, for its household; one that the utility alone looks after is in the log."""
    if alert_kind_of(fact.condition) is None:
        return
    view = await meter_view(session, fact.meter_id, now, offline_after=offline_after)
    if view is None:
        return
    await follow_condition(
        session,
        meter_id=fact.meter_id,
        condition=fact.condition,
        raised_at=datetime.fromisoformat(fact.raised_at) if fact.raised_at else None,
        params=_params(view),
        since=view.history_since,
        now=now,
    )


async def _tell_token(session: AsyncSession, fact: TokenIssued, now: datetime, offline_after: timedelta) -> None:
    """The token's digits, to every device of the household; they open nothing but this meter, and once.

    A household that has moved in since the water was paid for is not told: it was others' money.
    """
    view = await meter_view(session, fact.meter_id, now, offline_after=offline_after)
    token = await token_by_id(session, fact.token_id)
    if view is None or token is None or not token.digits:
        return
    if token.requested_at.astimezone(ZoneInfo(view.time_zone)).date() < view.history_start:
        return
    params = _params(view) | {"variant": "TOKEN_ISSUED", "token": grouped(token.digits[0])}
    await raise_once(
        session,
        meter_id=fact.meter_id,
        kind=AlertKind.TOP_UP,
        business_key=f"token:{fact.token_id}:{fact.key_revision}",
        params=params,
        now=now,
    )


async def _access_changed(session: AsyncSession, fact: AccessNews | AccessEnded, now: datetime) -> None:
    """News goes to those who had access before: they may have lost it by now, and must know all the more."""
    if isinstance(fact, AccessEnded):
        await auto_top_up.end_without_access(session, fact.meter_id, now)
        return
    await raise_once(
        session,
        meter_id=fact.meter_id,
        kind=AlertKind.ACCESS,
        business_key=f"access:{fact.event_id}",
        params={"label": fact.label, "variant": f"ACCESS_{fact.how}"},
        now=now,
        told=fact.told,
    )


async def _issue_receipt(
    session: AsyncSession, meter_id: str, top_up_id: str, posting_key: str, now: datetime, offline_after: timedelta
) -> None:
    """A receipt for one posting, its credit explained by tier at the use so far.

    In a transaction of its own, after the money's: the utility's receipt counter must not make payments wait.
    """
    credit_minor = await credit_of(session, posting_key)
    if credit_minor is None:
        return
    view = await meter_view(session, meter_id, now, offline_after=offline_after)
    bill: tuple[BillLine, ...] = ()
    overdrawn_minor = 0
    if view is not None and credit_minor > 0:
        # As a quote would have explained it before: with the wallet as it was without this credit.
        before = replace(view, ledger_minor=view.ledger_minor - credit_minor)
        quoted = quote_credit(before, credit_minor, now)
        bill, overdrawn_minor = quoted.bill, quoted.overdrawn_minor
    await issue(
        session, top_up_id=top_up_id, posting_key=posting_key, bill=bill, overdrawn_minor=overdrawn_minor, now=now
    )


def _signal(view: MeterView, now: datetime, offline_after: timedelta) -> LowBalanceSignal:
    days = None if view.lasts is None else view.lasts.days_likely
    # By the meter's own last word, not its last sign of life: one that only registers says nothing about its water.
    fresh = view.on_meter_as_of is not None and now - view.on_meter_as_of < offline_after
    return LowBalanceSignal(days, view.ledger_minor, fresh, view.volume_left_ml)


def _auto_signal(view: MeterView, now: datetime, offline_after: timedelta) -> auto_top_up.Signal:
    signal = _signal(view, now, offline_after)
    return auto_top_up.Signal(view.id, signal.days_left, view.ledger_minor, signal.fresh, view.granted_ml)


def _params(view: MeterView) -> dict[str, Any]:
    return {
        "label": view.label,
        "credit_minor": view.ledger_minor,
        "left_ml": view.volume_left_ml,
        "currency": view.currency,
        "days_left": 0 if view.lasts is None else int(view.lasts.days_likely),
    }
