"""A batch of meters with all that their ratings look at, locked in the order of their ids: load."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from standpipe.billing.closing_rule import ACCOUNTS, Closed
from standpipe.billing.rating import AtZero, Charged, MeterState
from standpipe.meters.models import CommandStatus, WalletKind
from standpipe.meters.reports import RegisterReading, ValveReason, ValveState, is_lacking
from standpipe.platform.units import period_of, service_day
from standpipe.readings.judging import Register, told_spans
from standpipe.readings.raw import RawReadings
from standpipe.readings.surroundings import Wanted, load_surroundings
from standpipe.supply.zero_credit import PolicyTerms, UtilityPolicy
from standpipe.supply.zero_credit_rules import ON_THE_WIRE, CutOff
from standpipe.tariffs.catalogue import load_contracts
from standpipe.tariffs.periods import UTILITY

MAX_READINGS = 20_000
"""Of one meter in one rating; what is more waits for the next."""
_DAY = timedelta(days=1)
_SHUT = (ValveState.CLOSED, ValveState.RESTRICTED)

LOCK = text("SELECT id FROM meters WHERE id = ANY(CAST(:ids AS text[])) ORDER BY id FOR NO KEY UPDATE")
LOCK_FREE = text("SELECT id FROM meters WHERE id = ANY(CAST(:ids AS text[])) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED")
METERS = text("""
SELECT m.id, m.utility_id, m.currency, m.wallet_kind, m.time_zone, m.installed_at, m.initial_register_ml,
       m.register_max_ml, m.closed_at, m.tariff_id, d.accrued_through, d.guaranteed_minor, m.at_zero, m.last_sequence,
       u.guaranteed_ml, u.cut_off, u.friendly, u.released_reason, u.released_until,
       u.statement_after_days, s.valve, s.valve_reason, d.reprice_from, d.marks,
       (SELECT max(b.period_start) FROM statements b WHERE b.meter_id = m.id) AS last_statement,
       CASE WHEN m.closed_at IS NOT NULL THEN (
           SELECT max(x.occurred_at) FROM ledger_accounts a JOIN ledger_entries e ON e.account_id = a.id
           JOIN ledger_transactions x ON x.id = e.transaction_id
           WHERE a.owner_id = m.id AND a.kind = ANY(CAST(:stated AS text[]))) END AS booked_at,
       f.customer_class, (SELECT before FROM storage_horizons WHERE what = 'readings') AS horizon,
       (SELECT jsonb_agg(jsonb_build_array(p.from_day, q.customer_class, p.cut_off) ORDER BY p.from_day)
        FROM supply_terms p JOIN tariffs q ON q.id = p.tariff_id WHERE p.meter_id = m.id) AS policy_terms,
       (SELECT jsonb_object_agg(c.code, c.cut_off) FROM customer_classes c WHERE c.utility_id = u.id) AS class_cut_offs
FROM meters m JOIN utilities u ON u.id = m.utility_id JOIN tariffs f ON f.id = m.tariff_id
JOIN meter_due d ON d.meter_id = m.id LEFT JOIN meter_states s ON s.meter_id = m.id
WHERE m.id = ANY(CAST(:ids AS text[])) ORDER BY m.id
""").columns(friendly=JSONB, policy_terms=JSONB, class_cut_offs=JSONB)
RAW = text("""
SELECT arrival, meter_id, received_at, clock_wrong, stated_at, read_at, register_ml, empty_pipe, is_last
FROM (SELECT *, arrival = max(arrival) OVER mine AS is_last,
             sum(cardinality(read_at)) OVER (PARTITION BY meter_id ORDER BY arrival) - cardinality(read_at) AS before
      FROM raw_reports WHERE meter_id = ANY(CAST(:ids AS text[])) WINDOW mine AS (PARTITION BY meter_id)) AS told
WHERE before < :most ORDER BY arrival
""")
CHARGED = text("""
SELECT c.meter_id, c.period_start, c.charged_minor, c.accounts, c.revision, c.volume_ml, c.tariff_version_id
FROM unnest(CAST(:meter_ids AS text[]), CAST(:since AS date[])) AS s(meter_id, since)
JOIN period_charges c ON c.meter_id = s.meter_id AND c.period_start >= s.since
""").columns(accounts=JSONB)
ACCRUED = text("""
SELECT c.meter_id, c.period_start, c.charged_minor, c.accounts, c.revision
FROM unnest(CAST(:meter_ids AS text[]), CAST(:since AS date[])) AS s(meter_id, since)
JOIN standing_charged c ON c.meter_id = s.meter_id AND c.period_start >= s.since
""").columns(accounts=JSONB)
BOUGHT = text("""
SELECT p.meter_id, p.day, sum(p.volume_ml)
FROM unnest(CAST(:meter_ids AS text[]), CAST(:since AS date[]), CAST(:until AS date[])) AS s(meter_id, since, until)
JOIN volume_purchases p ON p.meter_id = s.meter_id AND p.day >= s.since AND p.day < s.until
GROUP BY p.meter_id, p.day
""")
# The last that went out tells what the meter certainly does; those that are open wait for it.
AT_ZERO = text("""
SELECT c.meter_id, c.value, c.status, c.attempts, c.void_at, c.reason,
       c.status IN ('QUEUED', 'SENT', 'ACKNOWLEDGED', 'UNKNOWN')
FROM meter_commands c
WHERE c.meter_id = ANY(CAST(:ids AS text[])) AND c.kind = 'AT_ZERO'
  AND (c.status IN ('QUEUED', 'SENT', 'ACKNOWLEDGED', 'UNKNOWN') OR c.sequence = (
       SELECT max(l.sequence) FROM meter_commands l
       WHERE l.meter_id = c.meter_id AND l.kind = 'AT_ZERO' AND l.attempts > 0))
ORDER BY c.meter_id, c.sequence
""")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A meter's state, with what saving it needs: its raw rows, its last command number, its marks at the load.

    ``has_more``: it has more raw readings than fit.
    """

    state: MeterState
    arrivals: tuple[int, ...]
    has_more: bool
    last_sequence: int
    told_at_zero: str | None
    marks: int


@dataclass(frozen=True, slots=True)
class _Raw:
    arrivals: tuple[int, ...] = ()
    reports: tuple[RawReadings, ...] = ()
    has_more: bool = False


async def load(
    conn: AsyncConnection,
    meter_ids: Sequence[str],
    now: datetime,
    *,
    skip_locked: bool,
    changed_days: Mapping[str, frozenset[date]] | None = None,
) -> dict[str, Loaded]:
    """These meters, locked in the order of their ids; unknown ones are left out, and with ``skip_locked`` busy ones.

    ``changed_days``: of a meter, days whose roll-ups the caller has changed.
    """
    locked = list(await conn.scalars(LOCK_FREE if skip_locked else LOCK, {"ids": sorted(set(meter_ids))}))
    if not locked:
        return {}
    # Read after the locks are held: what somebody changed until then is seen.
    rows = {row.id: row for row in await conn.execute(METERS, {"ids": locked, "stated": list(ACCOUNTS)})}
    raw = await _raw(conn, locked)
    changed = changed_days or {}
    contracts = await load_contracts(conn, {row.id: (row.tariff_id, _first_day(row)) for row in rows.values()})
    registers = {meter_id: _register(row) for meter_id, row in rows.items()}
    usage = await _usage(conn, rows, raw, registers, changed)
    wanted = {
        meter_id: Wanted(
            registers[meter_id],
            raw[meter_id].reports,
            (*changed.get(meter_id, ()), *_repriced(row, usage.get(meter_id, {}))),
        )
        for meter_id, row in rows.items()
    }
    around = await load_surroundings(conn, wanted, now, next(iter(rows.values())).horizon)
    standing = await _standing(conn, rows, now)
    bought = await _bought(conn, rows, now)
    policies, terms = _policies(rows)
    at_zero = await _at_zero(conn, rows)
    return {
        meter_id: Loaded(
            state=MeterState(
                meter_id=meter_id,
                utility_id=row.utility_id,
                currency=row.currency,
                wallet_kind=WalletKind(row.wallet_kind),
                register=registers[meter_id],
                closed_at=row.closed_at,
                reports=raw[meter_id].reports,
                around=around[meter_id],
                contract=contracts[meter_id],
                usage=usage.get(meter_id, {}),
                standing=standing.get(meter_id, {}),
                accrued_through=row.accrued_through,
                statements=Closed(row.last_statement, row.statement_after_days, row.booked_at),
                bought_ml=bought.get(meter_id, {}),
                guaranteed_ml=row.guaranteed_ml,
                guaranteed_minor=row.guaranteed_minor,
                policy=policies[row.utility_id],
                policy_terms=terms[meter_id],
                at_zero=at_zero[meter_id],
                reprice_from=row.reprice_from,
                changed_days=changed.get(meter_id, frozenset()),
            ),
            arrivals=raw[meter_id].arrivals,
            has_more=raw[meter_id].has_more,
            last_sequence=row.last_sequence,
            told_at_zero=row.at_zero,
            marks=row.marks,
        )
        for meter_id, row in rows.items()
    }


def _first_day(row: Row[Any]) -> date:
    installed_at: datetime = row.installed_at
    return installed_at.astimezone(ZoneInfo(row.time_zone)).date()


def _register(row: Row[Any]) -> Register:
    return Register(row.installed_at, row.initial_register_ml, row.register_max_ml, ZoneInfo(row.time_zone))


def _repriced(row: Row[Any], usage: Mapping[date, Charged]) -> list[date]:
    """Periods that are priced anew: all of their days are looked at."""
    if row.reprice_from is None:
        return []
    since = period_of(row.reprice_from)[0]
    return [period for period in usage if period >= since]


async def _raw(conn: AsyncConnection, meter_ids: Sequence[str]) -> dict[str, _Raw]:
    found: dict[str, _Raw] = {meter_id: _Raw() for meter_id in meter_ids}
    reports: dict[str, list[tuple[int, RawReadings]]] = {}
    ends: set[str] = set()
    for (
        arrival,
        meter_id,
        received_at,
        clock_wrong,
        stated_at,
        read_at,
        register_ml,
        air,
        is_last,
    ) in await conn.execute(RAW, {"ids": list(meter_ids), "most": MAX_READINGS}):
        if air:
            readings = tuple(map(RegisterReading, read_at, register_ml, air))
        else:
            readings = tuple(map(RegisterReading, read_at, register_ml))
        told = RawReadings(meter_id, received_at, readings, clock_wrong, stated_at)
        reports.setdefault(meter_id, []).append((arrival, told))
        if is_last:
            ends.add(meter_id)
    for meter_id, own in reports.items():
        arrivals = tuple(arrival for arrival, _ in own)
        found[meter_id] = _Raw(arrivals, tuple(report for _, report in own), meter_id not in ends)
    return found


async def _usage(
    conn: AsyncConnection,
    rows: Mapping[str, Row[Any]],
    raw: Mapping[str, _Raw],
    registers: Mapping[str, Register],
    changed: Mapping[str, frozenset[date]],
) -> dict[str, dict[date, Charged]]:
    """Load what was charged for water, from the first period on that can change."""
    since: dict[str, date] = {}
    for meter_id, own in rows.items():
        zone = registers[meter_id].zone
        days = [service_day(first, zone) for first, _ in told_spans(registers[meter_id], raw[meter_id].reports)]
        days += [*changed.get(meter_id, ()), *([own.reprice_from] if own.reprice_from else [])]
        if days:
            since[meter_id] = period_of(min(days))[0]
    if not since:
        return {}
    found: dict[str, dict[date, Charged]] = {}
    given = {"meter_ids": list(since), "since": list(since.values())}
    for meter_id, period, charged_minor, accounts, revision, volume_ml, version_id in await conn.execute(
        CHARGED, given
    ):
        charged = Charged(_by_code(accounts, charged_minor), revision, volume_ml, version_id)
        found.setdefault(meter_id, {})[period] = charged
    return found


async def _standing(
    conn: AsyncConnection, rows: Mapping[str, Row[Any]], now: datetime
) -> dict[str, dict[date, Charged]]:
    """Load what was charged for standing, from the first period on that can change."""
    since = [
        period_of(min(day for day in (row.accrued_through, row.reprice_from, now.date() - _DAY) if day is not None))[0]
        for row in rows.values()
    ]
    found: dict[str, dict[date, Charged]] = {}
    for meter_id, period, charged_minor, accounts, revision in await conn.execute(
        ACCRUED, {"meter_ids": list(rows), "since": since}
    ):
        found.setdefault(meter_id, {})[period] = Charged(_by_code(accounts, charged_minor), revision)
    return found


def _by_code(accounts: Mapping[str, int] | None, charged_minor: int) -> dict[str, int]:
    """Return what was charged by code. An early release kept the total alone, all of it for water."""
    known = dict(accounts or {})
    missing = charged_minor - sum(known.values())
    if missing:
        known[UTILITY] = known.get(UTILITY, 0) + missing
    return known


async def _bought(conn: AsyncConnection, rows: Mapping[str, Row[Any]], now: datetime) -> dict[str, dict[date, int]]:
    """Load what VOLUME meters have bought in the present period, where something is guaranteed."""
    periods = {
        row.id: period_of(now.astimezone(ZoneInfo(row.time_zone)).date())
        for row in rows.values()
        if row.wallet_kind == WalletKind.VOLUME and row.guaranteed_ml
    }
    if not periods:
        return {}
    since, until = zip(*periods.values(), strict=True)
    found: dict[str, dict[date, int]] = {}
    given = {"meter_ids": list(periods), "since": list(since), "until": list(until)}
    for meter_id, day, volume_ml in await conn.execute(BOUGHT, given):
        found.setdefault(meter_id, {})[day] = int(volume_ml)
    return found


def _policies(
    rows: Mapping[str, Row[Any]],
) -> tuple[dict[str, UtilityPolicy], dict[str, tuple[PolicyTerms, ...]]]:
    """Load each utility's rules about zero credit, and each meter's terms as far as they bear on it."""
    utilities = {row.utility_id: row for row in rows.values()}
    policies = {
        utility_id: UtilityPolicy(
            row.cut_off, row.friendly, row.released_reason, row.released_until, row.class_cut_offs or {}
        )
        for utility_id, row in utilities.items()
    }
    terms = {
        meter_id: [PolicyTerms(date.fromisoformat(day), *rest) for day, *rest in row.policy_terms or ()]
        for meter_id, row in rows.items()
    }
    for meter_id, row in rows.items():
        today = _first_day(row)
        if not terms[meter_id] or terms[meter_id][0].from_day > today:
            # Its own row's tariff holds before all terms.
            terms[meter_id].insert(0, PolicyTerms(today, row.customer_class, None))
    return policies, {meter_id: tuple(own) for meter_id, own in terms.items()}


async def _at_zero(conn: AsyncConnection, rows: Mapping[str, Row[Any]]) -> dict[str, AtZero]:
    # It left the factory with DISCONNECT; a command of unknown fate leaves nobody certain.
    held: dict[str, CutOff | None] = dict.fromkeys(rows, CutOff.DISCONNECT)
    waiting: dict[str, list[datetime | None]] = {meter_id: [] for meter_id in rows}
    last_sent: dict[str, CutOff | None] = {}
    cannot: dict[str, bool] = {}
    for meter_id, value, status, attempts, void_at, reason, is_open in await conn.execute(AT_ZERO, {"ids": list(rows)}):
        if is_open:
            waiting[meter_id].append(void_at)
        if attempts > 0:
            last_sent[meter_id] = ON_THE_WIRE[value] if status == CommandStatus.CONFIRMED else None
            cannot[meter_id] = status == CommandStatus.REJECTED and is_lacking(reason)
    held |= last_sent
    return {
        meter_id: AtZero(
            told=row.at_zero,
            held=held[meter_id],
            waiting_until=tuple(waiting[meter_id]),
            is_shut=row.valve in _SHUT and row.valve_reason == ValveReason.NO_CREDIT,
            cannot=cannot.get(meter_id, False),
        )
        for meter_id, row in rows.items()
    }
