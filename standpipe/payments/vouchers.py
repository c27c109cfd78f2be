"""Vouchers: single-use codes that are sold in batches and redeemed by a customer for one of their meters."""

import hashlib
import secrets
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.households.models import HouseholdRole
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, post
from standpipe.meters.access import require_meter
from standpipe.payments.request_keys import hash_of, recall, remember
from standpipe.payments.vend_models import Voucher, VoucherBatch, VoucherTry
from standpipe.payments.vends import vend
from standpipe.platform.errors import (
    IdempotencyMismatchError,
    InvalidInputError,
    MeterBlockedError,
    NotFoundError,
    RateLimitedError,
)
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase
from standpipe.platform.units import MAX_MINOR
from standpipe.utilities.models import Utility
from standpipe.utilities.operators import record

ORIGIN = "VOUCHER"
MUTATION = "voucherRedeem"
CODE_LENGTH = 16
MAX_BATCH = 10_000
MAX_TRIES = 5
TRIES_WINDOW_S = 3600
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LOOKALIKES = str.maketrans("OIL", "011")


def read_code(text: str) -> str:
    """A code as a person typed it, made comparable: no spaces or dashes, upper case, O is 0 and I and L are 1."""
    return "".join(char for char in text.upper() if char.isalnum()).translate(_LOOKALIKES)


def show_code(code: str) -> str:
    """A code in groups of four."""
    return "-".join(code[at : at + 4] for at in range(0, len(code), 4))


def _hash(code: str) -> str:
    return hashlib.sha256(b"standpipe voucher " + code.encode()).hexdigest()


async def make_batch(
    session: AsyncSession,
    *,
    operator: str,
    utility_id: str,
    value_minor: int,
    amount: int,
    now: datetime,
    expires_at: datetime | None = None,
) -> tuple[str, list[str]]:
    """Make and book a batch that has been paid for; returns its id and the codes, which are shown once.

    Raises NotFoundError, InvalidInputError.
    """
    utility = await session.get(Utility, utility_id)
    if utility is None:
        raise NotFoundError("No such utility.")
    if not 0 < amount <= MAX_BATCH or not 0 < value_minor <= MAX_MINOR // MAX_BATCH:
        raise InvalidInputError(
            phrase("A batch has 1 to {most} vouchers of a value above zero.", most=MAX_BATCH), ("amount",)
        )
    batch_id = new_id("vcb")
    session.add(
        VoucherBatch(
            id=batch_id,
            utility_id=utility_id,
            currency=utility.currency,
            value_minor=value_minor,
            amount=amount,
            made_by=operator,
            created_at=now,
            expires_at=expires_at,
        )
    )
    await session.flush()
    codes = ["".join(secrets.choice(_ALPHABET) for _ in range(CODE_LENGTH)) for _ in range(amount)]
    session.add_all(Voucher(id=new_id("vch"), batch_id=batch_id, code_hash=_hash(code)) for code in codes)
    lines = [
        Line(AccountRef(AccountKind.BANK, "vouchers", utility.currency), -value_minor * amount),
        Line(AccountRef(AccountKind.VOUCHERS, batch_id, utility.currency), value_minor * amount),
    ]
    await post(session, key=f"vouchers:{batch_id}", kind="VOUCHERS_SOLD", lines=lines, occurred_at=now)
    detail = {"value_minor": value_minor, "amount": amount, "currency": utility.currency}
    await record(session, operator=operator, action="vouchers.make", subject_id=batch_id, detail=detail)
    return batch_id, [show_code(code) for code in codes]


async def redeem(
    session: AsyncSession, *, customer_id: str, key: str, meter_id: str, code: str, now: datetime
) -> tuple[str | None, bool]:
    """Redeem a code for a meter; returns the top-up's id and whether this key had done so before.

    (None, False): the code does not work. The caller must commit all the same, for the try is counted.
    Raises NotFoundError (meter), MeterBlockedError, RateLimitedError after MAX_TRIES codes that do not work,
    IdempotencyMismatchError.
    """
    # One after the other for each customer: many aliases of one request are many tries (G4), and two taps are one.
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"voucher:{customer_id}", 0))))
    request_hash = hash_of({"meter_id": meter_id, "code": _hash(read_code(code))})
    known = await recall(session, customer_id=customer_id, key=key, mutation=MUTATION, request_hash=request_hash)
    if known is not None:
        return str(known["top_up_id"]), True
    meter = await require_meter(session, customer_id=customer_id, meter_id=meter_id, role=HouseholdRole.PAYER)
    if meter.closed_at is not None:
        raise MeterBlockedError(phrase("This meter is out of service and takes no more credit."))
    await _check_tries(session, customer_id)
    found = await _lock_voucher(session, code)
    if found is None or not _works(*found, utility_id=meter.utility_id, currency=meter.currency, now=now):
        session.add(VoucherTry(id=new_id("vtr"), customer_id=customer_id))
        return None, False
    voucher, batch = found
    top_up_id = await vend(
        session,
        origin=ORIGIN,
        rail_ref=voucher.id,
        funder_id=batch.id,
        meter_id=meter.id,
        currency=batch.currency,
        amount_minor=batch.value_minor,
        customer_id=customer_id,
        key=key,
        request_hash=request_hash,
        now=now,
    )
    voucher.redeemed_at, voucher.top_up_id = now, top_up_id
    first = await remember(
        session,
        customer_id=customer_id,
        key=key,
        mutation=MUTATION,
        request_hash=request_hash,
        result={"top_up_id": top_up_id},
    )
    if first is not None:
        # Only another mutation can have taken the key since we looked.
        raise IdempotencyMismatchError
    return top_up_id, False


async def _lock_voucher(session: AsyncSession, code: str) -> tuple[Voucher, VoucherBatch] | None:
    voucher = await session.scalar(
        select(Voucher)
        .where(Voucher.code_hash == _hash(read_code(code)))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return None if voucher is None else (voucher, await session.get_one(VoucherBatch, voucher.batch_id))


def _works(voucher: Voucher, batch: VoucherBatch, *, utility_id: str, currency: str, now: datetime) -> bool:
    fresh = voucher.redeemed_at is None and voucher.blocked_at is None
    in_time = batch.expires_at is None or now < batch.expires_at
    return fresh and in_time and (batch.utility_id, batch.currency) == (utility_id, currency)


async def _check_tries(session: AsyncSession, customer_id: str) -> None:
    tries = await session.scalar(
        select(func.count())
        .select_from(VoucherTry)
        .where(VoucherTry.customer_id == customer_id, VoucherTry.at > func.now() - timedelta(seconds=TRIES_WINDOW_S))
    )
    if (tries or 0) >= MAX_TRIES:
        raise RateLimitedError(TRIES_WINDOW_S)
