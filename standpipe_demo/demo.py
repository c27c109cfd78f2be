"""The demo: every role as a process of its own over one embedded PostgreSQL, and three lines that show the main job."""

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
from pydantic import SecretStr
from rich.console import Console

from standpipe.app import make_signer
from standpipe.billing.series import last_reading_at
from standpipe.meters.keys import KeyRing
from standpipe.payments.receipt_links import sign_link
from standpipe.platform.clock import Clock
from standpipe.platform.errors import SettingsError
from standpipe.platform.migrate import upgrade
from standpipe.platform.serving import bind, require_free_tcp
from standpipe.platform.settings import Settings
from standpipe.wiring import Database, open_database
from standpipe_demo import seed
from standpipe_demo.banner import print_banner
from standpipe_demo.environment import (
    DEMO_DLMS_PORT,
    TOKEN_TTL_S,
    demo_environment,
    demo_secrets,
    write_environment,
    write_json,
)
from standpipe_demo.seed_keypad import SUPPLY_GROUP, vending_key_of
from standpipe_demo.simulator.fake_phone import write_service_account
from standpipe_demo.simulator.run import World

READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 15
ROLES = ("serve", "worker", "gateway", "simulate")
_console = Console(highlight=False, soft_wrap=True)


async def run_demo(settings: Settings) -> None:
    """Start everything, print how to use it, and stop it all on Ctrl-C. Raises SettingsError where a port is taken."""
    require_free_ports(settings)
    data_dir = settings.data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    kept = demo_secrets(data_dir)
    credentials = data_dir / "firebase.json"
    if not credentials.exists():
        write_service_account(credentials, f"http://127.0.0.1:{settings.phone_port}/token")
    with _console.status("Starting PostgreSQL…"):
        stack = open_database(settings)
        database = await stack.__aenter__()
    try:
        await _with_database(settings, database, data_dir, kept, credentials)
    finally:
        await stack.__aexit__(None, None, None)
        _console.print("Stopped. The town is kept; `make clean` forgets it.")


async def _with_database(
    settings: Settings, database: Database, data_dir: Path, kept: dict[str, str], credentials: Path
) -> None:
    with _console.status("Migrating the database…"):
        await upgrade(database.url)
    if not await seed.is_seeded(database.sessions):
        with _console.status("Building a small town…") as status:
            keys = KeyRing([kept["meter_key_secrets"]])
            await seed.seed(
                database.sessions,
                keys,
                datetime.now(UTC),
                vending_key=bytes.fromhex(kept["keypad_vending_key"]),
                progress=status.update,
                keep=lambda manifest: write_json(data_dir / "meters.json", manifest),
            )
    async with database.sessions() as session:
        last = max(filter(None, (await last_reading_at(session), _kept_clock(data_dir))), default=None)
    environment = demo_environment(settings, database.url, data_dir, kept, credentials, last, currency=seed.CURRENCY)
    async with _children(environment) as children:
        with _console.status("Waiting for every part to answer…"):
            await _wait_until_ready(settings, children)
        await _register_paybill(environment)
        await _announce(settings, database, environment, data_dir)
        try:
            ended = await _first_to_end(children)
        finally:
            _keep_clock(data_dir, environment)
    raise SettingsError(f"`standpipe {ended}` ended by itself; its last words are above.")


def require_free_ports(settings: Settings) -> None:
    """Raises SettingsError naming the setting of the first port that is taken."""
    require_free_tcp(settings.http_host, settings.http_port, "STANDPIPE_HTTP_PORT")
    for port, name in (
        (settings.sandbox.port, "STANDPIPE_SANDBOX_PORT"),
        (settings.phone_port, "STANDPIPE_PHONE_PORT"),
        (settings.fake_stripe_port, "STANDPIPE_FAKE_STRIPE_PORT"),
        (settings.fake_mpesa_port, "STANDPIPE_FAKE_MPESA_PORT"),
        (settings.fake_momo_port, "STANDPIPE_FAKE_MOMO_PORT"),
        (settings.fake_flutterwave_port, "STANDPIPE_FAKE_FLUTTERWAVE_PORT"),
        (settings.fake_chirpstack_port, "STANDPIPE_FAKE_CHIRPSTACK_PORT"),
        (settings.lorawan.http_port, "STANDPIPE_LORAWAN_HTTP_PORT"),
        (settings.fake_keypad_port, "STANDPIPE_FAKE_KEYPAD_PORT"),
        (settings.fake_google_port, "STANDPIPE_FAKE_GOOGLE_PORT"),
        (settings.dlms.port or DEMO_DLMS_PORT, "STANDPIPE_DLMS_PORT"),
    ):
        require_free_tcp("127.0.0.1", port, name)
    for port, name in (
        (settings.coap.port, "STANDPIPE_COAP_PORT"),
        (settings.coap.dtls_port, "STANDPIPE_COAP_DTLS_PORT"),
    ):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            bind(probe, settings.coap.host, port, name)


def world_of(settings: Settings) -> World:
    """The simulated world that a demo's settings describe. Raises SettingsError where there is no demo to simulate."""
    data_dir = settings.data_dir.resolve()
    if not (data_dir / "meters.json").exists() or settings.firebase.credentials is None:
        raise SettingsError("There is no town to simulate yet: `standpipe demo` builds one and runs this with it.")
    sandbox_key = settings.sandbox.api_key.get_secret_value() if settings.sandbox.api_key else ""
    stripe_key = next((secret.get_secret_value() for secret in settings.stripe.api_key), "")
    return World(
        data_dir=data_dir,
        api_url=f"http://{settings.http_host}:{settings.http_port}",
        gateway=(settings.coap.host, settings.coap.dtls_port),
        plain_gateway=(settings.coap.host, settings.coap.port),
        dlms_gateway=(settings.dlms.host, settings.dlms.port) if settings.dlms.port is not None else None,
        object_id=settings.prepaid_object_id,
        clock=settings.clock,
        sandbox_port=settings.sandbox.port,
        phone_port=settings.phone_port,
        fake_stripe_port=settings.fake_stripe_port,
        sandbox_api_key=sandbox_key,
        sandbox_webhook_secret=next((s.get_secret_value() for s in settings.sandbox.webhook_secrets), ""),
        stripe_api_key=stripe_key,
        stripe_webhook_secret=next((s.get_secret_value() for s in settings.stripe.webhook_secrets), ""),
        credentials_file=settings.firebase.credentials,
        fake_google_port=settings.fake_google_port,
        mpesa={
            "port": str(settings.fake_mpesa_port),
            "shortcode": settings.mpesa.shortcode or "",
            "consumer_key": _plain(settings.mpesa.consumer_key),
            "consumer_secret": _plain(settings.mpesa.consumer_secret),
            "passkey": _plain(settings.mpesa.passkey),
        },
        momo={
            "port": str(settings.fake_momo_port),
            "subscription_key": _plain(settings.momo.subscription_key),
            "api_user": settings.momo.api_user or "",
            "api_key": _plain(settings.momo.api_key),
        },
        flutterwave={
            "port": str(settings.fake_flutterwave_port),
            "secret_key": _plain(settings.flutterwave.secret_key),
            "webhook_hash": next((_plain(secret) for secret in settings.flutterwave.webhook_hashes), ""),
        },
        chirpstack={
            "port": str(settings.fake_chirpstack_port),
            "token": _plain(settings.lorawan.api_token),
            "events_url": f"http://127.0.0.1:{settings.lorawan.http_port}/lorawan/events",
            "event_secret": next((_plain(secret) for secret in settings.lorawan.event_secrets), ""),
        },
        keypad={
            "port": str(settings.fake_keypad_port),
            "api_key": _plain(settings.keypad.issuer_key),
            "vending_keys": json.dumps(_vending_keys(data_dir)),
        },
    )


def _vending_keys(data_dir: Path) -> dict[str, str]:
    key = vending_key_of(data_dir)
    return {} if key is None else {f"{SUPPLY_GROUP}:1": key.hex()}


def _plain(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""


def _keep_clock(data_dir: Path, environment: dict[str, str]) -> None:
    """Note where the town's clock stands, so that the next start goes on from there."""
    clock = Clock(
        float(environment["STANDPIPE_CLOCK_FACTOR"]),
        float(environment["STANDPIPE_CLOCK_ANCHOR_REAL_S"]),
        datetime.fromisoformat(environment["STANDPIPE_CLOCK_ANCHOR_AT"]),
    )
    write_json(data_dir / "clock.json", {"stood_at": clock.now().isoformat()})


def _kept_clock(data_dir: Path) -> datetime | None:
    path = data_dir / "clock.json"
    return datetime.fromisoformat(json.loads(path.read_text())["stood_at"]) if path.exists() else None


@asynccontextmanager
async def _children(environment: dict[str, str]) -> AsyncIterator[dict[str, asyncio.subprocess.Process]]:
    """The roles as processes in sessions of their own; they end with us, even if we are killed."""
    children = {
        role: await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "standpipe.cli", role, "--tied"),
            stdin=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        for role in ROLES
    }
    try:
        yield children
    finally:
        for child in children.values():
            if child.returncode is None:
                child.terminate()
        for child in children.values():
            try:
                await asyncio.wait_for(child.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                child.kill()


async def _wait_until_ready(settings: Settings, children: dict[str, asyncio.subprocess.Process]) -> None:
    waiting = [
        f"http://{settings.http_host}:{settings.http_port}/healthz",
        f"http://127.0.0.1:{settings.phone_port}/messages",
        f"http://127.0.0.1:{settings.sandbox.port}/",
    ]
    deadline = time.monotonic() + READY_TIMEOUT_S
    async with httpx.AsyncClient(timeout=2) as http:
        while waiting:
            gone = [role for role, child in children.items() if child.returncode is not None]
            if gone or time.monotonic() > deadline:
                raise SettingsError(f"{', '.join(gone) or waiting[0]} did not come up; see the lines above.")
            try:
                await http.get(waiting[0])
                waiting.pop(0)
            except httpx.HTTPError:
                await asyncio.sleep(0.2)


async def _register_paybill(environment: dict[str, str]) -> None:
    """Tell the M-Pesa stand-in where to ask and to confirm, as an operator does once at Safaricom."""
    child = await asyncio.create_subprocess_exec(*(sys.executable, "-m", "standpipe_demo.paybill"), env=environment)
    if await child.wait():
        raise SettingsError("The M-Pesa stand-in did not take our addresses; see the lines above.")


async def _first_to_end(children: dict[str, asyncio.subprocess.Process]) -> str:
    waits = {asyncio.create_task(child.wait()): role for role, child in children.items()}
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return waits[done.pop()]
    finally:
        for wait in waits:
            wait.cancel()


async def _announce(settings: Settings, database: Database, environment: dict[str, str], data_dir: Path) -> None:
    signer = make_signer(settings.model_copy(update=_token_settings(environment)))
    token = signer.issue(await seed.demo_customer_id(database.sessions))
    base = f"http://{settings.http_host}:{settings.http_port}"
    sandbox = f"http://127.0.0.1:{settings.sandbox.port}"
    phone = f"http://127.0.0.1:{settings.phone_port}"
    meter_id = await seed.demo_meter_id(database.sessions)
    today = settings.clock.now().astimezone(ZoneInfo(seed.ZONE)).date()
    statement = f"{meter_id}/{today.replace(day=1) - timedelta(days=1):%Y-%m}"
    described = {
        "statement_url": sign_link(signer.secret, base, statement, time.time(), kind="statement"),
        "graphql_url": f"{base}/graphql",
        "token": token,
        "approve_url": f"{sandbox}/v1/references/{{top_up_id}}/approve",
        "fake_phone_url": phone,
        "meter_id": meter_id,
        "sandbox_url": sandbox,
        "fake_stripe_url": f"http://127.0.0.1:{settings.fake_stripe_port}",
        "fake_mpesa_url": f"http://127.0.0.1:{settings.fake_mpesa_port}",
        "keypads_url": f"http://127.0.0.1:{settings.fake_keypad_port}",
        "fake_google_url": f"http://127.0.0.1:{settings.fake_google_port}",
        "fake_momo_url": f"http://127.0.0.1:{settings.fake_momo_port}",
        "fake_flutterwave_url": f"http://127.0.0.1:{settings.fake_flutterwave_port}",
        "phone_number": seed.DEMO_PHONE,
        "clock_factor": float(environment["STANDPIPE_CLOCK_FACTOR"]),
        "database_url": database.url,
    }
    write_json(data_dir / "demo.json", described)
    write_environment(data_dir / "demo.env", environment)
    print_banner(described, environment["STANDPIPE_GRAPHIQL_DIR"])


def _token_settings(environment: dict[str, str]) -> dict[str, Any]:
    loaded = Settings.model_validate(
        {"token_secret": environment["STANDPIPE_TOKEN_SECRET"], "token_ttl_s": TOKEN_TTL_S}
    )
    return {"token_secret": loaded.token_secret, "token_ttl_s": loaded.token_ttl_s}
