"""Protection against server-side request forgery: URLs from clients can reach only the public Internet.

A host name is resolved once, all its addresses are checked, and the connection goes to a checked address. So a name
that points into our network is refused, and DNS rebinding has no effect. TLS still verifies the name.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import httpcore

from momalisa.errors import AddressRefusedError

CONNECT_SECONDS = 5
"""Timeout to connect, and for the TLS handshake."""

Resolve = Callable[[str, int], Sequence[str]]
"""Resolves a host name and port; raises OSError if it has no address."""

# Source: the IANA IPv4 and IPv6 Special-Purpose Address Registries. The standard library's `is_global` is no
# substitute: its answer for some of these networks depends on the release of Python.
_REFUSED_IPV4 = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # "this network", the unspecified address among it
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers (CGNAT); the metadata of Alibaba Cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # the metadata of Azure, at a public address
        "169.254.0.0/16",  # link-local; the metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocols; the metadata of Oracle Cloud
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_GLOBAL_UNICAST = ip_network("2000::/3")
_REFUSED_IPV6 = tuple(
    ip_network(network)
    for network in (
        "2001::/23",  # IETF protocols; Teredo, which carries IPv4
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which carries IPv4
        "3fff::/20",  # documentation
    )
)
_NAT64 = ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Return whether an IP address is on the public Internet.

    An IPv6 address that embeds an IPv4 address (mapped, or NAT64) is treated as that address.

    Raises:
        ValueError: if it is not an IP address.
    """
    parsed = _plain(address)
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _REFUSED_IPV4)
    return parsed in _GLOBAL_UNICAST and not any(parsed in network for network in _REFUSED_IPV6)


def is_loopback(address: str) -> bool:
    """Return whether an IP address is a loopback address.

    Raises:
        ValueError: if it is not an IP address.
    """
    return _plain(address).is_loopback


def _plain(address: str) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address embeds, or else the address itself."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv4Address):
        return parsed
    if parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return IPv4Address(int(parsed) & 0xFFFFFFFF) if parsed in _NAT64 else parsed


def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host name, in the order in which to try them.

    Raises:
        OSError: if it has none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is empty or too long
        raise OSError(f"{host!r} is not a host name") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class GuardedBackend(httpcore.NetworkBackend):
    """Opens TCP connections to public addresses only, which all end at a deadline."""

    def __init__(
        self,
        *,
        deadline: float,
        loopback: bool = False,
        resolve: Resolve = resolve,
        network: httpcore.NetworkBackend | None = None,
    ) -> None:
        """Configure what is allowed.

        Args:
            deadline: of all connections, in monotonic seconds.
            loopback: whether loopback addresses are allowed, too.
            resolve: resolves host names.
            network: opens connections to checked addresses; by default, httpcore's own.
        """
        self._deadline = deadline
        self._loopback = loopback
        self._resolve = resolve
        self._network = network or httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline decides
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of a host that accepts.

        Raises:
            AddressRefusedError: if any of its addresses is not allowed; then none is tried.
            httpcore.ConnectError: if it has no address, or none accepts.
            httpcore.ConnectTimeout: if none accepts in time.
        """
        deadline = min(self._deadline, time.monotonic() + CONNECT_SECONDS)
        addresses = self._checked(host, port)
        error: Exception | None = None
        for tried, address in enumerate(addresses):
            rest = _rest(deadline, httpcore.ConnectTimeout) / (len(addresses) - tried)
            try:
                stream = self._network.connect_tcp(address, port, rest, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                error = failed
            else:
                return _TimedStream(stream, self._deadline)
        raise error or httpcore.ConnectError(f"{host} has no address")

    def _checked(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = self._resolve(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
        for address in addresses:
            if not is_public(address) and not (self._loopback and is_loopback(address)):
                raise AddressRefusedError(f"{host} leads to {address}, which is not on the public Internet.")
        return addresses


class _TimedStream(httpcore.NetworkStream):
    """A connection with one deadline (monotonic seconds) for all reads and writes, against slow senders."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, _rest(self._deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, _rest(self._deadline, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        rest = min(_rest(self._deadline, httpcore.ConnectTimeout), CONNECT_SECONDS)
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, rest), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _rest(deadline: float, error: type[httpcore.TimeoutException]) -> float:
    """Return the seconds until a deadline; raise `error` if it has passed."""
    rest = deadline - time.monotonic()
    if rest <= 0:
        raise error("deadline exceeded")
    return rest
