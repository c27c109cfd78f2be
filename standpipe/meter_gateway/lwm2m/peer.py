"""One awake meter as a CoAP server that we call: reads and writes, with errors in our own terms."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiocoap
from aiocoap.error import Error as CoapError
from aiocoap.error import NetworkError
from aiocoap.numbers.constants import TransportTuning

from standpipe.meter_gateway.delivery import NoAnswerError
from standpipe.meter_gateway.lwm2m import senml, tlv
from standpipe.meter_gateway.lwm2m.client_memory import ClientMemory
from standpipe.meter_gateway.lwm2m.dtls.session import DtlsSession
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.platform.errors import StandpipeError

TEXT, OCTET_STREAM = 0, 42
MAX_ANSWER_BYTES = 16 * 1024
MAX_BLOCKS = 256
_NOT_IN_THIS_FORMAT = {"4.02", "4.06", "4.15"}
"""4.02 is what a stack says to whom Accept, or the format's number in it, is new (RFC 7252 §5.4.1)."""
BLOCK_EXPONENT = 5
"""Blocks of 512 bytes: with its heads such a datagram passes NB-IoT whole."""


class MeterAsleepError(NoAnswerError):
    """No answer came within the transport's patience. Whether the request arrived is unknown."""


@dataclass
class MeterRefusedError(StandpipeError):
    """The meter answered with an error code, e.g. ``4.06``; ``why``: in our words, where nothing was asked of it."""

    code: str
    why: str = ""

    @property
    def is_final(self) -> bool:
        """Tell whether the request was wrong (4.xx), so that asking again is pointless."""
        return self.code.startswith("4")

    def __str__(self) -> str:
        return self.why or f"the meter answered {self.code}"


def tuning(ack_timeout_s: float, max_retransmit: int) -> TransportTuning:
    """Retransmission parameters of our requests (RFC 7252 §4.8)."""
    tuned = TransportTuning()
    tuned.ACK_TIMEOUT = ack_timeout_s
    tuned.MAX_RETRANSMIT = max_retransmit
    return tuned


class MeterPeer:
    """Requests to the address from which the meter last spoke, over the socket on which it spoke to us.

    ``remote`` is a plain UDP address as registrations keep it, or a DTLS session.
    """

    def __init__(
        self,
        context: aiocoap.Context,
        remote: str | DtlsSession,
        tuned: TransportTuning,
        hang_up: Callable[[DtlsSession], None] | None = None,
    ) -> None:
        self._context = context
        self.session = remote if isinstance(remote, DtlsSession) else None
        self._base = remote.uri_base if isinstance(remote, DtlsSession) else remote.replace("udp://", "coap://")
        self._tuning, self._hang_up = tuned, hang_up
        self.owed: Any = None
        """The request (an aiocoap.Message) whose answer we wait for, or None."""
        self._has_moved = False

    async def read_object(self, path: str, memory: ClientMemory) -> tuple[bytes, int]:
        """An object's instance as (payload, content format): in SenML-CBOR, or in TLV where the meter knows no such.

        Raises MeterRefusedError, without asking where the meter refused this path before.
        """
        if path in memory.refused:
            raise MeterRefusedError("4.04", "the meter has said that it has no such object")
        first, second = senml.CBOR_FORMAT, tlv.CONTENT_FORMAT
        if memory.tlv_first:
            first, second = second, first
        try:
            try:
                return await self._read(path, first)
            except MeterRefusedError as refusal:
                if refusal.code not in _NOT_IN_THIS_FORMAT:
                    raise
                answer = await self._read(path, second)
                memory.tlv_first = not memory.tlv_first
                return answer
        except MeterRefusedError as refusal:
            if refusal.is_final:
                memory.refused.add(path)
            raise

    async def observe(self, path: str) -> Any:
        """An observation of a resource (an aiocoap request with its first answer), in the meter's own format.

        None where the meter answers without observing.
        """
        request, response = await self._exchange(aiocoap.GET, path, observe=0)
        return request if response.opt.observe is not None else None

    async def read_status(self, object_id: int) -> bytes:
        """The prepaid object's status frame, taken out of TLV where the meter wraps it."""
        return await self.read_opaque(f"/{object_id}/0/1")

    async def read_opaque(self, path: str) -> bytes:
        """A resource that is a frame."""
        payload, content_format = await self._read(path, OCTET_STREAM)
        if content_format == tlv.CONTENT_FORMAT:
            entries = tlv.decode(payload)
            return entries[0].value if entries else b""
        return payload

    async def read_number(self, path: str) -> int:
        """A resource that is a whole number, as plain text. Raises ParsingError for what is none."""
        payload, content_format = await self._read(path, TEXT)
        if content_format != TEXT or not re.fullmatch(rb"-?[0-9]{1,18}", payload.strip()):
            raise ParsingError("plain text that is no whole number")
        return int(payload)

    async def write_command(self, object_id: int, frame: bytes) -> None:
        """Write a command frame; returning means that the radio delivered it, and no more."""
        await self.write(f"/{object_id}/0/0", frame, OCTET_STREAM)

    async def write_key(self, object_id: int, frame: bytes) -> None:
        """Write a key frame."""
        await self.write(f"/{object_id}/0/6", frame, OCTET_STREAM)

    async def write(self, path: str, payload: bytes, content_format: int) -> None:
        """PUT, in blocks where it does not fit into one (RFC 7959 §2.5); the meter may ask for smaller ones."""
        exponent, offset = BLOCK_EXPONENT, 0
        while len(payload) > 1 << (exponent + 4):
            size = 1 << (exponent + 4)
            more = offset + size < len(payload)
            response = await self._request(
                aiocoap.PUT,
                path,
                payload=payload[offset : offset + size],
                content_format=content_format,
                block1=(offset // size, more, exponent),
            )
            if not more:
                return
            offset += size
            asked = response.opt.block1
            # Smaller blocks from here on: what has gone over counts as so many of them.
            exponent = min(exponent, asked.size_exponent) if asked is not None else exponent
        await self._request(aiocoap.PUT, path, payload=payload, content_format=content_format)

    async def execute(self, code: Any, path: str) -> None:
        """A request without a payload, e.g. DELETE."""
        await self._request(code, path)

    def hang_up(self) -> None:
        """End the DTLS session, where there is one."""
        if self.session is not None and self._hang_up is not None:
            self._hang_up(self.session)

    def leave(self) -> None:
        """The meter speaks from elsewhere now: ask nothing more here, and wait for nothing that is owed.

        From now on each request raises MeterAsleepError.
        """
        self._has_moved = True
        if self.owed is not None:
            self.give_up(self.owed)

    def give_up(self, request: aiocoap.Message) -> None:
        """Wait no longer for this request's answer, if we still do; its waiter gets MeterAsleepError.

        Letting go of the answer alone would not do: RFC 7252 §4.7 allows one exchange at a time (NSTART), so that
        the next request would queue behind the old one's retransmissions, for up to 93 s. Nor may aiocoap be told
        that the meter is not reached: it would drop our answers to what the meter asks at this very time, and take
        its repetitions for duplicates.
        """
        if self.owed is not request:
            return
        for tokens in self._context.request_interfaces:
            waiting = tokens.outgoing_requests.get((request.token, request.remote))
            if waiting is not None:
                waiting.add_exception(NetworkError("the meter woke anew"))
                _end_exchange(tokens.token_interface, request)

    async def _read(self, path: str, accept: int) -> tuple[bytes, int]:
        """A resource's representation, put together from its blocks (RFC 7959); aiocoap itself knows no upper bound."""
        payload, number, size_exponent, etag = b"", 0, 6, None
        while True:
            more = {"block2": (number, False, size_exponent)} if number else {}
            response = await self._request(aiocoap.GET, path, accept=accept, **more)
            payload += bytes(response.payload)
            block = response.opt.block2
            if number and (block is None or block.block_number != number or response.opt.etag != etag):
                raise ParsingError("blocks that do not belong together")
            if block is None or not block.more:
                break
            if len(payload) > MAX_ANSWER_BYTES or number == MAX_BLOCKS:
                raise ParsingError("an answer without end")
            number, size_exponent, etag = number + 1, block.size_exponent, response.opt.etag
        content_format = response.opt.content_format
        return payload, accept if content_format is None else int(content_format)

    async def _request(self, code: Any, path: str, **options: Any) -> aiocoap.Message:
        return (await self._exchange(code, path, **options))[1]

    async def _exchange(self, code: Any, path: str, **options: Any) -> tuple[Any, aiocoap.Message]:
        """The request and its answer. Raises MeterAsleepError, MeterRefusedError."""
        if self._has_moved:
            raise MeterAsleepError(f"the meter is at {self._base} no more")
        if self.session is None:
            options["uri"] = self._base + path
        else:
            options["uri_path"] = [part for part in path.split("/") if part]
        message = aiocoap.Message(code=code, transport_tuning=self._tuning, **options)
        if self.session is not None:
            message.remote = self.session
        self.owed = message
        try:
            async with asyncio.timeout(self._tuning.MAX_TRANSMIT_WAIT):
                request = self._context.request(message, handle_blockwise=False)
                response: aiocoap.Message = await request.response
        except (CoapError, OSError, TimeoutError) as error:
            raise MeterAsleepError(f"no answer from {self._base}{path}: {type(error).__name__}") from error
        finally:
            self.owed = None
        if not response.code.is_successful():
            raise MeterRefusedError(response.code.dotted)
        return request, response


def _end_exchange(messages: Any, request: aiocoap.Message) -> None:
    """Repeat this request no more; what waits behind it for the same meter is sent."""
    waiting = messages._backlogs.get(request.remote, [])  # noqa: SLF001 - aiocoap 0.4.17 has no other way.
    waiting[:] = [item for item in waiting if item[0] is not request]
    messages._remove_exchange(request)  # noqa: SLF001
