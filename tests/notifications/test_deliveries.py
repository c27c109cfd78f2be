"""Alerts and their deliveries on a real database."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select, update

from standpipe.notifications import devices
from standpipe.notifications.alerts import check_low_balance, raise_once
from standpipe.notifications.deliver import deliver_due
from standpipe.notifications.devices import DeviceOrder
from standpipe.notifications.models import Alert, AlertKind, Delivery, Device
from standpipe.notifications.push import PushOutcome
from standpipe.notifications.rules import LowBalanceSignal
from standpipe.platform.errors import InvalidInputError

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PARAMS = {"label": "Home", "credit_minor": 1_200, "currency": "KES", "days_left": 2}


def _order(installation: str, token: str | None = None, **changes) -> DeviceOrder:
    values = {
        "installation_id": installation,
        "platform": "ANDROID",
        "fcm_token": token or f"token-{installation}",
        "fcm_fid": None,
        "language": "en",
        "time_zone": "Africa/Nairobi",
        "app_version": "1.0",
    }
    return DeviceOrder(**(values | changes))


async def _register(sessions, customer: str, installation: str, token: str | None = None, **changes) -> str:
    async with sessions.begin() as session:
        order = _order(installation, token, **changes)
        return (await devices.register(session, customer_id=customer, order=order, now=NOW)).id


async def _raise(sessions, meter_id: str, key: str = "k1", kind: AlertKind = AlertKind.LOW_BALANCE, **params) -> bool:
    async with sessions.begin() as session:
        return await raise_once(
            session, meter_id=meter_id, kind=kind, business_key=key, params=PARAMS | params, now=NOW
        )


async def _all(sessions, model):
    async with sessions() as session:
        return list(await session.scalars(select(model).order_by(model.id)))


async def _make_due(sessions) -> None:
    async with sessions.begin() as session:
        await session.execute(update(Delivery).where(Delivery.due_at.is_not(None)).values(due_at=func.now()))


async def test_every_device_of_every_member_is_told_and_who_has_none_is_seen(sessions, meter_id, sender):
    await _register(sessions, "cus_a", "phone")
    await _register(sessions, "cus_a", "tablet", language="sw")
    assert await _raise(sessions, meter_id)
    assert not await _raise(sessions, meter_id)
    await deliver_due(sessions, sender)
    rows = await _all(sessions, Delivery)
    assert sorted((row.customer_id, row.status) for row in rows) == [
        ("cus_a", "SENT"),
        ("cus_a", "SENT"),
        ("cus_b", "SUPPRESSED"),
    ]
    assert {message.fcm_token for message in sender.sent} == {"token-phone", "token-tablet"}
    assert len({message.title for message in sender.sent}) == 2
    assert len({message.collapse_key for message in sender.sent}) == 1


async def test_the_same_key_at_once_makes_one_alert(sessions, meter_id):
    await _register(sessions, "cus_a", "phone")
    assert sorted(await asyncio.gather(*(_raise(sessions, meter_id) for _ in range(8)))) == [False] * 7 + [True]
    assert len(await _all(sessions, Delivery)) == 2


async def test_n1_a_crossing_is_told_once_and_cleared_by_credit(sessions, meter_id):
    for days in (20.0, 2.5, 2.4, 30.0, 2.5):
        async with sessions.begin() as session:
            await check_low_balance(
                session, meter_id=meter_id, signal=LowBalanceSignal(days, 1_000), params=PARAMS, now=NOW
            )
    alerts = await _all(sessions, Alert)
    assert [(alert.params["level_days"], alert.cleared_at is not None) for alert in alerts] == [(3, True), (3, False)]


async def test_n1_the_same_signal_from_many_workers_is_told_once(sessions, meter_id):
    async def check() -> None:
        async with sessions.begin() as session:
            await check_low_balance(
                session, meter_id=meter_id, signal=LowBalanceSignal(0.5, 1_000), params=PARAMS, now=NOW
            )

    await asyncio.gather(*(check() for _ in range(8)))
    assert len(await _all(sessions, Alert)) == 1


async def test_n6_a_gone_address_leaves_its_device(sessions, meter_id, sender):
    await _register(sessions, "cus_a", "phone")
    await _raise(sessions, meter_id)
    sender.answer = PushOutcome(error="UNREGISTERED", address_gone=True)
    await deliver_due(sessions, sender)
    (device,) = await _all(sessions, Device)
    assert (device.healthy, device.fcm_token) == (False, None)
    assert sorted(row.status for row in await _all(sessions, Delivery)) == ["FAILED", "SUPPRESSED"]


async def test_n6_a_new_address_registered_meanwhile_stays(sessions, meter_id, sender):
    """Tokens are replaced: the old one is refused exactly when the app has just registered the new one."""
    await _register(sessions, "cus_a", "phone", "token-old")
    await _raise(sessions, meter_id)

    async def send(message):
        await _register(sessions, "cus_a", "phone", "token-new")
        return PushOutcome(error="UNREGISTERED", address_gone=True)

    sender.send = send
    await deliver_due(sessions, sender)
    (device,) = await _all(sessions, Device)
    assert (device.healthy, device.fcm_token) == (True, "token-new")


async def test_n7_what_may_pass_is_tried_again_not_before_the_time_asked(sessions, meter_id, sender):
    await _register(sessions, "cus_a", "phone")
    await _raise(sessions, meter_id)
    sender.answer = PushOutcome(error="429", retry_after_s=600.0)
    assert await deliver_due(sessions, sender) == 1
    async with sessions() as session:
        wait_s = await session.scalar(
            select(func.extract("epoch", Delivery.due_at - func.now())).where(Delivery.due_at.is_not(None))
        )
    assert 590 < wait_s <= 601
    assert await deliver_due(sessions, sender) == 0
    sender.answer = PushOutcome(message_id="m2")
    await _make_due(sessions)
    await deliver_due(sessions, sender)
    assert "SENT" in {row.status for row in await _all(sessions, Delivery)}


async def test_without_a_sender_deliveries_are_suppressed(sessions, meter_id):
    await _register(sessions, "cus_a", "phone")
    await _raise(sessions, meter_id)
    assert await deliver_due(sessions, None) == 1
    assert {row.status for row in await _all(sessions, Delivery)} == {"SUPPRESSED"}


async def test_an_alert_that_cannot_be_worded_does_not_hold_up_the_others(sessions, meter_id, sender):
    await _register(sessions, "cus_a", "phone")
    await _raise(sessions, meter_id, "bad", variant="FROM_A_NEWER_RELEASE")
    await _raise(sessions, meter_id, "good")
    await deliver_due(sessions, sender)
    assert "SENT" in {row.status for row in await _all(sessions, Delivery)}


async def test_a_cleared_alert_is_not_pushed_late(sessions, meter_id, sender):
    await _register(sessions, "cus_a", "phone")
    for days in (2.5, 30.0):
        async with sessions.begin() as session:
            await check_low_balance(
                session, meter_id=meter_id, signal=LowBalanceSignal(days, 1_000), params=PARAMS, now=NOW
            )
    await deliver_due(sessions, sender)
    assert sender.sent == []


async def test_a_delivery_that_kills_its_worker_ends_some_day(sessions, meter_id, sender):
    await _register(sessions, "cus_a", "phone")
    await _raise(sessions, meter_id)

    async def die(message):
        raise RuntimeError("the process is gone")

    sender.send = die
    for _ in range(60):
        await _make_due(sessions)
        try:
            if not await deliver_due(sessions, sender):
                break
        except RuntimeError:
            continue
    rows = [row for row in await _all(sessions, Delivery) if row.customer_id == "cus_a"]
    assert (rows[0].status, rows[0].due_at) == ("FAILED", None)


async def test_a_token_that_moves_to_another_customer_leaves_the_first(sessions, meter_id):
    await _register(sessions, "cus_a", "phone", "shared")
    await _register(sessions, "cus_b", "phone-b", "shared")
    owners = {row.customer_id: (row.fcm_token, row.healthy) for row in await _all(sessions, Device)}
    assert owners == {"cus_a": (None, False), "cus_b": ("shared", True)}


async def test_two_customers_registering_one_token_at_once_leave_it_with_one(sessions, meter_id):
    for _ in range(10):
        await asyncio.gather(
            *(_register(sessions, customer, f"phone-{customer}", "shared") for customer in ("cus_a", "cus_b"))
        )
    assert sum(row.fcm_token == "shared" for row in await _all(sessions, Device)) == 1


async def test_registering_again_refreshes_the_same_device(sessions, meter_id):
    first = await _register(sessions, "cus_a", "phone", "old")
    assert await _register(sessions, "cus_a", "phone", "new") == first
    assert [row.fcm_token for row in await _all(sessions, Device)] == ["new"]


async def test_devices_are_removed_one_by_one_and_what_was_sent_stays(sessions, meter_id, sender):
    await _register(sessions, "cus_a", "phone")
    await _register(sessions, "cus_a", "tablet")
    await _raise(sessions, meter_id)
    await deliver_due(sessions, sender)
    for installation in ("phone", "tablet"):
        async with sessions.begin() as session:
            await devices.remove(session, customer_id="cus_a", installation_id=installation)
    assert await _all(sessions, Device) == []
    assert "SENT" in {row.status for row in await _all(sessions, Delivery) if row.customer_id == "cus_a"}


async def test_a_delivery_to_a_removed_device_does_not_stay_queued(sessions, meter_id):
    await _register(sessions, "cus_a", "phone")
    await _raise(sessions, meter_id)
    async with sessions.begin() as session:
        await devices.remove(session, customer_id="cus_a", installation_id="phone")
    assert {row.status for row in await _all(sessions, Delivery)} == {"SUPPRESSED"}


async def test_another_customers_device_is_not_removed(sessions, meter_id):
    await _register(sessions, "cus_a", "phone")
    async with sessions.begin() as session:
        assert await devices.remove(session, customer_id="cus_b", installation_id="phone") is None
    assert len(await _all(sessions, Device)) == 1


@pytest.mark.parametrize("bad", [{"fcm_token": None}, {"fcm_fid": "f"}, {"installation_id": ""}, {"language": "e\0"}])
async def test_what_cannot_be_a_device_is_refused(sessions, meter_id, bad):
    async with sessions.begin() as session:
        with pytest.raises(InvalidInputError):
            await devices.register(session, customer_id="cus_a", order=_order("i", **bad), now=NOW)
