"""Credit to a meter: a running total that only our ledger (or, of a VOLUME meter, our purchases) states.

It rises with each grant, and falls only where credit is taken back that the meter has not accepted (``retracted``). The
lower total goes out under a higher sequence number: a meter that takes it refuses every older command from then on,
and one that had taken the higher total already says so. Either way its next statement is the proof. Volume that may
have reached its meter is never taken back at all: it is sold.

The rules are pure functions on ``Credit``. ``load_credit`` reads it for any number of locked meters, and the writer
``CREDIT`` stores what became of it: in one statement, the totals, the steps and one command for each meter, which
supersedes every older one (and an open valve command: a close must not follow the money that was to prevent it, M10).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from standpipe.engine.unit_of_work import Order, SetWriter, UnitOfWork
from standpipe.meters.due import mark_due
from standpipe.meters.models import VOLUME_UNIT, Meter, WalletKind
from standpipe.meters.tids import KeypadTids, next_tid
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.ids import new_id
from standpipe.platform.notify import COMMANDS
from standpipe.platform.tracing import current_traceparent


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a credit total, in the meter's own unit; ``revoked`` of it was taken back.

    ``offered``: as a keypad token, which may be typed at any time, whatever the radio does. ``known``: it is stored.
    """

    credit_key: str
    source_id: str
    amount: int
    total_after: int
    revoked: int = 0
    offered: bool = False
    known: bool = True
    tid: int | None = None
    granted_at: datetime | None = None
    traceparent: str | None = None
    """The trace of what granted it; of a stored one not read."""

    def above(self, total: int) -> int:
        """The part of this step that lies above a total."""
        before = self.total_after - (self.amount - self.revoked)
        return max(self.total_after - max(total, before), 0)


@dataclass(frozen=True, slots=True)
class Shift:
    """``part`` was taken off the step that ends at ``from_total``, and so off all totals from there on."""

    credit_key: str
    from_total: int
    part: int


@dataclass(frozen=True, slots=True)
class Credit:
    """Credit of a locked meter, in its own unit (minor units of its currency, or millilitres).

    ``accepted``: what the meter states to have; ``highest``: the highest total that it may hold by radio, stated or
    on the air. ``steps``: of the sources that were asked for, by their totals.
    """

    meter_id: str
    unit: str
    total: int
    accepted: int
    highest: int
    keypad: KeypadTids | None = None
    steps: tuple[Step, ...] = ()
    shifts: tuple[Shift, ...] = ()
    changed: bool = False
    bought_water: bool = False
    """True where the utility's guarantee for a top-up must be reckoned anew."""
    traceparent: str | None = None
    """The trace of the last change, in which the command goes out."""

    def steps_of(self, source_id: str) -> list[Step]:
        """A source's steps, by their totals."""
        return [step for step in self.steps if step.source_id == source_id]

    @property
    def holds_volume(self) -> bool:
        """Tell whether it is volume: what may have reached the meter is sold then, and never taken back."""
        return self.unit == VOLUME_UNIT

    @property
    def is_proven(self) -> bool:
        """Tell whether the meter certainly holds no more than its total, and never will by a command already sent."""
        return max(self.accepted, self.highest) <= self.total

    @property
    def over_accepted(self) -> int:
        """By how much the meter states to hold more than its total: it had reached it after all."""
        return max(self.accepted - self.total, 0)

    def undelivered(self, source_id: str) -> int:
        """Return what of a source's credit the meter has not stated to hold. It may still be on the air."""
        return sum(step.above(self.accepted) for step in self.steps_of(source_id))

    def free_to_retract(self, source_id: str) -> int:
        """Return a source's credit above all that any command carried to the meter: it certainly never got there."""
        return sum(step.above(self.highest) for step in self.steps_of(source_id) if not step.offered)


def granted(credit: Credit, *, credit_key: str, source_id: str, amount: int, now: datetime) -> Credit:
    """Raise the total by ``amount``, once per ``credit_key``. Raises InvalidInputError for one that is not positive."""
    if amount <= 0:
        raise InvalidInputError("Credit must be above zero.")
    if any(step.credit_key == credit_key for step in credit.steps):
        return credit
    tid = None if credit.keypad is None else next_tid(credit.keypad, credit.meter_id, now)
    keypad = credit.keypad
    if keypad is not None and tid is not None:
        keypad = replace(keypad, last_tid=tid)
    total = credit.total + amount
    trace = current_traceparent()
    step = Step(credit_key, source_id, amount, total, known=False, tid=tid, granted_at=now, traceparent=trace)
    return replace(credit, total=total, steps=(*credit.steps, step), keypad=keypad, changed=True, traceparent=trace)


def retracted(credit: Credit, *, source_id: str, amount: int) -> Credit:
    """Take credit of a source off the total, newest steps first.

    Raises InvalidInputError where the meter states to hold it or, of volume, may hold it.
    """
    if credit.holds_volume:
        if amount > credit.free_to_retract(source_id):
            raise InvalidInputError("This water may have reached the meter already.")
        floor = credit.highest
    else:
        if amount > credit.undelivered(source_id):
            raise InvalidInputError("The meter holds this credit already.")
        floor = credit.accepted
    left, steps, shifts = amount, list(credit.steps), list(credit.shifts)
    for step in reversed(credit.steps_of(source_id)):
        part = min(left, step.above(floor))
        if not part or step.offered:
            continue
        steps = [
            replace(
                other,
                total_after=other.total_after - part if other.total_after >= step.total_after else other.total_after,
                revoked=other.revoked + part if other.credit_key == step.credit_key else other.revoked,
            )
            for other in steps
        ]
        if step.known:
            shifts.append(Shift(step.credit_key, step.total_after, part))
        left -= part
    return replace(
        credit,
        total=credit.total - amount,
        steps=tuple(steps),
        shifts=tuple(shifts),
        changed=True,
        traceparent=current_traceparent(),
    )


LOAD_CREDIT = text("""
    SELECT m.id, m.unit, m.credit_granted, coalesce(s.credit_accepted, 0) AS credit_accepted,
           coalesce(s.credit_typed, 0) AS credit_typed,
           k.last_tid, k.base_year, k.key_expiry,
           coalesce((SELECT max(c.value) FROM meter_commands c
                     WHERE c.meter_id = m.id AND c.kind = 'CREDIT' AND c.attempts > 0
                     AND c.sequence > coalesce(s.last_sequence, 0)), 0) AS on_air,
           (SELECT json_agg(json_build_array(g.credit_key, g.source_id, g.amount, g.total_after, g.revoked,
                            g.offered_at IS NOT NULL) ORDER BY g.total_after)
            FROM credit_grants g WHERE g.source_id = ANY(CAST(:sources AS text[])) AND g.meter_id = m.id) AS steps
    FROM meters m LEFT JOIN meter_states s ON s.meter_id = m.id LEFT JOIN meter_keypads k ON k.meter_id = m.id
    WHERE m.id = ANY(CAST(:meters AS text[]))""")
SHIFT_STEPS = text("""
    WITH shift AS (
        SELECT * FROM unnest(CAST(:meters AS text[]), CAST(:keys AS text[]), CAST(:froms AS bigint[]),
                             CAST(:parts AS bigint[])) AS s(meter_id, credit_key, from_total, part)
    ), fall AS (
        SELECT g.credit_key, sum(s.part) AS total, sum(s.part) FILTER (WHERE s.credit_key = g.credit_key) AS revoked
        FROM credit_grants g JOIN shift s ON s.meter_id = g.meter_id
             AND g.total_after >= s.from_total
        GROUP BY g.credit_key
    )
    UPDATE credit_grants g SET total_after = g.total_after - f.total, revoked = g.revoked + coalesce(f.revoked, 0)
    FROM fall f WHERE f.credit_key = g.credit_key""")
SAVE_CREDIT = text("""
    WITH change AS (
        SELECT * FROM unnest(CAST(:meters AS text[]), CAST(:totals AS bigint[]), CAST(:commands AS text[]),
                             CAST(:tids AS bigint[]), CAST(:traces AS text[]))
            AS c(meter_id, total, command_id, last_tid, traceparent)
    ), meter AS (
        UPDATE meters m SET credit_granted = c.total, last_sequence = m.last_sequence + 1
        FROM change c WHERE m.id = c.meter_id RETURNING m.id, m.last_sequence
    ), superseded AS (
        UPDATE meter_commands o SET status = 'SUPERSEDED' FROM change c
        WHERE o.meter_id = c.meter_id AND o.kind IN ('CREDIT', 'VALVE')
        AND o.status IN ('QUEUED', 'SENT', 'ACKNOWLEDGED', 'UNKNOWN')
    ), command AS (
        INSERT INTO meter_commands (id, meter_id, sequence, kind, value, tid_mark, status, traceparent)
        SELECT c.command_id, c.meter_id, m.last_sequence, 'CREDIT', c.total, c.last_tid, 'QUEUED',
               c.traceparent
        FROM change c JOIN meter m ON m.id = c.meter_id
    ), keypad AS (
        UPDATE meter_keypads k SET last_tid = c.last_tid FROM change c
        WHERE k.meter_id = c.meter_id AND k.last_tid < c.last_tid
    ), step AS (
        SELECT * FROM unnest(CAST(:keys AS text[]), CAST(:owners AS text[]), CAST(:sources AS text[]),
                             CAST(:amounts AS bigint[]), CAST(:afters AS bigint[]), CAST(:revoked AS bigint[]),
                             CAST(:units AS text[]), CAST(:step_tids AS bigint[]),
                             CAST(:granted_ats AS timestamptz[]), CAST(:step_traces AS text[]))
            AS s(credit_key, meter_id, source_id, amount, total_after, revoked, unit, tid, granted_at, traceparent)
    )
    INSERT INTO credit_grants (credit_key, meter_id, source_id, amount, total_after, revoked, unit, tid, granted_at,
                               traceparent)
    SELECT * FROM step""")


async def load_credit(
    conn: AsyncConnection, meter_ids: Iterable[str], source_ids: Iterable[str]
) -> Mapping[str, Credit]:
    """By meter id, of meters that the caller has locked, with the steps of these sources; one statement."""
    rows = await conn.execute(LOAD_CREDIT, {"meters": sorted(set(meter_ids)), "sources": sorted(set(source_ids))})
    found = {}
    for row in rows:
        has_keypad = row.unit == VOLUME_UNIT and row.last_tid is not None
        found[row.id] = Credit(
            meter_id=row.id,
            unit=row.unit,
            total=row.credit_granted,
            accepted=row.credit_accepted,
            # What was typed is in no total that the radio carried.
            highest=max(row.credit_accepted - row.credit_typed, row.on_air),
            keypad=KeypadTids(row.base_year, row.key_expiry, row.last_tid) if has_keypad else None,
            steps=tuple(Step(*step) for step in row.steps or ()),
        )
    return found


async def _save(work: UnitOfWork, changed_credits: Sequence[Credit]) -> None:
    # A meter that was decided on several times in a batch is stored as it ended.
    last = {credit.meter_id: credit for credit in changed_credits if credit.changed}
    changed = [last[meter_id] for meter_id in sorted(last)]
    if not changed:
        return
    shifts = [(credit.meter_id, shift) for credit in changed for shift in credit.shifts]
    if shifts:
        await work.conn.execute(
            SHIFT_STEPS,
            {
                "meters": [meter_id for meter_id, _ in shifts],
                "keys": [shift.credit_key for _, shift in shifts],
                "froms": [shift.from_total for _, shift in shifts],
                "parts": [shift.part for _, shift in shifts],
            },
        )
    steps = [(credit, step) for credit in changed for step in credit.steps if not step.known]
    await work.conn.execute(
        SAVE_CREDIT,
        {
            "meters": [credit.meter_id for credit in changed],
            "totals": [credit.total for credit in changed],
            "commands": [new_id("cmd") for _ in changed],
            "tids": [None if credit.keypad is None else credit.keypad.last_tid for credit in changed],
            "traces": [credit.traceparent for credit in changed],
            "keys": [step.credit_key for _, step in steps],
            "owners": [credit.meter_id for credit, _ in steps],
            "sources": [step.source_id for _, step in steps],
            "amounts": [step.amount for _, step in steps],
            "afters": [step.total_after for _, step in steps],
            "revoked": [step.revoked for _, step in steps],
            "units": [credit.unit for credit, _ in steps],
            "step_tids": [step.tid for _, step in steps],
            "granted_ats": [step.granted_at for _, step in steps],
            "step_traces": [step.traceparent for _, step in steps],
        },
    )
    for credit in changed:
        work.notify(COMMANDS, credit.meter_id)
        if credit.bought_water:
            # What its utility guarantees it for a top-up is reckoned anew.
            work.add(_DUE, credit.meter_id)


async def _mark_due(work: UnitOfWork, meter_ids: Sequence[str]) -> None:
    await mark_due(work.conn, sorted(set(meter_ids)))


_DUE: SetWriter[str] = SetWriter("due", Order.FACTS, _mark_due)
CREDIT: SetWriter[Credit] = SetWriter("credit", Order.ROWS, _save)
"""Stores what became of the credit of locked meters; of one that was added twice, the last."""


async def grant(
    session: AsyncSession, *, meter_id: str, credit_key: str, source_id: str, amount_minor: int, now: datetime
) -> bool:
    """``granted`` for one MONEY meter, which it locks, in a session's transaction.

    Returns False where this ``credit_key`` was granted before. ``source_id`` is what the customer knows the credit by,
    e.g. a top-up. Raises NotFoundError, and InvalidInputError for an amount that is not positive or a VOLUME meter.
    """
    meter = await session.get_one(Meter, meter_id, with_for_update={"key_share": True}, populate_existing=True)
    if meter.wallet_kind == WalletKind.VOLUME:
        raise InvalidInputError(f"This meter's wallet holds {meter.wallet_kind}.")
    return await _grant_one(session, meter, credit_key, source_id, amount_minor, now)


async def grant_volume(
    session: AsyncSession, meter: Meter, *, credit_key: str, source_id: str, volume_ml: int, now: datetime
) -> bool:
    """``granted`` for one locked VOLUME meter, in a session's transaction. Raises InvalidInputError."""
    if meter.wallet_kind != WalletKind.VOLUME:
        raise InvalidInputError(f"This meter's wallet holds {meter.wallet_kind}.")
    return await _grant_one(session, meter, credit_key, source_id, volume_ml, now)


async def free_to_retract_ml(session: AsyncSession, meter: Meter, source_id: str) -> int:
    """Return the millilitres of a source that certainly never reached a locked meter."""
    return (await _credit_of(session, meter, source_id)).free_to_retract(source_id)


async def retract_volume(session: AsyncSession, meter: Meter, *, source_id: str, volume_ml: int) -> None:
    """``retracted`` for one locked VOLUME meter, in a session's transaction. Raises InvalidInputError."""
    credit = await _credit_of(session, meter, source_id)
    await _store(session, meter, retracted(credit, source_id=source_id, amount=volume_ml))


async def _grant_one(
    session: AsyncSession, meter: Meter, credit_key: str, source_id: str, amount: int, now: datetime
) -> bool:
    before = await _credit_of(session, meter, source_id)
    after = granted(before, credit_key=credit_key, source_id=source_id, amount=amount, now=now)
    if after is before:
        return False
    await _store(session, meter, after)
    return True


async def _credit_of(session: AsyncSession, meter: Meter, source_id: str) -> Credit:
    await session.flush()
    return (await load_credit(await session.connection(), [meter.id], [source_id]))[meter.id]


async def _store(session: AsyncSession, meter: Meter, credit: Credit) -> None:
    work = await UnitOfWork.of(session)
    work.add(CREDIT, credit)
    await work.flush()
    await session.refresh(meter)
