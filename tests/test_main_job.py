"""The main job, through the front doors only: HTTP, WebSocket, signed webhooks, CoAP over DTLS, Google's wire format.

Server, worker and gateway are processes of their own; the second test kills them with -9 on the way.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
from cryptography.fernet import Fernet
from sqlalchemy import func, select
from websockets.asyncio.client import connect

from standpipe.households.models import Customer, Household, Membership
from standpipe.ledger.models import Account, AccountKind, Entry
from standpipe.ledger.posting import AccountRef, Line, post
from standpipe.meter_gateway.lwm2m.dtls.keys import provision
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import CreditGrant, Meter, MeterCommand, MeterCredential
from standpipe.payments.models import RailEvent
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.ids import new_id
from standpipe.platform.serving import serve
from standpipe.tariffs.models import Tariff, TariffVersion
from standpipe.utilities.models import Utility
from standpipe_demo.simulator import fake_phone, fake_stripe
from standpipe_demo.simulator.meter_device import SimulatedMeter
from standpipe_demo.simulator.meter_model import MeterConfig
from tests.support.database import free_port
from tests.support.roles import Roles, running, until_answers
from tests.support.town import until

PHONE = "+254712345678"
OPENING_MINOR = 40_000
PAY_MINOR = 150_000
WEBHOOK_SECRET = "whsec_test_of_the_main_job"
API_KEY = "sk_test_main_job"
DTLS_KEY = b"DTLS, main job\x01\x02"
BLOCKS: list[dict[str, Any]] = [
    {"up_to_ml": 2_000_000, "price_minor_per_kl": "5000"},
    {"up_to_ml": None, "price_minor_per_kl": "9500"},
]
TOP_UP = "id status terminal timeline { status at }"
DELIVERY = ("PAID", "SENDING_TO_METER", "ON_METER")
"""Statuses of a top-up whose payment came in, in order."""


@dataclass
class Town:
    """All that a test needs to be a customer, a card holder and a meter."""

    roles: Roles
    http: httpx.AsyncClient
    api: str
    stripe_url: str
    phone_url: str
    sessions: Sessions
    meter: SimulatedMeter
    meter_id: str
    token: str = ""

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        body = {"query": query, "variables": variables}
        answer = (await self.http.post(f"{self.api}/graphql", json=body, headers=headers)).json()
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    async def messages(self, channel: str) -> list[dict[str, Any]]:
        answer = (await self.http.get(f"{self.phone_url}/messages")).json()
        return [message for message in answer["messages"] if message["channel"] == channel]

    async def sign_in(self) -> None:
        start = "mutation($p: PhoneNumber!) { signInStart(input: {phone: $p}) { sent userErrors { message } } }"
        assert (await self.ask(start, p=PHONE))["signInStart"] == {"sent": True, "userErrors": []}
        code = (await self.messages("sms"))[-1]["body"].split()[-1].rstrip(".")
        finish = (
            "mutation($p: PhoneNumber!, $c: String!) { signInFinish(input: {phone: $p, code: $c}) "
            "{ token userErrors { message } } }"
        )
        self.token = (await self.ask(finish, p=PHONE, c=code))["signInFinish"]["token"]

    async def register_device(self) -> None:
        register = (
            'mutation { deviceRegister(input: {installationId: "i1", platform: ANDROID, push: {fcmFid: "fid-1"}, '
            'appVersion: "1", language: "en", timeZone: "Africa/Nairobi"}) { device { id } userErrors { message } } }'
        )
        assert (await self.ask(register))["deviceRegister"]["userErrors"] == []

    async def start_top_up(self) -> tuple[str, str]:
        """Returns the top-up's id and the PaymentIntent's, taken from the client secret as an app would."""
        start = (
            'mutation($k: ID!, $m: ID!) { topUpStart(input: {idempotencyKey: $k, meterId: $m, methodId: "stripe", '
            'pay: {amount: "1500.00", currency: "KES"}}) { topUp { id status nextAction { instructions '
            "... on StripePaymentSheet { clientSecret publishableKey } } } userErrors { code message } } }"
        )
        payload = (await self.ask(start, k=str(uuid.uuid4()), m=self.meter_id))["topUpStart"]
        assert payload["userErrors"] == []
        assert payload["topUp"]["status"] == "AWAITING_CUSTOMER"
        secret = payload["topUp"]["nextAction"]["clientSecret"]
        return payload["topUp"]["id"], secret.split("_secret_")[0]

    async def webhook(self, event: dict[str, Any]) -> int:
        """Deliver an event signed with the real SDK's scheme; returns the status."""
        body = json.dumps(event)
        header = stripe.WebhookSignature.generate_signature_header(body, WEBHOOK_SECRET)
        response = await self.http.post(
            f"{self.api}/webhooks/stripe", content=body, headers={"Stripe-Signature": header}
        )
        return response.status_code

    async def top_up(self, top_up_id: str) -> dict[str, Any]:
        query = "query($i: ID!) { node(id: $i) { ... on TopUp { " + TOP_UP + " } } }"
        view: dict[str, Any] = (await self.ask(query, i=top_up_id))["node"]
        return view

    async def until_status(self, top_up_id: str, status: str, *, timeout_s: float = 20) -> dict[str, Any]:
        """Wait until a top-up has come as far as a status; a meter that listens may have carried it further already."""
        far = DELIVERY[DELIVERY.index(status) :] if status in DELIVERY else (status,)

        async def there() -> dict[str, Any] | None:
            view = await self.top_up(top_up_id)
            return view if view["status"] in far else None

        return await until(there, timeout_s=timeout_s)


async def seed(sessions: Sessions, keys: KeyRing, started_at: datetime, key: bytes) -> str:
    """A household with one meter, which holds OPENING_MINOR and so does its wallet."""
    async with sessions.begin() as session:
        utility = Utility(id=new_id("utl"), name="U", currency="KES", time_zone="Africa/Nairobi")
        session.add(utility)
        await session.flush()
        tariff = Tariff(
            id=new_id("trf"), utility_id=utility.id, code="d", name="Domestic", currency="KES", basis="CONSUMPTION"
        )
        customer = Customer(id=new_id("cus"), phone=PHONE)
        household = Household(id=new_id("hh"), utility_id=utility.id, name="H")
        session.add_all([tariff, customer, household])
        await session.flush()
        session.add_all(
            [
                TariffVersion(id=new_id("trv"), tariff_id=tariff.id, effective_from=date(2020, 1, 1), blocks=BLOCKS),
                Membership(household_id=household.id, customer_id=customer.id, role="OWNER"),
            ]
        )
        meter = Meter(
            id=new_id("mtr"),
            serial="E2E1",
            label="Home",
            utility_id=utility.id,
            household_id=household.id,
            tariff_id=tariff.id,
            wallet_kind="MONEY",
            currency="KES",
            time_zone="Africa/Nairobi",
            installed_at=started_at,
            credit_granted=OPENING_MINOR,
        )
        session.add(meter)
        await session.flush()
        session.add(MeterCredential(meter_id=meter.id, transport_identity="E2E1", sealed_prepaid_key=keys.seal(key)))
        await session.flush()
        await provision(session, keys, "E2E1", key=DTLS_KEY)
        lines = [
            Line(AccountRef(AccountKind.OPENING, utility.id, "KES"), -OPENING_MINOR),
            Line(AccountRef(AccountKind.WALLET, meter.id, "KES"), OPENING_MINOR),
        ]
        await post(session, key="opening", kind="OPENING", lines=lines, occurred_at=started_at)
    return meter.id


def meter_config(key: bytes, started_at: datetime) -> MeterConfig:
    return MeterConfig(
        serial="E2E1",
        endpoint="E2E1",
        prepaid_key_hex=key.hex(),
        currency="KES",
        time_zone="Africa/Nairobi",
        blocks=tuple((block["up_to_ml"], block["price_minor_per_kl"]) for block in BLOCKS),
        started_at=started_at.isoformat(),
        dtls_key_hex=DTLS_KEY.hex(),
        credit_accepted=OPENING_MINOR,
        credit_remaining=OPENING_MINOR,
        daily_litres=400,
    )


@pytest.fixture
async def town(database_url: str, sessions: Sessions, tmp_path: Path) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(make_town(database_url, sessions, tmp_path))


@asynccontextmanager
async def make_town(database_url: str, sessions: Sessions, folder: Path, **more: str) -> AsyncIterator[Town]:
    """``more``: further settings of the roles."""
    secret, key = Fernet.generate_key().decode(), b"prepaid key of the main job's me"
    started_at = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=12)
    meter_id = await seed(sessions, KeyRing([secret]), started_at, key)
    api_port, coap_port, stripe_port, phone_port = free_port(), free_port(), free_port(), free_port()
    phone_url = f"http://127.0.0.1:{phone_port}"
    credentials = folder / "firebase.json"
    fake_phone.write_service_account(credentials, f"{phone_url}/token")
    environment = {
        "DATABASE_URL": database_url,
        "HTTP_PORT": str(api_port),
        "COAP_DTLS_PORT": str(coap_port),
        "COAP_ACK_TIMEOUT_S": "0.2",
        "COAP_MAX_RETRANSMIT": "1",
        "TOKEN_SECRET": "t" * 40,
        "METER_KEY_SECRETS": secret,
        "SMS_URL": f"{phone_url}/sms",
        "STRIPE_API_KEY": API_KEY,
        "STRIPE_PUBLISHABLE_KEY": "pk_test",
        "STRIPE_WEBHOOK_SECRETS": WEBHOOK_SECRET,
        "STRIPE_API_BASE": f"http://127.0.0.1:{stripe_port}",
        "FIREBASE_CREDENTIALS": str(credentials),
        "FCM_BASE_URL": phone_url,
        "LOG_LEVEL": "ERROR",
    } | more
    meter = SimulatedMeter(
        meter_config(key, started_at),
        store_dir=folder / "meters",
        gateway=("127.0.0.1", coap_port),
        object_id=42769,
        clock=Clock(),
        # Shorter than the gateway waits for a lost answer: when it gives up, the meter sleeps already.
        awake_s=0.6,
        ack_timeout_s=0.5,
    )
    stripe_app = fake_stripe.make_app(api_key=API_KEY, webhook_url=None, webhook_secret="", store=None)
    fakes = [
        asyncio.create_task(serve(stripe_app, "127.0.0.1", stripe_port)),
        asyncio.create_task(serve(fake_phone.make_app(credentials), "127.0.0.1", phone_port)),
    ]
    api = f"http://127.0.0.1:{api_port}"
    async with running(environment) as roles, httpx.AsyncClient(timeout=20) as http:
        await roles.start("serve", "worker", "gateway")
        await until_answers(http, f"{api}/healthz")
        await until_answers(http, f"{phone_url}/messages")
        yield Town(roles, http, api, f"http://127.0.0.1:{stripe_port}", phone_url, sessions, meter, meter_id)
    for fake in fakes:
        fake.cancel()
    await asyncio.gather(*fakes, return_exceptions=True)


async def watch(town: Town, top_up_id: str, seen: list[str]) -> None:
    """Subscribe over graphql-transport-ws and note each status until the server ends the subscription."""
    query = "subscription($i: ID!) { topUpUpdated(topUpId: $i) { status } }"
    address = town.api.replace("http", "ws", 1) + "/graphql"
    async with connect(address, subprotocols=["graphql-transport-ws"]) as socket:
        init = {"type": "connection_init", "payload": {"authorization": f"Bearer {town.token}"}}
        await socket.send(json.dumps(init))
        assert json.loads(await socket.recv())["type"] == "connection_ack"
        payload = {"query": query, "variables": {"i": top_up_id}}
        await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "complete":
                return
            if message["type"] == "next":
                seen.append(message["payload"]["data"]["topUpUpdated"]["status"])


async def books(sessions: Sessions, meter_id: str) -> dict[str, Any]:
    """What the ledger and the commands say."""
    async with sessions() as session:
        by_currency = await session.execute(
            select(Entry.currency, func.sum(Entry.amount_minor)).group_by(Entry.currency)
        )
        wallet = await session.scalar(
            select(Account).where(Account.owner_id == meter_id, Account.kind == AccountKind.WALLET)
        )
        assert wallet is not None
        entries = await session.scalar(select(func.sum(Entry.amount_minor)).where(Entry.account_id == wallet.id))
        commands = (await session.scalars(select(MeterCommand).where(MeterCommand.kind == "CREDIT"))).all()
        return {
            "sums": {currency: int(total) for currency, total in by_currency},
            "wallet": wallet.balance_minor,
            "entries": int(entries or 0),
            "grants": await session.scalar(select(func.count()).select_from(CreditGrant)),
            "commands": [(command.status, command.value) for command in commands],
        }


def events_of(intent: dict[str, Any]) -> list[dict[str, Any]]:
    """What Stripe tells of one payment, newest first: out of order, and each three times."""
    processing = fake_stripe.event("payment_intent.processing", intent | {"status": "processing"})
    succeeded = fake_stripe.event("payment_intent.succeeded", intent)
    charge = fake_stripe.event("charge.succeeded", intent["latest_charge"])
    return [charge, succeeded, processing, succeeded, charge, processing, succeeded, processing, charge]


async def test_a_top_up_travels_from_the_phone_to_the_meter_and_back(town: Town) -> None:
    await town.sign_in()
    await town.register_device()

    # Twelve days of water, told at the meter's first waking, leave little credit: the phone says so.
    assert await town.meter.wake()
    low = await until(lambda: town.messages("push"))
    assert "running low" in low[0]["title"] or "used up" in low[0]["title"]

    quote = (
        'query($m: ID!) { node(id: $m) { ... on Meter { quote(by: {money: {amount: "1500.00", currency: "KES"}}) '
        "{ quote { volume { litres } lines { tier } } userErrors { message } } } } }"
    )
    assert float((await town.ask(quote, m=town.meter_id))["node"]["quote"]["quote"]["volume"]["litres"]) > 1000

    top_up_id, intent_id = await town.start_top_up()
    seen: list[str] = []
    watching = asyncio.create_task(watch(town, top_up_id, seen))
    await until(lambda: _value(seen))
    intent = (await town.http.post(f"{town.stripe_url}/_control/payment_intents/{intent_id}/succeed")).json()
    assert {await town.webhook(event) for event in events_of(intent)} == {200}
    await town.until_status(top_up_id, "PAID")

    # The meter sleeps. Its first answer to the credit gets lost, so it takes two wakings; the credit comes once.
    before_minor = town.meter.state.credit_accepted
    lose_the_answer_to_the_credit(town.meter)
    await town.meter.wake()
    await town.until_status(top_up_id, "SENDING_TO_METER")
    view = await wake_until_on_meter(town, top_up_id)
    await asyncio.wait_for(watching, 20)

    assert town.meter.state.credit_accepted == before_minor + PAY_MINOR
    assert [event["status"] for event in view["timeline"]] == [
        "CREATED", "AWAITING_CUSTOMER", "PAID", "SENDING_TO_METER", "ON_METER",
    ]  # fmt: skip
    assert seen[0] == "AWAITING_CUSTOMER"
    assert seen[-1] == "ON_METER"
    await check_books(town)
    confirmed = await until(lambda: _pushes_about_credit(town))
    assert len(confirmed) == 1


async def test_the_same_with_every_process_killed_on_the_way(town: Town) -> None:
    await town.sign_in()
    await town.register_device()
    await town.meter.wake()
    top_up_id, intent_id = await town.start_top_up()
    intent = (await town.http.post(f"{town.stripe_url}/_control/payment_intents/{intent_id}/succeed")).json()

    # The worker is dead when the notices come, and the server dies once it has given its word (2xx).
    await town.roles.kill("worker")
    assert {await town.webhook(event) for event in events_of(intent)} == {200}
    async with town.sessions() as session:
        assert await session.scalar(select(func.count()).select_from(RailEvent)) == 3
    await town.roles.kill("serve")
    await town.roles.start("serve", "worker")
    await until_answers(town.http, f"{town.api}/healthz")
    await town.until_status(top_up_id, "PAID")

    # The gateway dies between the command's sending and its answer.
    before_minor = town.meter.state.credit_accepted
    lose_the_answer_to_the_credit(town.meter)
    waking = asyncio.create_task(town.meter.wake())
    await until(lambda: _commands(town, "SENT"))
    await town.roles.kill("gateway", "serve")
    await waking
    await town.roles.start("gateway", "serve")
    await until_answers(town.http, f"{town.api}/healthz")

    await wake_until_on_meter(town, top_up_id)
    assert town.meter.state.credit_accepted == before_minor + PAY_MINOR
    await check_books(town)
    assert len(await until(lambda: _pushes_about_credit(town))) == 1


def lose_the_answer_to_the_credit(meter: SimulatedMeter) -> None:
    """The meter takes the credit, and nothing that it answers from then on arrives before its next waking.

    The one answer alone would not do: where the gateway is told something more in the same waking, it asks again at
    once, and the credit is confirmed in the first waking already.
    """
    meter.fall_silent_at_command()


async def wake_until_on_meter(town: Town, top_up_id: str) -> dict[str, Any]:
    """The meter wakes until it has its credit: one just started, or a busy one, may miss a waking."""
    views: list[dict[str, Any]] = []

    async def woke() -> bool:
        await town.meter.wake()
        with suppress(TimeoutError):
            views.append(await town.until_status(top_up_id, "ON_METER", timeout_s=1))
        return bool(views)

    await until(woke, timeout_s=60)
    return views[-1]


async def check_books(town: Town) -> None:
    """Zero sum, one grant, and three balances that agree with the meter's own word."""
    found = await books(town.sessions, town.meter_id)
    assert found["sums"] == {"KES": 0}
    assert found["wallet"] == found["entries"]
    assert found["grants"] == 1
    assert found["commands"] == [("CONFIRMED", OPENING_MINOR + PAY_MINOR)]
    query = (
        "query($m: ID!) { node(id: $m) { ... on Meter { balance { ledger { amount } onMeter { amount } "
        "inFlight { amount } usedSinceReport { amount } } } } }"
    )

    async def agree() -> bool:
        balance = (await town.ask(query, m=town.meter_id))["node"]["balance"]
        return balance["inFlight"]["amount"] == "0.00" and balance["ledger"] == balance["onMeter"]

    # The water of the last status report is charged by the next round.
    await until(agree)


async def _value(value: Any) -> Any:
    return value


async def _commands(town: Town, status: str) -> list[Any]:
    async with town.sessions() as session:
        found = await session.scalars(select(MeterCommand).where(MeterCommand.status == status))
        return list(found.all())


async def _pushes_about_credit(town: Town) -> list[dict[str, Any]]:
    return [push for push in await town.messages("push") if push["data"]["kind"] == "TOP_UP"]
