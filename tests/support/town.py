"""A small town in one process: the real app on a real port, the fakes on theirs, and a worker that works when told."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import stripe
from cryptography.fernet import Fernet
from pydantic import BaseModel
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from sqlalchemy import func, select, text
from starlette.applications import Starlette

from standpipe.app import make_app, make_signer
from standpipe.households.models import Customer, Household, Membership
from standpipe.ledger.models import Account, AccountKind, Entry
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import CreditGrant, Meter, MeterCommand, MeterCredential
from standpipe.payments.inbox import work_inbox
from standpipe.payments.models import Payment, RailEvent
from standpipe.payments.rails.port import Rail
from standpipe.payments.top_ups import poll_due
from standpipe.platform.database import Sessions, create_engine, create_sessions
from standpipe.platform.ids import new_id
from standpipe.platform.serving import serve
from standpipe.platform.settings import Settings
from standpipe.tariffs.models import Tariff, TariffVersion
from standpipe.utilities.models import Utility
from standpipe.wiring import Database
from standpipe.worker import work_outbox
from standpipe_demo.simulator import fake_flutterwave, fake_momo, fake_mpesa, fake_stripe, sandbox_provider
from standpipe_demo.simulator.webhooks import sign
from tests.support.database import free_port
from tests.support.rating import rate_due

STRIPE_SECRET = "whsec_of_the_town"
OLD_STRIPE_SECRET = "whsec_before_the_rotation"
SANDBOX_SECRET = "sandbox_secret_of_the_town"
STRIPE_KEY = "sk_test_town"
SANDBOX_KEY = "sandbox_key_of_the_town"
SHORTCODE = "600999"
MOMO_SECRET = "secret_part_of_the_momo_callback_url"
FLUTTERWAVE_HASH = "static_token_of_the_town"
MPESA_SECRET = "secret_part_of_the_callback_address"
METER_SECRET = Fernet.generate_key().decode()
DTLS_KEY = bytes.fromhex("0102030405060708090a0b0c0d0e0f10")
PREPAID_KEY = b"the prepaid key of a test's meter"
ZONE = ZoneInfo("Africa/Nairobi")
SETTLED = datetime(2026, 6, 15, 12, tzinfo=UTC)
"""The middle of a month and of a day: whoever needs days before or after, in the same month, has them."""
BLOCKS: list[dict[str, Any]] = [
    {"up_to_ml": 10_000_000, "price_minor_per_kl": "5000"},
    {"up_to_ml": None, "price_minor_per_kl": "10000"},
]


@dataclass(frozen=True)
class Home:
    """A customer with one meter."""

    customer_id: str
    household_id: str
    meter_id: str
    serial: str
    token: str


@dataclass
class Town:
    sessions: Sessions
    settings: Settings
    http: httpx.AsyncClient
    api: str
    stripe_url: str
    sandbox_url: str
    stripe: fake_stripe.StripeState
    mpesa_url: str
    mpesa: fake_mpesa.MpesaState
    momo_url: str
    momo: fake_momo.MomoState
    flutterwave_url: str
    flutterwave: fake_flutterwave.FlutterwaveState
    rails: dict[str, Rail]
    app: Starlette
    home: Home
    tariff_id: str
    utility_id: str
    extras: dict[str, Any] = field(default_factory=dict)

    def now(self) -> datetime:
        """The town's own instant. What a customer reads is stamped by it; what machines wait for goes by real time."""
        return self.settings.clock.now()

    def today(self) -> date:
        """The day where its homes are. UTC's is another for some hours, and another month's on some days."""
        return self.now().astimezone(ZONE).date()

    async def gql(self, query: str, token: str | None = None, **variables: Any) -> dict[str, Any]:
        """Answer of a request, errors and all; without what it cost, which is never the same twice."""
        headers = {"authorization": f"Bearer {self.home.token if token is None else token}"} if token != "" else {}
        body = {"query": query, "variables": variables}
        response = await self.http.post(f"{self.api}/graphql", json=body, headers=headers)
        answer: dict[str, Any] = response.json()
        answer.pop("extensions", None)
        return answer

    async def start(self, method: str = "stripe", amount: str = "15.00", key: str | None = None, **more: Any) -> Any:
        """topUpStart's payload."""
        query = (
            "mutation($k: ID!, $m: ID!, $p: MoneyInput!, $w: ID!) { topUpStart(input: {idempotencyKey: $k, meterId: $m,"
            " pay: $p, methodId: $w}) { replayed topUp { id status pay { amount } nextAction { __typename instructions "
            "... on StkPush { phoneMasked } "
            "... on StripePaymentSheet { clientSecret } ... on RedirectToUrl { url } } failure { code } } "
            "userErrors { __typename code field retryable } } }"
        )
        pay = {"amount": amount, "currency": more.pop("currency", "KES")}
        answer = await self.gql(query, k=key or new_id("key"), m=self.home.meter_id, p=pay, w=method, **more)
        return answer["data"]["topUpStart"]

    async def pay_by_card(self, amount: str = "15.00", captured: int | None = None) -> tuple[str, dict[str, Any]]:
        """A top-up whose card payment has succeeded at Stripe, of which nobody has told us; and the intent."""
        payload = await self.start(amount=amount)
        intent_id = payload["topUp"]["nextAction"]["clientSecret"].split("_secret_")[0]
        return payload["topUp"]["id"], await self.control(intent_id, "succeed", captured)

    async def control(self, intent_id: str, action: str, captured: int | None = None) -> dict[str, Any]:
        params = {} if captured is None else {"amount": str(captured)}
        url = f"{self.stripe_url}/_control/payment_intents/{intent_id}/{action}"
        intent: dict[str, Any] = (await self.http.post(url, params=params)).json()
        return intent

    async def post(self, rail: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return await self.http.post(f"{self.api}/webhooks/{rail}", content=body, headers=headers)

    async def tell(self, event: dict[str, Any], secret: str = STRIPE_SECRET) -> httpx.Response:
        """A Stripe webhook, signed by the real SDK."""
        body = json.dumps(event)
        header = stripe.WebhookSignature.generate_signature_header(body, secret)
        return await self.post("stripe", body.encode(), {"Stripe-Signature": header})

    async def tell_raw(self, body: bytes, at_s: float | None = None) -> httpx.Response:
        """Any bytes, signed in Stripe's scheme."""
        stamp = int(time.time() if at_s is None else at_s)
        return await self.post("stripe", body, {"Stripe-Signature": sign(body, STRIPE_SECRET, stamp)})

    async def drain(self) -> None:
        """Rate what is due, and work the inbox and the outbox until nothing is due."""
        await rate_due(self.sessions, self.settings.clock)
        while await work_inbox(self.sessions, self.rails, self.settings.clock) or await work_outbox(
            self.sessions, self.rails, self.settings.clock, timedelta(hours=26)
        ):
            pass

    async def drain_inbox(self) -> None:
        """The inbox alone."""
        while await work_inbox(self.sessions, self.rails, self.settings.clock):
            pass

    async def poll(self) -> int:
        """The payment poller, as if every wait were over."""
        await self.hurry(Payment)
        return await poll_due(self.sessions, self.rails, self.settings.clock)

    async def hurry(self, model: Any) -> None:
        """Make waiting rows due now."""
        async with self.sessions.begin() as session:
            for row in await session.scalars(select(model).where(model.due_at.is_not(None))):
                row.due_at = func.now()

    async def status(self, top_up_id: str) -> str:
        query = "query($i: ID!) { node(id: $i) { ... on TopUp { status } } }"
        return str((await self.gql(query, i=top_up_id))["data"]["node"]["status"])

    async def wallet(self, meter_id: str | None = None) -> int:
        async with self.sessions() as session:
            kind, owner = Account.kind == AccountKind.WALLET, Account.owner_id == (meter_id or self.home.meter_id)
            return await session.scalar(select(Account.balance_minor).where(kind, owner)) or 0

    async def count(self, model: Any, *where: Any) -> int:
        async with self.sessions() as session:
            return await session.scalar(select(func.count()).select_from(model).where(*where)) or 0

    async def credits(self) -> tuple[int, int, int]:
        """(grants, credit commands still open, wallet): what "exactly one credit" is read from."""
        grants = await self.count(CreditGrant)
        commands = await self.count(MeterCommand, MeterCommand.status == "QUEUED", MeterCommand.kind == "CREDIT")
        return grants, commands, await self.wallet()

    async def sums(self) -> dict[str, int]:
        """The ledger's sum per currency; anything but zero is a lie."""
        async with self.sessions() as session:
            rows = await session.execute(select(Entry.currency, func.sum(Entry.amount_minor)).group_by(Entry.currency))
            return {currency: int(total) for currency, total in rows}

    async def inbox(self) -> list[RailEvent]:
        async with self.sessions() as session:
            return list((await session.scalars(select(RailEvent).order_by(RailEvent.id))).all())


async def until(look: Callable[[], Awaitable[Any]], *, timeout_s: float = 20) -> Any:
    """Look again and again until there is something to see."""
    async with asyncio.timeout(timeout_s):
        while not (seen := await look()):
            await asyncio.sleep(0.02)
    return seen


async def waits_for_lock(town: Town) -> bool:
    """Whether somebody in this database waits for a row that another transaction holds."""
    async with town.sessions() as session:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return bool(await session.scalar(text(query)))


async def make_home(
    sessions: Sessions,
    settings: Settings,
    utility_id: str,
    tariff_id: str,
    *,
    installed_at: datetime,
    zone: str,
    wallet_kind: str = "MONEY",
) -> Home:
    """A customer, a household, a meter."""
    number = new_id("x")[-8:]
    async with sessions.begin() as session:
        customer = Customer(id=new_id("cus"), phone=f"+2547{number}")
        household = Household(id=new_id("hh"), utility_id=utility_id, name="H")
        session.add_all([customer, household])
        await session.flush()
        session.add(Membership(household_id=household.id, customer_id=customer.id, role="OWNER"))
        meter = Meter(
            id=new_id("mtr"),
            serial=f"S{number}",
            label="Home",
            utility_id=utility_id,
            household_id=household.id,
            tariff_id=tariff_id,
            wallet_kind=wallet_kind,
            currency="KES",
            time_zone=zone,
            installed_at=installed_at,
        )
        session.add(meter)
        await session.flush()
        session.add(
            MeterCredential(
                meter_id=meter.id,
                transport_identity=meter.serial,
                sealed_prepaid_key=KeyRing([METER_SECRET]).seal(PREPAID_KEY),
            )
        )
    token = make_signer(settings).issue(customer.id)
    return Home(customer.id, household.id, meter.id, meter.serial, token)


async def make_utility(sessions: Sessions, zone: str = "Africa/Nairobi") -> tuple[str, str]:
    """A utility with one tariff; returns both ids."""
    async with sessions.begin() as session:
        utility = Utility(id=new_id("utl"), name="U", currency="KES", time_zone=zone)
        session.add(utility)
        await session.flush()
        tariff = Tariff(
            id=new_id("trf"), utility_id=utility.id, code="d", name="Domestic", currency="KES", basis="CONSUMPTION"
        )
        session.add(tariff)
        await session.flush()
        version = TariffVersion(id=new_id("trv"), tariff_id=tariff.id, effective_from=date(2020, 1, 1), blocks=BLOCKS)
        session.add(version)
    return utility.id, tariff.id


class _Told(Settings):
    """Settings that are what they are told, and read nothing from the environment of whoever runs the suite."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic names its arguments.
        init_settings: PydanticBaseSettingsSource,
        **_others: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


_GROUPS = {name for name, value in _Told() if isinstance(value, BaseModel)}


def settled(at: datetime = SETTLED) -> dict[str, Any]:
    """Settings of a town whose clock begins there, whatever the day on which the suite runs."""
    return {"clock_anchor_at": at, "clock_anchor_real_s": time.time()}


def make_settings(**more: Any) -> Settings:
    """A test's settings."""
    values: dict[str, Any] = {"token_secret": "t" * 40, "meter_key_secrets": METER_SECRET}
    values |= {"coap_dtls_port": free_port()} | more
    return _Told.model_validate(nested(values))


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the environment's names (``mpesa_url``), put into their groups."""
    made: dict[str, Any] = {}
    for name, value in values.items():
        group, _, rest = name.partition("_")
        if group in _GROUPS:
            made.setdefault(group, {})[rest] = value
        else:
            made[name] = value
    return made


def changed(settings: Settings, **more: Any) -> Settings:
    """A test's settings with some of them changed, by the environment's names."""
    groups = nested(more)
    for name, value in groups.items():
        if isinstance(before := getattr(settings, name), BaseModel):
            groups[name] = before.model_copy(update=value)
    return settings.model_copy(update=groups)


@asynccontextmanager
async def make_town(database_url: str, folder: Path, **more: Any) -> AsyncIterator[Town]:
    api_port, stripe_port, sandbox_port, mpesa_port = free_port(), free_port(), free_port(), free_port()
    momo_port, flutterwave_port = free_port(), free_port()
    api = f"http://127.0.0.1:{api_port}"
    settings = make_settings(
        http_port=api_port,
        stripe_api_key=STRIPE_KEY,
        stripe_publishable_key="pk_test",
        stripe_webhook_secrets=f"{STRIPE_SECRET},{OLD_STRIPE_SECRET}",
        stripe_api_base=f"http://127.0.0.1:{stripe_port}",
        sandbox_url=f"http://127.0.0.1:{sandbox_port}",
        sandbox_api_key=SANDBOX_KEY,
        sandbox_webhook_secrets=SANDBOX_SECRET,
        public_url=api,
        mpesa_url=f"http://127.0.0.1:{mpesa_port}",
        mpesa_consumer_key="daraja_key",
        mpesa_consumer_secret="daraja_secret",
        mpesa_shortcode=SHORTCODE,
        mpesa_passkey="passkey",
        mpesa_callback_secrets=MPESA_SECRET,
        mpesa_networks="127.0.0.1/32",
        mpesa_initiator="standpipe",
        mpesa_security_credential="sealed",
        momo_url=f"http://127.0.0.1:{momo_port}",
        momo_subscription_key="momo_subscription",
        momo_api_user="momo_user",
        momo_api_key="momo_key",
        momo_currency="KES",
        momo_callback_secrets=MOMO_SECRET,
        momo_disbursement_key="momo_subscription",
        momo_disbursement_user="momo_user",
        momo_disbursement_api_key="momo_key",
        flutterwave_url=f"http://127.0.0.1:{flutterwave_port}",
        flutterwave_secret_key="flutterwave_key",
        flutterwave_webhook_hashes=FLUTTERWAVE_HASH,
        **more,
    )
    engine = create_engine(database_url, pool_size=20)
    sessions = create_sessions(engine)
    stripe_app = fake_stripe.make_app(api_key=STRIPE_KEY, webhook_url=None, webhook_secret="", store=None)
    sandbox_app = sandbox_provider.make_app(
        webhook_url=f"{api}/webhooks/sandbox",
        webhook_secret=SANDBOX_SECRET,
        api_key=SANDBOX_KEY,
        public_url=f"http://127.0.0.1:{sandbox_port}",
        store=folder / "sandbox.json",
    )
    mpesa_app = fake_mpesa.make_app(
        shortcode=SHORTCODE,
        consumer_key="daraja_key",
        consumer_secret="daraja_secret",
        passkey="passkey",
        store=None,
    )
    momo_app = fake_momo.make_app(
        subscription_key="momo_subscription", api_user="momo_user", api_key="momo_key", store=None
    )
    flutterwave_app = fake_flutterwave.make_app(
        secret_key="flutterwave_key",
        webhook_url=f"{api}/webhooks/flutterwave",
        webhook_hash=FLUTTERWAVE_HASH,
        public_url=f"http://127.0.0.1:{flutterwave_port}",
        store=None,
    )
    app = make_app(settings, Database(database_url, sessions))
    served = {api_port: app, stripe_port: stripe_app, sandbox_port: sandbox_app, mpesa_port: mpesa_app}
    served |= {momo_port: momo_app, flutterwave_port: flutterwave_app}
    servers = [asyncio.create_task(serve(one, "127.0.0.1", port)) for port, one in served.items()]
    utility_id, tariff_id = await make_utility(sessions)
    home = await make_home(
        sessions,
        settings,
        utility_id,
        tariff_id,
        installed_at=settings.clock.now() - timedelta(days=40),
        zone=str(ZONE),
    )
    async with httpx.AsyncClient(timeout=20) as http:
        for port in served:
            await until(lambda port=port: _listens(port))
        yield Town(
            sessions=sessions,
            settings=settings,
            http=http,
            api=api,
            stripe_url=f"http://127.0.0.1:{stripe_port}",
            sandbox_url=f"http://127.0.0.1:{sandbox_port}",
            stripe=stripe_app.state.stripe,
            mpesa_url=f"http://127.0.0.1:{mpesa_port}",
            mpesa=mpesa_app.state.mpesa,
            momo_url=f"http://127.0.0.1:{momo_port}",
            momo=momo_app.state.momo,
            flutterwave_url=f"http://127.0.0.1:{flutterwave_port}",
            flutterwave=flutterwave_app.state.flutterwave,
            rails=app.state.rails,
            app=app,
            home=home,
            tariff_id=tariff_id,
            utility_id=utility_id,
        )
    for server in servers:
        server.cancel()
    await asyncio.gather(*servers, return_exceptions=True)
    await engine.dispose()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
