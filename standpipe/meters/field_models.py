"""Tables of meters' alarms, measures and diagnostics."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base


class MeterCondition(Base):
    """A complaint of a meter's (leak, tamper…), with the last instants at which it was raised and cleared."""

    __tablename__ = "meter_conditions"
    __table_args__ = (Index("ix_meter_conditions_raised", "kind", "raised_at", postgresql_where=text("is_raised")),)

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    is_raised: Mapped[bool]
    told_at: Mapped[datetime]
    raised_at: Mapped[datetime | None]
    cleared_at: Mapped[datetime | None]


class MeterMeasure(Base):
    """The newest value of what a meter measures beside its register; ``kind`` names the unit."""

    __tablename__ = "meter_measures"

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]
    told_at: Mapped[datetime]


class MeterDiagnostics(Base):
    """Diagnostics that a meter was asked for (``standpipe.meters.reports.Diagnostics``); None: it cannot tell."""

    __tablename__ = "meter_diagnostics"

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    told_at: Mapped[datetime] = mapped_column(primary_key=True)
    battery_percent: Mapped[int | None]
    signal_dbm: Mapped[int | None]
    uptime_s: Mapped[int | None]
    resets: Mapped[int | None]
    error_bits: Mapped[int | None]
    firmware: Mapped[str | None]
