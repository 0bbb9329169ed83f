"""JSON of the API: what requests may hold, and how walks are shown."""
