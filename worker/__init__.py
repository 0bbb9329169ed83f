"""The workers of MoMALisa, which render frames and assemble them into artifacts."""

from contextlib import suppress

from pydantic import ValidationError

from momalisa.settings import set_default_environment, settings

with suppress(ValidationError):  # reported where the settings are used
    if settings().threads is None:
        # By default, a thread of libgomp that waits for others spins for milliseconds before it sleeps. Where
        # processes share CPUs, that slows the very thread that it waits for. With THREADS set, a worker has that
        # many CPUs for itself, and spinning makes it faster by a sixth.
        set_default_environment(GOMP_SPINCOUNT="1000")
