"""LwM2M's server-side resources: /rd (OMA-TS-LightweightM2M_Transport §6.4.3) and /dp, the Send operation.

Error replies carry no payload, so that nobody unauthenticated can make us say more than he said (M8).
"""

import re
from typing import Any

import aiocoap
import structlog
from aiocoap.interfaces import Resource as CoapResource
from aiocoap.numbers.constants import Unreliable
from aiocoap.resource import PathCapable, Resource, Site

from standpipe.engine.batcher import BusyError, StoppedError
from standpipe.meter_gateway.delivery import Told
from standpipe.meter_gateway.lwm2m import registrations, senml, water
from standpipe.meter_gateway.lwm2m.contacts import Contacts
from standpipe.meter_gateway.lwm2m.identity import TransportIdentity, address
from standpipe.meter_gateway.lwm2m.registrations import SENDS, Known, NewRegistration
from standpipe.meter_gateway.lwm2m.request_limiter import RequestLimiter
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters.delivery_state import Heard
from standpipe.meters.keys import KeyRing
from standpipe.platform.clock import Clock
from standpipe.platform.database import DATABASE_DOWN
from standpipe.platform.errors import InvalidInputError, NotAuthenticatedError, NotFoundError
from standpipe.platform.reconnect import once_more

MAX_LIFETIME_S = 10 * 366 * 86_400
DEFAULT_LIFETIME_S = 86_400
MAX_OBJECTS_BYTES = 4_096
_SEGMENT = re.compile(r"[A-Za-z0-9_-]{8,64}")
MAX_REQUEST_BYTES = senml.MAX_BYTES
_log = structlog.get_logger(__name__)


class EntityTooLargeError(aiocoap.error.ConstructionRenderableError):  # type: ignore[misc]  # aiocoap is not typed.
    """More blocks than any meter's report needs."""

    code = aiocoap.REQUEST_ENTITY_TOO_LARGE


_CODES: tuple[tuple[type[Exception], Any], ...] = (
    (NotFoundError, aiocoap.NOT_FOUND),
    (NotAuthenticatedError, aiocoap.FORBIDDEN),
    (ParsingError, aiocoap.BAD_REQUEST),
    (InvalidInputError, aiocoap.BAD_REQUEST),
    # The meter keeps what it told, and tells it again.
    *((kind, aiocoap.SERVICE_UNAVAILABLE) for kind in (*DATABASE_DOWN, BusyError, StoppedError)),
)


class Door(Resource):  # type: ignore[misc]  # aiocoap is not typed.
    """A resource whose errors become CoAP codes in this one place."""

    def __init__(self, limiter: RequestLimiter) -> None:
        super().__init__()
        self._limiter = limiter

    async def needs_blockwise_assembly(self, request: aiocoap.Message) -> bool:
        """Always, up to a size: aiocoap would go on assembling for as long as somebody sends blocks.

        Raises EntityTooLargeError.
        """
        block = request.opt.block1
        if block is not None and block.start + len(request.payload) > MAX_REQUEST_BYTES:
            raise EntityTooLargeError
        return True

    async def render(self, request: aiocoap.Message) -> aiocoap.Message:
        """Answer, or say no in four bytes."""
        return await self._limiter.run(lambda: self._answer(request))

    async def _answer(self, request: aiocoap.Message) -> aiocoap.Message:
        try:
            # Handling begins with the database: a meter does not hear of a connection that was lost before.
            response: aiocoap.Message = await once_more(lambda: super(Door, self).render(request))
        except aiocoap.error.RenderableError as error:
            return _refusal(error.to_message().code)
        except Exception as error:
            code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
            if code is None:
                _log.exception("coap request failed", path=list(request.opt.uri_path))
                return _refusal(aiocoap.INTERNAL_SERVER_ERROR)
            _log.info("coap request refused", code=code.dotted, reason=str(error)[:200])
            return _refusal(code)
        return response


class Registrations(Door):
    """``POST /rd``: a meter registers, and so proves that it is awake."""

    def __init__(self, limiter: RequestLimiter, keys: KeyRing, identity: TransportIdentity, contacts: Contacts) -> None:
        super().__init__(limiter)
        self._keys, self._identity, self._contacts = keys, identity, contacts

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        """Register; the answer carries the new location."""
        query = query_of(request)
        wish = NewRegistration(
            identity=self._identity.at_registration(request.remote, query.get("ep", "")),
            has_proven=self._identity.meter_of(request.remote) is not None,
            remote=address(request.remote),
            lifetime_s=_lifetime_s(query) or DEFAULT_LIFETIME_S,
            # LwM2M 1.0 writes b=UQ, 1.1 a Q of its own beside b=U.
            queue_mode="Q" in query or "Q" in query.get("b", ""),
            objects=_objects(request),
            lwm2m=query.get("lwm2m", "1.0")[:8],
        )
        async with self._contacts.statements.connect() as conn:
            known = await registrations.register(conn, self._keys, wish)
        self._contacts.woke(known)
        response = aiocoap.Message(code=aiocoap.CREATED)
        response.opt.location_path = ("rd", known.registration.location)
        return response


class Located(Door, PathCapable):  # type: ignore[misc]  # aiocoap is not typed.
    """``POST /rd/{location}`` updates a registration, ``DELETE`` ends it."""

    def __init__(self, limiter: RequestLimiter, keys: KeyRing, identity: TransportIdentity, contacts: Contacts) -> None:
        super().__init__(limiter)
        self._keys, self._identity, self._contacts = keys, identity, contacts

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        """Update; the meter is awake, perhaps at another address."""
        location, proven = _location(request), self._identity.meter_of(request.remote)
        lifetime_s, objects = _lifetime_s(query_of(request)), _objects(request) or None
        async with self._contacts.statements.connect() as conn:
            try:
                known = await registrations.update_registration(
                    conn,
                    self._keys,
                    location=location,
                    proven=proven,
                    remote=address(request.remote),
                    lifetime_s=lifetime_s,
                    objects=objects,
                )
            except NotFoundError:
                if proven is not None:
                    # It may have ended while we kept it in memory.
                    self._contacts.drop(proven)
                raise
        self._contacts.woke(known)
        return aiocoap.Message(code=aiocoap.CHANGED)

    async def render_delete(self, request: aiocoap.Message) -> aiocoap.Message:
        """Deregister."""
        location, proven = _location(request), self._identity.meter_of(request.remote)
        async with self._contacts.statements.connect() as conn:
            meter_id = await registrations.deregister(conn, location, proven)
        self._contacts.forget(meter_id)
        return aiocoap.Message(code=aiocoap.DELETED)


class DataPush(Door):
    """``POST /dp``: readings that the meter kept while it slept. Answered 2.04 only once they are stored."""

    def __init__(
        self,
        limiter: RequestLimiter,
        keys: KeyRing,
        identity: TransportIdentity,
        contacts: Contacts,
        clock: Clock,
    ) -> None:
        super().__init__(limiter)
        self._keys, self._identity, self._contacts, self._clock = keys, identity, contacts, clock

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        """Store a SenML pack of the registered meter at this address."""
        registration = (await self._sender(request.remote)).registration
        content_format = request.opt.content_format
        if content_format not in (senml.CBOR_FORMAT, senml.JSON_FORMAT):
            # LwM2M 1.1 §6.4.4: Send takes SenML alone.
            return _refusal(aiocoap.UNSUPPORTED_CONTENT_FORMAT)
        now, meter_id = self._clock.now(), registration.meter_id
        found = water.observations_of(senml.decode(bytes(request.payload), int(content_format)), now)
        sent = (SENDS, (meter_id, address(request.remote)))
        await self._contacts.desk(Told(Heard(meter_id, found.report(meter_id, now)), (sent,)))
        self._contacts.told_elsewhere(meter_id)
        if not registration.sends:
            self._contacts.drop(meter_id)
        self._contacts.heard(meter_id)
        return aiocoap.Message(code=aiocoap.CHANGED)

    async def _sender(self, remote: Any) -> Known:
        """Find the sender of a request that names no location. Raises NotFoundError."""
        meter_id = self._identity.meter_of(remote)
        if meter_id is not None:
            known = await self._contacts.known(meter_id)
        else:
            async with self._contacts.statements.connect() as conn:
                known = await registrations.by_remote(conn, self._keys, address(remote))
        if not self._identity.may_use(remote, known.registration):
            raise NotFoundError("another meter's address")
        return known


def make_site(
    limiter: RequestLimiter, *, keys: KeyRing, identity: TransportIdentity, contacts: Contacts, clock: Clock
) -> CoapResource:
    """The whole server side."""
    site = Site()
    # aiocoap keeps exact paths and paths with a remainder apart, so /rd and /rd/{location} are two resources.
    registering = Registrations(limiter, keys, identity, contacts)
    pushing = DataPush(limiter, keys, identity, contacts, clock)
    # Some clients end a path with a slash, which in CoAP is one more, empty segment.
    for end in ([], [""]):
        site.add_resource(["rd", *end], registering)
        site.add_resource(["dp", *end], pushing)
    site.add_resource(["rd"], Located(limiter, keys, identity, contacts))
    return site


def _location(request: aiocoap.Message) -> str:
    path = request.opt.uri_path
    path = path[:-1] if path[-1:] == ("",) else path
    if len(path) != 1 or not _SEGMENT.fullmatch(path[0]):
        raise NotFoundError("no such location")
    return str(path[0])


def _refusal(code: Any) -> aiocoap.Message:
    # Unreliable: a confirmable answer would be retransmitted to whoever was named as the sender (M8). A meter that
    # misses it asks again, and aiocoap repeats it then.
    return aiocoap.Message(code=code, transport_tuning=Unreliable())


def query_of(request: aiocoap.Message) -> dict[str, str]:
    """The parameters of a request's query; one without a value has an empty one."""
    pairs = [item.partition("=") for item in request.opt.uri_query]
    return {name: value for name, _, value in pairs}


def _lifetime_s(query: dict[str, str]) -> int | None:
    text = query.get("lt")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text) or not 0 < int(text) <= MAX_LIFETIME_S:
        raise InvalidInputError("lt is not a usable lifetime")
    return int(text)


def _objects(request: aiocoap.Message) -> str:
    if len(request.payload) > MAX_OBJECTS_BYTES:
        raise InvalidInputError("an object list of unreasonable length")
    text = bytes(request.payload).decode("utf-8", "replace")
    return text.replace("\0", "")
