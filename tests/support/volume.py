"""A household whose meter holds water: its tariff prices purchases, in whole units of 100 litres."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from standpipe.meters.models import Meter
from standpipe.payments.refunds import approve_refund, request_refund
from standpipe.platform.settings import Settings
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.publishing import publish
from tests.support.database import free_port
from tests.support.radio import Field, make_meter
from tests.support.town import Home, Town, make_home, make_settings

UNIT_ML = 100_000
PURCHASE_TARIFF = """
tariff: purchase
name: Bought ahead
currency: KES
basis: purchase
effective-from: 2020-01-01
proration: none
unit-litres: 100
blocks:
  - {up-to-kl: 2, price: 50}
  - {price: 100}
levies:
  - {code: vat, name: VAT, percent: 16}
"""
"""A unit costs 5.80 in the first block and 11.60 in the second."""


async def purchase_tariff(town: Town, text: str = PURCHASE_TARIFF) -> str:
    """A tariff of the town's utility that prices purchases; its id."""
    async with town.sessions.begin() as session:
        found = await publish(
            session,
            utility_id=town.utility_id,
            utility_currency="KES",
            file=read_tariff(text),
            today=town.today(),
        )
    return found.tariff_id


async def volume_town(town: Town, text: str = PURCHASE_TARIFF) -> Town:
    """The town, looked at by a customer whose meter holds water."""
    home = await make_home(
        town.sessions,
        town.settings,
        town.utility_id,
        await purchase_tariff(town, text),
        installed_at=town.now() - timedelta(days=40),
        zone="Africa/Nairobi",
        wallet_kind="VOLUME",
    )
    return replace(town, home=home)


async def meter_of(town: Town) -> Meter:
    async with town.sessions() as session:
        return await session.get_one(Meter, town.home.meter_id)


async def refunded(town: Town, top_up_id: str, amount_minor: int) -> str:
    """Asked for by one operator, approved by another; the refund's state."""
    async with town.sessions.begin() as session:
        refund_id = await request_refund(
            session,
            town.rails,
            operator="ann",
            payment_id=top_up_id,
            amount_minor=amount_minor,
            reason="mistake",
            request_key=f"r{amount_minor}",
            now=town.now(),
        )
    async with town.sessions.begin() as session:
        return str(await approve_refund(session, operator="bob", refund_id=refund_id, now=town.now()))


@asynccontextmanager
async def on_the_air(town: Town, database_url: str, folder: Path, **more: Any) -> AsyncIterator[Field]:
    """A gateway over the town's database, and the radio of its meter."""
    settings: Settings = make_settings(
        coap_port=free_port(), coap_plain_udp=True, coap_ack_timeout_s=0.15, coap_max_retransmit=1
    )
    home: Home = town.home
    meter = make_meter(settings, home, folder, **({"currency": "VOL", "blocks": ()} | more))
    field = Field(town.sessions, settings, database_url, home, meter, folder)
    await field.start()
    try:
        yield field
    finally:
        await field.stop()
