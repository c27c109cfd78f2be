"""The CoAP endpoint: aiocoap on one UDP socket, with what it leaves open to anybody's datagrams closed."""

import logging
from typing import Any

import aiocoap
import structlog

_log = structlog.get_logger(__name__)


async def open_endpoint(host: str, port: int) -> aiocoap.Context:
    """A context that serves nothing yet; its ``serversite`` is to be set."""
    # It warns of each datagram that is no CoAP: whoever can send datagrams could fill the operator's disk.
    logging.getLogger("coap-server").setLevel(logging.ERROR)
    context = await aiocoap.Context.create_server_context(None, bind=(host, port), transports=["udp6"])
    for tokens in context.request_interfaces:
        _drop_undecodable(tokens.token_interface.message_interface)
    return context


def _drop_undecodable(udp: Any) -> None:
    """Drop datagrams whose text options are not UTF-8; aiocoap 0.4.17 lets them raise through the event loop."""
    received = udp.datagram_msg_received

    def guarded(data: bytes, ancdata: Any, flags: int, address: Any) -> None:
        try:
            received(data, ancdata, flags, address)
        except UnicodeDecodeError:
            _log.debug("datagram dropped: an option is not UTF-8", peer=address[0])

    udp.datagram_msg_received = guarded
