"""The three-way report: what providers say, what the ledger says, what the meters say. All three must agree.

Sums are made by the database; what is listed one by one is only what differs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.payments.rails.port import Rail

MAX_LISTED = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that does not agree, and what it is about."""

    kind: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class RailRow:
    """One provider and currency; minor units. ``clearing_minor`` is what the ledger says it holds for us."""

    rail: str
    currency: str
    payments: int
    captured_minor: int
    refunded_minor: int
    disputed_minor: int
    suspense_minor: int
    settled_minor: int
    fees_minor: int
    paid_out_minor: int
    clearing_minor: int


@dataclass
class Report:
    """Sums per provider, the meters' side, and every difference."""

    rails: list[RailRow] = field(default_factory=list)
    meters: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    waiting: list[Difference] = field(default_factory=list)
    """Differences that are in order but need a person: suspense, refunds to approve, payments paid twice."""


_RAILS = """
WITH paid AS (
    SELECT rail, currency, count(*) FILTER (WHERE captured_minor > 0) AS payments,
           sum(captured_minor) AS captured, sum(refunded_minor) AS refunded, sum(disputed_minor) AS disputed
    FROM payments WHERE rail NOT IN ('agent', 'voucher') GROUP BY rail, currency),
booked AS (
    SELECT a.kind, a.owner_id, a.currency, sum(e.amount_minor) AS total
    FROM ledger_accounts a JOIN ledger_entries e ON e.account_id = a.id
    WHERE a.kind IN ('CLEARING', 'SUSPENSE', 'PROVIDER_FEES', 'BANK') GROUP BY a.kind, a.owner_id, a.currency),
settled AS (
    SELECT rail, currency, sum(gross_minor) AS gross FROM settlement_entries
    WHERE kind IN ('PAYMENT', 'REFUND', 'DISPUTE') GROUP BY rail, currency),
names AS (SELECT rail, currency FROM paid UNION SELECT rail, currency FROM settled
          UNION SELECT owner_id, currency FROM booked WHERE kind IN ('CLEARING', 'SUSPENSE'))
SELECT n.rail, n.currency, coalesce(p.payments, 0), coalesce(p.captured, 0), coalesce(p.refunded, 0),
       coalesce(p.disputed, 0), coalesce(s.gross, 0),
       coalesce((SELECT total FROM booked WHERE kind = 'SUSPENSE' AND owner_id = n.rail
                 AND currency = n.currency), 0),
       -coalesce((SELECT total FROM booked WHERE kind = 'PROVIDER_FEES' AND owner_id = n.rail
                  AND currency = n.currency), 0),
       -coalesce((SELECT total FROM booked WHERE kind = 'BANK' AND owner_id = n.rail AND currency = n.currency), 0),
       -coalesce((SELECT total FROM booked WHERE kind = 'CLEARING' AND owner_id = n.rail
                  AND currency = n.currency), 0)
FROM names n LEFT JOIN paid p USING (rail, currency) LEFT JOIN settled s USING (rail, currency)
WHERE n.rail NOT IN ('agent', 'voucher') ORDER BY n.rail, n.currency
"""

# What clearing must hold by the top-ups' own totals: captured that did not come out of suspense, plus what is or was
# in suspense, less what went back, less fees, less what was paid out.
_CLEARING = """
WITH flows AS (
    SELECT a.owner_id AS rail, a.currency, t.kind, sum(e.amount_minor) AS total
    FROM ledger_entries e JOIN ledger_accounts a ON a.id = e.account_id
    JOIN ledger_transactions t ON t.id = e.transaction_id
    WHERE a.kind = 'CLEARING' GROUP BY a.owner_id, a.currency, t.kind)
SELECT rail, currency, sum(total) FILTER (WHERE kind IN ('TOP_UP', 'TOP_UP_REVERSAL')) AS credited,
       sum(total) FILTER (WHERE kind = 'TAKEN_BACK') AS taken_back
FROM flows GROUP BY rail, currency
"""

_CHECKS: tuple[tuple[str, str], ...] = (
    ("ledger does not sum to zero", """
        SELECT currency, sum(amount_minor)::text FROM ledger_entries GROUP BY currency
        HAVING sum(amount_minor) <> 0"""),
    ("account is not the sum of its entries", """
        SELECT a.kind || ' ' || a.owner_id, a.balance_minor || ' is not ' || coalesce(sum(e.amount_minor), 0)
        FROM ledger_accounts a LEFT JOIN ledger_entries e ON e.account_id = a.id WHERE a.guarded
        GROUP BY a.id HAVING a.balance_minor <> coalesce(sum(e.amount_minor), 0)"""),
    ("meter's credit is not what the ledger granted", """
        SELECT m.serial, m.credit_granted || ' ' || m.unit || ' is not ' || coalesce(sum(g.amount - g.revoked), 0)
        FROM meters m JOIN credit_grants g ON g.meter_id = m.id GROUP BY m.id
        HAVING m.credit_granted <> coalesce(sum(g.amount - g.revoked), 0) OR bool_or(g.unit <> m.unit)"""),
    ("wallet's credit is not the meter's", """
        SELECT m.serial, 'ledger ' || w.total || ', meter ' || m.credit_granted FROM meters m JOIN (
            SELECT a.owner_id, sum(e.amount_minor) AS total FROM ledger_entries e
            JOIN ledger_accounts a ON a.id = e.account_id JOIN ledger_transactions t ON t.id = e.transaction_id
            WHERE a.kind = 'WALLET' AND t.kind NOT IN ('USAGE', 'USAGE_REVERSAL', 'OPENING') GROUP BY a.owner_id) w
            ON w.owner_id = m.id
        WHERE m.wallet_kind = 'MONEY' AND w.total <> m.credit_granted"""),
    ("meter's volume is not what was bought", """
        SELECT m.serial, m.credit_granted || ' ml, bought ' || coalesce(b.bought, 0) FROM meters m
        LEFT JOIN (SELECT meter_id, sum(volume_ml) AS bought FROM volume_purchases GROUP BY meter_id) b
               ON b.meter_id = m.id
        WHERE m.wallet_kind = 'VOLUME' AND m.credit_granted <> coalesce(b.bought, 0)"""),
    ("purchases are not what was booked", """
        SELECT coalesce(b.meter_id, l.meter_id), coalesce(b.total, 0) || ' is not ' || coalesce(l.total, 0)
        FROM (SELECT meter_id, sum(amount_minor) AS total FROM volume_purchases GROUP BY meter_id) b
        FULL JOIN (SELECT a.owner_id AS meter_id, -sum(e.amount_minor) AS total FROM ledger_entries e
                   JOIN ledger_accounts a ON a.id = e.account_id JOIN ledger_transactions t ON t.id = e.transaction_id
                   WHERE a.kind = 'WALLET' AND t.kind = 'PURCHASE' GROUP BY a.owner_id) l USING (meter_id)
        WHERE coalesce(b.total, 0) <> coalesce(l.total, 0)"""),
    ("meter says it holds more than it was granted", """
        SELECT m.serial, s.credit_accepted || ' of ' || m.credit_granted || ' ' || m.unit FROM meters m
        JOIN meter_states s ON s.meter_id = m.id WHERE s.credit_accepted > m.credit_granted"""),
    ("statement differs from the ledger", """
        SELECT rail || ' ' || external_id, kind || ' ' || gross_minor || ' ' || currency || ' for '
               || coalesce(payment_id, payment_ref, '?') FROM settlement_entries WHERE state = 'DIFFERENT'"""),
    ("payment given up unanswered", """
        SELECT id, rail || ': ' || coalesce(last_error, status) FROM payments
        WHERE dead_at IS NOT NULL AND captured_minor = 0 AND status IN ('CREATED', 'PENDING')"""),
    ("notice given up", """
        SELECT rail || ' ' || event_id, coalesce(last_error, '') FROM rail_events WHERE dead_at IS NOT NULL"""),
    ("refund given up unanswered", """
        SELECT id, status || ': ' || coalesce(last_error, '') FROM refunds WHERE dead_at IS NOT NULL
        AND status IN ('READY', 'SENT')"""),
)  # fmt: skip
_WAITING: tuple[tuple[str, str], ...] = (
    ("suspense", """
        SELECT id, amount_minor || ' ' || currency || ' at ' || rail || ': ' || reason FROM suspense_items
        WHERE status = 'OPEN'"""),
    ("refund to approve", """
        SELECT id, amount_minor || ' ' || currency || ' of ' || payment_id || ', asked by ' || requested_by FROM refunds
        WHERE status = 'REQUESTED'"""),
    ("one intention paid twice", """
        SELECT top_up_id, 'also by ' || id FROM payments WHERE id <> top_up_id"""),
    ("early fraud warning", """
        SELECT coalesce(rail_ref, event_id), rail || ': look at this payment before the bank takes it back'
        FROM rail_events WHERE kind LIKE '%early_fraud_warning%'"""),
    ("dispute open", """
        SELECT top_up_id, rail || ': ' || disputed_minor || ' ' || currency FROM payments
        WHERE dispute IN ('OPEN', 'INQUIRY')"""),
)  # fmt: skip
_MISSING = """
    SELECT t.id, t.rail || ': ' || t.captured_minor || ' ' || t.currency FROM payments t
    WHERE t.rail = ANY(:rails) AND t.captured_minor > 0 AND t.updated_at < :before
    AND NOT EXISTS (SELECT 1 FROM settlement_entries s WHERE s.payment_id = t.id AND s.kind = 'PAYMENT')"""
_METERS = """
    SELECT coalesce(sum(m.credit_granted) FILTER (WHERE m.unit <> 'VOL'), 0),
           coalesce(sum(least(s.credit_accepted, m.credit_granted)) FILTER (WHERE m.unit <> 'VOL'), 0),
           coalesce(sum(m.credit_granted) FILTER (WHERE m.unit = 'VOL'), 0),
           coalesce(sum(least(s.credit_accepted, m.credit_granted)) FILTER (WHERE m.unit = 'VOL'), 0)
    FROM meters m LEFT JOIN meter_states s ON s.meter_id = m.id"""


async def make_report(
    session: AsyncSession, rails: Mapping[str, Rail], now: datetime, *, missing_after: timedelta
) -> Report:
    """The report as of now. ``missing_after``: how long a payment may be absent from its provider's statement."""
    report = Report()
    for row in await session.execute(text(_RAILS)):
        report.rails.append(_rail_row(tuple(row)))
    report.differences += await _clearing_differences(session, report)
    for kind, query in _CHECKS:
        report.differences += await _listed(session, kind, query)
    with_statement = [name for name, rail in rails.items() if rail.capabilities.settlements]
    values = {"rails": with_statement, "before": now - missing_after}
    report.differences += await _listed(session, "payment is missing from the statement", _MISSING, values)
    for kind, query in _WAITING:
        report.waiting += await _listed(session, kind, query)
    granted, accepted, granted_ml, accepted_ml = (await session.execute(text(_METERS))).one()
    report.meters = {
        "granted_minor": int(granted),
        "delivered_minor": int(accepted),
        "on_its_way_minor": int(granted - accepted),
        "granted_ml": int(granted_ml),
        "delivered_ml": int(accepted_ml),
        "on_its_way_ml": int(granted_ml - accepted_ml),
    }
    return report


async def _listed(
    session: AsyncSession, kind: str, query: str, values: Mapping[str, Any] | None = None
) -> list[Difference]:
    rows = await session.execute(text(f"{query} LIMIT {MAX_LISTED}"), values or {})
    return [Difference(kind, str(subject), str(detail)) for subject, detail in rows]


async def _clearing_differences(session: AsyncSession, report: Report) -> list[Difference]:
    """The ledger's flows over clearing against the top-ups' own running totals."""
    booked = {(row[0], row[1]): (int(row[2] or 0), int(row[3] or 0)) for row in await session.execute(text(_CLEARING))}
    assigned = await session.execute(
        text(
            "SELECT rail, currency, sum(amount_minor) FROM suspense_items WHERE status = 'ASSIGNED' "
            "GROUP BY rail, currency"
        )
    )
    from_suspense = {(row[0], row[1]): int(row[2]) for row in assigned}
    found = []
    for row in report.rails:
        credited, back = booked.get((row.rail, row.currency), (0, 0))
        wanted = row.captured_minor - from_suspense.get((row.rail, row.currency), 0)
        if -credited != wanted:
            detail = f"top-ups say {wanted}, clearing says {-credited}"
            found.append(Difference("captured is not what was booked", f"{row.rail} {row.currency}", detail))
        if back != row.refunded_minor + row.disputed_minor:
            detail = f"top-ups say {row.refunded_minor + row.disputed_minor}, clearing says {back}"
            found.append(Difference("given back is not what was booked", f"{row.rail} {row.currency}", detail))
    return found


def _rail_row(row: tuple[Any, ...]) -> RailRow:
    rail, currency, *numbers = row
    payments, captured, refunded, disputed, settled, suspense, fees, paid_out, clearing = (int(n) for n in numbers)
    return RailRow(
        rail=rail,
        currency=currency,
        payments=payments,
        captured_minor=captured,
        refunded_minor=refunded,
        disputed_minor=disputed,
        suspense_minor=suspense,
        settled_minor=settled,
        fees_minor=fees,
        paid_out_minor=paid_out,
        clearing_minor=clearing,
    )
