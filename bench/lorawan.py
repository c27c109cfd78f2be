"""`make bench`: LoRaWAN meters on one gateway process: how many uplinks it takes a second, and what a meter takes.

A real `standpipe gateway` on the embedded PostgreSQL with fsync on; ChirpStack's stand-in in this process posts each
uplink to the HTTP door for events, as JSON. The baseline is a bare Starlette door that decodes the same frames and
stores the same rows by COPY. Stand-in, gateway and PostgreSQL share the machine.
"""

import asyncio
import base64
import json
import os
import statistics
import time
from contextlib import suppress
from datetime import UTC, datetime

import asyncpg
import httpx
import uvicorn
from sqlalchemy import insert
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.fleet import (
    FLOW_ML,
    HOURS,
    Enrolled,
    PlainStore,
    bare,
    enrol_many,
    gateway,
    in_this_process,
    own_database,
    statements_each,
    stored_readings,
)
from bench.support import CONNECTIONS, Row, cpu_s, print_rows, rate, rss_kb
from standpipe.meter_gateway.lorawan.tables import LoraDevice
from standpipe.platform.database import Sessions, create_engine, create_sessions
from standpipe_demo.simulator import lora_codec
from standpipe_demo.simulator.fake_chirpstack import APPLICATION_ID, FakeChirpStack
from tests.support.database import free_port
from tests.support.lora import API_TOKEN, EVENT_SECRET, dev_eui_of
from tests.support.town import PREPAID_KEY, until

METERS = int(os.environ.get("BENCH_LORAWAN_METERS", "2000"))
HISTORIES = int(os.environ.get("BENCH_LORAWAN_HISTORIES", "1000"))
HEALTHY_EVERY_S = 0.5
ROOM_BYTES = 222
"""The largest frame from DR4 on in EU868."""
PATH = "/lorawan/events"


class Device:
    """A meter's radio: the frames that it sends, and no more."""

    def __init__(self, meter: Enrolled, number: int, network: FakeChirpStack) -> None:
        self.meter, self.dev_eui, self._network, self._counter = meter, dev_eui_of(number), network, 0
        network.add(self.dev_eui, "A", lambda _downlink: None)

    async def states(self) -> None:
        """Send a statement."""
        self._counter += 1
        fields = (self._counter, 0, 0, 0, 0, 0, 0, HOURS * FLOW_ML, int(time.time()))
        await self._send(lora_codec.STATUS_PORT, "status", lora_codec.status_body(fields, 0, 88))

    async def tells(self, first_s: int) -> None:
        """Send a day's kept hours."""
        hours = [(first_s + hour * 3600, hour * FLOW_ML) for hour in range(HOURS)]
        body, told = lora_codec.history_body(hours, ROOM_BYTES)
        assert told == HOURS
        await self._send(lora_codec.HISTORY_PORT, "history", body)

    async def _send(self, port: int, label: str, body: bytes) -> None:
        frame = body + lora_codec.sign(label, body, PREPAID_KEY, self.dev_eui, self.meter.serial)
        await self._network.uplink(self.dev_eui, port, frame, ack=False)


async def plain_door(port: int, url: str) -> None:
    """The baseline: an event in, its hours by COPY, an answer once they are stored."""
    store = PlainStore(await asyncpg.connect(url))
    running = asyncio.create_task(store.run())

    async def event(request: Request) -> Response:
        told = json.loads(await request.body())
        frame = base64.b64decode(told["data"])
        if told["fPort"] != lora_codec.HISTORY_PORT:
            await store.store([(told["deviceInfo"]["devEui"], datetime.now(UTC), 0)])
            return Response(status_code=204)
        first_s, register_ml, rows = int.from_bytes(frame[1:5], "big"), 0, []
        for hour, step_ml in enumerate(_numbers(frame[5:-8])):
            register_ml += step_ml
            rows.append((told["deviceInfo"]["devEui"], datetime.fromtimestamp(first_s + hour * 3600, UTC), register_ml))
        await store.store(rows)
        return Response(status_code=204)

    app = Starlette(routes=[Route(PATH, event, methods=["POST"])])
    await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error")).serve()
    running.cancel()


def _numbers(data: bytes) -> list[int]:
    numbers, number, place = [], 0, 0
    for byte in data:
        number |= byte % 128 << place
        place += 7
        if byte < 128:
            numbers.append(number)
            number, place = 0, 0
    return numbers


async def measure(url: str) -> list[Row]:
    engine = create_engine(url)
    sessions = create_sessions(engine)
    meters = await enrol_many(sessions, METERS + 1)
    async with sessions.begin() as session:
        common = {"device_class": "A", "region": "EU868", "application_id": APPLICATION_ID}
        devices = [
            {"meter_id": meter.meter_id, "dev_eui": dev_eui_of(number)} | common for number, meter in enumerate(meters)
        ]
        await session.execute(insert(LoraDevice), devices)
    plain_port, port, api_port = free_port(), free_port(), free_port()
    first_s = int(time.time()) // 3600 * 3600 - (HOURS + 1) * 3600
    with bare(plain_door, plain_port, url) as pid:
        network = await _network(plain_port)
        radios = [Device(meter, number, network) for number, meter in enumerate(meters)][1:]
        plain_kb, plain_stated, plain_told = await _told(pid, radios, first_s)
        await network.stop()
    environment = {
        "COAP_DTLS": "false",
        "LORAWAN_API_URL": f"http://127.0.0.1:{api_port}",
        "LORAWAN_API_TOKEN": API_TOKEN,
        "LORAWAN_EVENT_SECRETS": EVENT_SECRET,
        "LORAWAN_HTTP_PORT": str(port),
    }
    async with gateway(url, **environment) as pid:
        network = await _network(port)
        await network.start(api_port)
        healthy, *radios = [Device(meter, number, network) for number, meter in enumerate(meters)]
        await _healthy(healthy, 3)
        alone_ms = await _healthy(healthy, 10)
        meanwhile = asyncio.create_task(_healthy(healthy, None))
        began_s = cpu_s(pid)
        kb, stated, told = await _told(pid, radios, first_s)
        meanwhile.cancel()
        busy_ms = await meanwhile
        spent_s = cpu_s(pid) - began_s
        await until(lambda: _stored(sessions, HISTORIES * HOURS + METERS))
        assert {status for _, status in network.posted} == {204}
        print(f"the gateway's processor: {1000 * spent_s / (METERS + HISTORIES):.1f} ms an uplink")
        print(f"memory: {rss_kb(pid) / 1024:.0f} MB in all after {METERS} meters have spoken")
        print(f"healthy meter: {len(busy_ms)} uplinks taken meanwhile, the slowest in {max(busy_ms):.0f} ms")
        await network.stop()
    await _statements(url, meters, port, api_port)
    await engine.dispose()
    median, quiet = statistics.median(busy_ms), statistics.median(alone_ms)
    return [
        Row("LoRaWAN: statement taken in ÷ bare door with COPY (uplinks/s)", stated, plain_stated, f"{METERS} meters"),
        Row("LoRaWAN: hours taken in ÷ bare door with COPY (uplinks/s)", told, plain_told, f"{HOURS} hours in each"),
        Row("LoRaWAN: memory of a meter that has spoken ÷ bare door (kB)", kb, max(plain_kb, 0.1), "nothing is kept"),
        Row(
            "LoRaWAN: a healthy meter's uplink, meanwhile ÷ alone (ms)",
            median,
            quiet,
            f"{CONNECTIONS} others at once, medians",
        ),
    ]


async def _statements(url: str, meters: list[Enrolled], port: int, api_port: int) -> None:
    settings = {
        "coap_dtls": False,
        "lorawan_api_url": f"http://127.0.0.1:{api_port}",
        "lorawan_api_token": API_TOKEN,
        "lorawan_event_secrets": EVENT_SECRET,
        "lorawan_http_port": port,
    }
    async with in_this_process(url, **settings) as engine:
        network = await _network(port)
        await network.start(api_port)
        device = Device(meters[0], 0, network)
        device._counter = 10**6  # noqa: SLF001 - ours; it has spoken to the other gateway before.
        await device.states()
        each = await statements_each(engine, [device.states] * 10)
        print(f"statements: {each:.1f} for an uplink with a status report, nothing waiting")
        await network.stop()


async def _network(port: int) -> FakeChirpStack:
    """The stand-in, whose events go to a door that listens by now."""
    url = f"http://127.0.0.1:{port}{PATH}"
    async with httpx.AsyncClient() as http:
        await until(lambda: _answers(http, url), timeout_s=60)
    return FakeChirpStack(events_url=url, event_secret=EVENT_SECRET, token=API_TOKEN, window_s=0)


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        await http.get(url)
    except httpx.HTTPError:
        return False
    return True


async def _told(pid: int, radios: list[Device], first_s: int) -> tuple[float, float, float]:
    """All state and some tell their hours: the memory of each (kB), statements and histories a second."""
    await rate([radio.states for radio in radios[:CONNECTIONS]])
    before_kb = rss_kb(pid)
    stated = await rate([radio.states for radio in radios])
    each_kb = (rss_kb(pid) - before_kb) / len(radios)
    return each_kb, stated, await rate([lambda radio=radio: radio.tells(first_s) for radio in radios[:HISTORIES]])


async def _healthy(device: Device, times: int | None) -> list[float]:
    """One meter that states as it always does, so often or until cancelled: how long each uplink took."""
    took_ms: list[float] = []
    with suppress(asyncio.CancelledError):
        while times is None or len(took_ms) < times:
            began = time.perf_counter()
            await device.states()
            took_ms.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(HEALTHY_EVERY_S)
    return took_ms


async def _stored(sessions: Sessions, wanted: int) -> bool:
    return await stored_readings(sessions) >= wanted


async def main() -> None:
    async with own_database() as url:
        print_rows(await measure(url))


if __name__ == "__main__":
    asyncio.run(main())
