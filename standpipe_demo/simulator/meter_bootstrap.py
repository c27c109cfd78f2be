"""A simulated meter's first contact: it asks a bootstrap server whom to speak with, and under which key."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import aiocoap
from aiocoap.error import Error as CoapError
from aiocoap.numbers.constants import TransportTuning
from aiocoap.resource import PathCapable, Resource

from standpipe_demo.simulator.meter_dtls import DtlsRadio

FINISH_WITHIN_S = 10.0


@dataclass
class Account:
    """Account that a bootstrap server has written: objects 0 and 1 by resource, and whether this is all."""

    security: dict[int, bytes] = field(default_factory=dict)
    server: dict[int, bytes] = field(default_factory=dict)
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_whole(self) -> bool:
        """Tell whether the two belong together and name a key."""
        return (
            {0, 3, 5, 10} <= self.security.keys()
            and self.security.get(2) == b"\0"
            and self.security[10] == self.server.get(0)
        )

    @property
    def gateway(self) -> tuple[str, int]:
        """The address in the security object."""
        host, _, port = self.security[0].decode().removeprefix("coaps://").rstrip("/").rpartition(":")
        return host, int(port)


class _Everything(Resource, PathCapable):  # type: ignore[misc]  # aiocoap is not typed.
    """Takes whatever the bootstrap server does."""

    def __init__(self, account: Account) -> None:
        super().__init__()
        self._account = account

    async def render(self, request: Any) -> aiocoap.Message:
        path = tuple(part for part in request.opt.uri_path if part)
        if request.code == aiocoap.DELETE:
            self._account.security.clear()
            self._account.server.clear()
            return aiocoap.Message(code=aiocoap.DELETED)
        if request.code == aiocoap.PUT and path[:1] in {("0",), ("1",)}:
            kept = self._account.security if path[0] == "0" else self._account.server
            kept.update(resources_of(bytes(request.payload)))
            return aiocoap.Message(code=aiocoap.CHANGED)
        if request.code == aiocoap.POST and path == ("bs",):
            if not self._account.is_whole:
                return aiocoap.Message(code=aiocoap.NOT_ACCEPTABLE)
            self._account.finished.set()
            return aiocoap.Message(code=aiocoap.CHANGED)
        return aiocoap.Message(code=aiocoap.NOT_FOUND)


async def bootstrap(
    server: tuple[str, int], endpoint: str, key: bytes, chance: random.Random, tuning: TransportTuning
) -> Account | None:
    """Ask ``server`` under the bootstrap key; None where that comes to nothing."""
    radio, account = DtlsRadio(chance, 0.0, lambda: server, lambda: (endpoint, key)), Account()
    context = await radio.switch_on(_Everything(account))
    try:
        if not await radio.reach():
            return None
        request = aiocoap.Message(code=aiocoap.POST, uri=f"coap://gateway/bs?ep={endpoint}", transport_tuning=tuning)
        async with asyncio.timeout(tuning.MAX_TRANSMIT_WAIT):
            response = await context.request(request).response
        if not response.code.is_successful():
            return None
        await asyncio.wait_for(account.finished.wait(), FINISH_WITHIN_S)
        # The answer to the last request is still to go out.
        await asyncio.sleep(0)
    except (CoapError, OSError, TimeoutError):
        return None
    finally:
        await radio.switch_off()
        radio.forget_port()
    return account


def resources_of(payload: bytes) -> dict[int, bytes]:
    """Resources of an instance in TLV (§7.4.3), raw."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(payload):
        head = payload[at]
        id_size, length_size = 1 + (head >> 5 & 1), head >> 3 & 3
        number = int.from_bytes(payload[at + 1 : at + 1 + id_size], "big")
        start = at + 1 + id_size + length_size
        length = int.from_bytes(payload[start - length_size : start], "big") if length_size else head & 7
        found[number] = payload[start : start + length]
        at = start + length
    return found
