"""Tariffs and their dated versions."""

from datetime import date
from typing import Any

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.db.base import Base


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


class TariffVersion(Base):
    """Prices from a date on. ``blocks``: ``[{"up_to_ml": int | null, "price_minor_per_kl": "decimal"}]``, rising."""

    __tablename__ = "tariff_versions"
    __table_args__ = (UniqueConstraint("tariff_id", "effective_from"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tariff_id: Mapped[str] = mapped_column(ForeignKey("tariffs.id"))
    effective_from: Mapped[date]
    blocks: Mapped[list[dict[str, Any]]]
