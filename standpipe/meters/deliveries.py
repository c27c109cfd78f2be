"""Deliveries of any number of meters, loaded under their locks in one statement and saved in one.

Whoever changes what the rules look at updates the meter's row in the same transaction (a command takes a number, a
grant raises the total), and so does ``save``: by that a load knows that its picture is of the moment of the lock.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from standpipe.meters.delivery_state import Alarm, Command, Delivery, Grant, Stated
from standpipe.meters.models import CommandKind, CommandStatus, WalletKind
from standpipe.meters.reports import ConditionKind, Diagnostics, Measure, ValveReason, ValveState

# A row that somebody else holds is left out, not waited for. A meter whose row was changed between our snapshot and our
# lock shows its new row beside old commands: the two places of its row differ then, and it is loaded again later.
LOAD = text("""
SELECT m.id, m.wallet_kind, m.currency,
    m.credit_granted AS granted,
    m.last_sequence, m.at_zero,
    m.ctid IS DISTINCT FROM (SELECT seen.ctid FROM meters seen WHERE seen.id = m.id) AS is_outdated,
    CASE m.wallet_kind WHEN 'VOLUME' THEN k.last_tid END AS last_tid,
    coalesce((SELECT max(c.sequence) FROM meter_commands c WHERE c.meter_id = m.id AND c.attempts > 0), 0)
        AS highest_sent,
    EXISTS (SELECT FROM meter_commands c WHERE c.meter_id = m.id AND c.kind = 'CLOCK') AS had_clock_command,
    s.last_seen_at, s.battery_percent, s.report_counter, s.last_sequence AS stated_sequence,
    s.credit_accepted AS accepted, s.credit_remaining AS remaining, s.credit_typed AS typed,
    s.stated_at, s.clock_error_s, s.valve, s.valve_reason, s.valve_changed_at,
    (SELECT json_agg(json_build_array(c.id, c.sequence, c.kind, c.value, c.status, c.attempts, c.tid_mark, c.reason,
                c.deadline_at, c.void_at, c.sent_at, c.acknowledged_at, c.confirmed_at, c.after_report, c.body,
                c.traceparent) ORDER BY c.sequence)
        FROM meter_commands c
        WHERE c.meter_id = m.id AND c.status IN ('QUEUED', 'SENT', 'ACKNOWLEDGED', 'UNKNOWN'))::text AS commands,
    (SELECT json_agg(json_build_array(g.credit_key, g.amount - g.revoked,
                g.total_after, g.granted_at, g.sent_at, g.confirmed_at, g.typed_at,
                g.token_issued_at IS NOT NULL, g.traceparent) ORDER BY g.total_after)
        FROM credit_grants g
        WHERE g.meter_id = m.id AND (g.confirmed_at IS NULL
            OR g.token_issued_at IS NOT NULL AND g.total_after > s.credit_accepted - s.credit_typed))::text
        AS grants,
    clock_timestamp() AS real_at
FROM meters m LEFT JOIN meter_states s ON s.meter_id = m.id LEFT JOIN meter_keypads k ON k.meter_id = m.id
WHERE m.id = ANY(CAST(:meter_ids AS text[]))
ORDER BY m.id FOR NO KEY UPDATE OF m SKIP LOCKED
""")
WHICH_EXIST = text("SELECT id FROM meters WHERE id = ANY(CAST(:meter_ids AS text[]))")
LOAD_ALARMS = text("""
SELECT meter_id, kind, is_raised, told_at, raised_at, cleared_at FROM meter_conditions
WHERE meter_id = ANY(CAST(:meter_ids AS text[]))
""")
# Every meter's own row is written, changed or not: see above.
SAVE = text("""
WITH stated AS (
    INSERT INTO meter_states AS s (meter_id, last_seen_at, battery_percent, report_counter, last_sequence,
        credit_accepted, credit_remaining, credit_typed,
        stated_at, clock_error_s, valve, valve_reason, valve_changed_at)
    SELECT * FROM unnest(CAST(:stated_ids AS text[]), CAST(:last_seen_at AS timestamptz[]),
        CAST(:battery_percent AS bigint[]), CAST(:report_counter AS bigint[]), CAST(:stated_sequence AS bigint[]),
        CAST(:credit_accepted AS bigint[]), CAST(:credit_remaining AS bigint[]),
        CAST(:credit_typed AS bigint[]),
        CAST(:stated_at AS timestamptz[]), CAST(:clock_error_s AS bigint[]), CAST(:valve AS text[]),
        CAST(:valve_reason AS text[]), CAST(:valve_changed_at AS timestamptz[]))
    ON CONFLICT (meter_id) DO UPDATE SET last_seen_at = excluded.last_seen_at,
        battery_percent = excluded.battery_percent, report_counter = excluded.report_counter,
        last_sequence = excluded.last_sequence, credit_accepted = excluded.credit_accepted,
        credit_remaining = excluded.credit_remaining, credit_typed = excluded.credit_typed,
        stated_at = excluded.stated_at, clock_error_s = excluded.clock_error_s, valve = excluded.valve,
        valve_reason = excluded.valve_reason, valve_changed_at = excluded.valve_changed_at),
met AS (
    UPDATE meters m SET last_sequence = n.last_sequence, at_zero = n.at_zero
    FROM unnest(CAST(:meter_ids AS text[]), CAST(:last_sequences AS bigint[]), CAST(:at_zeros AS text[]))
        AS n(id, last_sequence, at_zero)
    WHERE m.id = n.id),
command AS (
    SELECT * FROM unnest(CAST(:command_ids AS text[]), CAST(:command_meter_ids AS text[]), CAST(:is_new AS boolean[]),
        CAST(:sequence AS bigint[]), CAST(:kind AS text[]), CAST(:value AS bigint[]), CAST(:status AS text[]),
        CAST(:attempts AS bigint[]), CAST(:tid_mark AS bigint[]), CAST(:reason AS text[]),
        CAST(:void_at AS timestamptz[]), CAST(:sent_at AS timestamptz[]), CAST(:acknowledged_at AS timestamptz[]),
        CAST(:confirmed_at AS timestamptz[]), CAST(:after_report AS bigint[]), CAST(:body AS text[]),
        CAST(:traceparent AS text[]))
        AS c(id, meter_id, is_new, sequence, kind, value, status, attempts, tid_mark, reason, void_at, sent_at,
            acknowledged_at, confirmed_at, after_report, body, traceparent)),
commanded AS (
    UPDATE meter_commands m SET sequence = c.sequence, value = c.value, status = c.status, attempts = c.attempts,
        reason = c.reason, sent_at = c.sent_at, acknowledged_at = c.acknowledged_at, confirmed_at = c.confirmed_at,
        after_report = c.after_report, body = CAST(c.body AS jsonb)
    FROM command c WHERE m.id = c.id AND NOT c.is_new),
queued AS (
    INSERT INTO meter_commands (id, meter_id, sequence, kind, value, status, attempts, tid_mark, reason, void_at,
        sent_at, after_report, body, traceparent)
    SELECT id, meter_id, sequence, kind, value, status, attempts, tid_mark, reason, void_at, sent_at, after_report,
        CAST(body AS jsonb), traceparent
    FROM command WHERE is_new ORDER BY meter_id, sequence),
granted AS (
    UPDATE credit_grants g SET sent_at = c.sent_at, confirmed_at = c.confirmed_at, typed_at = c.typed_at
    FROM unnest(CAST(:credit_keys AS text[]), CAST(:grant_sent_at AS timestamptz[]),
        CAST(:grant_confirmed_at AS timestamptz[]), CAST(:typed_at AS timestamptz[]))
        AS c(credit_key, sent_at, confirmed_at, typed_at)
    WHERE g.credit_key = c.credit_key)
SELECT pg_notify('standpipe_live', id) FROM unnest(CAST(:meter_ids AS text[])) AS told(id)
""")
SAVE_ALARMS = text("""
INSERT INTO meter_conditions AS a (meter_id, kind, is_raised, told_at, raised_at, cleared_at)
SELECT * FROM unnest(CAST(:meter_ids AS text[]), CAST(:kinds AS text[]), CAST(:is_raised AS boolean[]),
    CAST(:told_at AS timestamptz[]), CAST(:raised_at AS timestamptz[]), CAST(:cleared_at AS timestamptz[]))
ON CONFLICT (meter_id, kind) DO UPDATE SET is_raised = excluded.is_raised, told_at = excluded.told_at,
    raised_at = excluded.raised_at, cleared_at = excluded.cleared_at
""")
SAVE_MEASURES = text("""
INSERT INTO meter_measures AS m (meter_id, kind, value, told_at)
SELECT * FROM unnest(CAST(:meter_ids AS text[]), CAST(:kinds AS text[]), CAST(:values AS bigint[]),
    CAST(:told_at AS timestamptz[]))
ON CONFLICT (meter_id, kind) DO UPDATE SET value = excluded.value, told_at = excluded.told_at
WHERE m.told_at <= excluded.told_at
""")
SAVE_DIAGNOSTICS = text("""
INSERT INTO meter_diagnostics (meter_id, told_at, battery_percent, signal_dbm, uptime_s, resets, error_bits, firmware)
SELECT * FROM unnest(CAST(:meter_ids AS text[]), CAST(:told_at AS timestamptz[]), CAST(:battery_percent AS bigint[]),
    CAST(:signal_dbm AS bigint[]), CAST(:uptime_s AS bigint[]), CAST(:resets AS bigint[]),
    CAST(:error_bits AS bigint[]), CAST(:firmware AS text[]))
ON CONFLICT (meter_id, told_at) DO UPDATE SET battery_percent = excluded.battery_percent,
    signal_dbm = excluded.signal_dbm, uptime_s = excluded.uptime_s, resets = excluded.resets,
    error_bits = excluded.error_bits, firmware = excluded.firmware
""")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Deliveries whose locks we hold. ``busy``: meters that somebody else holds; those in neither do not exist."""

    deliveries: dict[str, Delivery]
    busy: frozenset[str]
    real_at: datetime | None = None


async def load(conn: AsyncConnection, meter_ids: Iterable[str], *, with_alarms: Iterable[str] = ()) -> Loaded:
    """Lock these meters in id order, without waiting for any, and bring their deliveries.

    ``with_alarms``: of which of them the alarms too.
    """
    wanted = sorted(set(meter_ids))
    rows = (await conn.execute(LOAD, {"meter_ids": wanted})).all()
    alarms = await _alarms(conn, sorted(set(with_alarms)))
    found = {row.id: _delivery_of(row, alarms.get(row.id, {})) for row in rows if not row.is_outdated}
    busy = {row.id for row in rows if row.is_outdated}
    if missing := [meter_id for meter_id in wanted if meter_id not in found and meter_id not in busy]:
        busy |= set((await conn.execute(WHICH_EXIST, {"meter_ids": missing})).scalars())
    return Loaded(found, frozenset(busy), rows[0].real_at if rows else None)


async def save(conn: AsyncConnection, changes: Sequence[tuple[Delivery, Delivery]]) -> None:
    """Write deliveries as they stand now, given as pairs of before and after, of meters that are locked."""
    if not changes:
        return
    stated = [(after, after.stated) for _, after in changes if after.stated is not None]
    await conn.execute(SAVE, _meters(changes) | _states(stated) | _commands(changes) | _grants(changes))
    await _save_alarms(conn, changes)


async def save_measures(conn: AsyncConnection, told: Iterable[tuple[str, Measure]], now: datetime) -> None:
    """Keep the newest value of each kind that these meters told."""
    newest: dict[tuple[str, str], tuple[datetime, int]] = {}
    for meter_id, measure in sorted(told, key=lambda one: one[1].at):
        newest[meter_id, measure.kind] = (min(measure.at, now), measure.value)
    if not newest:
        return
    meter_ids, kinds = zip(*sorted(newest), strict=True)
    told_at, values = zip(*(newest[key] for key in sorted(newest)), strict=True)
    columns: dict[str, Sequence[Any]] = {"meter_ids": meter_ids, "kinds": kinds, "told_at": told_at, "values": values}
    await conn.execute(SAVE_MEASURES, {name: list(column) for name, column in columns.items()})


async def save_diagnostics(conn: AsyncConnection, told: Mapping[str, Diagnostics], now: datetime) -> None:
    """Keep what these meters said of themselves now."""
    if not told:
        return
    fields = ("battery_percent", "signal_dbm", "uptime_s", "resets", "error_bits", "firmware")
    columns: dict[str, list[Any]] = {name: [getattr(one, name) for one in told.values()] for name in fields}
    await conn.execute(SAVE_DIAGNOSTICS, columns | {"meter_ids": list(told), "told_at": [now] * len(told)})


def _meters(changes: Sequence[tuple[Delivery, Delivery]]) -> dict[str, list[Any]]:
    return {
        "meter_ids": [after.meter_id for _, after in changes],
        "last_sequences": [after.last_sequence for _, after in changes],
        "at_zeros": [after.at_zero for _, after in changes],
    }


def _states(stated: Sequence[tuple[Delivery, Stated]]) -> dict[str, list[Any]]:
    states = [state for _, state in stated]
    same = ("last_seen_at", "battery_percent", "report_counter", "stated_at", "clock_error_s", "valve", "valve_reason")
    return {
        "stated_ids": [delivery.meter_id for delivery, _ in stated],
        **{name: [getattr(state, name) for state in states] for name in (*same, "valve_changed_at")},
        "stated_sequence": [state.last_sequence for state in states],
        "credit_accepted": [state.accepted for state in states],
        "credit_remaining": [state.remaining for state in states],
        "credit_typed": [state.typed for state in states],
    }


def _commands(changes: Sequence[tuple[Delivery, Delivery]]) -> dict[str, list[Any]]:
    changed: list[tuple[str, bool, Command]] = []
    for before, after in changes:
        known = {command.id: command for command in before.commands}
        changed += [(after.meter_id, one.id not in known, one) for one in after.commands if known.get(one.id) != one]
    commands = [command for *_, command in changed]
    same: tuple[str, ...] = ("sequence", "kind", "value", "status", "attempts", "tid_mark", "reason", "void_at")
    same += ("sent_at", "acknowledged_at", "confirmed_at", "after_report", "traceparent")
    return {
        "command_ids": [command.id for command in commands],
        "command_meter_ids": [meter_id for meter_id, *_ in changed],
        "is_new": [is_new for _, is_new, _ in changed],
        **{name: [getattr(command, name) for command in commands] for name in same},
        "body": [None if command.body is None else json.dumps(command.body) for command in commands],
    }


def _grants(changes: Sequence[tuple[Delivery, Delivery]]) -> dict[str, list[Any]]:
    grants: list[Grant] = []
    for before, after in changes:
        known = set(before.grants)
        grants += [grant for grant in after.grants if grant not in known]
    return {
        "credit_keys": [grant.credit_key for grant in grants],
        "grant_sent_at": [grant.sent_at for grant in grants],
        "grant_confirmed_at": [grant.confirmed_at for grant in grants],
        "typed_at": [grant.typed_at for grant in grants],
    }


async def _alarms(conn: AsyncConnection, meter_ids: Sequence[str]) -> dict[str, dict[ConditionKind, Alarm]]:
    found: dict[str, dict[ConditionKind, Alarm]] = defaultdict(dict)
    if meter_ids:
        for meter_id, kind, *rest in await conn.execute(LOAD_ALARMS, {"meter_ids": list(meter_ids)}):
            found[meter_id][ConditionKind(kind)] = Alarm(ConditionKind(kind), *rest)
    return found


async def _save_alarms(conn: AsyncConnection, changes: Sequence[tuple[Delivery, Delivery]]) -> None:
    alarms = [
        (after.meter_id, alarm)
        for before, after in changes
        for alarm in after.alarms.values()
        if before.alarms.get(alarm.kind) != alarm
    ]
    if not alarms:
        return
    fields = {"kinds": "kind", "is_raised": "is_raised", "told_at": "told_at", "raised_at": "raised_at"}
    columns: dict[str, list[Any]] = {name: [getattr(alarm, one) for _, alarm in alarms] for name, one in fields.items()}
    columns["cleared_at"] = [alarm.cleared_at for _, alarm in alarms]
    await conn.execute(SAVE_ALARMS, columns | {"meter_ids": [meter_id for meter_id, _ in alarms]})


def _delivery_of(row: Row[Any], alarms: Mapping[ConditionKind, Alarm]) -> Delivery:
    return Delivery(
        meter_id=row.id,
        wallet_kind=WalletKind(row.wallet_kind),
        currency=row.currency,
        granted=row.granted,
        last_sequence=row.last_sequence,
        highest_sent=row.highest_sent,
        last_tid=row.last_tid,
        at_zero=row.at_zero,
        had_clock_command=row.had_clock_command,
        stated=None if row.last_seen_at is None else _stated_of(row),
        commands=tuple(_command_of(*fields) for fields in json.loads(row.commands or "[]")),
        grants=tuple(_grant_of(*fields) for fields in json.loads(row.grants or "[]")),
        alarms=alarms,
    )


def _stated_of(row: Row[Any]) -> Stated:
    return Stated(
        last_seen_at=row.last_seen_at,
        battery_percent=row.battery_percent,
        report_counter=row.report_counter,
        last_sequence=row.stated_sequence,
        accepted=row.accepted,
        remaining=row.remaining,
        typed=row.typed,
        stated_at=row.stated_at,
        clock_error_s=row.clock_error_s,
        valve=ValveState(row.valve),
        valve_reason=ValveReason(row.valve_reason),
        valve_changed_at=row.valve_changed_at,
    )


def _command_of(*fields: Any) -> Command:
    id_, sequence, kind, value, status, attempts, tid_mark, reason, *instants, after_report, body, traceparent = fields
    deadline_at, void_at, sent_at, acknowledged_at, confirmed_at = (_instant(one) for one in instants)
    return Command(
        id=id_,
        sequence=sequence,
        kind=CommandKind(kind),
        value=value,
        status=CommandStatus(status),
        attempts=attempts,
        tid_mark=tid_mark,
        reason=reason,
        deadline_at=deadline_at,
        void_at=void_at,
        sent_at=sent_at,
        acknowledged_at=acknowledged_at,
        confirmed_at=confirmed_at,
        after_report=after_report,
        body=body,
        traceparent=traceparent,
    )


def _grant_of(*fields: Any) -> Grant:
    credit_key, amount, total_after, granted_at, sent_at, confirmed_at, typed_at, is_issued, traceparent = fields
    return Grant(
        credit_key=credit_key,
        amount=amount,
        total_after=total_after,
        granted_at=datetime.fromisoformat(granted_at),
        sent_at=_instant(sent_at),
        confirmed_at=_instant(confirmed_at),
        typed_at=_instant(typed_at),
        is_issued=is_issued,
        traceparent=traceparent,
    )


def _instant(written: str | None) -> datetime | None:
    return None if written is None else datetime.fromisoformat(written)
