"""Client addresses: behind trusted proxies, and grouped into the networks that rate limits count."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network


def client_address(peer: str, forwarded: Sequence[str], trusted: Sequence[IPv4Network | IPv6Network]) -> str:
    """Return the address of the client, which may be behind trusted proxies.

    Args:
        peer: the address at the other end of the connection.
        forwarded: the X-Forwarded-For headers of the request. Each proxy appends the address that called it, and a
            client can send any value, so entries are read from the right, up to the first address that is not a
            trusted proxy.
        trusted: networks of the trusted proxies.
    """
    address = peer
    for hop in reversed(",".join(forwarded).split(",")):
        previous = parse(hop.strip())
        if previous is None or not is_among(address, trusted):
            break
        address = str(previous)
    return address


def is_among(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Return whether an address lies in one of the networks."""
    parsed = parse(address)
    return parsed is not None and any(parsed in network for network in networks)


def client_network(address: str) -> str:
    """Return the network that counts as one tenant: an IPv4 address, or the /64 of an IPv6 address."""
    parsed = parse(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((int(parsed), 64), strict=False))
    return address if parsed is None else str(parsed)


def parse(address: str) -> IPv4Address | IPv6Address | None:
    """Parse an address; an IPv4-mapped IPv6 address becomes IPv4. Return None if it is not an address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return parsed.ipv4_mapped or parsed if isinstance(parsed, IPv6Address) else parsed
