"""A meter over DTLS in a test's own hands: it sends and answers CoAP messages one by one, as a test tells it."""

import itertools
import random
from contextlib import suppress
from typing import Any

import aiocoap
from aiocoap.numbers.types import ACK, CON
from OpenSSL import SSL

from tests.support.dtls import DtlsClient
from tests.support.town import DTLS_KEY, Home


class Meter(DtlsClient):
    """Whose key the gateway knows."""

    def __init__(self, port: int, home: Home, key: bytes = DTLS_KEY) -> None:
        super().__init__(port, home.serial, key)
        self.refused: list[str] = []
        self._ids = itertools.count(random.randrange(30_000))

    async def asks(self, code: Any, path: str, **options: Any) -> aiocoap.Message:
        """The gateway's reply to a request; what it asks meanwhile is answered with 4.04."""
        token = await self.says(code, path, **options)
        while True:
            reply = await self.next()
            if reply.token == token and reply.code.is_response():
                return reply
            if reply.code.is_request():
                await self.answers(reply, aiocoap.NOT_FOUND)

    async def says(self, code: Any, path: str, **options: Any) -> bytes:
        """Send a request; the token of its reply."""
        number = next(self._ids)
        path, _, query = path.partition("?")
        if query:
            options["uri_query"] = query.split("&")
        message = aiocoap.Message(
            code=code,
            uri_path=path[1:].split("/"),
            _mtype=CON,
            _mid=number,
            _token=number.to_bytes(4, "big"),
            **options,
        )
        await self.send(message.encode())
        return bytes(message.token)

    async def next(self) -> aiocoap.Message:
        """The next message; a confirmable answer is acknowledged, or the gateway would hold its next request back."""
        message = aiocoap.Message.decode(await self.receive())
        if message.mtype == CON and message.code.is_response():
            await self.send(aiocoap.Message(code=aiocoap.EMPTY, _mtype=ACK, _mid=message.mid).encode())
        return message

    async def receive_or_wait(self) -> aiocoap.Message:
        """The next message, however long it takes."""
        while True:
            with suppress(TimeoutError):
                return await self.next()

    async def request(self, path: str) -> aiocoap.Message:
        """The gateway's next request; anything but one to ``path`` is answered with 4.04."""
        while True:
            message = await self.next()
            if message.code.is_request() and "/" + "/".join(message.opt.uri_path) == path:
                return message
            if message.code.is_request():
                self.refused.append("/" + "/".join(message.opt.uri_path))
                await self.answers(message, aiocoap.NOT_FOUND)

    async def answers(self, request: aiocoap.Message, code: Any, **options: Any) -> None:
        reply = aiocoap.Message(code=code, _mtype=ACK, _mid=request.mid, _token=request.token, **options)
        await self.send(reply.encode())

    async def hears_good_bye(self) -> None:
        """Whatever came before it."""
        with suppress(SSL.ZeroReturnError):
            while True:
                await self.receive()

    async def registers(self, query: str = "lwm2m=1.1&b=U&Q", **options: Any) -> str:
        reply = await self.asks(aiocoap.POST, f"/rd?ep={self.name}&{query}", **options)
        assert reply.code == aiocoap.CREATED
        return "/" + "/".join(reply.opt.location_path)

    async def notifies(self, request: aiocoap.Message, number: int, payload: bytes, content_format: int) -> None:
        """One more answer to an observed request, with its observe number, confirmable."""
        notice = aiocoap.Message(
            code=aiocoap.CONTENT,
            payload=payload,
            content_format=content_format,
            observe=number,
            _mtype=CON,
            _mid=next(self._ids),
            _token=request.token,
        )
        await self.send(notice.encode())

    @property
    def name(self) -> str:
        return self._context._credential()[0]
