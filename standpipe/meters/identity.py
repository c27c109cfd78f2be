"""Identity of a meter by its transport's word for it; never by anything in a payload."""

from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.keys import KeyRing
from standpipe.meters.models import Meter, MeterCredential, WalletKind
from standpipe.platform.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class MeterIdentity:
    """Identity of a meter, as the gateway needs it to speak with one."""

    meter_id: str
    serial: str
    currency: str
    prepaid_key: bytes = field(repr=False)
    wallet_kind: WalletKind = WalletKind.MONEY


async def by_transport_identity(session: AsyncSession, keys: KeyRing, identity: str) -> MeterIdentity:
    """The meter that a transport credential names. Raises NotFoundError."""
    return await _identity(session, keys, MeterCredential.transport_identity == identity)


async def by_meter_id(session: AsyncSession, keys: KeyRing, meter_id: str) -> MeterIdentity:
    """Return the identity of a meter that we call. Raises NotFoundError."""
    return await _identity(session, keys, Meter.id == meter_id)


async def _identity(session: AsyncSession, keys: KeyRing, condition: ColumnElement[bool]) -> MeterIdentity:
    row = (
        await session.execute(
            select(Meter, MeterCredential).join(MeterCredential, MeterCredential.meter_id == Meter.id).where(condition)
        )
    ).one_or_none()
    if row is None:
        raise NotFoundError("No meter has this identity.")
    meter, credential = row
    return MeterIdentity(
        meter_id=meter.id,
        serial=meter.serial,
        currency=meter.currency,
        prepaid_key=keys.open(credential.sealed_prepaid_key),
        wallet_kind=WalletKind(meter.wallet_kind),
    )
