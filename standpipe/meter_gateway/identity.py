"""The one place from which a transport says who speaks.

Plain UDP carries no credential: a meter names itself at registration, and later requests are known by the address
that registered, or by the unguessable location that it was given. That is why plain UDP is off unless the operator
has a private network; what matters most, credit and its confirmation, is authenticated by the prepaid frames
themselves. Under DTLS the session's PSK identity answers both questions, and ``ep`` must equal it.
"""

from typing import Any, Protocol

from standpipe.db.engine import Sessions
from standpipe.errors import InvalidInputError, NotFoundError
from standpipe.meters.registrations import Registration, by_remote


class TransportIdentity(Protocol):
    """What a transport knows of its peers."""

    def at_registration(self, remote: Any, endpoint: str) -> str:
        """The identity under which ``remote`` registers.

        Raises InvalidInputError where ``endpoint`` is no endpoint name, NotAuthenticatedError where it is not the
        name of this peer.
        """
        ...

    def may_use(self, remote: Any, registration: Registration) -> bool:
        """Whether ``remote`` may act for this registration, whose location it named."""
        ...


class PlainUdpIdentity:
    """No credential: the endpoint's own word, then possession of the location."""

    def at_registration(self, remote: Any, endpoint: str) -> str:
        """The endpoint name, which must look like one."""
        del remote
        if not endpoint or len(endpoint) > 64 or not endpoint.isprintable():  # noqa: PLR2004 - longer than any serial.
            raise InvalidInputError("no usable endpoint name")
        return endpoint

    def may_use(self, remote: Any, registration: Registration) -> bool:
        """Who knows the location may use it, from any address (M17)."""
        del remote, registration
        return True


def address(remote: Any) -> str:
    """A peer's address as registrations keep it, e.g. ``udp://127.0.0.1:40001``."""
    return f"udp://{remote.hostinfo}"


async def who_sent(sessions: Sessions, identity: TransportIdentity, remote: Any) -> Registration:
    """The registration of a request that names no location. Raises NotFoundError."""
    async with sessions() as session:
        registration = await by_remote(session, address(remote))
    if not identity.may_use(remote, registration):
        raise NotFoundError("another meter's address")
    return registration
