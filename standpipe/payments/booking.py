"""Postings of a locked top-up: each books the difference to a running total, and is harmless when called twice.

Every function locks the meter before anything guarded (lock order: ledger/posting.py). What the meter owes changes
only under that lock.
"""

from datetime import datetime

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.models import Utility
from standpipe.ledger.dues import Dues, dues_of
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, post, wallet_balance_minor
from standpipe.meters.commands import lock_meter
from standpipe.meters.credit import free_to_retract_minor, grant, retract
from standpipe.meters.models import Meter, WalletKind
from standpipe.outbox.facts import MoneyTakenBack, TopUpPaid, publish
from standpipe.payments.models import TopUp
from standpipe.payments.purchases import buy_with_wallet, unbuy, unsent_minor
from standpipe.payments.quote_lock import day_quoted
from standpipe.payments.rails.port import PaymentTruth
from standpipe.payments.split import Owing, PaymentPosition, Split, TakeBack, as_agreed, split, take_back
from standpipe.platform import metrics
from standpipe.platform.database import after_commit
from standpipe.platform.errors import InvalidInputError

_log = structlog.get_logger(__name__)


def funding(top_up: TopUp) -> AccountRef:
    """The account that a top-up is paid from."""
    if top_up.origin == "AGENT":
        return AccountRef(AccountKind.FLOAT, top_up.funder_id or "", top_up.currency)
    if top_up.origin == "VOUCHER":
        return AccountRef(AccountKind.VOUCHERS, top_up.funder_id or "", top_up.currency)
    return AccountRef(AccountKind.CLEARING, top_up.rail, top_up.currency)


async def owing_of(session: AsyncSession, meter: Meter, now: datetime) -> Owing:
    """What a meter owes now, by its utility's rules."""
    dues = await dues_of(session, meter.id, now)
    share, cap = (
        await session.execute(
            select(Utility.debt_share_percent, Utility.debt_weekly_cap_minor).where(Utility.id == meter.utility_id)
        )
    ).one()
    return owing(dues, share_percent=share, weekly_cap_minor=cap, guaranteed_minor=meter.guaranteed_minor)


def owing(dues: Dues, *, share_percent: int, weekly_cap_minor: int | None, guaranteed_minor: int) -> Owing:
    """The ledger's dues under a utility's rules."""
    return Owing(
        emergency_minor=dues.emergency_minor,
        standing_minor=dues.standing_minor,
        debt_minor=dues.debt_minor,
        share_percent=share_percent,
        weekly_left_minor=None if weekly_cap_minor is None else max(weekly_cap_minor - dues.repaid_minor, 0),
        guaranteed_minor=guaranteed_minor,
    )


async def book_captured(
    session: AsyncSession, top_up: TopUp, captured_minor: int, now: datetime, *, source: AccountRef | None = None
) -> None:
    """Credit what has been captured beyond what is booked. ``source``: another account than the usual pays this step.

    Raises InsufficientFundsError where an agent's float is too small.
    """
    difference_minor = captured_minor - top_up.captured_minor
    if difference_minor < 0:
        _log.error("captured total fell", top_up_id=top_up.id, by_minor=-difference_minor)
    if difference_minor <= 0:
        return
    meter = await lock_meter(session, top_up.meter_id)
    owed = await owing_of(session, meter, now)
    quoted_on = None
    if top_up.agreed is not None and difference_minor == captured_minor == top_up.pay_minor:
        quoted_on = day_quoted(top_up, now)
        parts = as_agreed(captured_minor, top_up.agreed, owed)
    else:
        parts = split(difference_minor, fee_minor=top_up.fee_agreed_minor - top_up.fee_minor, owing=owed)
    if parts.credit_minor and meter.wallet_kind == WalletKind.MONEY:
        await grant(
            session,
            meter_id=top_up.meter_id,
            credit_key=f"{top_up.id}:captured:{captured_minor}",
            source_id=top_up.id,
            amount_minor=parts.credit_minor,
            now=now,
        )
    key = f"{top_up.rail}:{top_up.rail_ref}:captured:{captured_minor}"
    lines = captured_lines(top_up, parts, source or funding(top_up), meter.utility_id)
    await post(session, key=key, kind="TOP_UP", lines=lines, occurred_at=now)
    await buy_with_wallet(session, meter, source_id=top_up.id, posting_key=key, now=now, quoted_on=quoted_on)
    top_up.captured_minor = captured_minor
    top_up.fee_minor += parts.fee_minor
    top_up.emergency_minor += parts.emergency_minor
    top_up.standing_minor += parts.standing_minor
    top_up.debt_minor += parts.debt_minor
    await publish(session, TopUpPaid(top_up.id, top_up.meter_id, captured_minor, key))
    after_commit(session, metrics.PAYMENTS_SETTLED.labels(top_up.rail).inc)


def captured_lines(top_up: TopUp, parts: Split, source: AccountRef, utility_id: str) -> list[Line]:
    """How a captured payment is posted, part by part; none is zero."""
    currency = top_up.currency
    lines = [
        Line(source, -parts.paid_minor),
        Line(AccountRef(AccountKind.WALLET, top_up.meter_id, currency), parts.credit_minor),
        Line(AccountRef(AccountKind.EMERGENCY, top_up.meter_id, currency), parts.emergency_minor),
        Line(AccountRef(AccountKind.STANDING_DUE, top_up.meter_id, currency), parts.standing_minor),
        Line(AccountRef(AccountKind.RECEIVABLE, top_up.meter_id, currency), parts.debt_minor),
        Line(AccountRef(AccountKind.SERVICE_FEES, utility_id, currency), parts.fee_minor),
    ]
    return [line for line in lines if line.amount_minor]


async def book_reversals(session: AsyncSession, top_up: TopUp, truth: PaymentTruth, now: datetime) -> None:
    """Book what refunds and disputes took, or gave back again, beyond what is booked (P35 to P40)."""
    if (truth.refunded_minor, truth.disputed_minor) == (top_up.refunded_minor, top_up.disputed_minor):
        return
    meter = await lock_meter(session, top_up.meter_id)
    dues = await dues_of(session, meter.id, now)
    wallet_minor = await wallet_balance_minor(session, meter.id, top_up.currency)
    position = PaymentPosition(
        captured_minor=top_up.captured_minor,
        refunded_minor=top_up.refunded_minor,
        disputed_minor=top_up.disputed_minor,
        taken_back_minor=top_up.taken_back_minor,
        held_minor=top_up.held_minor,
        owed_minor=top_up.owed_minor,
        revocable_minor=await _revocable_minor(session, meter, top_up.id, wallet_minor),
        debt_minor=dues.debt_minor,
    )
    plan = take_back(position, truth.refunded_minor, truth.disputed_minor)
    unbought = False
    if plan.revoked_minor:
        unbought = await _revoke(session, meter, top_up.id, plan.revoked_minor, now)
    # A total that falls again is no new fact to the key, so the version makes each step its own.
    key = f"{top_up.rail}:{top_up.rail_ref}:back:{truth.refunded_minor}:{truth.disputed_minor}:v{top_up.version}"
    if plan.returned_minor:
        await _grant_again(session, meter, top_up, plan.returned_minor, key, now)
    lines = _taken_back_lines(top_up, plan)
    if lines:
        await post(session, key=key, kind="TAKEN_BACK", lines=lines, occurred_at=now, states_fact=True)
    if plan.returned_minor or unbought:
        await _buy_again(session, meter, top_up, key, now)
    _note_taken_back(top_up, truth, plan)
    await publish(session, MoneyTakenBack(top_up.id, top_up.meter_id, key))


def _taken_back_lines(top_up: TopUp, plan: TakeBack) -> list[Line]:
    currency, meter_id, rail = top_up.currency, top_up.meter_id, top_up.rail
    lines = [
        Line(funding(top_up), plan.moved_minor),
        Line(AccountRef(AccountKind.REFUND_DUE, rail, currency), -plan.held_minor),
        Line(AccountRef(AccountKind.WALLET, meter_id, currency), plan.returned_minor - plan.revoked_minor),
        Line(AccountRef(AccountKind.RECEIVABLE, meter_id, currency), -plan.owed_minor),
        Line(AccountRef(AccountKind.LOSSES, rail, currency), -plan.lost_minor),
    ]
    return [line for line in lines if line.amount_minor]


def _note_taken_back(top_up: TopUp, truth: PaymentTruth, plan: TakeBack) -> None:
    theirs_minor = plan.moved_minor - plan.lost_minor
    if theirs_minor < 0:
        top_up.owed_minor -= min(-theirs_minor, top_up.owed_minor)
    else:
        top_up.owed_minor += plan.owed_minor
    top_up.taken_back_minor += theirs_minor
    top_up.held_minor -= plan.held_minor
    top_up.refunded_minor, top_up.disputed_minor = truth.refunded_minor, truth.disputed_minor


async def _revocable_minor(session: AsyncSession, meter: Meter, top_up_id: str, wallet_minor: int) -> int:
    """What of a top-up's credit can still be had from a locked meter's wallet.

    Of a VOLUME meter: what made no whole unit, and what was paid for water that never left us. The rest is sold.
    """
    if meter.wallet_kind == WalletKind.VOLUME:
        return wallet_minor + await unsent_minor(session, meter, top_up_id)
    return min(await free_to_retract_minor(session, meter, top_up_id), wallet_minor)


async def _revoke(session: AsyncSession, meter: Meter, top_up_id: str, amount_minor: int, now: datetime) -> bool:
    """Make this much of a top-up's credit free to leave the wallet; whether a purchase was reversed for it."""
    if meter.wallet_kind == WalletKind.VOLUME:
        return await unbuy(session, meter, source_id=top_up_id, amount_minor=amount_minor, now=now)
    await retract(session, meter, source_id=top_up_id, amount_minor=amount_minor)
    return False


async def _buy_again(session: AsyncSession, meter: Meter, top_up: TopUp, key: str, now: datetime) -> None:
    """What is left of reversed purchases, or was given back, buys again. Nothing is left: nothing is given."""
    if await wallet_balance_minor(session, meter.id, top_up.currency) > 0:
        await buy_with_wallet(
            session, meter, source_id=top_up.id, posting_key=key, now=now, quoted_on=day_quoted(top_up, now)
        )


async def _grant_again(
    session: AsyncSession, meter: Meter, top_up: TopUp, amount_minor: int, key: str, now: datetime
) -> None:
    if meter.wallet_kind == WalletKind.VOLUME:
        return
    await grant(
        session,
        meter_id=top_up.meter_id,
        credit_key=f"{top_up.id}:again:{key}",
        source_id=top_up.id,
        amount_minor=amount_minor,
        now=now,
    )


async def hold_for_refund(session: AsyncSession, top_up: TopUp, amount_minor: int, key: str, now: datetime) -> None:
    """Take undelivered credit off the meter's total and out of the wallet, for a refund (``key``: the refund's id).

    Raises InvalidInputError where the meter holds it (or, volume, may hold it), InsufficientFundsError where its water
    has run already.
    """
    meter = await lock_meter(session, top_up.meter_id)
    unbought = await _revoke(session, meter, top_up.id, amount_minor, now)
    lines = [
        Line(AccountRef(AccountKind.WALLET, top_up.meter_id, top_up.currency), -amount_minor),
        Line(AccountRef(AccountKind.REFUND_DUE, top_up.rail, top_up.currency), amount_minor),
    ]
    if not await post(session, key=f"refund:{key}:held", kind="REFUND_HELD", lines=lines, occurred_at=now):
        raise InvalidInputError("This refund is under way already.")
    if unbought:
        await _buy_again(session, meter, top_up, f"refund:{key}:held", now)
    top_up.held_minor += amount_minor
    top_up.version += 1


async def release_hold(session: AsyncSession, top_up: TopUp, amount_minor: int, key: str, now: datetime) -> None:
    """A refund came to nothing: what was held is credit again. Less, where a dispute has eaten of it meanwhile."""
    amount_minor = min(amount_minor, top_up.held_minor)
    if not amount_minor:
        return
    meter = await lock_meter(session, top_up.meter_id)
    await _grant_again(session, meter, top_up, amount_minor, f"refund:{key}", now)
    lines = [
        Line(AccountRef(AccountKind.REFUND_DUE, top_up.rail, top_up.currency), -amount_minor),
        Line(AccountRef(AccountKind.WALLET, top_up.meter_id, top_up.currency), amount_minor),
    ]
    await post(session, key=f"refund:{key}:released", kind="REFUND_RELEASED", lines=lines, occurred_at=now)
    await _buy_again(session, meter, top_up, f"refund:{key}:released", now)
    top_up.held_minor -= amount_minor
    top_up.version += 1


async def book_dispute_fee(session: AsyncSession, top_up: TopUp, fee_minor: int, now: datetime) -> None:
    """Book what disputes of this payment have cost us, once, whether the dispute or the statement says it first."""
    difference_minor = fee_minor - top_up.dispute_fee_minor
    if difference_minor <= 0:
        return
    lines = [
        Line(funding(top_up), difference_minor),
        Line(AccountRef(AccountKind.PROVIDER_FEES, top_up.rail, top_up.currency), -difference_minor),
    ]
    key = f"{top_up.rail}:{top_up.rail_ref}:dispute-fee:{fee_minor}"
    await post(session, key=key, kind="PROVIDER_FEE", lines=lines, occurred_at=now)
    top_up.dispute_fee_minor = fee_minor
