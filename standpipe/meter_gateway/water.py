"""Object 3424, the water meter, into readings. Pure.

/3424/0/1 is the cumulated volume in m³ as a float (OMA registry, object 3424 version 1.1). Floats come from the wire
only; from here on volume is whole millilitres.
"""

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

from standpipe.meter_gateway import senml, tlv
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters.reports import RegisterReading
from standpipe.units import ML_PER_KILOLITRE

VOLUME_PATH = "/3424/0/1"
BATTERY_PATH = "/3/0/9"
EMPTY_PIPE_PATH = "/10274/0/6013"
"""Object 10274, empty pipe alarm, resource 6013, its state (OMA registry)."""
_VOLUME_RESOURCE = 1
_MAX_REGISTER_ML = 10**15


def readings_of_senml(records: tuple[senml.Record, ...], arrived_at: datetime) -> tuple[RegisterReading, ...]:
    """The cumulated volumes in a SenML pack; relative times count from its arrival. Raises ParsingError.

    Where the pack also tells of the empty-pipe alarm, each reading carries the state as of its instant.
    """
    alarms = sorted(
        (_instant(record.time_s, arrived_at), record.value is True)
        for record in records
        if record.name == EMPTY_PIPE_PATH
    )
    readings: list[RegisterReading] = []
    for record in records:
        if record.name == VOLUME_PATH:
            read_at = _instant(record.time_s, arrived_at)
            empty = any([state for since, state in alarms if since <= read_at][-1:])
            readings.append(RegisterReading(read_at, to_ml(record.value), empty))
    return tuple(readings)


def battery_of_senml(records: tuple[senml.Record, ...]) -> int | None:
    """The battery level in percent, where the pack tells a sane one."""
    levels = [record.value for record in records if record.name == BATTERY_PATH]
    level = levels[-1] if levels else None
    return int(level) if isinstance(level, Decimal) and 0 <= level <= 100 else None  # noqa: PLR2004 - percent.


def reading_of_tlv(payload: bytes, arrived_at: datetime) -> tuple[RegisterReading, ...]:
    """The cumulated volume in a TLV read of /3424/0, wrapped in its object instance or bare. Raises ParsingError."""
    entries = tlv.decode(payload)
    if len(entries) == 1 and entries[0].kind == tlv.OBJECT_INSTANCE:
        entries = entries[0].children
    return tuple(
        RegisterReading(arrived_at, to_ml(Decimal(repr(tlv.number(entry.value)))))
        for entry in entries
        if entry.kind == tlv.RESOURCE and entry.id == _VOLUME_RESOURCE
    )


def to_ml(volume_m3: object) -> int:
    """Cubic metres as whole millilitres. Raises ParsingError for what no register can show."""
    if not isinstance(volume_m3, Decimal) or not volume_m3.is_finite() or volume_m3 < 0:
        raise ParsingError("a volume that is no number or below zero")
    if volume_m3 * ML_PER_KILOLITRE > _MAX_REGISTER_ML:
        raise ParsingError("a volume beyond any register")
    return int((volume_m3 * ML_PER_KILOLITRE).to_integral_value(ROUND_HALF_UP))


def _instant(time_s: Decimal | None, arrived_at: datetime) -> datetime:
    try:
        if time_s is None:
            return arrived_at
        if time_s < senml.RELATIVE_BELOW_S:
            return arrived_at + timedelta(seconds=float(time_s))
        return datetime.fromtimestamp(float(time_s), UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise ParsingError("a time that no calendar holds") from error
