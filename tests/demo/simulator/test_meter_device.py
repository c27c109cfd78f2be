"""The simulated meter on the air, against a bare CoAP server that notes what it hears and answers as it is told."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiocoap
import cbor2
import pytest
from aiocoap.resource import PathCapable, Resource

from standpipe.platform.clock import Clock
from standpipe_demo.simulator import meter_store
from standpipe_demo.simulator.meter_device import SimulatedMeter, read_manifest, run_meters
from standpipe_demo.simulator.meter_frames import mac
from standpipe_demo.simulator.meter_model import MeterConfig
from tests.support.database import free_port
from tests.support.town import until

KEY = bytes(range(32))
CODES = {"reg": aiocoap.CREATED, "update": aiocoap.CHANGED, "dp": aiocoap.CHANGED}


class Head(Resource, PathCapable):  # type: ignore[misc]  # aiocoap is not typed.
    """A head-end of a few lines."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.context: Any = None
        self.heard: list[tuple[str, Any]] = []
        self.codes = dict(CODES)

    async def render(self, request: Any) -> aiocoap.Message:
        path = request.opt.uri_path
        what = "dp" if path == ("dp",) else "reg" if path == ("rd",) else "update"
        self.heard.append((what, request))
        response = aiocoap.Message(code=self.codes[what])
        if what == "reg":
            response.opt.location_path = ("rd", "abc123")
        return response

    def times(self, what: str) -> int:
        return [kind for kind, _ in self.heard].count(what)

    async def asks(self, code: Any, path: str, **options: Any) -> Any:
        remote = self.heard[-1][1].remote.hostinfo
        message = aiocoap.Message(code=code, uri=f"coap://{remote}{path}", **options)
        return await asyncio.wait_for(self.context.request(message).response, 10)


@pytest.fixture
async def head() -> AsyncIterator[Head]:
    made = Head(free_port())
    made.context = await aiocoap.Context.create_server_context(made, bind=("127.0.0.1", made.port), transports=["udp6"])
    yield made
    await made.context.shutdown()


def config(**more: Any) -> MeterConfig:
    values: dict[str, Any] = {
        "serial": "KW1",
        "endpoint": "KW1",
        "prepaid_key_hex": KEY.hex(),
        "currency": "KES",
        "time_zone": "UTC",
        "blocks": ((None, "5000"),),
        "started_at": (datetime.now(UTC) - timedelta(hours=5)).replace(minute=0, second=0, microsecond=0).isoformat(),
        "credit_remaining": 100_000,
    }
    return MeterConfig(**(values | more))


def make_meter(
    head: Head, folder: Path, awake_s: float = 0.3, ack_timeout_s: float = 0.1, **more: Any
) -> SimulatedMeter:
    return SimulatedMeter(
        config(**more),
        store_dir=folder,
        gateway=("127.0.0.1", head.port),
        object_id=42769,
        clock=Clock(),
        awake_s=awake_s,
        ack_timeout_s=ack_timeout_s,
    )


def credit_frame(sequence: int, total_minor: int) -> bytes:
    body = bytes((1, 1)) + sequence.to_bytes(4, "big") + total_minor.to_bytes(8, "big") + b"KES"
    return body + mac(b"standpipe/prepaid/command", body, KEY, "KW1")


async def test_it_registers_once_in_queue_mode_and_updates_from_then_on(head: Head, tmp_path: Path) -> None:
    meter = make_meter(head, tmp_path, awake_s=0.05)
    assert await meter.wake()
    assert await meter.wake()
    assert [what for what, _ in head.heard if what != "dp"] == ["reg", "update"]
    query = head.heard[0][1].opt.uri_query
    assert {"ep=KW1", "b=U", "Q", "lwm2m=1.1"} <= set(query)
    assert head.heard[0][1].remote.hostinfo == head.heard[-1][1].remote.hostinfo


async def test_it_registers_anew_where_it_is_no_longer_known(head: Head, tmp_path: Path) -> None:
    meter = make_meter(head, tmp_path, awake_s=0.05)
    await meter.wake()
    head.codes["update"] = aiocoap.NOT_FOUND
    assert await meter.wake()
    assert [what for what, _ in head.heard if what != "dp"] == ["reg", "update", "reg"]


async def test_kept_hours_are_absolute_in_time_and_forgotten_only_once_taken(head: Head, tmp_path: Path) -> None:
    meter = make_meter(head, tmp_path, awake_s=0.05)
    head.codes["dp"] = aiocoap.SERVICE_UNAVAILABLE
    assert not await meter.wake()
    kept = list(meter.state.unsent)
    assert len(kept) >= 5
    # Power lost between: what was not taken is still there.
    meter.reboot()
    assert meter.state.unsent == kept
    head.codes["dp"] = aiocoap.CHANGED
    assert await meter.wake()
    assert meter.state.unsent == []
    request = next(request for what, request in reversed(head.heard) if what == "dp")
    assert request.opt.content_format == 112
    records = cbor2.loads(request.payload)
    base_s = records[0][-3]
    told = [(base_s + record[6], round(record[2] * 1_000_000)) for record in records]
    assert told[: len(kept)] == kept
    assert {at_s % 3600 for at_s, _ in told} == {0}


async def test_a_long_backlog_goes_out_in_several_packs(head: Head, tmp_path: Path) -> None:
    started_at = (datetime.now(UTC) - timedelta(days=40)).replace(minute=0, second=0, microsecond=0)
    meter = make_meter(head, tmp_path, awake_s=0.05, started_at=started_at.isoformat())
    assert await meter.wake()
    told = [cbor2.loads(request.payload) for what, request in head.heard if what == "dp"]
    assert len(told) >= 3
    assert sum(len(records) for records in told) >= 40 * 24
    assert meter.state.unsent == []


async def test_asleep_it_is_silent_and_not_refused(head: Head, tmp_path: Path) -> None:
    meter = make_meter(head, tmp_path, awake_s=0.05)
    await meter.wake()
    host, port = head.heard[-1][1].remote.hostinfo.split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setblocking(False)
        udp.connect((host, int(port)))
        loop = asyncio.get_running_loop()
        for _ in range(2):
            # A closed port would make the second send fail with ECONNREFUSED.
            await loop.sock_sendall(udp, bytes.fromhex("40010001"))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_recv(udp, 100), 0.2)
    # What arrived in its sleep is lost, not answered late.
    before = len(head.heard)
    assert await meter.wake()
    assert {what for what, _ in head.heard[before:]} <= {"update", "dp"}


async def test_the_effect_is_on_flash_before_the_answer_is_on_the_air(head: Head, tmp_path: Path) -> None:
    meter = make_meter(head, tmp_path, awake_s=0.6)
    waking = asyncio.create_task(meter.wake())
    await until(lambda: _told(head))
    response = await head.asks(aiocoap.PUT, "/42769/0/0", payload=credit_frame(1, 7_000), content_format=42)
    on_flash = meter_store.load(tmp_path, meter.config)
    assert response.code == aiocoap.CHANGED
    assert (on_flash.last_sequence, on_flash.credit_accepted) == (1, 7_000)
    status = await head.asks(aiocoap.GET, "/42769/0/1")
    assert len(status.payload) == 57
    assert int.from_bytes(status.payload[2:6], "big") == meter_store.load(tmp_path, meter.config).report_counter == 1
    for resource, text in (("2", str(meter.state.credit_remaining)), ("3", "KES"), ("4", "0"), ("5", "0")):
        assert (await head.asks(aiocoap.GET, f"/42769/0/{resource}")).payload.decode() == text
    assert (await head.asks(aiocoap.GET, "/42769/0/0")).code == aiocoap.METHOD_NOT_ALLOWED
    await waking


async def test_each_exchange_keeps_it_awake_a_while_longer(head: Head, tmp_path: Path) -> None:
    meter = make_meter(head, tmp_path, awake_s=1.0)
    waking = asyncio.create_task(meter.wake())
    await until(lambda: _told(head))
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    while loop.time() - began_s < 2.0:
        await head.asks(aiocoap.GET, "/3424/0")
        assert not waking.done()
    await asyncio.wait_for(waking, 5)


async def test_lost_datagrams_are_made_good_by_retransmission(head: Head, tmp_path: Path) -> None:
    deaf = make_meter(head, tmp_path / "deaf", awake_s=0.05, ack_timeout_s=0.01, lose_datagram_rate=1.0)
    assert not await deaf.wake()
    assert head.heard == []
    meter = make_meter(head, tmp_path, awake_s=0.05, lose_datagram_rate=0.15)
    assert [await meter.wake() for _ in range(6)].count(True) >= 5


async def test_an_offline_meter_uses_water_and_says_nothing(head: Head, tmp_path: Path) -> None:
    silent = replace(config(online=False, serial="KW2", wake_every_s=1), endpoint="KW2")
    talking = config(wake_every_s=1)
    manifest = tmp_path / "meters.json"
    manifest.write_text(json.dumps([vars(silent), vars(talking)]))
    clock = Clock(20.0, datetime.now(UTC).timestamp(), datetime.now(UTC))
    running = asyncio.create_task(
        run_meters(
            read_manifest(manifest),
            store_dir=tmp_path,
            gateway=("127.0.0.1", free_port()),
            plain_gateway=("127.0.0.1", head.port),
            object_id=42769,
            clock=clock,
        )
    )
    await until(lambda: _told(head))
    await until(lambda: _on_flash(tmp_path / "KW2.json"))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert meter_store.load(tmp_path, silent).register_ml > 0
    assert all("ep=KW2" not in request.opt.uri_query for _, request in head.heard)


async def _told(head: Head) -> bool:
    return head.times("dp") > 0


async def _on_flash(path: Path) -> bool:
    return path.exists()
