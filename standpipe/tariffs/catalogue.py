"""Prices in force, by time and customer: tariff versions and supply terms, read from the database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from standpipe.platform.units import period_of
from standpipe.tariffs.files import terms_of
from standpipe.tariffs.periods import Segment, Supply, TariffInForce, segments_of, supply_on, version_on
from standpipe.tariffs.pricing import table_of
from standpipe.tariffs.terms import Terms, plain_terms

_parsed: dict[str, Terms] = {}
"""Terms by version id: a published version never changes (the database refuses it), so each is read once."""


SUPPLIES = text("""
SELECT meter_id, from_day, tariff_id, households, groups, household_id, came_at FROM supply_terms
WHERE meter_id = ANY(CAST(:ids AS text[])) ORDER BY from_day
""").columns(groups=JSONB)
VERSIONS = text("""
SELECT t.id, v.id, t.name, t.currency, v.effective_from, t.basis
FROM tariffs t JOIN tariff_versions v ON v.tariff_id = t.id
WHERE t.id = ANY(CAST(:ids AS text[])) ORDER BY v.effective_from
""")
DOCUMENTS = text("SELECT id, blocks, document FROM tariff_versions WHERE id = ANY(CAST(:ids AS text[]))").columns(
    blocks=JSONB, document=JSONB
)


@dataclass(frozen=True, slots=True)
class Contract:
    """By what one meter is charged, at any time: its supply terms and the versions of every tariff in them."""

    supplies: tuple[Supply, ...]
    versions: Mapping[str, Sequence[TariffInForce]]

    def segments(self, period_start: date) -> tuple[Segment, ...]:
        """The period's segments. Raises NotFoundError where a tariff has no prices."""
        return segments_of(period_start, self.supplies, self.versions)

    def segment_on(self, day: date) -> Segment:
        """The segment that a day falls into. Raises NotFoundError as above."""
        return next(item for item in self.segments(period_of(day)[0]) if item.start <= day < item.end)

    def tenancy_start(self, day: date) -> date | None:
        """The first day of those who are supplied on ``day``; None where the meter has never changed hands.

        What was before it is somebody else's.
        """
        due = [supply for supply in self.supplies if supply.from_day <= day] or list(self.supplies[:1])
        others = [supply.from_day for supply in due if supply.household_id != due[-1].household_id]
        return (
            min((supply.from_day for supply in due if supply.from_day > max(others)), default=None) if others else None
        )

    def came_at(self, day: date) -> datetime | None:
        """The instant at which those who are supplied on ``day`` took over; None where it is known by the day alone."""
        start = self.tenancy_start(day)
        return next((supply.came_at for supply in self.supplies if supply.from_day == start), None)

    def next_version(self, day: date) -> TariffInForce | None:
        """The version that is announced to follow the one of this day."""
        supply = supply_on(self.supplies, day)
        known = self.versions.get(supply.tariff_id, ())
        now = version_on(known, day)
        return next((version for version in known if version.effective_from > max(day, now.effective_from)), None)


async def versions(session: AsyncSession, tariff_ids: Sequence[str]) -> dict[str, list[TariffInForce]]:
    """Every version of these tariffs, oldest first, by tariff id."""
    return await _load_versions(await session.connection(), tariff_ids)


async def contracts(session: AsyncSession, basis: Mapping[str, tuple[str, date]]) -> dict[str, Contract]:
    """``load_contracts`` on a session's connection."""
    return await load_contracts(await session.connection(), basis)


async def load_contracts(conn: AsyncConnection, basis: Mapping[str, tuple[str, date]]) -> dict[str, Contract]:
    """By meter id, each meter's contract; ``basis``: its own row's tariff and first day, which hold before all terms.

    Two statements, however many meters, and a third where a version is seen for the first time.
    """
    supplies: dict[str, list[Supply]] = {meter_id: [] for meter_id in basis}
    for meter_id, from_day, tariff_id, households, groups, household_id, came_at in await conn.execute(
        SUPPLIES, {"ids": list(basis)}
    ):
        supplies[meter_id].append(Supply(from_day, tariff_id, households, frozenset(groups), household_id, came_at))
    for meter_id, (tariff_id, first_day) in basis.items():
        own = supplies[meter_id]
        if not own or own[0].from_day > first_day:
            own.insert(0, Supply(first_day, tariff_id, household_id=own[0].household_id if own else None))
    tariff_ids = sorted({supply.tariff_id for own in supplies.values() for supply in own})
    known = await _load_versions(conn, tariff_ids)
    return {
        meter_id: Contract(tuple(own), {supply.tariff_id: known.get(supply.tariff_id, []) for supply in own})
        for meter_id, own in supplies.items()
    }


async def contract_of(session: AsyncSession, meter_id: str, tariff_id: str, first_day: date) -> Contract:
    """``contracts`` for one meter."""
    return (await contracts(session, {meter_id: (tariff_id, first_day)}))[meter_id]


async def _load_versions(conn: AsyncConnection, tariff_ids: Sequence[str]) -> dict[str, list[TariffInForce]]:
    rows = (await conn.execute(VERSIONS, {"ids": list(tariff_ids)})).all()
    unread = [version_id for _, version_id, *_ in rows if version_id not in _parsed]
    if unread:
        for version_id, blocks, document in await conn.execute(DOCUMENTS, {"ids": unread}):
            _parsed[version_id] = terms_of(document) if document else plain_terms(table_of(blocks))
    found: dict[str, list[TariffInForce]] = {}
    for tariff_id, version_id, name, currency, effective_from, basis in rows:
        version = TariffInForce(tariff_id, version_id, name, currency, effective_from, _parsed[version_id], basis)
        found.setdefault(tariff_id, []).append(version)
    return found
