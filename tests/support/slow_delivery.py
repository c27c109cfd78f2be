"""Delivery as it was once done, a row at a time, on lists in memory: the slow reference of ``delivery_rules``.

A step of a contact is a call here: a command is queued, the next is taken, an outcome is written down, a report is
taken in. Each looks for its rows again and changes them where they lie, with no regard to what was read before.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from standpipe.meters.models import CommandKind, CommandStatus, WalletKind
from standpipe.meters.reports import CommandResult, MeterReport, StatusReport, ValveReason, ValveState

OPEN = ("QUEUED", "SENT", "ACKNOWLEDGED", "UNKNOWN")
BY_EFFECT = ("READ_NOW", "CLOCK", "TARIFF", "DIAGNOSTICS")
REFUSALS = ("WRONG_CURRENCY", "UNSUPPORTED", "TOTAL_TOO_LOW")


class RefusedError(Exception):
    """The report is not believed."""


@dataclass
class Row:
    id: str
    sequence: int
    kind: str
    value: int
    status: str = "QUEUED"
    attempts: int = 0
    tid_mark: int | None = None
    reason: str | None = None
    deadline_at: datetime | None = None
    void_at: datetime | None = None
    sent_at: datetime | None = None
    confirmed_at: datetime | None = None
    after_report: int | None = None
    body: dict[str, Any] | None = None


@dataclass
class Step:
    credit_key: str
    amount: int
    total_after: int
    granted_at: datetime
    issued: bool = False
    sent_at: datetime | None = None
    confirmed_at: datetime | None = None
    typed_at: datetime | None = None


@dataclass
class SlowMeter:
    wallet_kind: WalletKind = WalletKind.MONEY
    granted: int = 0
    last_sequence: int = 0
    last_tid: int | None = None
    at_zero: str | None = None
    commands: list[Row] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    report_counter: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    confirmed: list[tuple[str, str]] = field(default_factory=list)
    told: int = 0
    """How often others were told of a word that changed something."""

    def enqueue(self, kind: str, value: int, **more: Any) -> Row:
        replaced = ("CREDIT", "VALVE") if kind == "CREDIT" else (kind,)
        for row in self.commands:
            if row.kind in replaced and row.status in OPEN:
                row.status = "SUPERSEDED"
        return self._append(kind, value, **more)

    def _append(self, kind: str, value: int, **more: Any) -> Row:
        self.last_sequence += 1
        mark = self.last_tid if kind == "CREDIT" else None
        row = Row(f"c{self.last_sequence}", self.last_sequence, kind, value, tid_mark=mark, **more)
        self.commands.append(row)
        return row

    def grant(self, amount: int, now: datetime, *, issued: bool = False) -> None:
        self.granted += amount
        key = f"g{len(self.steps)}"
        self.steps.append(Step(key, amount, self.granted, now, issued))
        if self.last_tid is not None:
            self.last_tid += 1
        self.enqueue("CREDIT", self.granted)

    def next_to_send(self, now: datetime, real_at: datetime) -> Row | None:
        for row in self.commands:
            late = row.deadline_at is not None and row.deadline_at < real_at
            if row.status == "QUEUED" and (late or (row.void_at is not None and row.void_at <= now)):
                row.status = "EXPIRED"
                if row.kind == "AT_ZERO":
                    self.at_zero = None
        waiting = sorted(
            (row for row in self.commands if row.status == "QUEUED"),
            key=lambda row: (row.kind in BY_EFFECT, row.sequence),
        )
        if not waiting:
            return None
        row = waiting[0]
        if row.kind in BY_EFFECT and any(one.sequence > row.sequence and one.attempts for one in self.commands):
            self.last_sequence += 1
            row.sequence = self.last_sequence
            if row.body is not None:
                row.body = {name: value for name, value in row.body.items() if name != "parts"}
        row.status, row.attempts, row.sent_at, row.after_report = "SENT", row.attempts + 1, now, self.report_counter
        if row.kind == "CLOCK":
            row.value = int(now.timestamp())
        if row.kind == "CREDIT":
            for step in self.steps:
                if step.total_after <= row.value and step.sent_at is None and step.confirmed_at is None:
                    step.sent_at = now
        return row

    def mark(self, row_id: str, status: CommandStatus, reason: str | None) -> None:
        before = {"ACKNOWLEDGED": ("SENT",), "UNKNOWN": ("SENT", "ACKNOWLEDGED"), "REJECTED": OPEN}[status]
        for row in self.commands:
            if row.id == row_id and row.status in before:
                row.status, row.reason = str(status), reason

    def take(self, report: MeterReport, now: datetime) -> None:
        status = report.status
        if status is not None:
            self._require(status)
        self._take_answers(report, now)
        if status is not None and status.report_counter != self.report_counter:
            self._apply(status, now)

    def _require(self, status: StatusReport) -> None:
        if status.report_counter < self.report_counter:
            raise RefusedError
        if status.credit_typed is None and self.last_tid is not None:
            raise RefusedError
        if self._accepted(status) < self.state.get("accepted", 0):
            raise RefusedError

    def _accepted(self, status: StatusReport) -> int:
        return status.credit_accepted

    def _radio_total(self, status: StatusReport) -> int:
        return self._accepted(status) - (status.credit_typed or 0)

    def _in_flight(self, kind: str) -> Row | None:
        found = [row for row in self.commands if row.kind == kind and row.status in OPEN and row.attempts]
        return max(found, key=lambda row: row.sequence) if found else None

    def _take_answers(self, report: MeterReport, now: datetime) -> None:
        if report.diagnostics is not None:
            row = self._in_flight("DIAGNOSTICS")
            if row is not None and row.sequence == report.diagnostics.answers:
                row.status, row.confirmed_at, row.reason = "CONFIRMED", now, None
        row, told = self._in_flight("TARIFF"), report.tables
        if told is None or row is None:
            return
        if told.report_counter is not None and told.report_counter <= (row.after_report or 0):
            return
        body = row.body or {}
        if body.get("id") in (told.in_force, told.waiting):
            row.status, row.confirmed_at, row.reason = "CONFIRMED", now, None
        elif told.sequence == row.sequence:
            row.body = body | {"parts": told.parts | int(body.get("parts", 0))}

    def _apply(self, status: StatusReport, now: datetime) -> None:
        before = (self.state.get("accepted", 0), self.state.get("last_sequence", 0))
        commands = [vars(row).copy() for row in self.commands]
        clock_was_s = self.state.get("clock_error_s") or 0
        self.report_counter = status.report_counter
        self.state = {
            "accepted": self._accepted(status),
            "last_sequence": status.last_sequence,
            "clock_error_s": int((status.stated_at - now).total_seconds()),
            "valve": status.valve,
        }
        self._confirm(status, now)
        self.last_sequence = max(self.last_sequence, status.last_sequence)
        for row in sorted((row for row in self.commands if row.status in OPEN), key=lambda row: row.sequence):
            if row.kind in BY_EFFECT and row.attempts:
                self._judge(row, status, now)
            elif row.sequence <= status.last_sequence:
                self._passed(row, status, now)
            elif row.status != "QUEUED":
                self._not_taken(row, status)
        self._mind_clock(clock_was_s)
        moved = before != (self.state["accepted"], self.state["last_sequence"])
        self.told += moved or commands != [vars(row) for row in self.commands]

    def _confirm(self, status: StatusReport, now: datetime) -> None:
        by_radio, typed = self._radio_total(status), status.credit_typed or 0
        issued = [step for step in self.steps if step.issued and step.total_after > by_radio]
        if typed and sum(step.amount for step in issued) == typed:
            for step in issued:
                if step.confirmed_at is None:
                    step.confirmed_at = step.typed_at = now
                    self.confirmed.append((step.credit_key, "keypad"))
        for step in self.steps:
            if step.total_after <= by_radio and step.confirmed_at is None:
                step.confirmed_at, step.sent_at = now, step.sent_at or now
                self.confirmed.append((step.credit_key, "radio"))

    def _passed(self, row: Row, status: StatusReport, now: datetime) -> None:
        taken = self._radio_total(status) >= row.value if row.kind == "CREDIT" else row.attempts > 0
        if taken:
            row.status, row.confirmed_at, row.reason = "CONFIRMED", now, None
            return
        self._append(row.kind, row.value, void_at=row.void_at, body=row.body)
        row.status, row.reason = "SUPERSEDED", "renumbered: the meter's sequence had passed it"

    def _not_taken(self, row: Row, status: StatusReport) -> None:
        garbled = status.result is CommandResult.BAD_MAC and row.attempts >= 3
        if row.status == "ACKNOWLEDGED" and (status.result in REFUSALS or garbled):
            row.status, row.reason = "REJECTED", status.result
        else:
            row.status = "QUEUED"

    def _judge(self, row: Row, status: StatusReport, now: datetime) -> None:
        late = status.report_counter > (row.after_report or 0)
        shows = late and row.kind == "READ_NOW"
        if late and row.kind == "CLOCK":
            slow = now - row.sent_at if row.sent_at is not None else timedelta(minutes=2)
            allowed = max(timedelta(minutes=2), min(slow, timedelta(minutes=5)))
            shows = abs(status.stated_at - now) <= allowed
        if shows:
            row.status, row.confirmed_at, row.reason = "CONFIRMED", now, None
            return
        heard = row.status == "ACKNOWLEDGED" or status.last_sequence >= row.sequence
        tries = row.attempts - int((row.body or {}).get("parts", 0)).bit_count()
        if tries < (3 if heard else 6):
            row.status = "QUEUED"
            return
        refused = heard and status.result in (*REFUSALS, "BAD_MAC")
        why = "the meter took it and shows no effect" if heard else f"the meter does not answer to it: {row.reason}"
        row.status, row.reason = "REJECTED", status.result if refused else why

    def _mind_clock(self, clock_was_s: int) -> None:
        if abs(self.state["clock_error_s"]) <= 900:
            return
        statuses = {row.status for row in self.commands if row.kind == "CLOCK"}
        if statuses & set(OPEN) or (statuses and abs(clock_was_s) > 900):
            return
        self.enqueue("CLOCK", 0)


def status_of(
    counter: int, sequence: int, result: CommandResult, accepted: int, at: datetime, **more: Any
) -> StatusReport:
    """A status report of a meter in both units at once; each wallet looks at its own."""
    values: dict[str, Any] = {
        "credit_accepted": accepted,
        "credit_remaining": accepted,
        "register_ml": 0,
        "valve": ValveState.OPEN,
        "valve_reason": ValveReason.NORMAL,
        "stated_at": at,
    }
    return StatusReport(counter, sequence, result, **(values | more))


def kinds() -> list[CommandKind]:
    """Those that a person or a rule queues by themselves."""
    return [kind for kind in CommandKind if kind is not CommandKind.CREDIT]
