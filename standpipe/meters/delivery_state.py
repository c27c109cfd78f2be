"""A meter's delivery as it stands: all that the rules of a contact may look at, and all that they may change. Pure.

Amounts are in the meter's own unit: minor units of its currency, or millilitres.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from standpipe.meters.models import VOLUME_UNIT, CommandKind, CommandStatus, WalletKind
from standpipe.meters.reports import ConditionKind, MeterReport, ValveReason, ValveState
from standpipe.outbox.facts import Fact

OPEN = (CommandStatus.QUEUED, CommandStatus.SENT, CommandStatus.ACKNOWLEDGED, CommandStatus.UNKNOWN)
IN_FLIGHT = (CommandStatus.SENT, CommandStatus.ACKNOWLEDGED, CommandStatus.UNKNOWN)
BY_EFFECT = frozenset({CommandKind.READ_NOW, CommandKind.CLOCK, CommandKind.TARIFF, CommandKind.DIAGNOSTICS})
"""Confirmed by what the meter shows (``standpipe.meters.command_verification``). They wait behind credit and valve: a
meter that does not answer to one of them must not be kept from its water.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """A command as its row holds it; see ``standpipe.meters.models.MeterCommand``."""

    id: str
    sequence: int
    kind: CommandKind
    value: int
    status: CommandStatus
    attempts: int = 0
    tid_mark: int | None = None
    reason: str | None = None
    deadline_at: datetime | None = None
    void_at: datetime | None = None
    sent_at: datetime | None = None
    acknowledged_at: datetime | None = None
    confirmed_at: datetime | None = None
    after_report: int | None = None
    body: dict[str, Any] | None = None
    traceparent: str | None = None

    @property
    def parts(self) -> int:
        """Parts of a price table that the meter has, as bits."""
        return int((self.body or {}).get("parts", 0))


@dataclass(frozen=True, slots=True)
class OutgoingCommand:
    """A command ready for the air; ``value`` is the credit total, the valve position, the threshold or the time.

    ``currency`` is ISO 4217, or VOLUME_UNIT for a VOLUME meter, whose totals and thresholds are in millilitres.
    ``tid_mark``, of a credit to a meter with a keypad: tokens with a TID up to it are in the total.
    """

    id: str
    meter_id: str
    sequence: int
    kind: CommandKind
    value: int
    currency: str
    tid_mark: int | None = None
    body: dict[str, Any] | None = None
    traceparent: str | None = None
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Grant:
    """A step of the credit total that is not confirmed yet, or was issued as a keypad token above it.

    ``amount``: without what was revoked of it.
    """

    credit_key: str
    amount: int
    total_after: int
    granted_at: datetime
    sent_at: datetime | None = None
    confirmed_at: datetime | None = None
    typed_at: datetime | None = None
    is_issued: bool = False
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Stated:
    """The meter's last word. ``typed``: of ``accepted``, what came by keypad and is in no total taken since.

    ``clock_error_s``: how far its clock was ahead of ours (below zero: behind).
    """

    last_seen_at: datetime
    battery_percent: int | None = None
    report_counter: int = 0
    last_sequence: int = 0
    accepted: int = 0
    remaining: int | None = None
    typed: int = 0
    stated_at: datetime | None = None
    clock_error_s: int | None = None
    valve: ValveState = ValveState.UNKNOWN
    valve_reason: ValveReason = ValveReason.UNKNOWN
    valve_changed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Alarm:
    """State of an alarm."""

    kind: ConditionKind
    is_raised: bool
    told_at: datetime
    raised_at: datetime | None = None
    cleared_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """Everything about one meter's delivery, under its row's lock.

    ``granted``: the total that we state to it. ``last_sequence``: the highest number that we have given away;
    ``highest_sent``: the highest that ever went out. ``last_tid``: of its keypad (None: it has none). ``at_zero``: what
    it was last told to do when its credit ends. ``had_clock_command``: its clock was once to be set. ``commands``:
    those whose end is not known, by number. ``grants``: by total. ``alarms``: only those that a report of the batch
    names.
    """

    meter_id: str
    wallet_kind: WalletKind
    currency: str
    granted: int = 0
    last_sequence: int = 0
    highest_sent: int = 0
    last_tid: int | None = None
    at_zero: str | None = None
    had_clock_command: bool = False
    stated: Stated | None = None
    commands: tuple[Command, ...] = ()
    grants: tuple[Grant, ...] = ()
    alarms: Mapping[ConditionKind, Alarm] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """Unit of the meter's totals, as frames name it."""
        return VOLUME_UNIT if self.wallet_kind is WalletKind.VOLUME else self.currency

    @property
    def open_commands(self) -> tuple[Command, ...]:
        """Those whose end is not known, in the order of their numbers."""
        return tuple(command for command in self.commands if command.status in OPEN)

    def command(self, command_id: str) -> Command | None:
        """The command of this id, open or ended in this very batch."""
        return next((command for command in self.commands if command.id == command_id), None)

    def in_flight(self, kind: CommandKind) -> Command | None:
        """The newest command of a kind that went out and whose end is not known."""
        sent = [one for one in self.open_commands if one.kind is kind and one.attempts > 0]
        return sent[-1] if sent else None

    def with_command(self, command: Command) -> "Delivery":
        """This delivery with a command changed or added; they stay in the order of their numbers."""
        others = [one for one in self.commands if one.id != command.id]
        return replace(self, commands=tuple(sorted((*others, command), key=lambda one: one.sequence)))


@dataclass(frozen=True, slots=True)
class Moment:
    """``now`` on the service clock; ``real_at``, the database's, by which radios and deadlines go."""

    now: datetime
    real_at: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a command on its way: ACKNOWLEDGED, UNKNOWN, or REJECTED for good by the radio's own answer."""

    command_id: str
    status: CommandStatus
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """News of one contact: commands' outcomes since the last time, and what the meter said.

    ``sends_next``: a command may be sent when this is written down. ``since``: it is to go without reading back first,
    because this was the number of the meter's last word and nothing was on its way then.
    """

    meter_id: str
    report: MeterReport | None = None
    outcomes: tuple[Outcome, ...] = ()
    sends_next: bool = False
    since: int | None = None


class ConfirmedBy(StrEnum):
    """The way on which a step of credit reached its meter."""

    RADIO = "radio"
    KEYPAD = "keypad"


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A step of credit that the meter has just confirmed."""

    grant: Grant
    by: ConfirmedBy


@dataclass(frozen=True, slots=True)
class Remark:
    """A line for the log: a word of its level, what happened, and about what."""

    level: str
    event: str
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of a decision: the delivery as it stands afterwards, and what others are to hear of.

    ``facts``: each with the trace that it belongs to, where that is not the caller's. ``is_new_status``: the status
    report was not heard before. ``refused``: why the report was not believed; nothing of it is then in ``delivery``.
    ``is_repeated``: the carrier has heard this very transmission before, and left it out. ``is_answer``: the
    diagnostics in it were asked for. ``command``: what goes out next. ``must_listen``: nothing does
    before the meter has been heard.
    """

    delivery: Delivery
    facts: tuple[tuple[Fact, str | None], ...] = ()
    confirmations: tuple[Confirmation, ...] = ()
    remarks: tuple[Remark, ...] = ()
    is_new_status: bool = False
    is_answer: bool = False
    wakes_gateway: bool = False
    refused: str | None = None
    is_repeated: bool = False
    command: OutgoingCommand | None = None
    must_listen: bool = False

    @property
    def takes_report(self) -> bool:
        """Tell whether what the meter reported was taken in."""
        return self.refused is None and not self.is_repeated
