"""Meanings of a DLMS meter's attributes: volumes, times, load profiles, pushes, alarms. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from math import floor

from standpipe.meter_gateway.dlms.axdr import Data, Tag
from standpipe.meter_gateway.dlms.cosem_time import CosemTime
from standpipe.meter_gateway.dlms.profiles.profile import Alarm, AlarmObject, Column
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters.reports import RegisterReading, ValveState

_ML_PER_UNIT = {13: 1_000_000, 14: 1_000_000, 19: 1_000}
"""COSEM units of volume: cubic metre, corrected cubic metre, litre (Blue Book, table of units)."""
_MAX_REGISTER_ML = 10**15
_MAX_SCALER = 9


@dataclass(frozen=True, slots=True)
class VolumeScale:
    """Scale of one step of the volume register."""

    ml_per_step: Fraction

    @classmethod
    def of(cls, scaler: int, unit: int) -> "VolumeScale":
        """Raises ParsingError for a unit that is no volume."""
        if unit not in _ML_PER_UNIT or abs(scaler) > _MAX_SCALER:
            raise ParsingError(f"unit {unit} with scaler {scaler} is no volume")
        return cls(Fraction(10) ** scaler * _ML_PER_UNIT[unit])

    @classmethod
    def of_data(cls, data: Data) -> "VolumeScale":
        """From attribute 3, scaler_unit. Raises ParsingError."""
        if len(data.items) != 2:  # noqa: PLR2004 - scaler and unit.
            raise ParsingError("no scaler and unit")
        return cls.of(data.items[0].integer, data.items[1].integer)

    def to_ml(self, value: Data) -> int:
        """Raises ParsingError for what no register can show."""
        if value.tag in (Tag.FLOAT32, Tag.FLOAT64):
            raise ParsingError("a volume as a float")
        volume_ml = floor(value.integer * self.ml_per_step)
        if not 0 <= volume_ml <= _MAX_REGISTER_ML:
            raise ParsingError("a volume below zero or beyond any register")
        return volume_ml


@dataclass(frozen=True, slots=True)
class Told:
    """A load profile's row, or a push. ``alarms``: None where it does not say."""

    reading: RegisterReading | None
    alarms: frozenset[Alarm] | None = None


def instant_of(data: Data, assumed_deviation_min: int) -> datetime:
    """A date-time in either of its two forms. Raises ParsingError."""
    time = data.value if data.tag is Tag.DATE_TIME else CosemTime.from_bytes(data.octets)
    found: datetime = time.instant(assumed_deviation_min)
    return found


def told_by(
    fields: Sequence[Data],
    columns: Sequence[Column],
    *,
    scale: VolumeScale,
    alarms: AlarmObject | None,
    assumed_deviation_min: int,
    arrived_at: datetime,
) -> Told:
    """Fields by their columns. Raises ParsingError unless there is one of each."""
    if len(fields) != len(columns):
        raise ParsingError(f"{len(fields)} fields where the profile has {len(columns)}")
    named = dict(zip(columns, fields, strict=True))
    raised = None
    if alarms is not None and Column.ALARMS in named:
        raised = alarms.names(named[Column.ALARMS].integer)
    if Column.VOLUME not in named:
        return Told(None, raised)
    read_at = instant_of(named[Column.CLOCK], assumed_deviation_min) if Column.CLOCK in named else arrived_at
    empty_pipe = raised is not None and Alarm.EMPTY_PIPE in raised
    return Told(RegisterReading(read_at, scale.to_ml(named[Column.VOLUME]), empty_pipe), raised)


def percent_of(data: Data) -> int | None:
    """A battery level, where it is a sane one."""
    return data.integer if 0 <= data.integer <= 100 else None  # noqa: PLR2004 - percent.


def valve_of(control_state: int) -> tuple[ValveState, bool]:
    """Class 70, attribute 3: where the valve stands, and whether it waits for a hand to open it."""
    states = {0: ValveState.CLOSED, 1: ValveState.OPEN, 2: ValveState.CLOSED}
    return states.get(control_state, ValveState.UNKNOWN), control_state == 2  # noqa: PLR2004 - ready for reconnection.
