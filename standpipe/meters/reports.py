"""Words of a meter, as ours. Every carrier's codec ends in these; nothing vendor-specific passes them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class ValveState(StrEnum):
    """Positions of the valve."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"
    RESTRICTED = "RESTRICTED"
    UNKNOWN = "UNKNOWN"


class ValveReason(StrEnum):
    """Reasons for the valve's position, by the meter's word."""

    NORMAL = "NORMAL"
    NO_CREDIT = "NO_CREDIT"
    TAMPER = "TAMPER"
    LEAK = "LEAK"
    MAINTENANCE = "MAINTENANCE"
    CUSTOMER = "CUSTOMER"
    UNKNOWN = "UNKNOWN"


class CommandResult(StrEnum):
    """Result of the last command that the meter heard, by its word."""

    DONE = "DONE"
    DUPLICATE = "DUPLICATE"
    BAD_MAC = "BAD_MAC"
    STALE_SEQUENCE = "STALE_SEQUENCE"
    WRONG_CURRENCY = "WRONG_CURRENCY"
    UNSUPPORTED = "UNSUPPORTED"
    TOTAL_TOO_LOW = "TOTAL_TOO_LOW"


class ConditionKind(StrEnum):
    """Kinds of alarm."""

    LEAK_SUSPECTED = "LEAK_SUSPECTED"
    LEAK = "LEAK"
    REVERSE_FLOW = "REVERSE_FLOW"
    BLOCKED = "BLOCKED"
    TAMPER = "TAMPER"
    EMPTY_PIPE = "EMPTY_PIPE"
    LOW_BATTERY = "LOW_BATTERY"


class MeasureKind(StrEnum):
    """Kinds of measure beside the register, units last."""

    MAX_FLOW_ML_PER_H = "MAX_FLOW_ML_PER_H"
    VALVE_PERCENT = "VALVE_PERCENT"
    SIGNAL_DBM = "SIGNAL_DBM"


@dataclass(frozen=True, slots=True)
class Condition:
    """A complaint as it stood at an instant."""

    kind: ConditionKind
    at: datetime
    is_raised: bool


@dataclass(frozen=True, slots=True)
class Measure:
    """A value at an instant, in the unit that its kind names."""

    kind: MeasureKind
    at: datetime
    value: int


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Diagnostics of a meter, as far as its carrier can tell (None: it cannot).

    ``answers``: the number of the command that asked. ``error_bits``: the maker's own; bit n is error n where the
    carrier has error codes. ``uptime_s``: since it last started; ``resets``: how often it ever did.
    """

    answers: int
    battery_percent: int | None = None
    signal_dbm: int | None = None
    uptime_s: int | None = None
    resets: int | None = None
    error_bits: int | None = None
    firmware: str | None = None

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing could be told."""
        told = (self.battery_percent, self.signal_dbm, self.uptime_s, self.resets, self.error_bits, self.firmware)
        return all(item is None for item in told)


@dataclass(frozen=True, slots=True)
class HeldTables:
    """Price tables that a meter holds, by their ids (hex, empty: none): in force, and waiting for its instant.

    ``report_counter``: under which number it said so (None: it was read and found the same in this very contact).
    ``parts``: of the table of command ``sequence``, the parts that have arrived, as bits.
    """

    in_force: str
    waiting: str
    report_counter: int | None = None
    sequence: int = 0
    parts: int = 0


@dataclass(frozen=True, slots=True)
class RegisterReading:
    """The volume register at an instant; the register only ever rises unless the meter is swapped or tampered with.

    ``empty_pipe``: the meter felt air instead of water when it read itself.
    """

    read_at: datetime
    register_ml: int
    empty_pipe: bool = False


def is_lacking(reason: str | None) -> bool:
    """Tell whether a command was refused because the meter has nothing to carry any of its kind out with (M22)."""
    return (reason or "").partition(":")[0] == CommandResult.UNSUPPORTED


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The meter's own, authenticated word on its credit and valve: the only thing that confirms a command.

    Credit is in the meter's own unit: minor units of its currency, or millilitres. ``credit_typed`` of what it has
    accepted was typed on its keypad, and is in no total that it has taken since (None: it did not say).
    """

    report_counter: int
    last_sequence: int
    result: CommandResult
    credit_accepted: int
    credit_remaining: int
    register_ml: int
    valve: ValveState
    valve_reason: ValveReason
    stated_at: datetime
    credit_typed: int | None = None

    @property
    def radio_total(self) -> int:
        """The newest of our totals that the meter says to have taken: without what was typed since."""
        return self.credit_accepted - (self.credit_typed or 0)


@dataclass(frozen=True, slots=True)
class MeterReport:
    """One contact's worth of news from one meter, already tied to the meter by its transport identity."""

    meter_id: str
    received_at: datetime
    readings: tuple[RegisterReading, ...] = ()
    status: StatusReport | None = None
    battery_percent: int | None = None
    empty_pipe: bool = False
    """The meter felt air at the time of its status report."""
    conditions: tuple[Condition, ...] = ()
    measures: tuple[Measure, ...] = ()
    diagnostics: Diagnostics | None = None
    tables: HeldTables | None = None
