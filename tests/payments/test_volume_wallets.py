"""VOLUME wallets, through the front doors: a top-up buys whole units, and the rest stays in the wallet as money."""

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from standpipe.ledger.models import AccountKind, LedgerTransaction
from standpipe.ledger.posting import AccountRef, Line, account_sum_minor, post
from standpipe.meters.commands import lock_meter
from standpipe.meters.models import CreditGrant, Meter, MeterCommand, MeterState
from standpipe.payments.arrears import add_arrears
from standpipe.payments.models import RailEvent, Refund
from standpipe.payments.reconcile import make_report
from standpipe.payments.refunds import work_refunds
from standpipe.payments.rows import load_one
from standpipe.payments.split import Owing, split
from standpipe.payments.vends import vend
from standpipe.payments.volume import buy_with_wallet
from standpipe.tariffs.files import read_tariff, to_terms
from standpipe.tariffs.models import SupplyTerms, VolumePurchase
from standpipe.tariffs.pricing import Place
from standpipe.tariffs.purchases import buy
from standpipe.utilities.models import Utility
from standpipe_demo.simulator.meter_model import CLOSED, NO_CREDIT, OPEN, pour
from tests.support.delivery import next_to_send
from tests.support.radio import Field
from tests.support.tariffs import segments
from tests.support.town import Town, until
from tests.support.volume import PURCHASE_TARIFF, UNIT_ML, meter_of, on_the_air, refunded, volume_town

pytestmark = pytest.mark.calendar

BALANCE = (
    "query($m: ID!) { node(id: $m) { ... on Meter { walletKind balance { ledger { amount } onMeter { amount } "
    "inFlight { amount } usedSinceReport { amount } onMeterVolume { litres } inFlightVolume { litres } "
    "emergencyCreditAvailable { amount } lasts { daysLikely litresLeft { litres } } } "
    "tariff { boughtThisPeriod { litres } currentTier } valve { state } } } }"
)
QUOTE = (
    "query($m: ID!, $b: QuoteBy!) { node(id: $m) { ... on Meter { quote(by: $b) { userErrors { message } quote { id "
    "pay { amount } credit { amount } deductions { code amount { amount } } volume { litres } rounding { amount } "
    "lines { tier volume { litres } cost { amount } } taxes { code amount { amount } } } } } } }"
)
RECEIPT = (
    "query($i: ID!) { node(id: $i) { ... on TopUp { status terminal receipt { pay { amount } smsText volume { litres } "
    "tax { amount } lines { code label amount { amount } } } receipts { kind pay { amount } } "
    "timeline { status } } } }"
)
STATEMENT = (
    "query($m: ID!, $d: Date!) { node(id: $m) { ... on Meter { statement(month: $d) { userErrors { message } "
    "statement { opening { amount } closing { amount } chargesTotal { amount } pdf "
    "charges { code label amount { amount } } movements { code credit { amount } } } } } } }"
)


async def balance(town: Town) -> Any:
    return (await town.gql(BALANCE, m=town.home.meter_id))["data"]["node"]


async def act(town: Town, top_up_id: str, action: str) -> None:
    """Something happens at the sandbox, and its webhook is worked."""
    before = await town.count(RailEvent)
    await town.http.post(f"{town.sandbox_url}/v1/references/{top_up_id}/{action}")
    await until(lambda: more_events(town, before))
    await town.drain()


async def more_events(town: Town, before: int) -> bool:
    return await town.count(RailEvent) > before


async def quote(town: Town, **by: Any) -> Any:
    answer = await town.gql(QUOTE, m=town.home.meter_id, b=by)
    return answer["data"]["node"]["quote"]["quote"]


def kes(amount: str) -> dict[str, str]:
    return {"amount": amount, "currency": "KES"}


async def pay(town: Town, amount: str, **more: Any) -> str:
    """A card payment, settled."""
    payload = await town.start(amount=amount, **more)
    assert payload["userErrors"] == []
    intent_id = payload["topUp"]["nextAction"]["clientSecret"].split("_secret_")[0]
    await town.control(intent_id, "succeed")
    await town.poll()
    await town.drain()
    return str(payload["topUp"]["id"])


async def checked(town: Town) -> None:
    """The ledger sums to zero, and the three sides of the report agree."""
    assert set((await town.sums()).values()) <= {0}
    async with town.sessions() as session:
        report = await make_report(session, {}, datetime.now(UTC), missing_after=timedelta(days=400))
    assert [item for item in report.differences if "statement" not in item.kind] == []


async def volumes(town: Town) -> tuple[int, int]:
    """(granted, bought)."""
    async with town.sessions() as session:
        bought = (await session.scalars(select(VolumePurchase.volume_ml))).all()
    return (await meter_of(town)).credit_granted, sum(bought)


async def test_a_top_up_becomes_water_on_the_meter_and_the_valve_closes_when_it_has_run(
    town: Town, database_url: str, tmp_path: Path
) -> None:
    town = await volume_town(town)
    top_up_id = await pay(town, "50.00")
    # 8 units of 5.80 are 46.40; 3.60 make no unit.
    seen = await balance(town)
    assert (seen["walletKind"], seen["balance"]["ledger"]["amount"]) == ("VOLUME", "3.60")
    assert (seen["balance"]["onMeter"], seen["balance"]["onMeterVolume"]) == (None, None)
    assert seen["balance"]["inFlightVolume"]["litres"] == "800"
    assert (seen["balance"]["inFlight"]["amount"], seen["balance"]["usedSinceReport"]) == ("0.00", None)
    assert seen["balance"]["emergencyCreditAvailable"]["amount"] == "0.00"
    assert await town.status(top_up_id) == "PAID"
    async with on_the_air(town, database_url, tmp_path, daily_litres=0) as field:
        assert field.meter.state.valve == CLOSED
        await until(lambda: woken(town, field, "800"), timeout_s=60)
        assert field.meter.state.credit_accepted == field.meter.state.credit_remaining == 800_000
        assert field.meter.state.valve == OPEN
        assert await town.status(top_up_id) == "ON_METER"
        seen = await balance(town)
        assert (seen["balance"]["onMeterVolume"]["litres"], seen["balance"]["inFlightVolume"]["litres"]) == ("800", "0")
        assert seen["balance"]["onMeter"] is None
        pour(field.meter.config, field.meter.state, 799_999)
        assert field.meter.state.valve == OPEN
        pour(field.meter.config, field.meter.state, 1)
        assert (field.meter.state.valve, field.meter.state.valve_reason) == (CLOSED, NO_CREDIT)
        await until(lambda: woken(town, field, "0"), timeout_s=60)
        seen = await balance(town)
        assert seen["valve"]["state"] == "CLOSED"
        # Water that runs was paid for: no charge, and the money that makes no unit is still there.
        assert seen["balance"]["ledger"]["amount"] == "3.60"
        await pay(town, "2.20")
        await until(lambda: woken(town, field, "100"), timeout_s=60)
        assert await town.wallet(town.home.meter_id) == 0
    async with town.sessions() as session:
        kinds = set(await session.scalars(select(LedgerTransaction.kind)))
    assert "USAGE" not in kinds
    await checked(town)


async def woken(town: Town, field: Field, litres: str) -> bool:
    """Wake the meter; whether it has then said that it holds so much. On a busy machine one waking may be too short."""
    await field.meter.wake()
    told = (await balance(town))["balance"]["onMeterVolume"]
    return told is not None and told["litres"] == litres


async def test_the_receipt_says_what_was_bought_what_was_taxed_and_what_is_left(town: Town) -> None:
    town = await volume_town(town)
    first = (await town.gql(RECEIPT, i=await pay(town, "130.00")))["data"]["node"]["receipt"]
    lines = [(line["code"], line["amount"]["amount"]) for line in first["lines"]]
    # 20 units fill the first block (116.00); the next would cost 11.60.
    assert lines == [("CREDIT", "100.00"), ("CREDIT", "10.00"), ("TAX", "17.60"), ("RESIDUE", "2.40")]
    assert first["lines"][0]["label"] == "Water, tier 1: 2.0 m³"
    assert (first["volume"]["litres"], first["tax"]["amount"]) == ("2100", "17.60")
    assert "Water 2.1 m³" in first["smsText"]
    second = (await town.gql(RECEIPT, i=await pay(town, "10.00")))["data"]["node"]["receipt"]
    lines = [(line["code"], line["amount"]["amount"]) for line in second["lines"]]
    assert lines == [("CREDIT", "10.00"), ("TAX", "1.60"), ("RESIDUE", "-1.60")]
    assert second["lines"][-1]["label"] == "Credit left over from before"
    for receipt in (first, second):
        assert sum(Decimal(line["amount"]["amount"]) for line in receipt["lines"]) == Decimal(receipt["pay"]["amount"])
    nothing = (await town.gql(RECEIPT, i=await pay(town, "1.00")))["data"]["node"]
    assert [(line["code"], line["amount"]["amount"]) for line in nothing["receipt"]["lines"]] == [("RESIDUE", "1.00")]
    assert (nothing["status"], nothing["terminal"]) == ("PAID", True)
    await checked(town)


async def test_fee_debt_and_standing_charges_come_first_and_all_parts_sum_to_what_was_paid(town: Town) -> None:
    town = await volume_town(town)
    meter_id, now = town.home.meter_id, datetime.now(UTC)
    async with town.sessions.begin() as session:
        (await session.get_one(Utility, town.utility_id)).debt_share_percent = 25
        await add_arrears(session, operator="op", meter_id=meter_id, amount_minor=10_000, reference="bill", now=now)
        due = [Line(AccountRef(AccountKind.STANDING_DUE, meter_id, "KES"), -700)]
        due.append(Line(AccountRef(AccountKind.REVENUE, town.utility_id, "KES"), 700))
        await post(session, key="standing", kind="ARREARS", lines=due, occurred_at=now, states_fact=True)
    offered = await quote(town, money=kes("40.00"))
    assert offered["deductions"] == [
        {"code": "STANDING", "amount": {"amount": "7.00"}},
        {"code": "DEBT", "amount": {"amount": "10.00"}},
    ]
    assert (offered["volume"]["litres"], offered["rounding"]["amount"]) == ("300", "5.60")
    receipt = (await town.gql(RECEIPT, i=await pay(town, "40.00")))["data"]["node"]["receipt"]
    parts = {line["code"]: Decimal(line["amount"]["amount"]) for line in receipt["lines"]}
    assert parts == {
        "CREDIT": Decimal("15.00"), "TAX": Decimal("2.40"), "RESIDUE": Decimal("5.60"),
        "STANDING": Decimal("7.00"), "DEBT": Decimal("10.00"),
    }  # fmt: skip
    assert sum(parts.values()) == Decimal("40.00")
    await checked(town)


async def test_t10_a_volume_quote_is_kept_to_the_unit_and_the_wallets_rest_helps(town: Town) -> None:
    town = await volume_town(town)
    await pay(town, "5.00")
    offered = await quote(town, money=kes("0.79"))
    assert (offered["volume"]["litres"], offered["rounding"]["amount"]) == ("0", "5.79")
    offered = await quote(town, money=kes("0.80"))
    assert (offered["volume"]["litres"], offered["rounding"]["amount"]) == ("100", "0.00")
    by_volume = await quote(town, litres="150")
    # Whole units: 200 litres cost 11.60, of which 5.00 are there.
    assert (by_volume["volume"]["litres"], by_volume["pay"]["amount"]) == ("200", "6.60")
    for amount in ("6.59", "6.60", "123.45", "999.99"):
        offered = await quote(town, money=kes(amount))
        back = await quote(town, litres=offered["volume"]["litres"])
        assert Decimal(back["pay"]["amount"]) <= Decimal(amount)
        assert back["volume"]["litres"] == offered["volume"]["litres"]
        more = await quote(town, litres=str(Decimal(offered["volume"]["litres"]) + 1))
        assert Decimal(more["pay"]["amount"]) > Decimal(amount)
    offered = await quote(town, money=kes("123.45"))
    await pay(town, "123.45")
    granted_ml, bought_ml = await volumes(town)
    assert granted_ml == bought_ml == int(offered["volume"]["litres"]) * 1000
    assert await town.wallet(town.home.meter_id) == int(Decimal(offered["rounding"]["amount"]) * 100)
    seen = await balance(town)
    assert seen["tariff"]["boughtThisPeriod"]["litres"] == offered["volume"]["litres"]


async def test_t2_two_ways_of_splitting_payments_end_at_the_same_water_and_wallet(town: Town) -> None:
    one, many = await volume_town(town), await volume_town(town, PURCHASE_TWIN)
    await pay(one, "200.00")
    for amount in ("1.01", "5.79", "1.20", "44.00", "1.00", "147.00"):
        await pay(many, amount)
    assert (await meter_of(one)).credit_granted == (await meter_of(many)).credit_granted > 0
    assert await town.wallet(one.home.meter_id) == await town.wallet(many.home.meter_id)
    await checked(town)


PURCHASE_TWIN = """
tariff: twin
name: Twin
currency: KES
basis: purchase
effective-from: 2020-01-01
proration: none
unit-litres: 100
blocks: [{up-to-kl: 2, price: 50}, {price: 100}]
levies: [{code: vat, name: VAT, percent: 16}]
"""


@given(
    st.lists(st.integers(1, 300_000), min_size=1, max_size=8),
    st.builds(
        Owing,
        emergency_minor=st.integers(0, 20_000),
        standing_minor=st.integers(0, 20_000),
        debt_minor=st.integers(0, 50_000),
        share_percent=st.integers(0, 100),
        guaranteed_minor=st.integers(0, 5_000),
    ),
    st.integers(0, 500),
)
def test_paid_is_fee_and_dues_and_water_and_residue(payments: list[int], owing: Owing, fee_minor: int) -> None:
    segment = segments(to_terms(read_tariff(PURCHASE_TARIFF)), date(2026, 4, 1))[0]
    wallet_minor = kept_minor = cost_minor = bought_ml = 0
    for paid_minor in payments:
        parts = split(paid_minor, fee_minor=fee_minor, owing=owing)
        owing = replace(
            owing,
            emergency_minor=owing.emergency_minor - parts.emergency_minor,
            standing_minor=owing.standing_minor - parts.standing_minor,
            debt_minor=owing.debt_minor - parts.debt_minor,
        )
        bought = buy(segment, Place(segment.table, bought_ml), wallet_minor + parts.credit_minor)
        kept_minor += sum(parts.kept_back().values())
        cost_minor += bought.priced.total_minor
        bought_ml += bought.volume_ml
        wallet_minor = bought.residue_minor
        assert 0 <= wallet_minor < 1_160
    assert sum(payments) == kept_minor + cost_minor + wallet_minor


async def test_p11_told_a_hundred_times_it_is_one_purchase(town: Town) -> None:
    town = await volume_town(town)
    top_up_id, intent = await town.pay_by_card("20.00")
    event = {"id": "evt_1", "type": "payment_intent.succeeded", "data": {"object": intent}, "object": "event"}
    await asyncio.gather(*(town.tell(event | {"id": f"evt_{number}"}) for number in range(20)))
    await asyncio.gather(*(town.drain() for _ in range(4)))
    await town.poll()
    assert await town.count(VolumePurchase) == await town.count(CreditGrant) == 1
    assert await volumes(town) == (3 * UNIT_ML, 3 * UNIT_ML)
    assert await town.status(top_up_id) == "PAID"
    await checked(town)


async def test_one_posting_buys_once_whatever_has_come_into_the_wallet_since(town: Town) -> None:
    town = await volume_town(town)
    top_up_id = await pay(town, "20.00")
    async with town.sessions() as session:
        key = (await session.scalars(select(VolumePurchase.key))).one().removesuffix(":bought")
    async with town.sessions.begin() as session:
        meter = await lock_meter(session, town.home.meter_id)
        given = [Line(AccountRef(AccountKind.WALLET, meter.id, "KES"), 5_000)]
        given.append(Line(AccountRef(AccountKind.OPENING, town.utility_id, "KES"), -5_000))
        await post(session, key="gift", kind="OPENING", lines=given, occurred_at=datetime.now(UTC))
        _, money = await load_one(await session.connection(), top_up_id, datetime.now(UTC))
        assert money.wallet_minor == 5_260
        after = buy_with_wallet(money, source_id=top_up_id, posting_key=key, now=datetime.now(UTC))
        assert after == (money, ())
    assert await volumes(town) == (3 * UNIT_ML, 3 * UNIT_ML)
    assert await town.wallet(town.home.meter_id) == 5_260


async def vend_by_agent(town: Town) -> None:
    """An agent with float sells 12.00."""
    async with town.sessions.begin() as session:
        load = [Line(AccountRef(AccountKind.FLOAT, "agt", "KES"), 5_000)]
        load.append(Line(AccountRef(AccountKind.OPENING, town.utility_id, "KES"), -5_000))
        await post(session, key="load", kind="FLOAT", lines=load, occurred_at=datetime.now(UTC))
        await vend(
            session,
            origin="AGENT",
            rail_ref="slip-1",
            funder_id="agt",
            meter_id=town.home.meter_id,
            currency="KES",
            amount_minor=1_200,
            customer_id=None,
            key="slip-1",
            request_hash="",
            now=datetime.now(UTC),
        )


async def test_an_agents_vend_buys_as_every_other_payment_does(town: Town) -> None:
    town = await volume_town(town)
    await vend_by_agent(town)
    assert await volumes(town) == (2 * UNIT_ML, 2 * UNIT_ML)
    assert await town.wallet(town.home.meter_id) == 40
    async with town.sessions() as session:
        vat = AccountRef(AccountKind.LEVIES, f"{town.utility_id}/vat", "KES")
        assert await account_sum_minor(session, vat) == 160


async def test_a_refund_takes_what_makes_no_unit_and_water_that_never_left_us(town: Town) -> None:
    town = await volume_town(town)
    top_up_id = await pay(town, "50.00")
    # 3.60 are in the wallet; for 10.00 the purchase is reversed, and the other 40.00 buy 6 units again.
    assert await refunded(town, top_up_id, 1_000) == "READY"
    assert await volumes(town) == (6 * UNIT_ML, 6 * UNIT_ML)
    assert await town.wallet(town.home.meter_id) == 4_000 - 6 * 580
    async with town.sessions() as session:
        command = (await session.scalars(select(MeterCommand).where(MeterCommand.status == "QUEUED"))).one()
    assert command.value == 6 * UNIT_ML
    assert await refunded(town, top_up_id, 4_000) == "READY"
    assert (await volumes(town), await town.wallet(town.home.meter_id)) == ((0, 0), 0)
    await checked(town)


async def test_water_that_may_have_reached_the_meter_is_sold(town: Town) -> None:
    town = await volume_town(town)
    top_up_id = await pay(town, "50.00")
    async with town.sessions.begin() as session:
        assert await next_to_send(session, town.home.meter_id, datetime.now(UTC)) is not None
    with pytest.raises(Exception, match="may hold this water"):
        await refunded(town, top_up_id, 1_000)
    assert await refunded(town, top_up_id, 300) == "READY"
    assert await volumes(town) == (8 * UNIT_ML, 8 * UNIT_ML)
    assert await town.wallet(town.home.meter_id) == 60
    await checked(town)


@pytest.mark.parametrize("sent", [False, True])
async def test_p39_a_dispute_takes_unsent_water_back_and_makes_sold_water_a_debt(town: Town, sent: bool) -> None:
    town = await volume_town(town)
    top_up_id = str((await town.start("sandbox", "50.00"))["topUp"]["id"])
    await act(town, top_up_id, "approve")
    if sent:
        async with town.sessions.begin() as session:
            await next_to_send(session, town.home.meter_id, datetime.now(UTC))
    await act(town, top_up_id, "dispute")
    assert (await debt(town), await town.wallet(town.home.meter_id)) == (4_640 if sent else 0, 0)
    assert await volumes(town) == ((8 * UNIT_ML,) * 2 if sent else (0, 0))
    await checked(town)
    await act(town, top_up_id, "dispute-win")
    assert (await debt(town), await town.wallet(town.home.meter_id)) == (0, 360)
    assert await volumes(town) == (8 * UNIT_ML, 8 * UNIT_ML)
    await checked(town)
    receipts = (await town.gql(RECEIPT, i=top_up_id))["data"]["node"]["receipts"]
    assert [(item["kind"], item["pay"]["amount"]) for item in receipts] == [
        ("SALE", "50.00"), ("GIVEN_BACK", "-50.00"), ("SALE", "50.00"),
    ]  # fmt: skip


async def debt(town: Town) -> int:
    async with town.sessions() as session:
        return -await account_sum_minor(session, AccountRef(AccountKind.RECEIVABLE, town.home.meter_id, "KES"))


async def test_p36_a_refund_that_comes_back_buys_again(town: Town) -> None:
    town = await volume_town(town)
    top_up_id = str((await town.start("sandbox", "50.00"))["topUp"]["id"])
    await act(town, top_up_id, "approve")
    assert await refunded(town, top_up_id, 5_000) == "READY"
    assert await volumes(town) == (0, 0)
    await town.hurry(Refund)
    await work_refunds(town.sessions, town.rails, town.settings.clock)
    await town.drain()
    async with town.sessions() as session:
        refund_ref = (await session.scalars(select(Refund.rail_ref))).one()
    before = await town.count(RailEvent)
    await town.http.post(f"{town.sandbox_url}/v1/refunds/{refund_ref}/failed")
    await until(lambda: more_events(town, before))
    await town.drain()
    assert await volumes(town) == (8 * UNIT_ML, 8 * UNIT_ML)
    assert await town.wallet(town.home.meter_id) == 360
    await checked(town)


async def test_the_statement_is_a_bill_from_purchases(town: Town) -> None:
    town = await volume_town(town)
    for amount in ("100.00", "30.00", "10.00"):
        await pay(town, amount)
    found = await town.gql(STATEMENT, m=town.home.meter_id, d=town.today().isoformat())
    statement = found["data"]["node"]["statement"]["statement"]
    charges = [(line["code"], line["amount"]["amount"]) for line in statement["charges"]]
    assert charges == [("WATER", "100.00"), ("WATER", "20.00"), ("vat", "19.20")]
    assert statement["charges"][0]["label"].startswith("Water, block 1: 2.0 m³")
    assert (statement["chargesTotal"]["amount"], statement["closing"]["amount"]) == ("139.20", "0.80")
    assert sum(Decimal(item["credit"]["amount"]) for item in statement["movements"]) == Decimal("140.00")
    page = await town.http.get(statement["pdf"])
    assert page.content.startswith(b"%PDF")


async def test_a_wallet_and_its_tariff_must_agree(town: Town) -> None:
    other = await volume_town(town)
    async with other.sessions() as session:
        bought_ahead = (await session.get_one(Meter, other.home.meter_id)).tariff_id
    for statement, values in (
        ("UPDATE meters SET tariff_id = :t WHERE id = :m", {"t": bought_ahead, "m": town.home.meter_id}),
        ("UPDATE meters SET wallet_kind = 'MONEY' WHERE id = :m", {"m": other.home.meter_id}),
    ):
        with pytest.raises(IntegrityError, match="does not price"):
            async with town.sessions.begin() as session:
                await session.execute(text(statement), values)
    with pytest.raises(IntegrityError, match="does not price"):
        async with town.sessions.begin() as session:
            session.add(
                SupplyTerms(meter_id=town.home.meter_id, from_day=datetime.now(UTC).date(), tariff_id=bought_ahead)
            )


async def test_how_long_it_lasts_and_the_alert_go_by_litres(town: Town) -> None:
    town = await volume_town(town)
    async with town.sessions.begin() as session:
        for days in range(1, 11):
            day = (datetime.now(UTC) - timedelta(days=days)).date()
            await session.execute(
                text("INSERT INTO daily_usage VALUES (:m, :d, 100000, 0)"), {"m": town.home.meter_id, "d": day}
            )
        session.add(
            MeterState(
                meter_id=town.home.meter_id,
                last_seen_at=datetime.now(UTC),
                stated_at=datetime.now(UTC),
                credit_accepted=0,
                credit_remaining=50_000,
            )
        )
    await pay(town, "12.00")
    seen = (await balance(town))["balance"]
    assert seen["lasts"]["litresLeft"]["litres"] == "250"
    assert seen["lasts"]["daysLikely"] == 2.5
    alerts = await town.gql("{ viewer { alerts(first: 5) { nodes { kind body } } } }")
    async with town.sessions() as session:
        [params] = (await session.execute(text("SELECT params FROM alerts WHERE kind = 'LOW_BALANCE'"))).scalars()
    assert (params["left_ml"], params["level_days"]) == (250_000, 3), alerts


async def test_money_that_no_tariff_can_price_waits_in_the_wallet(town: Town) -> None:
    town = await volume_town(town)
    async with town.sessions.begin() as session:
        await session.execute(text("ALTER TABLE meters DISABLE TRIGGER wallet_fits_tariff"))
        await session.execute(
            text("UPDATE meters SET tariff_id = :t WHERE id = :m"), {"t": town.tariff_id, "m": town.home.meter_id}
        )
        await session.execute(text("ALTER TABLE meters ENABLE TRIGGER wallet_fits_tariff"))
    refused = await town.start(amount="50.00")
    assert refused["userErrors"][0]["code"] == "METER_BLOCKED"
    await vend_by_agent(town)
    assert await town.wallet(town.home.meter_id) == 1_200
    assert await volumes(town) == (0, 0)
