"""A small town for the demo: made through the product's own rooms, so that every balance in it explains itself.

For each meter, ninety days are lived through in chunks: a top-up is settled as if the sandbox had told of it, then
the chunk's hourly readings are taken in and charged.
"""

import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe import tariffs
from standpipe.billing.charges import contract_for, period_volume_ml
from standpipe.billing.rounds import rate_now
from standpipe.households.models import Customer, Household, HouseholdRole, Membership
from standpipe.ledger.dues import dues_of
from standpipe.ledger.posting import wallet_balance_minor
from standpipe.meter_gateway.dlms import meters as dlms
from standpipe.meter_gateway.lorawan.tables import DeviceClass, LoraDevice
from standpipe.meter_gateway.lwm2m.dtls.keys import provision
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import Meter, MeterCredential, WalletKind
from standpipe.meters.reports import (
    CommandResult,
    MeterReport,
    RegisterReading,
    StatusReport,
    ValveReason,
    ValveState,
)
from standpipe.notifications.devices import DeviceOrder, register
from standpipe.outbox.models import OutboxFact
from standpipe.payments.past import book_past
from standpipe.platform.database import Sessions
from standpipe.platform.ids import new_id
from standpipe.platform.units import period_of, service_day
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.models import SupplyTerms
from standpipe.tariffs.pricing import PriceTable, cost_minor
from standpipe.tariffs.publishing import publish
from standpipe.utilities.models import Utility
from standpipe_demo.reports import take_report
from standpipe_demo.seed_keypad import keypad_house
from standpipe_demo.simulator.fake_chirpstack import APPLICATION_ID
from standpipe_demo.simulator.meter_model import MeterConfig
from standpipe_demo.simulator.water_use import hour_ml

CURRENCY = "KES"
ZONE = "Africa/Nairobi"
DAYS = 90
CHUNKS = 6
OFFLINE_FOR = timedelta(days=4)
DEMO_PHONE = "+254700000001"
DEMO_DEVICE = "demo-phone"
_STEP_MINOR = 1_000
_DEV_EUIS = 0x70B3D57ED0061000
_DLMS_HOUSES = {7: "dlms-prepaid-v1", 9: "dlms-token-v1"}
"""Houses whose meters dial in over TCP."""
_TARIFFS = ("domestic", "lifeline", "kiosk")
_FOLDER = Path(tariffs.__file__).parent / "town"


@dataclass(frozen=True, slots=True)
class Plan:
    """A meter to be: its household's number, its tariff's, its habits, and how many days its credit is to last."""

    household: int
    label: str
    tariff: int
    daily_litres: int
    days_left: float
    online: bool = True
    report_format: str = "senml-cbor"
    lora_class: str = ""
    """Of a meter on LoRaWAN."""
    dlms_profile: str | None = None


_LORA = {5: DeviceClass.A, 6: DeviceClass.C}
"""Houses on LoRaWAN, by number."""

PLANS = (
    Plan(0, "Home", 0, 420, 24),
    Plan(0, "Shop", 0, 380, 2.3),
    Plan(0, "Farm house", 1, 300, 12, online=False),
    *(
        Plan(
            number,
            f"House {number}",
            number % 3,
            180 + 45 * (number % 7),
            4 + 3.5 * number,
            report_format="tlv" if number % 4 == 0 else "senml-cbor",
            lora_class=_LORA.get(number, ""),
            dlms_profile=_DLMS_HOUSES.get(number),
        )
        for number in range(1, 12)
    ),
)


async def is_seeded(sessions: Sessions) -> bool:
    """Tell whether the town is there."""
    async with sessions() as session:
        return await session.scalar(select(Customer.id).where(Customer.phone == DEMO_PHONE)) is not None


async def seed(
    sessions: Sessions,
    keys: KeyRing,
    now: datetime,
    *,
    vending_key: bytes,
    progress: Callable[[str], None],
    keep: Callable[[list[dict[str, Any]]], None],
) -> None:
    """Build the town in one transaction. ``now`` is where its clock begins; history ends at the last full hour.

    ``keep`` gets the simulated meters' manifest before the commit, so that there is never a town without its meters.
    """
    manifest = []
    async with sessions.begin() as session:
        utility_id, tariff_ids = await _utility(session, now)
        households = [await _household(session, utility_id, number, now) for number in range(12)]
        for number, plan in enumerate(PLANS):
            progress(f"{plan.label}: {DAYS} days of hourly readings")
            household_id, customer_id = households[plan.household]
            meter, key = _meter(plan, number, utility_id, tariff_ids[plan.tariff], household_id, now)
            session.add(meter)
            await session.flush()
            session.add(
                MeterCredential(meter_id=meter.id, transport_identity=meter.serial, sealed_prepaid_key=keys.seal(key))
            )
            if plan.lora_class:
                await session.flush()
                session.add(_radio(meter.id, number, plan))
            session.add(
                SupplyTerms(
                    meter_id=meter.id,
                    from_day=meter.installed_at.astimezone(ZoneInfo(ZONE)).date(),
                    tariff_id=meter.tariff_id,
                    household_id=household_id,
                    groups=["lifeline"] if _TARIFFS[plan.tariff] == "lifeline" else [],
                )
            )
            await session.flush()
            config = await _live(session, meter, plan, key, customer_id, now)
            if plan.dlms_profile is not None:
                config = replace(config, dlms=await _enrol(session, keys, meter, plan.dlms_profile))
            elif not plan.lora_class:
                config = replace(config, dtls_key_hex=(await provision(session, keys, meter.serial)).key.hex())
            manifest.append(asdict(config))
        household_id, customer_id = households[0]
        manifest.append(
            await keypad_house(
                *(session, keys, vending_key),
                utility_id=utility_id,
                household_id=household_id,
                customer_id=customer_id,
                currency=CURRENCY,
                zone=ZONE,
                now=_hour(now),
            )
        )
        # What happened in the past is no news: nobody is to be pushed about it today.
        await session.execute(update(OutboxFact).values(due_at=None))
        keep(manifest)


async def _enrol(session: AsyncSession, ring: KeyRing, meter: Meter, profile: str) -> dict[str, str]:
    """Let a meter dial in; what its factory would have given it."""
    title, name = secrets.token_bytes(8), f"SPW{meter.serial}"
    identity = {"profile": profile, "name": name, "system_title": title.hex()}
    if profile == "dlms-token-v1":
        secret = dlms.DlmsKeys(password=secrets.token_bytes(8))
        identity |= {"mechanism": "LLS", "password": secret.password.hex()}
    else:
        secret = dlms.DlmsKeys(secrets.token_bytes(16), secrets.token_bytes(16))
        identity |= {
            "mechanism": "HLS_GMAC",
            "encryption_key": secret.encryption.hex(),
            "authentication_key": secret.authentication.hex(),
        }
    await dlms.enrol(
        session, ring, meter_id=meter.id, profile=profile, system_title=title, device_name=name, keys=secret
    )
    return identity


async def demo_customer_id(sessions: Sessions) -> str:
    """The customer whom the demo's token signs in."""
    async with sessions() as session:
        return (await session.scalars(select(Customer.id).where(Customer.phone == DEMO_PHONE))).one()


async def demo_meter_id(sessions: Sessions) -> str:
    """The healthy meter of the demo's customer."""
    async with sessions() as session:
        return (await session.scalars(select(Meter.id).where(Meter.label == PLANS[0].label))).one()


async def _utility(session: AsyncSession, now: datetime) -> tuple[str, list[str]]:
    utility = Utility(
        id=new_id("utl"),
        name="Kijani Water",
        currency=CURRENCY,
        time_zone=ZONE,
        guaranteed_ml=500_000,
        emergency_credit_minor=10_000,
        emergency_threshold_minor=5_000,
        friendly={"from": "18:00", "to": "08:00", "weekends": True, "holidays": "KE"},
    )
    session.add(utility)
    await session.flush()
    tariff_ids = []
    for code in _TARIFFS:
        file = read_tariff((_FOLDER / f"{code}.yaml").read_text(), f"{code}.yaml")
        found = await publish(session, utility_id=utility.id, utility_currency=CURRENCY, file=file, today=now.date())
        tariff_ids.append(found.tariff_id)
    return utility.id, tariff_ids


async def _household(session: AsyncSession, utility_id: str, number: int, now: datetime) -> tuple[str, str]:
    customer = Customer(id=new_id("cus"), phone=f"+2547000000{number + 1:02}", name=f"Household {number}")
    household = Household(id=new_id("hh"), utility_id=utility_id, name=f"Household {number}")
    session.add_all([customer, household])
    await session.flush()
    session.add(Membership(household_id=household.id, customer_id=customer.id, role=HouseholdRole.OWNER))
    if number == 0:
        order = DeviceOrder("demo-installation", "ANDROID", DEMO_DEVICE, None, "en-KE", ZONE, "1.0")
        await register(session, customer_id=customer.id, order=order, now=now)
    return household.id, customer.id


def _meter(
    plan: Plan, number: int, utility_id: str, tariff_id: str, household_id: str, now: datetime
) -> tuple[Meter, bytes]:
    serial = f"KW{1001 + number}"
    meter = Meter(
        id=new_id("mtr"),
        serial=serial,
        label=plan.label,
        utility_id=utility_id,
        household_id=household_id,
        tariff_id=tariff_id,
        wallet_kind=WalletKind.MONEY,
        currency=CURRENCY,
        time_zone=ZONE,
        initial_register_ml=40_000_000 + 1_000_000 * number,
        installed_at=_hour(now) - timedelta(days=DAYS),
        credit_granted=0,
        last_sequence=0,
    )
    return meter, new_id("key").encode()


def _radio(meter_id: str, number: int, plan: Plan) -> LoraDevice:
    return LoraDevice(
        meter_id=meter_id,
        dev_eui=_dev_eui(number),
        device_class=plan.lora_class,
        region="EU868",
        application_id=APPLICATION_ID,
    )


def _dev_eui(number: int) -> str:
    return f"{_DEV_EUIS + number:016x}"


async def _live(
    session: AsyncSession, meter: Meter, plan: Plan, key: bytes, customer_id: str, now: datetime
) -> MeterConfig:
    """Ninety days of one meter's life."""
    table = (await contract_for(session, meter)).segment_on(_hour(now).date()).table
    end = _hour(now) - (OFFLINE_FOR if not plan.online else timedelta(0))
    readings = _readings(meter, plan, end)
    costs = _costs(meter, readings, table)
    edges = [round(len(readings) * part / CHUNKS) for part in range(CHUNKS + 1)]
    for start, stop in pairwise(edges):
        chunk = readings[start:stop]
        wanted_minor = costs[stop] - costs[start]
        if stop == len(readings):
            wanted_minor += int(plan.days_left * (costs[-1] - costs[-1 - 24 * 14]) / 14)
        balance_minor = await wallet_balance_minor(session, meter.id, CURRENCY)
        due_minor = (await dues_of(session, meter.id, chunk[0].read_at)).standing_minor
        await _top_up(session, meter, customer_id, wanted_minor + due_minor - balance_minor, chunk[0].read_at)
        await take_report(session, MeterReport(meter.id, chunk[-1].read_at, tuple(chunk)), chunk[-1].read_at)
        await rate_now(await session.connection(), meter.id, chunk[-1].read_at)
    await session.refresh(meter)
    config = await _hand_over(session, meter, plan, key, readings[-1])
    if plan.lora_class:
        return replace(config, dev_eui=_dev_eui(PLANS.index(plan)), device_class=plan.lora_class)
    return config


def _readings(meter: Meter, plan: Plan, end: datetime) -> list[RegisterReading]:
    zone, register_ml = ZoneInfo(ZONE), meter.initial_register_ml
    readings = []
    hour = meter.installed_at
    while hour < end:
        register_ml += hour_ml(meter.serial, hour, zone, plan.daily_litres)
        hour += timedelta(hours=1)
        readings.append(RegisterReading(hour, register_ml))
    return readings


def _costs(meter: Meter, readings: list[RegisterReading], table: PriceTable) -> list[int]:
    """Price all use up to each reading, so that each chunk's top-up can cover it."""
    zone = ZoneInfo(ZONE)
    costs, before_minor, period_start_ml = [0], 0, meter.initial_register_ml
    last_ml, period = meter.initial_register_ml, None
    for reading in readings:
        month = period_of(service_day(reading.read_at, zone))[0]
        if month != period:
            before_minor, period_start_ml, period = costs[-1], last_ml, month
        costs.append(before_minor + cost_minor(table, reading.register_ml - period_start_ml))
        last_ml = reading.register_ml
    return costs


async def _top_up(session: AsyncSession, meter: Meter, customer_id: str, wanted_minor: int, at: datetime) -> None:
    pay_minor = max(-(-wanted_minor // _STEP_MINOR) * _STEP_MINOR, _STEP_MINOR)
    await book_past(session, meter, customer_id=customer_id, pay_minor=pay_minor, at=at)


async def _hand_over(session: AsyncSession, meter: Meter, plan: Plan, key: bytes, last: RegisterReading) -> MeterConfig:
    """Let the meter state all that, and put its inside where the ledger is."""
    balance_minor = await wallet_balance_minor(session, meter.id, CURRENCY)
    statement = StatusReport(
        report_counter=1,
        last_sequence=meter.last_sequence,
        result=CommandResult.DONE,
        credit_accepted=meter.credit_granted,
        credit_remaining=balance_minor,
        register_ml=last.register_ml,
        valve=ValveState.OPEN,
        valve_reason=ValveReason.NORMAL,
        stated_at=last.read_at,
    )
    await take_report(session, MeterReport(meter.id, last.read_at, (), statement, 91), last.read_at)
    await rate_now(await session.connection(), meter.id, last.read_at)
    day = service_day(last.read_at, ZoneInfo(ZONE))
    table = (await contract_for(session, meter)).segment_on(day).table
    return MeterConfig(
        serial=meter.serial,
        endpoint=meter.serial,
        prepaid_key_hex=key.hex(),
        currency=CURRENCY,
        time_zone=ZONE,
        blocks=tuple((block.up_to_ml, str(block.price_minor_per_kl)) for block in table.blocks),
        started_at=last.read_at.isoformat(),
        register_ml=last.register_ml,
        period_used_ml=await period_volume_ml(session, meter.id, day),
        credit_accepted=meter.credit_granted,
        credit_remaining=balance_minor,
        last_sequence=statement.last_sequence,
        report_counter=1,
        daily_litres=plan.daily_litres,
        online=plan.online,
        lose_answer_rate=0.02,
        lose_datagram_rate=0.02,
        report_format=plan.report_format,
    )


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)
