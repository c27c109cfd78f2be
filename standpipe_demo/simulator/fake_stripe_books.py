"""Refunds, disputes, balance transactions and payouts of the Stripe stand-in."""

import secrets
import time
from typing import Any

from standpipe_demo.simulator.fake_stripe_wire import bad, metadata_of, missing

DISPUTE_FEE = 1500
PERCENT, FIXED = 29, 30
"""2.9 % + 30 of each charge."""


class Books:
    """Mixed into StripeState: what happens to money after it was paid."""

    refunds: dict[str, dict[str, Any]]
    disputes: dict[str, dict[str, Any]]
    transactions: dict[str, dict[str, Any]]
    payouts: dict[str, dict[str, Any]]
    holds_refunds: bool = False

    def announce(self, kind: str, subject: dict[str, Any]) -> None:
        """Tell the shop."""
        raise NotImplementedError

    def intent(self, intent_id: str) -> dict[str, Any]:
        """One intent."""
        raise NotImplementedError

    def book(self, kind: str, amount: int, fee: int, source: dict[str, Any]) -> dict[str, Any]:
        """A balance transaction."""
        row = {
            "id": f"txn_{secrets.token_hex(10)}",
            "object": "balance_transaction",
            "type": kind,
            "amount": amount,
            "fee": fee,
            "net": amount - fee,
            "currency": source.get("currency", "usd"),
            "created": int(time.time()),
            "source": source["id"],
            "source_object": {key: source.get(key) for key in ("id", "object", "payment_intent")},
            "payout": None,
        }
        self.transactions[row["id"]] = row
        return row

    def book_charge(self, charge: dict[str, Any]) -> None:
        """A charge on the statement, with Stripe's fee."""
        captured = charge["amount_captured"]
        self.book("charge", captured, captured * PERCENT // 1000 + FIXED, charge)

    def refund(self, form: dict[str, str], status: str | None = None) -> dict[str, Any]:
        """Give back part of a charge. Raises StripeRefusalError for more than there is."""
        intent = self.intent(form.get("payment_intent", ""))
        charge = intent["latest_charge"]
        left = 0 if charge is None else charge["amount_captured"] - self._claimed(intent)
        wanted = form.get("amount", str(left))
        amount = int(wanted) if wanted.isascii() and wanted.isdigit() else 0
        if not 0 < amount <= left:
            raise bad("Refund amount is greater than the unrefunded amount on the charge.", "charge_already_refunded")
        status = status or ("pending" if self.holds_refunds else "succeeded")
        refund = {
            "id": f"re_{secrets.token_hex(12)}",
            "object": "refund",
            "amount": amount,
            "currency": intent["currency"],
            "charge": charge["id"],
            "payment_intent": intent["id"],
            "metadata": metadata_of(form),
            "failure_reason": None,
            "status": status,
        }
        self.refunds[refund["id"]] = refund
        self._sum(intent)
        self.book("refund", -amount, 0, refund)
        self.announce("refund.created", refund)
        self.announce("charge.refunded", charge)
        return refund

    def move_refund(self, refund_id: str, action: str) -> dict[str, Any]:
        """The bank takes a refund, or sends it back, perhaps long after it had taken it."""
        refund = self.refunds.get(refund_id)
        if refund is None:
            raise missing("refund", refund_id)
        failed = action == "fail"
        refund.update(
            status="failed" if failed else "succeeded", failure_reason="expired_or_canceled_card" if failed else None
        )
        intent = self.intent(refund["payment_intent"])
        self._sum(intent)
        if failed:
            self.book("refund_failure", refund["amount"], 0, refund)
        self.announce("refund.failed" if failed else "refund.updated", refund)
        return refund

    def dispute_action(self, intent: dict[str, Any], action: str) -> dict[str, Any]:
        """The payer's bank: inquiry, chargeback, and how it ends: win, lose."""
        dispute = next((row for row in self.disputes.values() if row["payment_intent"] == intent["id"]), None)
        if dispute is None:
            dispute = self._new_dispute(intent, inquiry=action == "inquiry")
            self.announce("charge.dispute.created", dispute)
        if action == "chargeback" and not dispute["balance_transactions"]:
            dispute["status"] = "needs_response"
            row = self.book("adjustment", -dispute["amount"], DISPUTE_FEE, dispute)
            dispute["balance_transactions"].append(_shown(row))
            self.announce("charge.dispute.funds_withdrawn", dispute)
        elif action == "win":
            dispute["status"] = "won"
            if sum(row["amount"] for row in dispute["balance_transactions"]) < 0:
                row = self.book("adjustment", dispute["amount"], 0, dispute)
                dispute["balance_transactions"].append(_shown(row))
                self.announce("charge.dispute.funds_reinstated", dispute)
            self.announce("charge.dispute.closed", dispute)
        elif action == "lose":
            dispute["status"] = "lost"
            self.announce("charge.dispute.closed", dispute)
        return dispute

    def pay_out(self) -> dict[str, Any]:
        """Send all that has come in to the shop's bank."""
        rows = [row for row in self.transactions.values() if row["payout"] is None]
        total = sum(row["net"] for row in rows)
        currency = rows[0]["currency"] if rows else "usd"
        payout = {
            "id": f"po_{secrets.token_hex(10)}",
            "object": "payout",
            "amount": total,
            "currency": currency,
            "created": int(time.time()),
            "status": "paid",
        }
        self.payouts[payout["id"]] = payout
        own = self.book("payout", -total, 0, payout)
        for row in (*rows, own):
            row["payout"] = payout["id"]
        self.announce("payout.paid", payout)
        self.announce("payout.reconciliation_completed", payout)
        return payout

    def shown_transactions(self, asked: dict[str, str]) -> list[dict[str, Any]]:
        """Balance transactions as asked for, their source expanded where asked."""
        expanded = any(value == "data.source" for name, value in asked.items() if name.startswith("expand["))
        rows = [row for row in self.transactions.values() if asked.get("payout") in (None, row["payout"])]
        return [
            _shown(row) | ({"source": row["source_object"]} if expanded else {}) for row in rows if _within(row, asked)
        ]

    def _new_dispute(self, intent: dict[str, Any], *, inquiry: bool) -> dict[str, Any]:
        charge = intent["latest_charge"]
        if charge is None:
            raise bad("Nothing has been charged.")
        charge["disputed"] = True
        dispute = {
            "id": f"dp_{secrets.token_hex(10)}",
            "object": "dispute",
            "amount": charge["amount_captured"],
            "currency": intent["currency"],
            "charge": charge["id"],
            "payment_intent": intent["id"],
            "balance_transactions": [],
            "metadata": {},
            "status": "warning_needs_response" if inquiry else "needs_response",
        }
        self.disputes[dispute["id"]] = dispute
        return dispute

    def _claimed(self, intent: dict[str, Any]) -> int:
        mine = (row for row in self.refunds.values() if row["payment_intent"] == intent["id"])
        return sum(row["amount"] for row in mine if row["status"] not in {"failed", "canceled"})

    def _sum(self, intent: dict[str, Any]) -> None:
        # As Stripe does: a pending refund counts here already, a failed one no more.
        intent["latest_charge"]["amount_refunded"] = self._claimed(intent)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in {"source_object", "payout"}}


def _within(row: dict[str, Any], asked: dict[str, str]) -> bool:
    created: int = row["created"]
    return int(asked.get("created[gte]", 0)) <= created <= int(asked.get("created[lte]", 10**12))
