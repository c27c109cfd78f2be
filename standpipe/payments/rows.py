"""Payments in the database, set-wise: one locked read of all that their rules look at, one write of what they change.

Lock order: payments and their meters together, meter by meter in the order of ids; then suspense items; guarded
accounts when the ledger is posted to. A batch skips rows that somebody else holds (they are worked a moment later); a
decision on one payment alone waits for them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import TypeAdapter
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from standpipe.engine.unit_of_work import UnitOfWork
from standpipe.ledger.dues import WEEK
from standpipe.ledger.posting import LEDGER
from standpipe.meters.credit import CREDIT, load_credit
from standpipe.meters.models import WalletKind
from standpipe.outbox.facts import FACTS
from standpipe.payments.rails.port import PaymentTruth
from standpipe.payments.saved_methods import keep_card
from standpipe.payments.state import (
    Around,
    Changes,
    HeldMoney,
    MeterMoney,
    PaymentState,
    Poll,
    Purchase,
    RefundRow,
    VolumeBook,
)
from standpipe.platform import metrics
from standpipe.platform.database import Sessions
from standpipe.platform.errors import NotFoundError
from standpipe.platform.notify import LIVE
from standpipe.platform.tracing import current_traceparent
from standpipe.platform.units import period_of
from standpipe.tariffs.catalogue import contracts
from standpipe.tariffs.periods import BillLine, Priced

LOOK_BACK = timedelta(days=40)
"""An order by a quote buys at a day at most a week ago, which may lie in the billing period before."""
_LINES = TypeAdapter(list[BillLine])
_SLOTS = tuple(field.name for field in fields(PaymentState))
# What was agreed is for the payment that was begun with the order; another one for it is money without terms (P31).
_OF_ORDER = {
    name: f"t.{name}" for name in ("meter_id", "customer_id", "origin", "funder_id", "method_id", "created_at")
}
_OF_ORDER |= {
    "agreed": "CASE WHEN p.id = t.id THEN t.agreed END AS agreed",
    "fee_agreed_minor": "CASE WHEN p.id = t.id THEN t.fee_agreed_minor ELSE 0 END AS fee_agreed_minor",
}
_LOAD = f"""
    SELECT {", ".join(_OF_ORDER.get(name, f"p.{name}") for name in _SLOTS)},
           m.utility_id, m.wallet_kind, m.currency AS meter_currency, m.time_zone, d.guaranteed_minor, m.tariff_id,
           m.installed_at, u.debt_share_percent, u.debt_weekly_cap_minor
    FROM payments p JOIN top_ups t ON t.id = p.top_up_id JOIN meters m ON m.id = t.meter_id
    JOIN utilities u ON u.id = m.utility_id JOIN meter_due d ON d.meter_id = m.id
    WHERE p.id = ANY(CAST(:ids AS text[])) ORDER BY m.id, p.id FOR NO KEY UPDATE OF p, m"""  # noqa: S608 - our columns.
LOAD_FREE = text(f"{_LOAD} SKIP LOCKED").columns(agreed=JSONB, next_action=JSONB)
LOAD = text(_LOAD).columns(agreed=JSONB, next_action=JSONB)
LOAD_METERS = text("""
    SELECT m.id AS meter_id, m.utility_id, m.wallet_kind, m.currency AS meter_currency, m.time_zone, d.guaranteed_minor,
           m.tariff_id, m.installed_at, u.debt_share_percent, u.debt_weekly_cap_minor
    FROM meters m JOIN utilities u ON u.id = m.utility_id JOIN meter_due d ON d.meter_id = m.id
    WHERE m.id = ANY(CAST(:ids AS text[])) ORDER BY m.id FOR NO KEY UPDATE OF m""")
LOAD_BALANCES = text("""
    SELECT a.owner_id, a.kind, a.currency, a.balance_minor,
           CASE WHEN a.kind = 'RECEIVABLE' AND a.balance_minor < 0 THEN
               (SELECT coalesce(sum(e.amount_minor), 0) FROM ledger_entries e
                WHERE e.account_id = a.id AND e.amount_minor > 0
                AND (SELECT x.kind = 'TOP_UP' AND x.occurred_at > :since FROM ledger_transactions x
                     WHERE x.id = e.transaction_id))
           ELSE 0 END AS repaid_minor
    FROM ledger_accounts a
    WHERE a.kind IN ('WALLET', 'RECEIVABLE', 'STANDING_DUE', 'EMERGENCY')
    AND a.owner_id = ANY(CAST(:meters AS text[]))""")
# ``names`` are what the rail calls a payment now: the rows that have such a name already, and money that waits by it.
LOAD_AROUND = text("""
    WITH told AS (
        SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:rails AS text[]), CAST(:refs AS text[]))
            AS t(id, rail, rail_ref)
    ), name AS (
        SELECT * FROM unnest(CAST(:name_of AS text[]), CAST(:names AS text[])) AS n(id, name)
    )
    SELECT t.id,
           (SELECT o.id FROM name n JOIN payments o ON o.rail = t.rail AND o.id <> t.id AND o.captured_minor > 0
                   AND (o.receipt_ref = n.name OR o.rail_ref = n.name OR o.alias_ref = n.name)
            WHERE n.id = t.id LIMIT 1) AS elsewhere,
           (SELECT o.id FROM payments o WHERE o.rail = t.rail AND o.rail_ref = t.rail_ref AND o.id <> t.id) AS known_as,
           (SELECT json_agg(json_build_array(r.id, r.rail_ref, r.amount_minor, r.status, r.failure_code) ORDER BY r.id)
            FROM refunds r WHERE r.payment_id = t.id) AS refunds,
           (SELECT json_agg(s.id) FROM suspense_items s WHERE s.status = 'OPEN' AND (s.payment_id = t.id
            OR s.rail = t.rail AND s.rail_ref IN (SELECT n.name FROM name n WHERE n.id = t.id))) AS waiting
    FROM told t""")
LOCK_SUSPENSE = text("""
    SELECT id, rail, rail_ref, currency, amount_minor, payment_id FROM suspense_items
    WHERE id = ANY(CAST(:ids AS text[])) AND status = 'OPEN' ORDER BY id FOR UPDATE""")
LOAD_SUMS = text("""
    SELECT meter_id, day, CAST(sum(volume_ml) AS bigint) AS volume_ml, CAST(sum(amount_minor) AS bigint) AS amount_minor
    FROM volume_purchases WHERE meter_id = ANY(CAST(:meters AS text[])) AND day >= :since GROUP BY meter_id, day""")
LOAD_PURCHASES = text("""
    SELECT key, meter_id, source_id, day, tariff_version_id, volume_ml, amount_minor, period_volume_ml,
           period_charged_minor, accounts, lines, reverses_key, bought_at
    FROM volume_purchases WHERE source_id = ANY(CAST(:sources AS text[])) ORDER BY bought_at, key""").columns(
    accounts=JSONB, lines=JSONB
)
_SAVED = {
    **dict.fromkeys(("rail_ref", "alias_ref", "receipt_ref", "status", "failure_code", "failure_message"), "text"),
    "next_action": "jsonb",
    **dict.fromkeys(
        (
            *("captured_minor", "refunded_minor", "suspense_minor", "disputed_minor", "dispute_fee_minor"),
            *("held_minor", "taken_back_minor", "owed_minor", "fee_minor", "emergency_minor", "standing_minor"),
            *("debt_minor", "version"),
        ),
        "bigint",
    ),
    "dispute": "text",
    "updated_at": "timestamptz",
}
_OPENED = {
    **dict.fromkeys(("top_up_id", "rail", "currency", "account_reference"), "text"),
    "asked_minor": "bigint",
    **_SAVED,
}
_ORDERED = {
    **dict.fromkeys(
        (
            *("meter_id", "customer_id", "origin", "funder_id", "method_id"),
            *("idempotency_key", "request_hash", "traceparent"),
        ),
        "text",
    ),
    "fee_agreed_minor": "bigint",
    "created_at": "timestamptz",
}
_POLL = "polls boolean, after_s double precision, dead boolean, error text, statuses jsonb"
_DUE = "CASE WHEN r.after_s IS NOT NULL THEN now() + r.after_s * interval '1 second' END"
_EVENTS = """
    INSERT INTO top_up_events (top_up_id, status, at)
    SELECT r.top_up_id, e.status, r.at
    FROM row r CROSS JOIN LATERAL jsonb_array_elements_text(r.statuses) AS e(status)"""


def _record(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns.items())


SAVE = text(f"""
    WITH row AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb))
            AS r(id text, top_up_id text, at timestamptz, {_record(_SAVED)}, {_POLL})
    ), saved AS (
        UPDATE payments t SET {", ".join(f"{name} = r.{name}" for name in _SAVED)},
            due_at = CASE WHEN r.polls THEN {_DUE} ELSE t.due_at END,
            dead_at = CASE WHEN r.dead THEN now() ELSE t.dead_at END,
            last_error = coalesce(r.error, t.last_error)
        FROM row r WHERE t.id = r.id
    )
    {_EVENTS}""")  # noqa: S608 - our own columns.
OPEN = text(f"""
    WITH row AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb))
            AS r(id text, at timestamptz, {_record(_OPENED | _ORDERED)}, {_POLL})
    ), ordered AS (
        INSERT INTO top_ups (id, pay_minor, currency, {", ".join(_ORDERED)})
        SELECT r.id, r.asked_minor, r.currency, {", ".join(f"r.{name}" for name in _ORDERED)}
        FROM row r WHERE r.id = r.top_up_id
    ), opened AS (
        INSERT INTO payments (id, {", ".join(_OPENED)}, due_at, dead_at, last_error)
        SELECT r.id, {", ".join(f"r.{name}" for name in _OPENED)}, {_DUE}, CASE WHEN r.dead THEN now() END, r.error
        FROM row r
    )
    {_EVENTS}""")  # noqa: S608 - our own columns.
# The answer to a create, where it moves no money and nobody has settled the payment meanwhile; with its calls.
FIRST_ANSWER = text(f"""
    WITH row AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb))
            AS r(id text, top_up_id text, meter_id text, at timestamptz, {_record(_SAVED)}, {_POLL})
    ), saved AS (
        UPDATE payments t SET {", ".join(f"{name} = r.{name}" for name in _SAVED)}, due_at = {_DUE}
        FROM row r WHERE t.id = r.id AND t.version = 0 RETURNING t.id, r.top_up_id, r.meter_id
    ), event AS (
        {_EVENTS} WHERE r.id IN (SELECT id FROM saved)
    )
    SELECT pg_notify(:channel, s.top_up_id), pg_notify(:channel, s.meter_id) FROM saved s""")  # noqa: S608 - our own columns.
WAKE = text("UPDATE payments SET due_at = now() WHERE id = ANY(CAST(:ids AS text[]))")
SAVE_REFUNDS = text("""
    UPDATE refunds f SET status = r.status, failure_code = r.failure_code, updated_at = :now, due_at = NULL
    FROM unnest(CAST(:ids AS text[]), CAST(:statuses AS text[]), CAST(:codes AS text[])) AS r(id, status, failure_code)
    WHERE f.id = r.id""")
RESOLVE = text("""
    UPDATE suspense_items s SET status = r.status, resolved_at = :now, resolved_by = r.resolved_by,
           payment_id = coalesce(r.payment_id, s.payment_id)
    FROM unnest(CAST(:ids AS text[]), CAST(:statuses AS text[]), CAST(:by AS text[]), CAST(:payments AS text[]))
        AS r(id, status, resolved_by, payment_id)
    WHERE s.id = r.id""")
OPEN_SUSPENSE = text("""
    INSERT INTO suspense_items (id, key, rail, rail_ref, currency, amount_minor, reason, account_reference, payer,
                                payment_id, opened_at)
    SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:keys AS text[]), CAST(:rails AS text[]), CAST(:refs AS text[]),
                         CAST(:currencies AS text[]), CAST(:amounts AS bigint[]), CAST(:reasons AS text[]),
                         CAST(:accounts AS text[]), CAST(:payers AS text[]), CAST(:payments AS text[]),
                         CAST(:ats AS timestamptz[]))""")
ADD_PURCHASES = text("""
    INSERT INTO volume_purchases (key, meter_id, source_id, day, tariff_version_id, volume_ml, amount_minor,
                                  period_volume_ml, period_charged_minor, accounts, lines, reverses_key, bought_at)
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(key text, meter_id text, source_id text, day date, version_id text, volume_ml bigint, amount_minor bigint,
             period_volume_ml bigint, period_charged_minor bigint, accounts jsonb, lines jsonb, reverses_key text,
             bought_at timestamptz)""")


@dataclass(frozen=True, slots=True)
class Opening:
    """Columns of a new order beside its payment's state, when both are stored for the first time."""

    idempotency_key: str = ""
    request_hash: str = ""
    traceparent: str | None = field(default_factory=current_traceparent)
    statuses: tuple[str, ...] = ("CREATED",)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Payments and meters, locked; ``around`` by payment id."""

    payments: dict[str, PaymentState]
    meters: dict[str, MeterMoney]
    around: dict[str, Around]


async def load(
    conn: AsyncConnection,
    payment_ids: Sequence[str],
    now: datetime,
    truths: Mapping[str, PaymentTruth] | None = None,
    *,
    skip_locked: bool = False,
) -> Loaded:
    """Lock these payments with their meters, and read what their rules look at. What is not there is left out.

    ``truths``: what the rail says of them, for whose names is looked elsewhere. ``skip_locked``: so is what somebody
    else holds.
    """
    rows = (await conn.execute(LOAD_FREE if skip_locked else LOAD, {"ids": sorted(set(payment_ids))})).all()
    payments = {row.id: PaymentState(*row[: len(_SLOTS)]) for row in rows}
    meters = await _meters(conn, rows, [payment.top_up_id for payment in payments.values()], now)
    return Loaded(payments, meters, await _around(conn, payments, truths or {}) if truths is not None else {})


async def load_one(conn: AsyncConnection, payment_id: str, now: datetime) -> tuple[PaymentState, MeterMoney]:
    """One payment and its meter, waited for. Raises NotFoundError."""
    loaded = await load(conn, [payment_id], now)
    if payment_id not in loaded.payments:
        raise NotFoundError("No such payment.")
    payment = loaded.payments[payment_id]
    return payment, loaded.meters[payment.meter_id]


async def load_meter(conn: AsyncConnection, meter_id: str, now: datetime) -> MeterMoney:
    """A meter that is about to be paid for by a payment that has no row yet; locked. Raises NotFoundError."""
    rows = (await conn.execute(LOAD_METERS, {"ids": [meter_id]})).all()
    if not rows:
        raise NotFoundError("No such meter.")
    return (await _meters(conn, rows, [], now))[meter_id]


async def names_around(conn: AsyncConnection, payment: PaymentState, truth: PaymentTruth) -> Around:
    """Load what is known elsewhere of a payment that has no row yet."""
    return (await _around(conn, {payment.id: payment}, {payment.id: truth}))[payment.id]


async def save(
    work: UnitOfWork, changes: Sequence[Changes], now: datetime, opened: Mapping[str, Opening] | None = None
) -> None:
    """Write all that was decided, table by table; the rest (ledger, facts) when the work is flushed.

    ``opened``: by id, payments that are stored for the first time. A payment that was decided on several times stands
    there as it ended.
    """
    opened = opened or {}
    fresh: list[dict[str, Any]] = []
    known: list[dict[str, Any]] = []
    for row in _rows(changes, opened, now):
        (fresh if row["id"] in opened else known).append(row)
    if fresh:
        await work.conn.execute(OPEN, {"rows": _json(fresh)})
    if known:
        await work.conn.execute(SAVE, {"rows": _json(known)})
    work.add(CREDIT, *(change.meter.credit for change in changes))
    await _save_purchases(work, changes)
    await _save_suspense(work, changes, now)
    await _save_refunds(work, changes, now)
    wake = sorted({change.wake for change in changes if change.wake is not None})
    if wake:
        await work.conn.execute(WAKE, {"ids": wake})
    await _keep_cards(work, changes, now)
    for change in changes:
        work.add(LEDGER, *change.postings)
        work.add(FACTS, *((fact, change.traceparent) for fact in change.facts))
        _tell(work, change)


async def save_first_answer(sessions: Sessions, payment: PaymentState, poll: Poll, now: datetime) -> None:
    """Save what the answer to a create has changed, in one statement; nothing where somebody has settled meanwhile."""
    row = {name: getattr(payment, name) for name in _SAVED}
    row |= {"id": payment.id, "top_up_id": payment.top_up_id, "meter_id": payment.meter_id, "at": now}
    row |= {"after_s": poll.after_s, "statuses": [payment.status]}
    async with sessions() as session:
        conn = await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        saved = (await conn.execute(FIRST_ANSWER, {"rows": _json([row]), "channel": LIVE})).all()
    if saved:
        metrics.TOP_UPS.labels(payment.rail, payment.status).inc()


def _tell(work: UnitOfWork, change: Changes) -> None:
    payment = change.payment
    if change.statuses or change.postings or payment.updated_at is not None:
        work.notify(LIVE, payment.top_up_id)
        work.notify(LIVE, payment.meter_id)
    for status in change.statuses:
        work.after_commit(metrics.TOP_UPS.labels(payment.rail, status).inc)
    if change.captured_rose:
        work.after_commit(metrics.PAYMENTS_SETTLED.labels(payment.rail).inc)


async def _meters(
    conn: AsyncConnection, rows: Sequence[Any], sources: Sequence[str], now: datetime
) -> dict[str, MeterMoney]:
    by_meter = {row.meter_id: row for row in rows}
    if not by_meter:
        return {}
    balances: dict[tuple[str, str, str], tuple[int, int]] = {}
    found = await conn.execute(LOAD_BALANCES, {"meters": list(by_meter), "since": now - WEEK})
    for owner_id, kind, currency, balance_minor, repaid_minor in found:
        balances[owner_id, kind, currency] = (balance_minor, int(repaid_minor))
    credit = await load_credit(conn, by_meter, sources)
    volume = await _volume(
        conn, [row for row in by_meter.values() if row.wallet_kind == WalletKind.VOLUME], sources, now
    )
    meters = {}
    for meter_id, row in by_meter.items():
        currency = row.meter_currency

        def balance(kind: str, meter_id: str = meter_id, currency: str = currency) -> tuple[int, int]:
            return balances.get((meter_id, kind, currency), (0, 0))

        meters[meter_id] = MeterMoney(
            id=meter_id,
            utility_id=row.utility_id,
            currency=currency,
            time_zone=row.time_zone,
            guaranteed_minor=row.guaranteed_minor,
            debt_share_percent=row.debt_share_percent,
            debt_weekly_cap_minor=row.debt_weekly_cap_minor,
            wallet_minor=balance("WALLET")[0],
            receivable_minor=balance("RECEIVABLE")[0],
            standing_due_minor=balance("STANDING_DUE")[0],
            emergency_minor=balance("EMERGENCY")[0],
            repaid_minor=balance("RECEIVABLE")[1],
            credit=credit[meter_id],
            volume=volume.get(meter_id),
        )
    return meters


async def _volume(
    conn: AsyncConnection, rows: Sequence[Any], sources: Sequence[str], now: datetime
) -> dict[str, VolumeBook]:
    """By meter id, by what VOLUME meters buy and what they have bought; four statements, however many meters."""
    if not rows:
        return {}
    ids = [row.meter_id for row in rows]
    async with AsyncSession(conn, expire_on_commit=False) as session:
        basis = {row.meter_id: (row.tariff_id, _day(row, row.installed_at)) for row in rows}
        known = await contracts(session, basis)
    since, _ = period_of((now - LOOK_BACK).date())
    sums: dict[str, dict[Any, tuple[int, int]]] = {meter_id: {} for meter_id in ids}
    for meter_id, day, volume_ml, amount_minor in await conn.execute(LOAD_SUMS, {"meters": ids, "since": since}):
        sums[meter_id][day] = (volume_ml, amount_minor)
    own: dict[str, list[Purchase]] = {meter_id: [] for meter_id in ids}
    if sources:
        for row in await conn.execute(LOAD_PURCHASES, {"sources": sorted(set(sources))}):
            own.setdefault(row.meter_id, []).append(_purchase(row))
    return {meter_id: VolumeBook(known[meter_id], sums[meter_id], tuple(own[meter_id])) for meter_id in ids}


def _day(row: Any, instant: datetime) -> Any:
    return instant.astimezone(ZoneInfo(row.time_zone)).date()


def _purchase(row: Any) -> Purchase:
    return Purchase(
        key=row.key,
        meter_id=row.meter_id,
        source_id=row.source_id,
        day=row.day,
        version_id=row.tariff_version_id,
        volume_ml=row.volume_ml,
        priced=Priced(row.amount_minor, tuple(_LINES.validate_python(row.lines)), row.accounts),
        period_volume_ml=row.period_volume_ml,
        period_charged_minor=row.period_charged_minor,
        bought_at=row.bought_at,
        reverses_key=row.reverses_key,
    )


async def _around(
    conn: AsyncConnection, payments: Mapping[str, PaymentState], truths: Mapping[str, PaymentTruth]
) -> dict[str, Around]:
    told = [(payment, truths[payment.id]) for payment in payments.values() if payment.id in truths]
    if not told:
        return {}
    names = [(payment.id, name) for payment, truth in told for name in sorted(names_of(truth))]
    rows = (
        await conn.execute(
            LOAD_AROUND,
            {
                "ids": [payment.id for payment, _ in told],
                "rails": [payment.rail for payment, _ in told],
                "refs": [truth.rail_ref for _, truth in told],
                "name_of": [payment_id for payment_id, _ in names],
                "names": [name for _, name in names],
            },
        )
    ).all()
    waiting_ids = sorted({item_id for row in rows for item_id in row.waiting or ()})
    waiting = {}
    if waiting_ids:
        waiting = {row.id: HeldMoney(*row) for row in await conn.execute(LOCK_SUSPENSE, {"ids": waiting_ids})}
    return {
        row.id: Around(
            refunds=tuple(RefundRow(*refund) for refund in row.refunds or ()),
            elsewhere=row.elsewhere,
            known_as=row.known_as,
            waiting=tuple(waiting[item_id] for item_id in row.waiting or () if item_id in waiting),
        )
        for row in rows
    }


def names_of(truth: PaymentTruth) -> set[str]:
    """Every name that the rail's answer has for a payment."""
    return {name for name in (truth.rail_ref, *truth.aliases, truth.receipt_ref) if name is not None}


def _rows(changes: Sequence[Changes], opened: Mapping[str, Opening], now: datetime) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for change in changes:
        payment, poll = change.payment, change.poll
        before = rows.get(payment.id)
        opening = opened.get(payment.id)
        columns = _OPENED | _ORDERED if opening is not None else _SAVED
        row = {name: getattr(payment, name) for name in columns if name in _SLOTS}
        if opening is not None:
            row |= {
                "idempotency_key": opening.idempotency_key,
                "request_hash": opening.request_hash,
                "traceparent": opening.traceparent,
            }
        statuses = before["statuses"] if before else list(opening.statuses if opening is not None else ())
        row |= {"id": payment.id, "top_up_id": payment.top_up_id, "at": now, "statuses": [*statuses, *change.statuses]}
        if poll is not None:
            row |= {"polls": True, "after_s": poll.after_s, "dead": poll.dead, "error": poll.error}
        else:
            kept = ("polls", "after_s", "dead", "error")
            row |= {name: before[name] for name in kept} if before else dict.fromkeys(kept) | {"polls": False}
        rows[payment.id] = row
    return list(rows.values())


def _json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Clean JSON that others told us: the database's text holds no NUL and no half surrogates."""
    dumped = json.dumps(rows, default=_plain, ensure_ascii=False).replace("\\u0000", "\N{REPLACEMENT CHARACTER}")
    return dumped.encode("utf-8", "replace").decode()


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value.isoformat()


async def _save_purchases(work: UnitOfWork, changes: Sequence[Changes]) -> None:
    books = {change.meter.id: change.meter.volume for change in changes if change.meter.volume is not None}
    fresh = [one for book in books.values() if book.fresh for one in book.purchases[-book.fresh :]]
    if not fresh:
        return
    rows = [
        {
            "key": one.key,
            "meter_id": one.meter_id,
            "source_id": one.source_id,
            "day": one.day,
            "version_id": one.version_id,
            "volume_ml": one.volume_ml,
            "amount_minor": one.priced.total_minor,
            "period_volume_ml": one.period_volume_ml,
            "period_charged_minor": one.period_charged_minor,
            "accounts": dict(one.priced.accounts),
            "lines": _LINES.dump_python(list(one.priced.lines), mode="json"),
            "reverses_key": one.reverses_key,
            "bought_at": one.bought_at,
        }
        for one in fresh
    ]
    await work.conn.execute(ADD_PURCHASES, {"rows": _json(rows)})


async def _save_suspense(work: UnitOfWork, changes: Sequence[Changes], now: datetime) -> None:
    resolved = [item for change in changes for item in change.resolved]
    if resolved:
        values = {
            "ids": [item.id for item in resolved],
            "statuses": [item.status for item in resolved],
            "by": [item.resolved_by for item in resolved],
            "payments": [item.payment_id for item in resolved],
        }
        await work.conn.execute(RESOLVE, values | {"now": now})
    items = [item for change in changes for item in change.suspense]
    if items:
        values = {
            "ids": [item.id for item in items],
            "keys": [item.key for item in items],
            "rails": [item.rail for item in items],
            "refs": [item.truth.rail_ref for item in items],
            "currencies": [item.truth.currency for item in items],
            "amounts": [item.amount_minor for item in items],
            "reasons": [item.reason for item in items],
            "accounts": [item.account_reference or item.truth.account_reference for item in items],
            "payers": [item.truth.payer for item in items],
            "payments": [item.payment_id for item in items],
            "ats": [item.opened_at for item in items],
        }
        await work.conn.execute(OPEN_SUSPENSE, values)


async def _save_refunds(work: UnitOfWork, changes: Sequence[Changes], now: datetime) -> None:
    rows = {row.id: row for change in changes for row in change.refunds}
    if rows:
        values = {
            "ids": list(rows),
            "statuses": [row.status for row in rows.values()],
            "codes": [row.failure_code for row in rows.values()],
        }
        await work.conn.execute(SAVE_REFUNDS, values | {"now": now})


async def _keep_cards(work: UnitOfWork, changes: Sequence[Changes], now: datetime) -> None:
    for change in changes:
        if change.card is not None and change.payment.customer_id is not None:
            async with AsyncSession(work.conn, expire_on_commit=False) as session:
                await keep_card(
                    session,
                    customer_id=change.payment.customer_id,
                    rail=change.payment.rail,
                    card=change.card,
                    now=now,
                )
                await session.flush()
