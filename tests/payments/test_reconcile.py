"""Statements and the three-way report: what nobody told us is found, and what differs is named."""

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, account_sum_minor
from standpipe.payments.models import RailEvent
from standpipe.payments.rails.port import SettlementKind, SettlementLine
from standpipe.payments.reconcile import Report, make_report
from standpipe.payments.settlement_files import read_statement
from standpipe.payments.settlements import ImportResult, import_lines, pull, pull_due
from standpipe.payments.suspense_work import assign, open_items
from standpipe.platform.errors import InvalidInputError
from standpipe_demo.simulator.fake_stripe import event
from tests.support.command import standpipe
from tests.support.town import SANDBOX_KEY, Town

pytestmark = pytest.mark.calendar

NOW = datetime.now(UTC)
WEEK = timedelta(days=7)


async def report(town: Town, *, missing_after: timedelta = WEEK, at: datetime | None = None) -> Report:
    async with town.sessions() as session:
        return await make_report(session, town.rails, at or town.settings.clock.now(), missing_after=missing_after)


async def kinds(town: Town, **more: Any) -> list[str]:
    return [one.kind for one in (await report(town, **more)).differences]


async def take(town: Town, rail: str, *lines: SettlementLine) -> ImportResult:
    return await import_lines(town.sessions, town.rails, town.settings.clock, rail=rail, lines=lines)


async def held(town: Town, kind: AccountKind, owner: str) -> int:
    async with town.sessions() as session:
        return await account_sum_minor(session, AccountRef(kind, owner, "KES"))


def line(external: str, ref: str | None, gross: int, fee: int = 0, kind: str = "PAYMENT") -> SettlementLine:
    return SettlementLine(external, SettlementKind[kind], ref, "KES", gross, fee, NOW)


async def card_paid(town: Town, amount: str = "15.00") -> tuple[str, str]:
    top_up_id, intent = await town.pay_by_card(amount)
    await town.poll()
    return top_up_id, intent["id"]


async def test_a_normal_day_has_no_differences(town: Town) -> None:
    await card_paid(town)
    await card_paid(town, "7.00")
    await town.http.post(f"{town.stripe_url}/_control/payouts/make")
    results = await pull(town.sessions, town.rails, town.settings.clock, until=datetime.now(UTC))
    assert results["stripe"].states == {"MATCHED": 2, "NOTED": 1}
    fees = 1500 * 29 // 1000 + 30 + 700 * 29 // 1000 + 30
    assert await held(town, AccountKind.PROVIDER_FEES, "stripe") == -fees
    assert await held(town, AccountKind.BANK, "stripe") == -(2200 - fees)
    assert await held(town, AccountKind.CLEARING, "stripe") == 0
    made = await report(town)
    assert made.differences == []
    [row] = [row for row in made.rails if row.rail == "stripe"]
    assert (row.captured_minor, row.settled_minor, row.fees_minor, row.clearing_minor) == (2200, 2200, fees, 0)
    # Read again, a statement changes nothing.
    await pull(town.sessions, town.rails, town.settings.clock, until=datetime.now(UTC), days=30)
    assert await held(town, AccountKind.PROVIDER_FEES, "stripe") == -fees
    assert await kinds(town) == []


async def test_p50_lost_webhook_found_by_settlement(town: Town) -> None:
    top_up_id, _ = await town.pay_by_card()
    results = await pull(town.sessions, town.rails, town.settings.clock, until=datetime.now(UTC))
    assert results["stripe"].states == {"MATCHED": 1}
    assert await town.credits() == (1, 1, 1500)
    assert await town.status(top_up_id) == "PAID"


async def test_p50_a_lost_refund_is_found_by_settlement(town: Town) -> None:
    _, intent = await card_paid(town)
    await town.http.post(f"{town.stripe_url}/_control/payment_intents/{intent}/refund?amount=500")
    await pull(town.sessions, town.rails, town.settings.clock, until=datetime.now(UTC))
    assert await town.wallet() == 1000
    assert await kinds(town) == []


async def test_p50_line_unknown_to_us_waits_in_suspense_and_is_never_counted_twice(town: Town) -> None:
    for _ in range(2):
        assert (await take(town, "sandbox", line("x1", "sch_unknown", 700))).states == {"SUSPENSE": 1}
    assert await held(town, AccountKind.SUSPENSE, "sandbox") == 700
    made = await report(town)
    assert [one.kind for one in made.waiting] == ["suspense"]
    async with town.sessions.begin() as session:
        [item] = await open_items(session)
        await assign(
            session, operator="amina", item_id=item.id, serial=town.home.serial, note="the payer called", now=NOW
        )
    assert await town.credits() == (1, 1, 700)
    assert (await take(town, "sandbox", line("x1", "sch_unknown", 700))).states == {"MATCHED": 1}
    assert await kinds(town) == []


async def test_p50_a_statement_that_knows_before_we_do_makes_no_second_credit(town: Town) -> None:
    # The create's answer was lost, so no row of ours has the payment's id when the statement comes.
    town.stripe.withhold = 6
    top_up_id = (await town.start())["topUp"]["id"]
    [intent] = town.stripe.intents.values()
    town.stripe.succeed(intent)
    assert (await take(town, "stripe", line("x1", intent["id"], 1500))).states == {"SUSPENSE": 1}
    await town.poll()
    assert await town.status(top_up_id) == "PAID"
    assert await town.wallet() == 1500
    assert await held(town, AccountKind.SUSPENSE, "stripe") == 0
    assert await held(town, AccountKind.CLEARING, "stripe") == -1500
    assert await kinds(town) == []


async def test_p50_money_that_a_person_has_placed_is_not_credited_again_by_its_webhook(town: Town) -> None:
    town.stripe.withhold = 6
    await town.start()
    [intent] = town.stripe.intents.values()
    town.stripe.succeed(intent)
    await take(town, "stripe", line("x1", intent["id"], 1500))
    async with town.sessions.begin() as session:
        [item] = await open_items(session)
        await assign(session, operator="amina", item_id=item.id, serial=town.home.serial, note="n", now=NOW)
    await town.poll()
    await town.drain()
    assert await town.wallet() == 1500
    assert await town.sums() == {"KES": 0}
    # The order that asked for it is not dropped in silence: it stands in the report.
    assert await kinds(town) == ["payment given up unanswered"]


async def test_p50_line_missing_after_days_alarms(town: Town) -> None:
    top_up_id, _ = await card_paid(town)
    assert await kinds(town) == []
    later = town.settings.clock.now() + timedelta(days=8)
    made = await report(town, at=later)
    assert [(one.kind, one.subject) for one in made.differences] == [
        ("payment is missing from the statement", top_up_id)
    ]
    await pull(town.sessions, town.rails, town.settings.clock, until=datetime.now(UTC))
    assert await kinds(town, at=later) == []


async def test_p50_late_fee_is_booked_once(town: Town) -> None:
    _, intent = await card_paid(town)
    await take(town, "stripe", line("t1", intent, 1500, 73))
    for _ in range(3):
        await take(town, "stripe", line("t1", intent, 1500, 73), line("t2", None, -40, kind="FEE"))
    assert await held(town, AccountKind.PROVIDER_FEES, "stripe") == -113


async def test_p50_a_disputes_fee_is_booked_once_whoever_tells_first(town: Town) -> None:
    _, intent = await card_paid(town, "100.00")
    await town.http.post(f"{town.stripe_url}/_control/payment_intents/{intent}/chargeback")
    await pull(town.sessions, town.rails, town.settings.clock, until=datetime.now(UTC))
    await town.poll()
    await pull(town.sessions, town.rails, town.settings.clock, until=datetime.now(UTC), days=30)
    charge_fee = 10_000 * 29 // 1000 + 30
    assert await held(town, AccountKind.PROVIDER_FEES, "stripe") == -(charge_fee + 1500)
    assert await kinds(town) == []


async def test_a_line_that_disagrees_is_shown_and_posts_nothing(town: Town) -> None:
    _, intent = await card_paid(town)
    assert (await take(town, "stripe", line("t1", intent, 1400))).states == {"DIFFERENT": 1}
    assert await kinds(town) == ["statement differs from the ledger"]
    assert (await take(town, "stripe", line("t1", intent, 1500))).states == {"MATCHED": 1}
    assert await kinds(town) == []


async def test_a_payout_moves_money_to_the_bank_and_a_failed_one_brings_it_back(town: Town) -> None:
    await card_paid(town)
    await take(town, "stripe", line("p1", None, -1000, kind="PAYOUT"), line("p1", None, -1000, kind="PAYOUT"))
    assert await held(town, AccountKind.BANK, "stripe") == -1000
    assert await held(town, AccountKind.CLEARING, "stripe") == -500
    await take(town, "stripe", line("p1f", None, 1000, kind="PAYOUT"))
    assert await held(town, AccountKind.BANK, "stripe") == 0


async def test_p50_paybill_money_whose_confirmation_was_lost_is_swept_up(town: Town) -> None:
    params = {"account": town.home.serial, "amount": "20", "phone": "254700000099", "mode": "lost"}
    await town.http.post(f"{town.mpesa_url}/_control/paybill", params=params)
    await town.http.post(f"{town.mpesa_url}/_control/paybill", params=params | {"account": "NOBODY"})
    async with town.sessions.begin() as session:
        await session.execute(text("UPDATE customers SET phone = '+254711222333'"))
    push = (await town.start("mpesa", "15.00"))["topUp"]["id"]
    [ringing] = town.mpesa.pushes
    await town.http.post(f"{town.mpesa_url}/_control/stk/{ringing}/approve_silent")
    soon = datetime.now(UTC) + timedelta(minutes=1)
    for _ in range(2):
        results = await pull(town.sessions, town.rails, town.settings.clock, until=soon)
    assert results["mpesa"].states == {"MATCHED": 2, "SUSPENSE": 1}
    assert await town.wallet() == 3500
    assert await town.status(push) == "PAID"
    assert await held(town, AccountKind.SUSPENSE, "mpesa") == 2000
    assert await kinds(town) == []


async def test_p50_with_every_webhook_dead_all_is_found_and_nothing_differs(town: Town) -> None:
    async with town.sessions.begin() as session:
        await session.execute(text("UPDATE customers SET phone = '+254711222333'"))
    town.mpesa.sender.mode = town.momo.sender.mode = town.flutterwave.sender.mode = "off"
    await town.pay_by_card("11.00")
    ids = {
        rail: (await town.start(rail, "12.00"))["topUp"]["id"] for rail in ("sandbox", "mpesa", "momo", "flutterwave")
    }
    [ringing] = town.mpesa.pushes
    for url in (
        f"{town.sandbox_url}/v1/references/{ids['sandbox']}/lose",
        f"{town.mpesa_url}/_control/stk/{ringing}/approve",
        f"{town.momo_url}/_control/momo/{ids['momo']}/approve",
        f"{town.flutterwave_url}/_control/flutterwave/{ids['flutterwave']}/pay",
        f"{town.mpesa_url}/_control/paybill?account={town.home.serial}&amount=13&phone=254700000099",
        f"{town.flutterwave_url}/_control/settle",
        f"{town.stripe_url}/_control/payouts/make",
    ):
        assert (await town.http.post(url)).status_code == 200
    assert await town.count(RailEvent) == 0
    # The payment poller's first round, and the statements' first reading.
    await town.poll()
    await pull(town.sessions, town.rails, town.settings.clock, until=datetime.now(UTC) + timedelta(minutes=1))
    await town.drain()
    assert await town.wallet() == 1100 + 4 * 1200 + 1300
    made = await report(town)
    assert made.differences == []
    assert made.waiting == []
    assert {row.rail: row.captured_minor for row in made.rails} == {
        "stripe": 1100, "sandbox": 1200, "mpesa": 2500, "momo": 1200, "flutterwave": 1200,
    }  # fmt: skip


async def test_statements_are_read_by_one_worker_and_not_too_often(town: Town) -> None:
    assert await pull_due(town.sessions, town.rails, town.settings.clock) > 0
    assert await pull_due(town.sessions, town.rails, town.settings.clock) == 0


async def test_a_payouts_notice_has_the_statement_read(town: Town) -> None:
    await card_paid(town)
    await pull_due(town.sessions, town.rails, town.settings.clock)
    payout = (await town.http.post(f"{town.stripe_url}/_control/payouts/make")).json()
    assert (await town.tell(event("payout.paid", payout))).status_code == 200
    await town.drain()
    assert await pull_due(town.sessions, town.rails, town.settings.clock) > 0
    assert await held(town, AccountKind.CLEARING, "stripe") == 0


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        ("UPDATE meters SET credit_granted = credit_granted + 5",
         "meter's credit is not what the ledger granted"),
        ("UPDATE payments SET captured_minor = captured_minor + 5", "captured is not what was booked"),
        ("UPDATE payments SET refunded_minor = 5", "given back is not what was booked"),
        ("INSERT INTO meter_states (meter_id, last_seen_at, credit_accepted) SELECT id, now(), 99999 FROM meters",
         "meter says it holds more than it was granted"),
        ("UPDATE payments SET captured_minor = 0, status = 'PENDING', dead_at = now()", "payment given up unanswered"),
    ],
)  # fmt: skip
async def test_each_planted_difference_is_named(town: Town, spoil: str, named: str) -> None:
    await card_paid(town)
    assert await kinds(town) == []
    async with town.sessions.begin() as session:
        await session.execute(text(spoil))
    assert named in await kinds(town)


HEAD = "external_id,kind,payment_ref,currency,gross,fee,occurred_at,payout_ref,description\n"


def test_p9_a_good_line_and_a_bad_one() -> None:
    good = "a1,PAYMENT,pi_1,KES,15.00,0.73,2026-05-01T10:00:00+03:00,,\n"
    bad = [
        "a2,PAYMENT,pi_1,KES,15.001,0,2026-05-01T10:00:00Z,,\n",
        "a3,GIFT,pi_1,KES,15,0,2026-05-01T10:00:00Z,,\n",
        "a4,PAYMENT,pi_1,SHILLING,15,0,2026-05-01T10:00:00Z,,\n",
        "a5,PAYMENT,pi_1,KES,NaN,0,2026-05-01T10:00:00Z,,\n",
        "a6,PAYMENT,pi_1,KES,15,0,yesterday,,\n",
        ",PAYMENT,pi_1,KES,15,0,2026-05-01T10:00:00Z,,\n",
        "a7,PAYMENT\n",
    ]
    read = read_statement("any", HEAD + good + "".join(bad))
    assert [(one.external_id, one.gross_minor, one.fee_minor) for one in read.lines] == [("a1", 1500, 73)]
    assert [sentence.split(":")[0] for sentence in read.refused] == [f"line {n}" for n in range(3, 10)]
    with pytest.raises(InvalidInputError, match="external_id"):
        read_statement("any", "a,b\n1,2\n")


def test_m_pesas_statement_with_its_head_and_its_commas() -> None:
    file = (
        "Organization Short Code:,600999\nOperator:,x\n\n"
        "Receipt No.,Completion Time,Initiation Time,Details,Transaction Status,Paid In,Withdrawn,Balance,A/C No.\n"
        'RKTQDM7W6S,01-05-2026 10:00:00,,Pay Bill from 2547*****099,Completed,"1,250.00",,"1,250.00",KW1001\n'
        "RKTQDM7W6S,01-05-2026 10:00:00,,Pay Bill Charge,Completed,,-12.50,1237.50,\n"
        "RKTQDM7W6T,01-05-2026 11:00:00,,Organization Withdrawal,Completed,,-1000.00,237.50,\n"
        "RKTQDM7W6U,01-05-2026 11:00:00,,Pay Bill,Failed,5.00,,237.50,KW1001\n"
        "??,01-05-2026 11:00:00,,Pay Bill,Completed,5.00,,237.50,KW1001\n"
    )
    read = read_statement("mpesa", file)
    assert [(one.kind.value, one.gross_minor) for one in read.lines] == [
        ("PAYMENT", 125_000), ("FEE", -1250), ("PAYOUT", -100_000),
    ]  # fmt: skip
    assert len(read.refused) == 1


def office(town: Town, database_url: str, *words: str, key: str = "", folder: Path) -> subprocess.CompletedProcess[str]:
    settings = {"sandbox_url": town.sandbox_url, "sandbox_api_key": SANDBOX_KEY, "sandbox_webhook_secrets": "s"}
    return standpipe(database_url, folder, *words, operator_key=key, **settings)


async def test_the_office_on_the_command_line(town: Town, database_url: str, tmp_path: Path) -> None:
    top_up_id = (await town.start("sandbox"))["topUp"]["id"]
    await town.http.post(f"{town.sandbox_url}/v1/references/{top_up_id}/lose")
    await town.poll()

    def run(*words: str, key: str = "") -> subprocess.CompletedProcess[str]:
        return office(town, database_url, *words, key=key, folder=tmp_path)

    amina = run("operator", "add", "amina").stdout.strip()
    assert run("operator", "add", "mallory").returncode == 1
    brian = run("operator", "add", "brian", key=amina).stdout.strip()
    assert run("refund", "request", top_up_id, "5.00", "--reason", "moved", key="opk_wrong").returncode == 1
    refund_id = run("refund", "request", top_up_id, "5.00", "--reason", "moved", key=amina).stdout.strip()
    own = run("refund", "approve", refund_id, key=amina)
    assert (own.returncode, "second person" in own.stderr) == (1, True)
    assert "READY" in run("refund", "approve", refund_id, key=brian).stdout
    statement = tmp_path / "statement.csv"
    hostile = "[/red] \x1b[2J \u202eevil"
    statement.write_text(
        f"{HEAD}x9,PAYMENT,sch_nobodys,KES,7.00,0.10,2026-05-01T10:00:00Z,,{hostile}\nbad,line\n", encoding="utf-8"
    )
    nobody = run("reconcile", "import", str(statement), "--rail", "sandbox")
    assert (nobody.returncode, "operator key" in nobody.stderr) == (1, True)
    taken = run("reconcile", "import", str(statement), "--rail", "sandbox", key=amina)
    assert (taken.returncode, "SUSPENSE" in taken.stdout, "line 3" in taken.stdout) == (1, True, True)
    [item] = json.loads(run("suspense", "list", "--json").stdout)
    listed = run("suspense", "list")
    assert listed.returncode == 0, listed.stderr
    assert "\x1b[2J" not in listed.stdout
    assert "\u202e" not in listed.stdout
    assert "[/red]" in listed.stdout
    assert run("suspense", "assign", item["id"], town.home.serial, "--note", "called", key=brian).returncode == 0
    agent_id, _ = run("agent", "add", "Corner shop", key=amina).stdout.split()
    assert "KES" in run("agent", "deposit", agent_id, "100.00", "--reference", "B1", key=amina).stdout
    codes = run("voucher", "make", "5.00", "3", key=amina).stdout.split()
    assert len(set(codes)) == 3
    shown = run("reconcile", "report")
    assert (shown.returncode, "No differences" in shown.stdout) == (0, True), shown.stdout + shown.stderr
    trail = json.loads(run("operator", "audit", "--json").stdout)
    assert [row["action"] for row in trail] == [
        "operator.add", "operator.add", "refund.request", "refund.approve", "settlements.import", "suspense.assign",
        "agent.add", "agent.deposit", "vouchers.make",
    ]  # fmt: skip
    assert {row["operator"] for row in trail} == {"amina", "brian"}
    async with town.sessions.begin() as session:
        with pytest.raises(Exception, match="append-only"):
            await session.execute(text("DELETE FROM operator_actions"))
