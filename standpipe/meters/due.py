"""Meters that are to be rated: a row each, marked by whatever may change what follows from its readings.

A mark never waits for a rating that is under way: it raises ``marks``, and the rating, which remembered the number at
its claim, leaves the meter due where it has changed. Marks are counted in the database's real time; ``due_next_at`` is
an instant of the service clock, at which time alone changes something (a service day ends, terms begin).

Lock order: rows of ``meter_due`` come after their meters, in the order of ids. Whoever marks many needs no meter's
lock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import ForeignKey, Index, func, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base

QUEUE = "rating"
LEASE = timedelta(seconds=20)
MOST = 200
BUSY = timedelta(seconds=1)
"""Time until the next look at a meter whose row somebody held."""


class MeterDue(Base):
    """A meter's place in the queue of ratings, and what the last one left; there from its first moment, by a trigger.

    ``marked_at``: since when a mark waits (None: none does). ``reprice_from``: prices of periods from this day's on may
    have changed. ``lease_until``: some worker is at it, or it failed and rests; ``last_error`` says why.
    ``rated_at``: when it was last rated, on the service clock. ``accrued_through``: the last day whose standing charges
    are booked. ``guaranteed_minor``: what the water that its utility guarantees for a top-up costs at the present use.
    ``close_month``: the month that its next statement is to
    close, from ``close_at`` on (real time).
    """

    __tablename__ = "meter_due"
    __table_args__ = (
        Index("ix_meter_due_marked_at", "marked_at", postgresql_where=text("marked_at IS NOT NULL")),
        Index("ix_meter_due_due_next_at", "due_next_at", postgresql_where=text("due_next_at IS NOT NULL")),
        Index("ix_meter_due_close_at", "close_at", postgresql_where=text("close_month IS NOT NULL")),
        Index("ix_meter_due_failing", "meter_id", postgresql_where=text("last_error IS NOT NULL")),
    )

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    marks: Mapped[int] = mapped_column(server_default="1")
    marked_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    due_next_at: Mapped[datetime | None]
    reprice_from: Mapped[date | None]
    lease_until: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(server_default="0")
    last_error: Mapped[str | None]
    rated_at: Mapped[datetime | None]
    accrued_through: Mapped[date | None]
    guaranteed_minor: Mapped[int] = mapped_column(server_default="0")
    close_month: Mapped[date | None]
    close_at: Mapped[datetime] = mapped_column(server_default=func.now())


MARK = text("""
WITH marked AS (
    INSERT INTO meter_due AS d (meter_id, reprice_from)
    SELECT DISTINCT id, CAST(:reprice_from AS date) FROM unnest(CAST(:meter_ids AS text[])) AS wanted(id) ORDER BY id
    ON CONFLICT (meter_id) DO UPDATE
    SET marks = d.marks + 1, marked_at = coalesce(d.marked_at, now()),
        reprice_from = least(d.reprice_from, excluded.reprice_from)
    RETURNING 1)
SELECT pg_notify('standpipe_work', 'rating') FROM (SELECT count(*) AS count FROM marked) AS all_marked WHERE count > 0
""")
MARK_UTILITY = text("""
WITH marked AS (
    INSERT INTO meter_due AS d (meter_id) SELECT id FROM meters
    WHERE utility_id = :utility_id AND closed_at IS NULL ORDER BY id
    ON CONFLICT (meter_id) DO UPDATE SET marks = d.marks + 1, marked_at = coalesce(d.marked_at, now()) RETURNING 1)
SELECT pg_notify('standpipe_work', 'rating') FROM (SELECT count(*) AS count FROM marked) AS all_marked WHERE count > 0
""")
MARK_TARIFF = text("""
WITH marked AS (
    INSERT INTO meter_due AS d (meter_id, reprice_from) SELECT m.id, CAST(:reprice_from AS date) FROM meters m
    WHERE m.closed_at IS NULL AND (m.tariff_id = :tariff_id OR EXISTS (
        SELECT FROM supply_terms t WHERE t.meter_id = m.id AND t.tariff_id = :tariff_id)) ORDER BY m.id
    ON CONFLICT (meter_id) DO UPDATE
    SET marks = d.marks + 1, marked_at = coalesce(d.marked_at, now()),
        reprice_from = least(d.reprice_from, excluded.reprice_from) RETURNING 1)
SELECT pg_notify('standpipe_work', 'rating') FROM (SELECT count(*) AS count FROM marked) AS all_marked WHERE count > 0
""")
STALE = text("""
UPDATE meter_due d SET marks = marks + 1, marked_at = coalesce(marked_at, now()), lease_until = now() + :lease
FROM (SELECT meter_id FROM meter_due
      WHERE rated_at < :before AND marked_at IS NULL AND (due_next_at IS NULL OR due_next_at > :now)
        AND (lease_until IS NULL OR lease_until < now())
      ORDER BY meter_id LIMIT :most FOR NO KEY UPDATE SKIP LOCKED) AS old
WHERE d.meter_id = old.meter_id RETURNING d.meter_id, d.marks, d.attempts
""")
CLAIM = text("""
WITH oldest AS MATERIALIZED (
    SELECT meter_id, row_number() OVER () AS place FROM (
        SELECT meter_id FROM meter_due WHERE marked_at IS NOT NULL AND (lease_until IS NULL OR lease_until < now())
        ORDER BY marked_at, meter_id LIMIT :most FOR UPDATE SKIP LOCKED) AS found),
newest AS MATERIALIZED (
    SELECT meter_id, row_number() OVER () AS place FROM (
        SELECT meter_id FROM meter_due WHERE marked_at IS NOT NULL AND (lease_until IS NULL OR lease_until < now())
        ORDER BY marked_at DESC, meter_id LIMIT :most / 4 FOR UPDATE SKIP LOCKED) AS found),
timed AS MATERIALIZED (
    SELECT meter_id, row_number() OVER () AS place FROM (
        SELECT meter_id FROM meter_due WHERE due_next_at <= :now AND (lease_until IS NULL OR lease_until < now())
        ORDER BY due_next_at, meter_id LIMIT :most FOR UPDATE SKIP LOCKED) AS found),
chosen AS (
    SELECT meter_id FROM (
        SELECT meter_id, CASE WHEN place <= :most / 2 THEN 0 ELSE 2 END AS turn, place FROM oldest
        UNION ALL SELECT meter_id, 0, place FROM newest
        UNION ALL SELECT meter_id, CASE WHEN place <= :most / 4 THEN 0 ELSE 1 END, place FROM timed) AS every
    GROUP BY meter_id ORDER BY min(turn), min(place), meter_id LIMIT :most)
UPDATE meter_due d SET attempts = d.attempts + 1, lease_until = now() + :lease
FROM chosen WHERE d.meter_id = chosen.meter_id
RETURNING d.meter_id, d.marks, d.attempts
""")
FINISH = text("""
WITH rated AS (
    SELECT * FROM unnest(CAST(:meter_ids AS text[]), CAST(:marks AS bigint[]), CAST(:due_next_ats AS timestamptz[]),
                         CAST(:close_months AS date[]), CAST(:accrued AS date[]), CAST(:guaranteed AS bigint[]))
        AS r(meter_id, marks, due_next_at, close_month, accrued_through, guaranteed_minor)),
locked AS (SELECT d.meter_id FROM meter_due d JOIN rated USING (meter_id) ORDER BY d.meter_id FOR NO KEY UPDATE OF d)
UPDATE meter_due d
SET attempts = 0, last_error = NULL, lease_until = NULL, rated_at = :now, due_next_at = rated.due_next_at,
    close_month = rated.close_month, accrued_through = rated.accrued_through,
    guaranteed_minor = rated.guaranteed_minor,
    marked_at = CASE WHEN d.marks = rated.marks THEN NULL ELSE d.marked_at END,
    reprice_from = CASE WHEN d.marks = rated.marks THEN NULL ELSE d.reprice_from END
FROM locked JOIN rated USING (meter_id) WHERE d.meter_id = locked.meter_id
""")
GIVE_BACK = text("""
UPDATE meter_due SET attempts = attempts - 1, lease_until = now() + :pause
WHERE meter_id = ANY(CAST(:meter_ids AS text[])) AND attempts > 0
""")
SET_ASIDE = text("""
UPDATE meter_due SET lease_until = now() + :pause, last_error = :error WHERE meter_id = :meter_id
""")

CLAIM_CLOSING = text("""
UPDATE meter_due d SET close_at = now() + :lease
FROM (SELECT meter_id FROM meter_due WHERE close_month IS NOT NULL AND close_at <= now()
      ORDER BY close_at, meter_id LIMIT :most FOR NO KEY UPDATE SKIP LOCKED) AS chosen
WHERE d.meter_id = chosen.meter_id RETURNING d.meter_id, d.close_month
""")
CLOSED = text("""
UPDATE meter_due SET close_month = NULL, close_at = now(), marks = marks + 1, marked_at = coalesce(marked_at, now())
WHERE meter_id = :meter_id
""")
FAILING = text("""
SELECT m.serial, d.attempts, d.last_error, d.marked_at, d.lease_until
FROM meter_due d JOIN meters m ON m.id = d.meter_id WHERE d.last_error IS NOT NULL ORDER BY m.serial LIMIT :most
""")


@dataclass(frozen=True, slots=True)
class FailingMeter:
    """A meter that could not be rated, why, since when it waits, and when it is tried again (real time)."""

    serial: str
    attempts: int
    error: str
    since: datetime | None
    again_at: datetime | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A meter that is ours to rate until the lease ends; ``marks`` as they stood then."""

    meter_id: str
    marks: int
    attempts: int


async def mark_due(conn: AsyncConnection, meter_ids: Sequence[str], *, reprice_from: date | None = None) -> None:
    """Have meters rated again soon, in one statement; wakes a worker when the caller's transaction commits.

    ``reprice_from``: what periods from this day's on cost may have changed, too (supply terms, a tariff).
    """
    if meter_ids:
        await conn.execute(MARK, {"meter_ids": list(meter_ids), "reprice_from": reprice_from})


async def mark_utility_due(conn: AsyncConnection, utility_id: str) -> None:
    """``mark_due`` for all meters of a utility that are in service."""
    await conn.execute(MARK_UTILITY, {"utility_id": utility_id})


async def mark_tariff_due(conn: AsyncConnection, tariff_id: str, *, reprice_from: date) -> None:
    """``mark_due`` for all meters in service that a tariff ever charges: a version was published or withdrawn."""
    await conn.execute(MARK_TARIFF, {"tariff_id": tariff_id, "reprice_from": reprice_from})


async def claim_stale(
    conn: AsyncConnection, before: datetime, now: datetime, *, most: int = MOST, lease: timedelta = LEASE
) -> list[Claimed]:
    """Mark and lease up to ``most`` meters last rated before an instant of the service clock that are not due now."""
    rows = await conn.execute(STALE, {"before": before, "now": now, "most": most, "lease": lease})
    return [Claimed(*row) for row in rows]


async def claim(conn: AsyncConnection, now: datetime, *, most: int = MOST, lease: timedelta = LEASE) -> list[Claimed]:
    """Lease up to ``most`` meters that are due, in a transaction of its own.

    Those that were marked first come first, but a quarter is for those that were marked last, and a quarter for those
    whose instant has come: a hundred thousand marks at once (a tariff) keep nobody's fresh reading waiting.
    """
    rows = await conn.execute(CLAIM, {"most": most, "now": now, "lease": lease})
    return [Claimed(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class Finished:
    """End of a meter's rating, for its row; ``marks`` as they were remembered."""

    meter_id: str
    marks: int
    due_next_at: datetime | None
    close_month: date | None
    accrued_through: date | None
    guaranteed_minor: int


async def finish(conn: AsyncConnection, rated: Sequence[Finished], now: datetime) -> None:
    """Take rated meters out of the queue, but for those marked meanwhile."""
    if rated:
        given = {
            "meter_ids": [one.meter_id for one in rated],
            "marks": [one.marks for one in rated],
            "due_next_ats": [one.due_next_at for one in rated],
            "close_months": [one.close_month for one in rated],
            "accrued": [one.accrued_through for one in rated],
            "guaranteed": [one.guaranteed_minor for one in rated],
        }
        await conn.execute(FINISH, given | {"now": now})


async def claim_closing(conn: AsyncConnection, *, most: int, lease: timedelta) -> list[tuple[str, date]]:
    """Lease meters that have a month to close, with the month."""
    return [(meter_id, month) for meter_id, month in await conn.execute(CLAIM_CLOSING, {"most": most, "lease": lease})]


async def closed(conn: AsyncConnection, meter_id: str) -> None:
    """A month was closed: the meter is rated again, which finds whether there is another."""
    await conn.execute(CLOSED, {"meter_id": meter_id})


async def give_back(conn: AsyncConnection, meter_ids: Sequence[str], *, pause: timedelta = BUSY) -> None:
    """Leave meters due whose rows somebody holds: no fault of theirs, and no try."""
    if meter_ids:
        await conn.execute(GIVE_BACK, {"meter_ids": list(meter_ids), "pause": pause})


async def set_aside(conn: AsyncConnection, meter_id: str, error: str, *, pause: timedelta) -> None:
    """Let a meter that failed rest, with its reason; the others go on."""
    # What failed may quote what a meter said; a text column holds no NUL.
    reason = error[:500].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    await conn.execute(SET_ASIDE, {"meter_id": meter_id, "error": reason, "pause": pause})


async def failing_meters(conn: AsyncConnection, *, most: int = 500) -> list[FailingMeter]:
    """Meters that a person must look at, for they could not be rated; the first ``most`` by serial."""
    return [FailingMeter(*row) for row in await conn.execute(FAILING, {"most": most})]
