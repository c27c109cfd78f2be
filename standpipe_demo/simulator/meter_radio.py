"""A simulated meter's radio: one UDP port, deaf while the meter sleeps, losing datagrams at a set rate."""

import random
import socket
import weakref
from typing import Any

import aiocoap
from aiocoap.resource import Site


class Radio:
    """Keeps its port over sleep, as behind a NAT that remembers; ``forget_port`` is the NAT that does not."""

    def __init__(self, chance: random.Random, lose_datagram_rate: float) -> None:
        self._chance, self._lose_rate = chance, lose_datagram_rate
        self._port = 0
        self.says_twice = False
        """Each datagram comes and goes twice."""
        self._context: Any = None
        self._deaf: list[socket.socket] = []
        weakref.finalize(self, _close_all, self._deaf)

    async def switch_on(self, site: Site) -> Any:
        """A CoAP context on the meter's port that serves ``site``. Raises OSError where no port can be had."""
        for _ in range(2):
            _close_all(self._deaf)
            port = self._port or _free_port()
            try:
                self._context = await self._open(site, port)
            except OSError:
                self._port = 0
                continue
            self._port = port
            return self._context
        raise OSError("no free UDP port for a simulated meter")

    async def reach(self, *, anew: bool = False) -> bool:
        """Be ready to ask the gateway, which without DTLS one always is."""
        del anew
        return True

    async def switch_off(self) -> None:
        """Sleep. Somebody holds the port and reads nothing: a closed one would answer by ICMP, and PSM is silent."""
        await self._context.shutdown()
        self._context = None
        deaf = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            deaf.bind(("127.0.0.1", self._port))
        except OSError:
            deaf.close()
        else:
            self._deaf.append(deaf)

    @property
    def is_connected(self) -> bool:
        """Tell whether there is a session that may turn out to be none any more."""
        return False

    def forget_session(self) -> None:
        """Without DTLS there is none."""

    def forget_port(self) -> None:
        """Wake at another port the next time."""
        _close_all(self._deaf)
        self._port = 0

    async def _open(self, site: Site, port: int) -> aiocoap.Context:
        context = await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port), transports=["udp6"])
        for tokens in context.request_interfaces:
            udp = tokens.token_interface.message_interface
            udp.send = self._lossy(udp.send)
            udp.datagram_msg_received = self._lossy(udp.datagram_msg_received)
        return context

    def _lossy(self, carry: Any) -> Any:
        def carry_or_lose(*datagram: Any) -> None:
            if self._chance.random() >= self._lose_rate:
                for _ in range(2 if self.says_twice else 1):
                    carry(*datagram)

        return carry_or_lose


def _close_all(sockets: list[socket.socket]) -> None:
    while sockets:
        sockets.pop().close()


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
