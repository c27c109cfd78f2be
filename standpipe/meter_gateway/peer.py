"""One awake meter as a CoAP server that we call: reads and writes, with errors in our own terms."""

import asyncio
from dataclasses import dataclass
from typing import Any

import aiocoap
from aiocoap.error import Error as CoapError
from aiocoap.numbers.constants import TransportTuning

from standpipe.errors import StandpipeError
from standpipe.meter_gateway import senml, tlv

OCTET_STREAM = 42


class MeterAsleepError(StandpipeError):
    """No answer came within the transport's patience. Whether the request arrived is unknown."""


@dataclass
class MeterRefusedError(StandpipeError):
    """The meter answered with an error code, e.g. ``4.06``."""

    code: str

    @property
    def is_final(self) -> bool:
        """Whether the request was wrong (4.xx), so that asking again is pointless."""
        return self.code.startswith("4")

    def __str__(self) -> str:
        return f"the meter answered {self.code}"


def tuning(ack_timeout_s: float, max_retransmit: int) -> TransportTuning:
    """Retransmission parameters of our requests (RFC 7252 §4.8)."""
    tuned = TransportTuning()
    tuned.ACK_TIMEOUT = ack_timeout_s
    tuned.MAX_RETRANSMIT = max_retransmit
    return tuned


class MeterPeer:
    """Requests to the address from which the meter last spoke, over the socket on which it spoke to us."""

    def __init__(self, context: aiocoap.Context, remote: str, tuned: TransportTuning) -> None:
        self._context = context
        self._base = remote.replace("udp://", "coap://")
        self._tuning = tuned

    async def read_volume(self) -> tuple[bytes, int]:
        """/3424/0 as (payload, content format); TLV where the meter knows no SenML-CBOR."""
        try:
            return await self._read("/3424/0", senml.CBOR_FORMAT)
        except MeterRefusedError as refusal:
            if refusal.code not in {"4.06", "4.15"}:
                raise
            return await self._read("/3424/0", tlv.CONTENT_FORMAT)

    async def read_status(self, object_id: int) -> bytes:
        """The prepaid object's status frame, taken out of TLV where the meter wraps it."""
        payload, content_format = await self._read(f"/{object_id}/0/1", OCTET_STREAM)
        if content_format == tlv.CONTENT_FORMAT:
            entries = tlv.decode(payload)
            return entries[0].value if entries else b""
        return payload

    async def write_command(self, object_id: int, frame: bytes) -> None:
        """Write a command frame; returning means that the radio delivered it, and no more."""
        await self._request(aiocoap.PUT, f"/{object_id}/0/0", payload=frame, content_format=OCTET_STREAM)

    async def _read(self, path: str, accept: int) -> tuple[bytes, int]:
        response = await self._request(aiocoap.GET, path, accept=accept)
        content_format = response.opt.content_format
        return bytes(response.payload), accept if content_format is None else int(content_format)

    async def _request(self, code: Any, path: str, **options: Any) -> aiocoap.Message:
        message = aiocoap.Message(code=code, uri=self._base + path, transport_tuning=self._tuning, **options)
        try:
            async with asyncio.timeout(self._tuning.MAX_TRANSMIT_WAIT):
                response: aiocoap.Message = await self._context.request(message).response
        except (CoapError, OSError, TimeoutError) as error:
            raise MeterAsleepError(f"no answer from {self._base}{path}: {type(error).__name__}") from error
        if not response.code.is_successful():
            raise MeterRefusedError(response.code.dotted)
        return response
