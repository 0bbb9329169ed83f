"""The queue of chunks in PostgreSQL: leases, fair turns, results; Celery carries wake-up messages only."""
