"""Readings by month: partitions made ahead and shown, what would go, and letting it go."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from standpipe.operations.long_operation import LongDesk, long_operation
from standpipe.operations.operation import Desk, operation
from standpipe.platform.database import Sessions
from standpipe.readings import retention, storage
from standpipe.readings.retention import Retention
from standpipe.readings.storage import Partition, month_start, months_from, patiently
from standpipe.utilities.operators import ANYBODY, SERVER


@dataclass(frozen=True, slots=True)
class Stored:
    """Partitions of readings, and the instant before which readings have been let go; None: all are there."""

    partitions: Sequence[Partition]
    horizon: datetime | None


@long_operation("storage.partitions", may=SERVER)
async def add_partitions(desk: LongDesk, *, ahead: int, since: date | None) -> list[str]:
    """Make the partitions of ``ahead`` months to come, and cut what lies before the first, from ``since`` on.

    Returns the names of the new ones. Raises InvalidInputError.
    """
    await desk.record("storage.partitions", "readings", ahead=ahead, since=None if since is None else f"{since:%Y-%m}")
    now = desk.clock.now()
    cut = await patiently(desk.sessions, lambda session: storage.cut_first(session, since)) if since else []
    return cut + await patiently(desk.sessions, lambda session: storage.add_partitions(session, now, ahead))


@operation("storage.show", may=ANYBODY, reads=True)
async def show(desk: Desk) -> Stored:
    """Read each partition with its size, and the horizon."""
    return Stored(await storage.partitions(desk.session), await retention.horizon(desk.session))


@operation("storage.plan", may=ANYBODY, reads=True)
async def plan(desk: Desk, months: int) -> Retention:
    """Return what ``retain`` would let go. Raises InvalidInputError."""
    return await retention.plan(desk.session, _before(desk.now, months), desk.now)


@long_operation("storage.retain", may=SERVER)
async def retain(desk: LongDesk, months: int) -> tuple[Retention, int]:
    """Let readings go that are older than so many whole months; returns what went, and how many rows one by one.

    Raises InvalidInputError.
    """
    now = desk.clock.now()
    before = _before(now, months)
    await desk.record("storage.retain", "readings", before=f"{before:%Y-%m-%d}")
    going = await patiently(desk.sessions, lambda session: retention.let_go(session, before, now))
    return going, await _sweep_all(desk.sessions, going)


def _before(now: datetime, months: int) -> datetime:
    return month_start(months_from(now.astimezone(UTC).date(), -months))


async def _sweep_all(sessions: Sessions, going: Retention) -> int:
    total, last = 0, ""
    while going.swept is not None:
        async with sessions.begin() as session:
            found, gone = await retention.sweep(session, going.before, last)
        total += gone
        if found is None:
            break
        last = found
    return total
