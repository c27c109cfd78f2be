"""Random lives of a meter's delivery: the pure rules against the slow reference that does it a row at a time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from standpipe.meters.delivery_rules import decide
from standpipe.meters.delivery_state import OPEN, Command, Delivery, Grant, Heard, Moment, Outcome
from standpipe.meters.models import CommandKind, CommandStatus, WalletKind
from standpipe.meters.reports import CommandResult, Diagnostics, HeldTables, MeterReport
from standpipe.outbox.facts import CreditConfirmed, MeterStated
from tests.support.lengths import rounds
from tests.support.slow_delivery import RefusedError, SlowMeter, kinds, status_of

LIVES = rounds(100, 300, "MODEL_LIVES")
START = datetime(2026, 3, 1, tzinfo=UTC)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.integers(1, 500), st.booleans()),
        st.tuples(st.just("queue"), st.sampled_from(kinds()), st.sampled_from([None, 5, 60])),
        st.tuples(st.just("send")),
        st.tuples(st.just("outcome"), st.sampled_from(["ACKNOWLEDGED", "UNKNOWN", "REJECTED"]), st.integers(0, 3)),
        st.tuples(
            st.just("status"),
            st.sampled_from([-1, 0, 1, 1, 1, 1, 2]),
            st.integers(-3, 3),
            st.sampled_from(CommandResult),
            st.sampled_from([-5, 0, 0, 0, 1_000, 20_000, 100_000]),
            st.sampled_from(["all", "same", "less", "first", "typed", "unsaid"]),
        ),
        st.tuples(st.just("answer"), st.integers(-1, 1)),
        st.tuples(st.just("tables"), st.sampled_from(["in force", "waiting", "parts", "none"]), st.integers(-1, 1)),
        st.tuples(st.just("wait"), st.integers(1, 90)),
    ),
    max_size=40,
)


class Life:
    """One meter twice. ``archive``: every command that the rules have ever brought to its end."""

    def __init__(self, wallet_kind: WalletKind, last_tid: int | None) -> None:
        self.slow = SlowMeter(wallet_kind, last_tid=last_tid)
        self.fast = Delivery("m", wallet_kind, "KES", last_tid=last_tid)
        self.archive: dict[str, Command] = {}
        self.confirmed: list[tuple[str, str]] = []
        self.told = 0
        self.now = START

    @property
    def moment(self) -> Moment:
        return Moment(self.now, self.now)

    def run(self, step: tuple[Any, ...]) -> None:
        name, *args = step
        getattr(self, f"_{name}")(*args)
        self.archive |= {command.id: command for command in self.fast.commands}
        # As the next load would bring it: what has ended is gone.
        self.fast = replace(self.fast, commands=self.fast.open_commands)

    def _grant(self, amount: int, issued: bool) -> None:
        issued = issued and self.slow.last_tid is not None
        self.slow.grant(amount, self.now, issued=issued)
        step = self.slow.steps[-1]
        granted = Grant(step.credit_key, amount, step.total_after, self.now, is_issued=issued)
        self.fast = replace(
            self.fast, granted=self.slow.granted, last_tid=self.slow.last_tid, grants=(*self.fast.grants, granted)
        )
        self._copy_queued()

    def _queue(self, kind: CommandKind, deadline_s: int | None) -> None:
        body = {"id": "t1", "parts": 1} if kind is CommandKind.TARIFF else None
        until = None if deadline_s is None else self.now + timedelta(seconds=deadline_s)
        which = "void_at" if kind is CommandKind.AT_ZERO else "deadline_at"
        if kind is CommandKind.AT_ZERO:
            self.slow.at_zero = "TRICKLE"
            self.fast = replace(self.fast, at_zero="TRICKLE")
        self.slow.enqueue(kind, 1, body=body, **{which: until})
        self._copy_queued()

    def _copy_queued(self) -> None:
        """Others queue by rows of their own: the rules find the new command, and what it superseded."""
        row = self.slow.commands[-1]
        replaced = (CommandKind.CREDIT, CommandKind.VALVE) if row.kind == "CREDIT" else (CommandKind(row.kind),)
        for command in self.fast.open_commands:
            if command.kind in replaced:
                self.fast = self.fast.with_command(replace(command, status=CommandStatus.SUPERSEDED))
        queued = Command(
            *(f"q{row.sequence}", row.sequence, CommandKind(row.kind), row.value, CommandStatus.QUEUED),
            tid_mark=row.tid_mark,
            deadline_at=row.deadline_at,
            void_at=row.void_at,
            body=row.body,
        )
        had_clock = self.fast.had_clock_command or queued.kind is CommandKind.CLOCK
        fast = self.fast.with_command(queued)
        self.fast = replace(fast, last_sequence=self.slow.last_sequence, had_clock_command=had_clock)

    def _send(self) -> None:
        row = self.slow.next_to_send(self.now, self.now)
        command = self._decide(Heard("m", sends_next=True))
        assert (row is None) == (command is None)
        if row is not None:
            assert (row.sequence, row.kind, row.value, row.tid_mark) == command

    def _outcome(self, status: str, which: int) -> None:
        sent = [row for row in self.slow.commands if row.attempts]
        if not sent:
            return
        row = sent[-1 - which % len(sent)]
        ids = [command.id for command in self._all() if command.sequence == row.sequence]
        self.slow.mark(row.id, CommandStatus(status), status.lower())
        self._decide(Heard("m", outcomes=(Outcome(ids[0], CommandStatus(status), status.lower()),)))

    def _status(self, counter: int, sequence: int, result: CommandResult, clock_s: int, accepted: str) -> None:
        slow = self.slow
        stood = slow.state.get("accepted", 0)
        first = next((step.total_after for step in slow.steps if step.confirmed_at is None), stood)
        typed = sum(step.amount for step in slow.steps if step.issued and step.total_after > stood)
        total = {"all": slow.granted, "less": stood - 1, "first": first, "typed": stood + typed}.get(accepted, stood)
        says = slow.wallet_kind is WalletKind.VOLUME and accepted != "unsaid"
        more = {"credit_typed": typed if accepted == "typed" else 0} if says else {}
        at = self.now + timedelta(seconds=clock_s)
        number = max(slow.last_sequence + sequence, 0)
        status = status_of(max(slow.report_counter + counter, 0), number, result, max(total, 0), at, **more)
        self._report(MeterReport("m", self.now, (), status))

    def _answer(self, off: int) -> None:
        row = self.slow._in_flight("DIAGNOSTICS")
        self._report(MeterReport("m", self.now, diagnostics=Diagnostics((row.sequence if row else 0) + off)))

    def _tables(self, where: str, off: int) -> None:
        row = self.slow._in_flight("TARIFF")
        names = ("t1" if where == "in force" else "", "t1" if where == "waiting" else "")
        number = None if off < 0 else self.slow.report_counter + off
        told = HeldTables(*names, number, row.sequence if row and where == "parts" else 0, 6)
        self._report(MeterReport("m", self.now, tables=told))

    def _wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    def _report(self, report: MeterReport) -> None:
        try:
            self.slow.take(report, self.now)
            refused = False
        except RefusedError:
            refused = True
        changes = decide(self.fast, Heard("m", report), self.moment)
        assert (changes.refused is not None) == refused
        if refused:
            assert changes.delivery == self.fast
        again = decide(changes.delivery, Heard("m", report), self.moment)
        assert again.delivery.commands == changes.delivery.commands
        assert not again.facts
        self.fast = changes.delivery
        self.confirmed += [(one.grant.credit_key, one.by) for one in changes.confirmations]
        self.told += sum(isinstance(fact, MeterStated) for fact, _ in changes.facts)
        totals = [fact.accepted for fact, _ in changes.facts if isinstance(fact, CreditConfirmed)]
        assert len(totals) <= len(changes.confirmations)

    def _decide(self, heard: Heard) -> tuple[int, str, int, int | None] | None:
        changes = decide(self.fast, heard, self.moment)
        self.fast = changes.delivery
        sent = changes.command
        return None if sent is None else (sent.sequence, sent.kind, sent.value, sent.tid_mark)

    def _all(self) -> list[Command]:
        return sorted(
            (self.archive | {one.id: one for one in self.fast.commands}).values(), key=lambda one: one.sequence
        )

    def compare(self) -> None:
        names = ("sequence", "kind", "value", "status", "attempts", "tid_mark", "reason", "void_at", "sent_at")
        names += ("confirmed_at", "after_report", "body")
        rows = sorted(self.slow.commands, key=lambda row: row.sequence)
        assert [[getattr(one, it) for it in names] for one in self._all()] == [
            [getattr(row, it) for it in names] for row in rows
        ]
        assert self.fast.last_sequence == self.slow.last_sequence
        assert self.fast.at_zero == self.slow.at_zero
        assert sorted(self.confirmed) == sorted(self.slow.confirmed)
        assert self.told == self.slow.told
        steps = {step.credit_key: (step.sent_at, step.confirmed_at, step.typed_at) for step in self.slow.steps}
        assert {one.credit_key: (one.sent_at, one.confirmed_at, one.typed_at) for one in self.fast.grants} == steps
        if self.fast.stated is not None and self.slow.state:
            found = (self.fast.stated.report_counter, self.fast.stated.accepted, self.fast.stated.clock_error_s)
            assert found == (self.slow.report_counter, self.slow.state["accepted"], self.slow.state["clock_error_s"])


@settings(max_examples=LIVES, deadline=None)
@given(STEPS, st.sampled_from([(WalletKind.MONEY, None), (WalletKind.VOLUME, None), (WalletKind.VOLUME, 7)]))
def test_any_life_is_the_slow_references(steps: list[tuple[Any, ...]], wallet: tuple[WalletKind, int | None]) -> None:
    life = Life(*wallet)
    for step in steps:
        life.run(step)
        life.compare()


def delivery(*commands: Command, **more: Any) -> Delivery:
    """A MONEY meter's with these commands."""
    last = max((command.sequence for command in commands), default=0)
    return Delivery("m", WalletKind.MONEY, "KES", last_sequence=last, commands=commands, **more)


def test_only_commands_that_went_out_are_touched_by_an_outcome() -> None:
    """M6: a late answer of an old exchange finds its command settled, and changes nothing."""
    for status in CommandStatus:
        command = Command("c1", 1, CommandKind.CREDIT, 5, status, attempts=1)
        outcome = Outcome("c1", CommandStatus.ACKNOWLEDGED)
        after = decide(delivery(command), Heard("m", outcomes=(outcome,)), Moment(START, START)).delivery
        assert after.commands[0].status == ("ACKNOWLEDGED" if status == "SENT" else status)


def test_a_radio_acknowledgement_confirms_nothing() -> None:
    """M13, of every kind: ACKNOWLEDGED until the meter's own word."""
    for kind in CommandKind:
        command = Command("c1", 1, kind, 5, CommandStatus.SENT, attempts=1)
        told = Heard("m", outcomes=(Outcome("c1", CommandStatus.ACKNOWLEDGED),), sends_next=True)
        changes = decide(delivery(command), told, Moment(START, START))
        assert changes.delivery.commands[0].status == CommandStatus.ACKNOWLEDGED
        assert not changes.facts
        assert changes.delivery.open_commands[0].status in OPEN


def test_a_frame_garbled_three_times_is_given_up() -> None:
    command = Command("c1", 1, CommandKind.CREDIT, 5, CommandStatus.QUEUED)
    state, counter, tries = delivery(command), 0, 0
    while state.open_commands:
        counter, tries = counter + 1, tries + 1
        sent = decide(state, Heard("m", sends_next=True), Moment(START, START))
        told = (Outcome("c1", CommandStatus.ACKNOWLEDGED),)
        garbled = status_of(counter, 0, CommandResult.BAD_MAC, 0, START)
        heard = Heard("m", MeterReport("m", START, (), garbled), told)
        state = decide(sent.delivery, heard, Moment(START, START)).delivery
    assert (tries, state.commands[0].status, state.commands[0].reason) == (3, "REJECTED", "BAD_MAC")


def test_a_policy_that_was_never_sent_is_not_known_any_more() -> None:
    command = Command("c1", 1, CommandKind.AT_ZERO, 1, CommandStatus.QUEUED, void_at=START)
    after = decide(delivery(command, at_zero="TRICKLE"), Heard("m", sends_next=True), Moment(START, START)).delivery
    assert (after.at_zero, after.commands[0].status) == (None, "EXPIRED")


def test_a_clock_command_renumbered_is_still_its_own_meters() -> None:
    ids = set()
    for meter_id in ("mtr_a", "mtr_b"):
        clock = Command(f"cmd_clock.{meter_id}.5", 5, CommandKind.CLOCK, 0, CommandStatus.QUEUED)
        state = Delivery(meter_id, WalletKind.MONEY, "KES", last_sequence=6, commands=(clock,))
        heard = Heard(meter_id, MeterReport(meter_id, START, (), status_of(1, 6, CommandResult.DONE, 0, START)))
        after = decide(state, heard, Moment(START, START)).delivery
        ids |= {one.id for one in after.open_commands}
    assert ids == {"cmd_clock.mtr_a.7", "cmd_clock.mtr_b.7"}
