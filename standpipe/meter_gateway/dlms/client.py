"""The client side of one association: requests out, answers in, both protected; nothing here knows a socket."""

import hmac
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from standpipe.meter_gateway.delivery import NoAnswerError
from standpipe.meter_gateway.dlms import acse, apdu, axdr, security
from standpipe.meter_gateway.dlms.acse import AssociationRequest, AssociationResponse, Mechanism
from standpipe.meter_gateway.dlms.apdu import Access, Attribute, ExceptionResponse, Response
from standpipe.meter_gateway.dlms.axdr import Data, octets
from standpipe.meter_gateway.dlms.security import GlobalKeys
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.platform.errors import StandpipeError

ASSOCIATION = "0.0.40.0.0.255"
"""The current association object (class 15)."""
CHALLENGE_BYTES = 32
ASSOCIATION_COUNTERS = 4
"""An association spends three. So few are taken before it: whoever claims a meter's name makes us try."""
COUNTERS_AT_ONCE = 256
MAX_BLOCKS = 512


@dataclass
class AccessRefusedError(StandpipeError):
    """The meter answered, and refused: ``result`` is its data-access or action result."""

    attribute: Attribute
    result: int

    @property
    def in_doubt(self) -> bool:
        """Tell whether a later try may go better."""
        return self.result in apdu.IN_DOUBT

    def __str__(self) -> str:
        return f"{self.attribute} refused with result {self.result}"


@dataclass
class AssociationRefusedError(StandpipeError):
    """The meter does not associate with us; ``diagnostic`` as in the AARE."""

    diagnostic: int

    def __str__(self) -> str:
        return f"association refused, diagnostic {self.diagnostic}"


class Wire(Protocol):
    """The wire that carries APDUs to one meter and back."""

    async def exchange(self, client: int, server: int, apdu: bytes) -> bytes:
        """The answer to a request. Raises NoAnswerError."""
        ...


@dataclass(frozen=True, slots=True)
class AssociationAs:
    """Our side of an association: wrapper ports, mechanism, and how much we take at once."""

    client: int
    server: int
    mechanism: Mechanism
    ciphered: bool
    max_pdu_bytes: int = 1024


@dataclass
class Counters:
    """Invocation counters of both directions. ``reserve(count)`` gives the first of so many that nobody else gets."""

    heard: int
    """The highest of the meter's that we have believed."""
    reserve: Callable[[int], Awaitable[int]]
    _next: int = 0
    _end: int = 0

    async def next(self, at_once: int = COUNTERS_AT_ONCE) -> int:
        """Ours, never used before and never used again."""
        if self._next >= self._end:
            self._next = await self.reserve(at_once)
            self._end = self._next + at_once
        counter, self._next = self._next, self._next + 1
        return counter

    def believe(self, counter: int) -> None:
        """The meter's; raises ParsingError for one that is not above all before (M5)."""
        if counter <= self.heard:
            raise ParsingError(f"the meter's invocation counter {counter} is not above {self.heard}")
        self.heard = counter


@dataclass
class Secrets:
    """Secrets that the two sides of a private association share. ``title`` and ``meter_title``: system titles."""

    title: bytes
    meter_title: bytes
    counters: Counters
    keys: GlobalKeys | None = None
    password: bytes = field(default=b"", repr=False)


class DlmsClient:
    """One association over a wire; one request at a time, which the caller sees to.

    Every method raises NoAnswerError where no answer came, or one that is not the meter's to this request; the
    association is of no more use then.
    """

    def __init__(self, wire: Wire, association: AssociationAs, secrets_: Secrets | None = None) -> None:
        self._wire, self._as, self._secrets = wire, association, secrets_
        self._invoke_id = 0
        self._max_pdu_bytes = association.max_pdu_bytes
        self._at_once = ASSOCIATION_COUNTERS

    async def associate(self) -> None:
        """Open the association; after HLS both sides have proven that they hold the keys.

        Raises AssociationRefusedError, ParsingError where the peer is not the meter that it should be.
        """
        challenge = secrets.token_bytes(CHALLENGE_BYTES)
        answer = AssociationResponse.from_bytes(await self._exchange(await self._request(challenge)))
        if not answer.accepted:
            raise AssociationRefusedError(answer.diagnostic)
        if answer.ciphered != self._as.ciphered or answer.mechanism not in (0, self._as.mechanism.number):
            raise ParsingError("another context or mechanism than asked for")
        initiate = answer.initiate
        if self._as.ciphered:
            keys, known = self._protection()
            if answer.title != known.meter_title:
                raise ParsingError("another meter's system title")
            opened = security.unseal_apdu(keys, known.meter_title, initiate)
            known.counters.believe(opened.counter)
            initiate = opened.apdu
        taken_at_once = acse.max_pdu_of(initiate)
        self._max_pdu_bytes = min(self._max_pdu_bytes, taken_at_once or self._max_pdu_bytes)
        if self._as.mechanism is Mechanism.HLS_GMAC:
            await self._prove(challenge, answer.challenge)
        self._at_once = COUNTERS_AT_ONCE

    async def release(self) -> None:
        """Close the association and leave the wire open for another."""
        await self._exchange(acse.RELEASE)

    async def get(self, attribute: Attribute, selection: tuple[int, Data] | None = None) -> Data:
        """An attribute's value, put together where it comes in blocks.

        Raises AccessRefusedError, ParsingError where it is no value.
        Raises NoAnswerError.
        """
        invoke_id = self._next_invoke_id()
        request = apdu.get_request(invoke_id, attribute, selection)
        response = await self._ask(request, apdu.GET_RESPONSE, invoke_id, attribute)
        if response.block is None:
            return _data_of(response)
        raw, number = b"", 1
        while (block := response.block) is not None:
            raw += block.raw
            if block.number != number or number > MAX_BLOCKS or len(raw) > axdr.MAX_BYTES:
                raise NoAnswerError("blocks out of order or without end")
            if block.is_last:
                return axdr.decode(raw)
            request = apdu.get_next_request(invoke_id, number)
            response = await self._ask(request, apdu.GET_RESPONSE, invoke_id, attribute)
            number += 1
        raise NoAnswerError("an answer in blocks that stops being one")

    async def get_list(self, attributes: Sequence[Attribute]) -> tuple[Data, ...]:
        """Several attributes in one request, and so of one instant.

        Raises AccessRefusedError for the first refused, NoAnswerError.
        """
        invoke_id = self._next_invoke_id()
        request = apdu.get_list_request(invoke_id, attributes)
        response = await self._ask(request, apdu.GET_RESPONSE, invoke_id, attributes[0])
        if len(response.listed) != len(attributes):
            raise NoAnswerError("not the list that was asked for")
        for attribute, value in zip(attributes, response.listed, strict=True):
            if isinstance(value, int):
                raise AccessRefusedError(attribute, value)
        return tuple(value for value in response.listed if isinstance(value, Data))

    async def set(self, attribute: Attribute, value: Data) -> None:
        """Write an attribute. Raises AccessRefusedError."""
        invoke_id = self._next_invoke_id()
        request = apdu.set_request(invoke_id, attribute, value)
        await self._ask(request, apdu.SET_RESPONSE, invoke_id, attribute)

    async def act(self, method: Attribute, value: Data) -> Data | None:
        """Call a method; what it returns. Raises AccessRefusedError."""
        invoke_id = self._next_invoke_id()
        request = apdu.action_request(invoke_id, method, value)
        return (await self._ask(request, apdu.ACTION_RESPONSE, invoke_id, method)).data

    def open_push(self, apdu: bytes) -> tuple[bytes, int | None]:
        """A push of this meter's, out of its protection, and the counter that it came under.

        Raises ParsingError for one that is not this meter's, or was heard before.
        """
        if not self._as.ciphered:
            return apdu, None
        keys, known = self._protection()
        opened = security.unseal_apdu(keys, known.meter_title, apdu)
        known.counters.believe(opened.counter)
        return opened.apdu, opened.counter

    async def _request(self, challenge: bytes) -> bytes:
        initiate = acse.initiate_request(self._as.max_pdu_bytes)
        if self._secrets is None:
            return AssociationRequest(self._as.mechanism, ciphered=False, initiate=initiate).to_bytes()
        known = self._secrets
        if self._as.ciphered:
            keys, _ = self._protection()
            counter = await known.counters.next(ASSOCIATION_COUNTERS)
            initiate = security.seal_apdu(keys, known.title, counter, initiate)
        secret = challenge if self._as.mechanism is Mechanism.HLS_GMAC else known.password
        title = known.title if self._as.mechanism is Mechanism.HLS_GMAC or self._as.ciphered else None
        return AssociationRequest(self._as.mechanism, self._as.ciphered, initiate, title, secret).to_bytes()

    async def _prove(self, ours: bytes, theirs: bytes) -> None:
        """HLS passes 3 and 4: answer the meter's challenge, and check its answer to ours."""
        keys, known = self._protection()
        if not 8 <= len(theirs) <= 64 or theirs == ours:  # noqa: PLR2004 - the standard's bounds.
            raise ParsingError("a challenge that is none")
        heard_before = known.counters.heard
        counter = await known.counters.next(ASSOCIATION_COUNTERS)
        answer = security.gmac(keys, known.title, counter, theirs)
        try:
            returned = await self.act(Attribute(15, ASSOCIATION, 1), octets(answer))
        except AccessRefusedError as error:
            raise AssociationRefusedError(13) from error
        proof = b"" if returned is None else returned.octets
        theirs_counter = int.from_bytes(proof[1:5], "big")
        expected = security.gmac(keys, known.meter_title, theirs_counter, ours)
        if not hmac.compare_digest(proof, expected) or theirs_counter <= heard_before:
            raise ParsingError("the meter does not prove that it holds its keys")

    async def _ask(self, request: bytes, service: int, invoke_id: int, attribute: Attribute) -> Response:
        if len(request) > self._max_pdu_bytes:
            raise AccessRefusedError(attribute, Access.OTHER_REASON)
        sent = request
        if self._as.ciphered:
            keys, known = self._protection()
            sent = security.seal_apdu(keys, known.title, await known.counters.next(self._at_once), request)
        answer = await self._exchange(sent)
        try:
            parsed = apdu.parse_answer(self._opened(answer))
        except ParsingError as error:
            raise NoAnswerError(f"not the meter's answer: {error}") from error
        if isinstance(parsed, ExceptionResponse):
            # It comes in clear, so that nothing proves it to be the meter's: it decides nothing.
            raise NoAnswerError(f"exception {parsed.state_error}/{parsed.service_error} from the meter")
        if parsed.service != service or parsed.invoke_id != invoke_id:
            raise NoAnswerError("the answer to another request")
        if parsed.result != Access.SUCCESS:
            raise AccessRefusedError(attribute, parsed.result)
        return parsed

    def _opened(self, answer: bytes) -> bytes:
        if not self._as.ciphered or answer[0] in (apdu.EXCEPTION_RESPONSE, apdu.CONFIRMED_SERVICE_ERROR):
            return answer
        keys, known = self._protection()
        opened = security.unseal_apdu(keys, known.meter_title, answer)
        known.counters.believe(opened.counter)
        return opened.apdu

    async def _exchange(self, apdu: bytes) -> bytes:
        return await self._wire.exchange(self._as.client, self._as.server, apdu)

    def _protection(self) -> tuple[GlobalKeys, Secrets]:
        if self._secrets is None or self._secrets.keys is None:
            raise AssociationRefusedError(14)
        return self._secrets.keys, self._secrets

    def _next_invoke_id(self) -> int:
        self._invoke_id = self._invoke_id % 15 + 1
        return self._invoke_id


def _data_of(response: Response) -> Data:
    if response.data is None:
        raise NoAnswerError("an answer without data")
    return response.data
