"""Automatic top-ups: a standing order that charges a saved card before the water runs out.

One charge under way per meter, a cap per day, a pause after each decline, off after MAX_FAILURES in a row; the
customer is told each time. Every decision is taken under the standing order's row lock, so that two triggers at once
come to one charge (P34). What the customer reads (the day of the cap, the pause) goes by the town's clock.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import and_, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.households.models import HouseholdRole, Membership
from standpipe.ledger.posting import wallet_balance_minor
from standpipe.meters.access import require_meter
from standpipe.meters.models import Meter, WalletKind
from standpipe.outbox.facts import AutoTopUpEnded, publish
from standpipe.payments.models import Payment, TopUp
from standpipe.payments.rails.port import PaymentStatus, Rail
from standpipe.payments.rails.registry import fee_rule, rail_of
from standpipe.payments.request_keys import once
from standpipe.payments.saved_methods import require_card
from standpipe.payments.split import fee_for
from standpipe.payments.top_ups import CREATED, create_at_provider, is_disputed, store_order
from standpipe.payments.vend_models import AutoTopUp, PaymentCustomer, SavedMethod
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, by_statement
from standpipe.platform.errors import ForbiddenError, InvalidInputError, NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase
from standpipe.platform.units import local_midnight

MAX_FAILURES = 3
PAUSE = timedelta(hours=1)
MAX_PAUSE = timedelta(hours=24)
_log = structlog.get_logger(__name__)


class AutoMode(StrEnum):
    """FIXED: always the amount. UP_TO: what brings the balance up to the amount."""

    FIXED = "FIXED"
    UP_TO = "UP_TO"


class AutoOutcome(StrEnum):
    """Outcomes that a customer is told. AUTHENTICATE: the bank wants them to confirm in the app."""

    PAID = "PAID"
    DECLINED = "DECLINED"
    AUTHENTICATE = "AUTHENTICATE"
    TURNED_OFF = "TURNED_OFF"


_AUTHENTICATE = frozenset({"authentication_required", "requires_action"})
_UNDER_WAY = (CREATED, PaymentStatus.PENDING)


@dataclass(frozen=True, slots=True)
class StandingOrder:
    """An automatic top-up that a customer asks for; amounts in minor units of the meter's currency."""

    meter_id: str
    saved_method_id: str
    currency: str
    threshold_days: int
    mode: AutoMode
    amount_minor: int
    daily_cap_minor: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Forecast of a meter's credit; the wallet, and the total granted to it (its own unit), when that was told."""

    meter_id: str
    days_left: float | None
    wallet_minor: int
    fresh: bool
    granted: int | None = None


@dataclass(frozen=True, slots=True)
class AutoView:
    """A standing order with its card."""

    order: AutoTopUp
    card: SavedMethod


async def order_of_meter(session: AsyncSession, meter_id: str) -> AutoView | None:
    """The standing order of a meter, or None; one of somebody who lives there no more is nobody's business."""
    row = (
        await session.execute(
            select(AutoTopUp, SavedMethod)
            .join(SavedMethod, SavedMethod.id == AutoTopUp.saved_method_id)
            .join(Meter, Meter.id == AutoTopUp.meter_id)
            .join(
                Membership,
                and_(Membership.household_id == Meter.household_id, Membership.customer_id == AutoTopUp.customer_id),
            )
            .where(AutoTopUp.meter_id == meter_id)
            .execution_options(populate_existing=True)
        )
    ).one_or_none()
    return None if row is None else AutoView(row[0], row[1])


async def set_order(
    session: AsyncSession, rails: Mapping[str, Rail], *, customer_id: str, order: StandingOrder, now: datetime
) -> AutoTopUp:
    """Set or change the standing order of a meter, and turn it on.

    Raises NotFoundError (meter or card), InvalidInputError for amounts outside the card's limits.
    """
    meter = await require_meter(session, customer_id=customer_id, meter_id=order.meter_id, role=HouseholdRole.PAYER)
    card = await require_card(session, customer_id=customer_id, saved_method_id=order.saved_method_id)
    _check(rail_of(rails, card.rail), meter, order)
    values = {
        "customer_id": customer_id,
        "saved_method_id": card.id,
        "currency": meter.currency,
        "threshold_days": order.threshold_days,
        "mode": order.mode,
        "amount_minor": order.amount_minor,
        "daily_cap_minor": order.daily_cap_minor,
        "enabled": True,
        "paused_reason": None,
        "failures": 0,
        "not_before": None,
        "updated_at": now,
    }
    await session.execute(
        insert(AutoTopUp)
        .values(id=new_id("atu"), meter_id=meter.id, **values)
        .on_conflict_do_update(index_elements=["meter_id"], set_=values)
    )
    return (
        await session.scalars(
            select(AutoTopUp).where(AutoTopUp.meter_id == meter.id).execution_options(populate_existing=True)
        )
    ).one()


async def set_order_once(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    clock: Clock,
    *,
    customer_id: str,
    key: str,
    order: StandingOrder,
) -> bool:
    """``set_order``, once per key; returns whether this key had set it before. Raises IdempotencyMismatchError too."""

    async def act(session: AsyncSession) -> dict[str, Any]:
        row = await set_order(session, rails, customer_id=customer_id, order=order, now=clock.now())
        return {"auto_top_up_id": row.id}

    _, replayed = await once(
        sessions, customer_id=customer_id, key=key, mutation="autoTopUpSet", order=asdict(order), act=act
    )
    return replayed


async def turn_off(session: AsyncSession, *, customer_id: str, meter_id: str, now: datetime) -> AutoTopUp:
    """Turn a meter's standing order off; a charge under way still counts.

    Raises NotFoundError, and ForbiddenError for all but the card's owner and the household's.
    """
    await require_meter(session, customer_id=customer_id, meter_id=meter_id)
    row = await _lock(session, meter_id)
    if row is None or row.customer_id != customer_id:
        await require_meter(session, customer_id=customer_id, meter_id=meter_id, role=HouseholdRole.OWNER)
    if row is None:
        raise NotFoundError("There is no automatic top-up for this meter.")
    row.enabled, row.paused_reason, row.updated_at = False, "customer", now
    return row


async def end_without_access(session: AsyncSession, meter_id: str, now: datetime) -> None:
    """Turn a meter's standing order off where its card's owner may not pay there any more."""
    row = await _lock(session, meter_id)
    if row is not None and row.enabled and await _meter_to_pay(session, row) is None:
        row.updated_at = now


async def consider(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, signal: Signal) -> str | None:
    """Charge, where the standing order of this meter says so; returns the top-up's id. Harmless when called twice."""
    now = clock.now()
    async with sessions.begin() as session:
        row = await _lock(session, signal.meter_id)
        if row is None or not row.enabled:
            return None
        await _conclude(session, row, now)
        top_up_id = await _decide(session, rails, row, signal, now)
        if top_up_id is None:
            return None
        row.awaiting_top_up_id, row.updated_at = top_up_id, now
    await create_at_provider(sessions, rails, clock, top_up_id)
    await concluded(sessions, clock, signal.meter_id)
    return top_up_id


async def concluded(sessions: Sessions, clock: Clock, meter_id: str) -> None:
    """A top-up of a meter has come to an end, perhaps one of ours: count it, pause or turn off, and tell it once."""
    async with sessions.begin() as session:
        row = await _lock(session, meter_id)
        if row is not None:
            await _conclude(session, row, clock.now())


async def standing(sessions: Sessions, meter_ids: Collection[str]) -> frozenset[str]:
    """Return which of these meters have an automatic top-up that is on, or waits for one of its own; one statement."""
    if not meter_ids:
        return frozenset()
    wanted = or_(AutoTopUp.enabled, AutoTopUp.awaiting_top_up_id.is_not(None))
    async with by_statement(sessions) as session:
        found = await session.scalars(select(AutoTopUp.meter_id).where(AutoTopUp.meter_id.in_(meter_ids), wanted))
        return frozenset(found)


async def _lock(session: AsyncSession, meter_id: str) -> AutoTopUp | None:
    row: AutoTopUp | None = await session.scalar(
        select(AutoTopUp)
        .where(AutoTopUp.meter_id == meter_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return row


async def _conclude(session: AsyncSession, row: AutoTopUp, now: datetime) -> None:
    if row.awaiting_top_up_id is None:
        return
    theirs = select(Payment).where(Payment.top_up_id == row.awaiting_top_up_id).order_by(Payment.started_real_at)
    made = (await session.scalars(theirs.execution_options(populate_existing=True))).all()
    # Of several payments for an order the one that was paid speaks for it.
    payment = next((one for one in made if one.captured_minor), made[-1])
    if not payment.captured_minor and any(one.status in _UNDER_WAY for one in made):
        return
    row.awaiting_top_up_id, row.updated_at = None, now
    if payment.captured_minor:
        row.failures, row.not_before, outcome = 0, None, AutoOutcome.PAID
    else:
        row.failures += 1
        row.not_before = now + min(PAUSE * 2 ** (row.failures - 1), MAX_PAUSE)
        outcome = AutoOutcome.AUTHENTICATE if payment.failure_code in _AUTHENTICATE else AutoOutcome.DECLINED
        if row.failures >= MAX_FAILURES or not await _card_works(session, row):
            row.enabled, row.paused_reason, outcome = False, "declined", AutoOutcome.TURNED_OFF
    await publish(session, AutoTopUpEnded(row.id, row.meter_id, payment.top_up_id, outcome))


async def _card_works(session: AsyncSession, row: AutoTopUp) -> bool:
    card = await session.get(SavedMethod, row.saved_method_id, populate_existing=True)
    return card is not None and card.usable


async def _decide(
    session: AsyncSession, rails: Mapping[str, Rail], row: AutoTopUp, signal: Signal, now: datetime
) -> str | None:
    """Order what to charge now; its id, or None. Called under the row's lock."""
    low = signal.fresh and signal.days_left is not None and signal.days_left <= row.threshold_days
    waits = row.awaiting_top_up_id is not None or (row.not_before is not None and now < row.not_before)
    if not low or waits:
        return None
    wallet_minor = await wallet_balance_minor(session, row.meter_id, row.currency)
    if wallet_minor > signal.wallet_minor:
        # Credit has come since the signal was made: it speaks of a wallet that is no more.
        return None
    ready = await _who_pays(session, rails, row)
    if ready is None:
        return None
    meter, card, rail = ready
    if signal.granted is not None and meter.credit_granted > signal.granted:
        return None
    amount_minor = await _amount_minor(session, row, meter, wallet_minor, now)
    method = _card_method(rail, row.currency)
    if method is None or not method[0] <= amount_minor <= method[1]:
        return None
    return await _new_charge(session, rails, rail, row, card, amount_minor, now)


async def _who_pays(
    session: AsyncSession, rails: Mapping[str, Rail], row: AutoTopUp
) -> tuple[Meter, SavedMethod, Rail] | None:
    """Meter, card and rail of an order, where all three still stand; an order that never will again is turned off."""
    meter = await _meter_to_pay(session, row)
    if meter is None:
        return None
    card = await session.get_one(SavedMethod, row.saved_method_id, populate_existing=True)
    rail = rails.get(card.rail)
    if not card.usable:
        row.enabled, row.paused_reason = False, "card"
        await publish(session, AutoTopUpEnded(row.id, row.meter_id, "", AutoOutcome.TURNED_OFF))
        return None
    if rail is None or meter.closed_at is not None or await is_disputed(session, meter.id, card.rail):
        return None
    return meter, card, rail


async def _meter_to_pay(session: AsyncSession, row: AutoTopUp) -> Meter | None:
    try:
        return await require_meter(
            session, customer_id=row.customer_id, meter_id=row.meter_id, role=HouseholdRole.PAYER
        )
    except (NotFoundError, ForbiddenError):
        # They have moved out, or pay no more: their card pays for nobody else's water, and nobody else is told of it.
        row.enabled, row.paused_reason = False, "moved"
        return None


async def _new_charge(
    session: AsyncSession,
    rails: Mapping[str, Rail],
    rail: Rail,
    row: AutoTopUp,
    card: SavedMethod,
    amount_minor: int,
    now: datetime,
) -> str:
    payer_ref = await session.scalar(
        select(PaymentCustomer.rail_ref).where(
            PaymentCustomer.customer_id == row.customer_id, PaymentCustomer.rail == rail.name
        )
    )
    top_up = TopUp(
        id=new_id("top"),
        origin="AUTO",
        customer_id=row.customer_id,
        meter_id=row.meter_id,
        pay_minor=amount_minor,
        currency=row.currency,
        method_id=rail.name,
        fee_agreed_minor=fee_for(fee_rule(rails, rail.name), amount_minor),
        saved_method_id=card.id,
        idempotency_key=new_id("auto"),
        request_hash="",
        created_at=now,
    )
    await store_order(session, rail, top_up, payer_ref)
    return top_up.id


async def _amount_minor(session: AsyncSession, row: AutoTopUp, meter: Meter, wallet_minor: int, now: datetime) -> int:
    """Return the minor units to charge, within what is left of today's cap; 0 or less for nothing."""
    zone = ZoneInfo(meter.time_zone)
    since = local_midnight(now.astimezone(zone).date(), zone)
    spent = await session.scalar(
        select(func.coalesce(func.sum(Payment.asked_minor), 0))
        .join(TopUp, TopUp.id == Payment.top_up_id)
        .where(
            TopUp.meter_id == row.meter_id,
            TopUp.origin == "AUTO",
            TopUp.created_at >= since,
            Payment.status.not_in([PaymentStatus.FAILED, PaymentStatus.CANCELLED, PaymentStatus.EXPIRED]),
        )
    )
    wanted_minor = row.amount_minor if row.mode == AutoMode.FIXED else row.amount_minor - max(wallet_minor, 0)
    left_minor = row.daily_cap_minor - int(spent or 0)
    if row.mode == AutoMode.FIXED and left_minor < wanted_minor:
        return 0
    return min(wanted_minor, left_minor)


def _card_method(rail: Rail, currency: str) -> tuple[int, int] | None:
    """The limits of charging a saved card there."""
    for method in rail.methods(currency):
        if method.id == rail.name:
            return method.minimum_minor, method.maximum_minor
    return None


def _check(rail: Rail, meter: Meter, order: StandingOrder) -> None:
    if order.currency != meter.currency:
        raise InvalidInputError(phrase("This meter takes {currency}.", currency=meter.currency), ("amount", "currency"))
    limits = _card_method(rail, meter.currency)
    if meter.wallet_kind == WalletKind.VOLUME and order.mode is not AutoMode.FIXED:
        raise InvalidInputError(phrase("A meter that holds water is topped up by a fixed amount."), ("mode",))
    if limits is None:
        raise InvalidInputError(phrase("This card cannot be charged in the meter's currency."), ("cardId",))
    if not limits[0] <= order.amount_minor <= limits[1]:
        raise InvalidInputError(phrase("The amount is outside what the card can be charged."), ("amount",))
    if order.daily_cap_minor < order.amount_minor:
        raise InvalidInputError(phrase("The cap per day must cover one top-up."), ("dailyCap",))
    if not 1 <= order.threshold_days <= 30:  # noqa: PLR2004 - a month is as far as a forecast tells.
        raise InvalidInputError(phrase("Choose between 1 and 30 days."), ("thresholdDays",))
