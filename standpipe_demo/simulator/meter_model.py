"""A prepaid water meter's inside: register, credit, price table, valve. Pure: time comes in as an argument.

It prices by the page's rule: a calendar month's charge is the block price of the month's volume, exact, rounded once,
half up; what is deducted is the difference to what the month has cost so far. A meter that holds volume deducts what
runs, and prices nothing. Written apart from the product's own
pricing, on purpose: if the two disagree, a test shows it.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import floor
from typing import Any
from zoneinfo import ZoneInfo

from standpipe_demo.simulator import meter_prices
from standpipe_demo.simulator.meter_frames import Opened, make_status, open_command
from standpipe_demo.simulator.water_use import use_between_ml

DONE, DUPLICATE, BAD_MAC, STALE, WRONG_CURRENCY, UNSUPPORTED, TOTAL_TOO_LOW = range(7)
OPEN, CLOSED, RESTRICTED = range(3)
NORMAL, NO_CREDIT = 0, 1
CREDIT, VALVE, THRESHOLD, AT_ZERO, MARKED_CREDIT = 1, 2, 3, 4, 5
READ_NOW, CLOCK, DIAGNOSTICS = 6, 7, 10
DISCONNECT, TRICKLE, NEVER = range(3)
VOLUME_UNIT = "VOL"
MAX_BUFFER = 90 * 24
MAX_STEP = timedelta(days=90)
TRICKLE_DIVISOR = 10
"""A restricted valve lets this part of the household's use through."""


@dataclass(frozen=True)
class MeterConfig:
    """Configuration by factory and installer. ``blocks``: (up_to_ml or None, price in minor units per kilolitre).

    A VOLUME meter has the currency VOL: it holds millilitres, and needs no prices.
    """

    serial: str
    endpoint: str
    prepaid_key_hex: str
    currency: str
    time_zone: str
    blocks: tuple[tuple[int | None, str], ...]
    started_at: str
    register_ml: int = 0
    period_used_ml: int = 0
    credit_accepted: int = 0
    credit_remaining: int = 0
    low_credit_threshold_minor: int = 0
    last_sequence: int = 0
    report_counter: int = 0
    daily_litres: int = 300
    wake_every_s: int = 3600
    online: bool = True
    lose_answer_rate: float = 0.0
    lose_datagram_rate: float = 0.0
    report_format: str = "senml-cbor"
    dev_eui: str = ""
    """Of a meter on LoRaWAN; the others speak LwM2M."""
    device_class: str = "A"
    dlms: dict[str, str] | None = None
    """Set for a meter that speaks DLMS: see ``simulator/dlms_meter.py``."""
    dtls_key_hex: str = ""
    """The key that it left the factory with; empty: it speaks plain UDP."""
    keypad: dict[str, Any] | None = None
    """Of a VOLUME meter with a keypad: the terms of its token key (``sts.keys.KeyTerms``), and ``key_hex``."""
    bootstrap_key_hex: str = ""
    """In its place: the key under which it asks a bootstrap server for one."""

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "MeterConfig":
        """From a manifest's entry."""
        known = {item.name for item in fields(cls)}
        values = {name: value for name, value in raw.items() if name in known}
        values["blocks"] = tuple((bound, price) for bound, price in raw["blocks"])
        return cls(**values)

    @property
    def holds_volume(self) -> bool:
        """Tell whether its credit is water."""
        return self.currency == VOLUME_UNIT


@dataclass
class MeterState:
    """State that the meter keeps through a loss of power. A VOLUME meter's credit counts in millilitres."""

    at: str
    register_ml: int
    period_start_register_ml: int
    credit_accepted: int
    credit_remaining: int
    period_charged_minor: int
    last_sequence: int = 0
    result: int = DONE
    report_counter: int = 0
    valve: int = OPEN
    valve_reason: int = NORMAL
    ordered_valve: int = OPEN
    threshold_minor: int = 0
    at_zero: int = DISCONNECT
    location: str = ""
    dtls_key_hex: str = ""
    """A key that came later, in place of the factory's."""
    dtls_generation: int = 0
    gateway: str = ""
    """Address to which a bootstrap server sent it, ``host:port``."""
    unsent: list[tuple[int, int]] = field(default_factory=list)
    typed_ml: int = 0
    """Millilitres of the accepted volume that were typed since it last took a total by radio."""
    tid_mark: int = 0
    """Tokens with a TID up to this are in that total."""
    tids: list[int] = field(default_factory=list)
    """The newest TIDs that were typed."""
    keypad: dict[str, Any] | None = None
    """A token key that came later, in place of the factory's."""
    key_sections: dict[str, int] = field(default_factory=dict)
    """Parts of a new token key, by subclass."""
    is_tampered: bool = False
    pipe_empty: list[tuple[int, bool]] = field(default_factory=list)
    """Since when (Unix seconds) the pipe has been empty, or full again."""
    clock_error_s: float = 0.0
    """Seconds that its own clock is ahead of the true time."""
    resets: int = 0
    prices: list[list[Any]] | None = None
    """Blocks that came by radio, in place of the installer's."""
    table_id: str = ""
    waiting_table: dict[str, Any] | None = None
    table_parts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Turn it into JSON's types."""
        return asdict(self)


def fresh_state(config: MeterConfig) -> MeterState:
    """The state in which the installer leaves the meter."""
    return MeterState(
        at=config.started_at,
        register_ml=config.register_ml,
        period_start_register_ml=config.register_ml - config.period_used_ml,
        credit_accepted=config.credit_accepted,
        credit_remaining=config.credit_remaining,
        period_charged_minor=price_minor(config.blocks, config.period_used_ml),
        threshold_minor=config.low_credit_threshold_minor,
        last_sequence=config.last_sequence,
        report_counter=config.report_counter,
        valve=OPEN if config.credit_remaining > 0 else CLOSED,
        valve_reason=NORMAL if config.credit_remaining > 0 else NO_CREDIT,
    )


def price_minor(blocks: tuple[tuple[int | None, str], ...], volume_ml: int) -> int:
    """A month's charge, by the page's rule."""
    total, lower = Fraction(0), 0
    for bound, price in blocks:
        upper = volume_ml if bound is None else min(bound, volume_ml)
        total += Fraction(price) * max(upper - lower, 0) / 1_000_000
        lower = max(lower, upper)
    return floor(total + Fraction(1, 2))


def advance(config: MeterConfig, state: MeterState, now: datetime) -> None:
    """Let water run until ``now``, keeping a register reading for each full hour, and deduct as it runs."""
    due = meter_prices.due_at(state, now)
    if due is not None:
        advance_priced(config, state, due)
        meter_prices.put_in_force(state)
        used_ml = state.register_ml - state.period_start_register_ml
        state.period_charged_minor = price_minor(blocks_of(config, state), used_ml)
    advance_priced(config, state, now)


def advance_priced(config: MeterConfig, state: MeterState, now: datetime) -> None:
    """Advance under one price table."""
    zone = ZoneInfo(config.time_zone)
    at = max(datetime.fromisoformat(state.at), now - MAX_STEP)
    for stop in _quarters(at, now):
        if state.valve != CLOSED:
            used_ml = use_between_ml(config.serial, at, stop, zone, config.daily_litres)
            pour(config, state, used_ml if state.valve == OPEN else used_ml // TRICKLE_DIVISOR)
        local = stop.astimezone(zone)
        if local.minute == local.second == local.microsecond == 0:
            state.unsent.append((int(stop.timestamp() + state.clock_error_s), state.register_ml))
        at = stop
        if local.month != (stop - timedelta(microseconds=1)).astimezone(zone).month:
            state.period_start_register_ml, state.period_charged_minor = state.register_ml, 0
        state.at = at.isoformat()
    del state.unsent[:-MAX_BUFFER]


def pour(config: MeterConfig, state: MeterState, volume_ml: int) -> None:
    """Let a volume run through, deduct it or its price, and close the valve when the credit is gone."""
    state.register_ml += volume_ml
    if config.holds_volume:
        state.credit_remaining -= volume_ml
        settle_valve(state)
        return
    due = price_minor(blocks_of(config, state), state.register_ml - state.period_start_register_ml)
    state.credit_remaining -= due - state.period_charged_minor
    state.period_charged_minor = due
    settle_valve(state)


def blocks_of(config: MeterConfig, state: MeterState) -> tuple[tuple[int | None, str], ...]:
    """The blocks in force."""
    return config.blocks if state.prices is None else tuple((bound, price) for bound, price in state.prices)


def run_dry(config: MeterConfig, state: MeterState, since: datetime, air_ml: int) -> None:
    """The pipe ran empty, and the air in it spun the register: the meter counts it, and raises its alarm."""
    since_s = int(since.timestamp())
    state.unsent = [(time_s, ml + air_ml if time_s >= since_s else ml) for time_s, ml in state.unsent]
    state.pipe_empty.append((since_s, True))
    pour(config, state, air_ml)


def fill_again(state: MeterState, since: datetime) -> None:
    """Water is back: the alarm ends."""
    state.pipe_empty.append((int(since.timestamp()), False))


def take_command(config: MeterConfig, state: MeterState, frame: bytes) -> None:
    """Hear a command frame. The caller stores the state before it answers."""
    take_opened(config, state, open_command(frame, bytes.fromhex(config.prepaid_key_hex), config.serial))


def take_opened(config: MeterConfig, state: MeterState, opened: Opened | None) -> None:
    """Do what an opened frame says, or None for one that is not for this meter."""
    if opened is None:
        state.result = BAD_MAC
        return
    kind, sequence, value, currency, mark = opened
    if sequence == state.last_sequence:
        state.result = DUPLICATE
    elif sequence < state.last_sequence:
        state.result = STALE
    elif currency != config.currency:
        state.result = WRONG_CURRENCY
    elif not _is_known(config, kind, value):
        state.result = UNSUPPORTED
    elif kind in (CREDIT, MARKED_CREDIT) and (value < state.credit_accepted or (mark or 0) < state.tid_mark):
        state.result = TOTAL_TOO_LOW
    else:
        state.last_sequence, state.result = sequence, DONE
        _carry_out(state, kind, value, mark)


def _is_known(config: MeterConfig, kind: int, value: int) -> bool:
    if kind in (VALVE, AT_ZERO):
        return value in range(3)
    # Without the mark, a meter with a keypad could not tell which tokens are in a total.
    credit = MARKED_CREDIT if config.keypad is not None else CREDIT
    return kind in (credit, THRESHOLD, READ_NOW, CLOCK, DIAGNOSTICS)


def _carry_out(state: MeterState, kind: int, value: int, mark: int | None) -> None:
    if kind in (CREDIT, MARKED_CREDIT):
        state.credit_remaining += value - state.credit_accepted
        state.credit_accepted = value
        if mark is not None:
            state.typed_ml, state.tid_mark = 0, mark
    elif kind == VALVE:
        state.ordered_valve = value
    elif kind == AT_ZERO:
        state.at_zero = value
    elif kind == CLOCK:
        set_clock(state, value)
    elif kind == THRESHOLD:
        state.threshold_minor = value
    settle_valve(state)


def set_clock(state: MeterState, time_s: int) -> None:
    """Its clock shows ``time_s`` now."""
    state.clock_error_s = time_s - datetime.fromisoformat(state.at).timestamp()


def take_table(config: MeterConfig, state: MeterState, opened: tuple[int, str, bytes] | None) -> None:
    """A whole price table: (sequence, currency, table), or None for one that is not for this meter."""
    if opened is None:
        state.result = BAD_MAC
        return
    sequence, currency, table = opened
    if sequence == state.last_sequence:
        state.result = DUPLICATE
    elif sequence < state.last_sequence:
        state.result = STALE
    elif currency != config.currency or config.holds_volume:
        state.result = WRONG_CURRENCY
    else:
        try:
            meter_prices.take_table(state, table)
        except meter_prices.TableError:
            state.result = UNSUPPORTED
            return
        state.last_sequence, state.result = sequence, DONE


def status_frame(config: MeterConfig, state: MeterState) -> bytes:
    """The meter's statement; each takes the next report number, which the caller stores before it answers."""
    typed_ml = None if config.keypad is None else state.typed_ml
    return make_status(next_statement(state), bytes.fromhex(config.prepaid_key_hex), config.serial, typed_ml)


def next_statement(state: MeterState) -> tuple[int, int, int, int, int, int, int, int, int]:
    """State its status under its next report number, in the order of the page."""
    state.report_counter += 1
    return (
        state.report_counter,
        state.last_sequence,
        state.result,
        state.valve,
        state.valve_reason,
        state.credit_accepted,
        state.credit_remaining,
        state.register_ml,
        int(datetime.fromisoformat(state.at).timestamp() + state.clock_error_s),
    )


def settle_valve(state: MeterState) -> None:
    """Put the valve where the credit and the orders want it."""
    if state.credit_remaining <= 0 and state.at_zero == DISCONNECT:
        state.valve, state.valve_reason = CLOSED, NO_CREDIT
    elif state.credit_remaining <= 0 and state.at_zero == TRICKLE and state.ordered_valve == OPEN:
        state.valve, state.valve_reason = RESTRICTED, NO_CREDIT
    else:
        state.valve, state.valve_reason = state.ordered_valve, NORMAL


def _quarters(start: datetime, end: datetime) -> Iterator[datetime]:
    """Steps to every quarter of an hour: midnight falls on one in every time zone of the world."""
    at = start
    while at < end:
        quarter = at.astimezone(UTC).replace(second=0, microsecond=0)
        at = min(quarter + timedelta(minutes=15 - quarter.minute % 15), end)
        yield at
