"""LwM2M registrations, and the keys with which meters open DTLS sessions."""

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base


class MeterRegistration(Base):
    """An LwM2M registration. Instants are real time: they pace the radio, not the town."""

    __tablename__ = "meter_registrations"

    location: Mapped[str] = mapped_column(primary_key=True)
    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), unique=True)
    remote: Mapped[str] = mapped_column(index=True)
    queue_mode: Mapped[bool]
    lifetime_s: Mapped[int]
    objects: Mapped[str]
    lwm2m: Mapped[str] = mapped_column(server_default="1.0")
    sends: Mapped[bool] = mapped_column(server_default="false")
    updates: Mapped[int] = mapped_column(server_default="0")
    expires_at: Mapped[datetime]
    awake_until: Mapped[datetime]


class MeterDtlsKeys(Base):
    """A meter's pre-shared keys, sealed; see ``standpipe.meter_gateway.lwm2m.dtls.keys``. Instants are real time.

    ``next_generation`` numbers the keys that were written to the meter, so that it refuses an older one;
    ``next_written_at``: when the meter acknowledged the next key; ``used_at``: when the present one last opened a
    session.
    """

    __tablename__ = "meter_dtls_keys"

    meter_id: Mapped[str] = mapped_column(ForeignKey("meter_credentials.meter_id"), primary_key=True)
    sealed_key: Mapped[str | None]
    sealed_next_key: Mapped[str | None]
    next_generation: Mapped[int] = mapped_column(server_default="0")
    next_written_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    sealed_bootstrap_key: Mapped[str | None]
    bootstrapped_at: Mapped[datetime | None]
