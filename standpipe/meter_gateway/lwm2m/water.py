"""Records of the standard objects into facts about a water meter. Pure.

/3424/0/1 is the cumulated volume in m³ as a float (OMA registry, object 3424 version 1.1). Floats come from the wire
only; from here on volume is whole millilitres.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

from standpipe.meter_gateway.lwm2m import senml
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters.reports import (
    Condition,
    ConditionKind,
    Diagnostics,
    HeldTables,
    Measure,
    MeasureKind,
    MeterReport,
    RegisterReading,
)
from standpipe.platform.units import ML_PER_KILOLITRE

VOLUME_PATH = "/3424/0/1"
METER_PATH = "/3424/0"
_TIMESTAMP_PATH = "/3424/0/5518"
_BATTERY_PATHS = ("/3/0/9", "/3411/0/1")
_CONDITIONS = {
    "/3424/0/9": ConditionKind.LEAK_SUSPECTED,
    "/3424/0/10": ConditionKind.LEAK,
    "/3424/0/11": ConditionKind.REVERSE_FLOW,
    "/3424/0/12": ConditionKind.BLOCKED,
    "/3424/0/13": ConditionKind.TAMPER,
    "/3411/0/6": ConditionKind.LOW_BATTERY,
    # Objects 10272 to 10275, alarms of a water meter; resource 6013 is the state.
    "/10272/0/6013": ConditionKind.LEAK,
    "/10273/0/6013": ConditionKind.REVERSE_FLOW,
    "/10274/0/6013": ConditionKind.EMPTY_PIPE,
    "/10275/0/6013": ConditionKind.TAMPER,
}
_SECONDS_PER_HOUR = 3_600
_MEASURES = {
    "/3424/0/8": (MeasureKind.MAX_FLOW_ML_PER_H, ML_PER_KILOLITRE * _SECONDS_PER_HOUR),
    "/3425/0/2": (MeasureKind.VALVE_PERCENT, 1),
    "/4/0/2": (MeasureKind.SIGNAL_DBM, 1),
}
_MAX_REGISTER_ML = 10**15


@dataclass(frozen=True, slots=True)
class Observations:
    """Observations that a payload tells."""

    readings: tuple[RegisterReading, ...] = ()
    battery_percent: int | None = None
    conditions: tuple[Condition, ...] = ()
    measures: tuple[Measure, ...] = ()
    diagnostics: Diagnostics | None = None
    tables: HeldTables | None = None

    def report(self, meter_id: str, arrived_at: datetime) -> MeterReport:
        """Turn them into one meter's report."""
        return MeterReport(
            meter_id,
            arrived_at,
            self.readings,
            battery_percent=self.battery_percent,
            conditions=self.conditions,
            measures=self.measures,
            diagnostics=self.diagnostics,
            tables=self.tables,
        )

    def plus(self, other: "Observations") -> "Observations":
        """Both together; of two batteries, the first."""
        return Observations(
            self.readings + other.readings,
            other.battery_percent if self.battery_percent is None else self.battery_percent,
            self.conditions + other.conditions,
            self.measures + other.measures,
            other.diagnostics if self.diagnostics is None else self.diagnostics,
            other.tables if self.tables is None else self.tables,
        )


def observations_of(records: tuple[senml.Record, ...], arrived_at: datetime) -> Observations:
    """All that we know how to read in these records; relative times count from their arrival. Raises ParsingError."""
    timed = [("/" + record.name.strip("/"), _instant(record.time_s, arrived_at), record) for record in records]
    conditions: list[Condition] = []
    measures: list[Measure] = []
    battery_percent = None
    for path, at, record in timed:
        if path in _CONDITIONS:
            conditions.append(Condition(_CONDITIONS[path], at, is_raised=_truth(record.value)))
        elif path in _MEASURES and isinstance(record.value, Decimal):
            kind, scale = _MEASURES[path]
            measures.append(Measure(kind, at, _whole(record.value * scale)))
        elif path in _BATTERY_PATHS and isinstance(record.value, Decimal) and 0 <= record.value <= 100:  # noqa: PLR2004 - percent.
            battery_percent = int(record.value)
    return Observations(_readings(timed, arrived_at), battery_percent, tuple(conditions), tuple(measures))


def _readings(timed: list[tuple[str, datetime, senml.Record]], arrived_at: datetime) -> tuple[RegisterReading, ...]:
    """The cumulated volumes; each carries the state of the empty-pipe alarm, where that is told, as of its instant."""
    alarms = sorted(
        (at, _truth(record.value)) for path, at, record in timed if _CONDITIONS.get(path) is ConditionKind.EMPTY_PIPE
    )
    measured_at = next(
        (_instant(record.value, arrived_at) for path, _, record in timed
         if path == _TIMESTAMP_PATH and isinstance(record.value, Decimal)), None,
    )  # fmt: skip
    readings: list[RegisterReading] = []
    for path, at, record in timed:
        if path == VOLUME_PATH:
            read_at = measured_at if measured_at is not None and record.time_s is None else at
            empty = any([state for since, state in alarms if since <= read_at][-1:])
            readings.append(RegisterReading(read_at, to_ml(record.value), empty))
    return tuple(readings)


def to_ml(volume_m3: object) -> int:
    """Cubic metres as whole millilitres. Raises ParsingError for what no register can show."""
    if not isinstance(volume_m3, Decimal) or not volume_m3.is_finite() or volume_m3 < 0:
        raise ParsingError("a volume that is no number or below zero")
    if volume_m3 * ML_PER_KILOLITRE > _MAX_REGISTER_ML:
        raise ParsingError("a volume beyond any register")
    return _whole(volume_m3 * ML_PER_KILOLITRE)


def _whole(value: Decimal) -> int:
    if not value.is_finite() or abs(value) > _MAX_REGISTER_ML:
        raise ParsingError("a number beyond any meter's")
    return int(value.to_integral_value(ROUND_HALF_UP))


def _truth(value: object) -> bool:
    # Some clients write their booleans as numbers.
    return value is True or (isinstance(value, Decimal) and value != 0)


def _instant(time_s: Decimal | None, arrived_at: datetime) -> datetime:
    try:
        if time_s is None:
            return arrived_at
        if time_s < senml.RELATIVE_BELOW_S:
            return arrived_at + timedelta(seconds=float(time_s))
        return datetime.fromtimestamp(float(time_s), UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise ParsingError("a time that no calendar holds") from error
