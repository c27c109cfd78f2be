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

from standpipe.meter_gateway.lwm2m import registrations, senml, water
from standpipe.meter_gateway.lwm2m.contacts import Contacts
from standpipe.meter_gateway.lwm2m.dtls import keys as dtls_keys
from standpipe.meter_gateway.lwm2m.identity import TransportIdentity, address, who_sent
from standpipe.meter_gateway.lwm2m.registrations import Registration
from standpipe.meter_gateway.lwm2m.request_limiter import Workroom
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters.identity import by_transport_identity
from standpipe.meters.keys import KeyRing
from standpipe.platform.clock import Clock
from standpipe.platform.database import DATABASE_DOWN, Sessions
from standpipe.platform.errors import InvalidInputError, NotAuthenticatedError, NotFoundError
from standpipe.platform.reconnect import once_more
from standpipe.readings.reports import take_report

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
    *((kind, aiocoap.SERVICE_UNAVAILABLE) for kind in DATABASE_DOWN),
)


class Door(Resource):  # type: ignore[misc]  # aiocoap is not typed.
    """A resource whose errors become CoAP codes in this one place."""

    def __init__(self, room: Workroom) -> None:
        super().__init__()
        self._room = room

    async def needs_blockwise_assembly(self, request: aiocoap.Message) -> bool:
        """Always, up to a size: aiocoap would go on assembling for as long as somebody sends blocks."""
        block = request.opt.block1
        if block is not None and block.start + len(request.payload) > MAX_REQUEST_BYTES:
            raise EntityTooLargeError
        return True

    async def render(self, request: aiocoap.Message) -> aiocoap.Message:
        """Answer, or say no in four bytes."""
        return await self._room.run(lambda: self._answer(request))

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

    def __init__(
        self, room: Workroom, sessions: Sessions, keys: KeyRing, identity: TransportIdentity, contacts: Contacts
    ) -> None:
        super().__init__(room)
        self._sessions, self._keys, self._identity, self._contacts = sessions, keys, identity, contacts

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        """Register; the answer carries the new location."""
        query = query_of(request)
        identity = self._identity.at_registration(request.remote, query.get("ep", ""))
        async with self._sessions.begin() as session:
            try:
                meter = await by_transport_identity(session, self._keys, identity)
            except NotFoundError as error:
                raise NotAuthenticatedError("unknown endpoint") from error
            has_proven = self._identity.meter_of(request.remote) is not None
            if await dtls_keys.needs_dtls(session, meter.meter_id) is not has_proven:
                raise NotAuthenticatedError("not over this transport")
            registration = await registrations.register(
                session,
                meter_id=meter.meter_id,
                remote=address(request.remote),
                lifetime_s=_lifetime_s(query) or DEFAULT_LIFETIME_S,
                # LwM2M 1.0 writes b=UQ, 1.1 a Q of its own beside b=U.
                queue_mode="Q" in query or "Q" in query.get("b", ""),
                objects=_objects(request),
                lwm2m=query.get("lwm2m", "1.0")[:8],
            )
        self._contacts.woke(registration.meter_id)
        response = aiocoap.Message(code=aiocoap.CREATED)
        response.opt.location_path = ("rd", registration.location)
        return response


class Located(Door, PathCapable):  # type: ignore[misc]  # aiocoap is not typed.
    """``POST /rd/{location}`` updates a registration, ``DELETE`` ends it."""

    def __init__(self, room: Workroom, sessions: Sessions, identity: TransportIdentity, contacts: Contacts) -> None:
        super().__init__(room)
        self._sessions, self._identity, self._contacts = sessions, identity, contacts

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        """Update; the meter is awake, perhaps at another address."""
        known = await self._known(request)
        async with self._sessions.begin() as session:
            registration = await registrations.update_registration(
                session,
                location=known.location,
                remote=address(request.remote),
                lifetime_s=_lifetime_s(query_of(request)),
                objects=_objects(request) or None,
            )
        self._contacts.woke(registration.meter_id)
        return aiocoap.Message(code=aiocoap.CHANGED)

    async def render_delete(self, request: aiocoap.Message) -> aiocoap.Message:
        """Deregister."""
        registration = await self._known(request)
        async with self._sessions.begin() as session:
            await registrations.deregister(session, registration.location)
        return aiocoap.Message(code=aiocoap.DELETED)

    async def _known(self, request: aiocoap.Message) -> Registration:
        path = request.opt.uri_path
        path = path[:-1] if path[-1:] == ("",) else path
        if len(path) != 1 or not _SEGMENT.fullmatch(path[0]):
            raise NotFoundError("no such location")
        async with self._sessions() as session:
            registration = await registrations.by_location(session, path[0])
        if not self._identity.may_use(request.remote, registration):
            raise NotFoundError("another meter's location")
        return registration


class DataPush(Door):
    """``POST /dp``: readings that the meter kept while it slept. Answered 2.04 only once they are stored."""

    def __init__(
        self, room: Workroom, sessions: Sessions, identity: TransportIdentity, contacts: Contacts, clock: Clock
    ) -> None:
        super().__init__(room)
        self._sessions, self._identity, self._contacts, self._clock = sessions, identity, contacts, clock

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        """Store a SenML pack of the registered meter at this address."""
        registration = await who_sent(self._sessions, self._identity, request.remote)
        content_format = request.opt.content_format
        if content_format not in (senml.CBOR_FORMAT, senml.JSON_FORMAT):
            # LwM2M 1.1 §6.4.4: Send takes SenML alone.
            return _refusal(aiocoap.UNSUPPORTED_CONTENT_FORMAT)
        now = self._clock.now()
        facts = water.facts_of(senml.decode(bytes(request.payload), int(content_format)), now)
        report = facts.report(registration.meter_id, now)
        async with self._sessions.begin() as session:
            await take_report(session, report, now)
            await registrations.sent(session, registration.meter_id, address(request.remote))
        self._contacts.heard(registration.meter_id)
        return aiocoap.Message(code=aiocoap.CHANGED)


def make_site(
    room: Workroom,
    *,
    sessions: Sessions,
    keys: KeyRing,
    identity: TransportIdentity,
    contacts: Contacts,
    clock: Clock,
) -> CoapResource:
    """The whole server side."""
    site = Site()
    # aiocoap keeps exact paths and paths with a remainder apart, so /rd and /rd/{location} are two resources.
    registering, pushing = (
        Registrations(room, sessions, keys, identity, contacts),
        DataPush(room, sessions, identity, contacts, clock),
    )
    # Some clients end a path with a slash, which in CoAP is one more, empty segment.
    for end in ([], [""]):
        site.add_resource(["rd", *end], registering)
        site.add_resource(["dp", *end], pushing)
    site.add_resource(["rd"], Located(room, sessions, identity, contacts))
    return site


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
