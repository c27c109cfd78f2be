"""Any history of payments, told in any order, with crashes anywhere, ends where the provider's truth is.

A state machine (Hypothesis) on a real, migrated database. ``CHAOS_EXAMPLES`` makes it longer: ``make chaos``.
"""

import asyncio
import json
import os
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select, text, update

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, account_sum_minor, post
from standpipe.meters.commands import lock_meter
from standpipe.meters.models import Meter
from standpipe.meters.reports import CommandResult, MeterReport, StatusReport, ValveReason, ValveState
from standpipe.outbox.models import OutboxFact
from standpipe.payments import starting
from standpipe.payments.inbox import receive, work_inbox
from standpipe.payments.models import Payment as PaymentRow
from standpipe.payments.models import RailEvent, Refund, SuspenseItem
from standpipe.payments.rails.port import DisputeState, WebhookCall
from standpipe.payments.refunds import approve_refund, request_refund, work_refunds
from standpipe.payments.settle import settle
from standpipe.payments.starting import TopUpOrder
from standpipe.payments.suspense_work import assign
from standpipe.payments.top_ups import poll_due
from standpipe.platform.clock import Clock
from standpipe.platform.database import create_engine, create_sessions
from standpipe.platform.errors import StandpipeError
from standpipe.platform.ids import new_id
from standpipe.worker import work_outbox
from tests.payments.scripted import NAME, CrashError, CrashingSessions, CrashPoint, Payment, ScriptedRail
from tests.support.database import DatabaseServer, database_server
from tests.support.delivery import mark_unknown, next_to_send, take_report
from tests.support.lengths import rounds
from tests.support.town import make_home, make_settings, make_utility

CLOCK = Clock()
NOW = datetime(2026, 5, 1, tzinfo=UTC)
AMOUNTS = st.integers(1, 3000)
CHOICES = st.integers(0, 10**6)
EXAMPLES = rounds(6, 12, "CHAOS_EXAMPLES")
QUEUES = (RailEvent, PaymentRow, Refund, OutboxFact)


class PaymentHistory(RuleBasedStateMachine):
    """One household, one meter, one provider, and whatever can happen to them."""

    server: DatabaseServer
    runner: "asyncio.Runner"

    def __init__(self) -> None:
        super().__init__()
        self.stack = AsyncExitStack()
        self.point = CrashPoint()
        self.rail = ScriptedRail(self.point)
        self.rails = {NAME: self.rail}
        self.orders: dict[str, TopUpOrder] = {}
        self.answered: set[str] = set()
        self.on_air: list[tuple[int, int]] = []
        self.accepted = self.sequence = self.counter = self.used = self.events = 0

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def attempt(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Something that may be refused, or die under way; both leave the world as any moment may."""
        try:
            return self.run(work)
        except (CrashError, StandpipeError):
            return None
        finally:
            self.point.left = None

    @initialize()
    def open(self) -> None:
        async def make() -> None:
            url = await self.stack.enter_async_context(self.server.clone())
            engine = create_engine(url)
            self.stack.push_async_callback(engine.dispose)
            self.plain = create_sessions(engine)
            utility_id, tariff_id = await make_utility(self.plain)
            self.utility_id = utility_id
            self.home = await make_home(
                self.plain, make_settings(), utility_id, tariff_id, installed_at=NOW, zone="Africa/Nairobi"
            )
            self.sessions: Any = CrashingSessions(self.plain, self.point)

        self.run(make())

    # What the customer does.

    @rule(amount=AMOUNTS)
    def start(self, amount: int) -> None:
        key = new_id("key")
        self.orders[key] = TopUpOrder(self.home.meter_id, amount, "KES", NAME)
        self.attempt(self._start(key))

    @precondition(lambda self: self.orders)
    @rule(choice=CHOICES)
    def start_again_with_the_same_key(self, choice: int) -> None:
        self.attempt(self._start(pick(list(self.orders), choice)))

    async def _start(self, key: str) -> None:
        await starting.start(
            self.sessions,
            self.rails,
            CLOCK,
            customer_id=self.home.customer_id,
            idempotency_key=key,
            order=self.orders[key],
        )

    # What the provider's truth becomes.

    @precondition(lambda self: self.rail.payments)
    @rule(choice=CHOICES, part=st.integers(1, 100))
    def pay(self, choice: int, part: int) -> None:
        payment = self._payment(choice)
        payment.captured = max(payment.captured, -(-payment.amount * part // 100))

    @precondition(lambda self: self.rail.payments)
    @rule(choice=CHOICES)
    def decline(self, choice: int) -> None:
        self._payment(choice).failed = True

    @precondition(lambda self: any(one.reference for one in self.rail.payments.values()))
    @rule(choice=CHOICES, amount=AMOUNTS)
    def pay_twice_for_one_intention(self, choice: int, amount: int) -> None:
        payment = pick([one for one in self.rail.payments.values() if one.reference], choice)
        ref = new_id("ref")
        self.rail.payments[ref] = Payment(ref, payment.reference, amount, captured=amount)
        self.tell(choice=len(self.rail.payments) - 1, times=1)

    @rule(amount=AMOUNTS, known=st.booleans())
    def pay_by_paybill(self, amount: int, known: bool) -> None:
        ref = new_id("ref")
        account = self.home.serial if known else "NOBODY"
        self.rail.payments[ref] = Payment(ref, None, amount, captured=amount, account=account)
        self.tell(choice=len(self.rail.payments) - 1, times=1)

    @precondition(lambda self: any(one.captured for one in self.rail.payments.values()))
    @rule(choice=CHOICES, amount=AMOUNTS, waits=st.booleans())
    def refund_in_the_dashboard(self, choice: int, amount: int, waits: bool) -> None:
        payment = pick([one for one in self.rail.payments.values() if one.captured], choice)
        if 0 < amount <= payment.captured - payment.claimed and self._is_ours(payment):
            payment.refunds[new_id("rf")] = {"amount": amount, "status": "PENDING" if waits else "SUCCEEDED"}

    @precondition(lambda self: any(one.refunds for one in self.rail.payments.values()))
    @rule(choice=CHOICES, status=st.sampled_from(["SUCCEEDED", "FAILED"]))
    def a_refund_ends_or_comes_back(self, choice: int, status: str) -> None:
        payment = pick([one for one in self.rail.payments.values() if one.refunds], choice)
        refund = pick(list(payment.refunds.values()), choice)
        if refund["status"] != "FAILED":
            refund["status"] = status

    @precondition(lambda self: any(one.captured for one in self.rail.payments.values()))
    @rule(choice=CHOICES, state=st.sampled_from(list(DisputeState)))
    def dispute(self, choice: int, state: DisputeState) -> None:
        payment = pick([one for one in self.rail.payments.values() if one.captured], choice)
        if not self._is_ours(payment) or payment.dispute is DisputeState.LOST:
            return
        payment.dispute = state
        payment.disputed = payment.captured if state in {DisputeState.OPEN, DisputeState.LOST} else 0

    # What we hear, and do about it.

    @precondition(lambda self: self.rail.payments)
    @rule(choice=CHOICES, times=st.integers(1, 3))
    def tell(self, choice: int, times: int) -> None:
        payment = self._payment(choice)
        self.events += 1
        event_id = f"evt_{self.events}"
        body = {"id": event_id, "ref": payment.ref, "reference": payment.reference, "account": payment.account}
        for _ in range(times):
            if self.attempt(self._receive(json.dumps(body).encode())) is not None:
                self.answered.add(event_id)

    async def _receive(self, body: bytes) -> bool:
        async with self.sessions.begin() as session:
            fresh = await receive(session, self.rail, WebhookCall({}, body, time.time()))
        return fresh or True

    @rule(how_many=st.integers(1, 3))
    def workers_work_the_inbox(self, how_many: int) -> None:
        async def work() -> None:
            await asyncio.gather(*(work_inbox(self.sessions, self.rails, CLOCK, limit=5) for _ in range(how_many)))

        self.attempt(work())

    @rule()
    def the_poller_asks(self) -> None:
        self.attempt(self._later(PaymentRow))
        self.attempt(poll_due(self.sessions, self.rails, CLOCK))

    @precondition(lambda self: self.rail.payments)
    @rule(choice=CHOICES)
    def several_settle_at_once(self, choice: int) -> None:
        async def work() -> None:
            async with self.plain() as session:
                ids = (await session.scalars(select(PaymentRow.id).order_by(PaymentRow.id))).all()
            if ids:
                top_up_id = pick(list(ids), choice)
                one = (settle(self.sessions, self.rails, top_up_id, CLOCK) for _ in range(3))
                await asyncio.gather(*one, return_exceptions=True)

        self.attempt(work())

    @rule()
    def reactions(self) -> None:
        self.attempt(work_outbox(self.sessions, self.rails, CLOCK, timedelta(hours=26)))

    @rule(steps=st.integers(0, 12))
    def the_next_thing_dies(self, steps: int) -> None:
        self.point.left = steps

    @rule(calls=st.integers(1, 2))
    def answers_get_lost(self, calls: int) -> None:
        self.rail.lose = calls

    @rule(wait=st.booleans())
    def refunds_wait_at_the_provider(self, wait: bool) -> None:
        self.rail.refunds_wait = wait

    # The office.

    @precondition(lambda self: self.rail.payments)
    @rule(choice=CHOICES, amount=AMOUNTS, approve=st.booleans())
    def refund(self, choice: int, amount: int, approve: bool) -> None:
        async def work() -> None:
            async with self.plain() as session:
                paid = (PaymentRow.captured_minor > 0, PaymentRow.rail == NAME)
                query = select(PaymentRow.id).where(*paid).order_by(PaymentRow.id)
                ids = (await session.scalars(query)).all()
            if not ids:
                return
            async with self.sessions.begin() as session:
                refund_id = await request_refund(
                    session, self.rails, operator="amina", payment_id=pick(list(ids), choice),
                    amount_minor=amount, reason="r", request_key=new_id("k"), now=NOW,
                )  # fmt: skip
            if approve:
                async with self.sessions.begin() as session:
                    await approve_refund(session, operator="brian", refund_id=refund_id, now=NOW)

        self.attempt(work())

    @rule()
    def refunds_are_worked(self) -> None:
        self.attempt(self._later(Refund))
        self.attempt(work_refunds(self.sessions, self.rails, CLOCK))

    @rule(choice=CHOICES)
    def suspense_is_assigned(self, choice: int) -> None:
        async def work() -> None:
            async with self.sessions.begin() as session:
                ids = (await session.scalars(select(SuspenseItem.id).where(SuspenseItem.status == "OPEN"))).all()
                if ids:
                    item = pick(sorted(ids), choice)
                    await assign(session, operator="a", item_id=item, serial=self.home.serial, note="n", now=NOW)

        self.attempt(work())

    # Water and meter.

    @rule(amount=AMOUNTS)
    def water_runs(self, amount: int) -> None:
        async def work() -> None:
            async with self.plain.begin() as session:
                await lock_meter(session, self.home.meter_id)
                lines = [
                    Line(AccountRef(AccountKind.WALLET, self.home.meter_id, "KES"), -amount),
                    Line(AccountRef(AccountKind.REVENUE, self.utility_id, "KES"), amount),
                ]
                key = new_id("use")
                await post(session, key=key, kind="USAGE", lines=lines, occurred_at=NOW, states_fact=True)

        self.run(work())
        self.used += amount

    @rule()
    def a_command_goes_out_and_its_answer_is_lost(self) -> None:
        async def work() -> None:
            async with self.plain.begin() as session:
                command = await next_to_send(session, self.home.meter_id, NOW)
                if command is not None:
                    await mark_unknown(session, command.id, "no answer")
                    self.on_air.append((command.sequence, command.value))

        self.run(work())

    @precondition(lambda self: self.on_air)
    @rule(choice=CHOICES)
    def a_command_reaches_the_meter_perhaps_late_or_again(self, choice: int) -> None:
        sequence, value = pick(self.on_air, choice)
        if sequence > self.sequence and value >= self.accepted:
            self.sequence, self.accepted = sequence, value

    @rule()
    def the_meter_states(self) -> None:
        self.run(self._state())

    async def _state(self) -> None:
        self.counter += 1
        async with self.plain.begin() as session:
            said = StatusReport(
                report_counter=self.counter, last_sequence=self.sequence, result=CommandResult.DONE,
                credit_accepted=self.accepted, credit_remaining=self.accepted, register_ml=0,
                valve=ValveState.OPEN, valve_reason=ValveReason.NORMAL, stated_at=NOW,
            )  # fmt: skip
            await take_report(session, MeterReport(self.home.meter_id, NOW, (), said), NOW)

    # What must always hold.

    @invariant()
    def the_books_are_whole(self) -> None:
        if hasattr(self, "sessions"):
            self.run(self._check_books())

    async def _check_books(self) -> None:
        queries = (
            "SELECT 1 FROM ledger_entries GROUP BY currency HAVING sum(amount_minor) <> 0",
            "SELECT 1 FROM ledger_accounts a LEFT JOIN ledger_entries e ON e.account_id = a.id WHERE a.guarded "
            "GROUP BY a.id HAVING a.balance_minor <> coalesce(sum(e.amount_minor), 0) OR a.version <> count(e.id) "
            "OR a.version <> coalesce(max(e.account_version), 0)",
            "SELECT 1 FROM meters m LEFT JOIN credit_grants g ON g.meter_id = m.id GROUP BY m.id "
            "HAVING m.credit_granted <> coalesce(sum(g.amount - g.revoked), 0)",
            "SELECT 1 FROM payments WHERE least(captured_minor, debt_minor, held_minor, taken_back_minor) < 0 "
            "OR owed_minor < 0 OR taken_back_minor > captured_minor OR held_minor + taken_back_minor > captured_minor",
        )
        async with self.plain() as session:
            for query in queries:
                assert (await session.execute(text(query))).first() is None, query
            granted = (await session.get_one(Meter, self.home.meter_id, populate_existing=True)).credit_granted
            wallet = await self._sum(session, AccountKind.WALLET, self.home.meter_id)
            assert wallet + self.used == granted, "the wallet is what was granted, less the water"
            stored = set((await session.scalars(select(RailEvent.event_id))).all())
        assert self.answered <= stored, "answered 2xx, and gone"

    async def _sum(self, session: Any, kind: AccountKind, owner: str) -> int:
        return await account_sum_minor(session, AccountRef(kind, owner, "KES"))

    def teardown(self) -> None:
        try:
            if hasattr(self, "sessions"):
                self.point.left, self.rail.lose = None, 0
                self.run(self._quiet())
                self.run(self._check_end())
        finally:
            self.run(self.stack.aclose())

    async def _quiet(self) -> None:
        """Everybody is told everything once more, every queue is worked, the meter hears and speaks."""
        for round_ in range(4):
            for payment in list(self.rail.payments.values()):
                body = {"id": f"last_{round_}_{payment.ref}", "ref": payment.ref, "reference": payment.reference}
                await self._receive(json.dumps(body | {"account": payment.account}).encode())
            for queue in QUEUES:
                await self._later(queue)
            while await work_inbox(self.plain, self.rails, CLOCK):
                pass
            await poll_due(self.plain, self.rails, CLOCK, limit=200)
            await work_refunds(self.plain, self.rails, CLOCK, limit=200)
            while await work_outbox(self.plain, self.rails, CLOCK, timedelta(hours=26)):
                pass
            async with self.plain.begin() as session:
                command = await next_to_send(session, self.home.meter_id, NOW)
                if command is not None and command.sequence > self.sequence and command.value >= self.accepted:
                    self.sequence, self.accepted = command.sequence, command.value
            await self._state()

    async def _check_end(self) -> None:
        await self._check_books()
        payments = self.rail.payments.values()
        held = sum(one.captured - one.refunded - one.disputed for one in payments)
        async with self.plain() as session:
            assert -await self._sum(session, AccountKind.CLEARING, NAME) == held, "clearing is what the provider holds"
            for one in payments:
                query = select(func.coalesce(func.sum(PaymentRow.captured_minor), 0)).where(
                    PaymentRow.rail_ref == one.ref
                )
                credited = int(await session.scalar(query) or 0)
                waiting = await session.scalar(
                    select(func.coalesce(func.sum(SuspenseItem.amount_minor), 0)).where(
                        SuspenseItem.rail_ref == one.ref, SuspenseItem.status == "OPEN"
                    )
                )
                assert credited + int(waiting or 0) == one.captured, f"{one}: credited {credited}, waiting {waiting}"
            rows = (await session.scalars(select(PaymentRow).where(PaymentRow.captured_minor > 0))).all()
            for row in rows:
                payment = self.rail.payments.get(row.rail_ref or "")
                if payment is not None:
                    assert row.taken_back_minor == min(payment.captured, payment.refunded + payment.disputed)
            meter = await session.get_one(Meter, self.home.meter_id, populate_existing=True)
            assert self.accepted <= meter.credit_granted, "the meter has more than was granted"

    async def _later(self, queue: Any) -> None:
        async with self.plain.begin() as session:
            await session.execute(update(queue).where(queue.due_at.is_not(None)).values(due_at=func.now()))

    def _payment(self, choice: int) -> Payment:
        return pick(list(self.rail.payments.values()), choice)

    def _is_ours(self, payment: Payment) -> bool:
        """Paybill money for nobody is worked by hand; its refunds are not part of this history."""
        return payment.account != "NOBODY"


def pick(found: list[Any], choice: int) -> Any:
    return found[choice % len(found)]


def test_p49_any_history_ends_where_the_providers_truth_is() -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        PaymentHistory.runner = runner
        PaymentHistory.server = runner.run(stack.enter_async_context(database_server()))
        try:
            run_state_machine_as_test(
                PaymentHistory,
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=40,
                    deadline=None,
                    derandomize="CHAOS_EXAMPLES" not in os.environ,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(stack.aclose())
