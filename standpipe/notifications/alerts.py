"""Alerts raised: once per business key, and queued to every device of the household."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, func, null, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.households.models import Customer, Membership
from standpipe.meters.models import Meter
from standpipe.notifications.models import (
    Alert,
    AlertKind,
    AlertState,
    Delivery,
    DeliveryStatus,
    Device,
    NotificationPreference,
    NotifyChannel,
)
from standpipe.notifications.preferences import days_left_of_members
from standpipe.notifications.rules import EMPTY, LowBalanceSignal, concerns, evaluate
from standpipe.platform.ids import new_id
from standpipe.platform.notify import LIVE, WORK, notify_many

_WANTS_PUSH = func.coalesce(NotificationPreference.channels.has_key(NotifyChannel.PUSH.value), True)
_OF_BALANCE = (AlertKind.LOW_BALANCE, AlertKind.EMPTY)


async def check_low_balance(
    session: AsyncSession, *, meter_id: str, signal: LowBalanceSignal, params: dict[str, Any], now: datetime
) -> None:
    """Apply the rule to a new signal under the alert state's row lock; running it again tells nobody twice.

    Each member is told at their own days: see ``standpipe.notifications.rules``.
    """
    members = await days_left_of_members(session, meter_id)
    state = await lock_state(session, meter_id, AlertKind.LOW_BALANCE)
    before = state.level
    decision = evaluate(before, signal, {days for own in members.values() for days in own})
    if decision.level is None and before is not None:
        await _clear(session, meter_id, now)
    state.level = decision.level
    if not decision.tell or decision.level is None:
        return
    level = decision.level
    state.crossings += 1
    key = f"low-balance:{meter_id}:{state.crossings}"
    not_for = {customer_id for customer_id, own in members.items() if not concerns(own, before, level)}
    await raise_once(
        session,
        meter_id=meter_id,
        kind=AlertKind.EMPTY if level == EMPTY else AlertKind.LOW_BALANCE,
        business_key=key,
        params=params | {"level_days": level},
        now=now,
        not_for=not_for,
    )
    await _overtake(session, meter_id, key, not_for)


async def lock_state(session: AsyncSession, meter_id: str, kind: AlertKind) -> AlertState:
    """The meter's state for alerts of this kind, locked: whoever raises or clears them comes one at a time."""
    same = insert(AlertState).values(meter_id=meter_id, kind=kind)
    # An update that changes nothing locks the row, be it new or not.
    locked = same.on_conflict_do_update(index_elements=["meter_id", "kind"], set_={"kind": kind}).returning(AlertState)
    return (await session.scalars(locked, execution_options={"populate_existing": True})).one()


async def raise_once(
    session: AsyncSession,
    *,
    meter_id: str,
    kind: AlertKind,
    business_key: str,
    params: dict[str, Any],
    now: datetime,
    not_for: Collection[str] = (),
    told: Collection[str] | None = None,
) -> bool:
    """Raise an alert unless this key was raised before, and queue it for each device. Returns whether it is new.

    ``told``: these customers, be they members or not; without it, the household's members. Those in ``not_for`` are
    not told, and never see the alert. Who has no healthy device, or wants no pushes, gets a SUPPRESSED delivery: not
    reached, and seen to be not reached (N10).
    """
    if not_for:
        params = params | {"not_for": sorted(not_for)}
    alert_id: str | None = await session.scalar(
        insert(Alert)
        .values(id=new_id("alr"), meter_id=meter_id, kind=kind, business_key=business_key, params=params, raised_at=now)
        .on_conflict_do_nothing(index_elements=["business_key"])
        .returning(Alert.id)
    )
    if alert_id is None:
        return False
    queued = await _queue(session, alert_id, meter_id, not_for, told)
    calls = [(WORK, "deliveries"), *((LIVE, payload) for payload in (meter_id, *sorted(queued)))]
    await notify_many(await session.connection(), calls)
    return True


async def _queue(
    session: AsyncSession, alert_id: str, meter_id: str, not_for: Collection[str], told: Collection[str] | None
) -> set[str]:
    """A delivery for each device of each customer who is told; returns those."""
    rows = await session.execute(
        select(Customer.id, Device.id, _WANTS_PUSH)
        .outerjoin(NotificationPreference, NotificationPreference.customer_id == Customer.id)
        # Of one who wants no pushes no device is looked for.
        .outerjoin(Device, and_(Device.customer_id == Customer.id, Device.healthy, _WANTS_PUSH))
        .where(Customer.id.in_(_members_of(meter_id) if told is None else told), Customer.id.not_in(not_for))
    )
    queued = set()
    for customer_id, device_id, wants_push in rows:
        queued.add(customer_id)
        reachable = device_id is not None
        session.add(
            Delivery(
                id=new_id("dlv"),
                alert_id=alert_id,
                customer_id=customer_id,
                device_id=device_id,
                channel=NotifyChannel.PUSH,
                status=DeliveryStatus.QUEUED if reachable else DeliveryStatus.SUPPRESSED,
                last_error=None if wants_push else "pushes are switched off",
                # null(), for the ORM takes None for "the default", which is now.
                **({} if reachable else {"due_at": null()}),
            )
        )
    await session.flush()
    return queued


async def _overtake(session: AsyncSession, meter_id: str, business_key: str, not_for: Collection[str]) -> None:
    """Drop what still waits (for quiet hours to end) to tell these members of a less urgent level."""
    older = select(Alert.id).where(
        Alert.meter_id == meter_id, Alert.kind.in_(_OF_BALANCE), Alert.business_key != business_key
    )
    await session.execute(
        update(Delivery)
        .where(
            Delivery.alert_id.in_(older),
            Delivery.status == DeliveryStatus.QUEUED,
            Delivery.attempts == 0,
            Delivery.customer_id.not_in(not_for),
        )
        .values(status=DeliveryStatus.SUPPRESSED, due_at=None, last_error="a newer one followed", updated_at=func.now())
    )


def _members_of(meter_id: str) -> Select[str]:
    return (
        select(Membership.customer_id)
        .join(Meter, Meter.household_id == Membership.household_id)
        .where(Meter.id == meter_id)
    )


async def _clear(session: AsyncSession, meter_id: str, now: datetime) -> None:
    await session.execute(
        update(Alert)
        .where(Alert.meter_id == meter_id, Alert.kind.in_(_OF_BALANCE), Alert.cleared_at.is_(None))
        .values(cleared_at=now)
    )
