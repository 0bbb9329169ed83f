"""The processes of a worker: how they start, report, crash and stop."""
