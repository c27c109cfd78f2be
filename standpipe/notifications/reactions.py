"""Reactions of this room to facts: whom it tells. A reaction may run twice, so each goes by a business key."""

from datetime import datetime
from typing import Any, assert_never
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.fact_meters import Meters
from standpipe.billing.overview import MeterView
from standpipe.notifications import forgetting
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
from standpipe.payments.guests import is_guests
from standpipe.vending.views import grouped, token_by_id


def meter_of(fact: Fact) -> str | None:
    """The meter that ``on`` needs to know for a fact."""
    match fact:
        case ConditionChanged() if alert_kind_of(fact.condition) is None:
            return None
        case UsageRecorded() | TopUpPaid() | CreditConfirmed() | TopUpFailed() | MoneyTakenBack() | AutoTopUpEnded():
            return fact.meter_id
        case TokenIssued() | ConditionChanged():
            return fact.meter_id
        case _:
            return None


async def on(session: AsyncSession, fact: Fact, meters: Meters) -> None:
    """React in the transaction in which the facts of a batch are ticked off."""
    match fact:
        case UsageRecorded() | TopUpPaid():
            await _check_balance(session, fact.meter_id, meters)
        case CreditConfirmed() | TopUpFailed() | MoneyTakenBack() | AutoTopUpEnded():
            await _tell_of_money(session, fact, meters)
        case TokenIssued():
            await _tell_token(session, fact, meters)
        case ConditionChanged():
            await _follow_condition(session, fact, meters)
        case AccessNews():
            await _tell_access(session, fact, meters)
        case CustomerForgotten(customer_id):
            await forgetting.forget(session, customer_id)
        case AccessEnded() | MeterStated() | MoneyInSuspense() | SecondPayment() | PaymentTracesLeft():
            pass
        case _:
            assert_never(fact)


async def _check_balance(session: AsyncSession, meter_id: str, meters: Meters) -> None:
    view = meters.get(meter_id)
    if view is None or view.on_meter_as_of is None or meter_id in meters.looked_at:
        return
    meters.looked_at.add(meter_id)
    days = None if view.lasts is None else view.lasts.days_likely
    signal = LowBalanceSignal(days, view.ledger_minor, meters.is_fresh(view), view.volume_left_ml)
    await check_low_balance(session, meter_id=meter_id, signal=signal, params=_params(view), now=meters.now)


async def _tell(session: AsyncSession, meter_id: str, key: str, variant: str | None, meters: Meters) -> None:
    """News about money, to every device of the household, once per key."""
    view = meters.get(meter_id)
    if view is None:
        return
    params = _params(view) | ({"variant": variant} if variant else {})
    await raise_once(session, meter_id=meter_id, kind=AlertKind.TOP_UP, business_key=key, params=params, now=meters.now)


async def _tell_of_money(
    session: AsyncSession, fact: CreditConfirmed | TopUpFailed | MoneyTakenBack | AutoTopUpEnded, meters: Meters
) -> None:
    match fact:
        case CreditConfirmed(meter_id, accepted):
            await _tell(session, meter_id, f"credit:{meter_id}:{accepted}", None, meters)
        case TopUpFailed(top_up_id, meter_id):
            # A stranger's that did not go through is no news: anybody could ring the phones.
            if not await is_guests(session, top_up_id):
                await _tell(session, meter_id, f"top-up-failed:{top_up_id}", "TOP_UP_FAILED", meters)
        case MoneyTakenBack():
            await _tell(session, fact.meter_id, f"taken-back:{fact.posting_key}", "TAKEN_BACK", meters)
        case AutoTopUpEnded(auto_id, meter_id, top_up_id, outcome):
            await _tell(session, meter_id, f"auto:{auto_id}:{top_up_id}:{outcome}", f"AUTO_{outcome}", meters)
        case _:
            assert_never(fact)


async def _follow_condition(session: AsyncSession, fact: ConditionChanged, meters: Meters) -> None:
    """A complaint of the meter's, for its household; one that the utility alone looks after is in the log."""
    view = meters.get(fact.meter_id)
    if view is None or alert_kind_of(fact.condition) is None:
        return
    await follow_condition(
        session,
        meter_id=fact.meter_id,
        condition=fact.condition,
        raised_at=datetime.fromisoformat(fact.raised_at) if fact.raised_at else None,
        params=_params(view),
        since=view.history_since,
        now=meters.now,
    )


async def _tell_token(session: AsyncSession, fact: TokenIssued, meters: Meters) -> None:
    """The token's digits, to every device of the household; they open nothing but this meter, and once.

    A household that has moved in since the water was paid for is not told: it was others' money.
    """
    view = meters.get(fact.meter_id)
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
        now=meters.now,
    )


async def _tell_access(session: AsyncSession, fact: AccessNews, meters: Meters) -> None:
    """Tell those who had access before: they may have lost it by now, and must know all the more."""
    await raise_once(
        session,
        meter_id=fact.meter_id,
        kind=AlertKind.ACCESS,
        business_key=f"access:{fact.event_id}",
        params={"label": fact.label, "variant": f"ACCESS_{fact.how}"},
        now=meters.now,
        told=fact.told,
    )


def _params(view: MeterView) -> dict[str, Any]:
    return {
        "label": view.label,
        "credit_minor": view.ledger_minor,
        "left_ml": view.volume_left_ml,
        "currency": view.currency,
        "days_left": 0 if view.lasts is None else int(view.lasts.days_likely),
    }
