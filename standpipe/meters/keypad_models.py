"""Meters with a keypad: what their tokens are made for."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base


class MeterKeypad(Base):
    """A VOLUME meter's keypad, by IEC 62055-41: the terms of its decoder key, which itself only the issuer has.

    ``last_tid``: the newest TID given away; each is given away once, whatever becomes of it. ``next_key_revision``: a
    new key was issued, and the meter may or may not have it yet.
    """

    __tablename__ = "meter_keypads"
    __table_args__ = (CheckConstraint("last_tid BETWEEN 0 AND 16777215", name="tid_fits"),)

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    pan: Mapped[str] = mapped_column(unique=True)
    supply_group: Mapped[str]
    tariff_index: Mapped[str]
    key_revision: Mapped[int]
    key_type: Mapped[int]
    key_expiry: Mapped[int]
    base_year: Mapped[int]
    next_key_revision: Mapped[int | None]
    last_tid: Mapped[int] = mapped_column(server_default="0")
    enrolled_at: Mapped[datetime]
