"""A meter's past, stored in batches. The ledger's triggers check it as they check everybody's."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert as insert_or
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.models import PeriodCharge, StandingCharged
from standpipe.ledger.models import Account, LedgerTransaction
from standpipe.ledger.posting import GUARDED_KINDS, AccountRef
from standpipe.meters.due import MeterDue
from standpipe.meters.models import CommandKind, CommandStatus, CreditGrant, Meter, MeterCommand, MeterState
from standpipe.payments.models import Payment, TopUp, TopUpEvent
from standpipe.platform.base import Base
from standpipe.platform.ids import new_id
from standpipe_demo.synthetic.past import Past

_STORE_ENTRIES = text("""
    INSERT INTO ledger_entries (transaction_id, account_id, currency, amount_minor, account_version,
                                balance_after_minor, floor_minor)
    SELECT * FROM unnest(CAST(:transaction_id AS text[]), CAST(:account_id AS text[]), CAST(:currency AS text[]),
                         CAST(:amount_minor AS bigint[]), CAST(:account_version AS bigint[]),
                         CAST(:balance_after_minor AS bigint[]), CAST(:floor_minor AS bigint[]))""")


async def keep(session: AsyncSession, meter: Meter, past: Past, now: datetime) -> None:
    """Store a past whose readings and roll-ups are there. The meter has stated all of it, and waits for nothing."""
    await _post(session, past)
    await _many(session, PeriodCharge, [_values(row) for row in past.charges])
    await _many(session, StandingCharged, [_values(row) for row in past.standing])
    await _many(session, TopUp, [_values(top_up) for top_up, _ in past.top_ups])
    await _many(session, Payment, [_values(payment) | {"due_at": None} for _, payment in past.top_ups])
    events = [(row, status) for row, payment in past.top_ups for status in ("CREATED", payment.status)]
    await _many(
        session, TopUpEvent, [{"top_up_id": row.id, "status": status, "at": row.created_at} for row, status in events]
    )
    await _grant(session, meter, past.top_ups, now)
    await session.flush()
    await session.execute(update(MeterDue).where(MeterDue.meter_id == meter.id).values(accrued_through=past.through))
    credit_minor = sum(amount for ref, amount in past.balances.items() if (ref.kind, ref.owner_id) == _wallet(meter))
    session.add(
        MeterState(
            meter_id=meter.id,
            last_seen_at=now,
            battery_percent=90,
            report_counter=1,
            last_sequence=meter.last_sequence,
            credit_accepted=meter.credit_granted,
            credit_remaining=credit_minor,
            stated_at=now,
            valve="OPEN",
            valve_reason="NORMAL",
            valve_changed_at=meter.installed_at,
        )
    )
    await session.flush()


def _wallet(meter: Meter) -> tuple[str, str]:
    return "WALLET", meter.id


async def _post(session: AsyncSession, past: Past) -> None:
    accounts = await _accounts(session, past.balances)
    transactions: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    running: dict[AccountRef, tuple[int, int]] = {}
    for posting in past.postings:
        values = {"id": new_id("ltx"), "key": posting.key, "kind": posting.kind, "occurred_at": posting.occurred_at}
        transactions.append(values)
        for line in posting.lines:
            guarded = line.account.kind in GUARDED_KINDS
            version, balance_minor = running.get(line.account, (0, 0))
            if guarded:
                version, balance_minor = version + 1, balance_minor + line.amount_minor
                running[line.account] = version, balance_minor
            entries.append(
                {
                    "transaction_id": values["id"],
                    "account_id": accounts[line.account],
                    "currency": line.account.currency,
                    "amount_minor": line.amount_minor,
                    "account_version": version if guarded else None,
                    "balance_after_minor": balance_minor if guarded else None,
                    "floor_minor": 0 if guarded and not posting.states_fact else None,
                }
            )
    await _many(session, LedgerTransaction, transactions)
    for ref, (version, balance_minor) in running.items():
        await session.execute(
            update(Account)
            .where(Account.id == accounts[ref])
            .values(version=version, balance_minor=balance_minor)
            .execution_options(synchronize_session=False)
        )
    # In one statement: at its end each transaction is in balance, and each account where its last entry says.
    if entries:
        await session.execute(_STORE_ENTRIES, {name: [entry[name] for entry in entries] for name in entries[0]})


async def _accounts(session: AsyncSession, balances: Mapping[AccountRef, int]) -> dict[AccountRef, str]:
    """Ids of these accounts, which are opened where they are not. In one order, so that two meters take turns."""
    rows = [
        {
            "id": new_id("acc"),
            "kind": ref.kind,
            "owner_id": ref.owner_id,
            "currency": ref.currency,
            "guarded": ref.kind in GUARDED_KINDS,
        }
        for ref in sorted(balances, key=lambda ref: (ref.kind, ref.owner_id))
    ]
    opened = insert_or(Account).on_conflict_do_nothing(index_elements=["kind", "owner_id", "currency"])
    await session.execute(opened, rows)
    names = tuple_(Account.kind, Account.owner_id, Account.currency)
    found = await session.execute(
        select(Account.kind, Account.owner_id, Account.currency, Account.id).where(
            names.in_([(ref.kind, ref.owner_id, ref.currency) for ref in balances])
        )
    )
    known = {(kind, owner_id, currency): account_id for kind, owner_id, currency, account_id in found}
    return {ref: known[ref.kind, ref.owner_id, ref.currency] for ref in balances}


async def _grant(session: AsyncSession, meter: Meter, top_ups: list[tuple[TopUp, Payment]], now: datetime) -> None:
    """Each top-up's step of the credit total, and the command that told of it; the last one was carried out."""
    grants: list[dict[str, Any]] = []
    commands: list[dict[str, Any]] = []
    for top_up, payment in top_ups:
        amount_minor = payment.captured_minor - payment.standing_minor
        if not amount_minor:
            continue
        meter.credit_granted += amount_minor
        meter.last_sequence += 1
        grants.append(
            {
                "credit_key": f"{top_up.id}:captured:{payment.captured_minor}",
                "meter_id": meter.id,
                "source_id": top_up.id,
                "unit": meter.currency,
                "amount": amount_minor,
                "total_after": meter.credit_granted,
                "granted_at": top_up.created_at,
                "sent_at": now,
                "confirmed_at": now,
            }
        )
        commands.append(
            {
                "id": new_id("cmd"),
                "meter_id": meter.id,
                "sequence": meter.last_sequence,
                "kind": CommandKind.CREDIT,
                "value": meter.credit_granted,
                "status": CommandStatus.SUPERSEDED,
                "confirmed_at": None,
            }
        )
    if commands:
        commands[-1] |= {"status": CommandStatus.CONFIRMED, "confirmed_at": now}
    await _many(session, CreditGrant, grants)
    await _many(session, MeterCommand, commands)


async def _many(session: AsyncSession, model: type[Base], rows: list[dict[str, Any]]) -> None:
    if rows:
        await session.execute(insert(model), rows)


def _values(row: Base) -> dict[str, Any]:
    """Return what was set on a row that is not in any session."""
    return {name: value for name, value in row.__dict__.items() if not name.startswith("_")}
