"""What the tests of deployments share."""

from tests.infra.google import google

__all__ = ["google"]
