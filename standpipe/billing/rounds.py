"""Rounds over meters that are due: claim, then load, decide and save, up to 200 in one transaction.

A batch that fails is halved until the meter that cannot be rated stands alone. It rests with its reason, and the others
go on; a meter whose row somebody holds is left due.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from standpipe.billing.rating import decide
from standpipe.billing.rating_load import Loaded, load
from standpipe.billing.rating_save import Rated, has_changed, save
from standpipe.engine.batcher import BusyError, work_off
from standpipe.engine.queue import backoff_s
from standpipe.engine.unit_of_work import UnitOfWork, unit
from standpipe.meters import due
from standpipe.meters.due import Claimed
from standpipe.platform import metrics
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, without_transactions
from standpipe.platform.errors import NotFoundError
from standpipe.platform.reconnect import is_passing

BACKOFF_S, MAX_BACKOFF_S = 5.0, 3600.0
STALE_AFTER = timedelta(days=1)
_log = structlog.get_logger(__name__)


async def rate_due(sessions: Sessions, clock: Clock, *, most: int = due.MOST) -> int:
    """Rate the meters that are due; returns how many were claimed.

    Raises what the database raises when it is away: the leases end by themselves.
    """
    engine: AsyncEngine = sessions.kw["bind"]
    now = clock.now()
    async with without_transactions(engine).connect() as conn:
        claimed = await due.claim(conn, now, most=most)
    answers = await work_off(partial(_rate, engine, now), claimed, name=due.QUEUE)
    await _put_back(engine, claimed, answers)
    return len(claimed)


async def rate_now(
    conn: AsyncConnection, meter_id: str, now: datetime, *, changed_days: frozenset[date] = frozenset()
) -> None:
    """Rate a meter in the caller's transaction, which locks it: before money is taken away, and after a correction.

    ``changed_days``: service days whose roll-ups the caller has changed. Raises NotFoundError.
    """
    await rate_many_now(conn, [meter_id], now, changed_days={meter_id: changed_days})


async def rate_many_now(
    conn: AsyncConnection,
    meter_ids: Sequence[str],
    now: datetime,
    *,
    changed_days: Mapping[str, frozenset[date]] | None = None,
) -> None:
    """``rate_now`` for several. Raises NotFoundError where one is unknown."""
    waiting = set(meter_ids)
    while waiting:
        work = UnitOfWork(conn)
        loaded = await load(conn, sorted(waiting), now, skip_locked=False, changed_days=changed_days)
        if len(loaded) < len(waiting):
            raise NotFoundError("No such meter.")
        await save(work, [Rated(one, decide(one.state, now), one.marks) for one in loaded.values()], now)
        await work.flush()
        # Whoever takes money away, or closes a month, goes by all that was told.
        waiting, changed_days = {meter_id for meter_id, one in loaded.items() if one.has_more}, None


async def sweep(sessions: Sessions, clock: Clock) -> None:
    """Each night: rate what was not rated for a day and waits for nothing, and count what that changes.

    It must be nothing: whatever time alone changes is to be among the instants that ``decide`` names.
    """
    engine: AsyncEngine = sessions.kw["bind"]
    now = clock.now()
    late: list[str] = []
    while True:
        # Leased as they are marked: a round that rates them first would count nothing.
        async with without_transactions(engine).connect() as conn:
            batch = await due.claim_stale(conn, now - STALE_AFTER, now)
        if not batch:
            break
        await _put_back(engine, batch, await work_off(partial(_rate, engine, now, late=late), batch, name="sweep"))
    if late:
        metrics.RATED_LATE.inc(len(late))
        _log.error("meters changed that nothing had marked due", count=len(late), meter_id=late[0])


async def _put_back(engine: AsyncEngine, claimed: Sequence[Claimed], answers: Sequence[Exception | None]) -> None:
    """Leave busy meters due, and let those that failed rest."""
    busy = [one.meter_id for one, answer in zip(claimed, answers, strict=True) if isinstance(answer, BusyError)]
    if busy:
        async with engine.begin() as conn:
            await due.give_back(conn, busy)
    for one, answer in zip(claimed, answers, strict=True):
        if answer is None or isinstance(answer, BusyError):
            continue
        if is_passing(answer):
            raise answer
        await _set_aside(engine, one, answer)


async def _rate(
    engine: AsyncEngine, now: datetime, claimed: Sequence[Claimed], *, late: list[str] | None = None
) -> list[Exception | None]:
    """Load, decide and save a batch; ``late`` collects the meters that it changed."""
    rated: dict[str, Rated] = {}
    async with unit(engine) as work:
        loaded = await load(work.conn, [one.meter_id for one in claimed], now, skip_locked=True)
        answers = [_decide(loaded.get(one.meter_id), one, now, rated) for one in claimed]
        await save(work, list(rated.values()), now)
    if late is not None:
        # What was marked since was no oversight.
        late.extend(
            meter_id
            for meter_id, one in rated.items()
            if one.loaded.marks == one.marks and has_changed(one.loaded, one.changes)
        )
    return answers


def _decide(loaded: Loaded | None, one: Claimed, now: datetime, rated: dict[str, Rated]) -> Exception | None:
    """Add what a rating decides; or the reason for which there is none, which costs no neighbour anything."""
    if loaded is None:
        return BusyError("Somebody holds the meter.")
    try:
        rated[one.meter_id] = Rated(loaded, decide(loaded.state, now), one.marks)
    except Exception as error:
        return error
    return None


async def _set_aside(engine: AsyncEngine, one: Claimed, error: Exception) -> None:
    _log.error("meter not rated", meter_id=one.meter_id, error=f"{type(error).__name__}: {error}")
    pause = timedelta(seconds=backoff_s(one.attempts, base_s=BACKOFF_S, cap_s=MAX_BACKOFF_S))
    async with engine.begin() as conn:
        await due.set_aside(conn, one.meter_id, f"{type(error).__name__}: {error}", pause=pause)
