"""The processes of a worker: how they start, report, and end."""
