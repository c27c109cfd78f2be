"""`make bench`: from the provider's word that a payment went through to the meter's own that it has the credit.

The real app, `standpipe worker` and `standpipe gateway`, Stripe's stand-in, and one simulated meter for each carrier,
awake, behind a network that takes BENCH_ONE_WAY_MS each way. The measure is the round trip of that network: a CoAP ping
through it. A run without the delay tells what of it is our own.
"""

import asyncio
import os
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from bench.fleet import own_database
from bench.support import Row, print_rows
from standpipe.meters.models import MeterState
from standpipe.platform.clock import Clock
from standpipe_demo.simulator.dlms_meter import SimulatedDlmsMeter
from standpipe_demo.simulator.fake_stripe import event
from standpipe_demo.simulator.meter_device import SimulatedMeter
from tests.support.database import free_port
from tests.support.dlms import dlms_config, enrol, identity_of
from tests.support.radio import OBJECT_ID, config_of, exchange, give_key
from tests.support.roles import running
from tests.support.town import (
    DTLS_KEY,
    METER_SECRET,
    STRIPE_KEY,
    STRIPE_SECRET,
    Home,
    Town,
    make_home,
    make_town,
    until,
)

ONE_WAY_S = int(os.environ.get("BENCH_ONE_WAY_MS", "50")) / 1000
TIMES = 15
LOOK_EVERY_S = 0.005
CONFIRMED_WITHIN_S = 30
COAP_PING = b"\x40\x00\x12\x34"
Meter = Callable[[Home, int, Path], Awaitable[Any]]
"""A simulated meter of this home that speaks with a gateway at this port; what it returns runs until cancelled."""


class SlowUdp(asyncio.DatagramProtocol):
    """Between meters and the gateway: every datagram takes its time, and each meter has a port of its own behind it."""

    def __init__(self, port: int, one_way_s: float) -> None:
        self._gateway, self._one_way_s = ("127.0.0.1", port), one_way_s
        self._loop, self._behind = asyncio.get_running_loop(), dict[Any, socket.socket]()
        self._front: Any = None

    def connection_made(self, transport: Any) -> None:
        self._front = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if addr not in self._behind:
            behind = self._behind[addr] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            behind.setblocking(False)
            behind.connect(self._gateway)
            self._loop.add_reader(behind, self._back, behind, addr)
        self._loop.call_later(self._one_way_s, self._behind[addr].send, data)

    def connection_lost(self, _exc: Exception | None) -> None:
        for behind in self._behind.values():
            self._loop.remove_reader(behind)
            behind.close()
        self._behind.clear()

    def _back(self, behind: socket.socket, addr: Any) -> None:
        self._loop.call_later(self._one_way_s, self._front.sendto, behind.recv(65_536), addr)


@asynccontextmanager
async def slow_udp(port: int, one_way_s: float) -> AsyncIterator[int]:
    """The port at which the gateway is reached slowly."""
    own = free_port()
    endpoint = asyncio.get_running_loop().create_datagram_endpoint
    transport, _ = await endpoint(lambda: SlowUdp(port, one_way_s), local_addr=("127.0.0.1", own))
    try:
        yield own
    finally:
        transport.close()
        await asyncio.sleep(2 * one_way_s + 0.1)


@asynccontextmanager
async def slow_tcp(port: int, one_way_s: float) -> AsyncIterator[int]:
    """The same for a stream."""
    loop, own = asyncio.get_running_loop(), free_port()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            loop.call_later(one_way_s, writer.write, data)
        loop.call_later(one_way_s, writer.close)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(connected, "127.0.0.1", own)
    try:
        yield own
    finally:
        server.close()


async def measure(url: str, folder: Path) -> list[Row]:
    plain_port, dlms_port = free_port(), free_port()
    async with make_town(url, folder) as town, running(_environment(url, town, plain_port, dlms_port)) as roles:
        await roles.start("worker", "gateway")
        await until(lambda: _pings(plain_port), timeout_s=60)
        dtls_port = town.settings.coap.dtls_port
        carriers: list[tuple[str, Any, int, Meter]] = [
            ("LwM2M", slow_udp, plain_port, _lwm2m),
            ("LwM2M over DTLS", slow_udp, dtls_port, lambda home, port, at: _lwm2m_dtls(town, home, port, at)),
            ("DLMS", slow_tcp, dlms_port, lambda home, port, at: _dlms(town, home, port, at)),
        ]
        rows = []
        for name, network, port, meter in carriers:
            async with network(port, 0) as near:
                near_ms = await _paid_to_confirmed(town, url, folder, near, meter)
            async with network(port, ONE_WAY_S) as far:
                far_ms = await _paid_to_confirmed(town, url, folder, far, meter)
            async with slow_udp(plain_port, ONE_WAY_S) as far:
                round_trip_ms = statistics.median([await _ping_ms(far) for _ in range(5)])
            how = f"{ONE_WAY_S * 1000:.0f} ms each way; {near_ms:.0f} ms without; medians of {TIMES}"
            rows.append(Row(f"{name}: paid to confirmed ÷ a round trip (ms)", far_ms, round_trip_ms, how))
    return rows


def _environment(url: str, town: Town, plain_port: int, dlms_port: int) -> dict[str, str]:
    return {
        "DATABASE_URL": url,
        "METER_KEY_SECRETS": METER_SECRET,
        "TOKEN_SECRET": "t" * 40,
        "STRIPE_API_KEY": STRIPE_KEY,
        "STRIPE_PUBLISHABLE_KEY": "pk_test",
        "STRIPE_WEBHOOK_SECRETS": STRIPE_SECRET,
        "STRIPE_API_BASE": town.stripe_url,
        "COAP_PLAIN_UDP": "true",
        "COAP_PORT": str(plain_port),
        "COAP_DTLS_PORT": str(town.settings.coap.dtls_port),
        "DLMS_PORT": str(dlms_port),
        "LOG_LEVEL": "ERROR",
    }


async def _paid_to_confirmed(town: Town, url: str, folder: Path, port: int, meter: Meter) -> float:
    """Median milliseconds, for a new household whose meter is awake."""
    home = await make_home(
        town.sessions,
        town.settings,
        town.utility_id,
        town.tariff_id,
        installed_at=datetime.now(UTC) - timedelta(days=2),
        zone="Africa/Nairobi",
    )
    db = await asyncpg.connect(url)
    running_meter = asyncio.ensure_future(await meter(home, port, folder))
    await until(lambda: _has_stated(town, home), timeout_s=CONFIRMED_WITHIN_S)
    took_ms = [await _pay(replace(town, home=home), db) for _ in range(TIMES + 1)]
    running_meter.cancel()
    await asyncio.gather(running_meter, return_exceptions=True)
    await db.close()
    return statistics.median(took_ms[1:])


async def _pay(town: Town, db: asyncpg.Connection) -> float:
    """From the webhook's first byte until the grant is confirmed."""
    top_up_id, intent = await town.pay_by_card()
    began = time.perf_counter()
    assert (await town.tell(event("payment_intent.succeeded", intent))).status_code == 200
    query = "SELECT true FROM credit_grants WHERE source_id = $1 AND confirmed_at IS NOT NULL"
    async with asyncio.timeout(CONFIRMED_WITHIN_S):
        while not await db.fetchval(query, top_up_id):
            await asyncio.sleep(LOOK_EVERY_S)
    return (time.perf_counter() - began) * 1000


async def _has_stated(town: Town, home: Home) -> bool:
    async with town.sessions() as session:
        state = await session.get(MeterState, home.meter_id)
    return state is not None and state.stated_at is not None


async def _lwm2m(home: Home, port: int, folder: Path, **more: Any) -> Any:
    meter = SimulatedMeter(
        config_of(home, **more),
        store_dir=folder / "meters",
        gateway=("127.0.0.1", port),
        object_id=OBJECT_ID,
        clock=Clock(),
        awake_s=600,
        ack_timeout_s=2.0,
    )
    return meter.wake()


async def _lwm2m_dtls(town: Town, home: Home, port: int, folder: Path) -> Any:
    await give_key(town.sessions, home)
    return await _lwm2m(home, port, folder, dtls_key_hex=DTLS_KEY.hex())


async def _dlms(town: Town, home: Home, port: int, folder: Path) -> Any:
    identity = identity_of(home)
    await enrol(town.sessions, home, identity)
    config = dlms_config(home, identity, wake_every_s=10**6)
    where = ("127.0.0.1", port)
    return SimulatedDlmsMeter(config, store_dir=folder / "meters", gateway=where, clock=Clock(), push_first=True).run()


async def _pings(port: int) -> bool:
    try:
        return bool(await exchange(port, COAP_PING))
    except (TimeoutError, OSError):
        return False


async def _ping_ms(port: int) -> float:
    began = time.perf_counter()
    await exchange(port, COAP_PING)
    return (time.perf_counter() - began) * 1000


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with own_database() as url:
            print_rows(await measure(url, Path(folder)))


if __name__ == "__main__":
    asyncio.run(main())
