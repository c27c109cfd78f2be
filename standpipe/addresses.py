"""Who is calling: the socket's address, or what a proxy of ours says it saw. Never what a stranger writes (P10)."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

from starlette.requests import HTTPConnection

Network = IPv4Network | IPv6Network


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
