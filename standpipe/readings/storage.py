"""The months of readings: each a partition of its own, made before it begins and dropped whole when it is let go.

Bounds are months in UTC, whatever zone a meter lives in. What lies before the first month (that of the
installation, or what ``retention`` keeps) is one partition, and what lies after the last is another, ``readings_rest``.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import TypeVar

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.units import period_of

MONTHS_AHEAD = 6
CUT_AT_MOST = 2_000_000
LOCK_NOT_AVAILABLE = "55P03"
REST = "readings_rest"
TRIES, TRY_AGAIN_S = 60, 0.5
_BOUND = re.compile(r"(FROM|TO) \((?:'([^']+)'|MINVALUE|MAXVALUE)\)")
_log = structlog.get_logger(__name__)
_Made = TypeVar("_Made")

# One at a time, whoever it is. The wait is shorter than PostgreSQL's for a deadlock (1 s): where we and a report wait
# for each other, it is we who give way. And what we wait for, others wait for behind us.
_ALONE = (
    "SET LOCAL lock_timeout = '400ms'",
    "SET LOCAL timezone = 'UTC'",
    "SELECT pg_advisory_xact_lock(hashtextextended('standpipe:storage', 0))",
)
_PARTITIONS = text("""
SELECT part.relname, pg_get_expr(part.relpartbound, part.oid), greatest(part.reltuples, 0)::bigint,
       pg_total_relation_size(part.oid)
FROM pg_inherits JOIN pg_class part ON part.oid = inhrelid
WHERE inhparent = 'readings'::regclass
""")


@dataclass(frozen=True, slots=True)
class Partition:
    """Readings of ``[since, until)``, None is without end; the rest has no bounds. ``rows`` is an estimate."""

    name: str
    since: datetime | None
    until: datetime | None
    is_rest: bool
    rows: int
    size_bytes: int


async def partitions(session: AsyncSession) -> list[Partition]:
    """All of them, oldest first, the rest last."""
    await session.execute(text("SET LOCAL timezone = 'UTC'"))
    found = [_partition(*row) for row in await session.execute(_PARTITIONS)]
    return sorted(found, key=lambda one: (one.is_rest, one.since or datetime.min.replace(tzinfo=UTC)))


async def add_partitions(session: AsyncSession, now: datetime, months_ahead: int = MONTHS_AHEAD) -> list[str]:
    """Make this month's partition and those of the ``months_ahead`` that follow; returns the names of new ones.

    Rows that wait for them in the rest move in. Safe to run at any time and by several at once; it waits for no lock
    longer than a moment: raises DBAPIError (LOCK_NOT_AVAILABLE), and is to be tried again.
    """
    if not _missing(await partitions(session), now, months_ahead):
        return []
    await be_alone(session)
    missing = _missing(await partitions(session), now, months_ahead)
    if missing:
        # All that attaching a partition locks, before anything is written under the first of these locks.
        await session.execute(text("LOCK TABLE meters IN SHARE ROW EXCLUSIVE MODE"))
        await session.execute(text(f"LOCK TABLE {REST} IN ACCESS EXCLUSIVE MODE"))
    return [await _add_month(session, month) for month in missing]


async def cut_first(session: AsyncSession, since: date) -> list[str]:
    """Cut the partition that has no beginning into months from ``since`` on; returns the names of new ones.

    Its rows are moved and everybody waits meanwhile: raises InvalidInputError where there are more than CUT_AT_MOST,
    and DBAPIError as ``add_partitions`` does.
    """
    await be_alone(session)
    await session.execute(text("LOCK TABLE meters IN SHARE ROW EXCLUSIVE MODE"))
    await session.execute(text("LOCK TABLE ONLY readings IN ACCESS EXCLUSIVE MODE"))
    first, start = (await partitions(session))[0], month_start(since)
    if first.since is not None or first.until is None or first.until <= start:
        return []
    moving = text(f"SELECT count(*) FROM {first.name} WHERE read_at >= :since")  # noqa: S608 - the name is ours.
    if (await session.scalar(moving, {"since": start}) or 0) > CUT_AT_MOST:
        raise InvalidInputError(f"{first.name} holds too many readings to be cut while everybody waits.", ("since",))
    await session.execute(text(f"ALTER TABLE readings DETACH PARTITION {first.name}"))
    made, month = [], period_of(since)[0]
    while month_start(month) < first.until:
        made.append(await _add_month(session, month, out_of=first.name))
        month = period_of(month)[1]
    await attach(session, first.name, None, start)
    return made


async def keep_partitions(sessions: Sessions, clock: Clock) -> None:
    """The worker's daily look whether the coming months have their partitions."""
    async with sessions.begin() as session:
        made = await add_partitions(session, clock.now())
    if made:
        _log.info("partitions made", names=made)


async def patiently(sessions: Sessions, work: Callable[[AsyncSession], Awaitable[_Made]]) -> _Made:
    """A transaction of its own for work that gives way to everybody else; tried again until it gets its locks.

    Raises InvalidInputError where it never does.
    """
    for _ in range(TRIES):
        try:
            async with sessions.begin() as session:
                return await work(session)
        except DBAPIError as error:
            if not is_lock_failure(error):
                raise
        await asyncio.sleep(TRY_AGAIN_S)
    raise InvalidInputError("The readings are in use without a pause; try again later.")


async def be_alone(session: AsyncSession) -> None:
    """Keep all others from changing partitions until the transaction ends, and wait for no lock for long."""
    for statement in _ALONE:
        await session.execute(text(statement))


async def attach(session: AsyncSession, name: str, since: datetime | None, until: datetime) -> None:
    """Make a table that ``new_table`` made a partition of the readings."""
    low = "MINVALUE" if since is None else f"'{since.isoformat()}'"
    await session.execute(
        text(f"ALTER TABLE readings ATTACH PARTITION {name} FOR VALUES FROM ({low}) TO ('{until.isoformat()}')")
    )


async def new_table(session: AsyncSession, name: str) -> None:
    """A table that can become a partition: attaching gives it the indices and the foreign key."""
    await session.execute(text(f"CREATE TABLE {name} (LIKE readings INCLUDING DEFAULTS)"))


def month_start(day: date) -> datetime:
    """Return where the partition of a day's month begins."""
    return datetime.combine(period_of(day)[0], time.min, tzinfo=UTC)


def months_from(month: date, months: int) -> date:
    """The first day of the month that lies so many months later, or earlier."""
    count = month.year * 12 + month.month - 1 + months
    return date(count // 12, count % 12 + 1, 1)


def is_lock_failure(error: DBAPIError) -> bool:
    """Tell whether a statement gave up on a lock that somebody else held."""
    return getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE


def _missing(known: Sequence[Partition], now: datetime, months_ahead: int) -> list[date]:
    first = now.astimezone(UTC).date().replace(day=1)
    months = [months_from(first, step) for step in range(months_ahead + 1)]
    return [month for month in months if not any(_holds(one, month_start(month)) for one in known)]


def _holds(one: Partition, at: datetime) -> bool:
    return not one.is_rest and (one.since is None or one.since <= at) and (one.until is None or at < one.until)


async def _add_month(session: AsyncSession, month: date, out_of: str = REST) -> str:
    name, since, until = f"readings_{month:%Y_%m}", month_start(month), month_start(period_of(month)[1])
    await new_table(session, name)
    taken = f"DELETE FROM {out_of} WHERE read_at >= :since AND read_at < :until RETURNING *"  # noqa: S608 - as above.
    move = text(f"WITH moved AS ({taken}) INSERT INTO {name} SELECT * FROM moved")  # noqa: S608 - names are ours.
    await session.execute(move, {"since": since, "until": until})
    await attach(session, name, since, until)
    return name


def _partition(name: str, bound: str, rows: int, size_bytes: int) -> Partition:
    edges = {word: datetime.fromisoformat(at) if at else None for word, at in _BOUND.findall(bound)}
    return Partition(name, edges.get("FROM"), edges.get("TO"), not edges, rows, size_bytes)
