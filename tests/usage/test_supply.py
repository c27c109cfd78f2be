"""Supply terms, moves and house rules: who is charged by what, from which day on, and who sees it."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select, update

from standpipe.app import make_signer
from standpipe.billing import supply_terms
from standpipe.billing.models import PeriodCharge, StandingCharged
from standpipe.billing.statements import issue, statement_by_month
from standpipe.households.models import Customer, Household, Membership
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, post, wallet_balance_minor
from standpipe.meters import credit
from standpipe.meters.models import Meter
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.units import local_midnight
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.models import CustomerClass, SupplyTerms, Tariff
from standpipe.tariffs.publishing import publish
from standpipe.utilities.models import OperatorAction, Utility
from tests.support.office import run_office
from tests.support.rating import take_report
from tests.support.town import Home, Town, make_home, make_settings, make_utility

pytestmark = pytest.mark.calendar

ZONE = ZoneInfo("Africa/Nairobi")
JUNE, JULY = date(2026, 6, 1), date(2026, 7, 1)
NOW = datetime(2026, 6, 25, 9, tzinfo=UTC)
TARIFF = """
tariff: {code}
name: {code}
currency: {currency}
effective-from: 2020-01-01
proration: {proration}
basis: {basis}
blocks-per-household: true
blocks:
  - {{up-to-kl: 6, price: 50.00}}
  - {{price: 100.00}}
standing-charges:
  - {{code: rent, name: Rent, amount: 300.00, per: month}}
"""


async def announce(sessions: Sessions, utility_id: str, code: str, proration: str = "days", **more: str) -> str:
    words = {"currency": "KES", "basis": "consumption"} | more
    file = read_tariff(TARIFF.format(code=code, proration=proration, **words), f"{code}.yaml")
    async with sessions.begin() as session:
        made = await publish(session, utility_id=utility_id, utility_currency=file.currency, file=file, today=JUNE)
    return made.tariff_id


@pytest.fixture
async def place(sessions: Sessions) -> tuple[str, Home]:
    """A utility, and a household whose meter was there before June; plain blocks, no standing charge."""
    utility_id, tariff_id = await make_utility(sessions)
    start = local_midnight(date(2026, 5, 20), ZONE)
    home = await make_home(sessions, make_settings(), utility_id, tariff_id, installed_at=start, zone=ZONE.key)
    return utility_id, home


async def use(sessions: Sessions, home: Home, *days: tuple[date, int], now: datetime = NOW) -> None:
    """Readings at the ends of these days, in kilolitres."""
    told = tuple(RegisterReading(local_midnight(day + timedelta(days=1), ZONE), kl * 1_000_000) for day, kl in days)
    async with sessions.begin() as session:
        await take_report(session, MeterReport(home.meter_id, now, told), now)


async def set_terms(sessions: Sessions, home: Home, day: date, now: datetime = NOW, **change: Any) -> None:
    async with sessions.begin() as session:
        await supply_terms.set_terms(
            session, operator="amina", serial=home.serial, from_day=day, change=supply_terms.Terms(**change), now=now
        )


async def charged(sessions: Sessions, home: Home, month: date = JUNE) -> int:
    async with sessions() as session:
        row = await session.get(PeriodCharge, (home.meter_id, month))
        return 0 if row is None else row.charged_minor


async def standing(sessions: Sessions, home: Home, month: date = JUNE) -> int:
    async with sessions() as session:
        row = await session.get(StandingCharged, (home.meter_id, month))
        return 0 if row is None else row.charged_minor


async def another_household(sessions: Sessions, utility_id: str) -> tuple[str, str]:
    """A household and its one member."""
    async with sessions.begin() as session:
        household = Household(id=new_id("hh"), utility_id=utility_id, name="New")
        customer = Customer(id=new_id("cus"), phone=f"+2547{new_id('x')[-8:]}")
        session.add_all([household, customer])
        await session.flush()
        session.add(Membership(household_id=household.id, customer_id=customer.id, role="OWNER"))
    return household.id, customer.id


async def move_out(sessions: Sessions, home: Home, day: date, now: datetime = NOW) -> supply_terms.Closing:
    async with sessions.begin() as session:
        return await supply_terms.move_out(session, operator="amina", serial=home.serial, day=day, now=now)


async def move_in(sessions: Sessions, home: Home, household_id: str, day: date, now: datetime = NOW) -> None:
    async with sessions.begin() as session:
        await supply_terms.move_in(
            session, operator="amina", serial=home.serial, household_id=household_id, day=day, now=now
        )


@pytest.mark.parametrize("proration", ["days", "none"])
async def test_t6_a_move_inside_a_month_is_prorated_as_the_tariff_says(
    sessions: Sessions, place: tuple[str, Home], proration: str
) -> None:
    utility_id, home = place
    await announce(sessions, utility_id, "homes", proration)
    await set_terms(sessions, home, JUNE, tariff="homes")
    moved = date(2026, 6, 11)
    await use(sessions, home, (date(2026, 5, 31), 0), (date(2026, 6, 10), 1), (date(2026, 6, 20), 12))
    closing = await move_out(sessions, home, moved)
    household_id, _ = await another_household(sessions, utility_id)
    await move_in(sessions, home, household_id, moved)
    # One kilolitre, then eleven; each tenancy starts at the bottom of its blocks.
    if proration == "days":
        assert await charged(sessions, home) == 1 * 5_000 + 4 * 5_000 + 7 * 10_000
    else:
        assert await charged(sessions, home) == 1 * 5_000 + 6 * 5_000 + 5 * 10_000
    assert await standing(sessions, home) == 30_000, "by days each its share; without, the month is charged once"
    assert closing.wallet_minor < 0
    async with sessions() as session:
        rows = await supply_terms.terms_of(session, await session.get_one(Meter, home.meter_id))
        assert [(row.from_day, row.household_id) for row in rows] == [
            (date(2026, 5, 20), home.household_id), (JUNE, home.household_id), (moved, household_id),
        ]  # fmt: skip


async def test_t6_terms_changed_for_a_past_day_are_charged_by_difference_and_a_made_statement_stands(
    sessions: Sessions, place: tuple[str, Home]
) -> None:
    utility_id, home = place
    later = datetime(2026, 7, 10, 9, tzinfo=UTC)
    await use(sessions, home, (date(2026, 5, 31), 0), (date(2026, 6, 20), 12), now=later)
    before = await charged(sessions, home)
    assert before == 10 * 5_000 + 2 * 10_000
    async with sessions.begin() as session:
        made = await issue(session, home.meter_id, JUNE, later)
    assert made is not None
    await announce(sessions, utility_id, "homes")
    await set_terms(sessions, home, JUNE, later, tariff="homes", households=2)
    assert await charged(sessions, home) == 12 * 5_000, "twice the blocks for two households"
    async with sessions() as session:
        found = await statement_by_month(session, home.meter_id, JULY, later)
        june = await statement_by_month(session, home.meter_id, JUNE, later)
        assert await wallet_balance_minor(session, home.meter_id, "KES") == -12 * 5_000
    assert found is not None
    assert june is not None
    assert june[0].use.total_minor == before
    water = [item.difference_minor for item in found[0].adjustments if item.account == AccountKind.WALLET]
    assert water == [12 * 5_000 - before]
    # Said again, it changes nothing.
    await set_terms(sessions, home, JUNE, later, tariff="homes", households=2)
    assert await charged(sessions, home) == 12 * 5_000


async def test_a_tariff_that_does_not_fit_the_meter_is_refused(sessions: Sessions, place: tuple[str, Home]) -> None:
    utility_id, home = place
    other_id, _ = await make_utility(sessions)
    await announce(sessions, other_id, "elsewhere")
    await announce(sessions, utility_id, "purchases", basis="purchase")
    async with sessions.begin() as session:
        session.add_all(
            [
                Tariff(id=new_id("trf"), utility_id=utility_id, code=code, name=code, currency=currency,
                       basis="CONSUMPTION")
                for code, currency in (("shillings", "UGX"), ("empty", "KES"))
            ]
        )  # fmt: skip
    for change, words in (
        ({"tariff": "elsewhere"}, "no tariff elsewhere"),
        ({"tariff": "purchases"}, "does not fit a MONEY meter"),
        ({"tariff": "shillings"}, "in UGX"),
        ({"tariff": "empty"}, "no prices"),
        ({"households": 0}, "1 to 10000"),
        ({"cut_off": "SOMETIMES"}, "no cut-off policy"),
        ({}, "what is to change"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            await set_terms(sessions, home, JUNE, **change)
    with pytest.raises(InvalidInputError, match="there since 2026-05-20"):
        await set_terms(sessions, home, date(2026, 5, 19), households=2)
    with pytest.raises(NotFoundError):
        async with sessions.begin() as session:
            await supply_terms.set_terms(
                session, operator="a", serial="NONE", from_day=JUNE, change=supply_terms.Terms(households=2), now=NOW
            )
    async with sessions.begin() as session:
        assert (await session.scalars(select(SupplyTerms))).all() == []
        bought = await session.scalar(select(Tariff.id).where(Tariff.code == "purchases"))
        await session.execute(update(Meter).values(wallet_kind="VOLUME", tariff_id=bought))
    with pytest.raises(InvalidInputError, match="does not fit a VOLUME meter"):
        await set_terms(sessions, home, JUNE, tariff="d")
    await set_terms(sessions, home, JUNE, tariff="purchases")


async def test_a_move_takes_the_meter_from_those_who_leave_and_their_own_terms_with_them(
    sessions: Sessions, place: tuple[str, Home]
) -> None:
    utility_id, home = place
    await set_terms(sessions, home, date(2026, 6, 2), households=3, groups=(" lifeline", ""), cut_off="NEVER")
    household_id, _ = await another_household(sessions, utility_id)
    for day, words in ((date(2026, 6, 26), "to come"), (date(2026, 5, 20), "cannot have left")):
        with pytest.raises(InvalidInputError, match=words):
            await move_out(sessions, home, day)
    with pytest.raises(InvalidInputError, match="Somebody lives there"):
        await move_in(sessions, home, household_id, JUNE)
    async with sessions.begin() as session:
        wallet = AccountRef(AccountKind.WALLET, home.meter_id, "KES")
        lines = [Line(AccountRef(AccountKind.CLEARING, "x", "KES"), -700), Line(wallet, 700)]
        await post(session, key="k", kind="TOP_UP", lines=lines, occurred_at=NOW)
        await credit.grant(session, meter_id=home.meter_id, credit_key="k", source_id="k", amount_minor=700, now=NOW)
    # Said on the 25th: they left on the 10th. Terms that were set for the time after go with them too.
    await set_terms(sessions, home, date(2026, 6, 20), groups=("lifeline", "social"))
    closing = await move_out(sessions, home, date(2026, 6, 10))
    assert closing == supply_terms.Closing("KES", 700, 700, 0, 0, 0)
    with pytest.raises(InvalidInputError, match="Nobody lives there"):
        await move_out(sessions, home, date(2026, 6, 10))
    with pytest.raises(InvalidInputError, match="Until 2026-06-10"):
        await move_in(sessions, home, household_id, date(2026, 6, 9))
    with pytest.raises(NotFoundError):
        await move_in(sessions, home, "hh_none", date(2026, 6, 12))
    await move_in(sessions, home, household_id, date(2026, 6, 12))
    async with sessions() as session:
        rows = await supply_terms.terms_of(session, await session.get_one(Meter, home.meter_id))
        audit = (await session.scalars(select(OperatorAction).order_by(OperatorAction.id))).all()
    mine, theirs = home.household_id, household_id
    assert [(f"{row.from_day:%d}", row.household_id, row.households, row.groups, row.cut_off) for row in rows] == [
        ("20", mine, 1, [], None),
        ("02", mine, 3, ["lifeline"], "NEVER"),
        ("10", None, 3, [], None),
        ("12", theirs, 3, [], None),
        ("20", theirs, 3, [], None),
    ]
    assert [row.action for row in audit] == ["supply.set", "supply.set", "supply.move-out", "supply.move-in"]
    assert audit[2].detail["closing"]["wallet_minor"] == 700
    assert {row.operator for row in audit} == {"amina"}


async def test_t6_days_without_a_household_are_a_stretch_of_their_own(
    sessions: Sessions, place: tuple[str, Home]
) -> None:
    utility_id, home = place
    await announce(sessions, utility_id, "homes")
    await set_terms(sessions, home, JUNE, tariff="homes")
    await use(sessions, home, (date(2026, 5, 31), 0), (date(2026, 6, 24), 8))
    await move_out(sessions, home, date(2026, 6, 11))
    household_id, _ = await another_household(sessions, utility_id)
    await move_in(sessions, home, household_id, date(2026, 6, 21))
    # All use falls on the last ten days' tenancy, whose first block is a third of six kilolitres.
    assert await charged(sessions, home) == 2 * 5_000 + 6 * 10_000
    assert await standing(sessions, home) == 30_000


async def test_the_supply_commands_on_the_command_line(town: Town, database_url: str, tmp_path: Path) -> None:
    def run(*words: str, key: str = "", code: int = 0) -> str:
        done = run_office(database_url, tmp_path, *words, key=key)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    home, today = town.home, datetime.now(ZONE).date()
    amina = run("operator", "add", "amina").strip()
    assert "operator key" in run("supply", "set", home.serial, "--from", "2026-01-01", "--households", "2", code=1)
    run(
        *("supply", "utility", "--cut-off", "TRICKLE", "--friendly", "18:00-08:00", "--weekends", "--holidays", "KE"),
        *("--on", "FRI=14:00-08:00", "--guaranteed-litres", "500", "--emergency", "100.00"),
        *("--emergency-threshold", "50.00", "--debt-share", "30", "--debt-weekly-cap", "200.00"),
        key=amina,
    )
    run("supply", "utility", "--holidays", "none", "--on", "SAT=none", key=amina)
    run("supply", "class", "clinic", "--name", "Clinics", "--cut-off", "NEVER", key=amina)
    for words, said in (
        (("--holidays", "Kenya"), "no holiday calendar"),
        (("--friendly", "18-8"), "no time of day"),
        (("--debt-share", "101"), "percent"),
        (("--emergency", "-1"), "below zero"),
        ((), "what is to change"),
    ):
        assert said in run("supply", "utility", *words, key=amina, code=1)
    async with town.sessions() as session:
        utility = await session.get_one(Utility, town.utility_id)
        clinic = await session.get_one(CustomerClass, (town.utility_id, "clinic"))
    assert utility.friendly == {
        "from": "18:00", "to": "08:00", "weekends": True,
        "days": {"FRI": {"from": "14:00", "to": "08:00"}, "SAT": None},
    }  # fmt: skip
    assert (utility.cut_off, clinic.cut_off) == ("TRICKLE", "NEVER")
    assert (utility.guaranteed_ml, utility.emergency_credit_minor, utility.emergency_threshold_minor) == (
        500_000, 10_000, 5_000,
    )  # fmt: skip
    assert (utility.debt_share_percent, utility.debt_weekly_cap_minor) == (30, 20_000)
    run("supply", "set", home.serial, "--from", str(today), "--groups", "lifeline", "--cut-off", "NEVER", key=amina)
    shown = json.loads(run("supply", "show", home.serial, "--json"))
    assert (shown[-1]["groups"], shown[-1]["cut-off"], shown[-1]["household"]) == (
        "lifeline",
        "NEVER",
        home.household_id,
    )
    assert "supply terms" in run("supply", "show", home.serial)
    assert "reason" in run("supply", "release", key=amina, code=1)
    run("supply", "release", "--reason", "fire", "--until", "2999-01-01", key=amina)
    assert "released" in run("supply", "show", home.serial)
    run("supply", "release", "--end", key=amina)
    assert "no release" in run("supply", "release", "--end", key=amina, code=1)

    sees = "query($m: ID!) { viewer { meter(id: $m) { usedThisPeriod: serial } meters { edges { node { id } } } } }"
    before = await town.gql(sees, m=home.meter_id)
    assert [edge["node"]["id"] for edge in before["data"]["viewer"]["meters"]["edges"]] == [home.meter_id]
    assert "credit" in run("supply", "move-out", home.serial, "--day", str(today), key=amina)
    after = await town.gql(sees, m=home.meter_id)
    assert after["data"]["viewer"] == {"meter": None, "meters": {"edges": []}}
    household_id, customer_id = await another_household(town.sessions, town.utility_id)
    run("supply", "move-in", home.serial, "--household", household_id, "--day", str(today), key=amina)
    theirs = await town.gql(sees, make_signer(town.settings).issue(customer_id), m=home.meter_id)
    assert [edge["node"]["id"] for edge in theirs["data"]["viewer"]["meters"]["edges"]] == [home.meter_id]
    trail = json.loads(run("operator", "audit", "--json"))
    assert [row["action"] for row in trail][1:] == [
        "supply.utility", "supply.utility", "supply.class", "supply.set", "supply.release", "supply.release-end",
        "supply.move-out", "supply.move-in",
    ]  # fmt: skip
