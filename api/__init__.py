"""The REST API of MoMALisa, and its website; imports neither `worker` nor torch."""
