"""The REST API of MoMALisa, and the server of its website; imports neither worker nor torch."""
