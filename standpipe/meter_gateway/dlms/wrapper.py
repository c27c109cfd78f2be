"""The DLMS/COSEM wrapper over TCP (IEC 62056-4-7, formerly 62056-47): eight octets of header, then one APDU. Pure."""

import struct
from dataclasses import dataclass

from standpipe.meter_gateway.parsing import ParsingError

VERSION = 1
HEADER_BYTES = 8
MAX_APDU_BYTES = 4_096
"""More than we let any meter send in one APDU (``max_pdu_bytes`` of its profile); the header could declare 64 kB."""
_HEADER = struct.Struct(">HHHH")


@dataclass(frozen=True, slots=True)
class WrapperFrame:
    """One APDU and the wrapper ports (logical device, client) that it goes between."""

    source: int
    destination: int
    apdu: bytes

    def to_bytes(self) -> bytes:
        """Encode it for the wire."""
        return _HEADER.pack(VERSION, self.source, self.destination, len(self.apdu)) + self.apdu

    @classmethod
    def from_bytes(cls, octets: bytes) -> "WrapperFrame":
        """Exactly one frame. Raises ParsingError."""
        frames = (unwrapper := Unwrapper()).feed(octets)
        if len(frames) != 1 or unwrapper.pending:
            raise ParsingError("not exactly one frame")
        return frames[0]


class Unwrapper:
    """Cuts a stream into frames. It never holds more than one frame's octets."""

    def __init__(self, max_apdu_bytes: int = MAX_APDU_BYTES) -> None:
        self._max_apdu_bytes = max_apdu_bytes
        self._buffer = bytearray()

    @property
    def pending(self) -> bool:
        """Tell whether a frame has begun and not ended."""
        return bool(self._buffer)

    def feed(self, octets: bytes) -> list[WrapperFrame]:
        """The frames that these octets complete.

        Raises ParsingError for another version, an empty APDU, or one declared too long; the stream cannot be
        followed after that, since nothing in it marks where a frame begins.
        """
        self._buffer += octets
        frames = []
        while len(self._buffer) >= HEADER_BYTES:
            version, source, destination, size = _HEADER.unpack_from(self._buffer)
            if version != VERSION:
                raise ParsingError(f"wrapper version {version}")
            if not 1 <= size <= self._max_apdu_bytes:
                raise ParsingError(f"an APDU of {size} bytes")
            end = HEADER_BYTES + size
            if len(self._buffer) < end:
                break
            frames.append(WrapperFrame(source, destination, bytes(self._buffer[HEADER_BYTES:end])))
            del self._buffer[:end]
        return frames
