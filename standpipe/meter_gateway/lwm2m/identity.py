"""The one place from which a transport says who speaks.

Under DTLS the session's PSK identity says it: ``ep`` must equal it, and a session acts for its own meter and no other.
Plain UDP carries no credential: a meter names itself at registration, and later requests are known by the address
that registered, or by the unguessable location that it was given. That is why plain UDP is off unless the operator
has a private network, and why a meter that has a DTLS key is not heard on it.
"""

from typing import Any, Protocol

from standpipe.meter_gateway.lwm2m.dtls.session import DtlsSession
from standpipe.meter_gateway.lwm2m.registrations import Registration
from standpipe.platform.errors import InvalidInputError, NotAuthenticatedError, NotFoundError

_DTLS = "dtls://"


class TransportIdentity(Protocol):
    """Knowledge that a transport has of its peers."""

    def at_registration(self, remote: Any, endpoint: str) -> str:
        """The identity under which ``remote`` registers.

        Raises InvalidInputError where ``endpoint`` is no endpoint name, NotAuthenticatedError where it is not the
        name of this peer.
        """
        ...

    def may_use(self, remote: Any, registration: Registration) -> bool:
        """Tell whether ``remote`` may act for this registration, whose location it named."""
        ...

    def meter_of(self, remote: Any) -> str | None:
        """The id of the meter that ``remote`` has proven to be; None where the transport proves nothing."""
        ...


class PlainUdpIdentity:
    """No credential: the endpoint's own word, then possession of the location."""

    def at_registration(self, remote: Any, endpoint: str) -> str:
        """The endpoint name, which must look like one. Raises InvalidInputError."""
        del remote
        if not endpoint or len(endpoint) > 64 or not endpoint.isprintable():  # noqa: PLR2004 - longer than any serial.
            raise InvalidInputError("no usable endpoint name")
        return endpoint

    def may_use(self, remote: Any, registration: Registration) -> bool:
        """Allow whoever knows the location, from any address (M17); what registered over DTLS stays there."""
        del remote
        return not registration.remote.startswith(_DTLS)

    def meter_of(self, remote: Any) -> None:
        """Nothing is proven."""
        del remote


class DtlsIdentity:
    """The session's PSK identity."""

    def at_registration(self, remote: DtlsSession, endpoint: str) -> str:
        """The identity; LwM2M 1.1 lets a client leave ``ep`` out where the transport tells it.

        Raises NotAuthenticatedError.
        """
        if endpoint and endpoint != remote.identity:
            raise NotAuthenticatedError("ep is not the session's identity")
        return remote.identity

    def may_use(self, remote: DtlsSession, registration: Registration) -> bool:
        """Its own meter's, from whatever address (M4, M17)."""
        return remote.is_open and registration.meter_id == remote.meter_id

    def meter_of(self, remote: DtlsSession) -> str:
        """The meter whose key opened the session. Raises NotFoundError where that has ended."""
        if not remote.is_open:
            raise NotFoundError("this session has ended")
        return remote.meter_id


class EachTransport:
    """Asks the one that a request came by."""

    def __init__(self) -> None:
        self._dtls, self._plain = DtlsIdentity(), PlainUdpIdentity()

    def at_registration(self, remote: Any, endpoint: str) -> str:
        """See TransportIdentity."""
        return self._of(remote).at_registration(remote, endpoint)

    def may_use(self, remote: Any, registration: Registration) -> bool:
        """See TransportIdentity."""
        return self._of(remote).may_use(remote, registration)

    def meter_of(self, remote: Any) -> str | None:
        """See TransportIdentity."""
        return self._of(remote).meter_of(remote)

    def _of(self, remote: Any) -> TransportIdentity:
        return self._dtls if isinstance(remote, DtlsSession) else self._plain


def address(remote: Any) -> str:
    """A peer's address as registrations keep it, e.g. ``udp://127.0.0.1:40001``; under DTLS the session too."""
    return remote.contact_address if isinstance(remote, DtlsSession) else f"udp://{remote.hostinfo}"


def session_id_of(address_: str) -> str | None:
    """The DTLS session in such an address; None for plain UDP."""
    return address_.rpartition("/")[2] if address_.startswith(_DTLS) else None
