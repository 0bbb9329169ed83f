"""The workers of MoMALisa, which render frames and assemble them into artifacts."""

from contextlib import suppress

from pydantic import ValidationError

from momalisa.settings import set_default_environment, settings

with suppress(ValidationError):  # reported where the settings are used
    if settings().threads is None:
        # By default, a libgomp thread that waits for others spins for milliseconds before it sleeps. If processes
        # share CPUs, that slows down the threads that it waits for. With THREADS set, a worker has that many CPUs
        # to itself, and spinning makes it a sixth faster.
        set_default_environment(GOMP_SPINCOUNT="1000")
