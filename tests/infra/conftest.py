"""What the tests of deployments share."""

from collections.abc import Iterator

import pytest

from tests.infra.docker import Docker, started
from tests.infra.google import google

__all__ = ["google"]


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """A Docker daemon of our own, with stand-ins for the images that cannot be pulled."""
    with started() as docker:
        yield docker
