"""`make bench`: LwM2M meters on one gateway process: how many it registers and hears a second, and what each takes.

A real `standpipe gateway` on the embedded PostgreSQL with fsync on; meters on plain UDP over the loopback, each on a
port of its own in this process, speaking CoAP datagrams by themselves. The baseline is a bare asyncio UDP handler
that answers the same datagrams and stores the same rows by COPY. Meters, gateway and PostgreSQL share the machine.
"""

import asyncio
import itertools
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import aiocoap
import asyncpg
import cbor2
from aiocoap.numbers.types import ACK, CON
from sqlalchemy import func, select

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
from bench.support import Row, allow_many_files, cpu_s, print_rows, rate, rss_kb
from standpipe.meters.models import MeterState
from standpipe.platform.database import Sessions, create_engine, create_sessions
from standpipe_demo.simulator.meter_frames import make_status
from tests.support.database import free_port
from tests.support.town import PREPAID_KEY, until

METERS = int(os.environ.get("BENCH_LWM2M_METERS", "2000"))
SENDS = int(os.environ.get("BENCH_LWM2M_SENDS", "1000"))
AT_ONCE = 32
HEALTHY_EVERY_S = 0.5
WAIT_S, CONTACT_WITHIN_S = 120, 30
LINKS = b"</>;ct=112,</1/0>,</3/0>,</3424/0>,</42769/0>"
SENML_CBOR, OCTET_STREAM = 112, 42


class Radio(asyncio.DatagramProtocol):
    """One meter's port: it asks one thing at a time, and answers what it is asked."""

    def __init__(self, meter: Enrolled) -> None:
        self.meter, self.location, self.stated = meter, "", asyncio.Event()
        self.unasked = self.turned_away = 0
        self._counter, self._numbers = 0, itertools.count(random.randrange(30_000))
        self._reply: asyncio.Future[aiocoap.Message] | None = None
        self._token = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, _addr: Any) -> None:
        message = aiocoap.Message.decode(data)
        if message.code.is_request():
            self._answer(message)
        elif message.code.is_response():
            if message.mtype == CON:
                self._send(aiocoap.Message(code=aiocoap.EMPTY, _mtype=ACK, _mid=message.mid))
            if message.token == self._token and self._reply is not None and not self._reply.done():
                self._reply.set_result(message)

    async def registers(self) -> None:
        """Register, and be asked for a statement."""
        reply = await self._ask(
            f"/rd?ep={self.meter.serial}&lt=86400&lwm2m=1.1&b=U&Q", payload=LINKS, content_format=40
        )
        assert reply.code == aiocoap.CREATED, reply.code
        self.location = "/" + "/".join(reply.opt.location_path)

    async def updates(self) -> None:
        reply = await self._ask(self.location)
        assert reply.code == aiocoap.CHANGED, reply.code

    async def sends(self, first_s: int) -> None:
        """A day's kept hours."""
        records: list[dict[int, Any]] = [
            {0: "/3424/0/1", 6: hour * 3600, 2: hour * FLOW_ML / 1_000_000} for hour in range(HOURS)
        ]
        records[0][-3] = first_s
        reply = await self._ask("/dp", payload=cbor2.dumps(records), content_format=SENML_CBOR)
        assert reply.code == aiocoap.CHANGED, reply.code

    async def with_contact(self, speaks: Callable[[], Awaitable[None]]) -> None:
        """Say something, and go on once the gateway has asked back."""
        self.stated.clear()
        await speaks()
        try:
            await asyncio.wait_for(self.stated.wait(), CONTACT_WITHIN_S)
        except TimeoutError:
            self.unasked += 1

    async def _ask(self, path: str, **options: Any) -> aiocoap.Message:
        """The gateway's answer; one that has too much to do is asked again a second later."""
        while (reply := await self._exchange(path, **options)).code == aiocoap.SERVICE_UNAVAILABLE:
            self.turned_away += 1
            await asyncio.sleep(1)
        return reply

    async def _exchange(self, path: str, **options: Any) -> aiocoap.Message:
        number = next(self._numbers)
        path, _, query = path.partition("?")
        self._token = number.to_bytes(4, "big")
        self._reply = asyncio.get_running_loop().create_future()
        message = aiocoap.Message(
            code=aiocoap.POST, uri_path=path[1:].split("/"), _mtype=CON, _mid=number, _token=self._token, **options
        )
        message.opt.uri_query = query.split("&") if query else ()
        for _ in range(10):
            self._send(message)
            with suppress(TimeoutError):
                return await asyncio.wait_for(asyncio.shield(self._reply), 4)
        raise TimeoutError(path)

    def _answer(self, request: aiocoap.Message) -> None:
        code, payload, content_format = aiocoap.CONTENT, b"", OCTET_STREAM
        path = "/".join(request.opt.uri_path)
        if path == "3424/0":
            payload = cbor2.dumps([{-2: "/3424/0/", 0: "1", 2: HOURS * FLOW_ML / 1_000_000}])
            content_format = SENML_CBOR
        elif path == "42769/0/1":
            self._counter += 1
            fields = (self._counter, 0, 0, 0, 0, 0, 0, HOURS * FLOW_ML, int(time.time()))
            payload = make_status(fields, PREPAID_KEY, self.meter.serial)
        else:
            code, content_format = aiocoap.NOT_FOUND, None
        self._send(
            aiocoap.Message(
                code=code,
                payload=payload,
                content_format=content_format,
                _mtype=ACK,
                _mid=request.mid,
                _token=request.token,
            )
        )
        if path == "42769/0/1":
            self.stated.set()

    def _send(self, message: aiocoap.Message) -> None:
        self._transport.sendto(message.encode())


async def plain_meters(port: int, url: str) -> None:
    """The baseline: registrations in a dictionary, readings by COPY, and an answer once they are stored."""
    db = await asyncpg.connect(url)
    store, tasks = PlainStore(db), set[asyncio.Task[None]]()
    registered: dict[Any, str] = {}

    class Handler(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self._transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            message = aiocoap.Message.decode(data)
            if message.opt.uri_path == ("dp",):
                task = asyncio.create_task(self._take(message, addr))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                return
            registered[addr] = message.opt.uri_query[0]
            self._reply(message, addr, aiocoap.CREATED, location_path=("rd", str(len(registered))))

        async def _take(self, message: aiocoap.Message, addr: Any) -> None:
            records = cbor2.loads(message.payload)
            base_s = records[0][-3]
            rows = [
                (registered[addr], datetime.fromtimestamp(base_s + record[6], UTC), round(record[2] * 1_000_000))
                for record in records
            ]
            await store.store(rows)
            self._reply(message, addr, aiocoap.CHANGED)

        def _reply(self, message: aiocoap.Message, addr: Any, code: Any, **options: Any) -> None:
            reply = aiocoap.Message(code=code, _mtype=ACK, _mid=message.mid, _token=message.token, **options)
            self._transport.sendto(reply.encode(), addr)

    await asyncio.get_running_loop().create_datagram_endpoint(Handler, local_addr=("127.0.0.1", port))
    await store.run()


async def measure(url: str) -> list[Row]:
    engine = create_engine(url)
    sessions = create_sessions(engine)
    meters = await enrol_many(sessions, METERS + 1)
    first_s = int(time.time()) // 3600 * 3600 - (HOURS + 1) * 3600
    plain_port, port = free_port(), free_port()
    with bare(plain_meters, plain_port, url) as pid:
        radios = await _switched_on(meters[1:], plain_port)
        await radios[0].registers()
        before_kb = rss_kb(pid)
        plain_rate = await rate([radio.registers for radio in radios], at_once=AT_ONCE)
        plain_kb = (rss_kb(pid) - before_kb) / METERS
        plain_sends = await rate(
            [lambda radio=radio: radio.sends(first_s) for radio in radios[:SENDS]], at_once=AT_ONCE
        )
        _switch_off(radios)
    environment = {"COAP_PLAIN_UDP": "true", "COAP_DTLS": "false", "COAP_PORT": str(port)}
    async with gateway(url, **environment) as pid:
        healthy, *radios = await _switched_on(meters, port)
        await healthy.with_contact(healthy.registers)
        alone = await _healthy(healthy, 10)
        before_kb, before_s = rss_kb(pid), cpu_s(pid)
        meanwhile = asyncio.create_task(_healthy(healthy, None))
        registered = await rate(
            [lambda radio=radio: radio.with_contact(radio.registers) for radio in radios], at_once=AT_ONCE
        )
        registered_s = cpu_s(pid)
        await until(lambda: _count(sessions, MeterState, METERS * 99 // 100), timeout_s=WAIT_S)
        kb = (rss_kb(pid) - before_kb) / METERS
        print(f"registered: {registered:.1f} meters/s, {kb:.1f} kB each", flush=True)
        plain_s = cpu_s(pid)
        updated = await rate(
            [lambda radio=radio: radio.with_contact(radio.updates) for radio in radios], at_once=AT_ONCE
        )
        updated_s = cpu_s(pid)
        sends = await rate(
            # Heard in this very waking, they are not read back again.
            [lambda radio=radio: radio.sends(first_s) for radio in radios[:SENDS]],
            at_once=AT_ONCE,
        )
        sent_s = cpu_s(pid)
        await until(lambda: _stored(sessions, SENDS * HOURS), timeout_s=WAIT_S)
        meanwhile.cancel()
        busy = await meanwhile
        print(
            f"the gateway's processor: {1000 * (registered_s - before_s) / METERS:.1f} ms for a registration and its "
            f"contact, {1000 * (updated_s - plain_s) / METERS:.1f} ms for an update and its contact "
            f"with nothing waiting ({updated:.1f}/s), "
            f"{1000 * (sent_s - updated_s) / SENDS:.1f} ms for a Send of {HOURS} hours"
        )
        print(
            f"told to come back later: {sum(radio.turned_away for radio in radios)} times; "
            f"not asked back within {CONTACT_WITHIN_S} s: {sum(radio.unasked for radio in radios)} times"
        )
        print(f"memory: {rss_kb(pid) / 1024:.0f} MB in all with {METERS} registered")
        print(f"healthy meter: {len(busy[1])} updates meanwhile, slowest answer {max(busy[0]):.0f} ms,"
              f" slowest contact {max(busy[1]):.0f} ms")  # fmt: skip
        _switch_off([healthy, *radios])
    await _statements(url, meters[:1])
    await engine.dispose()
    answered, asked = [
        (statistics.median(loud), statistics.median(quiet)) for loud, quiet in zip(busy, alone, strict=True)
    ]
    how = f"{AT_ONCE} others at once, medians"
    return [
        Row(
            "LwM2M: registered ÷ bare UDP (meters/s)", registered, plain_rate, f"{METERS}, each asked for its statement"
        ),
        Row("LwM2M: Send taken in ÷ bare UDP with COPY (uplinks/s)", sends, plain_sends, f"{HOURS} hours in each"),
        Row("LwM2M: memory of a registered meter ÷ bare UDP (kB)", kb, max(plain_kb, 0.1), "just after registering"),
        Row("LwM2M: a healthy meter's update answered, meanwhile ÷ alone (ms)", *answered, how),
        Row("LwM2M: a healthy meter asked back after it, meanwhile ÷ alone (ms)", *asked, how),
    ]


async def _statements(url: str, meters: list[Enrolled]) -> None:
    port = free_port()
    settings = {"coap_plain_udp": True, "coap_dtls": False, "coap_port": port}
    async with in_this_process(url, **settings) as engine:
        (radio,) = await _switched_on(meters, port)
        radio._counter = 10**6  # noqa: SLF001 - ours; it has spoken to the other gateway before.
        await radio.with_contact(radio.registers)
        for _ in range(2):
            await radio.with_contact(radio.updates)
        each = await statements_each(engine, [lambda: radio.with_contact(radio.updates)] * 10)
        print(f"statements: {each:.1f} for an update and its contact, nothing waiting")
        _switch_off([radio])


async def _switched_on(meters: list[Enrolled], port: int) -> list[Radio]:
    loop, radios = asyncio.get_running_loop(), []
    for meter in meters:
        _, radio = await loop.create_datagram_endpoint(
            lambda meter=meter: Radio(meter), remote_addr=("127.0.0.1", port)
        )
        radios.append(radio)
    return radios


def _switch_off(radios: list[Radio]) -> None:
    for radio in radios:
        radio._transport.close()  # noqa: SLF001 - ours.


async def _healthy(radio: Radio, times: int | None) -> tuple[list[float], list[float]]:
    """One meter that goes about its business, so often or until cancelled.

    How many milliseconds each of its updates took to be answered, and to be asked back.
    """
    answered, asked = list[float](), list[float]()

    async def updates() -> None:
        await radio.updates()
        answered.append((time.perf_counter() - began) * 1000)

    with suppress(asyncio.CancelledError):
        while times is None or len(asked) < times:
            began = time.perf_counter()
            await radio.with_contact(updates)
            asked.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(HEALTHY_EVERY_S)
    return answered, asked


async def _stored(sessions: Sessions, wanted: int) -> bool:
    return await stored_readings(sessions) >= wanted


async def _count(sessions: Sessions, model: Any, wanted: int) -> bool:
    async with sessions() as session:
        return (await session.scalar(select(func.count()).select_from(model)) or 0) >= wanted


async def main() -> None:
    allow_many_files()
    async with own_database() as url:
        print_rows(await measure(url))


if __name__ == "__main__":
    asyncio.run(main())
