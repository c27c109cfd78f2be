"""The CoAP endpoint: aiocoap on our sockets, with what it leaves open to anybody's datagrams closed."""

import logging
import socket
from typing import Any

import aiocoap
import structlog

from standpipe.platform.errors import SettingsError

_log = structlog.get_logger(__name__)


def new_context() -> aiocoap.Context:
    """A context without a transport yet; its ``serversite`` is to be set."""
    # It warns of each datagram that is no CoAP: whoever can send datagrams could fill the operator's disk.
    logging.getLogger("coap-server").setLevel(logging.ERROR)
    return aiocoap.Context(loggername="coap-server")


async def open_endpoint(host: str, port: int) -> aiocoap.Context:
    """A context over plain UDP that serves nothing yet. Raises SettingsError where the port is taken."""
    require_free(host, port, "STANDPIPE_COAP_PORT")
    logging.getLogger("coap-server").setLevel(logging.ERROR)
    context = await aiocoap.Context.create_server_context(None, bind=(host, port), transports=["udp6"])
    for tokens in context.request_interfaces:
        _drop_undecodable(tokens.token_interface.message_interface)
    return context


def require_free(host: str, port: int, setting: str) -> None:
    """Raises SettingsError naming ``setting`` where the UDP port is taken.

    aiocoap binds with SO_REUSEPORT, under which two gateways would silently share out each other's datagrams.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"UDP port {port} on {host} cannot be used ({error.strerror}); set {setting} to a free one."
            ) from None


def _drop_undecodable(udp: Any) -> None:
    """Drop datagrams whose text options are not UTF-8; aiocoap 0.4.17 lets them raise through the event loop."""
    received = udp.datagram_msg_received

    def guarded(data: bytes, ancdata: Any, flags: int, address: Any) -> None:
        try:
            received(data, ancdata, flags, address)
        except UnicodeDecodeError:
            _log.debug("datagram dropped: an option is not UTF-8", peer=address[0])

    udp.datagram_msg_received = guarded
