"""Webhooks go to addresses on the public Internet only."""

import socket
from collections.abc import Callable
from uuid import UUID

import pytest

from momalisa.domain.states import DeliveryStatus
from momalisa.webhooks import ssrf
from tests.deliveries import attempt, delivery, make_due
from tests.receiver import Receiver


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "169.254.169.254", "[::1]", "10.0.0.1", "[::ffff:127.0.0.1]", "localhost", "2130706433"]
)
def test_nothing_is_sent_to_addresses_that_are_not_public(
    barred: Receiver, canceled: Callable[..., UUID], host: str
) -> None:
    canceled(f"https://{host}:{barred.port}/")
    assert attempt(ssrf.resolve) == DeliveryStatus.GIVEN_UP
    assert (delivery().error or "").startswith("AddressRefusedError: ")
    assert barred.got == []


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "fe80::1", "fd00:ec2::254", "64:ff9b::a9fe:a9fe"])
def test_nothing_is_sent_to_a_name_with_a_private_address(
    barred: Receiver, canceled: Callable[..., UUID], address: str
) -> None:
    canceled(barred.url)
    assert attempt(lambda *_: [address]) == DeliveryStatus.GIVEN_UP
    assert (delivery().error or "") == (
        f"AddressRefusedError: receiver.test leads to {address}, which is not on the public Internet."
    )
    assert barred.got == []


def test_dns_rebinding_to_this_machine_has_no_effect(
    barred: Receiver, canceled: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, int]] = []

    def refuse(address: tuple[str, int], *_: object, **__: object) -> None:
        called.append(address)
        raise ConnectionRefusedError

    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    canceled(barred.url)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "create_connection", refuse)
        assert attempt(lambda *_: next(answers)) == DeliveryStatus.PENDING
    assert called == [("93.184.216.34", barred.port)]
    make_due()
    assert attempt(lambda *_: next(answers)) == DeliveryStatus.GIVEN_UP
    assert "leads to 127.0.0.1" in (delivery().error or "")
    assert barred.got == []
