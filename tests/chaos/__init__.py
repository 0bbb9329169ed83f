"""Chaos: the real system under faults, and an oracle that looks at it from outside. `python -m tests.chaos`."""
