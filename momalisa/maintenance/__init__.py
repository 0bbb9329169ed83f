"""What runs beside the queue: lost work, expiry, and objects without a row."""
