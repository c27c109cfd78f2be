"""Guests: whoever knows a meter's number may pay for its water, without an account.

They are told what a payer needs, and nothing of the household but a masked name: not what it owes, holds or uses. So a
guest is never told the credit that a payment became (what is missing from it would be the debt). Numbers cannot be
walked: each look and each start counts for the address that asks.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from ipaddress import IPv6Address, ip_address, ip_network

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine.limits import Limit, count_try, private_key
from standpipe.households.models import Household
from standpipe.meters.access import find_by_account
from standpipe.meters.models import Meter
from standpipe.payments.models import TopUp
from standpipe.payments.purchases import fits_tariff
from standpipe.payments.rails.port import PaymentMethod, Rail
from standpipe.payments.rails.registry import check_amount, fee_rule, methods_in
from standpipe.payments.request_keys import hash_of
from standpipe.payments.split import fee_for
from standpipe.payments.top_ups import create_at_provider, is_disputed, store_order
from standpipe.payments.views import GUEST
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import IdempotencyMismatchError, InvalidInputError, MeterBlockedError, NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase
from standpipe.platform.units import is_storable

MAX_NUMBER = 64
LOOKS = (Limit(30, 600), Limit(500, 86_400))
"""Per address, looks and starts together: many phones share one address of a mobile network."""
STARTS = (Limit(15, 600), Limit(300, 86_400))
"""Per address."""
METER_STARTS = (Limit(10, 3_600), Limit(30, 86_400))
PHONE_STARTS = (Limit(3, 600), Limit(10, 86_400))
"""Per number that is to ring: nobody's phone shall ring all day for a stranger's game."""
MASK = "•••"
_KEY = re.compile(r"[A-Za-z0-9_-]{22,128}")
_HEX = re.compile(r"[0-9a-fA-F]+")
_HEX_DIGITS = 32
_DISTINCT = 8
_NO_METER = phrase("No meter has this number. Please check it, digit by digit.")
_CLOSED = phrase("This meter takes no money by this way.")


@dataclass(frozen=True, slots=True)
class GuestMeter:
    """A meter for a stranger who wants to pay. ``name`` is masked, and None where the meter takes no money."""

    number: str
    name: str | None
    currency: str
    takes_money: bool
    methods: tuple[PaymentMethod, ...]


@dataclass(frozen=True, slots=True)
class GuestOrder:
    """A guest's order. ``phone`` (E.164) is kept only where the method rings it."""

    number: str
    pay_minor: int
    currency: str
    method_id: str
    phone: str | None = None
    return_url: str | None = None


def guest_key(secret: str, top_up_id: str) -> str:
    """Sign the key by which a guest, and whoever they give it to, looks at one top-up. It is good for that alone."""
    return hmac.new(secret.encode(), f"guest-top-up:{top_up_id}".encode(), hashlib.sha256).hexdigest()


def key_opens(secret: str, top_up_id: str, key: str) -> bool:
    """Tell whether ``key`` is this top-up's."""
    return hmac.compare_digest(key.encode("utf-8", "surrogatepass"), guest_key(secret, top_up_id).encode())


def masked_name(name: str, label: str) -> str:
    """The first letters of the first and the last word; the mask says nothing of lengths, nor of words between.

    A meter's label stands in for a name that has no letter, so that a home without people looks like any other.
    """
    for text in (name, label):
        initials = [letter for word in text.split() if (letter := next(filter(str.isalpha, word), None)) is not None]
        if initials:
            shown = [initials[0], initials[-1]] if len(initials) > 1 else initials
            return " ".join(letter.upper() + MASK for letter in shown)
    return MASK


def check_guest_key(key: str) -> None:
    """Raises InvalidInputError for a key that could be guessed: whoever knows it and the order gets the guest's key.

    128 bits and more: 32 hexadecimal digits (a UUID), or 22 of the web's base64.
    """
    bare = key.replace("-", "")
    weak = _HEX.fullmatch(bare) is not None and len(bare) < _HEX_DIGITS
    if _KEY.fullmatch(key) is None or weak or len(set(bare)) < _DISTINCT:
        raise InvalidInputError(
            phrase("The key must be random: a UUID, or 22 characters of base64url."), ("idempotencyKey",)
        )


async def look(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    *,
    number: str,
    address: str | None,
    secret: str,
    now: datetime,
) -> GuestMeter:
    """The meter that a payer means. Raises NotFoundError, RateLimitedError."""
    async with sessions.begin() as session:
        await count_try(session, kind="guest.look", key=_address_key(address, secret), limits=LOOKS)
    async with sessions() as session:
        meter = await _find(session, number)
        methods = await _ways(session, rails, meter, now)
        if not methods:
            return GuestMeter(meter.serial, None, meter.currency, takes_money=False, methods=())
        household = await session.get(Household, meter.household_id) if meter.household_id else None
    name = masked_name(household.name if household else "", meter.label)
    return GuestMeter(meter.serial, name, meter.currency, takes_money=True, methods=tuple(methods))


async def start(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    clock: Clock,
    *,
    key: str,
    order: GuestOrder,
    address: str | None,
    secret: str,
) -> tuple[str, bool]:
    """Begin a top-up for whoever asks; returns its id and whether the key was used before with the same order.

    As ``starting.start``: the row is committed before the provider is called. Raises NotFoundError, InvalidInputError,
    AmountOutOfRangeError, MeterBlockedError, IdempotencyMismatchError, RateLimitedError.
    """
    check_guest_key(key)
    caller = _address_key(address, secret)
    async with sessions.begin() as session:
        # Committed by itself: a try that fails has been one, or numbers could be walked by failing.
        await count_try(session, kind="guest.look", key=caller, limits=LOOKS)
        await count_try(session, kind="guest.start", key=caller, limits=STARTS)
    async with sessions.begin() as session:
        # Two requests with one key must not both find that there is no such top-up yet.
        await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"guest:{key}", 0))))
        known = await session.scalar(select(TopUp).where(TopUp.origin == GUEST, TopUp.idempotency_key == key))
        request_hash = _hash(order, secret)
        if known is not None:
            if known.request_hash != request_hash:
                raise IdempotencyMismatchError
            return known.id, True
        top_up_id = await _store(session, rails, clock.now(), key, order, request_hash, secret)
    await create_at_provider(sessions, rails, clock, top_up_id)
    return top_up_id, False


async def is_guests(session: AsyncSession, top_up_id: str) -> bool:
    """Tell whether there is such a top-up, begun by a guest."""
    return await session.scalar(select(TopUp.id).where(TopUp.id == top_up_id, TopUp.origin == GUEST)) is not None


async def _store(
    session: AsyncSession,
    rails: Mapping[str, Rail],
    now: datetime,
    key: str,
    order: GuestOrder,
    request_hash: str,
    secret: str,
) -> str:
    meter = await _find(session, order.number)
    rail, method = await _check(session, rails, meter, order, now)
    await count_try(session, kind="guest.meter", key=meter.id, limits=METER_STARTS)
    phone = order.phone if method.phone_required else None
    if phone is not None:
        await count_try(session, kind="guest.phone", key=private_key(phone, secret), limits=PHONE_STARTS)
    top_up = TopUp(
        id=new_id("top"),
        origin=GUEST,
        meter_id=meter.id,
        pay_minor=order.pay_minor,
        currency=order.currency,
        method_id=order.method_id,
        fee_agreed_minor=fee_for(fee_rule(rails, order.method_id), order.pay_minor),
        phone=phone,
        return_url=order.return_url,
        idempotency_key=key,
        request_hash=request_hash,
        created_at=now,
    )
    await store_order(session, rail, top_up)
    return top_up.id


async def _find(session: AsyncSession, number: str) -> Meter:
    sound = len(number) <= MAX_NUMBER and is_storable(number)
    meter = await find_by_account(session, number) if sound else None
    if meter is None:
        raise NotFoundError(_NO_METER)
    return meter


async def _ways(
    session: AsyncSession, rails: Mapping[str, Rail], meter: Meter, now: datetime
) -> Sequence[PaymentMethod]:
    """The ways to pay for a meter. One that a dispute has frozen is left out and not explained: it is not theirs."""
    if meter.closed_at is not None or not await fits_tariff(session, meter, now):
        return []
    offered = list(methods_in(rails, meter.currency))
    frozen = {name for name in {one.name for one, _ in offered} if await is_disputed(session, meter.id, name)}
    return [method for rail, method in offered if rail.name not in frozen]


async def _check(
    session: AsyncSession, rails: Mapping[str, Rail], meter: Meter, order: GuestOrder, now: datetime
) -> tuple[Rail, PaymentMethod]:
    open_ids = {method.id for method in await _ways(session, rails, meter, now)}
    if not open_ids:
        raise MeterBlockedError(_CLOSED)
    if order.currency != meter.currency:
        raise InvalidInputError(phrase("This meter takes {currency}.", currency=meter.currency), ("pay", "currency"))
    found = [pair for pair in methods_in(rails, meter.currency) if pair[1].id == order.method_id]
    if not found or order.method_id not in open_ids:
        raise InvalidInputError(phrase("This way to pay is not offered for this meter."), ("methodId",))
    rail, method = found[0]
    check_amount(method, order.pay_minor, order.currency, ("pay", "amount"))
    if method.phone_required and order.phone is None:
        raise InvalidInputError(phrase("Say whose phone is to ring."), ("phone",))
    return rail, method


def _hash(order: GuestOrder, secret: str) -> str:
    """Of what is ordered; keyed, for it is made from a phone number that could be found out by trying all."""
    return private_key(hash_of(asdict(order)), secret)


def _address_key(address: str | None, secret: str) -> str:
    """Key the tries of an address. An IPv6 line has more addresses than there are meters: its network counts."""
    if address is None:
        return private_key("unknown", secret)
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        found = found.ipv4_mapped or ip_network((found, 64), strict=False).network_address
    return private_key(str(found), secret)
