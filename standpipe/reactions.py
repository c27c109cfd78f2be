"""Reactions to facts: the one ``match`` over them. A reaction may run twice, so each goes by a business key.

Facts come in batches: what they ask of their meters is read once for all of them (``Meters``).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, assert_never
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.overview import MeterView, meter_view, meter_views
from standpipe.billing.quotes import quote_credit
from standpipe.meters.forgetting import end_codes
from standpipe.meters.models import WalletKind
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
from standpipe.payments.receipts import credit_of, entries_of, holds_volume, issue
from standpipe.payments.refunds import meter_stated
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.tariffs.periods import BillLine
from standpipe.vending.views import grouped, token_by_id

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
                await auto_top_up.consider(sessions, rails, clock, _auto_signal(view, clock.now(), offline_after))
        case TopUpPaid() | TopUpFailed() if fact.meter_id in orders:
            await auto_top_up.concluded(sessions, clock, fact.meter_id)
        case MeterStated(meter_id):
            await meter_stated(sessions, meter_id, clock.now())
        case CustomerForgotten(_, phone):
            await payments_forgetting.blank_notices(sessions, phone)
        case PaymentTracesLeft(customer_id, top_up_ids):
            await payments_forgetting.forget_rest(sessions, rails, customer_id, top_up_ids)
        case CreditConfirmed() | MoneyTakenBack() | AutoTopUpEnded() | TokenIssued() | ConditionChanged():
            pass  # For react alone, as the rest.
        case MoneyInSuspense() | SecondPayment() | AccessNews() | AccessEnded():
            pass
        case UsageRecorded() | TopUpPaid() | TopUpFailed():
            pass
        case _:
            assert_never(fact)


@dataclass(frozen=True, slots=True)
class Meters:
    """The meters of a batch of facts as they stand at ``now``. No reaction changes what is seen here."""

    now: datetime
    offline_after: timedelta
    views: Mapping[str, MeterView]
    looked_at: set[str] = field(default_factory=set)
    """Meters whose credit has been looked at: at one instant, a second look tells nothing new."""

    def get(self, meter_id: str) -> MeterView | None:
        """None for a meter without a household."""
        return self.views.get(meter_id)


async def load_meters(
    session: AsyncSession, facts: Collection[Fact], now: datetime, offline_after: timedelta
) -> Meters:
    """Load what these facts' reactions need to know of their meters; five statements, whatever their number."""
    ids = {meter_id for fact in facts if (meter_id := _meter_looked_at(fact)) is not None}
    views = await meter_views(session, sorted(ids), now, offline_after=offline_after) if ids else {}
    return Meters(now, offline_after, views)


def _meter_looked_at(fact: Fact) -> str | None:
    match fact:
        case ConditionChanged() if alert_kind_of(fact.condition) is None:
            return None
        case UsageRecorded() | TopUpPaid() | CreditConfirmed() | TopUpFailed() | MoneyTakenBack() | AutoTopUpEnded():
            return fact.meter_id
        case TokenIssued() | ConditionChanged():
            return fact.meter_id
        case _:
            return None


async def react(session: AsyncSession, fact: Fact, meters: Meters) -> None:  # noqa: C901 - one table of facts.
    """Reactions that join one transaction, in which the facts of a batch are also ticked off."""
    match fact:
        case UsageRecorded(meter_id):
            await _check_balance(session, meter_id, meters)
        case TopUpPaid(_, payment_id, meter_id, _, posting_key):
            await _issue_receipt(session, meter_id, payment_id, posting_key, meters)
            await _check_balance(session, meter_id, meters)
        case CreditConfirmed(meter_id, accepted_minor):
            await _tell(session, meter_id, f"credit:{meter_id}:{accepted_minor}", None, meters)
        case TopUpFailed(top_up_id, meter_id):
            await _tell_failed(session, meter_id, top_up_id, meters)
        case MoneyTakenBack(_, payment_id, meter_id, posting_key):
            await _issue_receipt(session, meter_id, payment_id, posting_key, meters)
            await _tell(session, meter_id, f"taken-back:{posting_key}", "TAKEN_BACK", meters)
        case AutoTopUpEnded(auto_id, meter_id, top_up_id, outcome):
            key = f"auto:{auto_id}:{top_up_id}:{outcome}"
            await _tell(session, meter_id, key, f"AUTO_{outcome}", meters)
        case TokenIssued() | ConditionChanged():
            await _tell_of_meter(session, fact, meters)
        case MoneyInSuspense() | SecondPayment():
            _call_a_person(fact)
        case AccessNews() | AccessEnded():
            await _access_changed(session, fact, meters.now)
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
        _log.error("one intention paid twice: both are credited", top_up_id=fact.top_up_id, payment_id=fact.payment_id)


async def _check_balance(session: AsyncSession, meter_id: str, meters: Meters) -> None:
    view = meters.get(meter_id)
    if view is None or view.on_meter_as_of is None or meter_id in meters.looked_at:
        return
    meters.looked_at.add(meter_id)
    signal = _signal(view, meters.now, meters.offline_after)
    await check_low_balance(session, meter_id=meter_id, signal=signal, params=_params(view), now=meters.now)


async def _tell(session: AsyncSession, meter_id: str, key: str, variant: str | None, meters: Meters) -> None:
    """News about money, to every device of the household, once per key."""
    view = meters.get(meter_id)
    if view is None:
        return
    params = _params(view) | ({"variant": variant} if variant else {})
    await raise_once(session, meter_id=meter_id, kind=AlertKind.TOP_UP, business_key=key, params=params, now=meters.now)


async def _tell_failed(session: AsyncSession, meter_id: str, top_up_id: str, meters: Meters) -> None:
    """A payment of a member's that did not go through. A stranger's is no news: anybody could ring the phones."""
    if not await is_guests(session, top_up_id):
        await _tell(session, meter_id, f"top-up-failed:{top_up_id}", "TOP_UP_FAILED", meters)


async def _forget(session: AsyncSession, fact: CustomerForgotten) -> None:
    """Each room forgets its part of a customer."""
    await end_codes(session, fact.household_ids)
    await notifications_forgetting.forget(session, fact.customer_id)
    await payments_forgetting.forget(session, fact.customer_id, fact.phone)


async def _tell_of_meter(session: AsyncSession, fact: TokenIssued | ConditionChanged, meters: Meters) -> None:
    if isinstance(fact, TokenIssued):
        await _tell_token(session, fact, meters)
    else:
        await _follow_condition(session, fact, meters)


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


def _signal(view: MeterView, now: datetime, offline_after: timedelta) -> LowBalanceSignal:
    days = None if view.lasts is None else view.lasts.days_likely
    # By the meter's own last word, not its last sign of life: one that only registers says nothing about its water.
    fresh = view.on_meter_as_of is not None and now - view.on_meter_as_of < offline_after
    return LowBalanceSignal(days, view.ledger_minor, fresh, view.volume_left_ml)


def _auto_signal(view: MeterView, now: datetime, offline_after: timedelta) -> auto_top_up.Signal:
    signal = _signal(view, now, offline_after)
    return auto_top_up.Signal(view.id, signal.days_left, view.ledger_minor, signal.fresh, view.granted)


def _params(view: MeterView) -> dict[str, Any]:
    return {
        "label": view.label,
        "credit_minor": view.ledger_minor,
        "left_ml": view.volume_left_ml,
        "currency": view.currency,
        "days_left": 0 if view.lasts is None else int(view.lasts.days_likely),
    }
