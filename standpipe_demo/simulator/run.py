"""The whole outside world in one process: meters, payment providers' stand-ins, and the phone."""

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from standpipe.platform.clock import Clock
from standpipe.platform.serving import serve
from standpipe_demo.simulator import (
    fake_flutterwave,
    fake_google,
    fake_hsm,
    fake_momo,
    fake_mpesa,
    fake_phone,
    fake_stripe,
    sandbox_provider,
)
from standpipe_demo.simulator.dlms_meter import run_dlms_meters
from standpipe_demo.simulator.fake_chirpstack import FakeChirpStack
from standpipe_demo.simulator.fake_hsm import HsmState
from standpipe_demo.simulator.keypad_page import KeypadMeter, keypad_routes
from standpipe_demo.simulator.lora_meter import run_lora_meters
from standpipe_demo.simulator.meter_device import read_manifest, run_meters
from standpipe_demo.simulator.meter_model import MeterConfig

LORA_LOSS = 0.02
MAGIC_PAUSE_S = 2


@dataclass(frozen=True, slots=True)
class World:
    """Addresses of everything, and the keys that it shares with the product."""

    data_dir: Path
    api_url: str
    gateway: tuple[str, int]
    dlms_gateway: tuple[str, int] | None
    """None: the town's DLMS meters stay silent."""
    plain_gateway: tuple[str, int]
    """Without DTLS, for meters that have no key."""
    object_id: int
    clock: Clock
    sandbox_port: int
    phone_port: int
    fake_stripe_port: int
    sandbox_api_key: str
    sandbox_webhook_secret: str
    stripe_api_key: str
    stripe_webhook_secret: str
    credentials_file: Path
    fake_google_port: int
    mpesa: dict[str, str]
    """Port, and what the shop and the stand-in agree on; likewise below."""
    momo: dict[str, str]
    flutterwave: dict[str, str]
    chirpstack: dict[str, str]
    keypad: dict[str, str]
    """Of the stand-in for who makes tokens, and the page with the meters' keypads; ``vending_keys`` as JSON."""


async def run_world(world: World) -> None:
    """Run it until cancelled. The manifest of meters is ``meters.json`` in the data folder."""
    sandbox = sandbox_provider.make_app(
        webhook_url=f"{world.api_url}/webhooks/sandbox",
        webhook_secret=world.sandbox_webhook_secret,
        api_key=world.sandbox_api_key,
        public_url=f"http://127.0.0.1:{world.sandbox_port}",
        store=world.data_dir / "sandbox.json",
        magic_pause_s=MAGIC_PAUSE_S,
    )
    stripe = fake_stripe.make_app(
        api_key=world.stripe_api_key,
        webhook_url=f"{world.api_url}/webhooks/stripe",
        webhook_secret=world.stripe_webhook_secret,
        store=world.data_dir / "stripe.json",
        public_url=f"http://127.0.0.1:{world.fake_stripe_port}",
    )
    mpesa = fake_mpesa.make_app(
        shortcode=world.mpesa["shortcode"],
        consumer_key=world.mpesa["consumer_key"],
        consumer_secret=world.mpesa["consumer_secret"],
        passkey=world.mpesa["passkey"],
        store=world.data_dir / "mpesa.json",
    )
    momo = fake_momo.make_app(
        subscription_key=world.momo["subscription_key"],
        api_user=world.momo["api_user"],
        api_key=world.momo["api_key"],
        store=world.data_dir / "momo.json",
    )
    flutterwave = fake_flutterwave.make_app(
        secret_key=world.flutterwave["secret_key"],
        webhook_url=f"{world.api_url}/webhooks/flutterwave",
        webhook_hash=world.flutterwave["webhook_hash"],
        public_url=f"http://127.0.0.1:{world.flutterwave['port']}",
        store=world.data_dir / "flutterwave.json",
    )
    phone = fake_phone.make_app(world.credentials_file)
    google = fake_google.make_app(fake_phone.PROJECT, phone.state.phone.tokens)
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        served = {world.sandbox_port: sandbox, world.fake_stripe_port: stripe, world.phone_port: phone}
        served[world.fake_google_port] = google
        rails = {int(rail["port"]): app for rail, app in
                 ((world.mpesa, mpesa), (world.momo, momo), (world.flutterwave, flutterwave))}  # fmt: skip
        for port, app in (served | rails).items():
            group.create_task(serve(app, "127.0.0.1", port))
        keypads: dict[str, KeypadMeter] = {}
        hsm = HsmState({name: bytes.fromhex(key) for name, key in json.loads(world.keypad["vending_keys"]).items()})
        app = fake_hsm.make_app(hsm, api_key=world.keypad["api_key"], also=keypad_routes(keypads))
        group.create_task(serve(app, "127.0.0.1", int(world.keypad["port"])))
        group.create_task(_run_meters(world, keypads))


async def _run_meters(world: World, keypads: dict[str, KeypadMeter]) -> None:
    """The town's meters, each by its own radio; those with a keypad are put into ``keypads``."""
    manifest, store_dir = read_manifest(world.data_dir / "meters.json"), world.data_dir / "meters"
    async with asyncio.TaskGroup() as group:
        group.create_task(_run_lorawan(world, [config for config in manifest if config.dev_eui]))
        if world.dlms_gateway is not None:
            group.create_task(
                run_dlms_meters(
                    [config for config in manifest if config.dlms is not None],
                    store_dir=store_dir,
                    gateway=world.dlms_gateway,
                    clock=world.clock,
                )
            )
        group.create_task(
            run_meters(
                [config for config in manifest if not config.dev_eui and config.dlms is None],
                store_dir=store_dir,
                gateway=world.gateway,
                plain_gateway=world.plain_gateway,
                object_id=world.object_id,
                clock=world.clock,
                keypads=keypads,
            )
        )


async def _run_lorawan(world: World, configs: list[MeterConfig]) -> None:
    network = FakeChirpStack(
        events_url=world.chirpstack["events_url"],
        event_secret=world.chirpstack["event_secret"],
        token=world.chirpstack["token"],
    )
    faults = network.faults
    faults.loss_up, faults.loss_down, faults.duplicate = LORA_LOSS, LORA_LOSS, LORA_LOSS
    await run_lora_meters(
        configs,
        store_dir=world.data_dir / "meters",
        network=network,
        port=int(world.chirpstack["port"]),
        clock=world.clock,
    )
