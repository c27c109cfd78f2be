"""Members are told as they wish: at their own days, not in their quiet hours, and by no channel that they left."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, update

from standpipe.households.models import Membership
from standpipe.notifications import devices
from standpipe.notifications.alerts import check_low_balance, raise_once
from standpipe.notifications.deliver import deliver_due
from standpipe.notifications.devices import DeviceOrder
from standpipe.notifications.models import Alert, AlertKind, Delivery
from standpipe.notifications.preferences import PreferencesChange, change_preferences
from standpipe.notifications.rules import LowBalanceSignal, concerns, evaluate, quiet_until
from standpipe.notifications.views import AlertsRequest, alerts_of_meters, unread_counts
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PARAMS = {"label": "Home", "credit_minor": 1_200, "currency": "KES", "days_left": 2}
NIGHT = PreferencesChange(quiet={"quietFrom": "22:00", "quietTo": "06:00"})
SIGNALS = st.builds(
    LowBalanceSignal,
    st.none() | st.integers(1, 90).map(lambda tenths: tenths / 10),
    # Mostly there is some, and mostly it is the meter's fresh word: else nothing would ever be crossed.
    st.sampled_from([1_000, 1_000, 1_000, 0]),
    st.sampled_from([True, True, True, False]),
)
OWN = st.sets(st.integers(1, 7), max_size=3)


@given(st.lists(OWN, min_size=1, max_size=4), st.lists(SIGNALS, min_size=2, max_size=30))
@example([{7}, {3}], [LowBalanceSignal(6.0, 1_000), LowBalanceSignal(2.0, 1_000)])
def test_n1_members_are_told_as_if_each_had_a_level_of_their_own(
    members: list[set[int]], signals: list[LowBalanceSignal]
) -> None:
    shared, own = None, [None] * len(members)
    everybody = set[int]().union(*members)
    for signal in signals:
        decision = evaluate(shared, signal, everybody)
        for number, days in enumerate(members):
            alone = evaluate(own[number], signal, days)
            told = decision.tell and decision.level is not None and concerns(days, shared, decision.level)
            assert told == alone.tell
            own[number] = alone.level
        shared = decision.level


@given(
    st.integers(0, 525_600).map(lambda minutes: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)),
    st.sampled_from(["Africa/Nairobi", "Europe/Paris", "America/Santiago", "Australia/Lord_Howe"]),
    *(st.times().map(lambda at: f"{at:%H:%M}") for _ in range(2)),
)
@example(datetime(2026, 10, 25, 0, 50, tzinfo=UTC), "Europe/Paris", "22:00", "02:45")
@example(datetime(2026, 10, 25, 1, 20, tzinfo=UTC), "Europe/Paris", "22:00", "02:45")
@example(datetime(2026, 3, 29, 0, 30, tzinfo=UTC), "Europe/Paris", "22:00", "02:30")
def test_n5_quiet_hours_end_within_a_day_whatever_the_clocks_do(
    now: datetime, zone: str, quiet_from: str, quiet_to: str
) -> None:
    town = ZoneInfo(zone)
    until = quiet_until(now, town, quiet_from, quiet_to)
    if until is not None:
        assert now < until <= now + timedelta(hours=25)
        assert quiet_until(until, town, quiet_from, quiet_to) is None or quiet_from == quiet_to
        return
    clock = f"{now.astimezone(town):%H:%M}"
    over_midnight = quiet_from > quiet_to
    assert not (clock >= quiet_from or clock < quiet_to if over_midnight else quiet_from <= clock < quiet_to)


async def phone(sessions: Sessions, customer_id: str) -> None:
    order = DeviceOrder("phone", "ANDROID", f"token-{customer_id}", None, "en", "Africa/Nairobi", "1.0")
    async with sessions.begin() as session:
        await devices.register(session, customer_id=customer_id, order=order, now=NOW)


async def wish(sessions: Sessions, customer_id: str, change: PreferencesChange) -> None:
    async with sessions.begin() as session:
        await change_preferences(session, customer_id=customer_id, change=change)


async def signal(sessions: Sessions, meter_id: str, days: float, credit_minor: int = 1_000) -> None:
    async with sessions.begin() as session:
        seen = LowBalanceSignal(days, credit_minor)
        await check_low_balance(session, meter_id=meter_id, signal=seen, params=PARAMS, now=NOW)


async def tell(sessions: Sessions, meter_id: str, kind: AlertKind) -> None:
    async with sessions.begin() as session:
        key = f"{kind}:{meter_id}"
        await raise_once(session, meter_id=meter_id, kind=kind, business_key=key, params=PARAMS, now=NOW)


async def statuses(sessions: Sessions) -> list[tuple[str, str, str | None]]:
    async with sessions() as session:
        rows = await session.scalars(select(Delivery).order_by(Delivery.customer_id, Delivery.id))
        return [(row.customer_id, row.status, row.last_error) for row in rows]


def at(hour: int, minute: int = 0) -> Clock:
    """A town's clock that shows an hour in Nairobi, UTC+3, now."""
    instant = datetime(2026, 11, 23, hour, minute, tzinfo=ZoneInfo("Africa/Nairobi"))
    return Clock(1, time.time(), instant.astimezone(UTC))


async def test_each_member_is_told_at_their_own_days(sessions: Sessions, meter_id: str, sender: Any) -> None:
    for customer_id, days in (("cus_a", [5]), ("cus_b", [10, 1])):
        await phone(sessions, customer_id)
        await wish(sessions, customer_id, PreferencesChange(days_left=days))
    told = []
    for days in (20.0, 9.0, 4.0, 0.5, 0.0):
        await signal(sessions, meter_id, days, 1_000 if days else 0)
        await deliver_due(sessions, sender)
        told.append(sorted(message.fcm_token for message in sender.sent))
        sender.sent.clear()
    assert told == [[], ["token-cus_b"], ["token-cus_a"], ["token-cus_b"], ["token-cus_a", "token-cus_b"]]
    async with sessions() as session:
        for customer_id, levels in (("cus_a", [0, 5]), ("cus_b", [0, 1, 10])):
            asked = AlertsRequest(meter_id, 20, None, None, unread_only=False)
            views = (await alerts_of_meters(session, customer_id, [asked]))[asked]
            assert [view.params["level_days"] for view in views] == levels
            assert await unread_counts(session, customer_id, [(meter_id, None)]) == {meter_id: len(levels)}


async def test_who_wants_no_thresholds_is_told_of_the_end_alone(sessions: Sessions, meter_id: str, sender: Any) -> None:
    for customer_id in ("cus_a", "cus_b"):
        await phone(sessions, customer_id)
        await wish(sessions, customer_id, PreferencesChange(days_left=[]))
    await signal(sessions, meter_id, 0.2)
    assert await statuses(sessions) == []
    await signal(sessions, meter_id, 0.0, 0)
    await deliver_due(sessions, sender)
    assert len(sender.sent) == 2


async def test_n5_a_low_balance_waits_for_the_morning_and_is_then_said(
    sessions: Sessions, meter_id: str, sender: Any
) -> None:
    for customer_id in ("cus_a", "cus_b"):
        await phone(sessions, customer_id)
    await wish(sessions, "cus_a", NIGHT)
    await signal(sessions, meter_id, 2.5)
    await deliver_due(sessions, sender, at(23))
    assert [message.fcm_token for message in sender.sent] == ["token-cus_b"]
    assert (await statuses(sessions))[0] == ("cus_a", "QUEUED", None)
    async with sessions() as session:
        waiting = (await session.scalars(select(Delivery).where(Delivery.customer_id == "cus_a"))).one()
        assert waiting.attempts == 0
    # Not claimed again before it is due, and held back as often as it is looked at in the night.
    assert await deliver_due(sessions, sender, at(23, 30)) == 0
    await hurry(sessions)
    await deliver_due(sessions, sender, at(5, 59))
    assert len(sender.sent) == 1
    await hurry(sessions)
    await deliver_due(sessions, sender, at(6))
    assert [message.fcm_token for message in sender.sent] == ["token-cus_b", "token-cus_a"]


async def test_n5_how_long_it_waits_is_reckoned_on_the_towns_clock(
    sessions: Sessions, meter_id: str, sender: Any
) -> None:
    await phone(sessions, "cus_a")
    await wish(sessions, "cus_a", NIGHT)
    await signal(sessions, meter_id, 2.5)
    # A town whose hours pass in seconds: seven of them, at 3600 times the speed, are seven real seconds.
    fast = Clock(3_600, datetime.now(UTC).timestamp(), at(23).anchor_at)
    await deliver_due(sessions, sender, fast)
    async with sessions() as session:
        due = select(func.extract("epoch", Delivery.due_at - func.now())).where(Delivery.due_at.is_not(None))
        assert -1 <= float(await session.scalar(due) or -9) <= 7


@pytest.mark.parametrize("kind", [AlertKind.EMPTY, AlertKind.TOP_UP, AlertKind.LEAK, AlertKind.TAMPER])
async def test_n5_what_is_urgent_passes(sessions: Sessions, meter_id: str, sender: Any, kind: AlertKind) -> None:
    await phone(sessions, "cus_a")
    await wish(sessions, "cus_a", NIGHT)
    await tell(sessions, meter_id, kind)
    await deliver_due(sessions, sender, at(2))
    assert len(sender.sent) == 1


async def test_n5_ending_the_quiet_hours_lets_out_what_waits(sessions: Sessions, meter_id: str, sender: Any) -> None:
    await phone(sessions, "cus_a")
    await wish(sessions, "cus_a", NIGHT)
    await signal(sessions, meter_id, 2.5)
    await deliver_due(sessions, sender, at(23))
    await wish(sessions, "cus_a", PreferencesChange(quiet={"quietFrom": None}))
    await deliver_due(sessions, sender, at(23, 1))
    assert len(sender.sent) == 1


async def test_n2_of_several_that_waited_only_the_most_urgent_is_said(
    sessions: Sessions, meter_id: str, sender: Any
) -> None:
    await phone(sessions, "cus_a")
    await wish(sessions, "cus_a", NIGHT)
    for days in (6.0, 2.5, 0.5):
        await signal(sessions, meter_id, days)
        await deliver_due(sessions, sender, at(23))
    await hurry(sessions)
    await deliver_due(sessions, sender, at(7))
    assert len(sender.sent) == 1
    mine = [row for row in await statuses(sessions) if row[0] == "cus_a"]
    assert [row[1] for row in mine] == ["SUPPRESSED", "SUPPRESSED", "SENT"]


async def test_n10_without_the_channel_nothing_is_pushed_and_it_shows(
    sessions: Sessions, meter_id: str, sender: Any
) -> None:
    for customer_id in ("cus_a", "cus_b"):
        await phone(sessions, customer_id)
    await wish(sessions, "cus_a", PreferencesChange(channels=[]))
    await tell(sessions, meter_id, AlertKind.EMPTY)
    # Queued when it was still wanted: asked again before it goes out.
    await wish(sessions, "cus_b", PreferencesChange(channels=[]))
    await deliver_due(sessions, sender)
    assert sender.sent == []
    why = "pushes are switched off"
    assert await statuses(sessions) == [("cus_a", "SUPPRESSED", why), ("cus_b", "SUPPRESSED", why)]


async def test_a5_who_has_left_meanwhile_is_not_told(sessions: Sessions, meter_id: str, sender: Any) -> None:
    for customer_id in ("cus_a", "cus_b"):
        await phone(sessions, customer_id)
    await tell(sessions, meter_id, AlertKind.TOP_UP)
    async with sessions.begin() as session:
        await session.execute(delete(Membership).where(Membership.customer_id == "cus_a"))
    await deliver_due(sessions, sender)
    assert [message.fcm_token for message in sender.sent] == ["token-cus_b"]
    assert (await statuses(sessions))[0] == ("cus_a", "SUPPRESSED", "no longer of this household")


async def hurry(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await session.execute(update(Delivery).where(Delivery.due_at.is_not(None)).values(due_at=func.now()))


async def test_a_cleared_alert_that_waited_is_not_said(sessions: Sessions, meter_id: str, sender: Any) -> None:
    await phone(sessions, "cus_a")
    await wish(sessions, "cus_a", NIGHT)
    await signal(sessions, meter_id, 2.5)
    await deliver_due(sessions, sender, at(23))
    await signal(sessions, meter_id, 30.0)
    await hurry(sessions)
    await deliver_due(sessions, sender, at(7))
    assert sender.sent == []
    async with sessions() as session:
        assert (await session.scalars(select(Alert))).one().cleared_at is not None
