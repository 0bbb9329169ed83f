"""What the tests of deployments share."""

import subprocess
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


@pytest.fixture(scope="session")
def museum(docker: Docker) -> Iterator[Docker]:
    """All services, two render workers among them, started by the one command."""
    try:
        docker.compose("up", "--detach", "--build", "--wait", "--scale", "render=2")
        yield docker
    except subprocess.CalledProcessError:
        print(docker.compose("ps", "--all"), docker.compose("logs", "--tail", "30"), sep="\n")  # noqa: T201
        raise
    finally:
        docker.compose("down", "--volumes")
