"""LoRaWAN devices, and what was handed to the network server for them."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base, QueueMixin


class DeviceClass(StrEnum):
    """Classes of devices by when they listen: A after its own uplink, C all the time."""

    A = "A"
    C = "C"


class DownlinkState(StrEnum):
    """States of a downlink at the network, by the network's own word. None of this is delivery."""

    SENDING = "SENDING"
    """Not taken over by the network server yet, or its answer was lost."""
    QUEUED = "QUEUED"
    TX = "TX"
    ACK = "ACK"
    LOST = "LOST"
    OVER = "OVER"
    """Its command was settled or replaced: nothing more is awaited of it."""


WITH_NETWORK = (DownlinkState.SENDING, DownlinkState.QUEUED, DownlinkState.TX, DownlinkState.ACK)


class LoraDevice(Base):
    """A meter's radio.

    The DevEUI (16 hexadecimal digits, lower case) is its identity; its prepaid key is the sealed one of its meter's
    credential. ``application_id``: the only ChirpStack application whose word counts for it (None: any).
    ``last_deduplication_id``: the uplink heard last, which may be posted to us twice. ``alarms``: as last stated.
    """

    __tablename__ = "lora_devices"
    __table_args__ = (
        CheckConstraint("dev_eui ~ '^[0-9a-f]{16}$'", name="dev_eui_is_hex"),
        CheckConstraint("device_class IN ('A', 'C')", name="device_class_known"),
    )

    meter_id: Mapped[str] = mapped_column(ForeignKey("meter_credentials.meter_id"), primary_key=True)
    dev_eui: Mapped[str] = mapped_column(unique=True)
    device_class: Mapped[str]
    region: Mapped[str]
    application_id: Mapped[str | None]
    last_deduplication_id: Mapped[str | None]
    last_uplink_at: Mapped[datetime | None]
    alarms: Mapped[list[str]] = mapped_column(server_default="[]")


class LoraDownlink(QueueMixin, Base):
    """One handing-over of a command to the network server; due until the server has taken it.

    ``uplinks`` counts those heard while the network kept it. Instants are the network's, or real time.
    """

    __tablename__ = "lora_downlinks"
    __table_args__ = (
        Index("ix_lora_downlinks_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        # One at a time: a second would overtake the first, or tell the meter twice.
        Index(
            "uq_lora_downlinks_open",
            "meter_id",
            unique=True,
            postgresql_where=text("state IN ('SENDING', 'QUEUED', 'TX', 'ACK')"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    meter_id: Mapped[str] = mapped_column(ForeignKey("lora_devices.meter_id"))
    command_id: Mapped[str] = mapped_column(ForeignKey("meter_commands.id"), index=True)
    state: Mapped[str]
    queue_item_id: Mapped[str | None] = mapped_column(unique=True)
    f_cnt_down: Mapped[int | None]
    uplinks: Mapped[int] = mapped_column(server_default="0")
    reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    queued_at: Mapped[datetime | None]
    tx_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
