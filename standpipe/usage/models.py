"""Readings, their roll-ups, the charges of each billing period, and statements."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base


class ReadingQuality(StrEnum):
    """Whether a reading counts. A HELD one is kept, shown to a person, and billed to nobody.

    CORRECTED: a person has said what it stands for; REJECTED: a person has said that it stands for nothing.
    """

    MEASURED = "MEASURED"
    CORRECTED = "CORRECTED"
    HELD = "HELD"
    REJECTED = "REJECTED"


COUNTED = (ReadingQuality.MEASURED, ReadingQuality.CORRECTED)


class Reading(Base):
    """The register at an instant; stored once per meter and instant, as the meter said it.

    ``counted_ml`` is where it stands in the meter's life: register changes, roll-overs and corrections leave that
    rising (None: as ``register_ml`` says; one that is HELD for air has it too, see ``usage.validation``).
    ``corrected_ml`` is what the register stood at by a person's word; later readings go on from that. ``claimed_at``:
    the instant that the meter's wrong clock told; ``read_at`` is then that of arrival. The table is partitioned by
    month of ``read_at``.
    """

    __tablename__ = "readings"
    __table_args__ = (
        Index("ix_readings_held", "meter_id", "read_at", postgresql_where=text("quality = 'HELD'")),
        Index("ix_readings_claimed", "meter_id", "claimed_at", postgresql_where=text("claimed_at IS NOT NULL")),
        {"postgresql_partition_by": "RANGE (read_at)"},
    )

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    read_at: Mapped[datetime] = mapped_column(primary_key=True)
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


class PeriodCharge(Base):
    """The running total of one billing period: what has been charged for which volume. Changed under its row lock.

    ``accounts``: the same by code ("water", a levy's), None in rows of before taxes; sums to ``charged_minor``.
    """

    __tablename__ = "period_charges"

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    period_start: Mapped[date] = mapped_column(primary_key=True)
    tariff_version_id: Mapped[str] = mapped_column(ForeignKey("tariff_versions.id"))
    volume_ml: Mapped[int]
    charged_minor: Mapped[int]
    revision: Mapped[int]
    accounts: Mapped[dict[str, int] | None]


class StandingCharged(Base):
    """The running total of a period's standing charges, with their levies, as far as they have fallen due.

    A row tells that the period was accrued, even where nothing was due.
    """

    __tablename__ = "standing_charged"

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    period_start: Mapped[date] = mapped_column(primary_key=True)
    charged_minor: Mapped[int]
    accounts: Mapped[dict[str, int]]
    revision: Mapped[int]


class Statement(Base):
    """A closed month of one meter, numbered without gaps per utility; what comes later stands in a later one."""

    __tablename__ = "statements"
    __table_args__ = (UniqueConstraint("meter_id", "period_start"), UniqueConstraint("utility_id", "number"))

    id: Mapped[str] = mapped_column(primary_key=True)
    utility_id: Mapped[str] = mapped_column(ForeignKey("utilities.id"))
    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"))
    period_start: Mapped[date]
    number: Mapped[int]
    body: Mapped[dict[str, Any]]
    issued_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class StatementCounter(Base):
    """The last statement number of a utility."""

    __tablename__ = "statement_counters"

    utility_id: Mapped[str] = mapped_column(ForeignKey("utilities.id"), primary_key=True)
    last_number: Mapped[int] = mapped_column(server_default="0")
