"""COSEM's date-time: 12 octets, each part of which may be left unspecified (IEC 62056-6-2 §4.1.6.1). Pure."""

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from standpipe.meter_gateway.parsing import ParsingError

SIZE = 12
ANY_BYTE = 0xFF
ANY_YEAR = 0xFFFF
ANY_DEVIATION = -0x8000
_LAYOUT = struct.Struct(">HBBBBBBBhB")
_INVALID = 0b1
"""Bit of the clock status: the meter itself does not believe this time."""


@dataclass(frozen=True, slots=True)
class CosemTime:
    """The parts as they travel; ANY_BYTE, ANY_YEAR and ANY_DEVIATION mean "not specified".

    ``deviation_min`` is what must be added to local time to reach UTC, in minutes.
    """

    year: int = ANY_YEAR
    month: int = ANY_BYTE
    day: int = ANY_BYTE
    weekday: int = ANY_BYTE
    hour: int = ANY_BYTE
    minute: int = ANY_BYTE
    second: int = ANY_BYTE
    hundredths: int = ANY_BYTE
    deviation_min: int = ANY_DEVIATION
    status: int = ANY_BYTE

    @classmethod
    def from_bytes(cls, octets: bytes) -> "CosemTime":
        """Raises ParsingError unless there are 12 octets."""
        if len(octets) != SIZE:
            raise ParsingError(f"a date-time of {len(octets)} octets")
        return cls(*_LAYOUT.unpack(octets))

    def to_bytes(self) -> bytes:
        """The 12 octets."""
        return _LAYOUT.pack(
            self.year,
            self.month,
            self.day,
            self.weekday,
            self.hour,
            self.minute,
            self.second,
            self.hundredths,
            self.deviation_min,
            self.status,
        )

    @classmethod
    def of(cls, instant: datetime) -> "CosemTime":
        """An instant, told in UTC."""
        at = instant.astimezone(UTC)
        return cls(
            at.year,
            at.month,
            at.day,
            at.isoweekday(),
            at.hour,
            at.minute,
            at.second,
            at.microsecond // 10_000,
            deviation_min=0,
            status=0,
        )

    def instant(self, assumed_deviation_min: int = 0) -> datetime:
        """The instant meant; ``assumed_deviation_min`` stands in for an unspecified deviation.

        Raises ParsingError where the day, hour or minute is unspecified or impossible, or where the meter says that
        its clock is invalid.
        """
        if self.status != ANY_BYTE and self.status & _INVALID:
            raise ParsingError("the meter calls its own time invalid")
        deviation_min = assumed_deviation_min if self.deviation_min == ANY_DEVIATION else self.deviation_min
        second = 0 if self.second == ANY_BYTE else self.second
        hundredths = 0 if self.hundredths == ANY_BYTE else self.hundredths
        try:
            local = datetime(
                self.year, self.month, self.day, self.hour, self.minute, second, hundredths * 10_000, tzinfo=UTC
            )
            return local + timedelta(minutes=deviation_min)
        except (ValueError, OverflowError) as error:
            raise ParsingError("a time that no calendar holds") from error
