"""One meter's TCP connection: frames in and out, at most one request under way, pushes set aside."""

import asyncio
import time
from collections.abc import Callable
from typing import cast

from standpipe.meter_gateway.delivery import NoAnswerError
from standpipe.meter_gateway.dlms import apdu, security
from standpipe.meter_gateway.dlms.wrapper import Unwrapper, WrapperFrame
from standpipe.meter_gateway.parsing import ParsingError

_PUSHES = (apdu.DATA_NOTIFICATION, security.GENERAL_GLO_CIPHERING)


class DlmsWire(asyncio.Protocol):
    """``opened``, ``pushed`` and ``closed`` are told of what happens. Small on purpose: thousands of them lie idle."""

    __slots__ = (
        *("_answer", "_answer_timeout_s", "_answered", "_closed", "_opened", "_pushed", "_transport", "_unwrapper"),
        *("frame_since_s", "heard_at_s", "opened_at_s", "peer"),
    )

    def __init__(
        self,
        *,
        answer_timeout_s: float,
        opened: Callable[["DlmsWire"], None],
        pushed: Callable[["DlmsWire", bytes], None],
        closed: Callable[["DlmsWire"], None],
    ) -> None:
        self._answer_timeout_s = answer_timeout_s
        self._opened, self._pushed, self._closed = opened, pushed, closed
        self._unwrapper = Unwrapper()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._answered = b""
        self.peer = ""
        self.opened_at_s = self.heard_at_s = time.monotonic()
        self.frame_since_s: float | None = None
        """Since when a frame has been on its way that is not whole yet."""

    @property
    def is_open(self) -> bool:
        """Tell whether the peer can still be spoken to."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A meter, or somebody, has dialled in."""
        self._transport = cast("asyncio.Transport", transport)
        address = transport.get_extra_info("peername")
        self.peer = f"{address[0]}:{address[1]}" if address else "?"
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        """Octets, cut where the network liked to."""
        try:
            frames = self._unwrapper.feed(data)
        except ParsingError as error:
            self.close(str(error))
            return
        now_s = time.monotonic()
        if frames or self.frame_since_s is None:
            self.frame_since_s = now_s if self._unwrapper.pending else None
        for frame in frames:
            self.heard_at_s = now_s
            if frame.apdu[0] in _PUSHES:
                self._pushed(self, frame.apdu)
            elif frame.apdu == self._answered:
                # Said twice. No two answers are alike: each has a number, and a counter where it is ciphered.
                continue
            elif self._answer is not None and not self._answer.done():
                self._answered = frame.apdu
                self._answer.set_result(frame.apdu)
            else:
                self.close("an answer that nobody asked for")
                return

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.close(str(exc) if exc else "the meter hung up")

    async def exchange(self, client: int, server: int, apdu: bytes) -> bytes:
        """The answer to a request. Raises NoAnswerError; the connection is closed then, for a late answer must not
        be taken for another request's (M6).
        """
        if self._transport is None:
            raise NoAnswerError("the connection has ended")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(WrapperFrame(client, server, apdu).to_bytes())
        try:
            async with asyncio.timeout(self._answer_timeout_s):
                return await self._answer
        except TimeoutError as error:
            self.close("no answer in time")
            raise NoAnswerError(f"no answer within {self._answer_timeout_s:g} s") from error
        finally:
            self._answer = None

    def close(self, reason: str) -> None:
        """End the connection, once."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        transport.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(NoAnswerError(f"the connection has ended: {reason}"))
        self._closed(self)
