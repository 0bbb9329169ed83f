"""The faults that can be injected, one row each."""

from tests.chaos.faults import background, infrastructure, requests
from tests.chaos.faults.matrix import MATRIX, Fault, Miss

__all__ = ["MATRIX", "Fault", "Miss", "background", "infrastructure", "requests"]
