"""The processes of a worker: start, health, crashes, shutdown."""
