"""Which prices hold when."""

from dataclasses import dataclass
from datetime import date

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.errors import NotFoundError
from standpipe.tariffs.models import Tariff, TariffVersion
from standpipe.tariffs.pricing import PriceTable, table_of


@dataclass(frozen=True, slots=True)
class TariffInForce:
    """A tariff's version as it holds in one billing period."""

    tariff_id: str
    version_id: str
    name: str
    currency: str
    effective_from: date
    table: PriceTable


async def versions(session: AsyncSession, tariff_ids: list[str]) -> dict[str, list[TariffInForce]]:
    """Every version of these tariffs, oldest first, by tariff id."""
    rows = await session.execute(
        select(Tariff, TariffVersion)
        .join(TariffVersion, TariffVersion.tariff_id == Tariff.id)
        .where(Tariff.id.in_(tariff_ids))
        .order_by(TariffVersion.effective_from)
    )
    found: dict[str, list[TariffInForce]] = {}
    for tariff, version in rows:
        found.setdefault(tariff.id, []).append(
            TariffInForce(
                tariff_id=tariff.id,
                version_id=version.id,
                name=tariff.name,
                currency=tariff.currency,
                effective_from=version.effective_from,
                table=table_of(version.blocks),
            )
        )
    return found


def in_force(candidates: list[TariffInForce], period_start: date) -> TariffInForce:
    """The version by which a period that starts on ``period_start`` is priced.

    A period has one version: that in force on its first day (else the tariff's first). Raises NotFoundError where
    the tariff has no version at all.
    """
    if not candidates:
        raise NotFoundError("This tariff has no prices.")
    due = [version for version in candidates if version.effective_from <= period_start]
    return due[-1] if due else candidates[0]


async def version_in_force(session: AsyncSession, tariff_id: str, period_start: date) -> TariffInForce:
    """``in_force`` for one tariff, read from the database."""
    return in_force((await versions(session, [tariff_id])).get(tariff_id, []), period_start)
