"""Walks as visitors know them: making, reading, hiding, searching."""
