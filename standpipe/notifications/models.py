"""Devices, alerts, and the delivery of each alert to each device."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base, QueueMixin, TracedMixin


class AlertKind(StrEnum):
    """Kinds of alert."""

    LOW_BALANCE = "LOW_BALANCE"
    EMPTY = "EMPTY"
    TOP_UP = "TOP_UP"
    ACCESS = "ACCESS"
    """News that who may see the meter has changed; told to those who could see it before."""
    LEAK = "LEAK"
    TAMPER = "TAMPER"
    BATTERY = "BATTERY"


class NotifyChannel(StrEnum):
    """A way to tell a customer. Alerts go out by PUSH alone so far."""

    PUSH = "PUSH"
    SMS = "SMS"
    WHATSAPP = "WHATSAPP"
    EMAIL = "EMAIL"


class DeliveryStatus(StrEnum):
    """States of a delivery. SUPPRESSED: there was no way to reach the customer; shown, not hidden."""

    QUEUED = "QUEUED"
    SENT = "SENT"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"
    SUPPRESSED = "SUPPRESSED"


class Device(Base):
    """An app installation that can be pushed to, by Firebase installation id or by the older token."""

    __tablename__ = "devices"
    __table_args__ = (UniqueConstraint("customer_id", "installation_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"))
    installation_id: Mapped[str]
    platform: Mapped[str]
    fcm_token: Mapped[str | None] = mapped_column(unique=True)
    fcm_fid: Mapped[str | None] = mapped_column(unique=True)
    language: Mapped[str]
    time_zone: Mapped[str]
    app_version: Mapped[str]
    healthy: Mapped[bool] = mapped_column(server_default="true")
    last_seen_at: Mapped[datetime]
    label: Mapped[str] = mapped_column(server_default="")


class AlertState(Base):
    """Low-balance state of a meter: the threshold (in days) that is raised; ``level`` None: armed."""

    __tablename__ = "alert_states"

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    level: Mapped[int | None]
    crossings: Mapped[int] = mapped_column(server_default="0")


class Alert(Base):
    """Something that a meter's household was told. ``business_key`` makes telling it twice impossible.

    ``params["not_for"]``: members whom it does not concern (a threshold that others asked for). They never see it.
    """

    __tablename__ = "alerts"
    __table_args__ = (Index("ix_alerts_meter_id", "meter_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"))
    kind: Mapped[str]
    business_key: Mapped[str] = mapped_column(unique=True)
    params: Mapped[dict[str, Any]]
    raised_at: Mapped[datetime]
    cleared_at: Mapped[datetime | None]
    read_at: Mapped[datetime | None]


class AlertRead(Base):
    """That a customer has read an alert: each member of a household reads for themselves."""

    __tablename__ = "alert_reads"

    alert_id: Mapped[str] = mapped_column(ForeignKey("alerts.id"), primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"), primary_key=True)
    read_at: Mapped[datetime]


class NotificationPreference(Base):
    """Preferences of a customer. ``quiet_from`` and ``quiet_to``: "HH:MM" by each meter's clock."""

    __tablename__ = "notification_preferences"

    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"), primary_key=True)
    days_left: Mapped[list[int]] = mapped_column(JSONB)
    channels: Mapped[list[str]]
    quiet_from: Mapped[str | None]
    quiet_to: Mapped[str | None]
    weekly_digest: Mapped[bool] = mapped_column(server_default="false")


class Delivery(TracedMixin, QueueMixin, Base):
    """One alert to one device; without a device, the record that a customer could not be reached."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("alert_id", "customer_id", "device_id", "channel", postgresql_nulls_not_distinct=True),
        Index("ix_deliveries_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    alert_id: Mapped[str] = mapped_column(ForeignKey("alerts.id"))
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"))
    device_id: Mapped[str | None] = mapped_column(ForeignKey("devices.id", ondelete="SET NULL"))
    channel: Mapped[str]
    status: Mapped[str]
    provider_message_id: Mapped[str | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
