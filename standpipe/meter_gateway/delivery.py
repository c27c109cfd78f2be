"""A contact with a meter, whatever carries it: the one place where what radios hear becomes rows.

``DeliveryDesk`` takes what was heard (``Heard``): load, decide, save, one transaction for all that comes at once, of up
to 200 meters. ``deliver`` leads a contact with a meter within reach: its status report, then commands one at a time,
each followed by a status report. The report comes first because a command whose answer was lost may have been taken;
only the meter can tell. Carriers bring two verbs, ``listen`` and ``send``; what is stored, and when, is the same for
all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Protocol

import structlog

from standpipe.engine.batcher import Batcher, BusyError
from standpipe.engine.unit_of_work import SetWriter, UnitOfWork, unit
from standpipe.meters import deliveries
from standpipe.meters.delivery_rules import decide
from standpipe.meters.delivery_state import Changes, Confirmation, Delivery, Heard, Moment, Outcome, OutgoingCommand
from standpipe.meters.models import CommandStatus
from standpipe.meters.reports import CommandResult, MeterReport
from standpipe.outbox.facts import FACTS
from standpipe.platform import metrics, tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Connection, Engine
from standpipe.platform.errors import NotFoundError, StandpipeError
from standpipe.platform.notify import COMMANDS
from standpipe.readings.raw import RawReadings, raw_readings, store_and_mark

MAX_COMMANDS = 8
BUSY_AFTER_S = (0.05, 0.15, 0.5, 1.0, 2.0, 4.0)
"""Pauses before a report is tried again whose meter somebody holds; then it is given up, for the meter tells anew."""
Row = tuple[SetWriter[Any], Any]
"""Something of the carrier's own to write down, in the transaction that takes the report in."""
_log = structlog.get_logger(__name__)


class NoAnswerError(StandpipeError):
    """No usable answer came. Whether the request was carried out is unknown."""


@dataclass
class CommandRefusedError(StandpipeError):
    """The meter cannot, or will not, carry a command out. Unless ``is_final``, only its status report can tell.

    ``is_lacking``: it has nothing to carry any command of this kind out with, so that none is queued again (M22).
    """

    reason: str
    is_final: bool = True
    is_lacking: bool = False

    def __str__(self) -> str:
        return self.reason


class ContactEndedError(StandpipeError):
    """The meter answered, but in a way after which only its next status report can tell."""


@dataclass(frozen=True, slots=True)
class Told:
    """One thing for the desk: what a contact brings of a meter, and the carrier's rows beside it.

    ``link``: an event of the carrier's own, for its ``Link``.
    """

    heard: Heard
    rows: tuple[Row, ...] = ()
    link: Any = None


class Link(Protocol):
    """State of a meter that a carrier keeps beside its delivery, where its own rules depend on it (LoRaWAN's queue)."""

    async def load(self, conn: Connection, told: Sequence[Told]) -> dict[str, Any]:
        """The carrier's own state of these meters, whose locks are held."""
        ...

    def decide(self, delivery: Delivery, state: Any, told: Told, moment: Moment) -> tuple[Changes, Any]:
        """The carrier's rules, over ``delivery_rules.decide``. Pure."""
        ...

    async def save(self, conn: Connection, states: Sequence[tuple[Any, Any]]) -> None:
        """Write states as they stand now, given as pairs of before and after."""
        ...


class PlainLink:
    """A carrier without rules of its own."""

    async def load(self, conn: Connection, told: Sequence[Told]) -> dict[str, Any]:
        """Nothing."""
        del conn, told
        return {}

    def decide(self, delivery: Delivery, state: Any, told: Told, moment: Moment) -> tuple[Changes, Any]:
        """The rules that hold for all carriers."""
        return decide(delivery, told.heard, moment), state

    async def save(self, conn: Connection, states: Sequence[tuple[Any, Any]]) -> None:
        """Nothing."""
        del conn, states


class DeliveryDesk:
    """Callable with what was heard of a meter; answers what follows, after the commit.

    Raises NotFoundError for an unknown meter, BusyError where somebody holds the meter's row for seconds, and
    InvalidInputError for a report with too many readings. A status report that is not to be believed is no error: see
    ``Changes.refused``.
    """

    def __init__(self, engine: Engine, clock: Clock, link: Link | None = None) -> None:
        self._engine, self._clock, self._link = engine, clock, link or PlainLink()
        self._batcher: Batcher[Told, Changes] = Batcher("delivery", self.work, busy_after_s=BUSY_AFTER_S)

    async def __call__(self, told: Told) -> Changes:
        """See the class."""
        return await self._batcher(told)

    async def stop(self) -> None:
        """Take no more, and return when all that was taken is answered."""
        await self._batcher.stop()

    async def work(self, items: Sequence[Told]) -> list[Changes | Exception]:
        """Load, decide and save a batch in one transaction; an answer for each item."""
        async with unit(self._engine) as work:
            return await take_in(work, items, self._clock.now(), self._link)


async def take_in(
    work: UnitOfWork, items: Sequence[Told], now: datetime, link: Link | None = None
) -> list[Changes | Exception]:
    """Load, decide and save what was heard, in a transaction under way; an answer for each item, in their order.

    What is wrong with one item is its own answer, and nothing of it is written.
    """
    link = link or PlainLink()
    meter_ids = {one.heard.meter_id for one in items}
    complaining = {one.heard.meter_id for one in items if one.heard.report and one.heard.report.conditions}
    loaded = await deliveries.load(work.conn, meter_ids, with_alarms=complaining)
    here = [one for one in items if one.heard.meter_id in loaded.deliveries]
    links = await link.load(work.conn, here) if here else {}
    turn = _Turn(Moment(now, loaded.real_at or datetime.now(UTC)), link, loaded, dict(loaded.deliveries), dict(links))
    answers = [turn.decide(one) for one in items]
    await turn.save(work, links)
    return answers


@dataclass(slots=True)
class _Turn:
    """A batch in the making: what is known of each meter so far, and what is to be written of it."""

    moment: Moment
    link: Link
    loaded: deliveries.Loaded
    deliveries: dict[str, Delivery]
    links: dict[str, Any]
    raw: list[RawReadings] = field(default_factory=list)
    due: dict[str, None] = field(default_factory=dict)
    taken: list[tuple[Told, Changes]] = field(default_factory=list)

    def decide(self, told: Told) -> Changes | Exception:
        """One item's answer."""
        meter_id = told.heard.meter_id
        if meter_id not in self.deliveries:
            is_busy = meter_id in self.loaded.busy
            return BusyError("Somebody else holds this meter.") if is_busy else NotFoundError("No such meter.")
        before = self.deliveries[meter_id]
        try:
            changes, state = self.link.decide(before, self.links.get(meter_id), told, self.moment)
            raw = _raw_of(told.heard.report, before, changes, self.moment.now)
        except (StandpipeError, ArithmeticError, ValueError, TypeError, LookupError, AttributeError) as error:
            return error
        self.deliveries[meter_id], self.links[meter_id] = changes.delivery, state
        self.taken.append((told, changes))
        if raw is not None:
            self.raw.append(raw)
        if raw is not None or changes.is_new_status:
            self.due[meter_id] = None
        return changes

    async def save(self, work: UnitOfWork, links: dict[str, Any]) -> None:
        """Write the whole batch, table by table."""
        before = self.loaded.deliveries
        pairs = [(before[key], after) for key, after in self.deliveries.items() if after is not before[key]]
        await deliveries.save(work.conn, pairs)
        moved = [(links.get(key), it) for key, it in self.links.items() if it != links.get(key)]
        await self.link.save(work.conn, moved)
        believed = [(one.heard.report, it) for one, it in self.taken if one.heard.report and it.takes_report]
        measures = [(report.meter_id, measure) for report, _ in believed for measure in report.measures]
        await deliveries.save_measures(work.conn, measures, self.moment.now)
        answers = [report for report, it in believed if it.is_answer]
        diagnostics = {report.meter_id: report.diagnostics for report in answers if report.diagnostics is not None}
        await deliveries.save_diagnostics(work.conn, diagnostics, self.moment.now)
        await store_and_mark(work.conn, self.raw, list(self.due))
        for told, changes in self.taken:
            _add(work, told, changes, self.moment.now)


def _raw_of(report: MeterReport | None, before: Delivery, changes: Changes, now: datetime) -> RawReadings | None:
    if report is None or not changes.takes_report:
        return None
    clock_error_s = None if before.stated is None else before.stated.clock_error_s
    return raw_readings(report, now, is_new=changes.is_new_status, clock_error_s=clock_error_s)


def _add(work: UnitOfWork, told: Told, changes: Changes, now: datetime) -> None:
    here, confirmed_in = tracing.current_traceparent(), dict[str | None, str | None]()
    for confirmation in changes.confirmations:
        traceparent = confirmation.grant.traceparent
        with tracing.continue_from(traceparent), tracing.span("credit confirmed", by=confirmation.by):
            # What follows from the confirmation goes on from here, in the trace of what was paid.
            confirmed_in[traceparent] = tracing.current_traceparent()
        work.after_commit(partial(_observe, confirmation, now))
    work.add(FACTS, *((fact, confirmed_in.get(trace, trace) or here) for fact, trace in changes.facts))
    for remark in changes.remarks:
        work.after_commit(partial(getattr(_log, remark.level), remark.event, **remark.about))
    if changes.refused is not None:
        meter_id = told.heard.meter_id
        work.after_commit(partial(_log.error, "report refused", meter_id=meter_id, reason=changes.refused))
    else:
        for writer, row in told.rows:
            work.add(writer, row)
    if changes.wakes_gateway:
        work.notify(COMMANDS, told.heard.meter_id)


def _observe(confirmation: Confirmation, now: datetime) -> None:
    metrics.CREDIT_CONFIRMED_S.observe(max((now - confirmation.grant.granted_at).total_seconds(), 0.0))


@dataclass(frozen=True, slots=True)
class Spoken:
    """Words of a meter that was listened to. ``rows``: what the carrier keeps of them, in the same transaction.

    ``may_send``: whether the meter is in a state in which commands are safe to send.
    """

    report: MeterReport
    may_send: bool = True
    rows: tuple[Row, ...] = ()


class Carrier(Protocol):
    """One meter within reach. ``name``: the carrier's, in traces and metrics."""

    name: ClassVar[str]

    async def listen(self) -> Spoken:
        """Read the meter's status report and what else it has to tell. Raises NoAnswerError."""
        ...

    async def send(self, command: OutgoingCommand) -> None:
        """Carry a command over; returning means that it arrived, and no more.

        Sending the same command again must not add to its effect. Raises NoAnswerError, CommandRefusedError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ended:
    """End of a contact. ``since``: the number of the meter's last status report, where it may be sent to at once
    from now on. ``refused``: why its last one was not believed.
    """

    since: int | None = None
    refused: str | None = None


async def deliver(desk: DeliveryDesk, meter_id: str, carrier: Carrier, *, since: int | None = None) -> Ended:
    """One contact, begun and ended by the meter's own word.

    ``since``: as an earlier contact of the same waking ended, which spares the reading back. An acknowledgement is
    written down with the status report that follows it. Raises NoAnswerError where the meter fell silent, and what the
    desk raises.
    """
    outcomes: tuple[Outcome, ...] = ()
    command = None
    if since is not None:
        changes = await desk(Told(Heard(meter_id, sends_next=True, since=since)))
        command = changes.command
        if command is None and not changes.must_listen:
            return Ended(since)
    for sent in range(MAX_COMMANDS + 1):
        if command is not None:
            with (
                tracing.continue_from(command.traceparent),
                tracing.span("radio command", carrier=carrier.name, command=command.kind, attempt=command.attempt),
            ):
                outcomes = (await _send(desk, command, carrier),)
                changes = await _listen(desk, meter_id, carrier, outcomes, sends_next=sent < MAX_COMMANDS)
        else:
            changes = await _listen(desk, meter_id, carrier, outcomes, sends_next=True)
        command = changes.command
        if command is None:
            break
    stated = changes.delivery.stated
    may_send = changes.is_new_status and stated is not None
    return Ended(stated.report_counter if may_send and stated is not None else None, changes.refused)


async def _listen(
    desk: DeliveryDesk, meter_id: str, carrier: Carrier, outcomes: tuple[Outcome, ...], *, sends_next: bool
) -> Changes:
    try:
        spoken = await carrier.listen()
    except BaseException:
        if outcomes:
            # What the radio said of the command would be lost with the contact.
            await desk(Told(Heard(meter_id, outcomes=outcomes)))
        raise
    heard = Heard(meter_id, spoken.report, outcomes, sends_next=sends_next and spoken.may_send)
    return await desk(Told(heard, spoken.rows))


async def _send(desk: DeliveryDesk, command: OutgoingCommand, carrier: Carrier) -> Outcome:
    """Send one command; returns the outcome to be written down with the next status report.

    An answer that tells nothing is written down at once, and ends the contact.
    """
    try:
        await carrier.send(command)
    except NoAnswerError as error:
        await _note(desk, command, CommandStatus.UNKNOWN, str(error))
        raise
    except CommandRefusedError as error:
        if not error.is_final:
            await _note(desk, command, CommandStatus.UNKNOWN, error.reason)
            raise ContactEndedError(error.reason) from error
        _log.error("command refused", meter_id=command.meter_id, command_id=command.id, reason=error.reason)
        reason = f"{CommandResult.UNSUPPORTED}: {error.reason}" if error.is_lacking else error.reason
        return Outcome(command.id, CommandStatus.REJECTED, reason)
    return Outcome(command.id, CommandStatus.ACKNOWLEDGED)


async def _note(desk: DeliveryDesk, command: OutgoingCommand, status: CommandStatus, reason: str) -> None:
    await desk(Told(Heard(command.meter_id, outcomes=(Outcome(command.id, status, reason),))))
