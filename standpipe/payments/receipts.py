"""Receipts: what was paid and what it became, numbered without gaps per utility.

The lines come from the posting itself, so paid = sum of lines, always. The number is taken in the transaction that
writes the receipt: one that is rolled back takes none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.models import Account, AccountKind, Entry, LedgerTransaction
from standpipe.meters.models import Meter, WalletKind
from standpipe.payments.book_models import Receipt
from standpipe.payments.models import Payment, TopUp
from standpipe.payments.views import GUEST
from standpipe.payments.volume import purchase_key
from standpipe.platform.ids import new_id
from standpipe.tariffs.bought import lines_of as lines_bought
from standpipe.tariffs.bought import purchase_by_key
from standpipe.tariffs.periods import BillLine, LineKind
from standpipe.utilities.models import Utility

SALE, GIVEN_BACK = "SALE", "GIVEN_BACK"
_PAYERS = frozenset({AccountKind.CLEARING, AccountKind.FLOAT, AccountKind.VOUCHERS, AccountKind.SUSPENSE})
"""Accounts that money comes from, or goes back to."""
_LINE_OF = {
    AccountKind.WALLET: "CREDIT",
    AccountKind.RECEIVABLE: "DEBT",
    AccountKind.STANDING_DUE: "STANDING",
    AccountKind.EMERGENCY: "EMERGENCY",
    AccountKind.SERVICE_FEES: "FEE",
    AccountKind.REFUND_DUE: "REFUND",
    AccountKind.LOSSES: "DISPUTED",
}


Entries = Sequence[tuple[str, int]]
"""A posting's lines: the account's kind and the amount in minor units."""


ISSUE = text("""
    WITH sold AS (
        SELECT m.utility_id, t.currency FROM payments p JOIN top_ups t ON t.id = p.top_up_id
        JOIN meters m ON m.id = t.meter_id
        WHERE p.id = :payment_id AND NOT EXISTS (SELECT FROM receipts WHERE source_key = :source_key)
    ), counter AS (
        INSERT INTO receipt_counters AS c (utility_id, last_number) SELECT utility_id, 1 FROM sold
        ON CONFLICT (utility_id) DO UPDATE SET last_number = c.last_number + 1 RETURNING utility_id, last_number
    )
    INSERT INTO receipts (id, utility_id, number, payment_id, source_key, kind, currency, paid_minor, lines, issued_at)
    SELECT :id, s.utility_id, c.last_number, :payment_id, :source_key, :kind, s.currency, :paid_minor, :lines,
           :issued_at
    FROM sold s JOIN counter c USING (utility_id) RETURNING id""").bindparams(bindparam("lines", type_=JSONB))


@dataclass(frozen=True, slots=True)
class ReceiptView:
    """A receipt for its reader. A line has ``kind``, ``amount_minor``, and a tier of credit ``tier``, ``volume_ml``."""

    id: str
    number: int
    utility_name: str
    meter_id: str
    meter_serial: str
    top_up_id: str
    kind: str
    method_id: str
    provider_receipt: str | None
    currency: str
    paid_minor: int
    lines: tuple[dict[str, Any], ...]
    issued_at: datetime
    time_zone: str


def credit_of(entries: Entries) -> int:
    """Return what a posting put into the wallet, by its entries; below zero: took out."""
    return sum(amount for kind, amount in entries if kind == AccountKind.WALLET)


async def issue(
    session: AsyncSession,
    *,
    payment_id: str,
    posting_key: str,
    entries: Entries,
    bill: Sequence[BillLine],
    now: datetime,
    bought: bool = False,
    overdrawn_minor: int = 0,
) -> str | None:
    """Write the receipt of a posting, by its entries (``entries_of``); returns its id, or None where it has one.

    ``bill`` explains its credit, but for ``overdrawn_minor`` of it, which makes up for water that had run unpaid.
    ``bought``: of a VOLUME meter, whose credit is explained by what it has bought. The number is the utility's next,
    taken in the same statement: where there is no receipt, no number is gone.
    """
    paid_minor = -sum(amount for kind, amount in entries if kind in _PAYERS)
    if not entries or not paid_minor:
        return None
    if bought:
        purchase = await purchase_by_key(session, purchase_key(posting_key))
        bill = lines_bought(purchase) if purchase is not None else ()
        overdrawn_minor = 0  # What is not in this wallet any more has bought water; none has run unpaid.
    lines = lines_of(entries, bill, overdrawn_minor, bought=bought)
    values = {
        "id": new_id("rct"),
        "payment_id": payment_id,
        "source_key": posting_key,
        "kind": SALE if paid_minor > 0 else GIVEN_BACK,
        "paid_minor": paid_minor,
        "lines": lines,
        "issued_at": now,
    }
    receipt_id: str | None = await session.scalar(ISSUE, values)
    return receipt_id


async def holds_volume(session: AsyncSession, payment_id: str) -> bool:
    """Tell whether the meter that a payment is for holds volume."""
    found = await session.scalar(
        select(Meter.wallet_kind)
        .join(TopUp, TopUp.meter_id == Meter.id)
        .join(Payment, Payment.top_up_id == TopUp.id)
        .where(Payment.id == payment_id)
    )
    return bool(found == WalletKind.VOLUME)


def lines_of(
    entries: Sequence[tuple[str, int]], bill: Sequence[BillLine], overdrawn_minor: int = 0, *, bought: bool = False
) -> list[dict[str, Any]]:
    """A receipt's lines from a posting's entries: credit by tier and tax as far as ``bill`` explains it.

    ``bought``: the bill is a purchase, not an outlook. What it did not spend stays in the wallet (RESIDUE); below zero,
    it spent what was in there before.
    """
    if bought and bill and not any(kind == AccountKind.WALLET for kind, _ in entries):
        entries = [*entries, (AccountKind.WALLET, 0)]
    lines: list[dict[str, Any]] = []
    for kind, amount in sorted(entries, key=lambda entry: entry[0] != AccountKind.WALLET):
        if kind in _PAYERS:
            continue
        name = _LINE_OF.get(AccountKind(kind), "OTHER")
        if name != "CREDIT" or amount < 0 or not (amount or bill):
            lines.append({"kind": name, "amount_minor": amount})
            continue
        if overdrawn_minor:
            lines.append({"kind": "OVERDRAWN", "amount_minor": overdrawn_minor})
        lines.extend(_credit_line(item, bought=bought) for item in bill)
        residue_minor = amount - overdrawn_minor - sum(item.amount_minor for item in bill)
        if residue_minor:
            explained = bill or overdrawn_minor or bought
            lines.append({"kind": "RESIDUE" if explained else name, "amount_minor": residue_minor})
    return lines


def _credit_line(item: BillLine, *, bought: bool) -> dict[str, Any]:
    if item.kind in {LineKind.WATER, LineKind.ALLOWANCE}:
        tier = item.tier or 0
        line = {"kind": "CREDIT", "tier": tier, "volume_ml": item.quantity, "amount_minor": item.amount_minor}
        return line | {"bought": True} if bought else line
    kind = "TAX" if item.kind is LineKind.LEVY else "DISCOUNT"
    return {"kind": kind, "name": item.name, "amount_minor": item.amount_minor}


async def receipts_of(session: AsyncSession, top_up_ids: Sequence[str]) -> dict[str, list[ReceiptView]]:
    """The receipts of these top-ups, in the order of their numbers."""
    rows = await session.execute(
        select(Receipt, Utility.name, Meter, Payment, TopUp)
        .join(Payment, Payment.id == Receipt.payment_id)
        .join(TopUp, TopUp.id == Payment.top_up_id)
        .join(Meter, Meter.id == TopUp.meter_id)
        .join(Utility, Utility.id == Receipt.utility_id)
        .where(TopUp.id.in_(top_up_ids))
        .order_by(Receipt.number)
        .execution_options(populate_existing=True)
    )
    found: dict[str, list[ReceiptView]] = {top_up_id: [] for top_up_id in top_up_ids}
    for receipt, utility_name, meter, payment, top_up in rows:
        found[top_up.id].append(_view(receipt, utility_name, meter, payment, top_up))
    return found


async def receipt_by_id(session: AsyncSession, receipt_id: str) -> ReceiptView | None:
    """One receipt; whoever asks must be allowed to (a signed link, or the top-up's household)."""
    mine = select(Payment.top_up_id).join(Receipt, Receipt.payment_id == Payment.id).where(Receipt.id == receipt_id)
    top_up_id = await session.scalar(mine)
    if top_up_id is None:
        return None
    views = (await receipts_of(session, [top_up_id]))[top_up_id]
    return next(view for view in views if view.id == receipt_id)


def _view(receipt: Receipt, utility_name: str, meter: Meter, payment: Payment, top_up: TopUp) -> ReceiptView:
    return ReceiptView(
        id=receipt.id,
        number=receipt.number,
        utility_name=utility_name,
        meter_id=meter.id,
        meter_serial=meter.serial,
        top_up_id=top_up.id,
        kind=receipt.kind,
        method_id=top_up.method_id or payment.rail,
        # The household reads the same receipt, and is not told who paid.
        provider_receipt=None if top_up.origin == GUEST else payment.receipt_ref,
        currency=receipt.currency,
        paid_minor=receipt.paid_minor,
        lines=tuple(receipt.lines),
        issued_at=receipt.issued_at,
        time_zone=meter.time_zone,
    )


async def entries_of(session: AsyncSession, posting_key: str) -> Entries:
    """Return what a posting moved, by kind of account; nothing where there is no such posting."""
    rows = await session.execute(
        select(Account.kind, Entry.amount_minor)
        .join(Account, Account.id == Entry.account_id)
        .join(LedgerTransaction, LedgerTransaction.id == Entry.transaction_id)
        .where(LedgerTransaction.key == posting_key)
        .order_by(Entry.id)
    )
    return [(kind, amount) for kind, amount in rows]
