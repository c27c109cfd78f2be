"""What a meter does at zero, told over real UDP: policies, friendly hours, holidays, releases (M12)."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from standpipe.billing import supply_terms
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, post, wallet_balance_minor
from standpipe.meters.models import CommandKind, Meter
from standpipe.platform.database import Sessions
from standpipe.supply import utility_policies, zero_credit_lookup
from standpipe.supply.utility_policies import UtilityRules
from standpipe_demo.simulator.meter_model import CLOSED, DISCONNECT, NEVER, OPEN, RESTRICTED, TRICKLE, pour
from tests.support.delivery import next_to_send
from tests.support.radio import Field, make_field
from tests.support.rating import rate_due

NAIROBI = ZoneInfo("Africa/Nairobi")
NIGHTS = {"from": "18:00", "to": "08:00", "lead_minutes": 120}
CREDIT_MINOR = 5_000
ALL_OF_IT_ML = 1_100_000  # A litre costs five cents: more than the credit.


def nairobi(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-{text}").replace(tzinfo=NAIROBI).astimezone(UTC)


NOON = nairobi("07-15T12:00")  # A Wednesday.


@pytest.fixture
async def field(database_url: str, sessions: Sessions, tmp_path: Path) -> AsyncIterator[Field]:
    """Noon on a working day; the household uses next to nothing but what a test pours."""
    meter = {"credit_remaining": CREDIT_MINOR, "daily_litres": 1}
    async with make_field(database_url, sessions, tmp_path, now=NOON, **meter) as made:
        async with sessions.begin() as session:
            wallet = AccountRef(AccountKind.WALLET, made.home.meter_id, "KES")
            lines = [
                Line(AccountRef(AccountKind.CLEARING, "sandbox", "KES"), -CREDIT_MINOR),
                Line(wallet, CREDIT_MINOR),
            ]
            await post(session, key="start", kind="TOP_UP", lines=lines, occurred_at=NOON)
        yield made


async def rule(field: Field, **change: Any) -> None:
    async with field.sessions.begin() as session:
        meter = await session.get_one(Meter, field.home.meter_id)
        await utility_policies.set_rules(
            session, operator="amina", utility_id=meter.utility_id, change=UtilityRules(**change)
        )


async def work(field: Field) -> int:
    """The worker's rounds, until no meter is due; returns how many were."""
    return await rate_due(field.sessions, field.settings.clock, most=1)


async def wake(field: Field) -> None:
    """A contact and the rating after it; and one more where that has something to tell."""
    await field.meter.wake()
    await rate_due(field.sessions, field.settings.clock)
    if any(status == "QUEUED" for _, status in await field.statuses()):
        await field.meter.wake()
        await rate_due(field.sessions, field.settings.clock)


async def use_all(field: Field) -> None:
    pour(field.meter.config, field.meter.state, ALL_OF_IT_ML)


async def wallet(field: Field) -> int:
    async with field.sessions() as session:
        return await wallet_balance_minor(session, field.home.meter_id, "KES")


async def valve(field: Field) -> tuple[str, str]:
    state = await field.state()
    assert state is not None
    return state.valve, state.valve_reason


async def test_m12_trickle_a_meter_at_zero_is_restricted_and_says_why(field: Field) -> None:
    await rule(field, cut_off="TRICKLE")
    assert await work(field) == 1
    await wake(field)
    assert await field.statuses() == [("AT_ZERO", "CONFIRMED")]
    assert field.meter.state.at_zero == TRICKLE
    await use_all(field)
    await wake(field)
    assert field.meter.state.valve == RESTRICTED
    assert await valve(field) == ("RESTRICTED", "NO_CREDIT")
    assert await field.statuses() == [("AT_ZERO", "CONFIRMED")], "nothing new was to be told"
    await field.grant(CREDIT_MINOR)
    await wake(field)
    assert await valve(field) == ("OPEN", "NORMAL")


async def test_m12_a_medical_customer_keeps_water_and_the_debt_grows_in_sight(field: Field) -> None:
    async with field.sessions.begin() as session:
        await supply_terms.set_terms(
            session,
            operator="amina",
            serial=field.home.serial,
            from_day=NOON.date(),
            change=supply_terms.Terms(cut_off="NEVER"),
            now=NOON,
        )
    await wake(field)
    assert field.meter.state.at_zero == NEVER
    await field.at(NOON + timedelta(hours=6))
    await use_all(field)
    await wake(field)
    assert await valve(field) == ("OPEN", "NORMAL")
    assert await wallet(field) == CREDIT_MINOR - field.meter.state.period_charged_minor < 0


async def test_m12_friendly_hours_are_told_before_they_begin_and_end_in_a_cut_off(field: Field) -> None:
    await rule(field, friendly=NIGHTS)
    await work(field)
    await wake(field)
    assert await field.statuses() == [], "nothing to tell at noon: it left the factory with DISCONNECT"
    assert await work(field) == 0
    await field.at(nairobi("07-15T16:05"))
    assert await work(field) == 1
    await wake(field)
    assert field.meter.state.at_zero == NEVER
    await field.at(nairobi("07-15T23:00"))
    await use_all(field)
    await wake(field)
    assert await valve(field) == ("OPEN", "NORMAL")
    assert await wallet(field) < 0
    await field.at(nairobi("07-16T07:59"))
    told = await field.statuses()
    assert await work(field) == 1, "a new day has begun, and nothing is to be told"
    assert await field.statuses() == told
    # After the hours the rating of the first contact tells it, whether or not the worker came to it before.
    await field.at(nairobi("07-16T08:01"))
    await wake(field)
    assert (field.meter.state.at_zero, field.meter.state.valve) == (DISCONNECT, CLOSED)
    assert await valve(field) == ("CLOSED", "NO_CREDIT")
    # The next evening gives no water to who was cut off by day; who pays is spared again.
    await field.at(nairobi("07-16T19:00"))
    assert await work(field) == 1
    await wake(field)
    assert field.meter.state.valve == CLOSED
    await field.grant(CREDIT_MINOR)
    await wake(field)
    assert (field.meter.state.at_zero, field.meter.state.valve) == (NEVER, OPEN)
    kinds = [kind for kind, status in await field.statuses() if status == "CONFIRMED"]
    assert kinds == ["AT_ZERO", "AT_ZERO", "CREDIT", "AT_ZERO"]


async def test_m12_who_could_not_be_told_in_the_night_is_not_told_by_day(field: Field) -> None:
    await rule(field, friendly=NIGHTS)
    await field.at(nairobi("07-15T16:05"))
    await work(field)
    assert await field.statuses() == [("AT_ZERO", "QUEUED")]
    async with field.sessions.begin() as session:
        # The worker was away in the morning: the order is void all the same.
        assert await next_to_send(session, field.home.meter_id, nairobi("07-16T08:00")) is None
    assert await field.statuses() == [("AT_ZERO", "EXPIRED")]
    await field.at(nairobi("07-16T09:00"))
    await work(field)
    await wake(field)
    assert await field.statuses() == [("AT_ZERO", "EXPIRED")], "it holds DISCONNECT still"
    await field.at(nairobi("07-16T17:00"))
    await work(field)
    await wake(field)
    assert field.meter.state.at_zero == NEVER


async def test_m12_an_order_of_unknown_fate_gives_way_to_the_next(field: Field) -> None:
    await rule(field, friendly=NIGHTS)
    await field.at(nairobi("07-15T19:00"))
    field.meter.lose_answers_to("command", 4)
    field.meter.lose_statements_after_command()
    await wake(field)
    assert field.meter.state.at_zero == NEVER
    await field.at(nairobi("07-16T09:00"))
    await work(field)
    assert [status for _, status in await field.statuses()] == ["SUPERSEDED", "QUEUED"]
    field.meter.lose_answers_to("command", 0)
    await wake(field)
    assert field.meter.state.at_zero == DISCONNECT
    assert (await field.statuses())[-1] == ("AT_ZERO", "CONFIRMED")


async def test_m12_a_public_holiday_is_friendly_all_day(field: Field) -> None:
    await rule(field, friendly={"holidays": "KE"})
    await field.at(nairobi("10-20T12:00"))  # Mashujaa Day, a Tuesday.
    await wake(field)
    assert field.meter.state.at_zero == NEVER
    await use_all(field)
    await field.at(nairobi("10-20T23:30"))
    await wake(field)
    assert field.meter.state.valve == OPEN
    await field.at(nairobi("10-21T00:01"))
    await wake(field)
    assert field.meter.state.valve == CLOSED


async def test_m12_a_release_opens_what_was_cut_off_and_its_end_cuts_off_again(field: Field) -> None:
    await use_all(field)
    await wake(field)
    assert await valve(field) == ("CLOSED", "NO_CREDIT")
    utility_id = await _utility_id(field)
    until = NOON + timedelta(hours=3)
    async with field.sessions.begin() as session:
        await utility_policies.release(
            session, operator="amina", utility_id=utility_id, reason="fire", until=until, now=NOON
        )
    assert await work(field) == 1
    await wake(field)
    assert await valve(field) == ("OPEN", "NORMAL")
    await field.at(until + timedelta(minutes=1))
    assert await work(field) == 1
    await wake(field)
    assert await valve(field) == ("CLOSED", "NO_CREDIT")


async def test_m12_utility_class_and_customer_rule_in_this_order(field: Field) -> None:
    async def order() -> tuple[str, str]:
        async with field.sessions() as session:
            found = await zero_credit_lookup.order_of(session, await session.get_one(Meter, field.home.meter_id), NOON)
            return found.policy, found.source

    assert await order() == ("DISCONNECT", "utility")
    utility_id = await _utility_id(field)
    async with field.sessions.begin() as session:
        await utility_policies.set_class(
            session, operator="amina", utility_id=utility_id, code="domestic", name="Homes", cut_off="TRICKLE"
        )
    assert await order() == ("TRICKLE", "class domestic")

    async def terms(day: datetime, text: str) -> None:
        async with field.sessions.begin() as session:
            change = supply_terms.Terms(cut_off=text)
            await supply_terms.set_terms(
                session, operator="amina", serial=field.home.serial, from_day=day.date(), change=change, now=NOON
            )

    tomorrow = NOON + timedelta(days=1)
    await terms(tomorrow, "NEVER")
    assert await order() == ("TRICKLE", "class domestic")
    await terms(NOON, "DISCONNECT")
    assert await order() == ("DISCONNECT", "supply terms")
    await terms(NOON, "")
    assert await order() == ("TRICKLE", "class domestic")
    await work(field)
    await wake(field)
    assert field.meter.state.at_zero == TRICKLE
    # Terms to come are told when their day begins, by the queue alone.
    await field.at(nairobi("07-16T00:00"))
    assert await work(field) == 1
    await wake(field)
    assert field.meter.state.at_zero == NEVER


async def test_m10_what_to_do_at_zero_leaves_money_alone_and_money_still_stops_a_close(field: Field) -> None:
    await field.order(CommandKind.VALVE, 1)
    await rule(field, cut_off="TRICKLE")
    await work(field)
    await field.grant(CREDIT_MINOR)
    await rule(field, cut_off="NEVER")
    await work(field)
    await wake(field)
    assert await field.statuses() == [
        ("VALVE", "SUPERSEDED"), ("AT_ZERO", "SUPERSEDED"), ("CREDIT", "CONFIRMED"), ("AT_ZERO", "CONFIRMED"),
    ]  # fmt: skip
    assert (field.meter.state.valve, field.meter.state.at_zero) == (OPEN, NEVER)


async def test_rules_that_cannot_be_read_cost_no_reading_and_change_no_order(field: Field) -> None:
    async with field.sessions.begin() as session:
        meter = await session.get_one(Meter, field.home.meter_id)
        utility = await utility_policies.utility_of(session, meter.utility_id)
        utility.friendly = {"from": "noon"}
    assert await work(field) == 1
    assert await work(field) == 0
    await wake(field)
    assert await field.statuses() == []
    assert await valve(field) == ("OPEN", "NORMAL")


async def _utility_id(field: Field) -> str:
    async with field.sessions() as session:
        return (await session.get_one(Meter, field.home.meter_id)).utility_id
