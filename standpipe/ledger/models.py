"""Accounts, transactions and entries. The database itself refuses what the rules forbid (migration 0001)."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base


class AccountKind(StrEnum):
    """Guarded kinds (posting.GUARDED_KINDS) have a balance row that is locked; open kinds only collect entries."""

    WALLET = "WALLET"
    """Of a meter: what its household has paid for and not used."""
    RECEIVABLE = "RECEIVABLE"
    """Of a meter, below zero: what it owes for credit whose payment was taken back, and arrears from before."""
    STANDING_DUE = "STANDING_DUE"
    """Of a meter, below zero: standing charges, with their taxes, that have fallen due and wait for a top-up."""
    EMERGENCY = "EMERGENCY"
    """Of a meter, below zero: emergency credit that was switched on and is not repaid."""
    FLOAT = "FLOAT"
    """Of a cash agent: what it paid in and has not vended yet."""
    CLEARING = "CLEARING"
    """Of a provider, below zero: what it holds for us."""
    BANK = "BANK"
    """Of a provider, below zero: what it has paid out to our bank."""
    REFUND_DUE = "REFUND_DUE"
    """Of a provider: taken out of wallets and on its way back to payers."""
    VOUCHERS = "VOUCHERS"
    """Of a voucher batch: sold and not redeemed."""
    REVENUE = "REVENUE"
    """Of a utility: water sold."""
    SERVICE_FEES = "SERVICE_FEES"
    """Of a utility: what customers paid for the way they paid."""
    LEVIES = "LEVIES"
    """Of a utility and a levy's code (``utl_…/vat``): collected for somebody else."""
    PROVIDER_FEES = "PROVIDER_FEES"
    """Of a provider, below zero: what it kept."""
    LOSSES = "LOSSES"
    """Of a provider, below zero: taken back twice, by a refund and a dispute, and ours to win back."""
    SUSPENSE = "SUSPENSE"
    """Of a provider: money that a person must place."""
    OPENING = "OPENING"


class Account(Base):
    """An account. ``owner_id`` is a meter for a wallet, a provider for clearing, a utility for revenue."""

    __tablename__ = "ledger_accounts"
    __table_args__ = (
        UniqueConstraint("kind", "owner_id", "currency"),
        UniqueConstraint("id", "currency"),
        CheckConstraint("guarded OR (balance_minor = 0 AND version = 0)", name="open_keeps_no_balance"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    owner_id: Mapped[str]
    currency: Mapped[str]
    guarded: Mapped[bool]
    floor_minor: Mapped[int] = mapped_column(server_default="0")
    balance_minor: Mapped[int] = mapped_column(server_default="0")
    version: Mapped[int] = mapped_column(server_default="0")


class LedgerTransaction(Base):
    """A set of entries that sums to zero per currency. ``key`` is a business key; posting it again does nothing."""

    __tablename__ = "ledger_transactions"

    id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    reverses_id: Mapped[str | None] = mapped_column(ForeignKey("ledger_transactions.id"), unique=True)
    occurred_at: Mapped[datetime]
    posted_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # Entries may join only in the database transaction that wrote this row: a posted transaction is closed.
    db_xid: Mapped[int] = mapped_column(BigInteger, server_default=text("(pg_current_xact_id()::text::bigint)"))


class Entry(Base):
    """One line. Positive raises the account. Guarded accounts number their lines and carry the balance after each."""

    __tablename__ = "ledger_entries"
    __table_args__ = (
        ForeignKeyConstraint(["account_id", "currency"], ["ledger_accounts.id", "ledger_accounts.currency"]),
        UniqueConstraint("account_id", "account_version"),
        Index("ix_ledger_entries_transaction_id", "transaction_id"),
        CheckConstraint("amount_minor <> 0", name="amount_not_zero"),
        CheckConstraint("(account_version IS NULL) = (balance_after_minor IS NULL)", name="guarded_is_whole"),
        CheckConstraint(
            "floor_minor IS NULL OR amount_minor > 0 OR balance_after_minor >= floor_minor",
            name="floor_holds",
        ),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    transaction_id: Mapped[str] = mapped_column(ForeignKey("ledger_transactions.id"))
    account_id: Mapped[str]
    currency: Mapped[str]
    amount_minor: Mapped[int]
    account_version: Mapped[int | None]
    balance_after_minor: Mapped[int | None]
    floor_minor: Mapped[int | None]
