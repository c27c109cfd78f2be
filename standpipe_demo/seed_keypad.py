"""The demo's meter that holds litres and has a keypad: its radio wakes seldom, so its credit often comes as a token."""

import json
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe import tariffs
from standpipe.billing.rounds import rate_now
from standpipe.meter_gateway.lwm2m.dtls.keys import provision
from standpipe.meters import keypads
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import Meter, MeterCredential, WalletKind
from standpipe.meters.reports import (
    CommandResult,
    MeterReport,
    StatusReport,
    ValveReason,
    ValveState,
)
from standpipe.payments.past import book_past
from standpipe.platform.ids import new_id
from standpipe.sts.keys import KeyTerms, derive, pan_of
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.models import SupplyTerms
from standpipe.tariffs.publishing import publish
from standpipe_demo.reports import take_report
from standpipe_demo.simulator.meter_keypad import described
from standpipe_demo.simulator.meter_model import MeterConfig

SERIAL, LABEL = "KW1900", "Rented room"
SUPPLY_GROUP = "123457"
PAID_MINOR = 20_000
WAKE_EVERY = timedelta(hours=6)
_FILE = Path(tariffs.__file__).parent / "town" / "prepaid.yaml"


async def keypad_house(
    session: AsyncSession,
    keys: KeyRing,
    vending_key: bytes,
    *,
    utility_id: str,
    household_id: str,
    customer_id: str,
    currency: str,
    zone: str,
    now: datetime,
) -> dict[str, Any]:
    """The meter, its first top-up and its word on it; what the simulator needs to be it."""
    file = read_tariff(_FILE.read_text(), _FILE.name)
    found = await publish(session, utility_id=utility_id, utility_currency=currency, file=file, today=now.date())
    installed = now.replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
    meter = Meter(
        id=new_id("mtr"), serial=SERIAL, label=LABEL, utility_id=utility_id, household_id=household_id,
        tariff_id=found.tariff_id, wallet_kind=WalletKind.VOLUME, currency=currency, time_zone=zone,
        installed_at=installed,
    )  # fmt: skip
    session.add(meter)
    await session.flush()
    prepaid_key = new_id("key").encode()
    session.add(
        MeterCredential(meter_id=meter.id, transport_identity=SERIAL, sealed_prepaid_key=keys.seal(prepaid_key))
    )
    day = installed.astimezone(ZoneInfo(zone)).date()
    session.add(
        SupplyTerms(meter_id=meter.id, from_day=day, tariff_id=found.tariff_id, household_id=household_id, groups=[])
    )
    await session.flush()
    terms = KeyTerms(pan=pan_of("600727", "1900"), supply_group=SUPPLY_GROUP)
    await keypads.enrol(session, operator="demo", serial=SERIAL, terms=terms, now=installed)
    await session.refresh(meter)
    await book_past(session, meter, customer_id=customer_id, pay_minor=PAID_MINOR, at=installed)
    await session.refresh(meter)
    await take_report(session, MeterReport(meter.id, now, (), _statement(meter, now), 90), now)
    await rate_now(await session.connection(), meter.id, now)
    dtls_key = (await provision(session, keys, SERIAL)).key
    config = MeterConfig(
        serial=SERIAL, endpoint=SERIAL, prepaid_key_hex=prepaid_key.hex(), currency="VOL", time_zone=zone, blocks=(),
        started_at=now.isoformat(), credit_accepted=meter.credit_granted,
        credit_remaining=meter.credit_granted, last_sequence=meter.last_sequence, report_counter=1,
        daily_litres=250, wake_every_s=int(WAKE_EVERY.total_seconds()), dtls_key_hex=dtls_key.hex(),
        keypad=described(derive(vending_key, terms)),
    )  # fmt: skip
    return asdict(config)


def vending_key_of(data_dir: Path) -> bytes | None:
    """The demo's vending key, which the stand-in for the issuer holds; None in a town of an earlier release."""
    path = data_dir / "secrets.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    return bytes.fromhex(kept["keypad_vending_key"]) if "keypad_vending_key" in kept else None


def _statement(meter: Meter, now: datetime) -> StatusReport:
    return StatusReport(
        report_counter=1,
        last_sequence=meter.last_sequence,
        result=CommandResult.DONE,
        register_ml=0,
        valve=ValveState.OPEN,
        valve_reason=ValveReason.NORMAL,
        stated_at=now,
        credit_accepted=meter.credit_granted,
        credit_remaining=meter.credit_granted,
        credit_typed=0,
    )
