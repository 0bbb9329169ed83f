"""What the tests of the infrastructure share."""

from collections.abc import Iterator

import pytest

from tests.infra import docker as daemon
from tests.infra.docker import Docker


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """A Docker daemon of our own, with stand-ins for the images that cannot be pulled."""
    with daemon.started() as docker:
        yield docker
