"""The addresses to which webhooks may be sent."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import httpcore
import pytest

from momalisa.errors import AddressRefusedError
from momalisa.webhooks.ssrf import GuardedBackend, is_loopback, is_public, resolve


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "93.184.216.34",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.1",
        "192.167.255.255",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2a00:1450:4001:82a::200e",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",  # 1.1.1.1 by NAT64
    ],
)
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.100.100.200",  # metadata of Alibaba Cloud
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",  # metadata of Azure
        "169.254.0.1",
        "169.254.169.254",  # metadata of AWS, Google Cloud, Azure
        "169.254.170.2",  # credentials of tasks on AWS
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",  # metadata of Oracle Cloud
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",  # 127.0.0.1, IPv4-compatible
        "::ffff:0:7f00:1",  # 127.0.0.1, IPv4-translated
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",  # 127.0.0.1 by NAT64
        "64:ff9b::a9fe:a9fe",  # 169.254.169.254 by NAT64
        "64:ff9b:1::a00:1",  # 10.0.0.1 by a local NAT64
        "100::1",  # discarded
        "2001::1",  # Teredo
        "2001:10::1",  # ORCHID
        "2001:db8::1",
        "2002:7f00:1::1",  # 127.0.0.1 by 6to4
        "2002:a00:1::1",  # 10.0.0.1 by 6to4
        "2002:a9fe:a9fe::1",  # 169.254.169.254 by 6to4
        "3fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",  # metadata of AWS
        "fd20:ce::254",  # metadata of Google Cloud
        "fe80::1",
        "fe80::a9fe:a9fe%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False)],
)
def test_loopback_is_this_machine_only(address: str, expected: bool) -> None:
    assert is_loopback(address) == expected


class Recording(httpcore.NetworkBackend):
    """A network in which only these addresses answer; it records connection attempts."""

    def __init__(self, *answers: str) -> None:
        self.answers = answers
        self.called: list[str] = []

    def connect_tcp(
        self,
        host: str,
        port: int,  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        self.called.append(host)
        if host not in self.answers:
            raise httpcore.ConnectError("connection refused")
        return httpcore.MockStream([])


def guarded(*answers: Sequence[str], network: Recording, loopback: bool = False) -> GuardedBackend:
    """Return a backend whose resolver gives these answers in order."""
    queue = iter(answers)
    return GuardedBackend(
        deadline=time.monotonic() + 5, loopback=loopback, resolve=lambda *_: next(queue), network=network
    )


def test_dns_rebinding_after_the_check_has_no_effect() -> None:
    network = Recording("93.184.216.34", "127.0.0.1")
    backend = guarded(["93.184.216.34"], ["127.0.0.1"], network=network)
    backend.connect_tcp("rebind.test", 443)
    assert network.called == ["93.184.216.34"]
    with pytest.raises(AddressRefusedError, match=r"rebind\.test leads to 127\.0\.0\.1"):
        backend.connect_tcp("rebind.test", 443)
    assert network.called == ["93.184.216.34"]


@pytest.mark.parametrize("private", ["10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "::1"])
def test_a_name_with_one_private_address_is_refused(private: str) -> None:
    network = Recording()
    with pytest.raises(AddressRefusedError):
        guarded(["1.1.1.1", private], network=network).connect_tcp("mixed.test", 443)
    assert network.called == []


def test_if_one_address_does_not_answer_the_next_is_tried() -> None:
    network = Recording("1.1.1.1")
    guarded(["2606:4700:4700::1111", "1.1.1.1"], network=network).connect_tcp("two.test", 443)
    assert network.called == ["2606:4700:4700::1111", "1.1.1.1"]


def test_if_no_address_answers_connecting_fails() -> None:
    with pytest.raises(httpcore.ConnectError, match="connection refused"):
        guarded(["1.1.1.1"], network=Recording()).connect_tcp("dead.test", 443)
    with pytest.raises(httpcore.ConnectError, match="has no address"):
        guarded([], network=Recording()).connect_tcp("empty.test", 443)


def test_only_loopback_is_allowed_if_the_operator_says_so() -> None:
    network = Recording("127.0.0.1")
    guarded(["127.0.0.1"], network=network, loopback=True).connect_tcp("localhost", 443)
    with pytest.raises(AddressRefusedError):
        guarded(["10.0.0.1"], network=network, loopback=True).connect_tcp("lan.test", 443)
    assert network.called == ["127.0.0.1"]


def test_after_the_deadline_nothing_is_connected() -> None:
    network = Recording("1.1.1.1")
    late = GuardedBackend(deadline=time.monotonic() - 1, resolve=lambda *_: ["1.1.1.1"], network=network)
    with pytest.raises(httpcore.ConnectTimeout):
        late.connect_tcp("late.test", 443)
    assert network.called == []


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".test"])
def test_an_invalid_host_has_no_address(host: str) -> None:
    with pytest.raises(OSError, match="is not a host name"):
        resolve(host, 443)


def test_an_address_written_in_another_way_is_resolved_before_it_is_checked() -> None:
    assert list(resolve("127.1", 443)) == ["127.0.0.1"]
    assert list(resolve("2130706433", 443)) == ["127.0.0.1"]
