"""The workers of MoMALisa: they render frames and stitch them together."""

from momalisa.settings import suggest

# A thread of torch's that waits for the others spins before it sleeps, for milliseconds unless libgomp is told
# otherwise. Where processes share processors, it keeps from working the very one that it waits for.
suggest(GOMP_SPINCOUNT="1000")
