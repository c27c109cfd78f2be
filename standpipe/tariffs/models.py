"""Tariffs, their dated versions, and how each meter is supplied."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base


class Tariff(Base):
    """A price list that a utility offers; its prices are in its versions."""

    __tablename__ = "tariffs"
    __table_args__ = (UniqueConstraint("utility_id", "code"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    utility_id: Mapped[str] = mapped_column(ForeignKey("utilities.id"))
    code: Mapped[str]
    name: Mapped[str]
    currency: Mapped[str]
    basis: Mapped[str]
    customer_class: Mapped[str] = mapped_column(server_default="domestic")


class TariffVersion(Base):
    """Prices from a date on; the database refuses to change one.

    ``document``: the tariff file (``standpipe.tariffs.files``); without it, ``blocks`` are all that it says:
    ``[{"up_to_ml": int | null, "price_minor_per_kl": "decimal"}]``, rising.
    """

    __tablename__ = "tariff_versions"
    __table_args__ = (UniqueConstraint("tariff_id", "effective_from"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tariff_id: Mapped[str] = mapped_column(ForeignKey("tariffs.id"))
    effective_from: Mapped[date]
    blocks: Mapped[list[dict[str, Any]]]
    document: Mapped[dict[str, Any] | None]
    published_at: Mapped[datetime] = mapped_column(server_default=func.now())


class CustomerClass(Base):
    """A class of customers of a utility. ``cut_off``: what its meters do at zero (None: as the utility says)."""

    __tablename__ = "customer_classes"

    utility_id: Mapped[str] = mapped_column(ForeignKey("utilities.id"), primary_key=True)
    code: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    cut_off: Mapped[str | None]


class SupplyTerms(Base):
    """Supply of a meter from a day on; a meter without any is supplied by its own row's tariff, from ever.

    ``household_id`` marks a tenancy: a change of it is a move. ``households``: behind the meter; ``groups``: what its
    people are eligible for ("lifeline", "social", …); ``cut_off``: what the meter does at zero (None: as its class).
    ``came_at``: when, on the town's clock, a household took over from another that day; money that moved earlier that
    day is the other's. None where it is known by the day alone.
    """

    __tablename__ = "supply_terms"
    __table_args__ = (CheckConstraint("households BETWEEN 1 AND 10000", name="households_within"),)

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    from_day: Mapped[date] = mapped_column(primary_key=True)
    tariff_id: Mapped[str] = mapped_column(ForeignKey("tariffs.id"))
    household_id: Mapped[str | None] = mapped_column(ForeignKey("households.id"))
    households: Mapped[int] = mapped_column(server_default="1")
    groups: Mapped[list[str]] = mapped_column(server_default="[]")
    cut_off: Mapped[str | None]
    came_at: Mapped[datetime | None]


class VolumePurchase(Base):
    """Water that a VOLUME meter's wallet bought, at the prices of its ``day`` (the meter's own); never changed.

    ``key`` is the ledger posting's. ``period_volume_ml`` and ``period_charged_minor`` are the billing period's running
    totals after it. ``lines``: the bill (``tariffs.bought``); ``accounts``: who got the money, by code. A reversal is a
    row of its own, everything below zero, with the day of what it reverses: the running totals fall back by it.
    """

    __tablename__ = "volume_purchases"
    __table_args__ = (
        Index("ix_volume_purchases_meter_id", "meter_id", "day"),
        Index("ix_volume_purchases_source_id", "source_id"),
        CheckConstraint("volume_ml <> 0", name="volume_not_zero"),
        CheckConstraint("(volume_ml < 0) = (reverses_key IS NOT NULL)", name="only_reversals_fall"),
    )

    key: Mapped[str] = mapped_column(primary_key=True)
    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"))
    source_id: Mapped[str]
    day: Mapped[date]
    tariff_version_id: Mapped[str] = mapped_column(ForeignKey("tariff_versions.id"))
    volume_ml: Mapped[int]
    amount_minor: Mapped[int]
    period_volume_ml: Mapped[int]
    period_charged_minor: Mapped[int]
    accounts: Mapped[dict[str, int]]
    lines: Mapped[list[dict[str, Any]]]
    reverses_key: Mapped[str | None] = mapped_column(ForeignKey("volume_purchases.key"), unique=True)
    bought_at: Mapped[datetime]
