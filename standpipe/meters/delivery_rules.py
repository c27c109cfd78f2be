"""The rules of a contact with a meter, whatever carries it. Pure: no database, clock or network.

``decide`` takes what a contact brought (``Heard``) and says what becomes of it: whether the status report is newer than
the last, which credit it confirms, which commands end, which clock is to be set, and what goes out next. The meter's
own word is the only thing by which a command becomes CONFIRMED and credit counts as delivered.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from standpipe.meters.command_verification import answered, confirmed, held, needs_clock, verify
from standpipe.meters.delivery_state import (
    BY_EFFECT,
    IN_FLIGHT,
    OPEN,
    Alarm,
    Changes,
    Command,
    Confirmation,
    ConfirmedBy,
    Delivery,
    Grant,
    Heard,
    Moment,
    Outcome,
    OutgoingCommand,
    Remark,
    Stated,
)
from standpipe.meters.models import CommandKind, CommandStatus
from standpipe.meters.reports import CommandResult, Condition, ConditionKind, MeterReport, StatusReport
from standpipe.outbox.facts import ConditionChanged, CreditConfirmed, Fact, MeterStated

MAX_BAD_MAC = 3
"""A frame may be garbled on its way; three times in a row, the key is wrong and a person must look."""
_REFUSALS = {CommandResult.WRONG_CURRENCY, CommandResult.UNSUPPORTED, CommandResult.TOTAL_TOO_LOW}
_MAY_BECOME = {
    CommandStatus.ACKNOWLEDGED: (CommandStatus.SENT,),
    CommandStatus.UNKNOWN: (CommandStatus.SENT, CommandStatus.ACKNOWLEDGED),
    CommandStatus.REJECTED: OPEN,
}
"""From which status an outcome moves a command: a late answer of an old exchange touches no settled one (M6)."""


@dataclass(slots=True)
class _Draft:
    """Changes in the making."""

    delivery: Delivery
    moment: Moment
    facts: list[tuple[Fact, str | None]] = field(default_factory=list)
    confirmations: list[Confirmation] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    is_new_status: bool = False
    is_answer: bool = False
    wakes_gateway: bool = False

    def tell(self, fact: Fact, traceparent: str | None = None) -> None:
        self.facts.append((fact, traceparent))

    def put(self, command: Command) -> None:
        self.delivery = self.delivery.with_command(command)

    def remark(self, level: str, event: str, **about: object) -> None:
        self.remarks.append(Remark(level, event, {"meter_id": self.delivery.meter_id} | about))


def decide(delivery: Delivery, heard: Heard, moment: Moment) -> Changes:
    """Changes that follow from what a contact brought. Hearing it again changes nothing.

    ``Changes.refused`` for a status report that is not to be believed: the whole report is then left out, and nothing
    is sent next.
    """
    draft = _Draft(delivery, moment)
    for outcome in heard.outcomes:
        _take_outcome(draft, outcome)
    report = heard.report
    if report is not None:
        refused = None if report.status is None else why_refused(draft.delivery, report.status)
        if refused is not None:
            return replace(_changes(draft), refused=refused)
        _take_report(draft, report)
    if not heard.sends_next:
        return _changes(draft)
    if heard.since is not None and not _is_quiet_since(draft.delivery, heard.since):
        return replace(_changes(draft), must_listen=True)
    command = take_next(draft)
    return replace(_changes(draft), command=command)


def _is_quiet_since(delivery: Delivery, report_counter: int) -> bool:
    """Tell whether nobody has heard the meter since that word of its, and nothing is on its way to it."""
    if delivery.stated is None or delivery.stated.report_counter != report_counter:
        return False
    return not any(command.status in IN_FLIGHT for command in delivery.commands)


def why_refused(delivery: Delivery, status: StatusReport) -> str | None:
    """Return why a status report is not to be believed; None where it is.

    Its report counter is below the last one (replayed or rolled back, M5); or less credit is accepted than the meter
    said before: it has lost its memory, and a person must look, for the total that it is told next would be credit a
    second time; or a meter with a keypad does not say how much was typed.
    """
    last_counter = 0 if delivery.stated is None else delivery.stated.report_counter
    if status.report_counter < last_counter:
        return f"status frame {status.report_counter} is older than {last_counter}"
    if status.credit_typed is None and delivery.last_tid is not None:
        return "a meter with a keypad must state how much was typed"
    accepted, stood = status.credit_accepted, 0 if delivery.stated is None else delivery.stated.accepted
    if accepted < stood:
        return f"the meter has accepted {accepted}, and had accepted {stood}: its memory is gone"
    return None


def _changes(draft: _Draft) -> Changes:
    return Changes(
        draft.delivery,
        facts=tuple(draft.facts),
        confirmations=tuple(draft.confirmations),
        remarks=tuple(draft.remarks),
        is_new_status=draft.is_new_status,
        is_answer=draft.is_answer,
        wakes_gateway=draft.wakes_gateway,
    )


def _take_outcome(draft: _Draft, outcome: Outcome) -> None:
    command = draft.delivery.command(outcome.command_id)
    if command is None or command.status not in _MAY_BECOME[outcome.status]:
        return
    acknowledged = outcome.status is CommandStatus.ACKNOWLEDGED
    acknowledged_at = draft.moment.real_at if acknowledged else command.acknowledged_at
    draft.put(replace(command, status=outcome.status, reason=outcome.reason, acknowledged_at=acknowledged_at))


def _take_report(draft: _Draft, report: MeterReport) -> None:
    stated = draft.delivery.stated or Stated(report.received_at)
    battery = stated.battery_percent if report.battery_percent is None else report.battery_percent
    last_seen_at = max(stated.last_seen_at, report.received_at)
    stated = replace(stated, last_seen_at=last_seen_at, battery_percent=battery)
    draft.delivery = replace(draft.delivery, stated=stated)
    take_conditions(draft, report.conditions)
    _take_answers(draft, report)
    if report.status is not None and report.status.report_counter > stated.report_counter:
        _take_status(draft, stated, report.status)


def take_conditions(draft: _Draft, conditions: Sequence[Condition]) -> None:
    """Take complaints in, in the order of their instants; what is older than the last word is ignored.

    Several sources of one kind at one instant (a leak by two objects) are raised where any of them is.
    """
    merged: dict[tuple[datetime, ConditionKind], bool] = {}
    for condition in conditions:
        # A clock that runs ahead must not make the meter deaf to what it says later.
        key = (min(condition.at, draft.moment.now), condition.kind)
        merged[key] = merged.get(key, False) or condition.is_raised
    alarms, meter_id = dict(draft.delivery.alarms), draft.delivery.meter_id
    for (at, kind), is_raised in sorted(merged.items(), key=lambda item: item[0][0]):
        alarm = alarms.get(kind) or Alarm(kind, is_raised=False, told_at=at)
        if at < alarm.told_at:
            continue
        if is_raised and not alarm.is_raised:
            alarm = replace(alarm, raised_at=at)
            draft.remark("warning", "meter complains", kind=kind)
            draft.tell(ConditionChanged(meter_id, kind, at.isoformat()))
        elif alarm.is_raised and not is_raised:
            alarm = replace(alarm, cleared_at=at)
            draft.tell(ConditionChanged(meter_id, kind, ""))
        alarms[kind] = replace(alarm, is_raised=is_raised, told_at=at)
    draft.delivery = replace(draft.delivery, alarms=alarms)


def _take_answers(draft: _Draft, report: MeterReport) -> None:
    """Commands that ask or give more than a status report holds."""
    now = draft.moment.now
    if report.diagnostics is not None:
        command = answered(draft.delivery, report.diagnostics, now)
        if command is None:
            draft.remark("info", "diagnostics that nobody waits for", sequence=report.diagnostics.answers)
        else:
            draft.put(command)
            draft.is_answer = True
    if report.tables is not None and (command := held(draft.delivery, report.tables, now)) is not None:
        draft.put(command)


def _take_status(draft: _Draft, stated: Stated, status: StatusReport) -> None:
    before, now = draft.delivery, draft.moment.now
    clock_error_s = int((status.stated_at - now).total_seconds())
    after = replace(
        stated,
        report_counter=status.report_counter,
        last_sequence=status.last_sequence,
        accepted=status.credit_accepted,
        remaining=status.credit_remaining,
        typed=status.credit_typed or 0,
        stated_at=status.stated_at,
        clock_error_s=clock_error_s,
        valve=status.valve,
        valve_reason=status.valve_reason,
        valve_changed_at=now if status.valve != stated.valve else stated.valve_changed_at,
    )
    # Our numbering may lag behind the meter's (a restored backup, a meter taken over): go on above its number.
    last_sequence = max(before.last_sequence, status.last_sequence)
    draft.delivery = replace(before, stated=after, last_sequence=last_sequence)
    draft.is_new_status = True
    if after.accepted > before.granted:
        draft.remark("error", "meter holds more credit than granted")
    _confirm_grants(draft, status)
    for command in draft.delivery.open_commands:
        _resolve(draft, command, status)
    if needs_clock(draft.delivery, stated.clock_error_s, clock_error_s):
        draft.remark("warning", "meter's clock is far off", error_s=clock_error_s)
        _enqueue_clock(draft)
    moved = (stated.accepted, stated.last_sequence) != (after.accepted, after.last_sequence)
    if moved or draft.delivery.commands != before.commands:
        draft.tell(MeterStated(before.meter_id))


def _confirm_grants(draft: _Draft, status: StatusReport) -> None:
    """Confirm steps within the total that it took by radio; and those typed, where it can be told which they are."""
    delivery, now, by_radio = draft.delivery, draft.moment.now, status.radio_total
    typed = {grant.credit_key for grant in _typed_steps(delivery, status)}
    grants: list[Grant] = []
    radio: list[Confirmation] = []
    for grant in delivery.grants:
        after = grant
        if grant.confirmed_at is None and grant.credit_key in typed:
            after = replace(grant, confirmed_at=now, typed_at=now)
            draft.confirmations.append(Confirmation(grant, ConfirmedBy.KEYPAD))
            draft.tell(CreditConfirmed(delivery.meter_id, grant.total_after), grant.traceparent)
        elif grant.confirmed_at is None and grant.total_after <= by_radio:
            after = replace(grant, confirmed_at=now, sent_at=grant.sent_at or now)
            radio.append(Confirmation(grant, ConfirmedBy.RADIO))
        grants.append(after)
    draft.delivery = replace(delivery, grants=tuple(grants))
    if radio:
        radio.sort(key=lambda one: one.grant.granted_at)
        draft.confirmations.extend(radio)
        draft.tell(CreditConfirmed(delivery.meter_id, by_radio), radio[-1].grant.traceparent)


def _typed_steps(delivery: Delivery, status: StatusReport) -> list[Grant]:
    """A typed sum does not say which tokens it is made of, unless it is made of all that are not in the total.

    Otherwise the next total, which holds them all, tells; it goes out in this very contact.
    """
    if not status.credit_typed:
        return []
    by_radio = status.radio_total
    issued = [grant for grant in delivery.grants if grant.is_issued and grant.total_after > by_radio]
    return issued if sum(grant.amount for grant in issued) == status.credit_typed else []


def _resolve(draft: _Draft, command: Command, status: StatusReport) -> None:
    """A fresh status report decides about an open command."""
    if command.kind in BY_EFFECT and command.attempts:
        after = verify(command, status, draft.moment.now)
        if after.status is CommandStatus.REJECTED:
            draft.remark(
                "error", "command without effect", command_id=command.id, kind=command.kind, reason=after.reason
            )
        draft.put(after)
    elif command.sequence <= status.last_sequence:
        _resolve_passed(draft, command, status)
    elif command.status is not CommandStatus.QUEUED:
        _resolve_not_taken(draft, command, status)


def _resolve_passed(draft: _Draft, command: Command, status: StatusReport) -> None:
    """The meter is at or past this number: it took the command, unless the number was never sent by us."""
    is_credit = command.kind is CommandKind.CREDIT
    if status.radio_total >= command.value if is_credit else command.attempts > 0:
        draft.put(confirmed(command, draft.moment.now))
        return
    draft.remark("warning", "command renumbered", command_id=command.id)
    sequence = draft.delivery.last_sequence + 1
    reason = "renumbered: the meter's sequence had passed it"
    draft.put(replace(command, status=CommandStatus.SUPERSEDED, reason=reason))
    draft.put(
        Command(
            id=f"{command.id.rpartition('.')[0] or command.id}.{sequence}",
            sequence=sequence,
            kind=command.kind,
            value=command.value,
            status=CommandStatus.QUEUED,
            tid_mark=draft.delivery.last_tid if is_credit else None,
            void_at=command.void_at,
            body=command.body,
            traceparent=command.traceparent,
        )
    )
    draft.delivery = replace(draft.delivery, last_sequence=sequence)
    draft.wakes_gateway = True


def _resolve_not_taken(draft: _Draft, command: Command, status: StatusReport) -> None:
    """The meter says that it has not taken a command that went out: send the same number again, or give up."""
    heard = command.status is CommandStatus.ACKNOWLEDGED
    garbled = status.result is CommandResult.BAD_MAC and command.attempts >= MAX_BAD_MAC
    if heard and (status.result in _REFUSALS or garbled):
        draft.put(replace(command, status=CommandStatus.REJECTED, reason=status.result))
        draft.remark("error", "command refused by the meter", command_id=command.id, result=status.result)
    else:
        draft.put(replace(command, status=CommandStatus.QUEUED))


def _enqueue_clock(draft: _Draft) -> None:
    sequence = draft.delivery.last_sequence + 1
    meter_id = draft.delivery.meter_id
    draft.put(Command(f"cmd_clock.{meter_id}.{sequence}", sequence, CommandKind.CLOCK, 0, CommandStatus.QUEUED))
    draft.delivery = replace(draft.delivery, last_sequence=sequence, had_clock_command=True)
    draft.wakes_gateway = True


def take_next(draft: _Draft) -> OutgoingCommand | None:
    """The next QUEUED command, marked SENT; None where nothing waits. SENT and UNKNOWN ones wait for a status report.

    The oldest goes first, and those of BY_EFFECT after all others. Commands past their deadline expire here: an old
    command to close a valve must not be carried out days later.
    """
    _expire(draft)
    waiting = [one for one in draft.delivery.commands if one.status is CommandStatus.QUEUED]
    if not waiting:
        return None
    command = min(waiting, key=lambda one: (one.kind in BY_EFFECT, one.sequence))
    if command.kind in BY_EFFECT and draft.delivery.highest_sent > command.sequence:
        command = _above_all(draft, command)
    delivery, now = draft.delivery, draft.moment.now
    command = replace(
        command,
        status=CommandStatus.SENT,
        attempts=command.attempts + 1,
        sent_at=now,
        after_report=0 if delivery.stated is None else delivery.stated.report_counter,
        # The time of the sending: what was true when it was queued is wrong by as long as the meter slept.
        value=int(now.timestamp()) if command.kind is CommandKind.CLOCK else command.value,
    )
    draft.put(command)
    draft.delivery = replace(draft.delivery, highest_sent=max(delivery.highest_sent, command.sequence))
    if command.kind is CommandKind.CREDIT:
        _mark_steps_sent(draft, command.value)
    return OutgoingCommand(
        *(command.id, delivery.meter_id, command.sequence, command.kind, command.value, delivery.unit),
        tid_mark=command.tid_mark,
        body=command.body,
        traceparent=command.traceparent,
        attempt=command.attempts,
    )


def _expire(draft: _Draft) -> None:
    moment = draft.moment
    for command in draft.delivery.commands:
        late = command.deadline_at is not None and command.deadline_at < moment.real_at
        void = command.void_at is not None and command.void_at <= moment.now
        if command.status is CommandStatus.QUEUED and (late or void):
            draft.put(replace(command, status=CommandStatus.EXPIRED))
            if command.kind is CommandKind.AT_ZERO:
                draft.delivery = replace(draft.delivery, at_zero=None)


def _above_all(draft: _Draft, command: Command) -> Command:
    """The command under a new number: a higher one went out before it, and the meter would refuse its as stale."""
    sequence = draft.delivery.last_sequence + 1
    draft.delivery = replace(draft.delivery, last_sequence=sequence)
    # What the meter has of a table belongs to the old number.
    body = None if command.body is None else {name: it for name, it in command.body.items() if name != "parts"}
    return replace(command, sequence=sequence, body=body)


def _mark_steps_sent(draft: _Draft, total: int) -> None:
    now = draft.moment.now
    grants = tuple(
        # What was typed is there already.
        replace(one, sent_at=now)
        if one.total_after <= total and one.sent_at is None and one.confirmed_at is None
        else one
        for one in draft.delivery.grants
    )
    draft.delivery = replace(draft.delivery, grants=grants)
