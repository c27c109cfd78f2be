"""Meters that speak DLMS."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base


class DlmsMeter(Base):
    """A meter that speaks DLMS, and the counters that must survive us.

    ``sealed_keys``: its keys and password; ``client_counter``: the next invocation counter of ours that nobody has
    taken; ``meter_counter``: the highest of its own that we have believed; ``report_number``: the last statement asked
    for. ``base_units`` and ``paid_units``, in the meter's own money units: what its registers held that was not our
    credit, and all that it says to have deducted (decision 15). ``profile_read_to``: the last load profile entry taken.
    """

    __tablename__ = "dlms_meters"
    __table_args__ = (
        CheckConstraint("client_counter BETWEEN 0 AND 4294967296", name="client_counter_fits"),
        CheckConstraint("meter_counter BETWEEN -1 AND 4294967295", name="meter_counter_fits"),
    )

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    profile: Mapped[str]
    system_title: Mapped[str] = mapped_column(unique=True)
    device_name: Mapped[str] = mapped_column(unique=True)
    sealed_keys: Mapped[str]
    client_counter: Mapped[int] = mapped_column(server_default="0")
    meter_counter: Mapped[int] = mapped_column(server_default="-1")
    report_number: Mapped[int] = mapped_column(server_default="0")
    base_units: Mapped[int | None]
    paid_units: Mapped[int | None]
    profile_read_to: Mapped[datetime | None]
