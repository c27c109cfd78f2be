"""Downlinks over LoRaWAN: one command at a time handed to the network server, and what became of it there. Pure.

The network's word moves a command no further than ACKNOWLEDGED, or to UNKNOWN; only the meter's status report confirms
it, or says that it was not taken, upon which the same number goes out again. Our queue is the rows of
``meter_commands``; the network's holds at most the one item that we gave it, and is flushed before each other one.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from standpipe.meter_gateway.lorawan.tables import WITH_NETWORK, DeviceClass, DownlinkState
from standpipe.meters.delivery_rules import decide
from standpipe.meters.delivery_state import IN_FLIGHT, OPEN, Changes, Command, Delivery, Heard, Moment, Outcome
from standpipe.meters.models import CommandStatus
from standpipe.meters.reports import CommandResult

LOST_AFTER_UPLINKS = 3
"""A Class A item goes out after the next uplink: one that is still there after this many will not go any more."""
MAX_ATTEMPTS = 12
RETRY_CAP_S = 600.0
_COMPLAINTS = {
    CommandResult.BAD_MAC,
    CommandResult.WRONG_CURRENCY,
    CommandResult.UNSUPPORTED,
    CommandResult.TOTAL_TOO_LOW,
}


@dataclass(frozen=True, slots=True)
class Downlink:
    """One handing-over of a command; see ``tables.LoraDownlink``. ``command_status``: as it was when this was read."""

    id: str
    meter_id: str
    command_id: str
    command_status: CommandStatus
    state: DownlinkState = DownlinkState.SENDING
    queue_item_id: str | None = None
    f_cnt_down: int | None = None
    uplinks: int = 0
    reason: str | None = None
    queued_at: datetime | None = None
    tx_at: datetime | None = None
    ended_at: datetime | None = None
    due_at: datetime | None = None
    attempts: int = 0
    last_error: str | None = None
    dead_at: datetime | None = None

    @property
    def is_being_sent(self) -> bool:
        """Claimed at least once and not answered for: the network server may be taking it over now."""
        return self.state is DownlinkState.SENDING and self.attempts > 0


@dataclass(frozen=True, slots=True)
class Radio:
    """A meter's radio. ``downlinks``: the open one, those that are due, and those that this batch's news is about."""

    meter_id: str
    device_class: DeviceClass
    last_deduplication_id: str | None = None
    last_uplink_at: datetime | None = None
    alarms: tuple[str, ...] = ()
    downlinks: tuple[Downlink, ...] = ()

    @property
    def open(self) -> Downlink | None:
        """The one that the network has, or is to have."""
        return next((row for row in self.downlinks if row.state in WITH_NETWORK), None)


@dataclass(frozen=True, slots=True)
class UplinkHeard:
    """An uplink. ``alarms``: as its status report names them (None: it brought none)."""

    deduplication_id: str
    heard_at: datetime
    alarms: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class CommandWaits:
    """A command was queued."""


@dataclass(frozen=True, slots=True)
class PutOnAir:
    """A gateway has put an item on the air. That proves nothing."""

    item_id: str
    at: datetime
    f_cnt_down: int


@dataclass(frozen=True, slots=True)
class RadioAnswered:
    """The meter's radio acknowledged an item (it still proves nothing), or the network gave up waiting for that."""

    item_id: str
    by_radio: bool


@dataclass(frozen=True, slots=True)
class Dropped:
    """The network dropped an item, or (None) all that it held for the device."""

    item_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class TaskDone:
    """The network server did what it was asked; ``item_id``: what it calls the item that it took, or still has."""

    downlink_id: str
    state: DownlinkState
    item_id: str | None


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """The network server did not do it, or its answer was lost. ``pause``: until the next try."""

    downlink_id: str
    error: str
    pause: timedelta


@dataclass(frozen=True, slots=True)
class TaskRefused:
    """There is no frame for the command: it waits for a person."""

    downlink_id: str
    reason: str


News = UplinkHeard | CommandWaits | PutOnAir | RadioAnswered | Dropped | TaskDone | TaskFailed | TaskRefused


@dataclass(slots=True)
class _Draft:
    delivery: Delivery
    radio: Radio
    moment: Moment
    changes: Changes = field(init=False)

    def __post_init__(self) -> None:
        self.changes = Changes(self.delivery)

    def step(self, heard: Heard) -> Changes:
        """One decision of the rules that hold for all carriers, added to those before."""
        after, before = decide(self.delivery, heard, self.moment), self.changes
        self.delivery = after.delivery
        self.changes = replace(
            after,
            facts=before.facts + after.facts,
            confirmations=before.confirmations + after.confirmations,
            remarks=before.remarks + after.remarks,
            is_new_status=before.is_new_status or after.is_new_status,
            is_answer=before.is_answer or after.is_answer,
            wakes_gateway=before.wakes_gateway or after.wakes_gateway,
            refused=before.refused or after.refused,
        )
        return after

    def outcome(self, row: Downlink, status: CommandStatus, reason: str | None = None) -> None:
        self.step(Heard(self.delivery.meter_id, outcomes=(Outcome(row.command_id, status, reason),)))

    def put(self, row: Downlink) -> None:
        others = tuple(one for one in self.radio.downlinks if one.id != row.id)
        self.radio = replace(self.radio, downlinks=(*others, row))

    def end(self, row: Downlink, state: DownlinkState, reason: str | None, *, due_at: datetime | None = None) -> None:
        attempts = row.attempts if due_at is None else 0
        ended = replace(row, state=state, reason=reason, ended_at=self.moment.real_at, due_at=due_at, attempts=attempts)
        self.put(ended)

    def over(self, row: Downlink) -> None:
        """Its command is settled; what the network may still hold of it is to be flushed."""
        kept = row.state in (DownlinkState.SENDING, DownlinkState.QUEUED)
        self.end(row, DownlinkState.OVER, None, due_at=self.moment.real_at if kept else None)

    def lose(self, row: Downlink, reason: str) -> None:
        self.end(row, DownlinkState.LOST, reason)
        self.outcome(row, CommandStatus.UNKNOWN, reason)

    def command_of(self, row: Downlink) -> Command | None:
        return self.delivery.command(row.command_id)

    def status_of(self, row: Downlink) -> CommandStatus:
        command = self.command_of(row)
        return row.command_status if command is None else command.status


def decide_radio(
    delivery: Delivery, radio: Radio, heard: Heard, news: News | None, moment: Moment
) -> tuple[Changes, Radio]:
    """Changes of a meter's delivery and its radio by what was heard of it, or by news of the network server's."""
    draft = _Draft(delivery, radio, moment)
    match news:
        case None:
            draft.step(heard)
        case UplinkHeard():
            _uplink(draft, heard, news)
        case CommandWaits():
            prepare(draft, listens=radio.device_class is DeviceClass.C)
        case PutOnAir() | RadioAnswered() | Dropped():
            _network_said(draft, news)
        case TaskDone():
            _done(draft, news)
        case TaskFailed():
            _failed(draft, news)
        case TaskRefused():
            _refused(draft, news)
    return replace(draft.changes, delivery=draft.delivery), draft.radio


def prepare(draft: _Draft, *, listens: bool) -> None:
    """Put the meter's next command into a downlink, unless one is under way.

    ``listens``: the meter listens now or after this uplink. An item that waits at the network and was superseded is
    replaced at once in any case. A command whose fate is open holds all others back: the meter's word on a later number
    would be taken for its word on the earlier one.
    """
    row = draft.radio.open
    if row is not None:
        status = draft.status_of(row)
        # What is being handed over at this moment is not overtaken: TaskDone comes back here.
        if status in OPEN or row.is_being_sent:
            return
        listens = listens or status is CommandStatus.SUPERSEDED
        draft.over(row)
    if not listens or any(command.status in IN_FLIGHT for command in draft.delivery.commands):
        return
    command = draft.step(Heard(draft.delivery.meter_id, sends_next=True)).command
    if command is None:
        return
    # Sending flushes the network's queue first: nothing else has to.
    idle = tuple(replace(one, due_at=None) if one.due_at is not None else one for one in draft.radio.downlinks)
    draft.radio = replace(draft.radio, downlinks=idle)
    row_id, meter_id = f"dwn_{command.id}.{command.attempt}", draft.delivery.meter_id
    draft.put(Downlink(row_id, meter_id, command.id, CommandStatus.SENT, due_at=draft.moment.real_at))


def _uplink(draft: _Draft, heard: Heard, news: UplinkHeard) -> None:
    radio = draft.radio
    if news.deduplication_id and radio.last_deduplication_id == news.deduplication_id:
        # The one heard last, posted again.
        draft.changes = replace(draft.changes, is_repeated=True)
        return
    if draft.step(heard).refused is not None:
        return
    alarms = radio.alarms if news.alarms is None else news.alarms
    last = news.deduplication_id or None
    draft.radio = replace(radio, last_deduplication_id=last, last_uplink_at=news.heard_at, alarms=alarms)
    status = None if heard.report is None else heard.report.status
    complains = status is not None and status.result in _COMPLAINTS
    _after_uplink(draft, news, complains=complains)
    # Read back first, then send: hours alone say nothing of what the meter has taken.
    prepare(draft, listens=news.alarms is not None)


def _after_uplink(draft: _Draft, news: UplinkHeard, *, complains: bool) -> None:
    """A fresh uplink says something of the downlink. ``complains``: it refuses the last command that the meter heard.

    Whether that was this one, only the acknowledgement beside the uplink can tell.
    """
    row = draft.radio.open
    if row is None:
        return
    command = draft.command_of(row)
    if command is None or command.status not in OPEN:
        if not row.is_being_sent:
            draft.over(row)
        return
    if row.state is not DownlinkState.SENDING:
        row = replace(row, uplinks=row.uplinks + 1)
        draft.put(row)
    spent = row.uplinks >= LOST_AFTER_UPLINKS
    if news.alarms is None:
        if spent and row.state is not DownlinkState.ACK:
            draft.lose(row, "nothing came of it at the network")
        return
    if command.status is not CommandStatus.QUEUED:
        return
    # The meter has not taken it. Was it meant to have heard it by now?
    sent = row.state is DownlinkState.TX and row.tx_at is not None and row.tx_at < news.heard_at
    if row.state is DownlinkState.ACK or spent or (sent and not complains):
        draft.end(row, DownlinkState.LOST, "the meter has not taken it")
        return
    draft.delivery = draft.delivery.with_command(replace(command, status=CommandStatus.SENT))
    if row.state is DownlinkState.QUEUED:
        # Has the network still got it? Whoever can flush its queue may have done so.
        draft.put(replace(row, due_at=draft.moment.real_at, attempts=0))


def _named(draft: _Draft, item_id: str) -> Downlink | None:
    """By the network's name for it; never another meter's (M4), never a later one's (M6)."""
    for row in draft.radio.downlinks:
        if row.queue_item_id == item_id:
            return row
    # Class C: news of an item may overtake the answer that names it.
    sending = draft.radio.open
    if sending is None or not sending.is_being_sent:
        return None
    row = replace(sending, queue_item_id=item_id)
    draft.put(row)
    return row


def _network_said(draft: _Draft, news: PutOnAir | RadioAnswered | Dropped) -> None:
    row = draft.radio.open if news.item_id is None else _named(draft, news.item_id)
    if row is None or row.state not in WITH_NETWORK:
        return
    if isinstance(news, PutOnAir):
        if row.state in (DownlinkState.SENDING, DownlinkState.QUEUED):
            # Whatever the answer to its handing-over was to be: the network has it.
            on_air = replace(row, state=DownlinkState.TX, tx_at=news.at, f_cnt_down=news.f_cnt_down)
            draft.put(replace(on_air, uplinks=0, due_at=None))
    elif isinstance(news, Dropped):
        # Where it was not handed over yet, it is still ours to hand over.
        if row.state is not DownlinkState.SENDING or row.due_at is None:
            draft.lose(row, news.reason)
    elif news.by_radio:
        draft.put(replace(row, state=DownlinkState.ACK, due_at=None))
        draft.outcome(row, CommandStatus.ACKNOWLEDGED)
    else:
        draft.lose(row, "not acknowledged")


def _by_id(draft: _Draft, downlink_id: str) -> Downlink | None:
    return next((row for row in draft.radio.downlinks if row.id == downlink_id), None)


def _done(draft: _Draft, news: TaskDone) -> None:
    row = _by_id(draft, news.downlink_id)
    if row is None:
        return
    row = replace(row, due_at=None, last_error=None)
    draft.put(row)
    if news.state is DownlinkState.SENDING:
        row = replace(row, queue_item_id=news.item_id)
        if row.state is DownlinkState.SENDING:
            row = replace(row, state=DownlinkState.QUEUED, queued_at=draft.moment.real_at)
        draft.put(row)
        prepare(draft, listens=False)
    elif news.state is DownlinkState.QUEUED and row.state is DownlinkState.QUEUED and news.item_id is None:
        # The status report that had us ask said that the meter has not taken it: the same number may go out again.
        draft.end(row, DownlinkState.LOST, "no longer in the network's queue")
        command = draft.command_of(row)
        if command is not None and command.status is CommandStatus.SENT:
            draft.delivery = draft.delivery.with_command(replace(command, status=CommandStatus.QUEUED))
        prepare(draft, listens=True)
    elif row.state is DownlinkState.SENDING:
        draft.end(row, DownlinkState.OVER, None)
        prepare(draft, listens=draft.status_of(row) is CommandStatus.SUPERSEDED)


def _failed(draft: _Draft, news: TaskFailed) -> None:
    """Again later, and one day the command is UNKNOWN."""
    row = _by_id(draft, news.downlink_id)
    if row is None or row.due_at is None:
        return
    if row.state not in (DownlinkState.SENDING, DownlinkState.OVER):
        # On its way after all, or only asked after: the next uplink asks again.
        draft.put(replace(row, due_at=None, last_error=None))
    elif row.attempts < MAX_ATTEMPTS:
        draft.put(replace(row, due_at=draft.moment.real_at + news.pause, last_error=news.error))
    else:
        row = replace(row, due_at=None, dead_at=draft.moment.real_at, last_error=news.error)
        draft.put(row)
        if row.state is DownlinkState.SENDING:
            draft.lose(row, news.error)


def _refused(draft: _Draft, news: TaskRefused) -> None:
    row = _by_id(draft, news.downlink_id)
    if row is not None:
        draft.end(row, DownlinkState.OVER, news.reason)
        draft.outcome(row, CommandStatus.REJECTED, news.reason)
