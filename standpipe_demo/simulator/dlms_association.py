"""The server side of DLMS associations, as a meter has it: who may do what, and the services behind it."""

import hmac
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass

from standpipe_demo.simulator.dlms_frames import (
    Cryptographer,
    FrameError,
    Value,
    association_answer,
    ber_fields,
    decode,
    encode,
    size_of,
)
from standpipe_demo.simulator.dlms_objects import NAME, Objects, RefusedError

PUBLIC_CLIENT = 16
MAX_PDU = 512
"""Bytes that this meter sends at once; longer answers go out in blocks."""
_LLS, _HLS_GMAC = 1, 5
_CONTEXT_CIPHERED = 3
_INITIATE_ANSWER = bytes.fromhex("0800065f1f040000109d") + MAX_PDU.to_bytes(2, "big") + b"\x00\x07"
_COUNTER_ERROR = b"\xd8\x01\x06"
_NOT_ALLOWED = b"\xd8\x01\x01"
_REPLY_TO_HLS = (15, "0.0.40.0.0.255", 1)


@dataclass
class Identity:
    """Identity that the factory gave the meter. Keys and password in hex."""

    profile: str
    name: str
    system_title: str
    mechanism: str
    encryption_key: str = ""
    authentication_key: str = ""
    password: str = ""

    @property
    def title(self) -> bytes:
        """The system title."""
        return bytes.fromhex(self.system_title)


class Association:
    """One association on one connection. ``remember`` stores the meter's memory durably."""

    def __init__(self, identity: Identity, objects: Objects, remember: Callable[[], None]) -> None:
        self._identity, self._objects, self._remember = identity, objects, remember
        self._crypto: Cryptographer | None = None
        self._client, self._client_title = 0, b""
        self._challenges: tuple[bytes, bytes] | None = None
        self._open = False
        self._blocks: list[bytes] = []

    @property
    def is_private(self) -> bool:
        """Tell whether the client has shown that it may do more than ask for the meter's name."""
        return self._open and self._client != PUBLIC_CLIENT

    def answer(self, client: int, apdu: bytes) -> bytes:
        """The answer to one request. Raises FrameError for what is no request; the meter hangs up then."""
        if apdu[0] == 0x60:  # noqa: PLR2004 - AARQ.
            return self._associate(client, apdu)
        if apdu[0] == 0x62:  # noqa: PLR2004 - RLRQ.
            self._open, self._challenges = False, None
            return bytes.fromhex("6303800100")
        if client != self._client or not (self._open or self._challenges):
            return _NOT_ALLOWED
        if self._crypto is None:
            return self._serve(apdu)
        counter, clear = self._crypto.open_apdu(self._client_title, apdu)
        if counter <= self._objects.extra.heard_counter:
            return _COUNTER_ERROR
        self._objects.extra.heard_counter = counter
        return self._crypto.seal_apdu(self._identity.title, self.next_counter(), self._serve(clear))

    def seal_push(self, apdu: bytes) -> bytes:
        """A push as this meter protects it."""
        if self._identity.mechanism == "LLS":
            return apdu
        return self._cryptographer().seal_push(self._identity.title, self.next_counter(), apdu)

    def next_counter(self) -> int:
        """The next invocation counter, stored before it is used."""
        self._objects.extra.sent_counter += 1
        self._remember()
        return self._objects.extra.sent_counter

    def _cryptographer(self) -> Cryptographer:
        identity = self._identity
        return Cryptographer(bytes.fromhex(identity.encryption_key), bytes.fromhex(identity.authentication_key))

    def _associate(self, client: int, apdu: bytes) -> bytes:
        fields = ber_fields(apdu)
        self._open, self._challenges, self._crypto, self._client = False, None, None, client
        context = fields.get(0xA1, b"\0")[-1]
        mechanism = fields.get(0x8B, b"\0")[-1]
        secret = fields.get(0xAC, b"\0\0")[2:]
        initiate = fields.get(0xBE, b"\0\0")[2:]
        self._client_title = fields.get(0xA6, b"\0\0")[2:]
        wanted = 0 if client == PUBLIC_CLIENT else _LLS if self._identity.mechanism == "LLS" else _HLS_GMAC
        if mechanism != wanted:
            return self._refuse(context, 14)
        if mechanism == _LLS and not hmac.compare_digest(secret, bytes.fromhex(self._identity.password)):
            return self._refuse(context, 13)
        answer = _INITIATE_ANSWER
        if context == _CONTEXT_CIPHERED:
            self._crypto = self._cryptographer()
            try:
                counter, initiate = self._crypto.open_apdu(self._client_title, initiate)
            except FrameError:
                self._crypto = None
                return self._refuse(1, 13)
            if counter <= self._objects.extra.heard_counter:
                self._crypto = None
                return self._refuse(1, 1)
            self._objects.extra.heard_counter = counter
            answer = self._crypto.seal_apdu(self._identity.title, self.next_counter(), answer)
        challenge = b""
        if mechanism == _HLS_GMAC:
            challenge = secrets.token_bytes(16)
            self._challenges = (secret, challenge)
        else:
            self._open = True
        return association_answer(
            context=context,
            accepted=True,
            diagnostic=14 if challenge else 0,
            mechanism=mechanism,
            title=self._identity.title,
            challenge=challenge,
            initiate=answer,
        )

    def _refuse(self, context: int, diagnostic: int) -> bytes:
        return association_answer(
            context=1 if context != _CONTEXT_CIPHERED else context,
            accepted=False,
            diagnostic=diagnostic,
            mechanism=0,
            title=self._identity.title,
            challenge=b"",
            initiate=_INITIATE_ANSWER,
        )

    def _serve(self, apdu: bytes) -> bytes:
        """One service, in clear."""
        if apdu[:2] == b"\xc0\x03":
            return self._list(apdu)
        if apdu[:2] == b"\xc0\x02":
            return self._block(apdu[2], int.from_bytes(apdu[3:7], "big") + 1)
        try:
            service, kind, invoke = apdu[0], apdu[1], apdu[2]
            class_id, index = struct.unpack(">H", apdu[3:5])[0], apdu[11]
            obis = ".".join(str(part) for part in apdu[5:11])
            more, rest = apdu[12], apdu[13:]
        except IndexError as error:
            raise FrameError("a request cut short") from error
        if kind != 1 or service not in {0xC0, 0xC1, 0xC3}:
            return _NOT_ALLOWED
        return self._do(service, invoke, (class_id, obis, index), more, rest)

    def _list(self, apdu: bytes) -> bytes:
        """A get-request-with-list, without selective access."""
        answers = b""
        for number in range(apdu[3]):
            one = apdu[4 + 10 * number : 14 + 10 * number]
            if len(one) != 10 or one[9]:  # noqa: PLR2004 - descriptor and access selection.
                raise FrameError("a list cut short")
            target = (struct.unpack(">H", one[:2])[0], ".".join(str(part) for part in one[2:8]), one[8])
            try:
                self._check_access(target)
                answers += b"\0" + encode(self._objects.read(*target, None))
            except RefusedError as error:
                answers += bytes([1, error.result])
        return bytes([0xC4, 3, apdu[2], apdu[3]]) + answers

    def _do(self, service: int, invoke: int, target: tuple[int, str, int], more: int, rest: bytes) -> bytes:
        try:
            if service == 0xC3:  # noqa: PLR2004 - action.
                return self._act(invoke, target, decode(rest)[0] if more else ("null", None))
            self._check_access(target)
            if service == 0xC1:  # noqa: PLR2004 - set.
                self._objects.write(*target, decode(rest)[0])
                return bytes([0xC5, 1, invoke, 0])
            selection = decode(rest[1:])[0] if more else None
            return self._got(invoke, encode(self._objects.read(*target, selection)))
        except RefusedError as error:
            if service == 0xC0:  # noqa: PLR2004 - get.
                return bytes([0xC4, 1, invoke, 1, error.result])
            return bytes([0xC5 if service == 0xC1 else 0xC7, 1, invoke, error.result])  # noqa: PLR2004

    def _act(self, invoke: int, target: tuple[int, str, int], value: Value) -> bytes:
        if target == _REPLY_TO_HLS and self._challenges is not None:
            return self._prove(invoke, bytes(value[1]))
        self._check_access(target)
        returned = self._objects.act(*target, value)
        if returned is None:
            return bytes([0xC7, 1, invoke, 0, 0])
        return bytes([0xC7, 1, invoke, 0, 1, 0]) + encode(returned)

    def _prove(self, invoke: int, proof: bytes) -> bytes:
        from_client, ours = self._challenges or (b"", b"")
        self._challenges = None
        crypto = self._cryptographer()
        expected = crypto.gmac(self._client_title, int.from_bytes(proof[1:5], "big"), ours)
        if not hmac.compare_digest(proof, expected):
            return bytes([0xC7, 1, invoke, 3])
        self._open = True
        answer = crypto.gmac(self._identity.title, self.next_counter(), from_client)
        return bytes([0xC7, 1, invoke, 0, 1, 0]) + encode(("octets", answer))

    def _check_access(self, target: tuple[int, str, int]) -> None:
        if not self._open or (self._client == PUBLIC_CLIENT and target != (1, NAME, 2)):
            raise RefusedError(3)

    def _got(self, invoke: int, raw: bytes) -> bytes:
        if len(raw) + 40 <= MAX_PDU:
            return bytes([0xC4, 1, invoke, 0]) + raw
        step = MAX_PDU - 60
        self._blocks = [raw[at : at + step] for at in range(0, len(raw), step)]
        return self._block(invoke, 1)

    def _block(self, invoke: int, number: int) -> bytes:
        if not 1 <= number <= len(self._blocks):
            return bytes([0xC4, 1, invoke, 1, 19])
        raw = self._blocks[number - 1]
        last = number == len(self._blocks)
        return bytes([0xC4, 2, invoke, last]) + number.to_bytes(4, "big") + b"\0" + size_of(len(raw)) + raw
