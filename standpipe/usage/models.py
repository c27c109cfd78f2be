"""Readings, daily roll-ups and the charge of each billing period."""

from datetime import date, datetime
from enum import StrEnum

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.db.base import Base


class ReadingQuality(StrEnum):
    """Whether a reading counts. A HELD one is kept, shown to a person, and billed to nobody."""

    MEASURED = "MEASURED"
    HELD = "HELD"


class Reading(Base):
    """The register at an instant; stored once per meter and instant."""

    __tablename__ = "readings"

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    read_at: Mapped[datetime] = mapped_column(primary_key=True)
    register_ml: Mapped[int]
    quality: Mapped[str]
    reason: Mapped[str | None]
    received_at: Mapped[datetime]


class DailyUsage(Base):
    """Roll-up of a service day in the meter's time zone, kept in the same transaction as the readings."""

    __tablename__ = "daily_usage"

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    volume_ml: Mapped[int]
    register_end_ml: Mapped[int]


class PeriodCharge(Base):
    """The running total of one billing period: what has been charged for which volume. Changed under its row lock."""

    __tablename__ = "period_charges"

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    period_start: Mapped[date] = mapped_column(primary_key=True)
    tariff_version_id: Mapped[str] = mapped_column(ForeignKey("tariff_versions.id"))
    volume_ml: Mapped[int]
    charged_minor: Mapped[int]
    revision: Mapped[int]
