"""Address of a caller: the socket's, or what a proxy of ours says it saw. Never what a stranger writes (P10)."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from starlette.requests import HTTPConnection

Network = IPv4Network | IPv6Network
IPV6_PREFIX = 64
"""Prefix length that one subscriber has of IPv6, and can change addresses in as they like."""


def caller_address(request: HTTPConnection, trusted_proxies: Sequence[Network]) -> str | None:
    """The nearest address that is not a trusted proxy's; None where the chain cannot be read.

    ``X-Forwarded-For`` is read from the right, as each trusted proxy appended to it; without trusted proxies it is
    not read at all.
    """
    hop = request.client.host if request.client else ""
    chain = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
    while True:
        try:
            address = ip_address(hop.strip())
        except ValueError:
            return None
        if not any(address in network for network in trusted_proxies):
            return str(address)
        if not chain or not chain[-1].strip():
            return str(address)
        hop = chain.pop()


def subscriber(address: str | None) -> str:
    """Reduce an address to what stands for one asker: all of IPv4, the network part of IPv6."""
    if address is None:
        return "unknown"
    parsed = ip_address(address)
    if parsed.version == 4:  # noqa: PLR2004 - IPv4.
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ip_network((parsed, IPV6_PREFIX), strict=False))
