"""Totals out of a DLMS meter's money registers. Pure; the reasons stand in docs/decisions/0015-dlms-totals.md.

A credit object (class 112) falls as water runs, and its charge (class 113) counts what was deducted. What came in is
the sum of the two, whatever has run meanwhile: accepted = credit + paid − base. That makes a total of an amount.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import floor

from standpipe.meter_gateway.dlms.meters import OnTheAir
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters.delivery_state import BY_EFFECT
from standpipe.meters.models import CommandKind
from standpipe.meters.reports import ValveState
from standpipe.platform.units import currency_exponent

MAX_AMOUNT_UNITS = 2**31 - 1
_MAX_SCALE = 9


@dataclass(frozen=True, slots=True)
class MoneyScale:
    """Scale from one unit of the meter's to our minor units."""

    minor_per_unit: Fraction

    @classmethod
    def of(cls, currency: str, scale: int) -> "MoneyScale":
        """From the account's currency_scale: a unit is 10^scale of the currency. Raises ParsingError."""
        if abs(scale) > _MAX_SCALE:
            raise ParsingError("a currency scale out of all proportion")
        return cls(Fraction(10) ** (scale + currency_exponent(currency)))

    def to_minor(self, units: int) -> int:
        """Rounded down: what is not a whole minor unit has not arrived."""
        return floor(units * self.minor_per_unit)

    def to_units(self, minor: int) -> int | None:
        """Exact, or None where the meter's unit is too coarse for it."""
        units = minor / self.minor_per_unit
        return int(units) if units.denominator == 1 else None


@dataclass(frozen=True, slots=True)
class MoneyRegisters:
    """Credit and paid of one instant, in the meter's units, and the volume then."""

    credit_units: int
    paid_units: int
    register_ml: int


def base_for(registers: MoneyRegisters, accepted_minor: int, scale: MoneyScale) -> int:
    """The base under which these registers mean ``accepted_minor``: fixed at a meter's first contact.

    Raises ParsingError where the meter's unit cannot express it.
    """
    accepted_units = scale.to_units(accepted_minor)
    if accepted_units is None:
        raise ParsingError("the meter's money unit is coarser than the currency's")
    return registers.credit_units + registers.paid_units - accepted_units


def accepted_minor(registers: MoneyRegisters, base_units: int, scale: MoneyScale) -> int:
    """The credit ever accepted."""
    return scale.to_minor(registers.credit_units + registers.paid_units - base_units)


def went_back(registers: MoneyRegisters, paid_units: int | None) -> bool:
    """Tell whether the meter says to have deducted less than before: it lost its memory, or is another meter."""
    return paid_units is not None and registers.paid_units < paid_units


def amount_for(total_minor: int, registers: MoneyRegisters, base_units: int, scale: MoneyScale) -> int | None:
    """Return what the credit object must hold for the accepted total to be ``total_minor``; None where it cannot."""
    total_units = scale.to_units(total_minor)
    if total_units is None:
        return None
    amount = total_units + base_units - registers.paid_units
    return amount if -MAX_AMOUNT_UNITS <= amount <= MAX_AMOUNT_UNITS else None


@dataclass(frozen=True, slots=True)
class Seen:
    """Readings of a contact that show a command's effect. ``answered``: numbers that the meter confirmed itself."""

    accepted_minor: int
    valve: ValveState
    ready_to_open: bool
    threshold_minor: int | None
    answered: frozenset[int] = frozenset()


def concluded(last_sequence: int, on_the_air: Iterable[OnTheAir], seen: Seen) -> int:
    """The highest command number up to which every command shows its effect.

    Credit shows in the total alone, never in an answer. A command whose effect does not show ends the count, or a
    later one's effect would speak for it.
    """
    for command in on_the_air:
        if command.kind in BY_EFFECT:
            # It shows in other words of the meter's than this number.
            continue
        if not _shows(command, seen):
            break
        last_sequence = max(last_sequence, command.sequence)
    return last_sequence


def _shows(command: OnTheAir, seen: Seen) -> bool:
    if command.kind is CommandKind.CREDIT:
        return seen.accepted_minor >= command.value
    if command.sequence in seen.answered:
        return True
    if command.kind is CommandKind.VALVE:
        if seen.valve is ValveState.UNKNOWN:
            return False
        opened = seen.valve is ValveState.OPEN or seen.ready_to_open
        return opened if command.value == 0 else command.value == 1 and not opened
    return command.kind is CommandKind.THRESHOLD and seen.threshold_minor == command.value
