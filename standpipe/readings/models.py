"""What meters told, before it is judged."""

from datetime import datetime

from sqlalchemy import ARRAY, BigInteger, Boolean, DateTime, ForeignKey, Identity, Index
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
