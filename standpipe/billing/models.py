"""The charges of each billing period, and statements."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import ForeignKey, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base


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
