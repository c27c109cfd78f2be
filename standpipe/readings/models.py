"""Readings: raw as they came, judged, and their roll-ups."""

from datetime import date, datetime
from enum import StrEnum

from sqlalchemy import ARRAY, BigInteger, Boolean, DateTime, ForeignKey, Identity, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base


class RawReport(Base):
    """The register readings of one report, as they came. Deleted by the rating that judges them.

    ``arrival`` is the order in which reports are judged. ``read_at`` and ``register_ml`` run in parallel;
    ``empty_pipe`` too, and is empty where none felt air. ``stated_at``: the last reading is that of a status report of
    this instant. ``clock_wrong``: the meter's clock is known to be wrong, and all of them count by ``received_at``, an
    instant of the service clock.
    """

    __tablename__ = "raw_reports"
    __table_args__ = (Index("ix_raw_reports_meter_id", "meter_id", "arrival"),)

    arrival: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"))
    received_at: Mapped[datetime]
    clock_wrong: Mapped[bool]
    stated_at: Mapped[datetime | None]
    read_at: Mapped[list[datetime]] = mapped_column(ARRAY(DateTime(timezone=True)))
    register_ml: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    empty_pipe: Mapped[list[bool]] = mapped_column(ARRAY(Boolean))


class ReadingQuality(StrEnum):
    """Standing of a reading. A HELD one is kept, shown to a person, and billed to nobody.

    CORRECTED: a person has said what it stands for; REJECTED: a person has said that it stands for nothing.
    """

    MEASURED = "MEASURED"
    CORRECTED = "CORRECTED"
    HELD = "HELD"
    REJECTED = "REJECTED"


COUNTED = (ReadingQuality.MEASURED, ReadingQuality.CORRECTED)


class Reading(Base):
    """The register at an instant, as the meter said it.

    ``counted_ml`` is where it stands in the meter's life: register changes, roll-overs and corrections leave that
    rising (None: as ``register_ml`` says; one that is HELD for air has it too, see ``readings.validation``).
    ``corrected_ml`` is what the register stood at by a person's word; later readings go on from that. ``claimed_at``:
    the instant that the meter's wrong clock told; ``read_at`` is then that of arrival. ``arrival``: 0 for the first
    value told for an instant; others that were told for it later stand beside it as 1, 2, … The table is partitioned
    by month of ``read_at``.
    """

    __tablename__ = "readings"
    __table_args__ = (
        Index("ix_readings_held", "meter_id", "read_at", postgresql_where=text("quality = 'HELD'")),
        Index("ix_readings_claimed", "meter_id", "claimed_at", postgresql_where=text("claimed_at IS NOT NULL")),
        {"postgresql_partition_by": "RANGE (read_at)"},
    )

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    read_at: Mapped[datetime] = mapped_column(primary_key=True)
    arrival: Mapped[int] = mapped_column(primary_key=True, server_default="0", autoincrement=False)
    register_ml: Mapped[int]
    quality: Mapped[str]
    reason: Mapped[str | None]
    received_at: Mapped[datetime]
    counted_ml: Mapped[int | None]
    corrected_ml: Mapped[int | None]
    claimed_at: Mapped[datetime | None]


class DailyUsage(Base):
    """Roll-up of a service day in the meter's time zone, kept in the same transaction as the readings."""

    __tablename__ = "daily_usage"

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    volume_ml: Mapped[int]
    register_end_ml: Mapped[int]


class MonthlyUsage(Base):
    """Roll-up of a billing period, kept with the days; ``days`` counts those that have a roll-up."""

    __tablename__ = "monthly_usage"
    __table_args__ = (Index("ix_monthly_usage_month", "month"),)

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    month: Mapped[date] = mapped_column(primary_key=True)
    volume_ml: Mapped[int]
    days: Mapped[int]


class StorageHorizon(Base):
    """Before which instant data of a kind has been let go (one row per kind of data)."""

    __tablename__ = "storage_horizons"

    what: Mapped[str] = mapped_column(primary_key=True)
    before: Mapped[datetime]
