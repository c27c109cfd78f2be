"""The save of a batch of ratings: its changes, written table by table, one statement each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from standpipe.billing.rating import Changes
from standpipe.billing.rating_load import Loaded
from standpipe.engine.unit_of_work import UnitOfWork
from standpipe.ledger.posting import LEDGER
from standpipe.meters import due
from standpipe.outbox.facts import UsageRecorded, add_fact
from standpipe.platform import metrics
from standpipe.platform.ids import new_id
from standpipe.platform.notify import COMMANDS, LIVE
from standpipe.platform.tracing import current_traceparent
from standpipe.readings.judging import StoredReading
from standpipe.supply.zero_credit_rules import ON_THE_WIRE

_log = structlog.get_logger(__name__)

READING_COLUMNS = (
    *("meter_id", "read_at", "arrival", "register_ml", "quality", "reason", "received_at"),
    *("counted_ml", "corrected_ml", "claimed_at"),
)
JUDGED = text("DELETE FROM raw_reports WHERE arrival = ANY(CAST(:arrivals AS bigint[]))")
DAYS = text("""
INSERT INTO daily_usage (meter_id, day, volume_ml, register_end_ml)
SELECT * FROM unnest(CAST(:meter_ids AS text[]), CAST(:days AS date[]), CAST(:volumes_ml AS bigint[]),
                     CAST(:ends_ml AS bigint[]))
ON CONFLICT (meter_id, day) DO UPDATE
SET volume_ml = excluded.volume_ml, register_end_ml = excluded.register_end_ml
""")
MONTHS = text("""
INSERT INTO monthly_usage (meter_id, month, volume_ml, days)
SELECT * FROM unnest(CAST(:meter_ids AS text[]), CAST(:months AS date[]), CAST(:volumes_ml AS bigint[]),
                     CAST(:days AS bigint[]))
ON CONFLICT (meter_id, month) DO UPDATE SET volume_ml = excluded.volume_ml, days = excluded.days
""")
USAGE = text("""
INSERT INTO period_charges (meter_id, period_start, tariff_version_id, volume_ml, charged_minor, revision, accounts)
SELECT meter_id, period, version_id, volume_ml, charged_minor, revision, CAST(accounts AS jsonb)
FROM unnest(CAST(:meter_ids AS text[]), CAST(:periods AS date[]), CAST(:version_ids AS text[]),
            CAST(:volumes_ml AS bigint[]), CAST(:charged AS bigint[]), CAST(:revisions AS bigint[]),
            CAST(:accounts AS text[]))
     AS c(meter_id, period, version_id, volume_ml, charged_minor, revision, accounts)
ON CONFLICT (meter_id, period_start) DO UPDATE
SET tariff_version_id = excluded.tariff_version_id, volume_ml = excluded.volume_ml,
    charged_minor = excluded.charged_minor, revision = excluded.revision, accounts = excluded.accounts
""")
STANDING = text("""
INSERT INTO standing_charged (meter_id, period_start, charged_minor, revision, accounts)
SELECT meter_id, period, charged_minor, revision, CAST(accounts AS jsonb)
FROM unnest(CAST(:meter_ids AS text[]), CAST(:periods AS date[]), CAST(:charged AS bigint[]),
            CAST(:revisions AS bigint[]), CAST(:accounts AS text[]))
     AS c(meter_id, period, charged_minor, revision, accounts)
ON CONFLICT (meter_id, period_start) DO UPDATE
SET charged_minor = excluded.charged_minor, revision = excluded.revision, accounts = excluded.accounts
""")
METERS = text("""
UPDATE meters m SET at_zero = c.at_zero, last_sequence = c.last_sequence
FROM unnest(CAST(:meter_ids AS text[]), CAST(:at_zero AS text[]), CAST(:sequences AS bigint[]))
     AS c(meter_id, at_zero, last_sequence)
WHERE m.id = c.meter_id
""")
SUPERSEDE = text("""
UPDATE meter_commands SET status = 'SUPERSEDED'
WHERE meter_id = ANY(CAST(:meter_ids AS text[])) AND kind = 'AT_ZERO'
  AND status IN ('QUEUED', 'SENT', 'ACKNOWLEDGED', 'UNKNOWN')
""")
EXTEND = text("""
UPDATE meter_commands m SET void_at = c.void_at
FROM unnest(CAST(:meter_ids AS text[]), CAST(:void_ats AS timestamptz[])) AS c(meter_id, void_at)
WHERE m.meter_id = c.meter_id AND m.kind = 'AT_ZERO' AND m.status IN ('QUEUED', 'SENT', 'ACKNOWLEDGED', 'UNKNOWN')
""")
TELL = text("""
INSERT INTO meter_commands (id, meter_id, sequence, kind, value, status, void_at, traceparent)
SELECT id, meter_id, sequence, 'AT_ZERO', value, 'QUEUED', void_at, :traceparent
FROM unnest(CAST(:ids AS text[]), CAST(:meter_ids AS text[]), CAST(:sequences AS bigint[]), CAST(:values AS bigint[]),
            CAST(:void_ats AS timestamptz[])) AS c(id, meter_id, sequence, value, void_at)
""")


@dataclass(frozen=True, slots=True)
class Rated:
    """A meter, its changes, and its marks as remembered."""

    loaded: Loaded
    changes: Changes
    marks: int


async def save(work: UnitOfWork, rated: Sequence[Rated], now: datetime) -> None:
    """Write what these ratings change, all but what the unit of work writes at its end."""
    if not rated:
        return
    conn = work.conn
    arrivals = [arrival for one in rated for arrival in one.loaded.arrivals]
    if arrivals:
        await conn.execute(JUDGED, {"arrivals": arrivals})
    await _readings(conn, rated)
    await _roll_ups(conn, rated)
    await _charges(conn, rated)
    await _zero_credit(work, rated)
    for one in rated:
        meter_id = one.loaded.state.meter_id
        work.add(LEDGER, *one.changes.postings)
        if one.changes.usage_recorded:
            add_fact(work, UsageRecorded(meter_id))
        if has_changed(one.loaded, one.changes):
            work.notify(LIVE, meter_id)
    # Marked meanwhile, or not all read: it stays due.
    finished = [
        due.Finished(
            one.loaded.state.meter_id,
            -1 if one.loaded.has_more else one.marks,
            one.changes.due_next_at,
            one.changes.close_month,
            one.changes.accrued_through,
            one.changes.guaranteed_minor,
        )
        for one in rated
    ]
    await due.finish(conn, finished, now)
    work.after_commit(partial(metrics.METERS_RATED.inc, len(rated)))


def has_changed(loaded: Loaded, changes: Changes) -> bool:
    """Tell whether a rating changed anything that somebody may see."""
    told = changes.zero_credit is not None and changes.zero_credit.command is not None
    guaranteed = changes.guaranteed_minor != loaded.state.guaranteed_minor
    return bool(
        told or guaranteed or changes.judged.readings or changes.usage_recorded or changes.postings or changes.standing
    )


async def _readings(conn: AsyncConnection, rated: Sequence[Rated]) -> None:
    records = []
    for one in rated:
        meter_id = one.loaded.state.meter_id
        records += [_record(meter_id, reading) for reading in one.changes.judged.readings]
        held = one.changes.judged.held
        if held:
            _log.warning("readings held", meter_id=meter_id, count=len(held), reason=held[0].reason)
    if records:
        # Straight to the driver: its transaction is open, for the meters were locked in it.
        raw = await conn.get_raw_connection()
        assert raw.driver_connection is not None  # noqa: S101 - for the type checker; the connection is open.
        await raw.driver_connection.copy_records_to_table("readings", records=records, columns=READING_COLUMNS)


def _record(meter_id: str, reading: StoredReading) -> tuple[object, ...]:
    return (
        *(meter_id, reading.read_at, reading.arrival, reading.register_ml, reading.quality, reading.reason),
        *(reading.received_at, reading.counted_ml, reading.corrected_ml, reading.claimed_at),
    )


async def _roll_ups(conn: AsyncConnection, rated: Sequence[Rated]) -> None:
    days = [(one.loaded.state.meter_id, day, use) for one in rated for day, use in one.changes.judged.days.items()]
    if days:
        await conn.execute(
            DAYS,
            {
                "meter_ids": [meter_id for meter_id, _, _ in days],
                "days": [day for _, day, _ in days],
                "volumes_ml": [use.volume_ml for _, _, use in days],
                "ends_ml": [use.end_ml for _, _, use in days],
            },
        )
    months = [(one.loaded.state.meter_id, month, use) for one in rated for month, use in one.changes.months.items()]
    if months:
        await conn.execute(
            MONTHS,
            {
                "meter_ids": [meter_id for meter_id, _, _ in months],
                "months": [month for _, month, _ in months],
                "volumes_ml": [use.volume_ml for _, _, use in months],
                "days": [use.days for _, _, use in months],
            },
        )


async def _charges(conn: AsyncConnection, rated: Sequence[Rated]) -> None:
    usage = [(one.loaded.state.meter_id, period, new) for one in rated for period, new in one.changes.usage.items()]
    if usage:
        await conn.execute(
            USAGE,
            {
                "meter_ids": [meter_id for meter_id, _, _ in usage],
                "periods": [period for _, period, _ in usage],
                "version_ids": [new.version_id for _, _, new in usage],
                "volumes_ml": [new.volume_ml for _, _, new in usage],
                "charged": [new.total_minor for _, _, new in usage],
                "revisions": [new.revision for _, _, new in usage],
                "accounts": [json.dumps(dict(new.accounts)) for _, _, new in usage],
            },
        )
    standing = [
        (one.loaded.state.meter_id, period, new) for one in rated for period, new in one.changes.standing.items()
    ]
    if standing:
        await conn.execute(
            STANDING,
            {
                "meter_ids": [meter_id for meter_id, _, _ in standing],
                "periods": [period for _, period, _ in standing],
                "charged": [new.total_minor for _, _, new in standing],
                "revisions": [new.revision for _, _, new in standing],
                "accounts": [json.dumps(dict(new.accounts)) for _, _, new in standing],
            },
        )


async def _zero_credit(work: UnitOfWork, rated: Sequence[Rated]) -> None:
    """Tell meters what to do at zero, and write what is kept on the meter itself."""
    told = [one for one in rated if one.changes.zero_credit is not None and one.changes.zero_credit.command is not None]
    longer = [one for one in rated if one.changes.zero_credit is not None and one.changes.zero_credit.extends]
    changed = [one for one in rated if one.changes.zero_credit is not None]
    if changed:
        meter_ids, at_zero, sequences = zip(*map(_meter_row, changed), strict=True)
        await work.conn.execute(
            METERS,
            {
                "meter_ids": list(meter_ids),
                "at_zero": list(at_zero),
                "sequences": list(sequences),
            },
        )
    if longer:
        void_ats = [one.changes.zero_credit.until for one in longer if one.changes.zero_credit is not None]
        meter_ids = tuple(one.loaded.state.meter_id for one in longer)
        await work.conn.execute(EXTEND, {"meter_ids": list(meter_ids), "void_ats": void_ats})
    if told:
        await _tell(work, told)


async def _tell(work: UnitOfWork, told: Sequence[Rated]) -> None:
    meter_ids = [one.loaded.state.meter_id for one in told]
    changes = [one.changes.zero_credit for one in told if one.changes.zero_credit is not None]
    await work.conn.execute(SUPERSEDE, {"meter_ids": meter_ids})
    await work.conn.execute(
        TELL,
        {
            "ids": [new_id("cmd") for _ in told],
            "meter_ids": meter_ids,
            "sequences": [one.loaded.last_sequence + 1 for one in told],
            "values": [ON_THE_WIRE.index(change.at_zero) for change in changes],
            "void_ats": [change.until for change in changes],
            "traceparent": current_traceparent(),
        },
    )
    for meter_id in meter_ids:
        work.notify(COMMANDS, meter_id)


def _meter_row(one: Rated) -> tuple[object, ...]:
    changes, loaded = one.changes, one.loaded
    change = changes.zero_credit
    return (
        loaded.state.meter_id,
        loaded.state.at_zero.told if change is None else change.at_zero,
        loaded.last_sequence + (change is not None and change.command is not None),
    )
