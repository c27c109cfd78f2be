"""What a DTLS session costs: resident memory for each, and handshakes a second, on this machine.

``python -m bench.dtls [sessions]``. The server runs in a process of its own; each session has a socket of its own.
"""

import asyncio
import secrets
import socket
import sys
import time
from multiprocessing import Process

from bench.support import allow_many_files, rss_kb
from standpipe.meter_gateway.lwm2m.dtls.keys import DtlsCredential
from standpipe.meter_gateway.lwm2m.dtls.server import DtlsServer, Limits
from standpipe.meter_gateway.lwm2m.dtls.session import DtlsSession
from standpipe_demo.simulator.meter_dtls import PskClientContext
from tests.support.dtls import DtlsClient
from tests.support.town import until

KEY = bytes(range(16))
AT_ONCE = 50
GARBAGE = 100_000


class Quiet:
    def opened(self, session: DtlsSession) -> None: ...

    def received(self, session: DtlsSession, message: bytes) -> None:
        session.send(message)

    def closed(self, session: DtlsSession) -> None: ...


async def look_up(identity: str) -> DtlsCredential | None:
    return DtlsCredential(identity, (KEY,), ("k",))


def serve(port: int) -> None:
    async def run() -> None:
        server = DtlsServer(look_up, Quiet(), Limits(max_sessions=100_000, max_handshakes_per_host=1_000))
        await server.start("127.0.0.1", port)
        await asyncio.Event().wait()

    asyncio.run(run())


async def measure(port: int, pid: int, wanted: int) -> None:
    context = PskClientContext(lambda: (name, KEY))
    clients: list[DtlsClient] = []
    name = "warm-up"
    for number in range(20):
        name = f"warm-up-{number}"
        client = DtlsClient(port, name, KEY, context=context)
        assert await client.handshake()
        clients.append(client)
    before_kb, began_s = rss_kb(pid), time.monotonic()
    for number in range(wanted):
        name = f"meter-{number}"
        client = DtlsClient(port, name, KEY, context=context)
        assert await client.handshake()
        clients.append(client)
    took_s = time.monotonic() - began_s
    idle_kb = rss_kb(pid)
    for client in clients:
        assert await client.echoes(b"x" * 100)
    used_kb = rss_kb(pid)
    print(f"{wanted} sessions: {(idle_kb - before_kb) / wanted:.1f} kB each after the handshake,")
    print(f"  {(used_kb - before_kb) / wanted:.1f} kB each after an exchange; {wanted / took_s:.0f} handshakes/s")
    noise = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    noise.connect(("127.0.0.1", port))
    seeds = clients[0].sent
    for number in range(GARBAGE):
        data = bytearray(seeds[number % len(seeds)])
        data[number % len(data)] ^= secrets.randbelow(256)
        noise.send(data)
        if number % 50 == 0:
            await asyncio.sleep(0.001)
    # What is still in the socket's buffer comes first, and what finds it full is lost.
    await until(lambda: clients[-1].echoes(b"alive"))
    print(f"{GARBAGE} bent datagrams later: {rss_kb(pid) - used_kb:+d} kB in all")


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    allow_many_files()
    child = Process(target=serve, args=(port,), daemon=True)
    child.start()
    time.sleep(1.5)
    try:
        asyncio.run(measure(port, child.pid or 0, int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
    finally:
        child.kill()


if __name__ == "__main__":
    main()
