"""The workers of MoMALisa: they render frames and stitch them together."""

from contextlib import suppress

from pydantic import ValidationError

from momalisa.settings import set_default_environment, settings

with suppress(ValidationError):  # those who use the settings say what is wrong with them
    if settings().threads is None:
        # A thread of torch's that waits for the others spins before it sleeps, for milliseconds unless libgomp is
        # set otherwise. Where processes share processors, it keeps from working the very one that it waits for. A
        # worker with a set number of threads has as many processors for itself, and they are faster by a sixth if
        # they spin.
        set_default_environment(GOMP_SPINCOUNT="1000")
