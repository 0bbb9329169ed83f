"""The workers of MoMALisa: they render frames and stitch them together."""
