"""Chaos: the real system under injected faults, judged by an oracle from outside. `python -m tests.chaos`."""
