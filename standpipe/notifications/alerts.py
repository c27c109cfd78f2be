"""Alerts raised: once per business key, and queued to every device of the household."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, null, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.models import Customer, Membership
from standpipe.db.notify import LIVE, WORK, notify
from standpipe.ids import new_id
from standpipe.meters.models import Meter
from standpipe.notifications.models import Alert, AlertKind, AlertState, Delivery, DeliveryStatus, Device
from standpipe.notifications.rules import EMPTY, LowBalanceSignal, evaluate

PUSH = "PUSH"


async def check_low_balance(
    session: AsyncSession, *, meter_id: str, signal: LowBalanceSignal, params: dict[str, Any], now: datetime
) -> None:
    """Apply the rule to a new signal under the alert state's row lock; running it again tells nobody twice."""
    await session.execute(
        insert(AlertState).values(meter_id=meter_id, kind=AlertKind.LOW_BALANCE).on_conflict_do_nothing()
    )
    state = await session.get_one(
        AlertState, (meter_id, AlertKind.LOW_BALANCE), with_for_update=True, populate_existing=True
    )
    decision = evaluate(state.level, signal)
    if decision.level is None and state.level is not None:
        await _clear(session, meter_id, now)
    state.level = decision.level
    if not decision.tell:
        return
    state.crossings += 1
    await raise_once(
        session,
        meter_id=meter_id,
        kind=AlertKind.EMPTY if decision.level == EMPTY else AlertKind.LOW_BALANCE,
        business_key=f"low-balance:{meter_id}:{state.crossings}",
        params=params | {"level_days": decision.level},
        now=now,
    )


async def raise_once(
    session: AsyncSession,
    *,
    meter_id: str,
    kind: AlertKind,
    business_key: str,
    params: dict[str, Any],
    now: datetime,
    told: Collection[str] | None = None,
) -> bool:
    """Raise an alert unless this key was raised before, and queue it for each device. Returns whether it is new.

    ``told``: these customers, be they members or not; without it, the household's members.

    A member without a healthy device gets a SUPPRESSED delivery: not reached, and seen to be not reached (N10).
    """
    alert_id: str | None = await session.scalar(
        insert(Alert)
        .values(id=new_id("alr"), meter_id=meter_id, kind=kind, business_key=business_key, params=params, raised_at=now)
        .on_conflict_do_nothing(index_elements=["business_key"])
        .returning(Alert.id)
    )
    if alert_id is None:
        return False
    rows = await session.execute(
        select(Customer.id, Device.id)
        .outerjoin(Device, and_(Device.customer_id == Customer.id, Device.healthy))
        .where(Customer.id.in_(_members_of(meter_id) if told is None else told))
    )
    for customer_id, device_id in rows:
        reachable = device_id is not None
        session.add(
            Delivery(
                id=new_id("dlv"),
                alert_id=alert_id,
                customer_id=customer_id,
                device_id=device_id,
                channel=PUSH,
                status=DeliveryStatus.QUEUED if reachable else DeliveryStatus.SUPPRESSED,
                # null(), for the ORM takes None for "the default", which is now.
                **({} if reachable else {"due_at": null()}),
            )
        )
    await session.flush()
    await notify(session, WORK, "deliveries")
    await notify(session, LIVE, meter_id)
    return True


def _members_of(meter_id: str) -> Select[str]:
    return (
        select(Membership.customer_id)
        .join(Meter, Meter.household_id == Membership.household_id)
        .where(Meter.id == meter_id)
    )


async def _clear(session: AsyncSession, meter_id: str, now: datetime) -> None:
    await session.execute(
        update(Alert)
        .where(
            Alert.meter_id == meter_id,
            Alert.kind.in_([AlertKind.LOW_BALANCE, AlertKind.EMPTY]),
            Alert.cleared_at.is_(None),
        )
        .values(cleared_at=now)
    )
